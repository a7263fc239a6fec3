"""vec_recall and vec_cells_report: what they measure is what is there."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pytest
from conftest import anisotropic, table_of

import vecpipe
from vecpipe.engines.duckdb import recall

DIM = 12
SQL = "FROM vec_recall('docs', 'asked', 'emb', {})"


@pytest.fixture
def coded(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """docs with codes, cells and bits; asked with 60 queries."""
    for name, X in (("raw", anisotropic(1_500, DIM)), ("asked", anisotropic(60, DIM, seed=8))):
        con.register("given", table_of(X))
        con.execute(f"CREATE TABLE {name} AS SELECT id, emb::FLOAT[{DIM}] AS emb FROM given")
        con.unregister("given")
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM raw", "normalize | cells(16) | int8"))
    vecpipe.save_model(con, "bits", vecpipe.fit(con, "SELECT emb FROM raw", "center | rotate | binary"))
    con.execute(
        """CREATE TABLE docs AS
           SELECT *, vec_encode('m', emb) AS code, vec_encode('bits', emb) AS bits, vec_cell('m', emb) AS cell
           FROM raw"""
    )
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    return con


def audit(con: duckdb.DuckDBPyConnection, more: str) -> dict[str, float]:
    row = con.execute(SQL.format(more)).fetchone()
    return dict(zip([column[0] for column in con.execute(SQL.format(more)).description], row, strict=True))


@pytest.mark.parametrize(
    "more",
    [
        "code := 'bits', model := 'bits', k := 7, metric := 'cosine'",
        "cell := 'cell', model := 'm', rerank := 'emb', nprobe := 2",
        "code := 'code', model := 'm', metric := 'ip'",
        "index := 'near', rerank := 'emb', nprobe := 1",
        "index := 'near', rerank := 'emb', nprobe := 2, ties := 'id', oversample := 2",
        "stages := ['bits', 'code', 'emb'], models := ['bits', 'm'], oversample := [6, 2]",
        "stages := ['bits', 'code', 'emb'], models := ['bits', 'm'], cell := 'cell', nprobe := 2",
    ],
)
def test_recall_is_the_share_of_the_exact_neighbours_that_a_search_finds(coded, more):
    metric = "ip" if "'ip'" in more else "cosine"
    k = 7 if "k := 7" in more else 10
    shares = []
    search = "vec_search_stages" if "stages" in more else "vec_search"
    for (q,) in coded.execute("SELECT emb FROM asked").fetchall():
        exact = f"SELECT id FROM vec_search('docs', $q, rerank := 'emb', k := {k}, metric := '{metric}')"
        found = {row for (row,) in coded.execute(f"SELECT id FROM {search}('docs', $q, {more})", {"q": q}).fetchall()}
        shares.append(np.mean([row in found for (row,) in coded.execute(exact, {"q": q}).fetchall()]))
    measured = audit(coded, more)
    assert measured["queries"] == 60
    assert measured["recall"] == pytest.approx(np.mean(shares), abs=1e-9)
    assert measured["worst"] == pytest.approx(np.min(shares), abs=1e-9)
    assert measured["low"] <= measured["recall"] <= measured["high"]
    assert 0 < measured["recall"] < 1 or "code := 'code'" in more


@pytest.mark.parametrize("name", ["my docs", "order", "s.my docs", 's."a.b"', "memory.main.order", '"say ""x"""'])
def test_a_table_has_any_name(coded, name):
    from vecpipe.sql_names import quoted_table

    coded.execute("CREATE SCHEMA s")
    coded.execute(f"CREATE TABLE {quoted_table(name)} AS SELECT id, emb FROM docs")
    sql = "FROM vec_recall($1, $1, 'emb', index := 'odd', rerank := 'emb', nprobe := 16, sample := 5)"
    assert coded.execute("SELECT vec_index('odd', $1, 'm').rows", [name]).fetchone() == (1_500,)
    assert coded.execute(sql, [name]).fetchone()[:2] == (5, 10)
    assert len(coded.execute("FROM vec_advise($1, 'emb')", [name]).fetchall()) > 3


@pytest.mark.parametrize(
    "call",
    [
        "FROM vec_recall($1, 'asked', 'emb', rerank := 'emb')",
        "FROM vec_recall('docs', $1, 'emb', rerank := 'emb')",
        "FROM vec_advise($1, 'emb')",
        "SELECT vec_index('odd', $1, 'm')",
        "FROM vec_search($1, (SELECT emb FROM asked LIMIT 1), index := 'near', rerank := 'emb')",
    ],
)
@pytest.mark.parametrize("start", ["docs", "docs'", 'docs"', "docs')", '"docs"'])
def test_the_name_of_a_table_is_no_statement(coded, call, start):
    with pytest.raises(duckdb.Error):
        coded.execute(call, [start + "; DROP TABLE asked; FROM docs --"]).fetchall()
    assert coded.execute("SELECT count(*) FROM asked").fetchone() == (60,)


def test_exact_search_has_recall_one_and_an_interval_below_it(coded):
    measured = audit(coded, "rerank := 'emb'")
    assert (measured["recall"], measured["worst"], measured["high"]) == (1.0, 1.0, 1.0)
    assert 0.9 < measured["low"] < 1.0


def test_which_of_several_equal_rows_comes_does_not_matter(coded):
    coded.execute("INSERT INTO docs SELECT docs.* FROM docs, range(3)")
    assert audit(coded, "rerank := 'emb', k := 6")["recall"] == 1.0


def test_a_sample_of_queries_is_the_same_each_time_and_as_large_as_asked(coded):
    more = "code := 'bits', model := 'bits', sample := 20"
    first, again = audit(coded, more), audit(coded, more)
    assert first["queries"] == 20
    assert {**first, "search_ms": 0} == {**again, "search_ms": 0}


def test_more_rows_asked_for_than_there_are(coded):
    coded.execute("DELETE FROM docs WHERE id >= 4")
    assert audit(coded, "rerank := 'emb'")["recall"] == 1.0


def test_queries_may_stand_in_another_column_and_zero_queries_do_not_count(coded):
    coded.execute("ALTER TABLE asked RENAME emb TO question")
    coded.execute("INSERT INTO asked SELECT 99, list_resize([]::FLOAT[], 12, 0)::FLOAT[12]")
    assert audit(coded, "q := 'question', rerank := 'emb'")["queries"] == 60


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("FROM vec_recall('docs', 'asked', 'emb')", "needs code := or rerank :="),
        ("FROM vec_recall('nowhere', 'asked', 'emb', rerank := 'emb')", "nowhere"),
        ("FROM vec_recall('docs', 'asked', NULL, rerank := 'emb')", "must not be NULL"),
        ("FROM vec_recall('docs', 'nobody', 'emb', rerank := 'emb')", "has no queries"),
        ("FROM vec_recall('docs', 'asked', 'emb', rerank := 'emb', k := 0)", "k is 0"),
        ("FROM vec_recall('docs', 'asked', 'emb', rerank := 'emb', k := NULL)", "vec_recall: k must not be NULL"),
        ("FROM vec_recall('docs', 'asked', 'emb', rerank := 'emb', metric := NULL)", "metric must not be NULL"),
        ("FROM vec_recall('docs', 'asked', 'emb', rerank := 'emb', metric := 'dot')", "metric is 'dot'"),
    ],
)
def test_a_wrong_audit_says_what_is_wrong(coded, sql, message):
    coded.execute("CREATE VIEW nobody AS FROM asked LIMIT 0")
    with pytest.raises(duckdb.Error) as caught:
        coded.execute(sql).fetchall()
    assert message in str(caught.value)


# Cells --------------------------------------------------------------------------------------------------------------


def report(con: duckdb.DuckDBPyConnection) -> dict[str, object]:
    found = con.execute("FROM vec_cells_report('docs', 'cell', 'emb', 'm')")
    names = [column[0] for column in found.description]
    (row,) = found.fetchall()
    return dict(zip(names, row, strict=True))


def test_the_report_counts_what_is_there(coded):
    sizes = [size for (size,) in coded.execute("SELECT count(*) FROM docs GROUP BY cell").fetchall()]
    coded.execute("INSERT INTO docs (id) SELECT 5000")
    said = report(coded)
    assert (said["rows"], said["without_cell"], said["cells"], said["filled"]) == (1_501, 1, 16, len(sizes))
    assert said["largest"] == max(sizes)
    assert said["imbalance"] == pytest.approx(16 * sum(s * (s - 1) for s in sizes) / (1_500 * 1_499))
    assert said["moved"] == pytest.approx(0.0)
    assert said["distance"] == pytest.approx(said["fit_distance"], rel=0.1)
    assert said["advice"] == "fine"


@pytest.mark.parametrize(("rows", "cells"), [(200, 8), (500, 8), (500, 64), (3_000, 16)])
def test_the_rows_that_cells_were_fitted_on_are_fine_however_few_they_are(con, rows, cells):
    spec = f"normalize | cells({cells}) | int8"
    for seed in range(8):
        con.register("data", table_of(np.random.default_rng(seed).standard_normal((rows, 3), dtype=np.float32)))
        con.execute("CREATE OR REPLACE TABLE docs AS FROM data")
        con.execute("INSERT INTO vecpipe.models BY NAME SELECT 'm' AS name, vec_fit(emb, ?) AS model FROM docs", [spec])
        con.execute("ALTER TABLE docs ADD COLUMN cell INTEGER")
        con.execute("UPDATE docs SET cell = vec_cell('m', emb)")
        assert report(con)["advice"] == "fine"


def test_the_report_tells_of_rows_whose_cell_is_another_now(coded):
    coded.execute("UPDATE docs SET cell = (cell + 1) % 16 WHERE id < 300")
    said = report(coded)
    assert said["moved"] == pytest.approx(0.2)
    assert said["advice"].startswith("assign again")


def test_the_report_tells_of_vectors_that_lie_elsewhere_and_of_uneven_cells(coded):
    coded.execute("UPDATE docs SET emb = vec_scale(emb, -1)::FLOAT[12] WHERE id % 2 = 0")
    coded.execute("UPDATE docs SET cell = vec_cell('m', emb)")
    said = report(coded)
    assert said["distance"] > 1.1 * said["fit_distance"]
    assert said["advice"].startswith("fit again: vectors")
    coded.execute("DELETE FROM docs WHERE cell <> (SELECT mode(cell) FROM docs) OR id % 2 = 0")
    assert report(coded)["imbalance"] > 10


def test_the_report_takes_a_cte_and_an_empty_table(coded):
    query = "WITH few AS (FROM docs WHERE id < 100) SELECT rows FROM vec_cells_report('few', 'cell', 'emb', 'm')"
    assert coded.execute(query).fetchone() == (100,)
    coded.execute("DELETE FROM docs")
    said = report(coded)
    assert (said["rows"], said["filled"], said["moved"], said["advice"]) == (0, 0, None, "fine")


def test_an_audit_runs_once_whatever_is_selected(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    con.register("given", table_of(anisotropic(200, 8)))
    con.execute("CREATE TABLE docs AS SELECT id, emb::FLOAT[8] AS emb FROM given")
    runs: list[int] = []
    audit = recall._audit

    def counted(*given: Any) -> Any:
        runs.append(1)
        return audit(*given)

    monkeypatch.setattr(recall, "_audit", counted)
    for columns in ("*", "recall", "recall, low, high"):
        runs.clear()
        sql = f"SELECT {columns} FROM vec_recall('docs', 'docs', 'emb', rerank := 'emb', sample := 5)"
        assert con.execute(sql).fetchall()
        assert len(runs) == 1
