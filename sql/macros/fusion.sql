-- Fusion of two ranked lists of the same queries, each of rows (query_id, id, rank, score), into one of the same shape.

-- What a row of a list is worth by a method; known is false where the list has no such row, low is NULL where the query
-- has no list.
CREATE OR REPLACE MACRO _vec_worth(method, c, known, rank, score, low, high, mean, spread, spread_samp) AS
    CASE method
        WHEN 'rrf' THEN CASE WHEN known THEN 1.0 / (_vec_not_negative(c, 'vec_fuse: c') + rank) ELSE 0.0 END
        WHEN 'minmax' THEN CASE WHEN NOT known THEN 0.0 WHEN high = low THEN 1.0 ELSE (score - low) / (high - low) END
        WHEN 'zscore' THEN CASE WHEN low IS NULL OR high = low THEN 0.0
                                WHEN known THEN (score - mean) / spread ELSE (low - mean) / spread END
        WHEN 'dbsf' THEN CASE WHEN NOT known THEN 0.0 WHEN high = low THEN 0.5
                              ELSE 0.5 + (score - mean) / (6 * spread_samp) END
        ELSE error('vec_fuse: method is ' || coalesce('''' || method || '''', 'NULL')
                   || '; expected one of rrf, minmax, zscore, dbsf')
    END::DOUBLE;

-- One list from two, say of words and of vectors. A query or a row may be missing from either.
--   method   rrf: weight / (c + rank), added up; a missing row adds nothing (Cormack et al. 2009).
--            minmax: scores of a query brought to 0..1; a missing row counts 0, equal scores 1.
--            zscore: scores less their mean, over their deviation; a missing row counts as the last, equal scores 0.
--            dbsf: mean - 3 deviations becomes 0, mean + 3 becomes 1; a missing row counts 0, equal scores 0.5.
-- Rows with the same score stand by their better rank, then by id.
-- Returns: query_id, id, rank, score
CREATE OR REPLACE MACRO vec_fuse(a, b, method := 'rrf', weight_a := 1, weight_b := 1, c := 60) AS TABLE
    WITH _vec_lists AS MATERIALIZED (
        SELECT 1 AS side, l.query_id, l.id, l.rank, l.score::DOUBLE AS score
        FROM query_table(a) AS l WHERE NOT isnan(l.score)
        UNION ALL
        SELECT 2, l.query_id, l.id, l.rank, l.score::DOUBLE FROM query_table(b) AS l WHERE NOT isnan(l.score)
    ),
    _vec_spread AS MATERIALIZED (
        SELECT l.side, l.query_id, min(l.score) AS low, max(l.score) AS high, avg(l.score ORDER BY l.rank) AS mean,
               stddev_pop(l.score ORDER BY l.rank) AS spread, stddev_samp(l.score ORDER BY l.rank) AS spread_samp
        FROM _vec_lists AS l GROUP BY l.side, l.query_id
    )
    SELECT f.query_id, f.id, row_number() OVER (PARTITION BY f.query_id ORDER BY f.fused DESC, f.best, f.id) AS rank,
           f.fused AS score
    FROM (SELECT p.query_id, p.id, least(x.rank, y.rank) AS best,
                 _vec_finite(weight_a, 'vec_fuse: weight_a')
                     * _vec_worth(method, c, x.rank IS NOT NULL, x.rank, x.score, s.low, s.high, s.mean, s.spread,
                                  s.spread_samp)
                 + _vec_finite(weight_b, 'vec_fuse: weight_b')
                     * _vec_worth(method, c, y.rank IS NOT NULL, y.rank, y.score, t.low, t.high, t.mean, t.spread,
                                  t.spread_samp) AS fused
          FROM (SELECT DISTINCT l.query_id, l.id FROM _vec_lists AS l) AS p
          LEFT JOIN _vec_lists AS x ON x.side = 1 AND x.query_id = p.query_id AND x.id = p.id
          LEFT JOIN _vec_lists AS y ON y.side = 2 AND y.query_id = p.query_id AND y.id = p.id
          LEFT JOIN _vec_spread AS s ON s.side = 1 AND s.query_id = p.query_id
          LEFT JOIN _vec_spread AS t ON t.side = 2 AND t.query_id = p.query_id) AS f
    ORDER BY 1, 3;
