"""Columns that a model writes in a LanceDB table: right in every row, and only new and changed rows written again."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import fixed
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.index import BTree
from lancedb_data import DATA, DIM, check, fitted, make_table, rows

import vecpipe.lancedb as vl
from vecpipe.engines.lancedb.backfill import checkpoint_folder
from vecpipe.errors import CapabilityError, EngineError, InputError

SPECS = {
    "normalize | int4": pa.binary(DIM // 2),
    "center | binary": pa.list_(pa.uint8(), DIM // 8),
    "center | pca(4)": pa.list_(pa.float32(), 4),
    "transform_code(12)": pa.binary(12),
}


@pytest.fixture
def db(tmp_path):
    return lancedb.connect(tmp_path / "db")


@pytest.fixture
def table(db):
    return make_table(db)


@pytest.mark.parametrize("spec", SPECS)
def test_a_column_holds_what_the_model_gives_in_every_row(table, spec):
    model = fitted(spec)
    before = table.to_arrow()
    seen = []
    done = vl.add_column(table, "code", model, part_rows=300, progress=lambda *at: seen.append(at))
    assert table.schema.field("code").type == SPECS[spec]
    assert (done.rows, done.resumed, done.invalid, done.behind) == (1_980, 0, 0, 0)
    assert done.version == table.version
    assert seen[-1] == (1_980, 1_980)
    assert seen == sorted(seen)
    check(table, "code", model)
    assert table.to_arrow().drop_columns("code") == before


def test_lists_halves_and_doubles_are_sources_too(db):
    vectors = pa.array([row.tolist() for row in DATA[:50]])
    table = db.create_table("odd", pa.table({"v": vectors, "h": fixed(DATA[:50].astype(np.float16))}))
    for source in ("v", "h"):
        vl.add_column(table, f"code_{source}", fitted("int8"), source=source)
        check(table, f"code_{source}", fitted("int8"), source)


def test_an_empty_table_gets_an_empty_column_and_is_filled_later(db):
    table = db.create_table("docs", schema=rows(0, 1).schema)
    assert vl.add_column(table, "code", fitted("int8")).rows == 0
    table.add(rows(0, 10))
    assert vl.refresh(table, "code").rows == 10
    check(table, "code", fitted("int8"))


def test_metadata_names_model_version_and_hash_and_the_catalog_holds_the_bytes(db, table):
    model = fitted("int8")
    vl.save_model(db, "docs", fitted("int8", seed=9))
    vl.add_column(table, "code", model, name="docs")
    about = table.schema.field("code").metadata
    named = {key.decode(): value.decode() for key, value in about.items() if b":source" not in key}
    assert int(named.pop("vecpipe:before")) < table.version
    assert named.pop("vecpipe:run")
    assert named == {
        "vecpipe:model": "docs",
        "vecpipe:version": "2",
        "vecpipe:hash": model.hash,
        "vecpipe:spec": "int8",
        "lancedb:description": "int8 of vector, by vecpipe model docs version 2",
    }
    assert vl.load_model(db, "docs", 2).to_bytes() == model.to_bytes()
    assert vl.list_columns(table).to_pylist() == [
        {
            "column": "code",
            "source": "vector",
            "type": f"fixed_size_binary[{DIM}]",
            "model": "docs",
            "version": 2,
            "spec": "int8",
            "hash": model.hash,
            "behind": 0,
        }
    ]


def test_a_model_of_the_catalog_can_be_named(db, table):
    vl.save_model(db, "small", fitted("int4"))
    vl.add_column(table, "code", "small")
    check(table, "code", fitted("int4"))
    assert vl.list_columns(table)["model"].to_pylist() == ["small"]


def test_binary_codes_are_searched_by_hamming_distance_and_the_raw_column_without_a_name(table):
    model = fitted("center | binary")
    vl.add_column(table, "bits", model)
    vl.add_column(table, "same_width", fitted("int8"))  # as many bytes as the vector has numbers
    q = DATA[42]
    assert table.search(q).limit(1).to_list()[0]["id"] == 42
    bits = model.encode(q[None])[0][0]
    nearest = table.search(bits, vector_column_name="bits").distance_type("hamming").limit(1).to_list()[0]
    assert nearest["_distance"] == 0


def test_codes_are_blobs_for_duckdb_which_scores_them(table, con):
    model = fitted("normalize | int8")
    vl.add_column(table, "code", model)
    import vecpipe

    vecpipe.save_model(con, "docs", model)
    lance_rows = table.to_lance()  # noqa: F841 (DuckDB finds it by name)
    scored = con.execute(
        "SELECT id, vec_score(code, vec_query('docs', $q)) FROM lance_rows WHERE code IS NOT NULL ORDER BY id",
        {"q": DATA[7].tolist()},
    ).fetchall()
    codes = table.search().where("code IS NOT NULL").select(["id", "code"]).to_arrow().sort_by("id")
    matrix = np.frombuffer(b"".join(codes["code"].to_pylist()), np.uint8).reshape(len(codes), -1)
    np.testing.assert_allclose([s for _, s in scored], model.score(model.prepare(DATA[7:8]), matrix)[0], atol=1e-5)


# What is written again ---------------------------------------------------------------------------------------------


def test_a_refresh_writes_new_and_changed_rows_only(table):
    model = fitted("normalize | int4")
    vl.add_column(table, "code", model)
    assert vl.refresh(table, "code").rows == 0
    table.add(rows(2_000, 2_030))
    assert vl.list_columns(table)["behind"].to_pylist() == [30]
    assert vl.refresh(table, "code").rows == 30
    table.update(where="id = 5", values={"vector": DATA[99].tolist()})
    assert vl.refresh(table, "code").rows == 1
    changed = pa.table({"id": [8, 9], "vector": fixed(DATA[100:102])})
    table.merge_insert("id").when_matched_update_all().execute(changed)
    assert vl.refresh(table, "code").rows == 2
    table.delete("id % 7 = 1")
    assert vl.refresh(table, "code").rows == 0
    table.add_columns({"twice": "id * 2"})
    assert vl.refresh(table, "code").rows == 0
    check(table, "code", model)


def test_a_compacted_table_is_checked_again_and_right(table):
    model = fitted("normalize | int4")
    vl.add_column(table, "code", model)
    table.update(where="id = 5", values={"vector": DATA[99].tolist()})
    table.optimize()
    assert vl.refresh(table, "code").rows == table.count_rows()
    check(table, "code", model)
    assert vl.refresh(table, "code").rows == 0


OPERATIONS = ["append", "update", "merge", "delete", "optimize", "refresh", "null"]


@settings(max_examples=8)
@given(st.lists(st.sampled_from(OPERATIONS), min_size=2, max_size=6))
def test_whatever_happens_to_a_table_a_refresh_makes_it_what_a_clean_run_would(tmp_path_factory, operations):
    db = lancedb.connect(tmp_path_factory.mktemp("db"))
    table = db.create_table("docs", rows(0, 60), storage_options={"new_table_enable_stable_row_ids": "true"})
    model = fitted("normalize | int4")
    vl.add_column(table, "code", model, part_rows=25)
    for step, operation in enumerate(operations):
        start = 100 * (step + 1)
        if operation == "append":
            table.add(rows(start, start + 20, nulls=True), on_bad_vectors="null")
        elif operation == "update":
            table.update(where=f"id % 9 = {step}", values={"vector": DATA[start].tolist()})
        elif operation == "merge":
            part = pa.table({"id": [1, 2, 50], "vector": fixed(DATA[start : start + 3])})
            table.merge_insert("id").when_matched_update_all().execute(part)
        elif operation == "delete":
            table.delete(f"id % 11 = {step}")
        elif operation == "optimize":
            table.optimize()
        elif operation == "null":
            table.update(where=f"id % 13 = {step}", values={"vector": None})
        else:
            vl.refresh(table, "code", part_rows=25)
    vl.refresh(table, "code", part_rows=25)
    check(table, "code", model)
    assert vl.list_columns(table)["behind"].to_pylist() == [0]


def test_an_index_on_the_column_never_answers_with_values_from_before_a_refresh(table):
    model = fitted("center | pca(4)")
    vl.add_column(table, "small", model)
    table.create_index("small", config=lancedb.index.IvfFlat(num_partitions=2))
    far = (100 * DATA[0]).tolist()
    table.update(where="id = 5", values={"vector": far})
    vl.refresh(table, "small")
    q = model.transform(np.array([far], np.float32))[0][0]
    best = table.search(q, vector_column_name="small").nprobes(2).limit(1).to_list()[0]
    assert (best["id"], round(best["_distance"], 3)) == (5, 0)
    old = model.transform(DATA[5:6])[0][0]
    found = table.search(old, vector_column_name="small").nprobes(2).limit(2_000).to_list()
    assert [row["_distance"] > 1 for row in found if row["id"] == 5] == [True]


# What is refused ---------------------------------------------------------------------------------------------------


def test_a_bad_row_is_an_error_that_names_it_and_leaves_the_table_alone(db, tmp_path):
    table = db.create_table("bad", pa.table({"id": np.arange(3), "v": pa.array([[1.0] * DIM, [2.0], None])}))
    version = table.version
    with pytest.raises(InputError, match="v: row 1 has 1 dimensions, expected 16"):
        vl.add_column(table, "code", fitted("int8"), source="v")
    table.checkout_latest()
    assert (table.version, table.schema.names) == (version, ["id", "v"])
    assert not [path for path in (tmp_path / "db").iterdir() if "partial" in path.name]
    done = vl.add_column(table, "code", fitted("int8"), source="v", on_invalid="null")
    assert (done.rows, done.invalid) == (3, 1)
    check(table, "code", fitted("int8"), "v")


def test_rows_are_numbered_past_deleted_ones(db):
    vectors = pa.array([[float(i)] * DIM for i in range(40)] + [[1.0]])
    table = db.create_table("docs", pa.table({"id": np.arange(41), "v": vectors}))
    table.delete("id < 10")
    with pytest.raises(InputError, match="v: row 30 has 1 dimensions"):
        vl.add_column(table, "code", fitted("int8"), source="v", part_rows=8)


def test_another_model_is_refused_with_both_hashes(table):
    first, second = fitted("int8"), fitted("int8", seed=1)
    vl.add_column(table, "code", first)
    for call in (vl.add_column, vl.refresh):
        with pytest.raises(InputError, match=f"{first.hash}.*{second.hash}"):
            call(table, "code", second)
    assert vl.add_column(table, "code", first).rows == 0


def test_what_does_not_fit_is_refused_before_anything_is_written(db, table):
    vl.add_column(table, "code", fitted("int8"))
    version = table.version
    cases = [
        (lambda: vl.add_column(table, "note", fitted("int8")), InputError, "'note' that no model writes"),
        (lambda: vl.add_column(table, "x", fitted("int8"), source="nope"), InputError, "no column 'nope'"),
        (lambda: vl.add_column(table, "x", fitted("int8"), part_rows=0), InputError, "part_rows is 0"),
        (lambda: vl.add_column(table, "x", "nobody"), LookupError, "no model is named 'nobody'"),
        (lambda: vl.refresh(table, "note"), InputError, "no model writes the column 'note'; models write code"),
        (lambda: vl.refresh(table, "nope"), InputError, "no column 'nope'; there are id, vector"),
        (lambda: vl.drop(table, "vector"), InputError, "no model writes the column 'vector'"),
        (lambda: vl.rollback(table, "vector"), InputError, "no run has written 'vector'"),
        (lambda: vl.add_column("docs", "x", fitted("int8")), CapabilityError, "expected a table"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
    narrow = db.create_table("narrow", pa.table({"vector": fixed(DATA[:5, :8])}))
    with pytest.raises(InputError, match="'vector' has 8 dimensions, expected 16"):
        vl.add_column(narrow, "code", fitted("int8"))
    table.checkout_latest()
    assert table.version == version


def test_a_branch_is_refused(table):
    branch = table.branches.create("try")
    with pytest.raises(CapabilityError, match="on the branch 'try'"):
        vl.add_column(branch, "code", fitted("int8"))


def test_unfinished_work_on_an_object_store_needs_a_place():
    with pytest.raises(InputError, match="checkpoint="):
        checkpoint_folder("s3://bucket/docs.lance", "code", None)
    assert checkpoint_folder("s3://bucket/docs.lance", "code", "here").name == "here"
    assert checkpoint_folder("/db/docs.lance", "a code", None).as_posix() == "/db/docs.a_code.partial"


# Going back --------------------------------------------------------------------------------------------------------


def test_a_rollback_is_one_call(table):
    before = table.to_arrow()
    vl.add_column(table, "code", fitted("int8"))
    vl.rollback(table, "code")
    assert table.to_arrow() == before
    with pytest.raises(InputError, match="has no version to go back to"):
        vl.rollback(table, "code")


def test_a_refresh_is_rolled_back_to_what_was_there_before_it(table):
    vl.add_column(table, "code", fitted("int8"))
    table.add(rows(2_000, 2_100))
    before = table.to_arrow()
    vl.refresh(table, "code", part_rows=10)
    vl.rollback(table, "code")
    assert table.to_arrow() == before
    with pytest.raises(InputError, match=r"would lose what others have written since: .*Append"):
        vl.rollback(table, "code")


def test_lancedb_optimizes_and_cleans_up_whatever_was_written(table):
    vl.add_column(table, "code", fitted("int8"))
    table.add(rows(2_000, 2_100))
    vl.refresh(table, "code")
    table.optimize(cleanup_older_than=timedelta(0))
    assert len(table.list_versions()) == 1
    with pytest.raises(InputError, match=r"version \d+ of 'docs', before the last run .*, has been cleaned up"):
        vl.rollback(table, "code")


def test_a_compaction_is_no_reason_to_refuse_a_rollback(table):
    table.add(rows(2_000, 2_100))
    vl.add_column(table, "code", fitted("int8"))
    table.optimize()
    vl.rollback(table, "code")
    assert table.schema.names == ["id", "vector", "note"]
    assert table.count_rows() == 2_080


def test_a_rollback_that_would_lose_an_index_is_refused(table):
    table.create_index("id", config=BTree())
    table.add(rows(2_000, 2_100))
    vl.add_column(table, "code", fitted("int8"))
    table.optimize()
    with pytest.raises(InputError, match=r"would lose what others have written since: CreateIndex \(version"):
        vl.rollback(table, "code")


def test_a_rollback_that_would_lose_rows_is_refused(table):
    vl.add_column(table, "code", fitted("int8"))
    table.add(rows(2_000, 2_001))
    with pytest.raises(InputError, match=r"would lose what others have written since: Append \(version"):
        vl.rollback(table, "code")
    assert table.count_rows() == 1_981


def test_a_dropped_column_leaves_nothing_but_its_model(db, table, tmp_path):
    vl.add_column(table, "code", fitted("int8"))
    vl.drop(table, "code")
    assert table.schema.names == ["id", "vector", "note"]
    assert vl.load_model(db, "docs.code").hash == fitted("int8").hash
    vl.add_column(table, "code", fitted("int4"))
    check(table, "code", fitted("int4"))


# Computed by LanceDB -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["center | pca(5)", "truncate(4)", "standardize", "whiten", "center"])
def test_a_compiled_column_is_what_the_model_gives(table, spec):
    model = fitted(spec)
    done = vl.add_column(table, "small", model, compiled=True)
    assert done.rows >= 1_956
    check(table, "small", model)
    assert vl.list_columns(table).select(["column", "spec", "behind"]).to_pylist() == [
        {"column": "small", "spec": model.spec, "behind": None}
    ]
    table.add(rows(2_000, 2_030))
    table.update(where="id = 5", values={"vector": DATA[99].tolist()})
    assert vl.refresh(table, "small").rows == 31
    check(table, "small", model)
    vl.drop(table, "small")
    assert "small" not in table.schema.names


def test_what_is_not_linear_cannot_be_compiled(table):
    for spec in ("normalize", "int8", "center | normalize | pca(4)"):
        with pytest.raises(CapabilityError, match="cannot be compiled to SQL: only chains of affine steps"):
            vl.add_column(table, "small", fitted(spec), compiled=True)
    assert table.schema.names == ["id", "vector", "note"]


# Without vecpipe ---------------------------------------------------------------------------------------------------


ALONE = """
import sys
sys.modules["vecpipe"] = None
import lancedb

t = lancedb.connect(sys.argv[1]).open_table("docs")
new = [1000.0] * 16
t.add([{"id": 5000, "vector": new, "note": "new"}])
assert t.search(new).limit(1).to_list()[0]["id"] == 5000
assert t.count_rows() == 1_981
assert t.refresh_column("small").rows_filled == 1
t.update(where="id = 1", values={"note": "changed"})
t.delete("id = 2")
t.optimize()
"""


def test_a_process_without_vecpipe_adds_rows_searches_and_refreshes_what_is_compiled(table, tmp_path):
    code, small = fitted("int8"), fitted("center | pca(5)")
    vl.add_column(table, "code", code)
    vl.add_column(table, "small", small, compiled=True)
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "db")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    vl.refresh(table, "code")
    vl.refresh(table, "small")
    check(table, "code", code)
    check(table, "small", small)
    assert table.count_rows() == 1_980


def test_what_lancedb_refuses_says_what_was_being_done(table, monkeypatch):
    monkeypatch.setattr(type(table), "add_columns", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no " * 900)))
    with pytest.raises(EngineError, match="LanceDB refused to fill the column 'code' of 'docs'") as caught:
        vl.add_column(table, "code", fitted("int8"))
    assert len(str(caught.value)) < 1_200


@pytest.mark.parametrize("name", ["", "a.b", "a`b", "_rowid", "_rowaddr", "_rowoffset", "_distance"])
def test_a_name_that_lancedb_cannot_have_is_refused_before_anything_is_computed(table, tmp_path, name):
    def progress(done: int, total: int) -> None:
        raise AssertionError("computed")

    for options in ({"progress": progress}, {"compiled": True}):
        with pytest.raises(InputError, match=r"cannot be the name of a column"):
            vl.add_column(table, name, fitted("truncate(4)"), **options)
    assert table.schema.names == ["id", "vector", "note"]


def test_what_only_reads_leaves_a_table_at_the_version_it_stands_at(table):
    vl.add_column(table, "code", fitted("normalize | int8"))
    filled = table.version
    table.add(rows(2_000, 2_100))
    table.tags.create("before", filled)
    table.checkout("before")
    assert vl.list_columns(table)["behind"].to_pylist() == [0]
    vl.train_index(table, partitions=2)
    assert table.version == filled
    table.checkout_latest()
    assert vl.list_columns(table)["behind"].to_pylist() == [100]
