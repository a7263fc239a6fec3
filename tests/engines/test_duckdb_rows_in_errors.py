"""Rows that errors of DuckDB's functions name: counted in the chunk, which the message says, or in what it says."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

import vecpipe
from vecpipe.engines.duckdb import joins
from vecpipe.errors import InputError

SAID = "rows are counted from the start of the chunk"
TABLE = """CREATE TABLE t AS
           SELECT i AS id, [if(i = 5000, 'nan'::FLOAT, i), 1, 2]::FLOAT[3] AS v, 'ab'::BLOB AS code
           FROM range(10000) r(i)"""


@pytest.fixture
def bad(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """A table with NaN in row 5000, and models of three and of two dimensions."""
    con.execute(TABLE)
    fine = con.sql("SELECT v, v[:2]::FLOAT[2] AS two FROM t WHERE id < 5000").to_arrow_table()
    for name, column, spec in (("m", "v", "cells(3) | int8"), ("p", "v", "pca(2)"), ("two", "two", "int8")):
        vecpipe.save_model(con, name, vecpipe.fit(fine, spec, column=column))
    return con


@pytest.mark.parametrize(
    ("label", "sql"),
    [
        ("vec_encode: v: row 904", "SELECT vec_encode('m', v) FROM t"),
        ("vec_transform: v: row 904", "SELECT vec_transform('p', v) FROM t"),
        ("vec_normalize: v: row 904", "SELECT vec_normalize(v) FROM t"),
        ("vec_dot: first vector: row 904", "SELECT vec_dot(v, v) FROM t"),
        ("vec_cell: v: row 904", "SELECT vec_cell('m', v) FROM t"),
        ("vec_score: code: row 0", "SELECT vec_score(code, vec_query('m', [1, 2, 3])) FROM t"),
        ("vec_exact: v: row 904", "SELECT vec_exact(v, vec_query(NULL, [1, 2, 3])) FROM t"),
        ("row 904", "FROM vec_search('t', [1, 2, 3], rerank := 'v')"),
        ("vec_query: q: row 904", "SELECT vec_query('m', v) FROM t"),
        ("vec_knn_join: emb: row 904", "WITH q AS (FROM t LIMIT 5) FROM vec_knn_join('q', 't', emb := 'v')"),
        (
            "vec_encode: v: row 904",
            "SELECT vec_encode(['m', 'two'][1 + id % 2], CASE WHEN id % 2 = 0 THEN v::FLOAT[] ELSE v[:2] END) FROM t",
        ),
        (
            "vec_decode: code: row 904",
            "SELECT vec_decode(['m', 'two'][1 + id % 2], CASE WHEN id = 5000 OR id % 2 = 1 THEN code ELSE 'abc' END) "
            "FROM t",
        ),
    ],
)
def test_a_row_counted_in_a_chunk_is_said_to_be(bad, label, sql):
    with pytest.raises(duckdb.Error, match=rf"{label} holds .*{SAID}"):
        bad.execute(sql).fetchall()


@pytest.mark.parametrize("call", ["vec_encode('m', v)", "vec_exact(v, vec_query(NULL, [1, 2, 3]))", "vec_norm(v)"])
def test_a_chunk_of_one_row_needs_no_explanation(bad, call):
    with pytest.raises(duckdb.Error, match="row 0 holds NaN") as error:
        bad.execute(f"SELECT {call} FROM t WHERE id = 5000").fetchall()
    assert SAID not in str(error.value)


@pytest.mark.parametrize(
    ("label", "sql"),
    [
        ("vec_farthest: vectors: row 2 ", "SELECT vec_farthest([[1, 2], [3, 4], ['nan'::FLOAT, 5]], 2, 'l2') FROM t"),
        ("emb of queries: row 5000 ", "FROM vec_knn_join('t', 't', emb := 'v')"),
        ("row 5000 in the reading order of its thread", "SELECT vec_fit(v, 'int8') FROM t"),
        ("vec_recall: vectors: row 27000 ", "FROM vec_recall('many', 'fine', 'v', rerank := 'v')"),
        ("row 5000 ", "SELECT vec_fit_query('x', 'int8', 'SELECT v FROM t') FROM range(3)"),
    ],
)
def test_a_row_counted_in_a_list_or_a_whole_table_is_not(bad, label, sql):
    bad.execute("SET threads = 1").execute("CREATE TABLE fine AS FROM t LIMIT 9")
    bad.execute("CREATE TABLE many AS SELECT v FROM fine, range(3000) UNION ALL SELECT v FROM t WHERE id = 5000")
    with pytest.raises(duckdb.Error, match=label) as error:
        bad.execute(sql).fetchall()
    assert SAID not in str(error.value)


def test_a_query_of_a_join_is_named_by_its_row_and_not_by_the_order_of_gathering():
    gathered = pa.array([[[1.0, 2.0], [float("nan"), 0.0], [3.0, 4.0]]], pa.list_(pa.list_(pa.float32(), 2)))
    nothing = pa.array([[None] * 3], pa.list_(pa.string()))
    places = pa.array([[0, 2, 1]], pa.list_(pa.int32()))
    settings = [pa.array([value]) for value in (None, 5, "cosine", False, False)]
    with pytest.raises(InputError, match="emb of queries: row 2 holds NaN"):
        joins._gather(gathered, nothing, places, nothing, *settings)


def test_an_error_in_one_of_many_lists_says_which(bad):
    sql = "SELECT vec_farthest([v, v], 2, 'l2') FROM t"
    with pytest.raises(duckdb.Error, match="vec_farthest: vectors of list 904 in the chunk that DuckDB read: row 0 "):
        bad.execute(sql).fetchall()
