-- Held out: texts that are asked for and are not in the table that is searched.
CREATE OR REPLACE TABLE queries AS
    SELECT id, name, emb FROM docs ORDER BY md5(text), id LIMIT $1;
