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


# Databases --------------------------------------------------------------------------------------------------------


@pytest.fixture
def attached(tmp_path: Path) -> duckdb.DuckDBPyConnection:
    """Two databases with a table and a model of the same names; the second is attached, its rows have other signs."""
    filled(vecpipe.connect(tmp_path / "b.db"), "center | rotate(seed := 3) | int8", -1).close()
    con = filled(vecpipe.connect(tmp_path / "a.db"))
    con.execute(f"ATTACH '{tmp_path / 'b.db'}' AS b")
    return con


def test_a_search_takes_the_model_of_the_database_it_is_in(attached):
    alone = search(attached)
    attached.execute("USE b")
    assert search(attached, -1)[0] == 7
    attached.begin()
    for _ in range(2):
        assert search(attached, -1)[0] == 7
        attached.execute("USE a")
        assert search(attached) == alone
        attached.execute("USE b")
    attached.commit()
    attached.execute("SET search_path = 'a.main,b.main'")
    assert search(attached) == alone


@pytest.mark.parametrize("schema", ["s", '"it\'s, a.b"'])
def test_a_search_in_another_schema_takes_the_models_of_its_database(attached, schema):
    attached.execute(f"USE b; CREATE SCHEMA b.{schema}; USE b.{schema}; CREATE TABLE docs AS FROM b.main.docs")
    assert search(attached, -1)[0] == 7


def test_cells_are_those_of_the_model_of_the_database(con):
    wide = anisotropic(ROWS, D, seed=9)
    con.execute("ATTACH ':memory:' AS b")
    for database, rows in (("memory", X), ("b", wide)):
        con.execute(f"USE {database}")
        vecpipe.register(con)
        con.register("given", table_of(rows))
        con.execute("CREATE TABLE docs AS SELECT id, emb::FLOAT[8] AS emb FROM given ORDER BY id")
        con.unregister("given")
        con.execute("SELECT vec_fit_query('c', 'normalize | cells(16)', 'SELECT emb FROM docs')").fetchall()
        con.execute("ALTER TABLE docs ADD COLUMN cell INTEGER; UPDATE docs SET cell = vec_cell('c', emb)")
    found = "cell := 'cell', nprobe := 1, rerank := 'emb', k := 1"
    sql = f"SELECT id FROM vec_search('docs', $1::FLOAT[8], model := 'c', {found})"
    for i in range(20):
        assert con.execute(sql, [wide[i].tolist()]).fetchall() == [(i,)]


def test_a_fit_reads_and_writes_the_database_it_is_called_in(attached):
    attached.execute("USE b").execute("SELECT vec_fit_query('n', 'center', 'SELECT emb FROM docs')").fetchall()
    attached.execute("CREATE SCHEMA b.s; USE b.s; CREATE TABLE docs AS SELECT emb FROM b.main.docs LIMIT 50")
    row = attached.execute("SELECT vec_fit_query('s', 'center', 'SELECT emb FROM docs', queries := NULL)").fetchone()
    assert row[0]["fitted_rows"] == 50
    names = "SELECT name FROM {}.vecpipe.models ORDER BY name"
    assert attached.execute(names.format("a")).fetchall() == [("m",)]
    assert attached.execute(names.format("b")).fetchall() == [("m",), ("n",), ("s",)]
    model = vecpipe.load_model(attached, "n")
    np.testing.assert_allclose(model.transform(-X)[0].mean(axis=0), 0, atol=1e-5)


def test_the_results_of_a_fit_come_apart(attached):
    fit = "vec_fit_query('n', 'center', 'SELECT emb FROM docs')"
    assert attached.execute(f"SELECT {fit}.spec").fetchall() == [("center",)]
    assert attached.execute(f"SELECT unnest({fit})").fetchall()[0][0] == "n"


def test_audits_and_advice_look_at_the_table_of_the_database_they_are_called_in(attached):
    attached.execute("USE b; DELETE FROM docs WHERE id >= 150; ALTER TABLE docs RENAME emb TO vector")
    audit = (
        "SELECT queries, recall FROM vec_recall('docs', 'docs', 'vector', rerank := 'vector', k := 3, sample := 1000)"
    )
    assert attached.execute(audit).fetchall() == [(150, 1.0)]
    assert attached.execute("SELECT count(*) > 1 FROM vec_advise('docs', 'vector')").fetchall() == [(True,)]


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
def test_audits_and_advice_refuse_a_temporary_table_which_they_would_not_see(attached, kind):
    attached.execute(f"CREATE TEMP {kind} docs AS SELECT id, -1 * id AS emb FROM a.docs")
    for sql in ("vec_advise('docs', 'emb')", "vec_recall('a.docs', 'Docs', 'emb', rerank := 'emb')"):
        with pytest.raises(duckdb.Error, match=r"(?i)docs is a temporary table"):
            attached.execute(f"FROM {sql}").fetchall()


def test_indexes_of_one_name_are_those_of_their_database(attached, tmp_path):
    ask = "SELECT id FROM vec_search('docs', $1::FLOAT[8], index := 'near', model := 'm', rerank := 'emb', k := 1)"
    build = "SELECT vec_index('near', 'docs', 'm')"
    attached.execute(build).fetchall()
    attached.execute("USE b")
    with pytest.raises(duckdb.Error, match="no index of database b is named 'near'"):
        attached.execute(ask, [X[3].tolist()]).fetchall()
    attached.execute(build).fetchall()
    assert {path.name for path in tmp_path.glob("*.vecindex")} == {"a.db.near.vecindex", "b.db.near.vecindex"}
    for database, sign in (("b", -1), ("a", 1), ("b", -1)):
        attached.execute(f"USE {database}")
        assert attached.execute(ask, [(sign * X[3]).tolist()]).fetchall() == [(3,)]
    listed = attached.execute("SELECT name, database FROM vec_indexes() ORDER BY ALL").fetchall()
    assert listed == [("near", "a"), ("near", "b")]
    assert attached.execute("SELECT vec_index_drop('near')").fetchall() == [(True,)]
    assert {path.name for path in tmp_path.glob("*.vecindex")} == {"a.db.near.vecindex"}


# Registering ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["b", "b.s"])
def test_registering_brings_vecpipe_into_the_database_the_connection_is_in(con, place):
    con.execute(f"ATTACH ':memory:' AS b; CREATE SCHEMA b.s; USE {place}")
    result = con.execute("FROM range(10_000)")
    first = result.fetchmany(3)
    assert vecpipe.register(con) is con
    assert len(first) + len(result.fetchall()) == 10_000
    filled(con)
    assert search(con)[0] == 7
    con.execute("USE memory")
    assert con.execute("FROM vec_models()").fetchall() == []
    assert con.execute("SELECT name FROM b.vecpipe.models").fetchall() == [("m",)]


def test_a_read_only_database_that_is_attached_gets_what_leaves_nothing_in_it(con, tmp_path):
    plain = duckdb.connect(str(tmp_path / "c.db"))
    plain.execute("CREATE TABLE docs AS SELECT [1.0, 2.0] AS emb")
    plain.close()
    con.execute(f"ATTACH '{tmp_path / 'c.db'}' AS c (READ_ONLY); USE c")
    vecpipe.register(con)
    assert con.execute("SELECT count(*) FROM vec_search('docs', [1, 2], rerank := 'emb')").fetchall() == [(1,)]
