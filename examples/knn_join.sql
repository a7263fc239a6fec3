-- k-NN joins: the nearest rows of one table for each row of another, in one statement.
-- Run with: vecpipe sql examples/knn_join.sql

-- Articles of three shops, and questions that customers of those shops asked.
CREATE TABLE docs AS
    WITH texts AS (
        SELECT row_number() OVER (ORDER BY s.shop, a.thing, a.topic) AS id, ['bikes', 'books', 'garden'][s.shop] AS tenant,
               2020 + (a.thing + a.topic) % 6 AS year,
               things[s.shop][a.thing] || ': ' || topics[a.topic] AS text
        FROM range(1, 4) AS s (shop), (SELECT thing, topic FROM range(1, 5) t (thing), range(1, 6) u (topic)) AS a,
             (SELECT [['road bike', 'child seat', 'bicycle pump', 'bike lock'],
                      ['audio book', 'gift card', 'school atlas', 'used novel'],
                      ['lawn mower', 'rose bush', 'garden hose', 'bird house']] AS things,
                     ['how to return it', 'delivery takes three days', 'repair under warranty',
                      'paying by invoice', 'out of stock until spring'] AS topics)
    )
    SELECT *, vec_hash_embed(text, 128)::FLOAT[128] AS emb FROM texts;
INSERT INTO docs
    SELECT id + 1000, tenant, year, upper(text), vec_hash_embed(text || ' !', 128)::FLOAT[128]
    FROM docs WHERE id % 9 = 0;

CREATE TABLE queries AS
    SELECT id, tenant, text, vec_hash_embed(text, 128)::FLOAT[128] AS emb
    FROM (VALUES (1, 'bikes', 'the bike lock needs a repair'),
                 (2, 'books', 'can I return a gift card'),
                 (3, 'garden', 'when is the lawn mower in stock'),
                 (4, 'garden', 'delivery of my order')) AS q (id, tenant, text);

-- 1. The two nearest articles for each question. A filter on either side is a CTE: DuckDB applies it before any vector
--    is compared.
WITH recent AS (FROM docs WHERE year >= 2022)
SELECT q.text AS question, n.rank, round(n.score, 3) AS score, d.tenant, d.text
FROM vec_knn_join('queries', 'recent', k := 2) AS n
JOIN queries AS q ON q.id = n.query_id
JOIN docs AS d ON d.id = n.id
ORDER BY n.query_id, n.rank;

-- 2. Each question among the articles of its own shop: within names a column of both tables.
SELECT q.tenant, q.text AS question, n.rank, round(n.score, 3) AS score, d.text
FROM vec_knn_join('queries', 'docs', k := 2, within := 'tenant') AS n
JOIN queries AS q ON q.id = n.query_id
JOIN docs AS d ON d.id = n.id
ORDER BY n.query_id, n.rank;

-- 3. Near duplicates: a table joined with itself, where no row finds itself, and the clusters of the pairs that score
--    high. Keep one row of each.
CREATE TABLE pairs AS FROM vec_knn_join('docs', 'docs', k := 3, self := true);

SELECT c.cluster, c.id, c.keep, d.text
FROM vec_duplicates('pairs', threshold := 0.97) AS c
JOIN docs AS d ON d.id = c.id
WHERE c.size > 1
ORDER BY c.cluster, c.id;

-- 4. The same join over codes of 32 bytes in place of vectors of 512.
SELECT vec_fit_query('docs', 'center | pca(32) | int8', 'SELECT emb FROM docs') AS fitted;
CREATE TABLE coded AS SELECT id, vec_encode('docs', emb) AS code FROM docs;
SELECT count(*) AS pairs, round(avg((e.id IS NOT NULL)::INTEGER), 2) AS also_found_by_vectors
FROM vec_knn_join('queries', 'coded', k := 5, code := 'code', model := 'docs') AS n
LEFT JOIN vec_knn_join('queries', 'docs', k := 5) AS e USING (query_id, id);
