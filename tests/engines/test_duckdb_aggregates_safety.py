"""Aggregates under strain: wrong types, bad rows, threads, interrupts, exits; nothing crashes and nothing leaks."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import duckdb
import numpy as np
import pytest
from engines.aggregates_data import WIDE, database, fails, fill, one

import vecpipe
from vecpipe.engines.duckdb import connection, extension
from vecpipe.engines.duckdb.native import capi, slots, sums
from vecpipe.errors import AggregatesUnavailableWarning

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc or sends POSIX signals")


@pytest.fixture
def con():
    with database() as connection:
        yield connection


# What is refused --------------------------------------------------------------------------------------------------

ALL = [
    "vec_avg(v)",
    "vec_min(v)",
    "vec_fit(v, 'center')",
    "vec_sketch(v)",
    "vec_medoid(1, v)",
    "vec_isoscore(v)",
    "vec_describe(v)",
]
WRONG = {
    "1::BIGINT": "BIGINT",
    "'abc'": "VARCHAR",
    "{'a': 1}": "STRUCT",
    "MAP {1: 2}": "MAP",
    "[['a']]": "LIST",
    "['a']": "VARCHAR",
    "[true]": "BOOLEAN",
    "[1::UHUGEINT]": "UHUGEINT",
    "'x'::BLOB": "BLOB",
    "now()": "TIMESTAMP",
}


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_type_is_an_sql_error_that_names_it(con, value):
    for f in ALL:
        fails(con, f"SELECT {f} FROM (SELECT {value} AS v)", f.split("(")[0], WRONG[value])


@pytest.mark.parametrize("f", ALL[:-1])
def test_an_invalid_row_is_an_sql_error_that_names_the_rule(con, f):
    base = "SELECT [1.0, 2.0]::FLOAT[] v FROM range(5000) UNION ALL "
    fails(con, f"SELECT {f} FROM ({base} SELECT ['nan'::FLOAT, 1]::FLOAT[])", "v: row ", "NaN", "finite")
    fails(con, f"SELECT {f} FROM ({base} SELECT [1, '-inf'::FLOAT]::FLOAT[])", "v: row ", "infinite")
    fails(con, f"SELECT {f} FROM ({base} SELECT [1, NULL]::FLOAT[])", "NULL element")
    fails(con, f"SELECT {f} FROM ({base} SELECT [1]::FLOAT[])", "dimensions")
    fails(con, f"SELECT {f} FROM (SELECT [1e300] v)", "infinite value (or one beyond float32)")
    fails(con, f"SELECT {f} FROM (SELECT []::FLOAT[] v)", "no dimensions")
    fails(con, f"SELECT {f} FROM (SELECT [1.0, NULL]::FLOAT[2] v)", "NULL element")
    assert one(con, "SELECT 1") == 1
    con.execute("SET threads = 1")
    fails(
        con, f"SELECT {f} FROM (SELECT CASE WHEN id = 7000 THEN ['nan']::FLOAT[] ELSE [1.0] END v FROM t)", "row 7000 "
    )


def test_groups_of_different_widths_are_fine_and_mixed_ones_are_not(con):
    con.execute(
        "CREATE TABLE mixed AS SELECT id, CASE WHEN id % 2 = 0 THEN [1.0, 2] ELSE [3.0] END::FLOAT[] AS v FROM t"
    )
    assert con.execute(
        "SELECT vec_avg(v) a FROM mixed WHERE id % 2 = 0 UNION ALL SELECT vec_avg(v) FROM mixed WHERE id % 2 = 1"
    ).fetchall() == [([1.0, 2.0],), ([3.0],)]
    fails(con, "SELECT vec_sketch(v) FROM mixed", "dimensions")


def test_weights_that_add_up_to_infinity_are_refused(con):
    for value in ("1.0", "1e-5"):
        fails(con, f"SELECT vec_avg([{value}], 1e308) FROM range(8)", "vec_avg", "the weights add up")
        fails(con, f"SELECT vec_fit([{value}, 0], 'center', 1e308) FROM range(8)", "weights add up to inf")
    assert one(con, "SELECT vec_avg([1.0], 1e307) FROM range(8)") == [1.0]
    fails(con, "SELECT vec_sum([x]) FROM (VALUES (3e38), (3e38)) q(x)", "vec_sum", "beyond the range of FLOAT")


def test_bad_specs_weights_and_sketches(con):
    fails(con, "SELECT vec_fit(v, 'pcaa(3)') FROM t", "did you mean pca")
    fails(con, "SELECT vec_fit(v, 'pca(99)') FROM t", "pca", "24")
    fails(con, "SELECT vec_fit(v, NULL) FROM t", "spec", "NULL")
    for weight in ("-1", "'nan'::DOUBLE", "'inf'::DOUBLE"):
        fails(con, f"SELECT vec_fit(v, 'center', {weight}) FROM t", "weight", "finite")
        fails(con, f"SELECT vec_avg(v, {weight}) FROM t", "weight", "finite")
    fails(con, "SELECT vec_merge('abc'::BLOB)", "vec_merge")
    fails(
        con,
        "SELECT vec_merge(s) FROM (SELECT vec_sketch([1.0]) s UNION ALL SELECT vec_sketch([1.0, 2.0]))",
        "dimensions",
    )


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_in_a_window_does_not_hang(threads):
    con = duckdb.connect()
    fill(con)
    con.execute(f"SET threads = {threads}")
    fails(
        con,
        "SELECT vec_avg(CASE WHEN id = 8000 THEN ['nan']::FLOAT[] ELSE v::FLOAT[] END) "
        "OVER (ORDER BY id ROWS 50 PRECEDING) FROM t",
        "vec_avg",
    )
    con.close()
    gc.collect()
    for number in list(slots.ARENAS):  # DuckDB drops the states of a failed window without telling
        arena = slots.ARENAS.pop(number)
        slots._OPEN.pop(arena.key, None)


def test_a_grouped_fit_that_fails_on_one_thread_leaves_nothing(con):
    con.execute("SET threads = 1")  # of several, DuckDB forgets the groups that others have not come to yet
    fails(con, "SELECT key, vec_fit(v, 'pca(99)') FROM (SELECT 'k' || id % 700 AS key, v FROM t) GROUP BY key", "pca")
    assert not slots.ARENAS


# Statements and databases of every kind ---------------------------------------------------------------------------


def test_statements_of_every_kind(con):
    con.execute("PREPARE p AS SELECT vec_fit(v, ?) FROM t")
    want = one(con, "SELECT vec_fit(v, 'center') FROM t")
    assert one(con, "EXECUTE p('center')") == want
    assert one(con, "SELECT vec_fit(v, $spec) FROM t", {"spec": "center"}) == want
    con.execute("CREATE TABLE a AS SELECT g, vec_fit(v, 'center') m FROM t GROUP BY g")
    con.execute("CREATE TABLE b (g BIGINT, m BLOB)")
    con.execute("INSERT INTO b SELECT g, vec_fit(v, 'center') FROM t GROUP BY g")
    assert one(con, "SELECT count(*) FROM a JOIN b USING (g, m)") == 7
    con.execute("CREATE VIEW view AS SELECT vec_avg(v) a FROM t")
    con.execute("CREATE MACRO mean_of(x) AS vec_avg(x)")
    con.execute("CREATE TABLE stored AS SELECT vec_avg(v)::FLOAT[24] a FROM t")
    for sql in (
        "SELECT a FROM view",
        "SELECT mean_of(v) FROM t",
        "SELECT a FROM stored",
        "SELECT (SELECT vec_avg(v) FROM t)",
    ):
        np.testing.assert_allclose(one(con, sql), WIDE.mean(0), rtol=2e-7, atol=1e-6)
    assert len(con.execute("SELECT g, many % 2 b, vec_avg(v) FROM t GROUP BY ROLLUP (g, b)").fetchall()) == 22
    con.execute("EXPLAIN ANALYZE SELECT vec_avg(v) FROM t").fetchall()


@pytest.mark.parametrize("kind", ["file", "read_only", "locked"])
def test_databases_of_every_kind(tmp_path, kind):
    path = str(tmp_path / "a.duckdb")
    with duckdb.connect(path) as con:
        fill(con, 3_000)
    config = {"enable_external_access": "false", "lock_configuration": "true"} if kind == "locked" else {}
    with duckdb.connect(path, read_only=kind == "read_only", config=config) as con:
        np.testing.assert_allclose(one(con, "SELECT vec_avg(v) FROM t"), WIDE[:3_000].mean(0), rtol=1e-6, atol=1e-6)
        assert vecpipe.Model.from_bytes(one(con, "SELECT vec_fit(v, 'center') FROM t")).info.rows == 3_000
        vecpipe.register(con)
        con.sql("SELECT vec_avg(v) FROM t").fetchall()


def test_the_default_connection_has_them_too():
    code = "import vecpipe, duckdb\nassert duckdb.sql('select vec_avg([1.0])').fetchall() == [([1.0],)]"
    assert python(code) == (0, "")


def test_many_databases_open_and_close():
    before = extension.EXTENSION.databases
    for _ in range(100):
        with duckdb.connect() as con:
            assert one(con, "SELECT vec_avg(x) FROM (VALUES ([1.0]), ([2.0])) q(x)") == [1.5]
    assert extension.EXTENSION.databases == before + 100
    assert not slots.ARENAS


def test_eight_threads_with_cursors_fit_at_once(con):
    con.execute("SET threads = 2")
    wanted = dict(con.execute("SELECT g, vec_fit(v, 'center') FROM t GROUP BY g").fetchall())
    found, failures = [], []

    def work(i):
        try:
            cursor = con.cursor()
            for _ in range(3):
                found.append((i % 7, one(cursor, f"SELECT vec_fit(v, 'center') FROM t WHERE g = {i % 7}")))
                assert (
                    len(
                        cursor.execute(
                            "SELECT many, vec_avg(v), vec_isoscore(v) FROM t WHERE many < 300 GROUP BY many"
                        ).fetchall()
                    )
                    == 300
                )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures
    assert len(found) == 24
    assert all(model == wanted[g] for g, model in found)


def test_an_arena_that_closes_before_its_next_slot_is_made_is_open_again():
    """One thread is about to make a slot while another drops the last one that the arena had."""
    key = (object(), threading.get_ident())
    arena = slots.open_arena(key, lambda: sums.SumArena(3, np.add))
    first = arena.id_of(arena.allocate(1))
    other = threading.Thread(target=slots.release, args=(first,))
    other.start()
    other.join()
    assert arena.number not in slots.ARENAS
    slot = arena.id_of(arena.allocate(1))
    assert slots.split(int(slot[0]))[0] is arena
    assert slots.open_arena(key, lambda: sums.SumArena(3, np.add)) is arena
    slots.release(slot)
    assert not slots.ARENAS
    assert not slots._OPEN


@pytest.mark.parametrize(
    ("sql", "threads"),
    [
        ("SELECT vec_fit(a.v, 'center') FROM t a, t b", 1),
        ("SELECT a.many, vec_avg(a.v) FROM t a, t b GROUP BY 1", 2),
        ("SELECT a.g, vec_sketch(a.v) FROM t a, t b GROUP BY 1", 4),
    ],
)
def test_an_interrupted_query_leaves_nothing(con, sql, threads):
    con.execute(f"SET threads = {threads}")
    over = threading.Event()

    def stop():
        while not slots.ARENAS and not over.is_set():
            time.sleep(0.001)
        con.interrupt()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(duckdb.InterruptException):
        con.execute(sql).fetchall()
    over.set()
    thread.join()
    gc.collect()
    assert not slots.ARENAS
    assert one(con, "SELECT vec_sum([1.0])") == [1.0]


# Registration -----------------------------------------------------------------------------------------------------


def test_a_second_copy_of_the_package_keeps_the_first_registration():
    first = extension.EXTENSION
    holder = sys.modules.pop("_vecpipe_static_extension")
    try:
        assert capi.install(lambda *a: None, "9") is first
    finally:
        sys.modules["_vecpipe_static_extension"] = holder
    with duckdb.connect() as con:
        assert one(con, "SELECT vec_avg([1.0])") == [1.0]


def test_reloading_the_package_is_harmless():
    code = (
        "import sys, vecpipe, duckdb\n"
        "for name in [n for n in sys.modules if n.startswith('vecpipe')]: del sys.modules[name]\n"
        "import vecpipe\n"
        "con = vecpipe.connect()\n"
        "con.execute(\"select vec_fit([1.0, i], 'center') from range(9) r(i)\").fetchall()"
    )
    assert python(code) == (0, "")


def test_a_failing_registration_cannot_break_connect():
    code = (
        "from vecpipe.engines.duckdb.native import capi\n"
        "import vecpipe.engines.duckdb.extension as a, duckdb\n"
        "def bad(*_): raise KeyboardInterrupt('boom')\n"
        "a.Registrar.__call__ = bad\n"
        "assert duckdb.connect().sql('select 1').fetchall() == [(1,)]\n"
        "assert 'boom' in a.EXTENSION.errors[0], a.EXTENSION\n"
    )
    assert python(code) == (0, "")


def test_a_wheel_without_the_symbols_says_why(monkeypatch):
    monkeypatch.setitem(capi._BLOCKING, "duckdb_no_such_function", (None, []))
    found = capi.library()
    assert found.api is None
    assert "does not export duckdb_no_such_function" in (found.unavailable_reason or "")


def test_a_database_opened_before_the_import_warns_once_and_has_the_scalars():
    code = (
        "import duckdb, warnings\n"
        "con = duckdb.connect(); con.execute('select 1').fetchall()\n"
        "import vecpipe\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    vecpipe.register(con); vecpipe.register(con.cursor()); vecpipe.register(con)\n"
        "assert len(caught) == 1 and caught[0].category is vecpipe.AggregatesUnavailableWarning, caught\n"
        "assert 'before vecpipe was imported' in str(caught[0].message)\n"
        "assert con.execute('select vec_norm([3.0, 4.0])').fetchall() == [(5.0,)]\n"
        "con.execute(\"select vec_fit_query('m', 'center', 'select [1.0, 2.0] as v')\").fetchall()\n"
    )
    assert python(code) == (0, "")


def test_without_the_symbols_register_says_why(monkeypatch):
    monkeypatch.setattr(extension, "EXTENSION", capi.Extension(False, "this DuckDB build does not export x"))
    con = duckdb.connect()

    class Bare:
        def execute(self, sql):
            raise duckdb.CatalogException("no such function")

    assert "does not export x" in (connection.missing_natives(Bare()) or "")
    with warnings.catch_warnings():
        warnings.simplefilter("error", AggregatesUnavailableWarning)
        vecpipe.register(con)
    con.close()


# Memory, Ctrl-C, exit ---------------------------------------------------------------------------------------------

NOISE = ("nanobind", "leaked", "skipped remainder")


def python(code: str) -> tuple[int, str]:
    """Run Python in a process of its own; return its exit code and what it printed on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=120
    )
    ours = [line for line in done.stderr.splitlines() if not any(word in line for word in NOISE)]
    return done.returncode, "\n".join(ours)


@linux
def test_a_thousand_fits_leave_memory_flat():
    code = (
        "import vecpipe, duckdb, gc\nfrom pathlib import Path\nfrom vecpipe.engines.duckdb.native import slots\n"
        "con = duckdb.connect(); con.execute('set threads = 2')\n"
        "con.execute('create table t as select i % 2 g, [random(), random(), random()]::FLOAT[3] v '\n"
        "            'from range(100) r(i)').fetchall()\n"
        "def some(n):\n"
        "    for i in range(n):\n"
        "        con.execute(\"select g, vec_fit(v, 'pca(2)'), vec_avg(v) from t group by g\").fetchall()\n"
        "        if i % 10 == 0:\n"
        "            try: con.execute(\"select vec_fit(['nan'::FLOAT], 'center')\").fetchall()\n"
        "            except duckdb.Error: pass\n"
        "    gc.collect(); return int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "before = some(80); after = some(500)\n"
        "assert not slots.ARENAS\n"
        "assert after - before < 12e6, (before, after)\n"
    )
    assert python(code) == (0, "")


@pytest.mark.parametrize(
    "tail",
    [
        "rel = con.sql('select i % 5000 g, vec_fit([i, 1.0], $$center$$) m from range(20000) r(i) group by g'); "
        "cur = con.execute('select i % 50000 g, vec_avg([i, 1.0]) from range(100000) r(i) group by g'); cur.fetchone()",
        "import threading; threading.Thread(target=lambda: con.cursor().execute("
        "'select vec_avg([a.i]) from range(1000000) a(i)').fetchall()).start()",
    ],
)
def test_the_interpreter_exits_quietly(tail):
    assert python(
        f"import vecpipe, duckdb\ncon = duckdb.connect()\ncon.execute('select vec_avg([1.0])').fetchall()\n{tail}"
    ) == (0, "")


@linux
def test_ctrl_c_reaches_the_caller():
    code = (
        "import vecpipe, duckdb, threading, os, signal, time\nfrom vecpipe.engines.duckdb.native import slots\n"
        "con = duckdb.connect(); con.execute('set threads = 1')\n"
        "def kill():\n"
        "    while not slots.ARENAS: time.sleep(.001)\n"
        "    time.sleep(.1); os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=kill).start()\n"
        "def nap(): [time.sleep(.05) for _ in range(100)]\n"
        "sql = 'select vec_fit([a.i, b.i], $$center$$) from range(100000) a(i), range(100000) b(i)'\n"
        "try:\n    con.execute(sql).fetchall(); nap(); raise SystemExit(3)\n"
        "except KeyboardInterrupt: pass\n"
        "except duckdb.Error:\n    try:\n        nap(); raise SystemExit(4)\n    except KeyboardInterrupt: pass\n"
        "con.close(); assert not slots.ARENAS\n"
    )
    status, noise = python(code)
    assert status == 0
    # An interrupt that strikes before the first line of a callback is reported by ctypes, and raised again by us.
    assert noise == "" or (noise.startswith("Exception ignored on calling") and noise.endswith("KeyboardInterrupt: "))
