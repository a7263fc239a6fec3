-- Cells: an inverted file as an ordinary column, so that a search looks into a few cells instead of all rows.
-- Run with: vecpipe sql examples/cells.sql

-- Some vectors in clusters, and questions asked of them.
CREATE TABLE vectors AS
WITH clusters AS (
    SELECT i AS id, 1 + hash(i) % 300 AS cluster FROM range(6300) AS r (i)
)
SELECT id, list_transform(range(48), lambda j:
           (hash(cluster * 1009 + j) / 18446744073709551616.0 - 0.5)
               + 0.9 * (hash(id * 48 + j) / 18446744073709551616.0 - 0.5))::FLOAT[48] AS emb
FROM clusters;
CREATE TABLE questions AS FROM vectors WHERE id >= 6000;

-- One model gives the cell and the code. A table in the order of its cells is read in few places.
SELECT vec_fit_query('docs', 'normalize | cells(128) | transform_code(24)',
                     'SELECT emb FROM vectors WHERE id < 6000') AS fitted;
CREATE TABLE docs AS
    SELECT id, emb, vec_encode('docs', emb) AS code, vec_cell('docs', emb) AS cell
    FROM vectors WHERE id < 6000 ORDER BY cell;

SELECT vec_probe('docs', emb, 4) AS nearest_cells FROM questions ORDER BY id LIMIT 1;

-- Look into the 8 nearest of the 128 cells, score codes there, and the best of them exactly.
SELECT id, round(score, 4) AS score
FROM vec_search('docs', (SELECT emb FROM questions WHERE id = 6000),
                model := 'docs', cell := 'cell', code := 'code', rerank := 'emb', nprobe := 8, k := 5);

-- How much does that miss? Recall against exact search, and how sure that is, for few cells and for more.
SELECT queries, k, round(recall, 3) AS recall, round(low, 3) AS low, round(high, 3) AS high, worst
FROM vec_recall('docs', 'questions', 'emb', model := 'docs', cell := 'cell', code := 'code', rerank := 'emb',
                nprobe := 4, sample := 30);

SELECT queries, k, round(recall, 3) AS recall, round(low, 3) AS low, round(high, 3) AS high, worst
FROM vec_recall('docs', 'questions', 'emb', model := 'docs', cell := 'cell', code := 'code', rerank := 'emb',
                nprobe := 24, sample := 30);

-- A new row needs its cell (and its code), nothing else.
INSERT INTO docs SELECT id, emb, vec_encode('docs', emb), vec_cell('docs', emb) FROM questions WHERE id = 6000;

-- Rows that point elsewhere than those of the fit crowd into few cells: the report says when to fit again.
INSERT INTO docs
    SELECT id + 10000, away, vec_encode('docs', away), vec_cell('docs', away)
    FROM (SELECT id, vec_scale(emb, -1)::FLOAT[48] AS away FROM docs);
SELECT rows, filled, round(imbalance, 2) AS imbalance, round(distance, 2) AS distance,
       round(fit_distance, 2) AS at_fit, advice
FROM vec_cells_report('docs', 'cell', 'emb', 'docs');

-- All rows within reach of a question, not the first k.
SELECT count(*) AS within_reach
FROM vec_search_range('docs', (SELECT emb FROM questions WHERE id = 6000), 0.8, rerank := 'emb');
