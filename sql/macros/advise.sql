-- Specs tried on a sample of a column of vectors, with rows held out as queries, smallest codes first.
--   target  recall@10 that the codes alone must reach; 0.95 where there is no budget either
--   budget  bytes that a vector may take
-- The row to use is the one chosen: the smallest that reaches the target, the best within the budget, or both; none
-- where the target is not reached. recall is that of the codes alone, reranked that after exact scores of the best 40;
-- encode_rate counts rows a second.
-- Returns: spec, bytes_per_vector, recall, reranked, fit_seconds, encode_rate, chosen
CREATE OR REPLACE MACRO vec_advise(source, vectors, target := NULL, budget := NULL, metric := 'cosine') AS TABLE
    SELECT advice.* FROM (SELECT unnest(_vec_advise(source, vectors, target, budget, metric)) AS advice);
