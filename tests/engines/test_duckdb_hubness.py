"""Reports over lists of neighbours: hubs and density, against SciPy, scikit-learn and NumPy formulae."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from neighbour_lists import put, scores

Q, N = 30, 20
S = scores(Q, N, 1)


@pytest.fixture
def lists(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    put(con, "found", S)
    con.execute(f"CREATE TABLE docs AS SELECT i AS id, 'x' AS text FROM range({N}) r(i)")
    return con


def occurrences(S: np.ndarray, k: int) -> np.ndarray:
    best = np.argsort(-S, axis=1)[:, :k]
    return np.bincount(best.ravel(), minlength=S.shape[1])


def report(con: duckdb.DuckDBPyConnection, call: str) -> dict[str, object]:
    result = con.execute(f"FROM {call}")
    names = [column[0] for column in result.description]
    (row,) = result.fetchall()
    return dict(zip(names, row, strict=True))


@pytest.mark.parametrize("k", [1, 4, 10])
@pytest.mark.parametrize("length", [10, None])
def test_k_occurrence_counts_the_lists_a_row_is_in(lists, k, length):
    put(lists, "found", S, length)
    rows = lists.execute(f"FROM vec_k_occurrence('found', 'docs', k := {k})").fetchall()
    expected = occurrences(S, k)
    assert dict(rows) == dict(enumerate(expected.tolist()))
    assert rows == sorted(rows, key=lambda row: (-row[1], row[0]))
    assert sum(count for _, count in rows) == Q * k


@pytest.mark.parametrize("k", [1, 4, 10])
def test_the_hubness_report_is_the_formulae(lists, k):
    stats = pytest.importorskip("scipy.stats")
    found = report(lists, f"vec_hubness('found', 'docs', k := {k})")
    n = occurrences(S, k)
    mean = n.mean()
    assert (found["docs"], found["k"]) == (N, k)
    assert found["mean_occurrences"] == pytest.approx(mean)
    assert found["skewness"] == pytest.approx(stats.skew(n), rel=1e-12)
    assert found["anti_hubs"] == pytest.approx((n == 0).mean())
    assert found["hubs"] == pytest.approx((n >= 2 * mean).mean())
    assert found["hub_places"] == pytest.approx(n[n >= 2 * mean].sum() / n.sum())
    assert found["robin_hood"] == pytest.approx(np.abs(n - mean).sum() / 2 / n.sum())
    top = sorted(((int(count), -item) for item, count in enumerate(n) if count), reverse=True)[:10]
    assert [(hub["occurrences"], -hub["id"]) for hub in found["top_hubs"]] == top


def test_planted_hubs_are_the_largest_and_make_the_report_skewed(lists):
    found = report(lists, "vec_hubness('found', 'docs', k := 3)")
    assert {hub["id"] for hub in found["top_hubs"][:3]} == {0, 1, 2}
    put(lists, "even", scores(Q, N, 1, hubs=0))
    even = report(lists, "vec_hubness('even', 'docs', k := 3)")
    assert found["skewness"] > even["skewness"] + 0.5
    assert found["robin_hood"] > even["robin_hood"]


def test_without_hubs_there_is_nothing_to_be_skewed(lists):
    lists.execute("CREATE TABLE fair AS SELECT i AS query_id, i AS id, 1 AS rank, 0.5 AS score FROM range(20) r(i)")
    found = report(lists, "vec_hubness('fair', 'docs', k := 3)")
    assert (found["skewness"], found["anti_hubs"], found["robin_hood"], found["hubs"]) == (None, 0, 0, 0)


def test_no_lists_and_no_docs(lists):
    lists.execute("CREATE TABLE empty AS FROM found LIMIT 0")
    found = report(lists, "vec_hubness('empty', 'docs')")
    assert (found["docs"], found["anti_hubs"], found["robin_hood"], found["top_hubs"]) == (N, 1.0, None, None)
    lists.execute("CREATE TABLE no_docs AS FROM docs LIMIT 0")
    assert report(lists, "vec_hubness('empty', 'no_docs')")["docs"] == 0


def test_rows_without_a_score_are_in_no_list(lists):
    before = report(lists, "vec_hubness('found', 'docs', k := 4)")
    lists.execute("INSERT INTO found SELECT 1000 + i, 5, 1, NULL FROM range(50) r(i)")
    assert report(lists, "vec_hubness('found', 'docs', k := 4)") == before


@pytest.fixture
def self_join(con: duckdb.DuckDBPyConnection) -> tuple[duckdb.DuckDBPyConnection, np.ndarray]:
    """The lists of 40 points against themselves, score minus the distance, and the points."""
    X = np.random.default_rng(3).standard_normal((40, 3))
    put(con, "pairs", -np.linalg.norm(X[:, None] - X[None], axis=2))
    con.execute("CREATE TABLE docs AS SELECT i AS DocKey FROM range(40) r(i)")
    return con, X


def test_a_row_is_no_neighbour_of_its_own(self_join):
    neighbours = pytest.importorskip("sklearn.neighbors")
    con, X = self_join
    others = neighbours.NearestNeighbors(n_neighbors=5).fit(X).kneighbors(return_distance=False)
    rows = con.execute("FROM vec_k_occurrence('pairs', 'docs', k := 5, id := 'dockey', self := true)").fetchall()
    assert dict(rows) == dict(enumerate(np.bincount(others.ravel(), minlength=40).tolist()))
    with_itself = con.execute("FROM vec_k_occurrence('pairs', 'docs', k := 6, id := 'dockey')").fetchall()
    assert dict(with_itself) == {item: count + 1 for item, count in rows}


def test_density_is_the_mean_score_of_the_others(self_join):
    neighbours = pytest.importorskip("sklearn.neighbors")
    con, X = self_join
    distances, _ = neighbours.NearestNeighbors(n_neighbors=4).fit(X).kneighbors()
    rows = con.execute("FROM vec_density('pairs', k := 4)").fetchall()
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    for item, density, nearest, farthest, count in rows:
        assert density == pytest.approx(-distances[item].mean(), rel=1e-12)
        assert (nearest, farthest) == (pytest.approx(-distances[item, 0]), pytest.approx(-distances[item, -1]))
        assert count == 4


def test_koleo_follows_from_the_density(self_join):
    """KoLeo of DINOv2 is minus the mean logarithm of the distance to the nearest other row."""
    neighbours = pytest.importorskip("sklearn.neighbors")
    con, X = self_join
    distances, _ = neighbours.NearestNeighbors(n_neighbors=1).fit(X).kneighbors()
    ((koleo,),) = con.execute("SELECT -avg(ln(-nearest)) FROM vec_density('pairs', k := 1)").fetchall()
    assert koleo == pytest.approx(-np.log(distances).mean(), rel=1e-12)


def test_density_of_short_lists_says_how_many_neighbours_it_saw(self_join):
    con, _ = self_join
    con.execute("DELETE FROM pairs WHERE query_id = 7 AND rank > 3")
    rows = {row[0]: row[4] for row in con.execute("FROM vec_density('pairs', k := 5)").fetchall()}
    assert rows[7] == 2
    assert {count for item, count in rows.items() if item != 7} == {5}


@pytest.mark.parametrize("k", ["0", "-1", "NULL", "2.5"])
@pytest.mark.parametrize(
    "call", ["vec_hubness('found', 'docs', {})", "vec_k_occurrence('found', 'docs', {})", "vec_density('found', {})"]
)
def test_a_wrong_k_is_an_error_and_no_report(lists, call, k):
    with pytest.raises(duckdb.Error, match=f"k is {k}; expected a whole number of at least 1"):
        lists.execute("FROM " + call.format(f"k := {k}")).fetchall()
