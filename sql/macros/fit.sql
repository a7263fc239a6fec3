-- Fits and advice from SQL. Both read in a connection of their own, in the database and schema that the caller is in.

-- Names of temporary tables and views, which such a connection does not see.
CREATE OR REPLACE MACRO _vec_temporary() AS (
    SELECT list(_vec_t.name)
    FROM (SELECT table_name AS name FROM duckdb_tables() WHERE temporary
          UNION ALL
          SELECT view_name FROM duckdb_views() WHERE temporary AND NOT internal) AS _vec_t
);

-- Fit a spec from what a query returns (a column called weight weighs the rows) and store the model under a name, in the
-- current database. It runs in a transaction of its own and commits: it reads committed rows only, no temporary tables
-- (where one hides a table of its name, that table is read), and a transaction that is open neither sees the model nor
-- rolls it back. INSERT INTO vecpipe.models ... SELECT vec_fit(...) takes part in the transaction.
--   sql      text of one SELECT
--   queries  another, which returns a sample of queries, for steps that are fitted to them too
CREATE OR REPLACE MACRO vec_fit_query(name, spec, sql, queries := NULL) AS
    _vec_fit_query(name, spec, sql, queries, current_setting('search_path'));

-- Specs tried on a sample of a column of vectors, with rows held out as queries, smallest codes first.
--   target  recall@10 that the codes alone must reach; 0.95 where there is no budget either
--   budget  bytes that a vector may take
-- The row to use is the one chosen: the smallest that reaches the target, the best within the budget, or both; none
-- where the target is not reached. recall is that of the codes alone, reranked that after exact scores of the best 40;
-- encode_rate counts rows a second.
-- Returns: spec, bytes_per_vector, recall, reranked, fit_seconds, encode_rate, chosen
CREATE OR REPLACE MACRO vec_advise(source, vectors, target := NULL, budget := NULL, metric := 'cosine') AS TABLE
    SELECT advice.*
    FROM (SELECT unnest(_vec_advise(source, vectors, target, budget, metric, current_setting('search_path'), _vec_hidden))
                     AS advice
          FROM (SELECT _vec_temporary() AS _vec_hidden));
