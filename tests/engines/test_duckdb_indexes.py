"""Resident indexes: what they find is what the table holds, as the transaction of the search sees it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

import vecpipe
from tests.conftest import anisotropic, table_of
from vecpipe.engines.duckdb import index_functions
from vecpipe.errors import ModelFormatError
from vecpipe.search.index import Index, marks_of

D, ROWS = 16, 3_000
X = anisotropic(ROWS, D, seed=1)
Q = anisotropic(8, D, seed=2)
SPECS = {"plain": "normalize | int8", "cells": "normalize | cells(24) | int8"}


def fill(con: duckdb.DuckDBPyConnection, spec: str = "normalize | int8") -> None:
    con.register("given", table_of(X))
    con.execute(f"CREATE TABLE docs AS SELECT id, emb::FLOAT[{D}] AS emb, 'text' AS body FROM given ORDER BY id")
    con.unregister("given")
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs", spec))
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()


def fill_codes(con: duckdb.DuckDBPyConnection) -> None:
    """Fill the table, with columns for every form of a search."""
    fill(con, SPECS["cells"])
    vecpipe.save_model(con, "bits", vecpipe.fit(con, "SELECT emb FROM docs", "center | rotate | binary"))
    con.execute(
        """CREATE OR REPLACE TABLE docs AS SELECT *, vec_encode('m', emb) AS code, vec_encode('bits', emb) AS bits,
           vec_cell('m', emb) AS cell FROM docs"""
    )
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()


def search(con: duckdb.DuckDBPyConnection, q: np.ndarray, k: int = 10, probe: int = 24) -> list[int]:
    sql = (
        "SELECT id FROM vec_search('docs', $q, index := 'near', rerank := 'emb', k := $k, oversample := 8, "
        "nprobe := $p)"
    )
    return [i for (i,) in con.execute(sql, {"q": q.astype("<f4").tobytes(), "k": k, "p": probe}).fetchall()]


def exact(con: duckdb.DuckDBPyConnection, q: np.ndarray, k: int = 10) -> list[int]:
    sql = "SELECT id FROM vec_search('docs', $q, rerank := 'emb', k := $k)"
    return [i for (i,) in con.execute(sql, {"q": q.astype("<f4").tobytes(), "k": k}).fetchall()]


def search_or_refusal(con: duckdb.DuckDBPyConnection, q: np.ndarray) -> list[int] | str:
    try:
        return search(con, q)
    except duckdb.Error as error:
        return str(error)


@pytest.fixture(params=SPECS)
def docs(con: duckdb.DuckDBPyConnection, request: pytest.FixtureRequest) -> duckdb.DuckDBPyConnection:
    fill(con, SPECS[request.param])
    return con


def test_an_index_finds_the_nearest_rows_with_their_columns_and_scores(docs: duckdb.DuckDBPyConnection) -> None:
    for q in Q:
        assert search(docs, q) == exact(docs, q)
    sql = "FROM vec_search('docs', $q, index := 'near', rerank := 'emb', k := 2, nprobe := 24)"
    rows = docs.execute(sql, {"q": Q[0].tobytes()})
    assert [column[0] for column in rows.description] == ["id", "emb", "body", "score"]
    cosine = X @ Q[0] / np.linalg.norm(X, axis=1) / np.linalg.norm(Q[0])
    np.testing.assert_allclose([row[-1] for row in rows.fetchall()], np.sort(cosine)[::-1][:2], rtol=1e-5)


def test_a_list_and_a_blob_ask_the_same(docs: duckdb.DuckDBPyConnection) -> None:
    for columns in ("index := 'near', rerank := 'emb'", "rerank := 'emb'"):
        found = [
            docs.execute(f"SELECT id FROM vec_search('docs', {text}, {columns})", {"q": q}).fetchall()
            for text, q in ((f"$q::FLOAT[{D}]", Q[0].tolist()), ("$q", Q[0].tobytes()))
        ]
        assert found[0] == found[1]


def test_rows_added_changed_and_deleted_are_as_the_table_has_them(docs: duckdb.DuckDBPyConnection) -> None:
    q = Q[0]
    best = exact(docs, q)
    docs.execute("DELETE FROM docs WHERE id = $1", [best[0]])
    docs.execute("UPDATE docs SET emb = list_transform(emb, lambda x: -x) WHERE id = $1", [best[1]])
    docs.execute(f"UPDATE docs SET emb = $1::FLOAT[{D}] WHERE id = 17", [q.tolist()])
    docs.execute(f"INSERT INTO docs VALUES (90001, $1::FLOAT[{D}], 'new')", [(2 * q).tolist()])
    docs.execute("UPDATE docs SET body = 'changed in place' WHERE id = $1", [best[2]])
    found = search(docs, q)
    assert found == exact(docs, q)
    assert {17, 90001} <= set(found)
    assert not {best[0], best[1]} & set(found)


def test_each_transaction_sees_its_own_rows(docs: duckdb.DuckDBPyConnection) -> None:
    mine, theirs = docs.cursor(), docs.cursor()
    theirs.begin()
    assert search(theirs, Q[1]) == exact(theirs, Q[1])
    mine.begin()
    mine.execute(f"INSERT INTO docs VALUES (90002, $1::FLOAT[{D}], 'new')", [Q[1].tolist()])
    mine.execute("DELETE FROM docs WHERE id = $1", [exact(theirs, Q[1])[0]])
    assert search(mine, Q[1]) == exact(mine, Q[1])
    assert search(mine, Q[1])[0] == 90002
    mine.commit()
    assert search(theirs, Q[1]) == exact(theirs, Q[1])
    theirs.commit()
    assert search(theirs, Q[1])[0] == 90002


def test_a_transaction_older_than_the_index_is_refused(docs: duckdb.DuckDBPyConnection) -> None:
    old = docs.cursor()
    old.begin()
    old.execute("SELECT count(*) FROM docs").fetchall()
    docs.execute("DELETE FROM docs WHERE id < 100")
    docs.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    with pytest.raises(duckdb.Error, match="after this transaction began"):
        search(old, Q[0])
    old.rollback()
    assert search(old, Q[0]) == exact(old, Q[0])


def test_an_index_whose_last_row_has_moved_is_refused_until_it_is_made_again(docs: duckdb.DuckDBPyConnection) -> None:
    docs.execute("DELETE FROM docs WHERE id = $1", [ROWS - 1])
    with pytest.raises(duckdb.Error, match="make it again"):
        search(docs, Q[0])
    docs.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    assert search(docs, Q[0]) == exact(docs, Q[0])


def test_rows_that_a_checkpoint_moves_are_never_mistaken(tmp_path: Path) -> None:
    path = tmp_path / "moved.duckdb"
    con = vecpipe.connect(path)
    con.execute(f"CREATE TABLE docs (id BIGINT, emb FLOAT[{D}], body VARCHAR)")
    con.register("given", table_of(anisotropic(380_000, D, seed=3)))
    con.execute("INSERT INTO docs SELECT id, emb, 'text' FROM given")
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs LIMIT 5000", "normalize | int8"))
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    con.execute("DELETE FROM docs WHERE id < 250000")
    con.execute("CHECKPOINT")
    con.close()
    con = vecpipe.connect(path)
    for q in Q[:3]:
        found = search_or_refusal(con, q)
        assert found == exact(con, q) or "make it again" in str(found)
    con.close()


COPIES = "INSERT INTO docs SELECT 50000 + i, (SELECT emb FROM docs WHERE id = 11999) FROM range(9000) AS r (i)"
HISTORIES = {
    "copies of the last row take its place": ["DELETE FROM docs WHERE id < 6000", "CHECKPOINT", COPIES],
    "every other row": ["DELETE FROM docs WHERE id % 2 = 0", "CHECKPOINT", COPIES, "CHECKPOINT"],
    "the middle": ["DELETE FROM docs WHERE id BETWEEN 3000 AND 9000", "CHECKPOINT", COPIES],
    "one group of rows": ["DELETE FROM docs WHERE id < 2048", "CHECKPOINT", COPIES],
    "the end": ["DELETE FROM docs WHERE id BETWEEN 8000 AND 11998", "CHECKPOINT", COPIES],
    "inserted first": [COPIES, "DELETE FROM docs WHERE id < 7000", "CHECKPOINT", "CHECKPOINT"],
    "in another order": [
        "CREATE TEMP TABLE kept AS FROM docs",
        "DELETE FROM docs",
        "CHECKPOINT",
        "INSERT INTO docs FROM kept ORDER BY hash(id)",
    ],
    "the same again": [
        "CREATE TEMP TABLE kept AS FROM docs",
        "DELETE FROM docs",
        "CHECKPOINT",
        "INSERT INTO docs FROM kept ORDER BY id",
    ],
    "changed, then moved": [
        f"UPDATE docs SET emb = list_transform(emb, lambda x: -x)::FLOAT[{D}] WHERE id % 3 = 0 AND id < 11000",
        "CHECKPOINT",
        COPIES,
        "CHECKPOINT",
    ],
}


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("history", HISTORIES)
def test_an_index_is_right_or_refused_whatever_moved(tmp_path: Path, history: str, reopened: bool) -> None:
    path = tmp_path / "moved.duckdb"
    rows = anisotropic(12_000, D, seed=3)
    rows[::3] = rows[-1]  # a row that looks like the last one stands nearly everywhere
    with duckdb.connect() as raw:
        raw.execute(f"ATTACH '{path}' AS made (ROW_GROUP_SIZE 2048)")  # small groups: a checkpoint moves few rows too
        raw.execute(f"CREATE TABLE made.docs (id BIGINT, emb FLOAT[{D}])")
        raw.register("given", table_of(rows))
        raw.execute("INSERT INTO made.docs SELECT id, emb FROM given ORDER BY id")
    con = vecpipe.connect(path)
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs", "normalize | int8"))
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    for statement in HISTORIES[history]:
        con.execute(statement)
    if reopened:
        con.close()
        con = vecpipe.connect(path)
    refusals = 0
    for q in Q:
        found = search_or_refusal(con, q)
        if isinstance(found, str):
            assert "make it again" in found
            refusals += 1
            continue
        scores = "SELECT score FROM vec_search('docs', $q, {}, k := 10)"
        got, want = (
            [score for (score,) in con.execute(scores.format(way), {"q": q.tobytes()}).fetchall()]
            for way in ("index := 'near', rerank := 'emb', oversample := 8", "rerank := 'emb'")
        )
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert refusals == 0 or history != "the same again"
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    assert not any(isinstance(search_or_refusal(con, q), str) for q in Q)
    con.close()


def test_a_copy_in_the_place_of_the_last_row_does_not_hide_that_rows_have_moved(tmp_path: Path) -> None:
    rows = anisotropic(300_000, D, seed=3)
    rows[250_000:] = rows[-1]
    con = vecpipe.connect(tmp_path / "moved.duckdb")
    con.register("given", table_of(rows))
    con.execute(f"CREATE TABLE docs AS SELECT id, emb::FLOAT[{D}] AS emb FROM given ORDER BY id")
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs LIMIT 5000", "normalize | int8"))
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    con.execute("DELETE FROM docs WHERE id < 200000 AND id % 3 > 0")
    con.execute("CHECKPOINT")
    con.execute(
        "INSERT INTO docs SELECT 400000 + i, (SELECT emb FROM docs WHERE id = 299999) FROM range(200000) AS r (i)"
    )
    with pytest.raises(duckdb.Error, match="now hold other vectors"):
        search(con, Q[0])
    con.close()


def test_rows_added_do_not_hide_that_those_around_the_query_are_gone(docs: duckdb.DuckDBPyConnection) -> None:
    docs.execute(
        "CREATE TABLE gone AS SELECT id FROM vec_search('docs', $1, rerank := 'emb', k := 200)", [Q[0].tobytes()]
    )
    docs.execute("DELETE FROM docs WHERE id IN (FROM gone)")
    docs.execute(
        f"INSERT INTO docs SELECT 90000 + i, $1::FLOAT[{D}], 'far' FROM range(50) AS r (i)", [(-Q[0]).tolist()]
    )
    with pytest.raises(duckdb.Error, match="still in the table"):
        search(docs, Q[0])


def test_more_rows_than_a_batch_can_name_are_refused(
    docs: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_functions, "_MOST", 1_000)
    docs.execute(f"INSERT INTO docs SELECT 90000 + i, $1::FLOAT[{D}], 'new' FROM range(999) AS r (i)", [Q[1].tolist()])
    with pytest.raises(duckdb.Error, match="too many rows have come since"):
        search(docs, Q[0])


def test_rows_deleted_all_around_the_query_are_not_passed_over_in_silence(docs: duckdb.DuckDBPyConnection) -> None:
    docs.execute(
        "CREATE TABLE near AS SELECT id FROM vec_search('docs', $1, rerank := 'emb', k := 200)", [Q[0].tobytes()]
    )
    docs.execute("DELETE FROM docs WHERE id IN (FROM near)")
    with pytest.raises(duckdb.Error, match="still in the table"):
        search(docs, Q[0])
    docs.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    assert search(docs, Q[0]) == exact(docs, Q[0])


LATERAL = """
    SELECT asked.at, s.id, vec_cosine(s.emb, asked.emb) - s.score
    FROM asked, LATERAL vec_search('docs', asked.emb, {arguments}, k := 7) AS s
    ORDER BY asked.at, s.score DESC
"""


def ask(con: duckdb.DuckDBPyConnection, Q: np.ndarray) -> None:
    """Create a table of queries: some of them twice, one NULL, one without a direction."""
    con.register("given", table_of(np.concatenate([Q, Q[:3], np.zeros((1, D), np.float32)])))
    con.execute(f"CREATE OR REPLACE TABLE asked AS SELECT id AS at, emb::FLOAT[{D}] AS emb FROM given")
    con.execute("INSERT INTO asked VALUES (9999, NULL)")
    con.unregister("given")


def joined(con: duckdb.DuckDBPyConnection, arguments: str) -> dict[int, list[int]]:
    """Return the rows that each query finds, best first, after a look at the scores."""
    found: dict[int, list[int]] = {}
    for at, row, off in con.execute(LATERAL.format(arguments=arguments)).fetchall():
        found.setdefault(at, []).append(row)
        assert "rerank" not in arguments or abs(off) < 1e-5
    return found


def test_a_lateral_join_through_an_index_gives_each_query_its_own_rows(docs: duckdb.DuckDBPyConnection) -> None:
    ask(docs, anisotropic(400, D, seed=7))
    through = "index := 'near', rerank := 'emb', oversample := 8, nprobe := 24"
    exactly = "rerank := 'emb'"
    assert joined(docs, through) == joined(docs, exactly)
    q = anisotropic(400, D, seed=7)[5]
    docs.execute("DELETE FROM docs WHERE id % 50 = 3")
    docs.execute("UPDATE docs SET emb = list_transform(emb, lambda x: -x) WHERE id % 70 = 1")
    docs.execute(f"INSERT INTO docs VALUES (90001, $1::FLOAT[{D}], 'new'), (90002, NULL, 'none')", [(2 * q).tolist()])
    found = joined(docs, through)
    assert found == joined(docs, exactly)
    assert found[5][0] == 90001
    assert len(found) == 403
    mine = docs.cursor()
    mine.begin()
    mine.execute("DELETE FROM docs WHERE id = 90001")
    assert joined(mine, through) == joined(mine, exactly) != found
    assert joined(docs, through) == found
    mine.rollback()


def test_a_lateral_join_through_an_index_refuses_as_a_single_search_does(docs: duckdb.DuckDBPyConnection) -> None:
    through = "index := 'near', rerank := 'emb', nprobe := 24, oversample := 2"
    ask(docs, Q)
    docs.execute(
        "CREATE TABLE gone AS SELECT id FROM vec_search('docs', $1, rerank := 'emb', k := 200)", [Q[4].tobytes()]
    )
    docs.execute("DELETE FROM docs WHERE id IN (FROM gone)")
    with pytest.raises(duckdb.Error, match="still in the table"):
        joined(docs, through)
    docs.execute("DELETE FROM docs WHERE id = $1", [ROWS - 1])
    with pytest.raises(duckdb.Error, match="make it again"):
        joined(docs, through)


@pytest.mark.parametrize(
    "arguments",
    [
        "rerank := 'emb'",
        "code := 'code', model := 'm', oversample := 50, rerank := 'emb'",
        "code := 'code', model := 'm', cell := 'cell', nprobe := 24, oversample := 50, rerank := 'emb'",
        "rerank := 'emb', ties := 'id'",
    ],
)
def test_every_form_of_a_search_stands_in_a_lateral_join(con: duckdb.DuckDBPyConnection, arguments: str) -> None:
    fill_codes(con)
    ask(con, Q)
    norms = np.linalg.norm(X, axis=1)
    best = {at: np.argsort(-(X @ q / norms))[:7].tolist() for at, q in enumerate([*Q, *Q[:3]])}
    assert joined(con, arguments) == best
    by_code = joined(con, "code := 'code', model := 'm'")
    assert {at: len(rows) for at, rows in by_code.items()} == dict.fromkeys(best, 7)


@pytest.mark.parametrize(
    "search",
    [
        "vec_search('docs', {}, rerank := 'emb', k := 3)",
        "vec_search('docs', {}, code := 'code', model := 'm', k := 3)",
        "vec_search('docs', {}, code := 'code', model := 'm', rerank := 'emb', k := 3)",
        "vec_search('docs', {}, cell := 'cell', code := 'code', model := 'm', rerank := 'emb', k := 3)",
        "vec_search('docs', {}, rerank := 'emb', ties := 'id', k := 3)",
        "vec_search('docs', {}, index := 'near', rerank := 'emb', k := 3)",
        "vec_search_range('docs', {}, 0.7, rerank := 'emb')",
        "vec_search_range('docs', {}, 0.7, code := 'code', model := 'm')",
        "vec_search_range('docs', {}, 0.7, code := 'code', model := 'm', rerank := 'emb', margin := 0.1)",
        "vec_search_bits('docs', {}, 'bits', 'emb', 'bits', k := 3)",
        "vec_search_stages('docs', {}, ['bits', 'code', 'emb'], ['bits', 'm'], k := 3)",
        "vec_search_stages('docs', {}, ['bits', 'code', 'emb'], ['bits', 'm'], cell := 'cell', k := 3)",
    ],
)
def test_a_query_is_never_taken_for_a_column_of_the_table(con: duckdb.DuckDBPyConnection, search: str) -> None:
    fill_codes(con)
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    con.execute("CREATE TABLE asked AS SELECT id AS at, emb FROM docs WHERE id IN (3, 77, 1234)")
    query = "SELECT asked.at, s.id, s.score FROM asked, LATERAL {} AS s ORDER BY asked.at, s.score DESC, s.id"
    found = con.execute(query.format(search.format("emb"))).fetchall()
    assert found == con.execute(query.format(search.format("asked.emb"))).fetchall()
    assert {(at, row) for at, row, _ in found} >= {(3, 3), (77, 77), (1234, 1234)}


def test_rows_of_the_same_score_come_in_the_order_of_ties(con: duckdb.DuckDBPyConnection) -> None:
    fill(con)
    con.execute(f"INSERT INTO docs SELECT 90000 - i, $1::FLOAT[{D}], 'copy' FROM range(6) AS r (i)", [Q[0].tolist()])
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    sql = "SELECT id FROM vec_search('docs', $q, index := 'near', rerank := 'emb', k := 5, ties := 'id')"
    assert con.execute(sql, {"q": Q[0].tobytes()}).fetchall() == [(90000 - 5 + i,) for i in range(5)]


def test_an_index_of_another_model_is_refused_where_the_search_names_one(con: duckdb.DuckDBPyConnection) -> None:
    fill(con)
    sql = "SELECT id FROM vec_search('docs', $q, index := 'near', model := 'm', rerank := 'emb')"
    assert len(con.execute(sql, {"q": Q[0].tobytes()}).fetchall()) == 10
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs", "normalize | lvq(8)"))
    with pytest.raises(duckdb.Error, match="another model"):
        con.execute(sql, {"q": Q[0].tobytes()}).fetchall()


def test_null_vectors_are_not_found_and_an_empty_table_has_an_index(con: duckdb.DuckDBPyConnection) -> None:
    fill(con)
    con.execute("CREATE OR REPLACE TABLE docs AS FROM docs LIMIT 0")
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    assert search(con, Q[0]) == []
    con.execute(f"INSERT INTO docs VALUES (1, NULL, 'no vector'), (2, $1::FLOAT[{D}], 'one')", [Q[0].tolist()])
    assert search(con, Q[0]) == [2]
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    assert search(con, Q[0]) == [2]


def test_an_index_is_saved_beside_its_database_and_mapped_again(tmp_path: Path) -> None:
    path = tmp_path / "docs.duckdb"
    for spec in SPECS.values():
        path.unlink(missing_ok=True)
        con = vecpipe.connect(path)
        fill(con, spec)
        before = [search(con, q) for q in Q]
        con.close()
        con = vecpipe.connect(path)
        assert con.execute("FROM vec_indexes()").fetchall() == []
        assert [search(con, q) for q in Q] == before
        ((name, source, said, rows, size, last, _, database),) = con.execute("FROM vec_indexes()").fetchall()
        assert (name, source, said, rows, last, database) == ("near", "docs", spec, ROWS, ROWS - 1, "docs")
        assert size >= ROWS * D
        assert con.execute("SELECT vec_index_drop('near'), vec_index_drop('near')").fetchone() == (True, False)
        assert not list(tmp_path.glob("*.vecindex*"))
        con.close()


@pytest.mark.parametrize("cut", [0, 7, 400, -200, -1])
def test_a_damaged_file_is_an_error(tmp_path: Path, cut: int) -> None:
    model = vecpipe.fit(table_of(X), "normalize | int8")
    file = tmp_path / "one.vecindex"
    Index.of(model, [np.arange(ROWS)], [model.encode(X)[0]], [marks_of(X)], []).save(file, {"last": 1})
    index, about = Index.load(file)
    assert (len(index), about) == (ROWS, {"last": 1})
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ModelFormatError, match=r"one\.vecindex"):
        Index.load(file)


def _save_for_ever(file: str, sent: multiprocessing.connection.Connection) -> None:
    model = vecpipe.fit(table_of(X), "normalize | int8")
    many = np.tile(model.encode(X)[0], (60, 1))
    index = Index.of(model, [np.arange(len(many))], [many], [marks_of(np.tile(X, (60, 1)))], [])
    sent.send("begun")
    while True:
        index.save(Path(file), {"last": len(many)})
        sent.send("saved")


def test_a_process_killed_while_saving_leaves_the_old_index(tmp_path: Path) -> None:
    model = vecpipe.fit(table_of(X), "normalize | int8")
    file = tmp_path / "one.vecindex"
    Index.of(model, [np.arange(ROWS)], [model.encode(X)[0]], [marks_of(X)], []).save(file, {"last": ROWS})
    context = multiprocessing.get_context("spawn")
    for saves in (0, 1, 2):
        received, sent = context.Pipe(duplex=False)
        worker = context.Process(target=_save_for_ever, args=(str(file), sent))
        worker.start()
        for _ in range(saves + 1):
            received.recv()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        index, about = Index.load(file)
        assert len(index) == about["last"]


def test_memory_is_bounded_by_a_setting(con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(con)
    monkeypatch.setenv("VECPIPE_INDEX_BYTES", "1000")
    with pytest.raises(duckdb.Error, match="VECPIPE_INDEX_BYTES"):
        con.execute("SELECT vec_index('other', 'docs', 'm')").fetchall()
    assert search(con, Q[0]) == exact(con, Q[0])


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT vec_index('near', 'docs', 'nobody')", "nobody"),
        ("SELECT vec_index('near', 'docs', 'floats')", "ends in no codec"),
        ("SELECT vec_index('../near', 'docs', 'm')", "index name"),
        ("SELECT vec_index('near', 'nowhere', 'm')", "nowhere"),
        ("SELECT vec_index(NULL, 'docs', 'm')", "must not be NULL"),
        ("FROM vec_search('docs', '\\x00\\x01\\x02'::BLOB, index := 'near', rerank := 'emb')", "float32"),
        ("FROM vec_search('docs', [1, 2]::FLOAT[2], index := 'near', rerank := 'emb')", "2 dimensions"),
        (f"FROM vec_search('docs', repeat('\\x00'::BLOB, {4 * D}), index := 'far', rerank := 'emb')", "far"),
    ],
)
def test_what_cannot_be_done_says_so(con: duckdb.DuckDBPyConnection, sql: str, words: str) -> None:
    fill(con)
    vecpipe.save_model(con, "floats", vecpipe.fit(con, "SELECT emb FROM docs", "pca(4)"))
    with pytest.raises(duckdb.Error, match=words):
        con.execute(sql).fetchall()


def test_a_read_only_connection_writes_and_deletes_no_index_files(tmp_path: Path) -> None:
    con = vecpipe.connect(tmp_path / "docs.duckdb")
    fill(con)
    con.close()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    con = vecpipe.connect(tmp_path / "docs.duckdb", read_only=True)
    assert search(con, Q[0]) == exact(con, Q[0])
    with pytest.raises(duckdb.Error, match=r"index 'near' is not dropped: database docs is read-only"):
        con.execute("SELECT vec_index_drop('near')").fetchall()
    con.execute("SELECT vec_index('near', 'docs', 'm'), vec_index('mine', 'docs', 'm')").fetchall()
    assert search(con, Q[1]) == exact(con, Q[1])
    assert con.execute("SELECT vec_index_drop('mine')").fetchall() == [(True,)]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("column", ["rowid", "RowID"])
def test_a_table_with_a_column_called_rowid_is_refused(con: duckdb.DuckDBPyConnection, column: str) -> None:
    fill(con)
    con.execute(f"ALTER TABLE docs RENAME id TO {column}")
    with pytest.raises(duckdb.Error, match="a column called rowid, which hides the numbers of its rows"):
        con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()


def test_an_index_that_is_null_is_refused(con: duckdb.DuckDBPyConnection) -> None:
    fill(con)
    for sql in ("FROM vec_search('docs', $1, index := NULL, rerank := 'emb')", "SELECT vec_index_drop(NULL), $1"):
        with pytest.raises(duckdb.Error, match="the name of an index is NULL"):
            con.execute(sql, [Q[0].tobytes()]).fetchall()


@pytest.mark.parametrize("tail", ["2999::BIGINT", "[2999]", "'x'", "NULL", "array_value(2999::BIGINT)"])
def test_rows_after_the_last_must_come_as_a_list_of_numbers(con: duckdb.DuckDBPyConnection, tail: str) -> None:
    fill(con)
    sql = f"SELECT _vec_index_rows('near', NULL, [1.0], {tail}, '3', '4', 'ip', '2', '2999', '9', '', 'memory', 'docs')"
    with pytest.raises(duckdb.Error, match="expected lists of BIGINT"):
        con.execute(sql)


_LATE = """
import duckdb, warnings
late = duckdb.connect()
late.execute("SELECT 1").fetchall()
import numpy as np, pyarrow as pa, vecpipe
warnings.simplefilter("ignore")
vecpipe.register(late)
rng = np.random.default_rng(1)
X = rng.standard_normal((900, 8)).astype(np.float32)
rows = pa.table({"id": range(900), "emb": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 8)})
model = vecpipe.fit(rows.select(["emb"]), "normalize | cells(8) | int8")
found = []
for con in late, vecpipe.connect():
    con.register("given", rows)
    con.execute("CREATE TABLE docs AS FROM given")
    vecpipe.save_model(con, "m", model)
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    con.execute("INSERT INTO docs SELECT id + 1000, emb FROM docs WHERE id < 9")
    con.execute("DELETE FROM docs WHERE id BETWEEN 30 AND 60")
    search = "SELECT id, score FROM vec_search('docs', $q, index := 'near', rerank := 'emb', k := 5, model := 'm')"
    answers = [con.execute(search, {"q": q.tobytes()}).fetchall() for q in X[:9]]
    answers += con.execute('''
        SELECT a.id, b.id, b.score FROM docs AS a,
               LATERAL vec_search('docs', a.emb, index := 'near', rerank := 'emb', k := 3) AS b
        WHERE a.id < 70 ORDER BY ALL''').fetchall()
    for broken in (search.replace("5", "0"), search.replace("'near'", "NULL")):
        try:
            con.execute(broken, {"q": X[0].tobytes()})
        except duckdb.Error as error:
            answers.append(str(error).splitlines()[0].rsplit(": ", 1)[-1])
    con.execute("DELETE FROM docs WHERE id = 899")
    try:
        con.execute(search, {"q": X[0].tobytes()})
    except duckdb.Error as error:
        answers.append("its last row has been deleted" in str(error))
    found.append(answers)
assert len(found[0]) > 120 and found[0][-1] is True, found[0]
for one, other in zip(*found, strict=True):
    assert one == other, (one, other)
"""


def test_a_database_opened_before_the_import_finds_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", _LATE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
