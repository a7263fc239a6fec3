"""A table that the tests of the aggregates share, and how they ask it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from conftest import fixed

from vecpipe.engines.duckdb.extension import EXTENSION
from vecpipe.engines.duckdb.native import slots

D, N = 24, 9_000
IDS = np.arange(N)


def drawn(rows: int = N, dim: int = D) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((rows, dim)) * rng.uniform(0.1, 3, dim) + rng.uniform(-5, 5, dim)).astype(np.float32)


X = drawn()
WIDE = X.astype(np.float64)


def fill(con: duckdb.DuckDBPyConnection, rows: int = N) -> None:
    """Create ``t(id, g, many, w, v)``."""
    ids = IDS[:rows]
    con.register(
        "src", pa.table({"id": ids, "g": ids % 7, "many": ids % 1_500, "w": ids % 5 + 0.5, "v": fixed(X[:rows])})
    )
    con.execute(f"CREATE TABLE t AS SELECT id, g, many, w, v::FLOAT[{D}] AS v FROM src ORDER BY id").fetchall()
    con.unregister("src")


@contextmanager
def database(rows: int = N) -> Iterator[duckdb.DuckDBPyConnection]:
    """A plain connection, not even registered, with the table; nothing may be left behind in the end."""
    con = duckdb.connect()
    fill(con, rows)
    yield con
    con.close()
    gc.collect()
    assert not slots.ARENAS, "slots leaked"
    assert not slots._OPEN, "arenas leaked"
    assert not EXTENSION.errors


def one(con: duckdb.DuckDBPyConnection, sql: str, *arguments: object) -> object:
    return con.execute(sql, *arguments).fetchall()[0][0]


def fails(con: duckdb.DuckDBPyConnection, sql: str, *words: str) -> None:
    with pytest.raises(duckdb.Error) as caught:
        con.execute(sql).fetchall()
    for word in words:
        assert word in str(caught.value), str(caught.value)
