-- Retrieval over a column of codes or of vectors.

-- The number of the transaction lets the mentions of a query in one statement look its model up once, and the search path
-- says in which database.
CREATE OR REPLACE MACRO _vec_query(wanted, q, metric) AS
    _vec_prepare(wanted, q, metric, txid_current()::VARCHAR, current_setting('search_path'));

-- The cells nearest to a query.
CREATE OR REPLACE MACRO _vec_cells(wanted, q, nprobe) AS
    _vec_probed(wanted, q, nprobe::VARCHAR, txid_current()::VARCHAR, current_setting('search_path'));

-- A short handle for a query carried through a model; NULL as the model for searching raw vectors. The model must be
-- committed: the handle is made while the statement is planned.
CREATE OR REPLACE MACRO vec_query(model, q, metric := 'cosine') AS
    _vec_query(model, q, metric);

-- Score of a code (or of a transformed vector, for a model without codec) for a query handle; larger is closer.
CREATE OR REPLACE MACRO vec_score(code, query) AS
    _vec_score(code, query);

-- Score of a raw vector for a query handle, in the space of the raw vectors; larger is closer.
CREATE OR REPLACE MACRO vec_exact(v, query) AS
    _vec_exact(v, query);

-- Whether the model that a search was planned with is the one that its transaction sees; an error where it is not, which
-- is NULL where the transaction sees none.
CREATE OR REPLACE MACRO _vec_planned_with_newest(wanted) AS
    CASE WHEN _vec_version(wanted, txid_current()::VARCHAR, current_setting('search_path'))
              IS DISTINCT FROM
              (SELECT max(m.version) FROM vecpipe.models AS m
               WHERE m.name = _vec_base(wanted) AND m.version = coalesce(_vec_pinned(wanted), m.version))
         THEN error('the newest committed version of the model ' || wanted || ', which a search plans with, is not the one '
                    || 'this transaction sees: it has stored or deleted versions itself, or another transaction has since '
                    || 'it began: COMMIT before searching')
         ELSE true
    END;

-- How many rows go on: k times so many. A number that is not a whole one of at least 1 is an error.
CREATE OR REPLACE MACRO _vec_most(k, times) AS
    _vec_limit(k::VARCHAR, times::VARCHAR);

-- The columns of a table that a search gives back: all but score, which gives way to the search's own. RE2 has no way to
-- say "but" in fewer words.
CREATE OR REPLACE MACRO _vec_kept() AS
    '(?s)^(.{0,4}|[^sS].{4}|.[^cC].{3}|.{2}[^oO].{2}|.{3}[^rR].|.{4}[^eE]|.{6,})$';

-- The text of a query for the rows of a table: up to three columns that a search reads, by fixed names, and those that it
-- gives back behind a prefix, which the search takes away again. Without it the query vector of a LATERAL join, the
-- column emb of another table, would be taken for a column emb of this one.
CREATE OR REPLACE MACRO _vec_rows(source, item, v, tie) AS
    _vec_sql('SELECT %I AS _vec_item, %I AS _vec_v, %I AS _vec_tie, COLUMNS(_vec_kept()) AS ''_vec_c_\1'' FROM %T',
             item, v, tie, source, NULL);

-- The k rows of a table (or view, or CTE) nearest to q, with their score.
--   code    column of codes, scored through the model
--   rerank  column of raw vectors: the k * oversample best by code are scored again, exactly
--   cell    column of cells (vec_cell): only rows of the nprobe cells nearest to q are looked at
--   index   name of a resident index (vec_index) of the table; rerank then names the column it was made of
--   ties    column that orders rows of the same score; without it their order is not defined
-- With rerank alone the search is exact. Rows without a score (NULL, no direction) are never returned. A column of
-- the table that is called score gives way to the score. All arguments but the first two go by name.
-- Returns: the columns of the table, and `score`
--
-- One way for each set of arguments: every part that a search does not need would still be planned each time. No two
-- take as many arguments and none has a type: DuckDB would tell them apart by types too, but binds the arguments to do
-- so, and a column of a LATERAL join cannot be bound twice. The window before an exact score gathers the candidates:
-- they come from all over the table, a row or two at a time.
CREATE OR REPLACE MACRO vec_search
-- exact
(source, q, rerank, k := 10, oversample := 4, metric := 'cosine') AS TABLE (
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *, _vec_score(_vec_v, _vec_query(NULL, q, metric)) AS _vec_score
        FROM query(_vec_rows(source, NULL, rerank, NULL))
        ORDER BY _vec_score DESC NULLS LAST
        LIMIT _vec_most(k, 1)
    ) AS _vec_found
    WHERE _vec_found._vec_score IS NOT NULL
    ORDER BY _vec_found._vec_score DESC
),
-- by code alone
(source, q, code, model := NULL, k := 10, oversample := 4, metric := 'cosine') AS TABLE (
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *, _vec_score(_vec_item, _vec_query(model, q, metric)) AS _vec_score
        FROM query(_vec_rows(source, code, NULL, NULL))
        ORDER BY _vec_score DESC NULLS LAST
        LIMIT _vec_most(k, 1)
    ) AS _vec_found
    WHERE _vec_found._vec_score IS NOT NULL AND _vec_planned_with_newest(model)
    ORDER BY _vec_found._vec_score DESC
),
-- by code, then exactly; either may be NULL
(source, q, code, rerank, model, k := 10, oversample := 4, metric := 'cosine') AS TABLE (
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *,
               CASE WHEN rerank IS NULL OR code IS NULL THEN _vec_coarse
                    ELSE _vec_exact(_vec_v, _vec_query(NULL, q, metric))
               END AS _vec_score
        FROM (
            SELECT *, row_number() OVER (ORDER BY _vec_coarse DESC) AS _vec_place
            FROM (
                SELECT *,
                       _vec_score(_vec_item, _vec_query(CASE WHEN code IS NULL THEN NULL ELSE model END, q, metric))
                           AS _vec_coarse
                FROM query(_vec_rows(source,
                    coalesce(code, rerank, 'vec_search needs code := or rerank := with the name of a column'),
                    rerank, NULL))
                ORDER BY _vec_coarse DESC NULLS LAST
                LIMIT _vec_most(k, CASE WHEN rerank IS NULL OR code IS NULL THEN 1 ELSE oversample END)
            )
            WHERE _vec_coarse IS NOT NULL
        )
    ) AS _vec_found
    WHERE _vec_found._vec_score IS NOT NULL
      AND (model IS NULL OR code IS NULL OR _vec_planned_with_newest(model))
    ORDER BY _vec_found._vec_score DESC
    LIMIT k
),
-- in the nearest cells: joined, so that DuckDB reads vectors in these cells alone, in a LATERAL join too, where queries
-- are prepared before the join and not for every row
(source, q, cell, model, nprobe := 16, code := NULL, rerank := NULL, ties := NULL, k := 10, oversample := 4,
 metric := 'cosine') AS TABLE (
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *,
               CASE WHEN rerank IS NULL OR code IS NULL THEN _vec_coarse
                    ELSE _vec_exact(_vec_v, _vec_raw)
               END AS _vec_score
        FROM (
            SELECT *, row_number() OVER (ORDER BY _vec_coarse DESC, _vec_tie) AS _vec_place
            FROM (
                SELECT *, _vec_score(_vec_item, _vec_asked) AS _vec_coarse
                FROM (
                    SELECT unnest(_vec_cells(model, q, nprobe)) AS _vec_in,
                           _vec_query(CASE WHEN code IS NULL THEN NULL ELSE model END, q, metric) AS _vec_asked,
                           _vec_query(NULL, q, metric) AS _vec_raw
                ) JOIN query(_vec_sql(
                    'SELECT %I AS _vec_cell, %I AS _vec_item, %I AS _vec_v, %I AS _vec_tie,
                         COLUMNS(_vec_kept()) AS ''_vec_c_\1'' FROM %T',
                    cell, coalesce(code, rerank, 'vec_search needs code := or rerank := with the name of a column'),
                    rerank, ties, source
                )) ON _vec_cell = _vec_in
                ORDER BY _vec_coarse DESC NULLS LAST, _vec_tie
                LIMIT _vec_most(k, CASE WHEN rerank IS NULL OR code IS NULL THEN 1 ELSE oversample END)
            )
            WHERE _vec_coarse IS NOT NULL
        )
    ) AS _vec_found
    WHERE _vec_found._vec_score IS NOT NULL AND _vec_planned_with_newest(model)
    ORDER BY _vec_found._vec_score DESC, _vec_found._vec_tie
    LIMIT k
),
-- with an order of rows of the same score
(source, q, ties, model := NULL, code := NULL, rerank := NULL, k := 10, oversample := 4,
 metric := 'cosine') AS TABLE (
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *,
               CASE WHEN rerank IS NULL OR code IS NULL THEN _vec_coarse
                    ELSE _vec_exact(_vec_v, _vec_query(NULL, q, metric))
               END AS _vec_score
        FROM (
            SELECT *, row_number() OVER (ORDER BY _vec_coarse DESC, _vec_tie) AS _vec_place
            FROM (
                SELECT *,
                       _vec_score(_vec_item, _vec_query(CASE WHEN code IS NULL THEN NULL ELSE model END, q, metric))
                           AS _vec_coarse
                FROM query(_vec_rows(source,
                    coalesce(code, rerank, 'vec_search needs code := or rerank := with the name of a column'),
                    rerank, ties))
                ORDER BY _vec_coarse DESC NULLS LAST, _vec_tie
                LIMIT _vec_most(k, CASE WHEN rerank IS NULL OR code IS NULL THEN 1 ELSE oversample END)
            )
            WHERE _vec_coarse IS NOT NULL
        )
    ) AS _vec_found
    WHERE _vec_found._vec_score IS NOT NULL
      AND (model IS NULL OR code IS NULL OR _vec_planned_with_newest(model))
    ORDER BY _vec_found._vec_score DESC, _vec_found._vec_tie
    LIMIT k
),
-- through a resident index of the table; rerank is the column of vectors that it was made of, model refuses an index
-- that was made with another one. Row numbers are joined, not looked up with IN: in a LATERAL join that would pair all
-- rows of the table with all queries. The count gathers the rows too, which come from all over the table.
(source, q, index, rerank, ties := NULL, model := NULL, nprobe := 16, k := 10, oversample := 4,
 metric := 'cosine') AS TABLE (
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *,
               _vec_index_score(index, current_database(), _vec_named.mark, _vec_named.needed,
                                count(_vec_named.mark) OVER (), _vec_v, _vec_asked) AS _vec_score
        FROM (
            SELECT unnest(_vec_index_rows(
                       index, model, q,
                       (SELECT list(_vec_row)
                        FROM query(_vec_sql('SELECT rowid AS _vec_row FROM %N', source, NULL, NULL, NULL, NULL))
                        WHERE _vec_row >= _vec_index_last(index, current_database())),
                       k::VARCHAR, oversample::VARCHAR, metric, nprobe::VARCHAR,
                       _vec_index_last(index, current_database())::VARCHAR, txid_current()::VARCHAR,
                       current_setting('search_path'), current_database(), source)) AS _vec_named,
                   _vec_query(NULL, q, metric) AS _vec_asked
        ) JOIN query(_vec_sql(
            'SELECT rowid AS _vec_row, %I AS _vec_v, %I AS _vec_tie, COLUMNS(_vec_kept()) AS ''_vec_c_\1'' FROM %N',
            rerank, ties, source, NULL, NULL
        )) ON _vec_row = _vec_named.row
    ) AS _vec_found
    WHERE _vec_found._vec_score IS NOT NULL
    ORDER BY _vec_found._vec_score DESC, _vec_found._vec_tie, _vec_found._vec_row
    LIMIT _vec_most(k, 1)
),
-- refused: nothing to search by
(source, q, model := NULL, k := 10, metric := 'cosine') AS TABLE (
    FROM query(_vec_sql('FROM %I', 'vec_search needs code := or rerank := with the name of a column of ' || source,
                        NULL, NULL, NULL, NULL))
);
