-- Hubs: how often a row is among the k nearest of some query, over rows (query_id, id, rank, score) of a k-NN join.

-- For each row of a table, the number of queries it is among the k nearest of (N_k), most first.
--   docs   table that was searched: rows in no list count 0
--   self   queries and docs are the same rows: the pair of a row with itself is left out, not counted as one of k
-- Returns: id, occurrences
CREATE OR REPLACE MACRO vec_k_occurrence(source, docs, k := 10, id := 'id', self := false) AS TABLE
    WITH _vec_held AS (
        SELECT l.id AS doc
        FROM query_table(source) AS l
        WHERE NOT isnan(l.score) AND NOT (self AND l.query_id = l.id)
        QUALIFY row_number() OVER (PARTITION BY l.query_id ORDER BY l.rank, l.id) <= _vec_count(k, 'k')
    ),
    _vec_counts AS (SELECT h.doc, count(*) AS occurrences FROM _vec_held AS h GROUP BY h.doc),
    _vec_docs AS (SELECT COLUMNS(lambda c: lower(c) = lower(id)) AS doc FROM query_table(docs))
    SELECT d.doc AS id, coalesce(n.occurrences, 0) AS occurrences
    FROM _vec_docs AS d LEFT JOIN _vec_counts AS n ON n.doc = d.doc
    ORDER BY 2 DESC, 1;

-- Report of the hubs of a k-NN join, one row: skewness of N_k (Radovanovic et al. 2010), share of the rows in no list
-- (anti_hubs), share of the rows in at least twice as many lists as the mean (hubs) and share of all places they take
-- (hub_places), Robin Hood index (the share of places to be taken from the rich to make all equal), and the 10 largest
-- hubs. NULL where there is nothing to divide by.
-- Returns: docs, k, mean_occurrences, skewness, anti_hubs, hubs, hub_places, robin_hood, top_hubs
CREATE OR REPLACE MACRO vec_hubness(source, docs, k := 10, id := 'id', self := false) AS TABLE
    WITH _vec_n AS MATERIALIZED (
        SELECT o.id AS doc, o.occurrences AS n, avg(o.occurrences) OVER () AS mean
        FROM vec_k_occurrence(source, docs, k := k, id := id, self := self) AS o
    )
    SELECT count(*) AS docs,
           any_value(k)::BIGINT AS k,
           any_value(h.mean) AS mean_occurrences,
           CASE WHEN stddev_pop(h.n) > 0 THEN avg((h.n - h.mean) ** 3) / stddev_pop(h.n) ** 3 END AS skewness,
           avg((h.n = 0)::INTEGER) AS anti_hubs,
           avg((h.n > 0 AND h.n >= 2 * h.mean)::INTEGER) AS hubs,
           CASE WHEN sum(h.n) > 0 THEN coalesce(sum(h.n) FILTER (h.n >= 2 * h.mean), 0) / sum(h.n) END AS hub_places,
           CASE WHEN sum(h.n) > 0 THEN sum(abs(h.n - h.mean)) / 2 / sum(h.n) END AS robin_hood,
           (list({'id': h.doc, 'occurrences': h.n} ORDER BY h.n DESC, h.doc) FILTER (h.n > 0))[:10] AS top_hubs
    FROM _vec_n AS h;

-- How dense it is around each row of a k-NN join of a table with itself: mean score of its k nearest rows, score of the
-- nearest and of the last of them, most lonely first. The pair of a row with itself is left out.
-- Returns: id, density, nearest, farthest, neighbours
CREATE OR REPLACE MACRO vec_density(source, k := 10) AS TABLE
    SELECT n.query_id AS id, avg(n.score ORDER BY n.rank) AS density, max(n.score) AS nearest, min(n.score) AS farthest,
           count(*) AS neighbours
    FROM (SELECT l.query_id, l.rank, l.score::DOUBLE AS score
          FROM query_table(source) AS l
          WHERE NOT isnan(l.score) AND l.query_id <> l.id
          QUALIFY row_number() OVER (PARTITION BY l.query_id ORDER BY l.rank, l.id) <= _vec_count(k, 'vec_density: k')) AS n
    GROUP BY n.query_id
    ORDER BY 2, 1;
