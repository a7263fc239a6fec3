-- Real text to vectors: 512 dimensions of hashed words, pairs of words and parts of words.
CREATE OR REPLACE TABLE docs AS
    SELECT row_number() OVER (ORDER BY name, text) AS id, package, name, text,
           vec_hash_embed(name || ' ' || text, 512)::FLOAT[512] AS emb
    FROM texts
    QUALIFY emb IS NOT NULL;
