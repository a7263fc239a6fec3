"""Applying a model to a table on disk: every pair of formats, interruption, refusal to go on with something else."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vecpipe
from vecpipe.errors import EngineError, InputError, ResumeError
from vecpipe.etl import apply_model
from vecpipe.files import replacing, write_whole

ROWS, DIM = 3_000, 24
FORMATS = ("parquet", "arrow", "duckdb")


def make_table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    X = np.random.default_rng(seed).standard_normal((rows, DIM), dtype=np.float32)
    emb = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), DIM)
    return pa.table({"id": np.arange(rows), "emb": emb, "title": [f"row {i}" for i in range(rows)]})


def store(table: pa.Table, path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=700)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=900)
    else:
        with duckdb.connect(str(path)) as con:
            con.register("given", table)
            con.execute("CREATE TABLE docs AS FROM given")
    return path


def load(path: Path, name: str = "codes") -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).read_all()
    with duckdb.connect(str(path), read_only=True) as con:
        return con.sql(f"FROM {name} ORDER BY rowid").to_arrow_table()


def places(source: Path, target: Path) -> dict[str, str]:
    return {
        **({"table": "docs"} if source.suffix == ".duckdb" else {}),
        **({"into": "codes"} if target.suffix == ".duckdb" else {}),
    }


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "partial" in path.name or "draft" in path.name]


def codes_of(model: vecpipe.Model, table: pa.Table) -> list[bytes]:
    X = table["emb"].combine_chunks().values.to_numpy().reshape(-1, DIM)
    return [row.tobytes() for row in model.encode(X)[0]]


class StopError(Exception):
    pass


def stop_after(rows: int):
    def progress(done: int, total: int | None) -> None:
        if done >= rows:
            raise StopError

    return progress


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return make_table()


@pytest.fixture(scope="module")
def model(table: pa.Table) -> vecpipe.Model:
    return vecpipe.fit(table, "center | pca(16) | int8", column="emb")


@pytest.fixture(scope="module")
def other_model(table: pa.Table) -> vecpipe.Model:
    return vecpipe.fit(table, "center | pca(8) | int8", column="emb")


@pytest.mark.parametrize("into", FORMATS)
@pytest.mark.parametrize("out_of", FORMATS)
def test_every_format_becomes_every_format(tmp_path, table, model, out_of, into):
    source, target = store(table, tmp_path / f"docs.{out_of}"), tmp_path / f"out.{into}"
    done = apply_model(source, model, target, part_rows=1_000, **places(source, target))
    result = load(target)
    assert (done.rows, done.resumed, done.invalid, done.column) == (ROWS, 0, 0, "code")
    assert result.column_names == ["id", "emb", "title", "code"]
    assert result["id"].to_pylist() == table["id"].to_pylist()
    assert result["emb"].to_pylist() == table["emb"].to_pylist()
    assert result["code"].to_pylist() == codes_of(model, table)
    assert leftovers(tmp_path) == []


def test_codes_decode_to_what_the_model_says(tmp_path, table, model):
    source, codes, back = store(table, tmp_path / "docs.parquet"), tmp_path / "c.parquet", tmp_path / "b.arrow"
    apply_model(source, model, codes, keep=["id"])
    assert load(codes).column_names == ["id", "code"]
    apply_model(codes, model, back, decode=True, drop_vector=True)
    X = table["emb"].combine_chunks().values.to_numpy().reshape(-1, DIM)
    decoded = load(back)["decoded"].combine_chunks()
    assert decoded.type == pa.list_(pa.float32(), DIM)
    np.testing.assert_allclose(
        decoded.values.to_numpy().reshape(-1, DIM), model.decode(model.encode(X)[0]), rtol=1e-5, atol=1e-6
    )


def test_vectors_of_a_model_without_codec(tmp_path, table):
    model = vecpipe.fit(table, "pca(5)", column="emb")
    source, target = store(table, tmp_path / "docs.arrow"), tmp_path / "out.parquet"
    apply_model(source, model, target, drop_vector=True, output="small")
    result = load(target)
    assert result.column_names == ["id", "title", "small"]
    assert result.schema.field("small").type == pa.list_(pa.float32(), 5)


def test_parts_and_threads_do_not_change_the_result(tmp_path, table):
    model = vecpipe.fit(table, "pca(5)", column="emb")
    source = store(table, tmp_path / "docs.parquet")
    results = []
    for part_rows, threads in ((ROWS, 1), (701, 2), (37, 4)):
        target = tmp_path / f"{part_rows}.arrow"
        apply_model(source, model, target, part_rows=part_rows, threads=threads)
        results.append(np.asarray(load(target)["vector"].combine_chunks().values))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5, atol=1e-6)


def test_null_vectors_and_deleted_rows(tmp_path, table, model):
    source = store(table, tmp_path / "docs.duckdb")
    with duckdb.connect(str(source)) as con:
        con.execute("UPDATE docs SET emb = NULL WHERE id = 7; DELETE FROM docs WHERE id BETWEEN 100 AND 1999")
    target = tmp_path / "out.parquet"
    done = apply_model(source, model, target, table="docs", part_rows=500)
    found = dict(zip(load(target)["id"].to_pylist(), load(target)["code"].to_pylist(), strict=True))
    assert done.rows == len(found) == ROWS - 1_900
    assert found[7] is None
    assert found[2_500] == codes_of(model, table)[2_500]


def test_an_empty_table_gives_an_empty_target(tmp_path, table, model):
    source = store(table.slice(0, 0), tmp_path / "docs.parquet")
    assert apply_model(source, model, tmp_path / "out.parquet").rows == 0
    assert load(tmp_path / "out.parquet").column_names == ["id", "emb", "title", "code"]


def test_the_stream_form_of_arrow_is_read(tmp_path, table, model):
    source = tmp_path / "docs.arrow"
    with pa.OSFile(str(source), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=800)
    apply_model(source, model, tmp_path / "out.arrow")
    assert load(tmp_path / "out.arrow")["code"].to_pylist() == codes_of(model, table)


def test_dictionary_columns_come_out_plain(tmp_path, table, model):
    named = table.set_column(2, "title", table["title"].combine_chunks().dictionary_encode())
    source = store(named, tmp_path / "docs.arrow")
    apply_model(source, model, tmp_path / "out.arrow", part_rows=500)
    assert load(tmp_path / "out.arrow")["title"].to_pylist() == table["title"].to_pylist()


def spoilt(table: pa.Table, row: int) -> pa.Table:
    X = table["emb"].combine_chunks().values.to_numpy().copy()
    X[row * DIM] = np.nan
    return table.set_column(1, "emb", pa.FixedSizeListArray.from_arrays(pa.array(X), DIM))


def test_an_invalid_row_stops_before_there_is_a_target_and_null_goes_on(tmp_path, table, model):
    source, target = store(spoilt(table, 2_345), tmp_path / "docs.parquet"), tmp_path / "out.parquet"
    with pytest.raises(InputError, match="emb: row 2345 holds NaN"):
        apply_model(source, model, target, part_rows=500)
    assert not target.exists()
    done = apply_model(source, model, target, part_rows=500, on_invalid="null")
    assert (done.rows, done.resumed, done.invalid) == (ROWS, 2_000, 1)
    assert load(target)["code"][2_345].as_py() is None


def test_a_refusal_at_the_first_row_leaves_nothing(tmp_path, table, model):
    source = store(spoilt(table, 0), tmp_path / "docs.parquet")
    with pytest.raises(InputError, match="row 0 holds NaN"):
        apply_model(source, model, tmp_path / "out.parquet")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("out_of", FORMATS)
def test_an_interrupted_run_goes_on_after_its_last_part(tmp_path, table, model, out_of):
    source, target = store(table, tmp_path / f"docs.{out_of}"), tmp_path / "out.parquet"
    with pytest.raises(StopError):
        apply_model(source, model, target, part_rows=400, progress=stop_after(1_700), **places(source, target))
    assert not target.exists()
    seen: list[int] = []
    done = apply_model(
        source, model, target, part_rows=999, progress=lambda done, _: seen.append(done), **places(source, target)
    )
    assert done.resumed == seen[0] == 1_600
    assert load(target)["code"].to_pylist() == codes_of(model, table)
    assert leftovers(tmp_path) == []


@pytest.fixture
def interrupted(tmp_path, table, model):
    source, target = store(table, tmp_path / "docs.parquet"), tmp_path / "out.parquet"
    with pytest.raises(StopError):
        apply_model(source, model, target, part_rows=400, progress=stop_after(1_700))
    return source, target


def test_another_model_is_refused_with_both_hashes(interrupted, model, other_model):
    source, target = interrupted
    with pytest.raises(ResumeError, match="another model") as caught:
        apply_model(source, other_model, target)
    assert model.hash in str(caught.value)
    assert other_model.hash in str(caught.value)
    assert apply_model(source, other_model, target, restart=True).resumed == 0


def test_another_source_is_refused(interrupted, table, model):
    source, target = interrupted
    store(make_table(seed=1), source)
    with pytest.raises(ResumeError, match="another source"):
        apply_model(source, model, target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (1_900_000_007_250_000_000, r"was 2030-03-17 17:46:40\+00:00, now 2030-03-17 17:46:47\+00:00"),
        (1_900_000_000_250_000_000, r"was 2030-03-17 17:46:40.000000\+00:00, now 2030-03-17 17:46:40.250000\+00:00"),
    ],
)
def test_times_of_a_source_are_said_to_the_second_where_that_tells_them_apart(tmp_path, table, model, later, said):
    source, target = store(table, tmp_path / "docs.parquet"), tmp_path / "out.parquet"
    os.utime(source, ns=(0, 1_900_000_000_000_000_000))
    with pytest.raises(StopError):
        apply_model(source, model, target, part_rows=400, progress=stop_after(1_700))
    os.utime(source, ns=(0, later))
    with pytest.raises(ResumeError, match=f"another source: changed {said}"):
        apply_model(source, model, target)


def test_a_changed_duckdb_table_is_refused(tmp_path, table, model):
    source, target = store(table, tmp_path / "docs.duckdb"), tmp_path / "out.parquet"
    with pytest.raises(StopError):
        apply_model(source, model, target, table="docs", part_rows=400, progress=stop_after(1_700))
    with duckdb.connect(str(source)) as con:
        con.execute("CREATE TABLE another AS SELECT 1 AS a")
        con.execute("UPDATE docs SET title = 'new' WHERE id = 3")
    with pytest.raises(ResumeError, match="another source: content"):
        apply_model(source, model, target, table="docs")


@pytest.mark.parametrize("options", [{"keep": ["id"]}, {"output": "c"}, {"drop_vector": True}])
def test_other_options_are_refused(interrupted, model, options):
    source, target = interrupted
    with pytest.raises(ResumeError, match="other options"):
        apply_model(source, model, target, **options)


def test_a_damaged_part_is_computed_again(interrupted, table, model):
    source, target = interrupted
    part = sorted(Path(f"{target}.partial").glob("part-000002-*"))[0]
    part.write_bytes(part.read_bytes()[:100])
    assert apply_model(source, model, target).resumed == 800
    assert load(target)["code"].to_pylist() == codes_of(model, table)


def test_a_second_process_at_the_same_target_is_refused(tmp_path, table, model):
    source, target = store(table, tmp_path / "docs.parquet"), tmp_path / "out.parquet"

    def again(done: int, total: int | None) -> None:
        with pytest.raises(ResumeError, match="another process"):
            apply_model(source, model, target)

    apply_model(source, model, target, progress=again)


def test_the_same_call_again_does_nothing_and_another_target_is_kept(tmp_path, table, model, other_model):
    source, target = store(table, tmp_path / "docs.parquet"), tmp_path / "out.duckdb"
    apply_model(source, model, target, into="codes")
    assert apply_model(source, model, target, into="codes").resumed == ROWS
    with pytest.raises(InputError, match="exists already"):
        apply_model(source, other_model, target, into="codes")
    apply_model(source, other_model, target, into="codes", overwrite=True)
    assert load(target)["code"].to_pylist() == codes_of(other_model, table)


def test_source_and_target_may_be_tables_of_one_database(tmp_path, table, model):
    source = store(table, tmp_path / "docs.duckdb")
    apply_model(source, model, source, table="docs", into="codes", keep=["id"])
    assert load(source)["code"].to_pylist() == codes_of(model, table)
    assert load(source, "docs").num_rows == ROWS
    with pytest.raises(InputError, match="source and target are the same"):
        apply_model(source, model, source, table="docs", into="docs")


def test_what_cannot_be_read_or_written_is_said(tmp_path, table, model):
    source = store(table, tmp_path / "docs.parquet")
    database = store(table, tmp_path / "docs.duckdb")
    with duckdb.connect(str(database)) as con:
        con.execute("CREATE VIEW seen AS FROM docs")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    out = tmp_path / "out.parquet"
    for arguments, options, words in [
        ((tmp_path / "none.parquet", out), {}, "no such file"),
        ((tmp_path / "junk.parquet", out), {}, "cannot be read"),
        ((database, out), {}, "say which table"),
        ((database, out), {"table": "none"}, "cannot be read"),
        ((database, out), {"table": "seen"}, "a view"),
        ((source, out), {"table": "docs"}, "not a DuckDB database"),
        ((source, tmp_path / "out.txt"), {}, "expected a name ending in"),
        ((source, tmp_path / "no" / "out.parquet"), {}, "no folder"),
        ((source, tmp_path / "out.duckdb"), {}, "into which table"),
        ((source, database), {"into": "none.codes"}, "no schema"),
        ((source, tmp_path / "new.duckdb"), {"into": "none.codes"}, "no schema"),
        ((source, tmp_path / "new.duckdb"), {"into": ""}, "'' is no name for a table"),
        ((source, out), {"column": "vec"}, "no column 'vec'"),
        ((source, out), {"keep": ["id", "vec"]}, "no column 'vec'"),
        ((source, out), {"output": "id"}, "second one named 'id'"),
        ((source, out), {"threads": -1}, "threads is -1; expected at least 1"),
        ((source, out), {"part_rows": 0}, "part_rows is 0; expected at least 1"),
        ((source, source), {}, "source and target are the same"),
    ]:
        with pytest.raises(InputError, match=words):
            apply_model(arguments[0], model, arguments[1], **options)
    assert not out.exists()
    assert leftovers(tmp_path) == []


def test_vectors_of_another_width_are_refused(tmp_path, table, model):
    narrow = pa.table({"emb": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(20, np.float32)), 10)})
    source = store(narrow, tmp_path / "docs.parquet")
    with pytest.raises(InputError, match="10 dimensions, expected 24"):
        apply_model(source, model, tmp_path / "out.parquet")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise StopError

    with pytest.raises(StopError):
        half()
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_two_that_write_the_same_file_at_once_do_not_meet(tmp_path):
    path = tmp_path / "model"
    with replacing(path) as draft, draft.open("w") as slow:
        slow.write("slow")
        slow.flush()
        write_whole(path, b"quick")
        slow.write(" and whole")
        slow.flush()
        assert path.read_text() == "quick"
    assert path.read_text() == "slow and whole"
    assert leftovers(tmp_path) == []


# Killed for good --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize(("out_of", "into"), [("parquet", "parquet"), ("duckdb", "duckdb")])
def test_killed_at_any_moment_the_same_command_finishes(tmp_path, model, out_of, into):
    table = make_table(6_000)
    source, clean, target = (
        store(table, tmp_path / f"docs.{out_of}"),
        tmp_path / f"clean.{into}",
        tmp_path / f"out.{into}",
    )
    (tmp_path / "m.vecpipe").write_bytes(model.to_bytes())
    command = [sys.executable, "-m", "vecpipe", "apply", str(source), str(tmp_path / "m.vecpipe"), str(target)]
    command += ["--progress", "lines", "--part-rows", "250", "--keep", "id,title"]
    command += [word for name, value in places(source, target).items() for word in (f"--{name}", value)]
    moments = random.Random(f"{out_of} {into}")
    kills = 0
    for until in (moments.randint(1, 8), moments.randint(1, 8), None):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        lines = iter(process.stderr.readline, "")
        if until is None:  # all parts are there: they are being put into the target
            next((line for line in lines if "6,000 of 6,000" in line), None)
        else:
            list(itertools.islice(lines, until))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            complete = target.exists() and (into == "parquet" or "codes" in _tables(target))
            assert not complete or load(target).num_rows == len(table)
    last = subprocess.run(command, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    assert kills > 0
    apply_model(source, model, clean, keep=["id", "title"], **places(source, clean))
    assert load(target).equals(load(clean))
    assert leftovers(tmp_path) == []


def _tables(path: Path) -> list[str]:
    with duckdb.connect(str(path), read_only=True) as con:
        return [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()]


def test_the_manifest_says_what_it_is_a_run_of(interrupted, model):
    manifest = json.loads(Path(f"{interrupted[1]}.partial/manifest.json").read_text())
    assert manifest["model"] == {"hash": model.hash, "spec": model.spec}
    assert manifest["part_rows"] == 400
    assert manifest["source"]["rows"] == ROWS
    assert manifest["options"]["column"] == "emb"


# DuckDB's own types -----------------------------------------------------------------------------------------

OWN_TYPES = """
    SELECT i AS id, [i, 1, 2]::FLOAT[3] AS emb, 340282366920938463463374607431768211455::UHUGEINT AS uhuge,
        (-170141183460469231731687303715884105727)::HUGEINT AS huge, '10101'::BIT AS bits,
        '9ce0bd62-1234-4d4e-9c5b-3d1d6c6a2a11'::UUID AS uuid, '12:00:00+02'::TIMETZ AS clock,
        INTERVAL '1 month 2 days 3 us' AS span, {'x': [5::HUGEINT], 'y': '1'::BIT} AS pair,
        MAP {'k': 7::UHUGEINT} AS named, 12.345::DECIMAL(30, 5) AS price, [[1::UHUGEINT], [i::UHUGEINT]] AS nested,
        [1, i]::HUGEINT[2] AS two, '{"a": 1}'::JSON AS document, [true, NULL] AS flags, union_value(a := i::INT) AS one,
        12345678901234567890123::BIGNUM AS long, 1::VARIANT AS anything,
        NULL::BIT AS nothing, '2020-01-01 10:00:00.123456'::TIMESTAMP_NS AS at
    FROM range(5) r(i)
"""


def test_a_table_of_duckdb_becomes_another_with_every_type_and_value_as_it_was(tmp_path):
    source, target = tmp_path / "docs.duckdb", tmp_path / "out.duckdb"
    with duckdb.connect(str(source)) as con:
        con.execute(f"CREATE TABLE docs AS {OWN_TYPES}")
    model = vecpipe.fit(np.eye(3, dtype=np.float32), "int8")
    apply_model(source, model, target, table="docs", into="codes", column="emb")
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{source}' AS a (READ_ONLY); ATTACH '{target}' AS b (READ_ONLY)")
        assert con.sql("SELECT * EXCLUDE (code) FROM b.codes").types == con.sql("FROM a.docs").types
        assert con.sql("SELECT * EXCLUDE (code) FROM b.codes").fetchall() == con.sql("FROM a.docs").fetchall()


@pytest.mark.parametrize("into", ["parquet", "arrow"])
def test_duckdbs_own_types_become_types_that_a_file_holds(tmp_path, into):
    source, target = tmp_path / "docs.duckdb", tmp_path / f"out.{into}"
    with duckdb.connect(str(source)) as con:
        con.execute(
            f"CREATE TABLE docs AS SELECT * EXCLUDE (span, one) REPLACE (id::HUGEINT AS huge) FROM ({OWN_TYPES})"
        )
    apply_model(source, vecpipe.fit(np.eye(3, dtype=np.float32), "int8"), target, table="docs", column="emb")
    row = load(target).slice(1, 1).to_pylist()[0]
    assert row["uhuge"] == "340282366920938463463374607431768211455"
    assert (row["huge"], row["bits"], row["clock"]) == (1, "10101", "12:00:00+02")
    assert row["pair"] == {"x": [5], "y": "1"}
    assert dict(row["named"]) == {"k": "7"}
    assert (row["nested"], row["two"], row["flags"]) == ([["1"], ["1"]], [1, 1], [True, None])


def test_a_whole_number_too_large_for_a_file_stops_instead_of_becoming_another(tmp_path):
    source = tmp_path / "docs.duckdb"
    with duckdb.connect(str(source)) as con:
        con.execute(f"CREATE TABLE docs AS SELECT id, emb, huge FROM ({OWN_TYPES})")
    model = vecpipe.fit(np.eye(3, dtype=np.float32), "int8")
    with pytest.raises(EngineError, match=r'CAST\("huge" AS DECIMAL\(38, 0\)\)'):
        apply_model(source, model, tmp_path / "out.parquet", table="docs")
    assert leftovers(tmp_path) == []


# Types that a target cannot hold ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("into", "column"),
    [
        ("parquet", pa.array([pa.MonthDayNano([1, 2, 3])] * 3)),
        ("parquet", pa.RunEndEncodedArray.from_arrays(pa.array([3], pa.int32()), pa.array([7]))),
        (
            "parquet",
            pa.UnionArray.from_dense(
                pa.array([0] * 3, pa.int8()), pa.array([0, 1, 2], pa.int32()), [pa.array([1] * 3)]
            ),
        ),
        ("duckdb", pa.array([1] * 3, pa.decimal256(60, 2))),
    ],
)
def test_a_column_that_the_target_cannot_hold_is_refused_before_anything_is_computed(tmp_path, into, column):
    X = np.eye(3, dtype=np.float32)
    emb = pa.FixedSizeListArray.from_arrays(X.ravel(), 3)
    source, target = store(pa.table({"odd": column, "emb": emb}), tmp_path / "docs.arrow"), tmp_path / f"out.{into}"
    model = vecpipe.fit(X, "int8")
    with pytest.raises(InputError, match=r"odd: a .* cannot hold a column of type .*; cast it first, or leave it out"):
        apply_model(source, model, target, **places(source, target))
    assert leftovers(tmp_path) == []
    apply_model(source, model, target, keep=["emb"], **places(source, target))


def test_half_floats_and_dictionaries_come_out_plain_however_deep_they_lie(tmp_path):
    X = np.eye(3, dtype=np.float32)

    def batch(words: list[str]) -> pa.RecordBatch:
        word = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), pa.array(words))
        half = pa.array(np.array([0.5, 1.5, 2.5], np.float16))
        emb = pa.FixedSizeListArray.from_arrays(X.ravel(), 3)
        return pa.RecordBatch.from_arrays(
            [pa.StructArray.from_arrays([word, half], ["word", "half"]), emb], ["pair", "emb"]
        )

    source = tmp_path / "docs.arrow"
    batches = [batch(["a", "b"]), batch(["c", "d"])]
    with pa.OSFile(str(source), "wb") as file, pa.ipc.new_stream(file, batches[0].schema) as writer:
        for one in batches:
            writer.write_batch(one)
    model = vecpipe.fit(X, "int8")
    expected = [{"word": word, "half": half} for word, half in zip("abacdc", [0.5, 1.5, 2.5] * 2, strict=True)]
    for into in FORMATS:
        target = tmp_path / f"out.{into}"
        apply_model(source, model, target, part_rows=2, **places(source, target))
        assert load(target)["pair"].to_pylist() == expected


@pytest.mark.parametrize("into", FORMATS)
def test_vectors_in_a_dictionary_or_a_tensor_are_found_and_kept(tmp_path, into):
    X = np.arange(12, dtype=np.float32).reshape(3, 4)
    known = pa.FixedSizeListArray.from_arrays(X.ravel(), 4)
    indices = pa.array([0, 1, 2, 1], pa.int32())
    model = vecpipe.fit(X, "int8")
    for name, emb in {
        "dictionary": pa.DictionaryArray.from_arrays(indices, known),
        "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(X[[0, 1, 2, 1]]),
    }.items():
        source = store(pa.table({"id": [1, 2, 3, 4], "emb": emb}), tmp_path / f"{name}.arrow")
        target = tmp_path / f"{name}-out.{into}"
        assert vecpipe.fit(source, "center").dim == 4
        apply_model(source, model, target, **places(source, target))
        assert load(target)["code"].to_pylist() == [row.tobytes() for row in model.encode(X[[0, 1, 2, 1]])[0]]
        kept = load(target)["emb"].combine_chunks()
        kept = kept.storage if isinstance(kept, pa.ExtensionArray) else kept
        assert [list(row) for row in kept.to_pylist()] == X[[0, 1, 2, 1]].tolist()


# Where an error is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["float16", "lvq(4)", "int8_outlier"])
def test_a_value_that_a_codec_cannot_hold_is_told_by_column_and_row_of_the_table(tmp_path, spec):
    X = np.random.default_rng(0).standard_normal((10_000, 4), dtype=np.float32)
    X[:, 3] *= 100
    model = vecpipe.fit(X, spec)
    X[9_000, 3] = 1e6
    emb = pa.FixedSizeListArray.from_arrays(X.ravel(), 4)
    source = store(pa.table({"emb": emb}), tmp_path / "docs.parquet")
    with pytest.raises(InputError, match="emb: row 9000 holds a value beyond 65504"):
        apply_model(source, model, tmp_path / "out.parquet")
    with pytest.raises(InputError, match="emb: row 9000 holds a value beyond 65504"):
        apply_model(source, model, tmp_path / "out.parquet", part_rows=8_500, threads=2)


def test_a_code_of_another_length_is_told_by_row_of_the_table(tmp_path):
    codes = [b"abcd"] * 10_000
    codes[9_000] = b"abc"
    source = store(pa.table({"code": codes}), tmp_path / "codes.parquet")
    model = vecpipe.fit(np.eye(4, dtype=np.float32), "int8")
    with pytest.raises(InputError, match="code: row 9000 holds 3 bytes"):
        apply_model(source, model, tmp_path / "out.parquet", decode=True)


def test_a_folder_of_the_users_where_parts_would_go_is_refused_and_left_alone(tmp_path, table, model):
    source, target = store(table, tmp_path / "docs.parquet"), tmp_path / "out.parquet"
    mine = tmp_path / "out.parquet.partial"
    for again in (False, True):
        mine.mkdir()
        (mine / "notes.txt").write_text("mine")
        if again:
            assert apply_model(source, model, target).rows == ROWS
        else:
            with pytest.raises(InputError, match=r"partial holds 'notes.txt', which is no unfinished work"):
                apply_model(source, model, target)
        assert [path.name for path in mine.iterdir()] == ["notes.txt"]
        shutil.rmtree(mine)
        apply_model(source, model, target)


@pytest.mark.parametrize("into", ["DOCS", "main.docs", '"docs"', 'Main."Docs"'])
def test_a_table_is_itself_however_it_is_written(tmp_path, table, model, into):
    source = store(table, tmp_path / "docs.duckdb")
    with pytest.raises(InputError, match="source and target are the same"):
        apply_model(source, model, source, table="docs", into=into, overwrite=True)


def test_a_folder_as_target_is_refused_before_anything_is_computed(tmp_path, table, model):
    source = store(table, tmp_path / "docs.parquet")
    (tmp_path / "out.parquet").mkdir()
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"out.parquet is a folder"):
            apply_model(source, model, tmp_path / "out.parquet", overwrite=overwrite)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("values", ["id * 1_000_000_000_000", "NULL::BIGINT", "'x'"])
def test_a_column_that_hides_the_row_ids_is_refused(tmp_path, table, model, values):
    source = store(table, tmp_path / "docs.duckdb")
    with duckdb.connect(str(source)) as con:
        con.execute(f"CREATE TABLE numbered AS SELECT *, {values} AS RowId FROM docs")
    with pytest.raises(InputError, match="has a column 'rowid', which hides the row ids"):
        apply_model(source, model, tmp_path / "out.parquet", table="numbered")


def test_names_that_are_one_name_to_duckdb_are_refused_there(tmp_path, table, model):
    source = store(table, tmp_path / "docs.parquet")
    with pytest.raises(InputError, match="'id' and 'ID' are one name in DuckDB"):
        apply_model(source, model, tmp_path / "out.duckdb", into="docs", output="ID")
    apply_model(source, model, tmp_path / "out.parquet", output="ID")
    assert load(tmp_path / "out.parquet").column_names == ["id", "emb", "title", "ID"]
    assert leftovers(tmp_path) == []


def test_columns_to_keep_are_a_list(tmp_path, table, model):
    with pytest.raises(InputError, match="keep is 'id'; expected a list of names"):
        apply_model(store(table, tmp_path / "docs.parquet"), model, tmp_path / "out.parquet", keep="id")
