-- Labels and numbers of neighbours, over rows (query_id, id, rank, score) of a k-NN join and a table of what is known.

-- The labelled neighbours among the k first of each list, with the weight each of them has.
CREATE OR REPLACE MACRO _vec_weighted(source, labels, k, weight, tau, id, label) AS TABLE
    SELECT n.query_id, n.rank, n.known,
           CASE weight
               WHEN 'uniform' THEN 1.0
               WHEN 'score' THEN greatest(n.score, 0.0)
               WHEN 'softmax' THEN exp((n.score - n.best) / _vec_positive(tau, 'tau'))
               WHEN 'distance' THEN CASE
                   WHEN n.score > 0 THEN error(
                       'weight is ''distance'', which needs scores that are minus a distance; found ' || n.score)
                   WHEN n.best = 0 THEN (n.score = 0)::INTEGER
                   ELSE -1.0 / n.score END
               ELSE error('weight is ' || coalesce('''' || weight || '''', 'NULL')
                          || '; expected one of uniform, score, softmax, distance')
           END::DOUBLE AS share
    FROM (SELECT l.query_id, l.rank, t.known, l.score::DOUBLE AS score,
                 max(l.score::DOUBLE) OVER (PARTITION BY l.query_id) AS best
          FROM query_table(source) AS l
          JOIN (SELECT COLUMNS(lambda c: lower(c) = lower(id)) AS doc,
                       COLUMNS(lambda c: lower(c) = lower(label)) AS known
                FROM query_table(labels)) AS t ON t.doc = l.id
          WHERE NOT isnan(l.score) AND t.known IS NOT NULL AND (k IS NULL OR l.rank <= _vec_count(coalesce(k, 1), 'k'))) AS n;

-- The label that most neighbours of a query have, with its share of the votes and their number.
--   labels   table with the labels of (some of) the rows; neighbours without one do not vote, and a query without
--            labelled neighbours has no row
--   weight   of a vote: uniform, score (negative ones count 0), softmax (exp(score / tau), Wu et al. 2018) or distance
--            (one over the distance, for metric l2; a neighbour at distance 0 decides alone)
-- Of labels with the same weight, the one of the nearest neighbour wins, then the least.
-- Returns: query_id, label, share, votes
CREATE OR REPLACE MACRO vec_knn_vote(
    source, labels, k := NULL, weight := 'uniform', tau := 0.07, id := 'id', label := 'label'
) AS TABLE
    SELECT v.query_id, v.known AS label,
           v.share / nullif(sum(v.share) OVER (PARTITION BY v.query_id), 0) AS share, v.votes
    FROM (SELECT w.query_id, w.known, sum(w.share ORDER BY w.rank) AS share, count(*) AS votes, min(w.rank) AS nearest
          FROM _vec_weighted(source, labels, k, weight, tau, id, label) AS w
          GROUP BY w.query_id, w.known) AS v
    QUALIFY row_number() OVER (PARTITION BY v.query_id ORDER BY v.share DESC, v.nearest, v.known) = 1
    ORDER BY 1;

-- The weighted mean of a number that the neighbours of a query have, its deviation among them and their number.
--   labels, weight   as in vec_knn_vote; label names the column of numbers
-- Returns: query_id, value, deviation, neighbours
CREATE OR REPLACE MACRO vec_knn_mean(
    source, labels, k := NULL, weight := 'uniform', tau := 0.07, id := 'id', label := 'label'
) AS TABLE
    SELECT m.query_id, any_value(m.mean) AS value,
           sqrt(sum(m.share * (m.known - m.mean) ** 2 ORDER BY m.rank) / nullif(sum(m.share ORDER BY m.rank), 0))
               AS deviation,
           count(*) AS neighbours
    FROM (SELECT w.query_id, w.rank, w.share, w.known::DOUBLE AS known,
                 sum(w.share * w.known::DOUBLE ORDER BY w.rank) OVER (PARTITION BY w.query_id)
                     / nullif(sum(w.share ORDER BY w.rank) OVER (PARTITION BY w.query_id), 0) AS mean
          FROM _vec_weighted(source, labels, k, weight, tau, id, label) AS w) AS m
    GROUP BY m.query_id
    ORDER BY 1;
