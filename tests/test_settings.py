"""Environment variables: what they may hold, that a bad one is named where it is used, and that the docs list all."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import duckdb
import pytest
from docs_blocks import ROOT

from vecpipe import settings
from vecpipe.errors import InputError

LIMIT = settings.ByteLimit("VECPIPE_ANYTHING_BYTES", 7)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1_000),
        (str(2**63 - 1), 2**63 - 1),
        ("512MB", 512_000_000),
        ("4GB", 4_000_000_000),
        ("4 gib", 4 << 30),
        ("1.5KiB", 1_536),
        (" 2TB ", 2 * 10**12),
    ],
)
def test_a_size_is_a_number_of_bytes_or_has_a_unit(monkeypatch, text, size):
    assert LIMIT.read() == 7
    monkeypatch.setenv(LIMIT.variable, text)
    assert LIMIT.read() == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1e9", "4G", "4GBB", "0x10", "1_000", "inf", "٣"])
def test_anything_else_is_an_error_that_names_the_variable(monkeypatch, text):
    monkeypatch.setenv(LIMIT.variable, text)
    with pytest.raises(InputError, match=r"VECPIPE_ANYTHING_BYTES is .*expected a number of bytes.* 512MB"):
        LIMIT.read()


def test_a_bad_variable_does_not_keep_vecpipe_from_being_imported_and_is_named_where_it_is_used():
    code = """if True:
        import vecpipe
        con = vecpipe.connect()
        con.execute("SELECT vec_norm([3, 4]::FLOAT[2])").fetchall()
        try:
            con.execute("SELECT vec_fit_query('m', 'int8', 'SELECT [1, 2]::FLOAT[2] AS v')").fetchall()
            con.execute("SELECT vec_encode('m', [1, 2]::FLOAT[2])").fetchall()
        except Exception as error:
            print(error)
    """
    environment = {**os.environ, **{limit.variable: "lots" for limit in settings.ALL}}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "VECPIPE_MODEL_CACHE_BYTES is 'lots'" in done.stdout


@pytest.mark.parametrize(
    ("limit", "sql"),
    [
        (settings.MODEL_CACHE, "SELECT count(vec_encode('m', v)) FROM t"),
        (settings.QUERY_CACHE, "SELECT count(vec_exact(v, vec_query(NULL, [0.25, 0.5]))) FROM t"),
        (settings.JOIN_CACHE, "SELECT count(*) FROM vec_knn_join('t', 't', emb := 'v', k := 1)"),
        (settings.INDEXES, "SELECT vec_index('i', 't', 'm', emb := 'v').rows"),
    ],
    ids=lambda given: getattr(given, "variable", ""),
)
def test_what_uses_a_variable_names_it_when_it_is_bad(con: duckdb.DuckDBPyConnection, monkeypatch, limit, sql):
    con.execute("CREATE TABLE t AS SELECT i AS id, [i, 1]::FLOAT[2] AS v FROM range(9) r(i)")
    con.execute("SELECT vec_fit_query('m', 'int8', 'SELECT v FROM t')").fetchall()
    monkeypatch.setenv(limit.variable, "lots")
    with pytest.raises(duckdb.Error, match=f"{limit.variable} is 'lots'"):
        con.execute(sql).fetchall()
    monkeypatch.setenv(limit.variable, "1MB")
    assert con.execute(sql).fetchall() == [(9,)]


def test_the_docs_list_every_variable_with_its_default():
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    rows = dict(re.findall(r"(?m)^\| `(VECPIPE_\w+)` \| (\w+) \|", page))
    assert list(rows) == [limit.variable for limit in settings.ALL]
    for limit in settings.ALL:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(limit.variable, rows[limit.variable])
            assert limit.read() == limit.default


def test_no_other_module_of_the_package_reads_a_variable_of_its_own():
    for path in (ROOT / "vecpipe").rglob("*.py"):
        if path.name != "settings.py":
            assert not re.search(r"""environ[^\n]*["']VECPIPE_|getenv""", path.read_text()), path
