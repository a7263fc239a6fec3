-- A search by sign bits: DuckDB counts the bits that differ itself, on all its threads and without a call to Python, and
-- the k * oversample rows of the fewest are scored exactly.
--   bits    column of codes of a model that ends in binary, as BIT (faster) or BLOB
--   model   that model
--   rerank  column of raw vectors
-- Returns: the columns of the table, and `score`
CREATE OR REPLACE MACRO vec_search_bits(
    source, q, bits, rerank, model, k := 10, oversample := 32, metric := 'cosine'
) AS TABLE
    SELECT * EXCLUDE (_vec_differ, _vec_place, _vec_score), _vec_score AS score
    FROM (
        SELECT COLUMNS(lambda c: lower(c) <> 'score'),
               _vec_exact(COLUMNS(lambda c: lower(c) = lower(rerank)), _vec_query(NULL, q, metric)) AS _vec_score
        FROM (
            SELECT *, row_number() OVER (ORDER BY _vec_differ) AS _vec_place
            FROM (
                SELECT *,
                       bit_count(xor(COLUMNS(lambda c: lower(c) = lower(bits))::BIT,
                                     _vec_query_bits(_vec_query(model, q, metric))::BIT)) AS _vec_differ
                FROM query_table(source)
                ORDER BY _vec_differ NULLS LAST
                LIMIT k * oversample
            )
            WHERE _vec_differ IS NOT NULL
        )
    )
    WHERE _vec_score IS NOT NULL AND _vec_planned_with_newest(model)
    ORDER BY _vec_score DESC
    LIMIT k;
