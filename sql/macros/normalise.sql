-- Scores of k-NN lists corrected for hubs, the rows that are near to everything, by a bank of other queries.
--
-- A list is any table, view or CTE of rows (query_id, id, rank, score), larger score is closer: what vec_knn_join
-- returns. So are the results, ranked anew; rows without a score are left out. A bank is such a list too, of other
-- queries against the same rows. A row that is missing from the list of a bank query counts with the last score of
-- that list, which is the most it can have: with whole lists the formulae are exact, with short ones the correction is
-- an upper bound, and rows in no list of the bank are all treated alike.

-- ln of the sum of exp(beta * score) over the queries of the bank, for each row of the list; 0 where the bank is empty,
-- which known says. Every exponent is taken from the largest term of its row, so that no beta overflows.
CREATE OR REPLACE MACRO _vec_log_sums(source, bank, beta) AS TABLE
    WITH _vec_pairs AS MATERIALIZED (
        SELECT b.query_id, b.id, beta * b.score::DOUBLE AS term,
               min(beta * b.score::DOUBLE) OVER (PARTITION BY b.query_id) AS last_term
        FROM query_table(bank) AS b
        WHERE NOT isnan(b.score)
    ),
    _vec_last AS MATERIALIZED (
        SELECT any_value(p.last_term) AS last_term FROM _vec_pairs AS p GROUP BY p.query_id
    ),
    _vec_all_last AS MATERIALIZED (
        SELECT max(l.last_term) + ln(sum(exp(l.last_term - (SELECT max(m.last_term) FROM _vec_last AS m)))) AS log_sum,
               max(l.last_term) AS top
        FROM _vec_last AS l
    ),
    _vec_tops AS (
        SELECT p.id, greatest(max(p.term), any_value(a.top)) AS top
        FROM _vec_pairs AS p, _vec_all_last AS a
        GROUP BY p.id
    ),
    _vec_held AS (
        SELECT p.id,
               any_value(t.top) + ln(any_value(exp(a.log_sum - t.top))
                   + sum(exp(p.term - t.top) - exp(p.last_term - t.top) ORDER BY p.query_id)) AS log_sum
        FROM _vec_pairs AS p, _vec_tops AS t, _vec_all_last AS a
        WHERE p.id = t.id
        GROUP BY p.id
    )
    SELECT s.id, coalesce(h.log_sum, a.log_sum, 0.0) AS log_sum, a.log_sum IS NOT NULL AS known
    FROM (SELECT DISTINCT r.id FROM query_table(source) AS r) AS s
    CROSS JOIN _vec_all_last AS a
    LEFT JOIN _vec_held AS h ON h.id = s.id;

-- The queries of a list whose best row is among the k best of some query of the bank.
CREATE OR REPLACE MACRO _vec_activated(source, bank, k) AS TABLE
    SELECT best.query_id
    FROM (SELECT r.query_id, arg_min(r.id, r.rank) AS id
          FROM query_table(source) AS r WHERE NOT isnan(r.score) GROUP BY r.query_id) AS best
    SEMI JOIN (SELECT b.id FROM query_table(bank) AS b WHERE b.rank <= k AND NOT isnan(b.score)) AS held
        ON held.id = best.id;

-- Inverted softmax: exp(beta * score) over its sum for the same row over the bank's queries, as natural logarithm.
-- Smith et al. 2017. Pulls down rows that many queries of the bank are near to.
-- Returns: query_id, id, rank, score
CREATE OR REPLACE MACRO vec_inverted_softmax(source, bank, beta := 20) AS TABLE
    WITH _vec_list AS MATERIALIZED (FROM query_table(source)), _vec_bank AS MATERIALIZED (FROM query_table(bank))
    SELECT r.query_id, r.id,
           row_number() OVER (PARTITION BY r.query_id ORDER BY r.corrected DESC, r.raw DESC, r.id) AS rank,
           r.corrected AS score
    FROM (SELECT l.query_id, l.id, l.score AS raw, beta * l.score::DOUBLE - n.log_sum AS corrected
          FROM _vec_list AS l
          JOIN _vec_log_sums('_vec_list', '_vec_bank', _vec_positive(beta, 'vec_inverted_softmax: beta')) AS n
              ON n.id = l.id
          WHERE NOT isnan(l.score)) AS r
    ORDER BY 1, 3;

-- QB-Norm: the inverted softmax for queries whose best row is among the k best of some query of the bank; other
-- queries keep their scores, so that scores compare within a query only. Bogolin et al. 2022. The bank must not hold
-- the queries themselves.
-- Returns: query_id, id, rank, score
CREATE OR REPLACE MACRO vec_querybank_norm(source, bank, beta := 20, k := 1) AS TABLE
    WITH _vec_list AS MATERIALIZED (FROM query_table(source)), _vec_bank AS MATERIALIZED (FROM query_table(bank))
    SELECT r.query_id, r.id,
           row_number() OVER (PARTITION BY r.query_id ORDER BY r.corrected DESC, r.raw DESC, r.id) AS rank,
           r.corrected AS score
    FROM (SELECT l.query_id, l.id, l.score AS raw,
                 CASE WHEN a.query_id IS NULL THEN l.score::DOUBLE
                      ELSE beta * l.score::DOUBLE - n.log_sum END AS corrected
          FROM _vec_list AS l
          JOIN _vec_log_sums('_vec_list', '_vec_bank', _vec_positive(beta, 'vec_querybank_norm: beta')) AS n
              ON n.id = l.id
          LEFT JOIN _vec_activated('_vec_list', '_vec_bank', _vec_count(k, 'vec_querybank_norm: k')) AS a
              ON a.query_id = l.query_id
          WHERE NOT isnan(l.score)) AS r
    ORDER BY 1, 3;

-- Dual-bank normalisation: the product of two inverted softmaxes, over a bank of queries and over a bank of rows like
-- those that are searched (lists of those rows against the same table, without their own row), as natural logarithm.
-- Wang et al. 2023. With k, a factor counts only for queries that its bank activates, as in QB-Norm. That of an empty
-- bank does not count; a query for which neither does keeps its scores.
-- Returns: query_id, id, rank, score
CREATE OR REPLACE MACRO vec_dualbank_norm(
    source, query_bank, doc_bank, beta_query := 20, beta_doc := 20, k := NULL
) AS TABLE
    WITH _vec_list AS MATERIALIZED (FROM query_table(source)),
    _vec_bank AS MATERIALIZED (FROM query_table(query_bank)),
    _vec_rows AS MATERIALIZED (FROM query_table(doc_bank))
    SELECT r.query_id, r.id,
           row_number() OVER (PARTITION BY r.query_id ORDER BY r.corrected DESC, r.raw DESC, r.id) AS rank,
           r.corrected AS score
    FROM (SELECT l.query_id, l.id, l.score AS raw,
                 CASE WHEN k IS NULL THEN qn.known ELSE qa.query_id IS NOT NULL END AS _vec_by_query,
                 CASE WHEN k IS NULL THEN dn.known ELSE da.query_id IS NOT NULL END AS _vec_by_doc,
                 CASE WHEN _vec_by_query AND _vec_by_doc
                      THEN (beta_query + beta_doc) * l.score::DOUBLE - qn.log_sum - dn.log_sum
                      WHEN _vec_by_query THEN beta_query * l.score::DOUBLE - qn.log_sum
                      WHEN _vec_by_doc THEN beta_doc * l.score::DOUBLE - dn.log_sum
                      ELSE l.score::DOUBLE END AS corrected
          FROM _vec_list AS l
          JOIN _vec_log_sums('_vec_list', '_vec_bank', _vec_positive(beta_query, 'vec_dualbank_norm: beta_query')) AS qn
              ON qn.id = l.id
          JOIN _vec_log_sums('_vec_list', '_vec_rows', _vec_positive(beta_doc, 'vec_dualbank_norm: beta_doc')) AS dn
              ON dn.id = l.id
          LEFT JOIN _vec_activated('_vec_list', '_vec_bank', _vec_count(coalesce(k, 1), 'vec_dualbank_norm: k')) AS qa
              ON qa.query_id = l.query_id
          LEFT JOIN _vec_activated('_vec_list', '_vec_rows', _vec_count(coalesce(k, 1), 'vec_dualbank_norm: k')) AS da
              ON da.query_id = l.query_id
          WHERE NOT isnan(l.score)) AS r
    ORDER BY 1, 3;

-- CSLS: 2 * score - mean score of the query with its k nearest rows - mean score of the row with its k nearest queries
-- of the bank, by default the list itself. Conneau et al. 2018; made for cosines. Corrects both sides, so that scores
-- compare across queries.
-- Returns: query_id, id, rank, score
CREATE OR REPLACE MACRO vec_csls(source, bank := NULL, k := 10) AS TABLE
    WITH _vec_list AS MATERIALIZED (
        SELECT l.query_id, l.id, l.score::DOUBLE AS score FROM query_table(source) AS l WHERE NOT isnan(l.score)
    ),
    _vec_bank AS MATERIALIZED (
        SELECT b.query_id, b.id, b.score::DOUBLE AS score
        FROM query_table(coalesce(bank, source)) AS b WHERE NOT isnan(b.score)
    ),
    -- A row's k nearest queries are among those whose lists hold it and the k lists with the highest last scores.
    _vec_last AS (
        SELECT b.query_id, min(b.score) AS score FROM _vec_bank AS b
        GROUP BY b.query_id ORDER BY min(b.score) DESC, b.query_id LIMIT _vec_count(k, 'vec_csls: k')
    ),
    _vec_near AS (
        SELECT b.id, b.score FROM _vec_bank AS b
        UNION ALL
        SELECT i.id, f.score
        FROM (SELECT DISTINCT l.id FROM _vec_list AS l) AS i CROSS JOIN _vec_last AS f
        ANTI JOIN _vec_bank AS b ON b.query_id = f.query_id AND b.id = i.id
    ),
    _vec_docs AS (SELECT n.id, list_avg(max(n.score, _vec_count(k, 'vec_csls: k'))) AS near FROM _vec_near AS n GROUP BY n.id),
    _vec_queries AS (SELECT l.query_id, list_avg(max(l.score, _vec_count(k, 'vec_csls: k'))) AS near FROM _vec_list AS l GROUP BY l.query_id)
    SELECT r.query_id, r.id,
           row_number() OVER (PARTITION BY r.query_id ORDER BY r.corrected DESC, r.raw DESC, r.id) AS rank,
           r.corrected AS score
    FROM (SELECT l.query_id, l.id, l.score AS raw, 2 * l.score - q.near - coalesce(d.near, 0.0) AS corrected
          FROM _vec_list AS l
          JOIN _vec_queries AS q ON q.query_id = l.query_id
          LEFT JOIN _vec_docs AS d ON d.id = l.id) AS r
    ORDER BY 1, 3;
