-- Cells: an inverted file as an ordinary column.

-- The cell a vector lies in, by a model with a step cells(n): 0 to n - 1, NULL where the vector has no direction.
CREATE OR REPLACE MACRO vec_cell(model, v, on_invalid := 'error') AS
    _vec_cell(_vec_model(model), v, on_invalid);

-- The cells nearest to a query, nearest first.
CREATE OR REPLACE MACRO vec_probe(model, q, nprobe := 16) AS
    _vec_probe(_vec_model(model), q, nprobe);

-- Whether cells still fit the rows of a table (or view, or CTE): one row of figures, and what to do.
--   cell, vectors  columns of the table: the cells as stored, and the raw vectors
--   model          the model that the cells come from
-- Sizes count all rows; moved (share of rows whose nearest cell is another than the stored one) and distance (mean of
-- one minus the cosine to the nearest centroid) speak of a sample of 20,000. Imbalance is 1 for cells of the same size.
-- Returns: rows, without_cell, cells, filled, largest, imbalance, fit_imbalance, moved, distance, fit_distance, advice
CREATE OR REPLACE MACRO vec_cells_report(source, cell, vectors, model) AS TABLE
    WITH _vec_sizes AS (
        SELECT _vec_cell, count(*) AS _vec_size
        FROM (SELECT COLUMNS(lambda c: lower(c) = lower(cell)) AS _vec_cell FROM query_table(source))
        GROUP BY _vec_cell
    ),
    _vec_fit AS (SELECT _vec_cells_fit(_vec_model(model)) AS _vec_fitted),
    _vec_all AS (
        SELECT coalesce(sum(_vec_size), 0)::BIGINT AS _vec_rows,
               coalesce(sum(_vec_size) FILTER (WHERE _vec_cell IS NULL), 0)::BIGINT AS _vec_without,
               count(_vec_cell) AS _vec_filled,
               coalesce(max(_vec_size) FILTER (WHERE _vec_cell IS NOT NULL), 0)::BIGINT AS _vec_largest,
               sum(_vec_size::DOUBLE * (_vec_size - 1)) FILTER (WHERE _vec_cell IS NOT NULL) AS _vec_pairs
        FROM _vec_sizes
    ),
    _vec_near AS (
        SELECT _vec_stored, _vec_v, vec_cell(model, _vec_v) AS _vec_nearest
        FROM (
            SELECT COLUMNS(lambda c: lower(c) = lower(cell)) AS _vec_stored,
                   COLUMNS(lambda c: lower(c) = lower(vectors)) AS _vec_v
            FROM query_table(source)
            USING SAMPLE reservoir(20000 ROWS) REPEATABLE (7)
        )
    ),
    _vec_drift AS (
        SELECT avg((_vec_stored IS DISTINCT FROM _vec_nearest)::INTEGER) AS _vec_moved,
               avg(_vec_cell_distance(_vec_model(model), _vec_v, _vec_nearest)) AS _vec_distance
        FROM _vec_near
    ),
    _vec_figures AS (
        SELECT _vec_rows AS rows, _vec_without AS without_cell, _vec_fitted.cells AS cells, _vec_filled AS filled,
               _vec_largest AS largest,
               _vec_fitted.used * _vec_pairs
                   / nullif((_vec_rows - _vec_without)::DOUBLE * (_vec_rows - _vec_without - 1), 0) AS imbalance,
               _vec_fitted.imbalance AS fit_imbalance, _vec_moved AS moved,
               _vec_distance AS distance, _vec_fitted.distance AS fit_distance
        FROM _vec_all, _vec_drift, _vec_fit
    )
    SELECT *,
           CASE WHEN moved > 0.01 THEN 'assign again: UPDATE the column with vec_cell'
                WHEN distance > 1.1 * fit_distance + 1e-6 THEN 'fit again: vectors are farther from their cells'
                WHEN imbalance > 2 * greatest(fit_imbalance, 1) THEN 'fit again: cells have grown uneven'
                ELSE 'fine'
           END AS advice
    FROM _vec_figures;

-- Recall of a search for k rows as it is set, against exact search: a sample of queries, recall@k with a 95 % interval,
-- the worst query, and the median time of a search. Sees committed tables and views, not the names of a WITH clause.
--   queries, q  a table of queries and its column of vectors; vectors is the column of raw vectors of the table
--   the others  as in vec_search, in vec_search_bits where bits is given, in vec_search_stages where stages is
-- Returns: queries, k, recall, low, high, worst, search_ms
CREATE OR REPLACE MACRO vec_recall(
    source, queries, vectors, q := NULL, model := NULL, code := NULL, bits := NULL, rerank := NULL, stages := NULL,
    models := NULL, cell := NULL, index := NULL, ties := NULL, nprobe := 16, k := 10, oversample := NULL,
    metric := 'cosine', sample := 200
) AS TABLE
    SELECT unnest(_vec_recall(source, queries, vectors, coalesce(q, vectors), sample, {
        'model': model, 'code': code, 'bits': bits, 'rerank': rerank, 'stages': stages, 'models': models,
        'cell': cell, 'index': index, 'ties': ties, 'nprobe': nprobe, 'k': k, 'oversample': oversample, 'metric': metric
    }, current_setting('search_path'), _vec_hidden), recursive := true)
    FROM (SELECT _vec_temporary() AS _vec_hidden);
