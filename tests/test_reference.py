"""The SQL reference says what the functions of a database are: all of them, their types, the columns of their rows."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

import vecpipe
from vecpipe.engines.duckdb.aggregates import SIGNATURES
from vecpipe.reference.macros import read_help
from vecpipe.reference.sql import Entry, entries

CALLS = """
    vec_advise('docs', 'emb')
    vec_cells_report('docs', 'cell', 'emb', 'm')
    vec_csls('found')
    vec_density('found')
    vec_diverse('docs')
    vec_dualbank_norm('found', 'found', 'found')
    vec_duplicates('found')
    vec_fuse('found', 'found')
    vec_hubness('found', 'docs')
    vec_indexes()
    vec_inverted_softmax('found', 'found')
    vec_k_occurrence('found', 'docs')
    vec_knn_join('docs', 'docs')
    vec_knn_mean('found', 'docs')
    vec_knn_vote('found', 'docs')
    vec_models()
    vec_querybank_norm('found', 'found')
    vec_recall('docs', 'docs', 'emb', rerank := 'emb')
    vec_search('docs', [1, 2, 3], rerank := 'emb')
    vec_search_bits('docs', [1, 2, 3], model := 'b', bits := 'bits', rerank := 'emb')
    vec_search_range('docs', [1, 2, 3], 0.5, rerank := 'emb')
    vec_search_stages('docs', [1, 2, 3], stages := ['bits', 'code', 'emb'], models := ['b', 'm'])
"""
DOCS = ("id", "emb", "label", "code", "bits", "cell")


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    con = vecpipe.connect()
    con.execute("""
        CREATE TABLE rows_ AS SELECT i AS id, [sin(i), cos(i), 1]::FLOAT[3] AS emb, i % 2 AS label FROM range(200) r(i);
        INSERT INTO vecpipe.models BY NAME SELECT 'm' AS name, vec_fit(emb, 'cells(4) | int8') AS model FROM rows_;
        INSERT INTO vecpipe.models BY NAME SELECT 'b' AS name, vec_fit(emb, 'center | binary') AS model FROM rows_;
        CREATE TABLE docs AS
            SELECT *, vec_encode('m', emb) AS code, vec_encode('b', emb) AS bits, vec_cell('m', emb) AS cell FROM rows_;
        CREATE TABLE found AS FROM vec_knn_join('docs', 'docs', k := 5);
    """)
    yield con
    con.close()


def tables() -> dict[str, Entry]:
    return {entry.name: entry for entry in entries() if entry.help.returns}


@pytest.mark.parametrize("call", CALLS.split("\n")[1:-1], ids=lambda call: call.strip().split("(")[0])
def test_columns_of_the_reference_are_those_of_the_rows(con: duckdb.DuckDBPyConnection, call: str) -> None:
    columns = [row[0] for row in con.execute(f"DESCRIBE FROM {call}").fetchall()]
    said = tables()[call.strip().split("(")[0]].returns
    assert columns == ([*DOCS, "score"] if said == "the columns of the table, and `score`" else said.split(", "))


def test_every_function_that_returns_rows_is_called_above() -> None:
    assert set(tables()) == {line.strip().split("(")[0] for line in CALLS.split("\n")[1:-1]}


def test_every_function_of_a_database_has_an_entry(con: duckdb.DuckDBPyConnection) -> None:
    found = con.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE starts_with(function_name, 'vec_')"
    )
    there = [entry.name for entry in entries()] + sorted({overload.name for overload in SIGNATURES})
    assert sorted(name for (name,) in found.fetchall()) == sorted(there)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("vec_encode('m', emb)", "vec_encode"),
        ("vec_decode('m', code)", "vec_decode"),
        ("vec_transform('m', emb)", "vec_transform"),
        ("vec_score(code, vec_query('m', [1, 2, 3]))", "vec_score"),
        ("vec_exact(emb, vec_query(NULL, [1, 2, 3]))", "vec_exact"),
        ("vec_query('m', [1, 2, 3])", "vec_query"),
        ("vec_score_codes('m', code, code)", "vec_score_codes"),
        ("vec_tokens('m', code)", "vec_tokens"),
        ("vec_cell('m', emb)", "vec_cell"),
        ("vec_probe('m', [1, 2, 3])", "vec_probe"),
        ("vec_normalize(emb, 'rms', 0.5)", "vec_normalize"),
    ],
)
def test_types_of_the_reference_are_those_of_the_results(con: duckdb.DuckDBPyConnection, call: str, name: str) -> None:
    ((_, kind, *_),) = con.execute(f"DESCRIBE SELECT {call} FROM docs").fetchall()
    assert {entry.name: entry.returns for entry in entries()}[name] == kind


def test_optional_arguments_are_in_brackets() -> None:
    assert {entry.name: entry.forms for entry in entries()}["vec_normalize"] == ("v [, kind [, eps]]",)


def test_help_of_a_macro_keeps_arguments_apart_and_ends_at_an_empty_comment_line() -> None:
    comment = """-- What it
-- does.
--   a, b  two things,
--         and more
--   c     one
-- Last.
-- Returns: x, y
--
-- For us."""
    help_ = read_help(comment)
    assert help_.before == "What it does."
    assert help_.arguments == (("a, b", "two things, and more"), ("c", "one"))
    assert (help_.after, help_.returns) == ("Last.", "x, y")
