-- Choosing rows: clusters of duplicates from the pairs of a k-NN join, and rows that lie far from each other.

-- Clusters of duplicates: ids that are connected through pairs with score >= threshold (connected components), for
-- every id in the list. The cluster is its least id, the one with keep; a chain of near pairs joins rows that are not.
-- Returns: id, cluster, size, keep
CREATE OR REPLACE MACRO vec_duplicates(source, threshold := 0.95) AS TABLE
    WITH RECURSIVE _vec_list AS MATERIALIZED (FROM query_table(source)),
    _vec_pairs AS MATERIALIZED (
        SELECT DISTINCT least(p.query_id, p.id) AS a, greatest(p.query_id, p.id) AS b
        FROM _vec_list AS p WHERE p.score >= _vec_finite(threshold, 'vec_duplicates: threshold') AND NOT isnan(p.score) AND p.query_id <> p.id
    ),
    _vec_edges AS MATERIALIZED (
        SELECT e.a, e.b FROM _vec_pairs AS e UNION ALL SELECT e.b, e.a FROM _vec_pairs AS e
    ),
    _vec_ids AS (
        SELECT p.query_id AS item FROM _vec_list AS p UNION SELECT p.id FROM _vec_list AS p
    ),
    -- What has changed in a round gives its cluster to the ids next to it and to the clusters they were in, and ids
    -- look up the cluster of their cluster: long chains take about log(n) rounds. After Zhang et al. 2020 (FastSV).
    _vec_found(item, cluster) USING KEY (item) AS (
        SELECT i.item, i.item FROM _vec_ids AS i WHERE i.item IS NOT NULL
        UNION
        SELECT n.item, n.cluster
        FROM (SELECT u.item, min(u.cluster) AS cluster
              FROM (SELECT e.a AS item, y.cluster FROM _vec_edges AS e JOIN _vec_found AS y ON y.item = e.b
                    UNION ALL
                    SELECT x.cluster, y.cluster
                    FROM _vec_edges AS e
                    JOIN _vec_found AS y ON y.item = e.b
                    JOIN recurring._vec_found AS x ON x.item = e.a
                    UNION ALL
                    SELECT x.item, y.cluster
                    FROM _vec_found AS x JOIN recurring._vec_found AS y ON y.item = x.cluster
                    UNION ALL
                    SELECT x.item, y.cluster
                    FROM recurring._vec_found AS x JOIN _vec_found AS y ON y.item = x.cluster) AS u
              GROUP BY u.item) AS n
        JOIN recurring._vec_found AS o ON o.item = n.item
        WHERE n.cluster < o.cluster
    )
    SELECT f.item AS id, f.cluster, count(*) OVER (PARTITION BY f.cluster) AS size, f.item = f.cluster AS keep
    FROM _vec_found AS f
    ORDER BY 2, 1;

-- Up to k rows of a table that lie far from each other, in the order of picking, with the distance of each from the
-- picks before it: every row lies within the last distance of a pick. Farthest-point sampling from the row nearest to
-- the mean; the same rows whatever their order. Rows that equal a pick are left out.
--   metric   cosine (distances are 1 - cosine) or l2
--   id, emb  columns of ids and of vectors
-- Returns: pick, id, distance
CREATE OR REPLACE MACRO vec_diverse(source, k := 10, metric := 'cosine', id := 'id', emb := 'emb') AS TABLE
    SELECT f.pick, f.ids[f.chosen.position] AS id, f.chosen.distance AS distance
    FROM (SELECT g.ids, unnest(g.chosen) AS chosen, generate_subscripts(g.chosen, 1) AS pick
          FROM (SELECT list(t.item ORDER BY t.item) AS ids,
                       vec_farthest(list(t.v ORDER BY t.item), k, metric) AS chosen
                FROM query(_vec_sql(
                    'SELECT %I AS item, %I AS v FROM %T',
                    coalesce(id, 'vec_diverse: id is NULL'), coalesce(emb, 'vec_diverse: emb is NULL'), source, NULL, NULL
                )) AS t) AS g) AS f
    ORDER BY 1;
