"""Which database and which transaction a function speaks of: those of the connection that calls it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from conftest import anisotropic, table_of

import vecpipe

D, ROWS = 8, 200
X = anisotropic(ROWS, D)
SEARCH = "SELECT id FROM vec_search('docs', $1::FLOAT[8], model := 'm', code := 'code', metric := 'l2', k := 3)"


def filled(con: duckdb.DuckDBPyConnection, spec: str = "int8", sign: int = 1) -> duckdb.DuckDBPyConnection:
    con.register("given", table_of(np.ascontiguousarray(sign * X)))
    con.execute("CREATE TABLE docs AS SELECT id, emb::FLOAT[8] AS emb FROM given ORDER BY id")
    con.unregister("given")
    con.execute("SELECT vec_fit_query('m', $1, 'SELECT emb FROM docs')", [spec]).fetchall()
    con.execute("ALTER TABLE docs ADD COLUMN code BLOB; UPDATE docs SET code = vec_encode('m', emb)")
    return con


def search(con: duckdb.DuckDBPyConnection, sign: int = 1) -> list[int]:
    return [i for (i,) in con.execute(SEARCH, [(sign * X[7]).tolist()]).fetchall()]


# Transactions -----------------------------------------------------------------------------------------------------


def test_a_transaction_searches_on_with_the_models_it_began_with(con):
    filled(con)
    mine, theirs = con.cursor(), con.cursor()
    mine.begin()
    found = search(mine)
    for spec in ("pca(3) | int8", "center | int8"):
        theirs.execute("SELECT vec_fit_query('m', $1, 'SELECT emb FROM docs')", [spec]).fetchall()
        theirs.execute("UPDATE docs SET code = vec_encode('m', emb)")
        for _ in range(3):
            assert search(theirs)[0] == 7
            assert search(mine) == found
    mine.rollback()
    assert search(mine) == search(theirs)


def test_a_transaction_that_is_older_than_a_version_and_has_not_searched_yet_is_told_so(con):
    filled(con)
    mine, theirs = con.cursor(), con.cursor()
    mine.begin()
    mine.execute("SELECT count(*) FROM docs").fetchall()
    theirs.execute("SELECT vec_fit_query('m', 'center | int8', 'SELECT emb FROM docs')").fetchall()
    with pytest.raises(duckdb.Error, match=r"the model m.* or another transaction has since it began"):
        search(mine)
    mine.rollback()
    assert search(mine)


@pytest.mark.parametrize("which", ["version = 2", "true"])
def test_a_transaction_that_deleted_versions_does_not_search_with_them(con, which):
    filled(con)
    con.execute("SELECT vec_fit_query('m', 'center | int8', 'SELECT emb FROM docs')").fetchall()
    con.begin()
    con.execute(f"DELETE FROM vecpipe.models WHERE {which}")
    with pytest.raises(duckdb.Error, match=r"the model m.* it has stored or deleted versions itself"):
        search(con)
    con.rollback()
    assert search(con)
