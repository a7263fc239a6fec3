-- Over all rows where cell is NULL, else over those whose cell is among near. The finer codes stand where other searches
-- have ties.
CREATE OR REPLACE MACRO _vec_search_stages(source, q, stages, models, cell, near, k, oversample, metric) AS TABLE
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *, _vec_exact(_vec_v, _vec_query(NULL, q, metric)) AS _vec_score
        FROM (
            SELECT *, _vec_score(_vec_tie, _vec_query(models[2], q, metric)) AS _vec_fine
            FROM (
                SELECT *, _vec_score(_vec_item, _vec_query(models[1], q, metric)) AS _vec_coarse
                FROM query(_vec_sql(
                    'SELECT %I AS _vec_cell, %I AS _vec_item, %I AS _vec_v, %I AS _vec_tie,
                         COLUMNS(_vec_kept()) AS ''_vec_c_\1'' FROM %T',
                    cell, stages[1],
                    CASE WHEN len(stages) = 3 AND (len(models) = 2 OR len(models) = 3 AND cell IS NOT NULL)
                              AND len(oversample) = 2
                         THEN stages[3]
                         ELSE error('vec_search_stages: stages := names ' || coalesce(len(stages), 0)
                                    || ' columns, models := ' || coalesce(len(models), 0) || ' models, oversample := has '
                                    || coalesce(len(oversample), 0) || ' numbers; expected three columns [coarse, finer, '
                                    || 'vectors], the two models of the codes (and with cell := perhaps a third, of the '
                                    || 'cells), and two numbers') END,
                    stages[2], source
                ))
                WHERE cell IS NULL OR list_contains(near, _vec_cell) IS TRUE
                ORDER BY _vec_coarse DESC NULLS LAST
                LIMIT _vec_most(k, oversample[1])
            )
            WHERE _vec_coarse IS NOT NULL
            ORDER BY _vec_fine DESC NULLS LAST
            LIMIT _vec_most(k, oversample[2])
        )
        WHERE _vec_fine IS NOT NULL
    ) AS _vec_found
    WHERE _vec_found._vec_score IS NOT NULL
      AND _vec_planned_with_newest(models[1])
      AND _vec_planned_with_newest(models[2])
    ORDER BY _vec_found._vec_score DESC
    LIMIT k;

-- A funnel: shortlists by ever finer codes, then exact scores.
--   stages      three columns: coarse codes, finer codes, raw vectors, such as ['bits', 'code', 'emb']; bits may be BIT
--   models      the models of the two columns of codes
--   oversample  how many times k rows go on to the second stage, and how many to the third
--   cell        column of cells: only rows of the nprobe cells nearest to q are looked at. They are cells of the model of
--               the finer codes, or of a third one in models
-- Returns: the columns of the table, and `score`
CREATE OR REPLACE MACRO vec_search_stages
-- over all rows
(source, q, stages, models, k := 10, oversample := [32, 4], metric := 'cosine') AS TABLE (
    FROM _vec_search_stages(source, q, stages, models, NULL, NULL, k, oversample, metric)
),
-- in the nearest cells: the same over their rows
(source, q, stages, models, cell, nprobe := 16, k := 10, oversample := [32, 4], metric := 'cosine') AS TABLE (
    FROM _vec_search_stages(source, q, stages, models, coalesce(cell, 'vec_search_stages: cell is NULL'),
                            _vec_cells(coalesce(models[3], models[2]), q, nprobe),
                            k, oversample, metric)
    WHERE _vec_planned_with_newest(coalesce(models[3], models[2]))
    ORDER BY score DESC
);
