-- Models by name: the newest version of a name wins, in the caller's own transaction.

-- All models, newest version of each name first.
CREATE OR REPLACE MACRO vec_models() AS TABLE
    SELECT name, version, spec, input_dim, output_type, bytes_per_vector, fitted_rows, created_at, hash,
           version = max(version) OVER (PARTITION BY name) AS current
    FROM vecpipe.models
    ORDER BY name, version DESC;

-- A handle of the newest model of a name, loaded and ready; an error where there is none.
CREATE OR REPLACE MACRO _vec_model(model) AS (
    SELECT _vec_load(wanted, bytes, known)
    FROM (
        SELECT model AS wanted,
               (SELECT arg_max(m.model, m.version) FROM vecpipe.models AS m WHERE m.name = model) AS bytes,
               (SELECT string_agg(name, ', ' ORDER BY name)
                FROM (SELECT DISTINCT name FROM vecpipe.models ORDER BY name LIMIT 20)) AS known
    )
);

-- The vector after the model's steps (before its codec, where it has one).
CREATE OR REPLACE MACRO vec_transform(model, v, on_invalid := 'error') AS
    _vec_transform(_vec_model(model), v, on_invalid);

-- The code of a vector.
CREATE OR REPLACE MACRO vec_encode(model, v, on_invalid := 'error') AS
    _vec_encode(_vec_model(model), v, on_invalid);

-- The vector a code stands for; for a model without codec, the inverse of vec_transform.
CREATE OR REPLACE MACRO vec_decode(model, code) AS
    _vec_decode(_vec_model(model), code);
