"""vec_knn_join equals brute force in float64: ids and order, ties by id."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import vecpipe
from tests.conftest import anisotropic

D = 12


def given(con: duckdb.DuckDBPyConnection, name: str, X: np.ndarray, **columns: object) -> None:
    """Create a table of id and vectors; rows of NaN become NULL."""
    there = ~np.isnan(X).any(axis=1)
    flat = pa.array(np.nan_to_num(X).astype(np.float32).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, X.shape[1], mask=pa.array(~there))
    con.register("given_rows", pa.table({"id": np.arange(len(X)), "emb": lists, **columns}))
    con.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * REPLACE (emb::FLOAT[{X.shape[1]}] AS emb) FROM given_rows")
    con.unregister("given_rows")


def scores_of(Q: np.ndarray, X: np.ndarray, metric: str) -> np.ndarray:
    """Return (m, n) scores of the definition in float64, rounded to float32; NaN without an answer."""
    Q, X = Q.astype(np.float64), X.astype(np.float64)
    if metric == "l2":
        return -np.sqrt(((Q[:, None] - X[None]) ** 2).sum(axis=2)).astype(np.float32)
    products = Q @ X.T
    if metric == "cosine":
        lengths = np.outer(np.linalg.norm(Q, axis=1), np.linalg.norm(X, axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            products = np.where(lengths > 0, products / lengths, np.nan)
    return products.astype(np.float32)


def expected(scores: np.ndarray, k: int) -> list[tuple[int, int, int]]:
    """Return (query, id, rank) by brute force."""
    out = []
    for query, row in enumerate(scores):
        live = np.flatnonzero(~np.isnan(row))
        best = live[np.lexsort((live, -row[live]))][:k]
        out += [(query, int(at), rank + 1) for rank, at in enumerate(best)]
    return out


def joined(con: duckdb.DuckDBPyConnection, text: str) -> list[tuple[int, int, int]]:
    return con.execute(f"SELECT query_id, id, rank FROM vec_knn_join({text})").fetchall()


def grid(n: int, seed: int) -> np.ndarray:
    """Vectors of small whole numbers: many exact ties, scores the same in any arithmetic."""
    return np.random.default_rng(seed).integers(-2, 3, (n, D)).astype(np.float32)


def with_nulls(X: np.ndarray, every: int) -> np.ndarray:
    """NaN in one row of every so many, for NULL."""
    return np.where(np.arange(len(X))[:, None] % every == every - 1, np.nan, X)


SETS = {
    "random": (anisotropic(40, D, seed=1), anisotropic(5_000, D, seed=2)),
    "ties": (grid(30, 3), grid(6_000, 4)),
    "copies": (grid(9, 5), np.repeat(grid(3, 6), 2_500, axis=0)),
    "tiny": (anisotropic(3, D, seed=7), anisotropic(2, D, seed=8)),
    "zeros": (np.concatenate([grid(4, 9), np.zeros((1, D))]), np.concatenate([np.zeros((300, D)), grid(300, 10)])),
    "skewed": (anisotropic(10, D, seed=11), anisotropic(3_000, D, seed=12) * np.logspace(-12, 12, 3_000)[:, None]),
    "nulls": (with_nulls(grid(9, 13), 4), with_nulls(grid(900, 14), 7)),
    "one dimension": (grid(5, 15)[:, :1] + 0.5, grid(4_000, 16)[:, :1]),
}  # fmt: skip


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("name", SETS)
def test_the_join_is_brute_force(con: duckdb.DuckDBPyConnection, name: str, metric: str) -> None:
    Q, X = (np.asarray(part, np.float32) for part in SETS[name])
    given(con, "queries", Q)
    given(con, "docs", X)
    for threads in (1, 4):
        con.execute(f"SET threads = {threads}")
        found = joined(con, f"'queries', 'docs', k := 7, metric := '{metric}'")
        assert found == expected(scores_of(Q, X, metric), 7)


def test_scores_are_those_of_the_definition(con: duckdb.DuckDBPyConnection) -> None:
    Q, X = SETS["random"]
    given(con, "queries", Q)
    given(con, "docs", X)
    for metric in ("cosine", "ip", "l2"):
        rows = con.execute(
            f"SELECT query_id, id, score FROM vec_knn_join('queries', 'docs', k := 3, metric := '{metric}')"
        ).fetchall()
        scores = scores_of(Q.astype(np.float32), X.astype(np.float32), metric)
        np.testing.assert_allclose([s for *_, s in rows], [scores[q, i] for q, i, _ in rows], rtol=2e-7)


@pytest.mark.parametrize("share", [1.0, 0.1, 1e-3])
def test_filters_on_both_sides_are_ctes(con: duckdb.DuckDBPyConnection, share: float) -> None:
    Q, X = (part.astype(np.float32) for part in SETS["random"])
    given(con, "queries", Q)
    given(con, "docs", X)
    every = round(1 / share)
    rows = con.execute(
        "WITH q AS (FROM queries WHERE id % 2 = 0), d AS (FROM docs WHERE id % $e = 0) "
        "SELECT query_id, id, rank FROM vec_knn_join('q', 'd', k := 5)",
        {"e": every},
    ).fetchall()
    scores = scores_of(Q, X, "cosine")
    scores[:, np.arange(len(X)) % every != 0] = np.nan
    scores[1::2] = np.nan
    assert rows == expected(scores, 5)


def test_within_keeps_to_rows_of_the_same_key(con: duckdb.DuckDBPyConnection) -> None:
    Q, X = (part.astype(np.float32) for part in SETS["ties"])
    rng = np.random.default_rng(0)
    ours = pa.array(np.where(rng.random(len(Q)) < 0.9, rng.integers(0, 40, len(Q)), -1))
    theirs = pa.array(rng.integers(0, 40, len(X)), mask=rng.random(len(X)) < 0.05)
    given(con, "queries", Q, tenant=ours)
    given(con, "docs", X, tenant=theirs)
    scores = scores_of(Q, X, "ip")
    scores[np.asarray(ours)[:, None] != np.asarray(theirs.fill_null(-2))[None]] = np.nan
    assert joined(con, "'queries', 'docs', k := 4, metric := 'ip', within := 'tenant'") == expected(scores, 4)


def test_a_row_does_not_find_itself_in_a_self_join(con: duckdb.DuckDBPyConnection) -> None:
    X = SETS["copies"][1].astype(np.float32)[::25]
    given(con, "docs", X)
    scores = scores_of(X, X, "cosine")
    np.fill_diagonal(scores, np.nan)
    assert joined(con, "'docs', 'docs', k := 3, self := true") == expected(scores, 3)


@pytest.mark.parametrize("settings", ["", ", within := 'tenant'", ", code := 'code', model := 'm'"])
@pytest.mark.parametrize("chunks", [4, 700])
def test_rows_of_one_id_do_not_find_each_other_in_a_self_join(
    con: duckdb.DuckDBPyConnection, chunks: int, settings: str
) -> None:
    X = np.repeat(grid(1500, 31), 2, axis=0)
    X[-900:] = X[0]  # more copies than are scored one by one
    owner = np.random.default_rng(32).permutation(len(X)) // chunks
    tenant = np.arange(len(X)) % 3
    given(con, "plain", X, owner=owner, tenant=tenant)
    con.execute("SELECT vec_fit_query('m', 'float16', 'SELECT emb FROM plain')").fetchall()
    con.execute(
        "CREATE TABLE docs AS SELECT nullif(owner, 1) AS id, emb, vec_encode('m', emb) AS code, tenant "
        "FROM plain ORDER BY plain.id"
    )
    scores = scores_of(X, X, "ip")
    scores[owner[:, None] == owner[None]] = np.nan
    if "within" in settings:
        scores[tenant[:, None] != tenant[None]] = np.nan
    found = con.execute(
        f"FROM vec_knn_join('docs', 'docs', k := 3, metric := 'ip', self := true{settings})"
    ).fetchnumpy()
    ids = np.where(owner == 1, 10_000, owner)  # NULL comes last
    best = np.lexsort((np.broadcast_to(ids, scores.shape), -np.nan_to_num(scores, nan=-np.inf)))[:, :3]
    assert np.ma.filled(found["query_id"], 10_000).tolist() == np.repeat(ids, 3).tolist()
    assert np.ma.filled(found["id"], 10_000).tolist() == ids[best].ravel().tolist()
    assert found["score"].tolist() == np.take_along_axis(scores, best, axis=1).ravel().tolist()


def test_self_that_is_null_is_refused(con: duckdb.DuckDBPyConnection) -> None:
    given(con, "docs", grid(5, 33))
    with pytest.raises(duckdb.Error, match="self is NULL; expected true or false"):
        con.execute("FROM vec_knn_join('docs', 'docs', self := NULL)").fetchall()


@pytest.mark.parametrize("argument", ["id", "emb", "code", "within"])
def test_a_column_that_is_not_there_is_named(con: duckdb.DuckDBPyConnection, argument: str) -> None:
    given(con, "docs", grid(5, 33))
    with pytest.raises(duckdb.Error, match='column "nowhere" not found'):
        con.execute(f"FROM vec_knn_join('docs', 'docs', {argument} := 'nowhere')").fetchall()
    with pytest.raises(duckdb.Error, match="vec_knn_join: emb is NULL"):
        con.execute("FROM vec_knn_join('docs', 'docs', emb := NULL)").fetchall()


@pytest.mark.parametrize("sign", [1, -1])
def test_products_beyond_float32_are_ties_whatever_the_blocks(con: duckdb.DuckDBPyConnection, sign: int) -> None:
    X = (np.random.default_rng(34).standard_normal((6000, D)) * 1e20).astype(np.float32)
    X[:, 0] = sign * np.abs(X[:, 0])
    given(con, "docs", X)
    Q = np.zeros((2, D), np.float32)
    Q[0, 0], Q[1, :2] = 1e20, 1e20
    given(con, "queries", Q)
    with np.errstate(over="ignore"):
        scores = scores_of(Q, X, "ip")
    assert np.isinf(scores[0]).sum() > 5000
    assert joined(con, "'queries', 'docs', k := 4, metric := 'ip'") == expected(scores, 4)


@pytest.mark.parametrize("kind", ["VARCHAR", "UUID", "DATE", "HUGEINT", "ENUM"])
def test_ids_of_any_plain_type(con: duckdb.DuckDBPyConnection, kind: str) -> None:
    given(con, "numbered", np.repeat(grid(2, 20), 40, axis=0))
    made = {
        "VARCHAR": "printf('%04d', 99 - id)",
        "UUID": "printf('00000000-0000-0000-0000-%012d', 99 - id)::UUID",
        "DATE": "DATE '2026-01-01' - id::INTEGER",
        "HUGEINT": "(99 - id)::HUGEINT",
        "ENUM": "printf('%02d', id)::backwards",
    }[kind]
    con.execute("CREATE TYPE backwards AS ENUM (SELECT printf('%02d', 99 - i) FROM range(100) AS r (i))")
    con.execute(f"CREATE TABLE docs AS SELECT {made} AS id, emb FROM numbered")
    found = con.execute(
        "SELECT id FROM vec_knn_join('docs', 'docs', k := 5) WHERE query_id = (SELECT min(id) FROM docs)"
    )
    same = "SELECT id FROM docs WHERE emb = (SELECT emb FROM docs ORDER BY id LIMIT 1) ORDER BY id LIMIT 5"
    rows = found.fetchall()
    assert rows == con.execute(same).fetchall()


def test_codes_are_joined_through_their_model(con: duckdb.DuckDBPyConnection) -> None:
    Q, X = (part.astype(np.float32) for part in SETS["random"])
    given(con, "queries", Q)
    given(con, "docs", X)
    for spec in ("normalize | int8", "center | rotate | binary", "transform_code(bytes=8)"):
        model = vecpipe.fit(con, "SELECT emb FROM docs", spec)
        vecpipe.save_model(con, "m", model)
        con.execute("CREATE OR REPLACE TABLE coded AS SELECT id, vec_encode('m', emb) AS code FROM docs")
        scores = model.score(model.prepare(Q, "cosine"), model.encode(X)[0])
        assert joined(con, "'queries', 'coded', k := 6, code := 'code', model := 'm'") == expected(scores, 6)


def test_empty_sides_and_k_beyond_the_rows(con: duckdb.DuckDBPyConnection) -> None:
    given(con, "queries", grid(2, 30))
    given(con, "docs", grid(3, 31))
    con.execute("CREATE TABLE none AS FROM docs LIMIT 0")
    assert joined(con, "'none', 'docs'") == []
    assert joined(con, "'queries', 'none'") == []
    assert len(joined(con, "'queries', 'docs', k := 1000, metric := 'ip'")) == 6


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_k_takes_memory_for_the_rows_there_are_alone(con: duckdb.DuckDBPyConnection, metric: str) -> None:
    Q, X = grid(7, 40), grid(5_000, 41)
    given(con, "queries", Q)
    given(con, "docs", X)
    whole = expected(scores_of(Q, X, metric), len(X))
    for k in ("100_000_000_000", "5_000", "5_000::HUGEINT"):
        assert joined(con, f"'queries', 'docs', k := {k}, metric := '{metric}'") == whole
    assert joined(con, f"'queries', 'docs', k := 4_990, metric := '{metric}'") == [at for at in whole if at[2] <= 4_990]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("'queries', 'wide'", "12"),
        ("'queries', 'docs', k := 0", "vec_knn_join: k is 0; expected a whole number of at least 1"),
        ("'queries', 'docs', k := NULL", "vec_knn_join: k is NULL; expected a whole number of at least 1"),
        ("'queries', 'docs', metric := 'dot'", "dot"),
        ("'queries', 'docs', code := 'emb', model := 'nobody'", "nobody"),
        ("'queries', 'docs', model := 'm'", "model is 'm', but vectors are joined as they are; pass code :="),
        ("'bad', 'docs'", "NaN"),
        ("'queries', 'bad'", "NaN"),
    ],
)
def test_what_cannot_be_joined_says_so(con: duckdb.DuckDBPyConnection, text: str, words: str) -> None:
    given(con, "queries", grid(2, 32))
    given(con, "docs", grid(3, 33))
    given(con, "wide", np.ones((3, D + 1)))
    con.execute(
        "CREATE TABLE bad AS SELECT id, list_transform(emb, lambda x: 'nan'::FLOAT)::FLOAT[12] AS emb FROM docs"
    )
    with pytest.raises(duckdb.Error, match=words):
        joined(con, text)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e19, 3e37])
def test_vectors_of_any_size(con, metric, size):
    if metric == "ip" and size > 1e18:
        size = 1e18  # beyond it the scores themselves are beyond float32
    X, Q = (anisotropic(n, D, seed) * np.float32(size) for n, seed in ((400, 1), (20, 2)))
    X[:40:4] *= np.float32(1e-3)
    given(con, "docs", X)
    given(con, "queries", Q)
    found = con.execute(
        f"SELECT query_id, id, score FROM vec_knn_join('queries', 'docs', metric := '{metric}')"
    ).fetchall()
    for at, q in enumerate(Q):
        sql = "SELECT id, score FROM vec_search('docs', $q, rerank := 'emb', ties := 'id', metric := $m)"
        alone = con.execute(sql, {"q": q.tobytes(), "m": metric}).fetchall()
        assert [(row, score) for query, row, score in found if query == at] == alone
        wide, asked = X.astype(np.float64), q.astype(np.float64)
        if metric == "l2":
            true = -np.linalg.norm(wide - asked, axis=1)
        else:
            true = wide @ asked
            true = true / np.linalg.norm(wide, axis=1) / np.linalg.norm(asked) if metric == "cosine" else true
        np.testing.assert_allclose([score for _, score in alone], np.sort(true)[::-1][:10], rtol=1e-5, atol=1e-44)


@pytest.mark.parametrize("key", ["VARCHAR", "INTEGER"])
def test_queries_without_a_key_find_nothing_even_where_none_has_one(con, key):
    given(con, "raw", anisotropic(30, D))
    con.execute(f"CREATE TABLE docs AS SELECT *, (id % 2)::{key} AS tenant FROM raw")
    con.execute(f"CREATE TABLE queries AS SELECT *, NULL::{key} AS tenant FROM raw LIMIT 3")
    join = "FROM vec_knn_join('queries', 'docs', within := 'tenant')"
    assert con.execute(join).fetchall() == []
    con.execute("UPDATE queries SET tenant = 1 WHERE id = 2")
    assert {row[0] for row in con.execute(join).fetchall()} == {2}


@pytest.mark.parametrize("kind", ["FLOAT[]", f"FLOAT[{D}]", "DOUBLE[]", '"NULL"'])
def test_queries_that_are_all_null_find_nothing(con, kind):
    given(con, "docs", anisotropic(30, D))
    con.execute(f"CREATE TABLE queries AS SELECT 1 AS id, NULL::{kind} AS emb")
    assert con.execute("FROM vec_knn_join('queries', 'docs')").fetchall() == []
