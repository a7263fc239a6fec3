-- All rows of a table (or view, or CTE) that score min_score or more for q, best first. For metric l2 a score is minus
-- the distance: min_score := -0.5 is a radius of a half.
--   rerank  column of raw vectors. Alone: exact, no row is missed.
--   code    column of codes, scored through the model. Alone: rows whose estimated score reaches the bound.
--   margin  with code and rerank: rows that score at least min_score - margin by code are scored exactly. No row below
--           the bound comes; missed are those whose code scores more than margin below the vector itself.
-- Returns: the columns of the table, and `score`
CREATE OR REPLACE MACRO vec_search_range
-- exact
(source, q, min_score, rerank, metric := 'cosine') AS TABLE (
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *, _vec_score(_vec_v, _vec_query(NULL, q, metric)) AS _vec_score
        FROM query(_vec_rows(source, NULL, rerank, NULL))
    ) AS _vec_found
    WHERE _vec_found._vec_score >= _vec_score_bound(min_score, 'vec_search_range: min_score')
    ORDER BY _vec_found._vec_score DESC
),
-- by code alone
(source, q, min_score, code, model, metric := 'cosine') AS TABLE (
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *, _vec_score(_vec_item, _vec_query(model, q, metric)) AS _vec_score
        FROM query(_vec_rows(source, code, NULL, NULL))
    ) AS _vec_found
    WHERE _vec_found._vec_score >= _vec_score_bound(min_score, 'vec_search_range: min_score')
      AND _vec_planned_with_newest(model)
    ORDER BY _vec_found._vec_score DESC
),
-- by code, then exactly
(source, q, min_score, code, rerank, model, margin, metric := 'cosine') AS TABLE (
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *, _vec_exact(_vec_v, _vec_query(NULL, q, metric)) AS _vec_score
        FROM (
            SELECT *, _vec_score(_vec_item, _vec_query(model, q, metric)) AS _vec_coarse
            FROM query(_vec_rows(source, code, rerank, NULL))
        )
        WHERE _vec_coarse >= min_score - _vec_not_negative(margin, 'vec_search_range: margin')
    ) AS _vec_found
    WHERE _vec_found._vec_score >= _vec_score_bound(min_score, 'vec_search_range: min_score')
      AND _vec_planned_with_newest(model)
    ORDER BY _vec_found._vec_score DESC
);
