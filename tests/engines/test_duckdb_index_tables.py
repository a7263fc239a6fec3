"""Resident indexes and their tables: another table, or rows numbered anew, are never mistaken for those."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import numpy as np
import pytest

import vecpipe
from tests.conftest import anisotropic, table_of
from vecpipe.errors import InputError
from vecpipe.search import index as files

D, ROWS = 16, 3_000
X = anisotropic(ROWS, D, seed=1)
CHANGED = 1_234
NEW = np.full(D, 3, np.float32)
REFUSED = "make it again"


def fill(con: duckdb.DuckDBPyConnection, spec: str = "normalize | int8") -> None:
    con.register("given", table_of(X))
    con.execute(f"CREATE TABLE docs AS SELECT id, emb::FLOAT[{D}] AS emb FROM given ORDER BY id")
    con.unregister("given")
    con.execute(f"CREATE TABLE later AS SELECT id, CASE WHEN id = {CHANGED} THEN $v ELSE emb END::FLOAT[{D}] AS emb "
                "FROM docs ORDER BY id", {"v": NEW.tolist()})  # fmt: skip
    vecpipe.save_model(con, "m", vecpipe.fit(con, "SELECT emb FROM docs", spec))
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()


def search(con: duckdb.DuckDBPyConnection, q: np.ndarray, table: str = "docs", metric: str = "cosine") -> list[int]:
    sql = f"SELECT id FROM vec_search('{table}', $q, index := 'near', rerank := 'emb', k := 5, metric := '{metric}')"
    return [i for (i,) in con.execute(sql, {"q": q.astype("<f4").tobytes()}).fetchall()]


RELOADS = {
    "replace": "CREATE OR REPLACE TABLE docs AS FROM later",
    "drop": "DROP TABLE docs; CREATE TABLE docs AS FROM later",
    "swap": "BEGIN; ALTER TABLE docs RENAME TO old; ALTER TABLE later RENAME TO docs; COMMIT",
}


@pytest.mark.parametrize("how", RELOADS)
@pytest.mark.parametrize("searched", [False, True])
def test_another_table_under_the_name_is_refused(con: duckdb.DuckDBPyConnection, how: str, searched: bool) -> None:
    fill(con)
    if searched:
        search(con, X[0])
    con.execute(RELOADS[how])
    for _ in range(2):
        with pytest.raises(duckdb.Error, match=REFUSED):
            search(con, NEW)
    con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    assert search(con, NEW)[0] == CHANGED


def test_another_table_than_that_of_the_index_is_refused(con: duckdb.DuckDBPyConnection) -> None:
    fill(con)
    with pytest.raises(duckdb.Error, match="later is another table"):
        search(con, NEW, "later")
    con.execute("CREATE SCHEMA s; CREATE TABLE s.docs AS FROM later")
    with pytest.raises(duckdb.Error, match="another table"):
        search(con, NEW, "s.docs")
    assert search(con, X[7]) == search(con, X[7], "main.docs") == search(con, X[7], "MEMORY.main.Docs")


def test_a_table_with_other_columns_or_another_name_is_the_same_table(con: duckdb.DuckDBPyConnection) -> None:
    fill(con)
    before = search(con, X[7])
    con.execute("ALTER TABLE docs ADD COLUMN body VARCHAR; COMMENT ON TABLE docs IS 'x'")
    assert search(con, X[7]) == before
    con.execute("ALTER TABLE docs RENAME TO papers")
    assert search(con, X[7], "papers") == before


RELOAD = "DELETE FROM docs; CHECKPOINT; INSERT INTO docs FROM later ORDER BY id"


@pytest.mark.parametrize("searched", [False, True])
def test_rows_that_are_deleted_and_loaded_again_around_a_checkpoint_are_refused(tmp_path: Path, searched: bool) -> None:
    with vecpipe.connect(tmp_path / "a.duckdb") as con:
        fill(con)
        con.execute("CHECKPOINT")
        if searched:
            assert search(con, X[7])[0] == 7
        con.execute(RELOAD)
        with pytest.raises(duckdb.Error, match=REFUSED):
            search(con, NEW)
        con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
        assert search(con, NEW)[0] == CHANGED
        con.execute("CREATE TABLE other AS FROM range(200000); CHECKPOINT")  # the file changes, the table does not
        assert search(con, NEW)[0] == CHANGED


@pytest.mark.parametrize("how", [*RELOADS.values(), RELOAD, f"DELETE FROM docs WHERE id = {CHANGED}", "SELECT 1"])
def test_an_index_from_a_file_is_held_against_the_whole_table(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.duckdb"
    with vecpipe.connect(path) as con:
        fill(con)
        con.execute("UPDATE docs SET emb = NULL WHERE id IN (5, 50); SELECT vec_index('near', 'docs', 'm')").fetchall()
        con.execute("UPDATE docs SET emb = $v WHERE id = 60", {"v": X[60].tolist()})
    with duckdb.connect(path) as raw:
        raw.execute(how)
    with vecpipe.connect(path) as con:
        if "docs RENAME" in how or "TABLE docs" in how or "INSERT" in how:
            with pytest.raises(duckdb.Error, match=REFUSED):
                search(con, NEW)
        else:
            found = con.execute("FROM vec_search('docs', $q, rerank := 'emb', k := 5)", {"q": X[7].tolist()}).fetchall()
            assert search(con, X[7]) == [row[0] for row in found]


def test_a_database_that_is_attached_under_the_name_of_another_has_its_own_index(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with vecpipe.connect(tmp_path / f"{name}.duckdb") as con:
            fill(con)
            if name == "b":
                con.execute(RELOADS["replace"])
                con.execute("SELECT vec_index('near', 'docs', 'm')").fetchall()
    with vecpipe.connect() as con:
        con.execute(f"ATTACH '{tmp_path / 'a.duckdb'}' AS d; USE d")
        vecpipe.register(con)
        assert search(con, NEW)[0] != CHANGED
        con.execute(f"USE memory; DETACH d; ATTACH '{tmp_path / 'b.duckdb'}' AS d; USE d")
        vecpipe.register(con)
        with pytest.raises(duckdb.Error, match="search again"):
            search(con, NEW)
        assert search(con, NEW)[0] == CHANGED


def test_an_index_that_is_too_large_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with vecpipe.connect(tmp_path / "a.duckdb") as con:
        fill(con)
        before, file = search(con, X[7]), (tmp_path / "a.duckdb.near.vecindex").read_bytes()
        monkeypatch.setenv("VECPIPE_INDEX_BYTES", str(ROWS * D + 1_000))  # room for codes, not for numbers and marks
        for name in ("near", "other"):
            with pytest.raises(duckdb.Error, match="VECPIPE_INDEX_BYTES"):
                con.execute(f"SELECT vec_index('{name}', 'docs', 'm')").fetchall()
        assert search(con, X[7]) == before
        assert (tmp_path / "a.duckdb.near.vecindex").read_bytes() == file
        assert not (tmp_path / "a.duckdb.other.vecindex").exists()


@pytest.mark.parametrize("metric", ["ip", "l2", "cosine"])
def test_a_query_without_a_direction_is_near_to_no_cell(con: duckdb.DuckDBPyConnection, metric: str) -> None:
    fill(con, "normalize | cells(24) | int8")
    con.execute("INSERT INTO docs VALUES (9999, $v)", {"v": NEW.tolist()})
    assert search(con, np.zeros(D), metric=metric) == []


def test_what_a_killed_process_left_of_an_index_is_swept_away(tmp_path: Path) -> None:
    path = tmp_path / "a.vecindex"
    old, young = path.with_name("a.vecindex.0000.new"), path.with_name("a.vecindex.1111.new")
    other = path.with_name("b.vecindex.0000.new")
    for draft in (old, young, other):
        draft.write_bytes(b"x")
    for draft in (old, other):
        os.utime(draft, (0, 0))
    model = vecpipe.fit(X, "normalize | int8")
    codes, _ = model.encode(X)
    made = files.Index.of(model, [np.arange(ROWS)], [codes], [files.marks_of(X)], [])
    with pytest.raises(InputError, match="cannot be saved"):
        made.save(tmp_path / "nowhere" / "a.vecindex", {})
    made.save(path, {})
    assert not old.exists()
    assert young.exists()
    assert other.exists()
