"""Models in a LanceDB database: what goes in comes out, from and to DuckDB and files, also with several writers."""

from __future__ import annotations

import inspect
import multiprocessing
import subprocess
import sys
from itertools import chain
from pathlib import Path

import lancedb
import pytest
from conftest import anisotropic

import vecpipe
import vecpipe.lancedb as vl
from vecpipe.errors import EngineError, ModelFormatError, ModelNotFoundError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.sketch import Sketch


def fitted(spec: str, seed: int = 0) -> Model:
    sketch = Sketch(8)
    sketch.update(anisotropic(200, 8, seed))
    return fit_sketch(sketch, spec)


@pytest.fixture
def db(tmp_path):
    return lancedb.connect(tmp_path / "db")


def test_a_stored_model_comes_back_byte_for_byte_in_another_connection(db, tmp_path):
    model = fitted("center | pca(4) | int8")
    assert vl.save_model(db, "docs", model) == 1
    again = vl.load_model(lancedb.connect(tmp_path / "db"), "docs")
    assert again.to_bytes() == model.to_bytes()
    assert again.hash == model.hash


def test_a_model_goes_from_duckdb_to_lancedb_to_a_file_and_back_in_one_call_each(db, con, tmp_path):
    model = fitted("normalize | int8")
    vecpipe.save_model(con, "docs", model)
    vl.save_model(db, "docs", vecpipe.load_model(con, "docs"))
    vl.load_model(db, "docs").save(tmp_path / "docs.vecpipe")
    vecpipe.save_model(con, "from file", Model.load(tmp_path / "docs.vecpipe"))
    assert (tmp_path / "docs.vecpipe").read_bytes() == model.to_bytes()
    rows = con.execute("SELECT model FROM vecpipe.models ORDER BY name").fetchall()
    assert rows == [(model.to_bytes(),), (model.to_bytes(),)]


def test_the_newest_version_wins_and_an_older_one_can_be_named(db):
    first, second = fitted("int8", 1), fitted("int8", 2)
    assert [vl.save_model(db, "docs", model) for model in (first, second, second)] == [1, 2, 2]
    assert vl.load_model(db, "docs").hash == second.hash
    assert vl.load_model(db, "docs", version=1).hash == first.hash
    assert vl.save_model(db, "docs", first) == 3
    assert vl.load_model(db, "docs").hash == first.hash


def test_the_list_is_that_of_duckdb(db, con):
    for name, spec in [("b", "int8"), ("a", "pca(3)"), ("b", "binary")]:
        vl.save_model(db, name, fitted(spec))
        vecpipe.save_model(con, name, fitted(spec))
    columns = "* EXCLUDE (created_at)"
    listed = vl.list_models(db)
    expected = con.execute(f"SELECT {columns} FROM vec_models()").fetchall()
    assert [tuple(row.values()) for row in listed.drop_columns("created_at").to_pylist()] == expected
    assert listed.column_names == con.sql("FROM vec_models()").to_arrow_table().column_names
    stored = set(db.open_table("vecpipe_models").schema.names)
    assert stored == set(con.sql("SELECT * EXCLUDE (header) FROM vecpipe.models").to_arrow_table().column_names)


def test_a_database_without_a_catalog_lists_nothing_and_is_left_alone(db):
    assert len(vl.list_models(db)) == 0
    with pytest.raises(ModelNotFoundError, match="no model is named 'docs'; the database has no table vecpipe_models"):
        vl.load_model(db, "docs")
    assert db.list_tables().tables == []


def test_a_name_that_is_not_there_is_an_error_that_lists_those_that_are(db):
    vl.save_model(db, "it's", fitted("int8"))
    assert vl.load_model(db, "it's").spec == "int8"
    with pytest.raises(ModelNotFoundError, match="'docs'; there are: it's"):
        vl.load_model(db, "docs")
    with pytest.raises(ModelNotFoundError, match="has no version 7; there are: 1"):
        vl.load_model(db, "it's", version=7)
    for number in range(22):
        vl.save_model(db, f"m{number:02}", fitted("int8"))
    with pytest.raises(ModelNotFoundError, match=r"there are: it's, m00, .*, m18 \.\.\. and 3 more$"):
        vl.load_model(db, "docs")


def test_a_damaged_model_is_refused(db):
    vl.save_model(db, "docs", fitted("int8"))
    db.open_table("vecpipe_models").update(values={"model": b"not a model at all"})
    with pytest.raises(ModelFormatError):
        vl.load_model(db, "docs")


def test_a_table_of_somebody_else_by_that_name_is_an_engine_error(db):
    db.create_table("vecpipe_models", [{"x": 1}])
    with pytest.raises(EngineError, match="store the model 'docs'"):
        vl.save_model(db, "docs", fitted("int8"))
    with pytest.raises(EngineError, match="load the model 'docs'"):
        vl.load_model(db, "docs")


def save_some(job: tuple[str, int]) -> list[int]:
    folder, seed = job
    db = lancedb.connect(folder)
    return [vl.save_model(db, "docs", fitted("int8", 10 * seed + number)) for number in range(4)]


def test_processes_that_store_at_once_all_get_a_version_of_their_own(tmp_path):
    folder = str(tmp_path / "db")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        versions = [*chain(*pool.map(save_some, [(folder, 1), (folder, 2)]))]
    assert sorted(versions) == list(range(1, 9))
    assert len(set(vl.list_models(lancedb.connect(folder))["hash"].to_pylist())) == 8


def test_importing_the_module_does_not_import_lancedb():
    code = "import sys; import vecpipe.lancedb; print({m.split('.')[0] for m in sys.modules} & {'lancedb', 'lance'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there_sorted_and_explained():
    assert list(vl.__all__) == sorted(vl.__all__)
    for name in vl.__all__:
        assert inspect.getdoc(getattr(vl, name)), f"{name} has no docstring"
