-- The nearest rows of one table for each row of another.

-- The text of a query for the handle of the model that scores codes, whose name is in _vec_given; NULL where vectors are
-- scored themselves: then no model is looked up, nor is it planned to be.
CREATE OR REPLACE MACRO _vec_join_model(code) AS
    CASE WHEN code IS NULL THEN 'SELECT NULL::VARCHAR' ELSE 'SELECT _vec_model(_vec_name) FROM _vec_given' END;

-- For each row of queries its k nearest rows of docs, exactly; rank counts from 1, a larger score is closer, ties go to
-- the smaller id. A filter on either side is a CTE. The queries are held in memory.
--   id, emb  names of the columns of ids and of vectors, in both
--   code     column of codes in docs, scored through the model, instead of its vectors
--   within   column in both whose values must be equal, as text: the nearest rows of the same tenant, language, day
--   self     queries and docs are the same rows: a row does not find itself, nor others with its id
-- Returns: query_id, id, rank, score
CREATE OR REPLACE MACRO vec_knn_join(
    queries, docs, k := 10, id := 'id', emb := 'emb', code := NULL, model := NULL, metric := 'cosine',
    within := NULL, self := false
) AS TABLE
    WITH _vec_asked AS MATERIALIZED (
        FROM query(_vec_sql(
            'SELECT %I AS _vec_id, %I AS _vec_emb, %I::VARCHAR AS _vec_key,
                    (row_number() OVER ())::INTEGER - 1 AS _vec_at FROM %T',
            coalesce(id, 'vec_knn_join: id is NULL'), coalesce(emb, 'vec_knn_join: emb is NULL'), within, queries, NULL
        ))
    ),
    _vec_given AS (SELECT model AS _vec_name),
    _vec_found AS (
        SELECT _vec_id, unnest(_vec_pairs) AS _vec_pair
        FROM (
            SELECT _vec_id,
                   _vec_offer(
                       (SELECT _vec_gather(
                            list(_vec_emb), list(_vec_key), list(_vec_at), list(_vec_id::VARCHAR) FILTER (WHERE self),
                            CASE WHEN model IS NULL OR code IS NOT NULL THEN (FROM query(_vec_join_model(code)))
                                 ELSE error('vec_knn_join: model is ''' || model || ''', but vectors are joined as they '
                                            || 'are; pass code := with the name of a column that the model wrote, or '
                                            || 'leave the model out')
                            END,
                            _vec_count(k, 'vec_knn_join: k'), metric, within IS NOT NULL, self::BOOLEAN)
                        FROM _vec_asked),
                       _vec_id, _vec_v, _vec_key, CASE WHEN self THEN _vec_id::VARCHAR END) AS _vec_pairs
            FROM (
                FROM query(_vec_sql(
                    'SELECT %I AS _vec_id, %I AS _vec_v, %I::VARCHAR AS _vec_key FROM %T',
                    id, coalesce(code, emb), within, docs, NULL
                ))
            )
        )
        WHERE len(_vec_pairs) > 0
    )
    SELECT query_id, _vec_id AS id, rank, score
    FROM (
        SELECT _vec_asked._vec_id AS query_id, _vec_found._vec_id, _vec_pair.score AS score, _vec_at,
               row_number() OVER (PARTITION BY _vec_at ORDER BY _vec_pair.score DESC, _vec_found._vec_id) AS rank
        FROM _vec_found JOIN _vec_asked ON _vec_at = _vec_pair.query
    )
    WHERE rank <= _vec_count(k, 'vec_knn_join: k')
    ORDER BY _vec_at, rank;
