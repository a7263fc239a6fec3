-- A model for each tenant: run it with  vecpipe sql examples/per_tenant.sql
-- Everything happens in a fresh in-memory database; add --db FILE to keep it.

-- 1. Notes of 40 tenants. Each tenant writes about things of its own, so each one's vectors have a mean and a spread of
--    their own, and a model of its own fits them better than one for all.
CREATE TABLE notes AS
    WITH texts AS (
        SELECT row_number() OVER (ORDER BY t.tenant, n.note) AS id,
               'tenant-' || lpad(t.tenant::VARCHAR, 2, '0') AS tenant,
               things[1 + t.tenant % 4] || ' ' || verbs[1 + n.note % 5] || ' ' || places[1 + (n.note // 5) % 6]
                   || ' ' || n.note AS text
        FROM range(40) t(tenant), range(60) n(note),
             (SELECT ['bread dough', 'steam engine', 'tax return', 'garden fence'] AS things,
                     ['rests', 'breaks', 'is repaired', 'is sold', 'waits'] AS verbs,
                     ['in the kitchen', 'near the station', 'at home', 'in town', 'by the river', 'outside'] AS places)
    )
    SELECT id, tenant, text, vec_hash_embed(text, 256)::FLOAT[256] AS emb FROM texts;

-- 2. What the vectors of a tenant are like, before anything is fitted.
SELECT tenant, count(*) AS notes, round(vec_isoscore(emb), 4) AS isoscore, vec_medoid(id, emb) AS most_typical
FROM notes GROUP BY tenant ORDER BY tenant LIMIT 4;

-- 3. Fit a model for each tenant: one statement, one pass, and the models are rows of the catalog.
INSERT INTO vecpipe.models BY NAME
    SELECT 'notes/' || tenant AS name, vec_fit(emb, 'center | pca(32) | int8') AS model
    FROM notes GROUP BY tenant;

SELECT count(*) AS models, any_value(spec) AS spec, any_value(bytes_per_vector) AS bytes_per_vector FROM vec_models();

-- 4. Encode every note by the model of its tenant: 1,024 bytes become 32. Where there are thousands of models, rows in
--    the order of the models are faster: a batch then holds few of them.
CREATE TABLE encoded AS
    SELECT id, tenant, text, emb, vec_encode('notes/' || tenant, emb) AS code
    FROM (FROM notes ORDER BY tenant, id);

-- 5. Search within a tenant: its rows under a name, its model.
WITH mine AS (FROM encoded WHERE tenant = 'tenant-08')
SELECT id, tenant, text, round(score, 3) AS score
FROM vec_search('mine', vec_hash_embed('bread is sold by the river', 256),
                model := 'notes/tenant-08', code := 'code', rerank := 'emb', k := 3);

-- 6. One model for all of them, from sketches: a sketch is small, merges, and never needs the rows again.
CREATE TABLE sketches AS SELECT tenant, vec_sketch(emb) AS sketch FROM notes GROUP BY tenant;

INSERT INTO vecpipe.models BY NAME
    SELECT 'notes' AS name, vec_fit_sketch(vec_merge(sketch), 'center | pca(32) | int8') AS model FROM sketches;

-- 7. How much of a note survives its code: the model of the tenant against the model for all.
SELECT round(avg(vec_cosine(emb, vec_decode('notes/' || tenant, code))), 3) AS own_model,
       round(avg(vec_cosine(emb, vec_decode('notes', vec_encode('notes', emb)))), 3) AS one_for_all
FROM encoded;
