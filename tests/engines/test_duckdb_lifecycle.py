"""Connections come and go: nothing crashes, nothing leaks, the file is let go, and two databases never mix."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, table_of

import vecpipe
from vecpipe.engines.duckdb import catalog
from vecpipe.engines.duckdb.connection import _cursor_of, lend
from vecpipe.engines.duckdb.places import place_of
from vecpipe.errors import EngineError, ModelNotFoundError

X = anisotropic(300, 8)
SPEC = "normalize | int8"
SEARCH = "SELECT id FROM vec_search('docs', [1, 0, 0, 0, 0, 0, 0, 0], model := 'm', code := 'code', k := 3)"


def filled(con: duckdb.DuckDBPyConnection, spec: str = SPEC) -> duckdb.DuckDBPyConnection:
    con.register("data", table_of(X))
    con.execute("CREATE OR REPLACE TABLE docs AS SELECT id, emb::FLOAT[8] AS emb, NULL::BLOB AS code FROM data")
    con.unregister("data")
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs", spec))
    con.execute("UPDATE docs SET code = vec_encode('m', emb)").fetchall()
    return con


def works(con: duckdb.DuckDBPyConnection) -> bool:
    return len(con.execute(SEARCH).fetchall()) == 3


def run(code: str, *arguments: object) -> str:
    """Run Python in a process of its own, so that a crash is seen as one."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-2000:]}"
    return done.stdout


# Registering ------------------------------------------------------------------------------------------------------


def test_registering_gives_back_the_connection_and_can_be_repeated():
    con = duckdb.connect()
    for _ in range(3):
        assert vecpipe.register(con) is con
    filled(con)
    vecpipe.register(con)
    assert works(con)
    assert len(con.execute("FROM vec_models()").fetchall()) == 1


def test_registering_disturbs_neither_a_result_nor_a_transaction():
    con = duckdb.connect()
    con.execute("CREATE TABLE t AS FROM range(10_000) AS r(i)")
    result = con.execute("FROM t")
    first = result.fetchmany(3)
    vecpipe.register(con)
    assert len(first) + len(result.fetchall()) == 10_000
    con.begin()
    con.execute("INSERT INTO t VALUES (-1)")
    vecpipe.register(con)
    con.rollback()
    assert con.execute("SELECT count(*) FROM t").fetchall() == [(10_000,)]
    filled(con)
    assert works(con)


def test_a_closed_connection_cannot_be_registered():
    con = duckdb.connect()
    con.close()
    with pytest.raises(EngineError, match=r"(?i)clos"):
        vecpipe.register(con)


def test_a_database_that_cannot_be_opened_is_an_engine_error(tmp_path):
    (tmp_path / "no.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(EngineError, match="opening"):
        vecpipe.connect(tmp_path / "no.db")


def test_macros_of_another_version_are_brought_up_to_date(tmp_path):
    con = vecpipe.connect(tmp_path / "a.db")
    con.execute("CREATE OR REPLACE MACRO vec_version() AS 'vecpipe 0.0.0'")
    con.execute("CREATE OR REPLACE MACRO vec_models() AS TABLE SELECT 'old' AS old")
    con.close()
    con = filled(vecpipe.connect(tmp_path / "a.db"))
    assert works(con)
    assert con.execute("SELECT name FROM vec_models()").fetchall() == [("m",)]


def test_without_persist_nothing_is_left_in_the_database(tmp_path):
    con = duckdb.connect(str(tmp_path / "a.db"))
    vecpipe.register(con, persist=False)
    query = "SELECT len(vec_normalize([3, 4])), (SELECT count(*) FROM vec_search('t', [1, 2], rerank := 'v'))"
    con.execute("CREATE TABLE t AS SELECT [1.0, 2.0] AS v")
    assert con.execute(query).fetchall() == [(2, 1)]
    con.execute("DROP TABLE t")
    con.close()
    plain = duckdb.connect(str(tmp_path / "a.db"))
    assert plain.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    macros = "SELECT count(*) FROM duckdb_functions() WHERE function_name LIKE 'vec%' AND function_type LIKE '%macro'"
    assert plain.execute(macros).fetchall() == [(0,)]


# Other databases --------------------------------------------------------------------------------------------------


def test_a_file_that_is_read_only_serves_its_models(tmp_path):
    filled(vecpipe.connect(tmp_path / "a.db")).close()
    con = vecpipe.connect(tmp_path / "a.db", read_only=True)
    assert works(con)
    assert works(con.cursor())
    with pytest.raises(EngineError, match="read-only"):
        vecpipe.save_model(con, "n", vecpipe.load_model(con, "m"))


def test_a_read_only_file_without_a_catalog_still_has_functions_and_search(tmp_path):
    con = duckdb.connect(str(tmp_path / "a.db"))
    con.execute("CREATE TABLE t AS SELECT [1.0, 2.0] AS v")
    con.close()
    con = vecpipe.connect(tmp_path / "a.db", read_only=True)
    assert con.execute("SELECT vec_norm(v) > 2 FROM t").fetchall() == [(True,)]
    assert con.execute("SELECT count(*) FROM vec_search('t', [1, 2], rerank := 'v')").fetchall() == [(1,)]
    with pytest.raises(ModelNotFoundError, match="no model is named 'm'"):
        vecpipe.load_model(con, "m")


def test_a_locked_down_database_works():
    con = duckdb.connect(config={"enable_external_access": "false"})
    con.execute("SET lock_configuration = true")
    vecpipe.register(con)
    con.execute("CREATE TABLE docs AS SELECT i AS id, [random(), random()]::FLOAT[2] AS emb FROM range(50) AS r(i)")
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs", "pca(1)"))
    assert con.execute("SELECT count(vec_transform('m', emb)) FROM docs").fetchall() == [(50,)]


@pytest.mark.parametrize("name", ["models.db", "main.db", "a b.db", "vec-1.db", "select.db"])
def test_the_file_may_have_any_name(tmp_path, name):
    con = filled(vecpipe.connect(tmp_path / name))
    assert works(con)
    con.close()
    con = vecpipe.connect(tmp_path / name)
    assert works(con)
    assert len(con.execute("FROM vec_models()").fetchall()) == 1


def test_a_file_called_like_the_schema_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(EngineError, match=r"a database named vecpipe hides the schema .* ATTACH"):
        vecpipe.connect(tmp_path / "vecpipe.db")


def test_two_databases_with_a_model_of_one_name_do_not_mix(tmp_path):
    a, b = vecpipe.connect(tmp_path / "a.db"), vecpipe.connect()
    filled(a, "pca(2) | float16")
    filled(b, "pca(5) | float16")
    for _ in range(3):
        assert a.execute("SELECT DISTINCT octet_length(vec_encode('m', emb)) FROM docs").fetchall() == [(4,)]
        assert b.execute("SELECT DISTINCT octet_length(vec_encode('m', emb)) FROM docs").fetchall() == [(10,)]
        assert works(a)
        assert works(b)


def test_two_connections_to_one_file_share_functions_and_models(tmp_path):
    a = vecpipe.connect(tmp_path / "a.db")
    b = duckdb.connect(str(tmp_path / "a.db"))
    filled(a)
    assert works(b)
    vecpipe.register(b)
    a.close()
    del a
    gc.collect()
    assert works(b)


# Closing ----------------------------------------------------------------------------------------------------------


def test_a_cursor_that_registered_and_is_gone_leaves_working_functions():
    out = run(
        """
        import duckdb, gc, vecpipe
        con = duckdb.connect()
        cursor = con.cursor()
        vecpipe.register(cursor)
        cursor.close()
        del cursor
        gc.collect()
        junk = [object() for _ in range(100_000)]
        print(con.execute("SELECT sum(vec_norm([i, 1])) > 0 FROM range(5000) AS r(i)").fetchall())
        try:
            con.execute("SELECT vec_query(NULL, [1, 2])").fetchall()
            con.execute("SELECT vec_query('m', [1, 2])").fetchall()
        except duckdb.Error as error:
            print("register" in str(error) or "no model" in str(error))
        vecpipe.register(con)
        con.execute("CREATE TABLE t AS SELECT [random(), random()] AS v FROM range(50)").fetchall()
        vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT v FROM t", "float16"))
        print(con.execute("SELECT count(vec_score(vec_encode('m', v), vec_query('m', [1, 2]))) FROM t").fetchall())
        """
    )
    assert out.split("\n")[:3] == ["[(True,)]", "True", "[(50,)]"]


def test_a_connection_closed_while_another_lives_on_crashes_nothing(tmp_path):
    run(
        """
        import duckdb, gc, sys, vecpipe
        a = vecpipe.connect(sys.argv[1])
        b = duckdb.connect(sys.argv[1])
        a.close()
        del a
        gc.collect()
        junk = [bytearray(1000) for _ in range(10_000)]
        assert b.execute("SELECT count(vec_normalize([i, 1])) FROM range(5000) AS r(i)").fetchall() == [(5000,)]
        """,
        tmp_path / "a.db",
    )


@pytest.mark.parametrize("config", [{}, {"threads": 1}, {"read_only": True}])
def test_a_database_can_be_closed_and_opened_again_with_another_configuration(tmp_path, config):
    con = filled(vecpipe.connect(tmp_path / "a.db"))
    con.close()
    options = {"read_only": True} if "read_only" in config else {"config": config}
    for _ in range(3):
        con = vecpipe.connect(tmp_path / "a.db", **options)
        assert works(con)
        con.close()
    assert works(vecpipe.connect(tmp_path / "a.db"))


def test_a_closed_file_is_let_go(tmp_path):
    con = filled(vecpipe.connect(tmp_path / "a.db"))
    cursor = con.cursor()
    assert works(cursor)
    con.execute("SELECT vec_fit_query('n', 'pca(2)', 'SELECT emb FROM docs')").fetchall()
    cursor.close()
    con.close()
    out = run(
        """
        import duckdb, sys
        con = duckdb.connect(sys.argv[1])
        con.execute("INSERT INTO docs SELECT 1000, NULL, NULL")
        print(con.execute("SELECT name, spec FROM vecpipe.models ORDER BY version").fetchall())
        """,
        tmp_path / "a.db",
    )
    assert out.strip() == "[('m', 'normalize | int8'), ('n', 'pca(2)')]"


def test_a_connection_that_is_dropped_without_closing_lets_the_file_go(tmp_path):
    filled(vecpipe.connect(tmp_path / "a.db"))
    gc.collect()
    run("import duckdb, sys; duckdb.connect(sys.argv[1]).execute('DROP TABLE docs')", tmp_path / "a.db")


def test_fifty_databases_opened_and_closed(tmp_path):
    threads = threading.active_count()
    for i in range(50):
        con = vecpipe.connect(tmp_path / f"{i % 5}.db" if i % 2 else ":memory:")
        assert con.execute("SELECT vec_norm([3, 4])").fetchall() == [(5.0,)]
        con.execute("CREATE OR REPLACE TABLE t AS SELECT [random(), random()] AS v FROM range(5)")
        vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT v FROM t", "center"))
        assert con.execute("SELECT count(vec_transform('m', v)) FROM t").fetchall() == [(5,)]
        con.close()
    assert threading.active_count() <= threads + 4


def test_a_registered_connection_ends_a_process_cleanly():
    out = run(
        """
        import vecpipe
        con = vecpipe.connect()
        print(con.execute("SELECT vec_norm([3, 4])").fetchall())
        result = con.execute("SELECT vec_norm([i, 4]) FROM range(100_000) AS r(i)")
        """
    )
    assert out.strip() == "[(5.0,)]"


def test_a_database_used_without_registering_says_which_function_is_missing(tmp_path):
    filled(vecpipe.connect(tmp_path / "a.db")).close()
    out = run(
        """
        import duckdb, sys
        con = duckdb.connect(sys.argv[1])
        print(con.execute("SELECT name, spec, input_dim FROM vec_models()").fetchall())
        try:
            con.execute("SELECT vec_encode('m', emb) FROM docs").fetchall()
        except duckdb.CatalogException as error:
            print("vec" in str(error))
        """,
        tmp_path / "a.db",
    )
    assert out.split("\n")[:2] == ["[('m', 'normalize | int8', 8)]", "True"]


# Threads ----------------------------------------------------------------------------------------------------------


def together(tasks: list[Callable[[], object]]) -> list[object]:
    """Start all tasks at the same moment, each in its thread."""
    gate = threading.Barrier(len(tasks))

    def started(task: Callable[[], object]) -> object:
        gate.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(started, tasks))


def test_eight_threads_call_model_functions_at_once(tmp_path):
    con = filled(vecpipe.connect(tmp_path / "a.db"))
    other = vecpipe.register(duckdb.connect(str(tmp_path / "a.db")))
    vecpipe.save_model(con, "pca", vecpipe.fit(con, "SELECT emb FROM docs", "center | pca(3)"))
    queries = [
        "SELECT list(vec_encode('m', emb) ORDER BY id) FROM docs",
        "SELECT list(vec_transform('pca', emb) ORDER BY id) FROM docs",
        "SELECT list(vec_decode('m', code) ORDER BY id) FROM docs",
        SEARCH,
    ]
    expected = [con.execute(query).fetchall() for query in queries]

    def task(i: int) -> list[bool]:
        cursor = (con if i % 2 else other).cursor()
        found = [cursor.execute(queries[(i + j) % 4]).fetchall() == expected[(i + j) % 4] for j in range(12)]
        cursor.close()
        return found

    assert all(all(found) for found in together([lambda i=i: task(i) for i in range(8)]))


def test_threads_that_fit_store_and_search_at_once(tmp_path):
    con = filled(vecpipe.connect(tmp_path / "a.db"))

    def task(i: int) -> int:
        cursor = con.cursor()
        model = vecpipe.fit(cursor, "SELECT emb FROM docs", f"pca({i + 1}) | int8")
        vecpipe.save_model(cursor, f"m{i}", model)
        widths = cursor.execute(f"SELECT DISTINCT octet_length(vec_encode('m{i}', emb)) FROM docs").fetchall()
        found = cursor.execute(f"SELECT vec_query('m{i}', emb, 'ip') IS NOT NULL FROM docs LIMIT 5").fetchall()
        cursor.close()
        return widths[0][0] if found == [(True,)] * 5 else -1

    assert together([lambda i=i: task(i) for i in range(8)]) == list(range(1, 9))


def test_threads_that_register_at_once(tmp_path):
    path = str(tmp_path / "a.db")

    def task() -> list[tuple[float]]:
        con = vecpipe.connect(path)
        return con.execute("SELECT vec_norm([3, 4])").fetchall()

    assert together([task] * 8) == [[(5.0,)]] * 8


def test_a_model_dropped_in_one_connection_is_gone_in_the_other(tmp_path):
    a = filled(vecpipe.connect(tmp_path / "a.db"))
    b = vecpipe.connect(tmp_path / "a.db")
    assert works(b)
    a.execute("DELETE FROM vecpipe.models")
    with pytest.raises(duckdb.Error, match=r"vecpipe\.models is empty"):
        b.execute("SELECT vec_encode('m', emb) FROM docs").fetchall()
    with pytest.raises(duckdb.Error, match=r"vecpipe\.models is empty"):
        b.execute(SEARCH).fetchall()
    with pytest.raises(ModelNotFoundError):
        vecpipe.load_model(b, "m")


def test_a_handle_of_another_process_is_refused():
    code = """
        import vecpipe
        con = vecpipe.connect()
        print(con.execute("SELECT vec_query(NULL, [1, 2])").fetchall()[0][0])
        """
    handle = run(code).strip()
    con = vecpipe.connect()
    con.execute("SELECT vec_query(NULL, [5, 6])").fetchall()
    with pytest.raises(duckdb.Error, match="not known in this process"):
        con.execute("SELECT vec_exact([1, 2], $1)", [handle]).fetchall()


def test_the_default_connection_can_be_registered():
    run(
        """
        import duckdb, vecpipe
        vecpipe.register(duckdb.default_connection())
        assert duckdb.sql("SELECT vec_norm([3, 4])").fetchall() == [(5.0,)]
        """
    )


def test_paths_are_taken_as_path_or_text(tmp_path):
    for path in (tmp_path / "a.db", str(tmp_path / "b.db")):
        con = vecpipe.connect(path)
        assert Path(path).exists()
        np.testing.assert_allclose(con.execute("SELECT vec_norm([3, 4])").fetchall(), [[5.0]])
        con.close()


@pytest.mark.parametrize("without", ["register", "the table"])
def test_a_missing_catalog_says_what_makes_it(without):
    con = duckdb.connect()
    if without == "the table":
        vecpipe.register(con)
        con.execute("DROP TABLE vecpipe.models")
    with pytest.raises(EngineError, match=r"Call vecpipe\.register\(con\) first: it creates the catalog"):
        vecpipe.load_model(con, "m")
    vecpipe.register(con)
    with pytest.raises(ModelNotFoundError):
        vecpipe.load_model(con, "m")


@pytest.mark.parametrize("query", ["SELECT v FROM car_models", "SELECT v FROM models", "SELECT v FROM other.models"])
@pytest.mark.parametrize("registered", [False, True])
def test_another_missing_table_has_nothing_to_do_with_the_catalog(query, registered):
    con = vecpipe.connect() if registered else duckdb.connect()
    with pytest.raises(EngineError, match="does not exist") as refused:
        catalog.run(con, query)
    assert "register" not in str(refused.value)


def test_what_was_lent_to_a_database_goes_with_its_last_connection(tmp_path):
    first, second = (vecpipe.connect(tmp_path / "shared.db") for _ in range(2))
    table = pa.table({"id": [1, 2, 3]})
    lent = weakref.ref(table)
    lend(first, {"lent": table}).close()
    del table
    first.close()
    del first
    gc.collect()
    cursor = _cursor_of(second.execute("SELECT _vec_database()").fetchall()[0][0], place_of(second))
    assert cursor.sql("SELECT sum(id) FROM lent").fetchall() == [(6,)]
    cursor.close()
    second.close()
    del second, cursor
    gc.collect()
    assert lent() is None
