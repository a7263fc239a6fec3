-- Specs tried on a sample of a column of vectors, smallest codes first; chosen marks the one to use: the smallest that
-- reaches the target recall@10 (0.95 unless told), the best within a budget of bytes, or both.
CREATE OR REPLACE MACRO vec_advise(source, vectors, target := NULL, budget := NULL, metric := 'cosine') AS TABLE
    SELECT advice.* FROM (SELECT unnest(_vec_advise(source, vectors, target, budget, metric)) AS advice);
