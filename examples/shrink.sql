-- Shrink embeddings: try sizes, keep the smallest codes that still find the right neighbours, search them.
-- Run with: vecpipe sql examples/shrink.sql

-- Some vectors like those of an embedding model: unit length, a few strong directions, a mean that is not zero.
CREATE TABLE docs AS
SELECT i AS id,
       vec_normalize(list_transform(range(64), lambda j:
           0.1 + (hash(i * 64 + j) / 18446744073709551616.0 + hash(j * 90001 + i) / 18446744073709551616.0 - 1)
               / (1 + j / 4.0)))::FLOAT[64] AS emb
FROM range(4000) AS r (i);

-- What do sizes cost? Rows held out of a sample ask for their neighbours.
SELECT spec, bytes_per_vector, round(recall, 3) AS recall, round(reranked, 3) AS reranked, chosen
FROM vec_advise('docs', 'emb', target := 0.9);

-- Fit a size, keep the codes beside the vectors: 256 bytes become 24.
SELECT vec_fit_query('docs', 'transform_code(24)', 'SELECT emb FROM docs') AS fitted;
ALTER TABLE docs ADD COLUMN code BLOB;
UPDATE docs SET code = vec_encode('docs', emb);

-- By code alone, and with the best 40 scored again on the raw vectors.
SELECT id, round(score, 4) AS score
FROM vec_search('docs', (SELECT emb FROM docs WHERE id = 7), model := 'docs', code := 'code', k := 5);

SELECT id, round(score, 4) AS score
FROM vec_search('docs', (SELECT emb FROM docs WHERE id = 7), model := 'docs', code := 'code', rerank := 'emb', k := 5);

-- How far do the codes stand from the vectors they replace?
SELECT round(avg(vec_cosine(emb, vec_decode('docs', code))), 4) AS mean_cosine_to_decoded FROM docs;
