"""Fusion of two lists against the formulae, with lists that miss rows or queries, ties and equal scores."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import numpy as np
import pytest
from neighbour_lists import matrix, put, scores

Q, N = 6, 12
A, B = scores(Q, N, 1), 30 * scores(Q, N, 2) + 5
METHODS = ("rrf", "minmax", "zscore", "dbsf")


@pytest.fixture
def lists(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    put(con, "a", A, 7)
    put(con, "b", B, 5)
    return con


def cut(S: np.ndarray, k: int) -> np.ndarray:
    """The k best of each row, NaN elsewhere."""
    out = np.full_like(S, np.nan)
    for row, best in enumerate(np.argsort(-S, axis=1)[:, :k]):
        out[row, best] = S[row, best]
    return out


def rrf(row: np.ndarray, c: float = 60) -> np.ndarray:
    worth = np.zeros(len(row))
    for rank, item in enumerate(np.argsort(-row)[: (~np.isnan(row)).sum()], 1):
        worth[item] = 1 / (c + rank)
    return worth


def minmax(row: np.ndarray) -> np.ndarray:
    return np.nan_to_num((row - np.nanmin(row)) / (np.nanmax(row) - np.nanmin(row)), nan=0)


def zscore(row: np.ndarray) -> np.ndarray:
    return (np.nan_to_num(row, nan=np.nanmin(row)) - np.nanmean(row)) / np.nanstd(row)


def dbsf(row: np.ndarray) -> np.ndarray:
    mean, deviation = np.nanmean(row), np.nanstd(row, ddof=1)
    low, high = mean - 3 * deviation, mean + 3 * deviation
    return np.nan_to_num((row - low) / (high - low), nan=0)


FORMULAE: dict[str, Callable[[np.ndarray], np.ndarray]] = {"rrf": rrf, "minmax": minmax, "zscore": zscore, "dbsf": dbsf}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", [(1, 1), (0.25, 2)])
def test_fusion_is_the_formula(lists, method, weights):
    more = f"method := '{method}', weight_a := {weights[0]}, weight_b := {weights[1]}"
    found = matrix(lists, f"vec_fuse('a', 'b', {more})", A.shape)
    for row, a, b in zip(found, cut(A, 7), cut(B, 5), strict=True):
        there = ~np.isnan(a) | ~np.isnan(b)
        expected = weights[0] * FORMULAE[method](a) + weights[1] * FORMULAE[method](b)
        np.testing.assert_allclose(row[there], expected[there], rtol=1e-9)
        assert np.isnan(row[~there]).all()


def test_reciprocal_ranks_look_at_ranks_alone_and_c_flattens_them(lists):
    expected = matrix(lists, "vec_fuse('a', 'b', c := 0)", A.shape)
    lists.execute("UPDATE a SET score = exp(7 * score)")
    np.testing.assert_array_equal(matrix(lists, "vec_fuse('a', 'b', c := 0)", A.shape), expected)
    assert np.nanmin(expected) == 1 / 7  # the last of the seven of one list, missing from the other


@pytest.mark.parametrize("method", METHODS)
def test_a_list_fused_with_itself_keeps_its_order(lists, method):
    order = "SELECT query_id, id, rank FROM {} ORDER BY ALL"
    found = lists.execute(order.format(f"vec_fuse('a', 'a', method := '{method}')")).fetchall()
    assert found == lists.execute(order.format("a")).fetchall()


@pytest.mark.parametrize("method", ["minmax", "zscore", "dbsf"])
def test_calibrated_fusion_does_not_see_scale_and_offset(lists, method):
    before = matrix(lists, f"vec_fuse('a', 'b', method := '{method}')", A.shape)
    lists.execute("UPDATE a SET score = 1000 * score - 77")
    np.testing.assert_allclose(matrix(lists, f"vec_fuse('a', 'b', method := '{method}')", A.shape), before, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_query_in_one_list_alone_keeps_that_list(lists, method):
    lists.execute("DELETE FROM a WHERE query_id = 2")
    lists.execute("DELETE FROM b WHERE query_id = 3")
    for query, name in ((2, "b"), (3, "a")):
        found = lists.execute(f"SELECT id, rank FROM vec_fuse('a', 'b', method := '{method}') WHERE query_id = {query}")
        assert sorted(found.fetchall()) == sorted(
            lists.execute(f"SELECT id, rank FROM {name} WHERE query_id = {query}").fetchall()
        )


@pytest.mark.parametrize("method", METHODS)
def test_swapping_the_lists_changes_nothing(lists, method):
    one = lists.execute(f"FROM vec_fuse('a', 'b', method := '{method}')").fetchall()
    assert lists.execute(f"FROM vec_fuse('b', 'a', method := '{method}')").fetchall() == one


WORTH = {"rrf": [1 / 61, 1 / 62, 1 / 63], "minmax": [1, 1, 1], "zscore": [0, 0, 0], "dbsf": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize("method", METHODS)
def test_equal_scores_and_single_rows_have_a_stated_worth(con, method):
    put(con, "flat", np.full((1, 3), 0.1))
    con.execute("CREATE TABLE none AS FROM flat LIMIT 0")
    rows = con.execute(f"SELECT id, score FROM vec_fuse('flat', 'none', method := '{method}')").fetchall()
    assert rows == [(item, pytest.approx(worth)) for item, worth in enumerate(WORTH[method])]
    con.execute("DELETE FROM flat WHERE id > 0")
    rows = con.execute(f"SELECT id, rank, score FROM vec_fuse('flat', 'none', method := '{method}')").fetchall()
    assert rows == [(0, 1, pytest.approx(WORTH[method][0]))]
    assert con.execute(f"FROM vec_fuse('none', 'none', method := '{method}')").fetchall() == []


def test_ties_stand_by_their_better_rank_then_by_id(con):
    columns = "t (query_id, id, rank, score)"
    con.execute(f"CREATE TABLE a AS FROM (VALUES (0, 9, 1, 3.0), (0, 7, 2, 2.0), (0, 3, 3, 1.0)) AS {columns}")
    con.execute(f"CREATE TABLE b AS FROM (VALUES (0, 3, 1, 3.0), (0, 7, 2, 2.0), (0, 9, 3, 1.0)) AS {columns}")
    rows = con.execute("SELECT id, rank FROM vec_fuse('a', 'b', method := 'minmax')").fetchall()
    assert rows == [(3, 1), (9, 2), (7, 3)]


@pytest.mark.parametrize("method", METHODS)
def test_rows_without_a_score_are_left_out(lists, method):
    before = lists.execute(f"FROM vec_fuse('a', 'b', method := '{method}')").fetchall()
    lists.execute("INSERT INTO a VALUES (0, 500, 8, NULL), (50, 1, 1, NULL), (1, 501, 8, 'nan')")
    assert lists.execute(f"FROM vec_fuse('a', 'b', method := '{method}')").fetchall() == before


def test_a_wrong_method_says_which_there_are(lists):
    for method in ("'sum'", "NULL::VARCHAR"):
        with pytest.raises(duckdb.Error, match="expected one of rrf, minmax, zscore, dbsf"):
            lists.execute(f"FROM vec_fuse('a', 'b', method := {method})").fetchall()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("c := NULL", "vec_fuse: c is NULL; expected a number of at least 0"),
        ("c := -1", "vec_fuse: c is -1; expected a number of at least 0"),
        ("weight_a := NULL", "vec_fuse: weight_a is NULL; expected a number"),
        ("method := 'zscore', weight_b := 'nan'::DOUBLE", "vec_fuse: weight_b is nan; expected a number"),
    ],
)
def test_a_wrong_number_is_an_error_and_no_column_of_nulls(lists, more, message):
    with pytest.raises(duckdb.Error, match=message):
        lists.execute(f"FROM vec_fuse('a', 'b', {more})").fetchall()
