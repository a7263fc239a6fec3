"""Scores corrected by banks, against the papers' formulae in NumPy: whole lists, short lists, and lists with holes."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from neighbour_lists import matrix, put, scores

Q, B, G, N = 16, 6, 4, 13
S, BANK, DOCS = scores(Q, N, 1), scores(B, N, 3), scores(G, N, 23)


@pytest.fixture
def lists(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    put(con, "found", S)
    put(con, "bank", BANK)
    put(con, "doc_bank", DOCS)
    return con


def log_sums(bank: np.ndarray, beta: float) -> np.ndarray:
    return np.log(np.exp(beta * bank).sum(axis=0))


def activated(bank: np.ndarray, k: int) -> np.ndarray:
    held = {int(i) for row in bank for i in np.argsort(-row)[:k]}
    return np.array([int(row.argmax()) in held for row in S])


def filled(bank: np.ndarray, k: int) -> np.ndarray:
    """What a bank of short lists stands for: a missing pair counts with the last score of its list."""
    last = -np.sort(-bank, axis=1)[:, k - 1 : k]
    return np.maximum(bank, last)


@pytest.mark.parametrize("beta", [0.5, 20, 30_000])
def test_inverted_softmax_is_the_formula(lists, beta):
    found = matrix(lists, f"vec_inverted_softmax('found', 'bank', beta := {beta})", S.shape)
    top = beta * BANK.max(axis=0)
    expected = beta * S - top - np.log(np.exp(beta * BANK - top).sum(axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)


def test_inverted_softmax_is_the_naive_form_where_that_does_not_overflow(lists):
    found = matrix(lists, "vec_inverted_softmax('found', 'bank', beta := 3)", S.shape)
    np.testing.assert_allclose(np.exp(found), np.exp(3 * S) / np.exp(3 * BANK).sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5, N])
def test_rows_missing_from_a_short_bank_count_with_its_last_score(lists, k):
    put(lists, "short", BANK, k)
    found = matrix(lists, "vec_inverted_softmax('found', 'short', beta := 4)", S.shape)
    np.testing.assert_allclose(found, 4 * S - log_sums(filled(BANK, k), 4), rtol=1e-12)


def test_short_lists_are_corrected_as_whole_ones(lists):
    put(lists, "short", S, 4)
    whole = matrix(lists, "vec_inverted_softmax('found', 'bank')", S.shape)
    short = matrix(lists, "vec_inverted_softmax('short', 'bank')", S.shape)
    kept = ~np.isnan(short)
    assert (kept.sum(axis=1) == 4).all()
    np.testing.assert_allclose(short[kept], whole[kept], rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_querybank_norm_is_the_formula_for_activated_queries_and_leaves_the_others(lists, k):
    found = matrix(lists, f"vec_querybank_norm('found', 'bank', beta := 20, k := {k})", S.shape)
    active = activated(BANK, k)
    assert active.any()
    np.testing.assert_allclose(found[active], (20 * S - log_sums(BANK, 20))[active], rtol=1e-12)
    np.testing.assert_array_equal(found[~active], S[~active])


def test_the_data_have_queries_of_all_kinds():
    kinds = {(bool(q), bool(d)) for q, d in zip(activated(BANK, 1), activated(DOCS, 1), strict=True)}
    assert len(kinds) == 4


@pytest.mark.parametrize("k", [None, 1, 2])
def test_dualbank_norm_is_the_product_of_two_gated_factors(lists, k):
    more = "" if k is None else f", k := {k}"
    found = matrix(
        lists, f"vec_dualbank_norm('found', 'bank', 'doc_bank', beta_query := 2, beta_doc := 3{more})", S.shape
    )
    by_query, by_doc = 2 * S - log_sums(BANK, 2), 3 * S - log_sums(DOCS, 3)
    q = np.ones(Q, bool) if k is None else activated(BANK, k)
    d = np.ones(Q, bool) if k is None else activated(DOCS, k)
    expected = np.where(q[:, None], by_query, 0) + np.where(d[:, None], by_doc, 0)
    np.testing.assert_allclose(found, np.where((q | d)[:, None], expected, S), rtol=1e-12)


@pytest.mark.parametrize(
    "call", ["vec_inverted_softmax('found', 'none', beta := 5)", "vec_querybank_norm('found', 'none')"]
)
def test_an_empty_bank_leaves_the_order_as_it_is(lists, call):
    lists.execute("CREATE TABLE none AS FROM bank LIMIT 0")
    order = f"SELECT query_id, id FROM {call} ORDER BY query_id, rank"
    assert (
        lists.execute(order).fetchall()
        == lists.execute("SELECT query_id, id FROM found ORDER BY query_id, rank").fetchall()
    )


def test_an_empty_bank_makes_dualbank_norm_the_inverted_softmax_of_the_other(lists):
    lists.execute("CREATE TABLE none AS FROM bank LIMIT 0")
    expected = matrix(lists, "vec_inverted_softmax('found', 'bank', beta := 9)", S.shape)
    for query_bank, doc_bank in (("bank", "none"), ("none", "bank")):
        found = matrix(
            lists, f"vec_dualbank_norm('found', '{query_bank}', '{doc_bank}', beta_query := 9, beta_doc := 9)", S.shape
        )
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(matrix(lists, "vec_dualbank_norm('found', 'none', 'none')", S.shape), S)


def csls(S: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    query_side = -np.sort(-S, axis=1)[:, :k]
    doc_side = -np.sort(-bank, axis=0)[:k]
    return 2 * S - query_side.mean(axis=1)[:, None] - doc_side.mean(axis=0)[None]


@pytest.mark.parametrize("k", [1, 3, 10, 50])
def test_csls_is_the_formula(lists, k):
    np.testing.assert_allclose(
        matrix(lists, f"vec_csls('found', k := {k})", S.shape), csls(S, S, k), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        matrix(lists, f"vec_csls('found', bank := 'bank', k := {k})", S.shape), csls(S, BANK, k), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("length", [3, 6])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_csls_over_a_short_bank_counts_missing_rows_with_its_last_score(lists, length, k):
    put(lists, "short", BANK, length)
    found = matrix(lists, f"vec_csls('found', bank := 'short', k := {k})", S.shape)
    np.testing.assert_allclose(found, csls(S, filled(BANK, length), k), rtol=1e-12, atol=1e-12)


EVERY = (
    "vec_inverted_softmax('{0}', 'bank')",
    "vec_querybank_norm('{0}', 'bank')",
    "vec_dualbank_norm('{0}', 'bank', 'doc_bank')",
    "vec_dualbank_norm('{0}', 'bank', 'doc_bank', k := 1)",
    "vec_csls('{0}', bank := 'bank')",
)


@pytest.mark.parametrize("call", EVERY)
def test_normalisation_makes_hubs_appear_less(lists, call):
    plain = np.argsort(-S, axis=1)[:, :3]
    put(lists, "short_bank", BANK, 5)
    for bank in ("bank", "short_bank"):
        found = matrix(lists, call.format("found").replace("'bank'", f"'{bank}'"), S.shape)
        better = np.argsort(-found, axis=1)[:, :3]
        assert (better < 3).sum() < (plain < 3).sum()


@pytest.mark.parametrize("call", EVERY)
def test_rows_without_a_score_are_left_out_and_change_nothing(lists, call):
    before = matrix(lists, call.format("found"), S.shape)
    for name in ("found", "bank", "doc_bank"):
        lists.execute(f"INSERT INTO {name} VALUES (0, 100, 100, NULL), (77, 1, 1, NULL), (0, 101, 101, 'nan')")
    np.testing.assert_array_equal(matrix(lists, call.format("found"), S.shape), before)


@pytest.mark.parametrize("call", EVERY)
def test_one_query_and_none(lists, call):
    lists.execute("CREATE TABLE one AS FROM found WHERE query_id = 4")
    lists.execute("CREATE TABLE empty AS FROM found WHERE query_id = 400")
    whole, one = (matrix(lists, call.format(name), S.shape) for name in ("found", "one"))
    np.testing.assert_array_equal(one[4], whole[4])
    assert np.isnan(np.delete(one, 4, axis=0)).all()
    assert lists.execute(f"FROM {call.format('empty')}").fetchall() == []


@pytest.mark.parametrize("call", EVERY)
def test_ties_keep_the_order_of_the_ids(lists, call):
    put(lists, "flat", np.full((3, N), 0.25))
    for name in ("bank", "doc_bank"):
        put(lists, name, np.full((2, N), 0.5))
    rows = lists.execute(f"SELECT query_id, id FROM {call.format('flat')}").fetchall()
    assert rows == [(query, item) for query in range(3) for item in range(N)]


def test_lists_may_be_ctes_views_and_have_text_for_ids_and_float_scores(lists):
    expected = matrix(lists, "vec_csls('found', bank := 'bank')", S.shape)
    lists.execute("CREATE VIEW bank_view AS SELECT 'b' || query_id AS query_id, 'x' || id AS id, rank, score FROM bank")
    rows = lists.execute(
        """WITH named AS (SELECT 'q' || query_id AS query_id, 'x' || id AS id, rank, score::FLOAT AS score FROM found)
           SELECT substr(query_id, 2)::INT, substr(id, 2)::INT, score FROM vec_csls('named', bank := 'bank_view')"""
    ).fetchall()
    assert len(rows) == expected.size
    for query, item, score in rows:
        assert score == pytest.approx(expected[query, item], abs=1e-6)


def test_results_are_lists_again(lists):
    rows = lists.execute(
        """WITH once AS (FROM vec_inverted_softmax('found', 'bank', beta := 5)),
                bank_once AS (FROM vec_inverted_softmax('bank', 'bank', beta := 5))
           FROM vec_inverted_softmax('once', 'bank_once', beta := 1)"""
    ).fetchall()
    once, bank_once = 5 * S - log_sums(BANK, 5), 5 * BANK - log_sums(BANK, 5)
    for query, item, _, score in rows:
        assert score == pytest.approx((once - log_sums(bank_once, 1))[query, item], abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("vec_inverted_softmax('found', 'bank', beta := 0)", "vec_inverted_softmax: beta is 0; expected more than 0"),
        ("vec_querybank_norm('found', 'bank', beta := NULL::INT)", "vec_querybank_norm: beta is NULL; expected more"),
        (
            "vec_dualbank_norm('found', 'bank', 'bank', beta_doc := -1)",
            "vec_dualbank_norm: beta_doc is -1; expected more",
        ),
        ("vec_inverted_softmax('found', 'bank', beta := NULL)", "vec_inverted_softmax: beta is NULL; expected more"),
        ("vec_inverted_softmax('found', 'bank', beta := 'nan'::DOUBLE)", "beta is nan; expected more than 0"),
        ("vec_querybank_norm('found', 'bank', k := NULL)", "vec_querybank_norm: k is NULL; expected a whole number"),
        ("vec_querybank_norm('found', 'bank', k := 0)", "vec_querybank_norm: k is 0; expected a whole number"),
        ("vec_dualbank_norm('found', 'bank', 'bank', k := -1)", "vec_dualbank_norm: k is -1; expected a whole number"),
        ("vec_csls('found', k := 0)", "vec_csls: k is 0; expected a whole number of at least 1"),
        ("vec_csls('found', k := -1)", "vec_csls: k is -1; expected a whole number of at least 1"),
        ("vec_csls('found', k := NULL)", "vec_csls: k is NULL; expected a whole number of at least 1"),
    ],
)
def test_a_wrong_beta_or_k_says_what_is_wrong(lists, call, message):
    with pytest.raises(duckdb.Error, match=message):
        lists.execute(f"FROM {call}").fetchall()


def test_the_same_result_whatever_the_threads(con):
    big, bank = scores(300, 200, 4), scores(300, 200, 5)
    put(con, "found", big, 50)
    put(con, "bank", bank, 50)
    results = set()
    for threads in (1, 3):
        con.execute(f"SET threads = {threads}")
        for _ in range(2):
            calls = [call.format("found").replace("doc_bank", "bank") for call in EVERY]
            results.add(str([con.execute(f"FROM {call}").fetchall() for call in calls]))
    assert len(results) == 1
