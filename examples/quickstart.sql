-- vecpipe in one minute: run it with  vecpipe sql examples/quickstart.sql
-- Everything happens in a fresh in-memory database; add --db FILE to keep it.

-- 1. Some texts, and vectors for them. vec_hash_embed is lexical and needs no download;
--    any FLOAT[n] column of your own does as well.
CREATE TABLE docs AS
    SELECT row_number() OVER () AS id, text, vec_hash_embed(text, 256)::FLOAT[256] AS emb
    FROM (VALUES
        ('The cat sleeps on the warm windowsill'),
        ('A dog chases the ball across the park'),
        ('Kittens and puppies are young cats and dogs'),
        ('DuckDB is an analytical database that runs inside your process'),
        ('Arrow tables move between libraries without being copied'),
        ('Parquet files store columns compressed on disk'),
        ('The database reads Parquet files and Arrow tables directly'),
        ('Bread needs flour, water, salt and time'),
        ('Knead the dough and let the bread rise for an hour'),
        ('A vector database finds the nearest embeddings of a query')
    ) AS texts(text);

-- 2. Fit a model: one pass over the vectors, stored in the catalog of this database.
SELECT vec_fit_query('docs', 'normalize | int8', 'SELECT emb FROM docs') AS fitted;

-- 3. Store the codes beside the data: 1,024 bytes become 256.
ALTER TABLE docs ADD COLUMN code BLOB;
UPDATE docs SET code = vec_encode('docs', emb);

-- 4. Search the codes; the best of them are scored again on the raw vectors.
SELECT id, text, round(score, 3) AS score
FROM vec_search('docs', vec_hash_embed('bread dough', 256),
                model := 'docs', code := 'code', rerank := 'emb', k := 3);

-- 5. Search part of a table: give the part a name.
WITH files AS (FROM docs WHERE text LIKE '%files%')
SELECT id, text, round(score, 3) AS score
FROM vec_search('files', vec_hash_embed('read tables from disk', 256), model := 'docs', code := 'code', k := 3);

-- 6. A code is a vector again when it is needed.
SELECT id, round(vec_cosine(emb, vec_decode('docs', code)), 6) AS kept FROM docs ORDER BY id LIMIT 3;

-- 7. What models there are.
SELECT name, version, spec, input_dim, output_type, bytes_per_vector, fitted_rows FROM vec_models();
