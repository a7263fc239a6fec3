"""Labels and numbers of neighbours, against scikit-learn and formulae, with ties, holes and columns of any name."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from neighbour_lists import put

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((60, 4)), RNG.standard_normal((25, 4))
LABELS = RNG.integers(0, 4, 60)
VALUES = RNG.standard_normal(60)
DISTANCES = np.linalg.norm(T[:, None] - X[None], axis=2)
COSINES = T @ X.T / np.linalg.norm(T, axis=1)[:, None] / np.linalg.norm(X, axis=1)
SOFT = ("uniform", "score", "softmax")


@pytest.fixture
def known(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    put(con, "by_distance", -DISTANCES, 15)
    put(con, "by_cosine", COSINES, 15)
    con.execute("CREATE TABLE docs (id BIGINT, label BIGINT, value DOUBLE)")
    con.executemany(
        "INSERT INTO docs VALUES (?, ?, ?)", list(zip(range(60), LABELS.tolist(), VALUES.tolist(), strict=True))
    )
    return con


def votes(con: duckdb.DuckDBPyConnection, lists: str, more: str, labels: str = "docs") -> dict[object, tuple]:
    rows = con.execute(f"FROM vec_knn_vote('{lists}', '{labels}', {more})").fetchall()
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    return {row[0]: row[1:] for row in rows}


def weights(weight: str, row: np.ndarray, tau: float = 0.07) -> np.ndarray:
    if weight == "uniform":
        return np.ones_like(row)
    return np.maximum(row, 0) if weight == "score" else np.exp(row / tau)


@pytest.mark.parametrize("k", [1, 5, 15])
@pytest.mark.parametrize("weight", ["uniform", "distance"])
def test_votes_are_those_of_scikit_learn(known, k, weight):
    neighbours = pytest.importorskip("sklearn.neighbors")
    classifier = neighbours.KNeighborsClassifier(k, weights=weight, algorithm="brute").fit(X, LABELS)
    shares = classifier.predict_proba(T)
    found = votes(known, "by_distance", f"k := {k}, weight := '{weight}'")
    assert set(found) == set(range(25))
    for query, (label, share, _) in found.items():
        assert share == pytest.approx(shares[query].max(), rel=1e-9)
        assert shares[query, label] == pytest.approx(shares[query].max(), rel=1e-9)
        if np.isclose(shares[query], shares[query].max()).sum() == 1:
            assert label == classifier.predict(T[query : query + 1])[0]


@pytest.mark.parametrize("weight", SOFT)
@pytest.mark.parametrize("k", [3, 15])
def test_votes_are_the_formula(known, weight, k):
    for query, (label, share, count) in votes(known, "by_cosine", f"k := {k}, weight := '{weight}'").items():
        best = np.argsort(-COSINES[query])[:k]
        heavy = np.bincount(LABELS[best], weights(weight, COSINES[query, best]), 4)
        assert share == pytest.approx(heavy.max() / heavy.sum(), rel=1e-9)
        assert heavy[label] == pytest.approx(heavy.max(), rel=1e-9)
        assert count == (LABELS[best] == label).sum()


def test_softmax_goes_from_the_nearest_neighbour_to_the_majority(known):
    cold = votes(known, "by_cosine", "weight := 'softmax', tau := 1e-9")
    first = votes(known, "by_cosine", "k := 1")
    assert {q: row[0] for q, row in cold.items()} == {q: row[0] for q, row in first.items()}
    hot = votes(known, "by_cosine", "weight := 'softmax', tau := 1e9")
    majority = votes(known, "by_cosine", "k := NULL")
    for query in hot:
        assert hot[query][1] == pytest.approx(majority[query][1], abs=1e-6)


@pytest.mark.parametrize("weight", ["uniform", "distance"])
def test_means_are_those_of_scikit_learn(known, weight):
    neighbours = pytest.importorskip("sklearn.neighbors")
    model = neighbours.KNeighborsRegressor(6, weights=weight, algorithm="brute").fit(X, VALUES)
    more = f"k := 6, weight := '{weight}', label := 'value'"
    rows = known.execute(f"SELECT value, neighbours FROM vec_knn_mean('by_distance', 'docs', {more})").fetchall()
    np.testing.assert_allclose([row[0] for row in rows], model.predict(T), rtol=1e-9)
    assert {row[1] for row in rows} == {6}


@pytest.mark.parametrize("weight", SOFT)
def test_means_and_deviations_are_the_formula(known, weight):
    more = f"weight := '{weight}', label := 'VALUE'"
    for query, value, deviation, _ in known.execute(f"FROM vec_knn_mean('by_cosine', 'docs', {more})").fetchall():
        best = np.argsort(-COSINES[query])[:15]
        w = weights(weight, COSINES[query, best])
        mean = np.average(VALUES[best], weights=w)
        assert value == pytest.approx(mean, rel=1e-9)
        assert deviation == pytest.approx(np.sqrt(np.average((VALUES[best] - mean) ** 2, weights=w)), rel=1e-6)


def test_a_neighbour_at_distance_zero_decides_alone(con):
    con.execute(
        """CREATE TABLE found AS FROM (VALUES (0, 1, 1, 0.0), (0, 2, 2, -0.1), (0, 3, 3, -0.1), (1, 2, 1, -1.0))
           AS t (query_id, id, rank, score)"""
    )
    con.execute("CREATE TABLE docs AS FROM (VALUES (1, 'a', 5), (2, 'b', 7), (3, 'b', 9)) AS t (id, label, value)")
    assert votes(con, "found", "weight := 'distance'") == {0: ("a", 1.0, 1), 1: ("b", 1.0, 1)}
    means = con.execute("SELECT value FROM vec_knn_mean('found', 'docs', weight := 'distance', label := 'value')")
    assert means.fetchall() == [(5.0,), (7.0,)]


def test_of_labels_with_the_same_weight_the_nearest_wins_then_the_least(con):
    con.execute(
        """CREATE TABLE found AS SELECT q AS query_id, i AS id, CASE q WHEN 0 THEN i ELSE 1 END AS rank, 0.5 AS score
           FROM range(2) a(q), range(1, 5) b(i)"""
    )
    con.execute("CREATE TABLE docs AS FROM (VALUES (1, 'z'), (2, 'a'), (3, 'a'), (4, 'z')) AS t (id, label)")
    assert votes(con, "found", "k := 4") == {0: ("z", 0.5, 2), 1: ("a", 0.5, 2)}


def test_neighbours_without_label_or_score_do_not_vote(known):
    known.execute("UPDATE docs SET label = NULL WHERE id % 3 = 0")
    known.execute("DELETE FROM docs WHERE id % 3 = 1")
    known.execute("INSERT INTO by_cosine VALUES (0, 2, 3, NULL), (0, 5, 4, 'nan'), (900, 0, 1, 0.5)")
    found = votes(known, "by_cosine", "k := 8")
    for query in range(25):
        best = [i for i in np.argsort(-COSINES[query])[:8] if i % 3 == 2]
        if not best:
            assert query not in found
            continue
        counts = np.bincount(LABELS[best], minlength=4)
        assert found[query][1] == pytest.approx(counts.max() / counts.sum())
    assert 900 not in found


def test_scores_below_zero_count_nothing_and_without_weight_there_is_no_share(con):
    con.execute(
        "CREATE TABLE found AS SELECT 0 AS query_id, i AS id, i AS rank, -0.1 * i AS score FROM range(1, 4) r(i)"
    )
    con.execute("CREATE TABLE docs AS SELECT i AS id, 'l' || i AS label, i AS value FROM range(1, 4) r(i)")
    assert votes(con, "found", "weight := 'score'") == {0: ("l1", None, 1)}
    means = con.execute("SELECT value FROM vec_knn_mean('found', 'docs', weight := 'score', label := 'value')")
    assert means.fetchall() == [(None,)]


def test_columns_of_any_name_and_type(known):
    expected = votes(known, "by_cosine", "k := 5")
    known.execute(
        """CREATE TABLE odd AS SELECT id AS "The Key", 'class ' || label AS "Straße", id AS k, 'x' AS weight, 1 AS tau
           FROM docs"""
    )
    found = votes(known, "by_cosine", "k := 5, id := 'the key', label := 'straße'", labels="odd")
    assert found == {query: (f"class {label}", share, count) for query, (label, share, count) in expected.items()}


def test_empty_lists_and_labels(known):
    known.execute("CREATE TABLE empty AS FROM by_cosine LIMIT 0")
    known.execute("CREATE TABLE no_docs AS FROM docs LIMIT 0")
    assert votes(known, "empty", "k := 5") == {}
    assert votes(known, "by_cosine", "k := 5", labels="no_docs") == {}
    assert known.execute("FROM vec_knn_mean('empty', 'docs', label := 'value')").fetchall() == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("weight := 'majority'", "weight is 'majority'; expected one of uniform, score, softmax, distance"),
        ("weight := NULL::VARCHAR", "weight is NULL; expected one of"),
        ("weight := 'softmax', tau := 0", "tau is 0; expected more than 0"),
        ("weight := 'distance'", "needs scores that are minus a distance; found "),
        ("weight := 'softmax', tau := NULL", "tau is NULL; expected more than 0"),
        ("k := 0", "k is 0; expected a whole number of at least 1"),
        ("k := 1.5", "k is 1.5; expected a whole number of at least 1"),
        ("label := 'none'", "'none'"),
    ],
)
def test_a_wrong_vote_says_what_is_wrong(known, more, message):
    for name in ("vec_knn_vote", "vec_knn_mean"):
        with pytest.raises(duckdb.Error) as caught:
            known.execute(f"FROM {name}('by_cosine', 'docs', {more})").fetchall()
        assert message in str(caught.value)
