-- A search by sign bits: DuckDB counts the bits that differ itself, on all its threads and without a call to Python, and
-- the k * oversample rows of the fewest are scored exactly.
--   bits    column of codes of a model that ends in binary, as BIT (faster) or BLOB
--   model   that model
--   rerank  column of raw vectors
-- Returns: the columns of the table, and `score`
CREATE OR REPLACE MACRO vec_search_bits(
    source, q, bits, rerank, model, k := 10, oversample := 32, metric := 'cosine'
) AS TABLE
    SELECT COLUMNS('(?s)^_vec_c_(.*)$') AS '\1', _vec_found._vec_score AS score
    FROM (
        SELECT *, _vec_exact(_vec_v, _vec_query(NULL, q, metric)) AS _vec_score
        FROM (
            SELECT *, row_number() OVER (ORDER BY _vec_differ) AS _vec_place
            FROM (
                SELECT *,
                       CASE WHEN bit_length(_vec_bits) <> bit_length(_vec_asked)
                            THEN _vec_other_bits(bits, bit_length(_vec_bits), model, bit_length(_vec_asked))
                            ELSE bit_count(xor(_vec_bits, _vec_asked)) END AS _vec_differ
                FROM (
                    SELECT *, _vec_item::BIT AS _vec_bits,
                           _vec_query_bits(_vec_query(model, q, metric))::BIT AS _vec_asked
                    FROM query(_vec_rows(source, bits, rerank, NULL))
                )
                ORDER BY _vec_differ NULLS LAST
                LIMIT _vec_most(k, oversample)
            )
            WHERE _vec_differ IS NOT NULL
        )
    ) AS _vec_found
    WHERE _vec_found._vec_score IS NOT NULL AND _vec_planned_with_newest(model)
    ORDER BY _vec_found._vec_score DESC
    LIMIT k;
