"""Cells, funnel, range search and their audits in SQL, against brute force in NumPy."""

from __future__ import annotations

import re

import duckdb
import numpy as np
import pytest
from conftest import anisotropic, table_of

import vecpipe
from vecpipe.engines.duckdb import handles

DIM = 12
METRICS = ("cosine", "ip", "l2")
Q = np.round(anisotropic(1, DIM, seed=5)[0] * 4) + np.float32(0.0)
SPEC = "normalize | cells(8) | int8"


def whole_numbers(rows: int, seed: int = 1) -> np.ndarray:
    """Rows whose products are exact in float32: rows that tie do so to the last bit."""
    return np.round(anisotropic(rows, DIM, seed) * 4) + np.float32(0.0)


def data_of(kind: str) -> np.ndarray:
    X = whole_numbers(400)
    if kind == "duplicated":
        X = X[np.random.default_rng(2).integers(0, 25, 400)]
    if kind == "tiny":
        X = X[:3]
    if kind == "skewed":
        X[50:] = X[50:51] + (np.arange(350) % 3 == 0)[:, None]
    if kind == "zeros":
        X[::7] = 0
    return X.astype(np.float32)


KINDS = ("random", "duplicated", "tiny", "skewed", "zeros")


def formula(metric: str, q: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Scores in float32 from exact sums, as rows that tie must tie here too."""
    products, lengths = X.astype(np.float64) @ q, np.sqrt((X.astype(np.float64) ** 2).sum(axis=1))
    if metric == "ip":
        return products.astype(np.float32)
    if metric == "l2":
        return -np.sqrt(((X.astype(np.float64) - q) ** 2).sum(axis=1)).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (products / lengths / np.linalg.norm(q.astype(np.float64))).astype(np.float32)


def best(scores: np.ndarray, k: int, among: np.ndarray | None = None) -> list[int]:
    known = ~np.isnan(scores) if among is None else ~np.isnan(scores) & among
    # Scores a rounding apart are one score: NumPy sums in another order than the search does.
    rounded = np.round(np.where(known, scores, -np.inf).astype(np.float64), 5)
    order = np.lexsort((np.arange(len(scores)), -rounded))
    return [int(row) for row in order[:k] if known[row]]


def filled(con: duckdb.DuckDBPyConnection, X: np.ndarray, spec: str = SPEC) -> duckdb.DuckDBPyConnection:
    con.register("docs_data", table_of(X))
    con.execute(f"CREATE OR REPLACE TABLE raw AS SELECT id, emb::FLOAT[{DIM}] AS emb FROM docs_data")
    con.unregister("docs_data")
    for name, text in (("m", spec), ("bits", "center | rotate | binary")):
        vecpipe.save_model(con, name, vecpipe.fit(con, "SELECT emb FROM raw", text))
    con.execute(
        """CREATE OR REPLACE TABLE docs AS
           SELECT *, vec_encode('m', emb) AS code, vec_encode('bits', emb) AS bits, vec_cell('m', emb) AS cell
           FROM raw ORDER BY cell"""
    )
    return con


def ids(con: duckdb.DuckDBPyConnection, call: str, q: np.ndarray = Q) -> list[int]:
    return [row for (row,) in con.execute(f"SELECT id FROM {call}", {"q": q.tolist()}).fetchall()]


def probed(con: duckdb.DuckDBPyConnection, nprobe: int) -> np.ndarray:
    """Which rows lie in the cells nearest to the query, by id."""
    query = "SELECT coalesce(list_contains(vec_probe('m', $q, $n), cell), false) FROM docs ORDER BY id"
    return np.array([row for (row,) in con.execute(query, {"q": Q.tolist(), "n": nprobe}).fetchall()])


# vec_cell and vec_probe ---------------------------------------------------------------------------------------------


def test_cells_in_sql_are_those_of_the_model(con):
    X = data_of("zeros")
    filled(con, X)
    step = vecpipe.load_model(con, "m").steps[1]
    with np.errstate(invalid="ignore"):
        expected = (X / np.linalg.norm(X, axis=1, keepdims=True)) @ step.state["centroids"].T
    for row, cell in con.execute("SELECT id, cell FROM docs").fetchall():
        assert (cell is None) == (row % 7 == 0)
        assert cell is None or expected[row, cell] == pytest.approx(expected[row].max(), abs=1e-6)
    assert (
        con.execute("SELECT vec_cell('m', NULL::FLOAT[12]), vec_probe('m', NULL::FLOAT[12])").fetchone() == (None,) * 2
    )
    kinds = "SELECT typeof(vec_cell('m', emb)), typeof(vec_probe('m', emb)) FROM docs LIMIT 1"
    assert con.execute(kinds).fetchone() == ("INTEGER", "INTEGER[]")


def test_cells_alone_are_an_identity_that_knows_cells(con):
    filled(con, data_of("random"))
    vecpipe.save_model(con, "alone", vecpipe.fit(con, "SELECT emb FROM raw", "cells(8)"))
    query = (
        "SELECT bool_and(vec_transform('alone', emb) = emb::FLOAT[]) AND count(vec_cell('alone', emb)) = 400 FROM docs"
    )
    assert con.execute(query).fetchone() == (True,)
    wanted = best(formula("cosine", Q, data_of("random")), 10)
    con.execute("UPDATE docs SET cell = vec_cell('alone', emb)")
    call = "vec_search('docs', $q, model := 'alone', cell := 'cell', rerank := 'emb', ties := 'id', nprobe := 8)"
    assert ids(con, call) == wanted


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("vec_cell('none', emb)", "no model is named 'none'"),
        ("vec_cell('bits', emb)", "has no cells"),
        ("vec_probe('bits', emb)", "has no cells"),
        ("vec_probe('m', emb, 0)", "nprobe is 0"),
        ("vec_cell('m', emb[1:5])", "5 dimensions"),
        ("vec_cell('m', [1.0, 'nan'::FLOAT, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])", "NaN"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(con, call, message):
    filled(con, data_of("random"))
    with pytest.raises(duckdb.Error, match=message):
        con.execute(f"SELECT {call} FROM docs").fetchall()


# Search in the nearest cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_with_ties_is_brute_force_in_order(con, kind, metric):
    X = data_of(kind)
    filled(con, X)
    for k in (1, 10, 1_000):
        call = f"vec_search('docs', $q, rerank := 'emb', ties := 'id', k := {k}, metric := '{metric}')"
        found = con.execute(f"SELECT id, score FROM {call}", {"q": Q.tolist()}).fetchall()
        scores = formula(metric, Q, X)
        assert [row for row, _ in found] == best(scores, k)
        np.testing.assert_allclose([score for _, score in found], scores[best(scores, k)], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nprobe", [1, 3, 8])
def test_a_search_in_cells_is_brute_force_over_their_rows(con, kind, nprobe):
    X = data_of(kind)
    filled(con, X)
    among = probed(con, nprobe)
    scores = formula("cosine", Q, X)
    for columns in ("rerank := 'emb'", "code := 'code', rerank := 'emb', oversample := 100"):
        for k in (1, 10, 1_000):
            call = f"vec_search('docs', $q, model := 'm', cell := 'cell', {columns}, nprobe := {nprobe}, "
            assert ids(con, call + f"ties := 'id', k := {k})") == best(scores, k, among)


def test_a_search_by_code_in_cells_ranks_by_the_code(con):
    filled(con, data_of("random"))
    among = probed(con, 3)
    everywhere = ids(con, "vec_search('docs', $q, model := 'm', code := 'code', ties := 'id', k := 1000)")
    here = ids(
        con, "vec_search('docs', $q, model := 'm', code := 'code', cell := 'cell', nprobe := 3, ties := 'id', k := 7)"
    )
    assert here == [row for row in everywhere if among[row]][:7]


@pytest.mark.parametrize("share", [1, 10, 100, 1_000])
def test_any_filter_goes_into_a_cte(con, share):
    X = np.concatenate([data_of("random")] * 5)
    filled(con, X)
    scores = formula("cosine", Q, X)
    kept = np.arange(len(X)) % share == 3 % share
    query = f"""WITH chosen AS (FROM docs WHERE id % {share} = {3 % share})
        SELECT id FROM vec_search('chosen', $q, model := 'm', cell := 'cell', rerank := 'emb', nprobe := 8,
                                  ties := 'id')"""
    assert [row for (row,) in con.execute(query, {"q": Q.tolist()}).fetchall()] == best(scores, 10, kept)


def test_an_empty_table_and_a_query_without_direction_find_nothing(con):
    filled(con, data_of("random"))
    calls = (
        "vec_search('docs', $q, model := 'm', cell := 'cell', rerank := 'emb')",
        "vec_search_stages('docs', $q, stages := ['bits', 'code', 'emb'], models := ['bits', 'm'])",
        "vec_search_range('docs', $q, -1.0, rerank := 'emb')",
    )
    for call in calls:
        assert ids(con, call)
        assert ids(con, call, np.zeros(DIM)) == []
    con.execute("DELETE FROM docs")
    for call in calls:
        assert ids(con, call) == []


def test_a_search_sees_its_own_snapshot_while_others_write(con):
    filled(con, data_of("random"))
    call = "vec_search('docs', $q, model := 'm', cell := 'cell', code := 'code', rerank := 'emb', k := 3)"
    before = ids(con, call)
    other = con.cursor()
    other.begin()
    row = {"q": Q.tolist()}
    other.execute("INSERT INTO docs SELECT 999, $q, vec_encode('m', $q), NULL, vec_cell('m', $q)", row)
    assert ids(other, call)[0] == 999
    assert ids(con, call) == before
    con.begin()
    assert ids(con, call) == before
    other.commit()
    assert ids(con, call) == before
    con.rollback()
    assert ids(con, call)[0] == 999


@pytest.mark.parametrize("q", ["(SELECT emb FROM raw WHERE id = 7)", "getvariable('q')", "$q"])
def test_the_query_of_a_search_in_cells_can_come_from_anywhere(con, q):
    X = data_of("random")
    filled(con, X)
    con.execute("SET VARIABLE q = (SELECT emb FROM raw WHERE id = 7)")
    call = f"vec_search('docs', {q}, model := 'm', cell := 'cell', rerank := 'emb', nprobe := 8, k := 9, ties := 'id')"
    found = con.execute(f"SELECT id FROM {call}", {"q": X[7].tolist()} if "$q" in q else None).fetchall()
    assert [row for (row,) in found] == best(formula("cosine", X[7], X), 9)


def test_a_new_row_needs_only_its_cell(con):
    filled(con, data_of("random"))
    con.execute("INSERT INTO docs (id, emb, cell) SELECT 1000, $q, vec_cell('m', $q)", {"q": Q.tolist()})
    assert ids(con, "vec_search('docs', $q, model := 'm', cell := 'cell', rerank := 'emb', nprobe := 1)")[0] == 1000


def test_a_model_stored_in_this_transaction_must_be_committed_first(con):
    filled(con, data_of("random"))
    con.begin()
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM raw", "normalize | cells(9, seed=4) | int8"))
    with pytest.raises(duckdb.Error, match="COMMIT before searching"):
        ids(con, "vec_search('docs', $q, model := 'm', cell := 'cell', rerank := 'emb')")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("vec_search('docs', $q, model := 'bits', cell := 'cell', rerank := 'emb')", "has no cells"),
        ("vec_search('docs', $q, model := NULL, cell := 'cell', rerank := 'emb')", "cell := needs model :="),
        ("vec_search('docs', $q, model := 'm', cell := 'nowhere', rerank := 'emb')", "nowhere"),
        ("vec_search('docs', $q, model := 'm', cell := 'cell')", "needs code := or rerank :="),
        (
            "vec_search_stages('docs', $q, stages := ['bits', 'code'], models := ['bits', 'm'])",
            "names 2 columns, models := 2 models, .* expected three columns",
        ),
        (
            "vec_search_stages('docs', $q, stages := ['bits', 'code', 'emb', 'emb'], models := ['bits', 'm'])",
            "names 4 columns, models := 2 models",
        ),
        ("vec_search_stages('docs', $q, ['bits', 'code', 'emb'], ['bits'])", "names 3 columns, models := 1 models"),
        ("vec_search_stages('docs', $q, ['bits', 'code', 'emb'], ['bits', 'm', 'm'])", "models := 3 models"),
        ("vec_search_stages('docs', $q, ['bits', 'code', 'emb'], ['bits'], cell := 'cell')", "models := 1 models"),
        ("vec_search_stages('docs', $q, ['bits', 'code', 'emb'], NULL)", "models := 0 models"),
        (
            "vec_search_stages('docs', $q, ['bits', 'code', 'emb'], ['bits', 'm'], oversample := [4])",
            "oversample := has 1 numbers",
        ),
        (
            "vec_search_stages('docs', $q, ['bits', 'code', 'emb'], ['bits', 'm'], cell := 'nowhere')",
            'column "nowhere" not found',
        ),
        ("vec_search_range('docs', $q, 0.5, code := 'code', model := 'm', rerank := 'emb')", "margin"),
    ],
)
def test_a_wrong_search_says_what_is_wrong(con, call, message):
    filled(con, data_of("random"))
    with pytest.raises(duckdb.Error, match=message):
        ids(con, call)


# What is read -------------------------------------------------------------------------------------------------------


def plan(con: duckdb.DuckDBPyConnection, call: str) -> str:
    return str(con.execute(f"EXPLAIN ANALYZE SELECT id FROM {call}", {"q": Q.tolist()}).fetchall()[0][1])


@pytest.mark.parametrize("q", ["$q", "(SELECT v FROM (SELECT $q AS v, random() AS r) WHERE r < 2)"])
@pytest.mark.parametrize("code", ["code := 'code', ", ""])
def test_only_rows_of_the_probed_cells_leave_the_scan(con, q, code):
    filled(con, np.concatenate([data_of("random")] * 30))
    text = plan(con, f"vec_search('docs', {q}, model := 'm', cell := 'cell', {code}rerank := 'emb', nprobe := 2)")
    expected = int(probed(con, 2).sum())
    counts = {int(found.replace(",", "")) for found in re.findall(r"([\d,]+) rows", text)}
    assert max(counts) == expected < 12_000


@pytest.mark.parametrize("source", ["read", "view", "CTE"])
def test_only_files_of_the_probed_cells_are_opened(con, source, tmp_path):
    filled(con, data_of("random"))
    con.execute(f"COPY docs TO '{tmp_path}/docs' (FORMAT parquet, PARTITION_BY (cell))")
    con.execute(f"CREATE VIEW files AS FROM '{tmp_path}/docs/*/*.parquet'")
    name = {"read": f"{tmp_path}/docs/*/*.parquet", "view": "files", "CTE": "chosen"}[source]
    before = "WITH chosen AS (FROM files WHERE id >= 0) " if source == "CTE" else ""
    call = f"vec_search('{name}', $q, model := 'm', cell := 'cell', code := 'code', nprobe := 3)"
    query = f"{before}SELECT id FROM {call}"
    text = con.execute(f"EXPLAIN ANALYZE {query}", {"q": Q.tolist()}).fetchall()[0][1]
    assert "Total Files Read: 3" in text
    found = [row for (row,) in con.execute(query, {"q": Q.tolist()}).fetchall()]
    assert found == ids(con, "vec_search('docs', $q, model := 'm', cell := 'cell', code := 'code', nprobe := 3)")


# Funnel and range ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_a_funnel_wide_enough_is_exact_search(con, metric):
    X = data_of("random")
    filled(con, X)
    call = f"""vec_search_stages('docs', $q, stages := ['bits', 'code', 'emb'], models := ['bits', 'm'], k := 5,
                                 oversample := [80, 60], metric := '{metric}')"""
    exact = ids(con, f"vec_search('docs', $q, rerank := 'emb', k := 5, metric := '{metric}')")
    assert ids(con, call) == exact
    con.execute("ALTER TABLE docs ALTER bits TYPE BIT")
    assert ids(con, call) == exact


@pytest.mark.parametrize("nprobe", [1, 3, 8])
def test_a_funnel_in_cells_is_brute_force_over_their_rows(con, nprobe):
    X = data_of("random")
    filled(con, X)
    among = probed(con, nprobe)
    for models in ("['bits', 'm']", "['bits', 'm', 'alone']"):
        vecpipe.save_model(con, "alone", vecpipe.fit(con, "SELECT emb FROM raw", "normalize | cells(8)"))
        call = f"""vec_search_stages('docs', $q, stages := ['bits', 'code', 'emb'], models := {models}, k := 5,
                                     cell := 'cell', nprobe := {nprobe}, oversample := [80, 60])"""
        assert ids(con, call) == best(formula("cosine", Q, X), 5, among)
    with pytest.raises(duckdb.Error, match="no cells"):
        ids(con, call.replace("'alone'", "'bits'"))


def test_each_stage_of_a_funnel_cuts_by_its_own_code(con):
    filled(con, data_of("random"))
    coarse = ids(con, "vec_search('docs', $q, code := 'bits', model := 'bits', k := 60, ties := 'id')")
    query = f"WITH left_over AS (FROM docs WHERE id IN {tuple(coarse)}) "
    fine = con.execute(
        f"{query} SELECT id FROM vec_search('left_over', $q, code := 'code', rerank := 'emb', model := 'm', k := 5)",
        {"q": Q.tolist()},
    ).fetchall()
    call = """vec_search_stages('docs', $q, stages := ['bits', 'code', 'emb'], models := ['bits', 'm'], k := 5,
                                oversample := [12, 4])"""
    found = ids(con, call)
    assert len(set(found) & {row for (row,) in fine}) >= 4


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_range_search_returns_every_row_that_reaches_the_bound(con, kind, metric):
    X = data_of(kind)
    filled(con, X, SPEC if metric == "cosine" else "cells(8) | int8")
    scores = formula(metric, Q, X)
    known = np.sort(scores[~np.isnan(scores)])
    for place in (0, len(known) // 2, len(known) - 1):
        bound = float(known[place]) - 1e-4 * abs(float(known[place]))
        wanted = set(np.flatnonzero(scores >= bound).tolist())
        for columns in ("rerank := 'emb'", "code := 'code', model := 'm', rerank := 'emb', margin := 1e6"):
            call = f"vec_search_range('docs', $q, $bound, {columns}, metric := '{metric}')"
            found = con.execute(f"SELECT id, score FROM {call}", {"q": Q.tolist(), "bound": bound}).fetchall()
            assert {row for row, _ in found} == wanted
            assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_range_search_by_code_returns_what_the_code_says(con):
    filled(con, data_of("random"))
    ranked = con.execute(
        "SELECT id, score FROM vec_search('docs', $q, code := 'code', model := 'm', k := 400)", {"q": Q.tolist()}
    ).fetchall()
    found = ids(con, "vec_search_range('docs', $q, 0.3, code := 'code', model := 'm')")
    assert set(found) == {row for row, score in ranked if score >= 0.3}
    narrow = ids(con, "vec_search_range('docs', $q, 0.3, code := 'code', model := 'm', rerank := 'emb', margin := 0.0)")
    exact = ids(con, "vec_search_range('docs', $q, 0.3, rerank := 'emb')")
    assert set(narrow) == set(found) & set(exact)


@pytest.mark.parametrize("columns", ["rerank := 'emb'", "code := 'code', model := 'm', rerank := 'emb', margin := 0.1"])
def test_a_range_search_stands_in_a_lateral_join(con, columns):
    X = data_of("random")
    filled(con, X)
    found = con.execute(
        f"""SELECT asked.id, s.id FROM (FROM raw WHERE id < 5) AS asked,
                   LATERAL vec_search_range('docs', asked.emb, 0.8, {columns}) AS s"""
    ).fetchall()
    wanted = {(at, int(row)) for at in range(5) for row in np.flatnonzero(formula("cosine", X[at], X) >= 0.8)}
    assert set(found) == wanted


@pytest.mark.parametrize("arguments", ["rerank := 'emb'", "code := 'code'", "code := 'code', rerank := 'emb'"])
def test_a_lateral_search_of_cells_prepares_queries_and_not_rows(con, arguments, monkeypatch):
    filled(con, np.concatenate([data_of("random")] * 10))
    asked = whole_numbers(20, seed=9)
    con.register("given", table_of(asked))
    con.execute("CREATE TABLE asked AS FROM given")
    made = []
    keep = handles.keep_query
    monkeypatch.setattr(handles, "keep_query", lambda *query: made.append(query) or keep(*query))
    call = f"vec_search('docs', {{}}, model := 'm', cell := 'cell', {arguments}, nprobe := 3, k := 7, ties := 'id')"
    lateral = f"asked, LATERAL {call.format('asked.emb')} AS s"
    rows = con.execute(f"SELECT asked.id, s.id FROM {lateral} ORDER BY asked.id, score DESC, s.id").fetchall()
    assert len(made) <= 2 * 3 * 20  # some 1,500 rows are scored for each query
    for at in range(20):
        assert [row for one, row in rows if one == at] == ids(con, call.format("$q"), asked[at])


@pytest.mark.parametrize("kind", ["INTEGER", "BIGINT", "UTINYINT", "VARCHAR"])
def test_cells_are_found_in_columns_of_any_name_and_type(con, kind):
    filled(con, data_of("random"))
    expected = ids(con, "vec_search('docs', $q, model := 'm', cell := 'cell', rerank := 'emb', ties := 'id')")
    con.execute(
        f"""CREATE TABLE "odd docs" AS
            SELECT id, emb AS "e""mb", cell::{kind} AS "Its 'cell'", 0.5 AS "Score" FROM docs"""
    )
    call = """vec_search('odd docs', $q, model := 'm', cell := 'its ''cell''', rerank := 'e"mb', ties := 'ID')"""
    assert len(expected) == 10
    assert ids(con, call) == expected
    names = con.execute(f"SELECT column_name FROM (DESCRIBE FROM {call})", {"q": Q.tolist()}).fetchall()
    assert [name for (name,) in names] == ["id", 'e"mb', "Its 'cell'", "score"]
