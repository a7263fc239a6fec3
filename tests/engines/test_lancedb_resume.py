"""Backfills that are killed, resumed, and disturbed by other writers: in the end every row is that of a clean run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import fixed
from lancedb_data import DATA, check, fitted, make_table, rows

import vecpipe.lancedb as vl
from vecpipe.errors import InputError, ResumeError
from vecpipe.model import Model

SPEC = "normalize | int4"

CHILD = """
import sys, lancedb, vecpipe.lancedb as vl
from vecpipe.model import Model
table = lancedb.connect(sys.argv[1]).open_table("docs")
print("ready", flush=True)
progress = lambda done, total: print(done, flush=True)
vl.add_column(table, "code", Model.load(sys.argv[2]), part_rows=100, threads=1, progress=progress)
"""


class StopError(Exception):
    """Raised by a progress callback in the place of a crash."""


def stopping_at(rows_done: int):
    def progress(done: int, total: int) -> None:
        if done >= rows_done:
            raise StopError

    return progress


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "db"


@pytest.fixture
def table(folder):
    return make_table(lancedb.connect(folder))


def parts(folder: Path) -> Path:
    return folder / "docs.code.partial"


def interrupt(table, model: Model, at: int = 1_000, **options) -> None:
    with pytest.raises(StopError):
        vl.add_column(table, "code", model, part_rows=100, threads=1, progress=stopping_at(at), **options)


# Killed ------------------------------------------------------------------------------------------------------------


def test_a_backfill_killed_twice_ends_as_a_clean_run(folder, table, tmp_path):
    model = fitted(SPEC)
    model.save(tmp_path / "m.vecpipe")
    for lines in (4, 11):
        command = [sys.executable, "-c", CHILD, str(folder), str(tmp_path / "m.vecpipe")]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert child.stdout is not None
        seen = [line for line, _ in zip(child.stdout, range(lines), strict=False)]
        child.kill()
        _, problem = child.communicate()
        assert (child.returncode, seen[0]) == (-signal.SIGKILL, "ready\n"), problem
        table.checkout_latest()
        assert table.schema.names == ["id", "vector", "note"]
        assert table.search(DATA[5]).limit(1).to_list()[0]["id"] == 5
    assert vl.add_column(table, "code", model).resumed >= 800
    check(table, "code", model)
    assert not parts(folder).exists()
    assert table.to_lance().validate() is None
    assert vl.refresh(table, "code").rows == 0


@pytest.mark.parametrize("call", ["add_columns", "commit", "remove"])
def test_a_crash_between_any_two_commits_is_finished_by_the_next_run(folder, table, monkeypatch, call):
    from vecpipe.engines.lancedb import backfill

    model = fitted(SPEC)
    place = {"add_columns": type(table), "commit": backfill, "remove": backfill.Checkpoint}[call]
    real = getattr(place, call)

    def crash(*arguments, **named):
        if call == "add_columns":
            real(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, call, crash)
        with pytest.raises(KeyboardInterrupt):
            vl.add_column(table, "code", model, part_rows=100)
    assert parts(folder).exists()
    done = vl.add_column(table, "code", model, part_rows=100)
    assert done.resumed == done.rows
    check(table, "code", model)
    assert not parts(folder).exists()
    vl.rollback(table, "code")
    assert table.schema.names == ["id", "vector", "note"]


def test_what_was_computed_is_not_computed_again(folder, table):
    interrupt(table, fitted(SPEC))
    table.checkout_latest()
    assert table.schema.names == ["id", "vector", "note"]
    kept = sum(int(path.stem.split("-")[5]) for path in parts(folder).glob("rows-*.arrow"))
    assert 600 <= kept < 1_980
    done = vl.add_column(table, "code", fitted(SPEC))
    assert (done.rows, done.resumed) == (1_980, kept)
    check(table, "code", fitted(SPEC))


def test_a_resumed_run_takes_no_part_that_is_cut_short_and_no_stray_file(folder, table):
    interrupt(table, fitted(SPEC))
    first, second, third = sorted(parts(folder).glob("rows-*.arrow"))[:3]
    first.write_bytes(first.read_bytes()[:-200])
    second.write_bytes(b"")
    (parts(folder) / "stray.pickle").write_bytes(b"stray")
    third.rename(third.with_name(third.name.replace("-" + third.name.split("-")[2], "-" + "0" * 32)))
    vl.add_column(table, "code", fitted(SPEC))
    check(table, "code", fitted(SPEC))


def test_checkpoints_are_arrow_files_and_a_readable_manifest(folder, table):
    interrupt(table, fitted(SPEC))
    assert {path.suffix for path in parts(folder).iterdir()} <= {".arrow", ".json", ""}
    manifest = json.loads((parts(folder) / "manifest.json").read_text())
    assert manifest["model"] == {"hash": fitted(SPEC).hash, "spec": SPEC}
    assert manifest["source"] == {"table": str(folder / "docs.lance"), "column": "vector"}
    for path in parts(folder).glob("rows-*.arrow"):
        assert pa.ipc.open_file(path).schema.names == ["code"]


def test_an_unfinished_run_of_another_model_is_refused_with_both_hashes(folder, table):
    old, new = fitted(SPEC), fitted(SPEC, seed=1)
    assert old.hash != new.hash
    interrupt(table, old)
    with pytest.raises(ResumeError, match=f"another model: there {old.hash}.*now {new.hash}"):
        vl.add_column(table, "code", new)
    assert table.schema.names == ["id", "vector", "note"]
    assert vl.list_models(lancedb.connect(folder)).num_rows == 0
    done = vl.add_column(table, "code", new, restart=True)
    assert done.resumed == 0
    check(table, "code", new)


def test_an_unfinished_run_of_another_table_or_source_is_refused(folder, table, tmp_path):
    interrupt(table, fitted(SPEC), checkpoint=tmp_path / "work")
    other = make_table(lancedb.connect(tmp_path / "other"))
    with pytest.raises(ResumeError, match="another source: table was"):
        vl.add_column(other, "code", fitted(SPEC), checkpoint=tmp_path / "work")
    table.add_columns({"copy": "vector"})
    with pytest.raises(ResumeError, match='another source: column was "vector", now "copy"'):
        vl.add_column(table, "code", fitted(SPEC), source="copy", checkpoint=tmp_path / "work")


def test_parts_of_rows_that_were_rewritten_since_are_thrown_away(folder, table):
    interrupt(table, fitted(SPEC))
    table.update(where="id < 50", values={"vector": DATA[3_000].tolist()})
    table.optimize()
    done = vl.add_column(table, "code", fitted(SPEC))
    assert done.resumed == 0
    check(table, "code", fitted(SPEC))


def test_a_refresh_is_resumed_too(folder, table):
    model = fitted(SPEC)
    vl.add_column(table, "code", model)
    table.add(rows(2_000, 2_600))
    with pytest.raises(StopError):
        vl.refresh(table, "code", part_rows=100, threads=1, progress=stopping_at(400))
    check_first = table.search().where("id < 2000 AND code IS NULL AND vector IS NOT NULL").limit(5).to_list()
    assert check_first == []
    done = vl.refresh(table, "code")
    assert done.rows == 600
    assert done.resumed > 0
    check(table, "code", model)


# Disturbed ---------------------------------------------------------------------------------------------------------

WRITERS = {
    "append": lambda t, i: t.add(rows(3_000 + i, 3_007 + i)),
    "delete": lambda t, i: t.delete(f"id = {20 + i}"),
    "update": lambda t, i: t.update(where=f"id = {30 + i}", values={"vector": DATA[2_500 + i].tolist()}),
    "merge": lambda t, i: (
        t.merge_insert("id").when_matched_update_all().execute(pa.table({"id": [40 + i], "vector": fixed(DATA[-1:])}))
    ),
    "compact": lambda t, i: t.optimize(),
    "add a column": lambda t, i: t.add_columns({f"other_{i}": "id + 1"}),
    "index": lambda t, i: t.create_index("id", config=lancedb.index.BTree(), replace=True),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("moment", ["computing", "writing"])
def test_other_writers_do_not_get_in_the_way(folder, table, monkeypatch, writer, moment):
    from vecpipe.engines.lancedb import backfill

    other = lancedb.connect(folder).open_table("docs")
    model, calls = fitted(SPEC), []

    def write(*_) -> None:
        if len(calls) < 3:
            calls.append(writer)
            other.checkout_latest()
            WRITERS[writer](other, len(calls))

    if moment == "computing":
        vl.add_column(table, "code", model, part_rows=300, progress=write)
    else:
        real = backfill.commit
        monkeypatch.setattr(backfill, "commit", lambda *given: (write(), real(*given))[1])
        vl.add_column(table, "code", model, part_rows=300)
    assert calls
    vl.refresh(table, "code")
    check(table, "code", model)
    assert table.to_lance().validate() is None


def test_rows_added_while_the_column_is_filled_are_filled_too_or_counted(folder, table, monkeypatch):
    from vecpipe.engines.lancedb import backfill

    other = lancedb.connect(folder).open_table("docs")
    real, calls = backfill.commit, []

    def commit(*given):
        calls.append(1)
        other.add(rows(5_000 + len(calls), 5_001 + len(calls)))
        return real(*given)

    monkeypatch.setattr(backfill, "commit", commit)
    done = vl.add_column(table, "code", fitted(SPEC))
    assert len(calls) > 1
    assert done.behind == 1
    assert done.rows == 1_980 + len(calls) - 1
    monkeypatch.undo()
    assert vl.refresh(table, "code").rows == 1
    check(table, "code", fitted(SPEC))


WRITER = """
import sys, lancedb, numpy as np
table = lancedb.connect(sys.argv[1]).open_table("docs")
for i in range(6):
    vectors = np.random.default_rng(i).standard_normal((20, 16)).astype("f4")
    table.add([{"id": 9000 + 100 * i + j, "vector": v, "note": "w"} for j, v in enumerate(vectors)])
    table.update(where=f"id = {9000 + 100 * i}", values={"note": "changed"})
    print(i, flush=True)
"""


def test_a_backfill_and_another_process_that_writes_at_once_lose_nothing(folder, table):
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "0\n"
    model = fitted(SPEC)
    vl.add_column(table, "code", model, part_rows=50)
    assert child.wait() == 0
    child.stdout.close()
    vl.refresh(table, "code")
    assert table.count_rows() == 1_980 + 6 * 20
    assert table.count_rows("note = 'changed'") == 6
    check(table, "code", model)


def test_two_backfills_of_the_same_column_at_once_are_refused(folder, table):
    other = lancedb.connect(folder).open_table("docs")
    refused = []

    def progress(done: int, total: int) -> None:
        if not refused:
            with pytest.raises(ResumeError, match="another process is writing this target") as caught:
                vl.add_column(other, "code", fitted(SPEC))
            refused.append(caught)

    vl.add_column(table, "code", fitted(SPEC), progress=progress)
    assert refused
    check(table, "code", fitted(SPEC))


def test_two_columns_are_filled_at_once(folder, table):
    other = lancedb.connect(folder).open_table("docs")
    models = {"code": fitted(SPEC), "small": fitted("pca(4)")}
    begun = []

    def progress(done: int, total: int) -> None:
        if not begun:
            begun.append(done)
            vl.add_column(other, "small", models["small"])

    vl.add_column(table, "code", models["code"], progress=progress)
    for column, model in models.items():
        check(table, column, model)
    assert vl.list_columns(table)["behind"].to_pylist() == [0, 0]


def test_a_column_dropped_by_another_writer_is_an_error_not_a_loop(folder, table, monkeypatch):
    from vecpipe.engines.lancedb import backfill
    from vecpipe.errors import EngineError

    other, real = lancedb.connect(folder).open_table("docs"), backfill.commit

    def commit(*given):
        other.checkout_latest()
        other.drop_columns(["code"])
        return real(*given)

    monkeypatch.setattr(backfill, "commit", commit)
    with pytest.raises(EngineError, match="was dropped by concurrent"):
        vl.add_column(table, "code", fitted(SPEC))
    monkeypatch.undo()
    assert vl.add_column(table, "code", fitted(SPEC)).resumed == 1_980
    check(table, "code", fitted(SPEC))


def test_a_row_that_breaks_a_rule_keeps_the_parts_before_it(folder):
    vectors = pa.array([*([[1.0] * 16] * 900), [2.0]])
    table = lancedb.connect(folder).create_table("docs", pa.table({"id": np.arange(901), "v": vectors}))
    with pytest.raises(InputError, match="row 900 has 1 dimensions"):
        vl.add_column(table, "code", fitted("int8"), source="v", part_rows=100, threads=1)
    done = vl.add_column(table, "code", fitted("int8"), source="v", on_invalid="null")
    assert (done.rows, done.invalid) == (901, 1)
    assert done.resumed >= 500


# Folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"restart": True}])
def test_a_folder_that_holds_anything_else_is_refused_and_left_alone(table, tmp_path, options):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    (mine / "manifest.json").write_text('{"nodes": {}}')
    with pytest.raises(InputError, match=r"mine holds 'notes.txt', which is no unfinished work"):
        vl.add_column(table, "code", fitted(SPEC), checkpoint=mine, **options)
    assert sorted(path.name for path in mine.iterdir()) == ["manifest.json", "notes.txt"]


def test_dropping_a_column_removes_unfinished_work_of_that_column_alone(folder, table, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    for column in ("a code", "a_code"):
        vl.add_column(table, column, fitted(SPEC))
    table.add(rows(2_000, 2_500))
    with pytest.raises(StopError):
        vl.refresh(table, "a code", part_rows=100, threads=1, progress=stopping_at(200))
    vl.drop(table, "a_code", checkpoint=mine)
    vl.add_column(table, "a_code", fitted(SPEC), checkpoint=tmp_path / "other")
    vl.drop(table, "a_code")
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    assert (folder / "docs.a_code.partial" / "manifest.json").exists()
    assert vl.refresh(table, "a code").resumed > 0
