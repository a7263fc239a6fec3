-- Models by name, in the caller's own transaction: 'name' is its newest version, 'name@3' is version 3.

-- All models, newest version of each name first.
-- Returns: name, version, spec, input_dim, output_type, bytes_per_vector, fitted_rows, created_at, hash, current
CREATE OR REPLACE MACRO vec_models() AS TABLE
    SELECT name, version, spec, input_dim, output_type, bytes_per_vector, fitted_rows, created_at, hash,
           version = max(version) OVER (PARTITION BY name) AS current
    FROM vecpipe.models
    ORDER BY name, version DESC;

-- The name in 'name' or 'name@3', and the version: NULL for the newest, -1 for a number that no version has.
CREATE OR REPLACE MACRO _vec_base(model) AS
    regexp_replace(model, '@[0-9]+$', '');
CREATE OR REPLACE MACRO _vec_pinned(model) AS
    CASE WHEN regexp_matches(model, '@[0-9]+$')
         THEN coalesce(TRY_CAST(regexp_extract(model, '@([0-9]+)$', 1) AS BIGINT), -1) END;

-- The names there are, for an error: the first 20, and how many more.
CREATE OR REPLACE MACRO _vec_names() AS (
    SELECT array_to_string(_vec_n.names[:20], ', ')
           || CASE WHEN len(_vec_n.names) > 20 THEN ' ... and ' || (len(_vec_n.names) - 20) || ' more' ELSE '' END
    FROM (SELECT list(DISTINCT name ORDER BY name) AS names FROM vecpipe.models) AS _vec_n
);

-- A handle of the model of a name, loaded and ready; an error where there is none.
-- The argument is read where no table is in sight, so that a column of the caller's is never taken for one of ours.
CREATE OR REPLACE MACRO _vec_model(model) AS (
    SELECT _vec_load(
        _vec_wanted.given,
        (SELECT arg_max(_vec_m.model, _vec_m.version) FROM vecpipe.models AS _vec_m
         WHERE _vec_m.name = _vec_wanted.name AND _vec_m.version = coalesce(_vec_wanted.version, _vec_m.version)),
        _vec_names()
    )
    FROM (SELECT given, _vec_base(given) AS name, _vec_pinned(given) AS version FROM (SELECT model AS given))
        AS _vec_wanted
);

-- The same, where 'name.query' is the query side of the model 'name', unless a model has that very name.
CREATE OR REPLACE MACRO _vec_model_side(model) AS (
    SELECT _vec_load_side(
        _vec_wanted.given,
        (SELECT arg_max(_vec_m.model, _vec_m.version) FROM vecpipe.models AS _vec_m
         WHERE _vec_m.name = _vec_wanted.name AND _vec_m.version = coalesce(_vec_wanted.version, _vec_m.version)),
        (SELECT arg_max(_vec_q.model, _vec_q.version)
         FROM vecpipe.models AS _vec_q
         WHERE _vec_q.name || '.query' = _vec_wanted.name
           AND _vec_q.version = coalesce(_vec_wanted.version, _vec_q.version)),
        _vec_names()
    )
    FROM (SELECT given, _vec_base(given) AS name, _vec_pinned(given) AS version FROM (SELECT model AS given))
        AS _vec_wanted
);

-- The vector after the model's steps (before its codec, where it has one); 'name.query' gives what a query becomes.
CREATE OR REPLACE MACRO vec_transform(model, v, on_invalid := 'error') AS
    _vec_transform(_vec_model_side(model), v, on_invalid);

-- The code of a vector, by the newest version of a model that the transaction sees.
CREATE OR REPLACE MACRO vec_encode(model, v, on_invalid := 'error') AS
    _vec_encode(_vec_model(model), v, on_invalid);

-- The vector a code stands for; for a model without codec, the inverse of vec_transform.
CREATE OR REPLACE MACRO vec_decode(model, code) AS
    _vec_decode(_vec_model(model), code);

-- The numbers of the centroids in a code of pq, opq or rvq as words for an inverted index: 'p3c17' is centroid 17 for
-- piece 3, both counted from 0. Two codes share as many words as they have pieces alike.
CREATE OR REPLACE MACRO vec_tokens(model, code) AS
    _vec_tokens(_vec_model(model), code);

-- Score of the vectors that two codes of a model stand for; larger is closer. NULL where a code is NULL, or has no
-- direction and the metric is cosine. The metric is cosine, ip or l2 (minus the distance).
CREATE OR REPLACE MACRO vec_score_codes(model, a, b, metric := 'cosine') AS
    _vec_score_codes(_vec_model(model), a, b, metric);
