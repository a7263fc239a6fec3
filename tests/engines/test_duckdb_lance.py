"""LanceDB tables in DuckDB: the same rows and functions, only what is needed read, and streams written back."""

from __future__ import annotations

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import fixed, vectors

import vecpipe
import vecpipe.duckdb as vd
from vecpipe.engines.lancedb.catalog import load_model
from vecpipe.engines.lancedb.search import search
from vecpipe.errors import CapabilityError, EngineError, InputError, ModelNotFoundError


@pytest.fixture
def db(tmp_path):
    return lancedb.connect(tmp_path / "db")


@pytest.fixture
def attached(con, db, X):
    db.create_table("docs", pa.table({"id": np.arange(len(X)), "vector": fixed(X), "grp": np.arange(len(X)) % 7}))
    assert vd.attach_lance(con, db) == ["lance.docs"]
    return con


def test_vectors_come_as_arrays_and_all_functions_work_on_them(attached, X):
    assert attached.sql("SELECT typeof(vector) FROM lance.docs LIMIT 1").fetchall() == [("FLOAT[12]",)]
    got = vectors(attached.sql("SELECT vec_normalize(vector) FROM lance.docs ORDER BY id"))
    np.testing.assert_allclose(got, X / np.linalg.norm(X, axis=1, keepdims=True), rtol=1e-6)
    attached.execute(
        "INSERT INTO vecpipe.models BY NAME SELECT 'm' AS name, vec_fit(vector, 'int8') AS model FROM lance.docs"
    )
    exact = np.argsort(-(X @ X[5]) / np.linalg.norm(X, axis=1))[:3]
    found = attached.execute(
        "SELECT id FROM vec_search('lance.docs', $1::FLOAT[12], rerank := 'vector', k := 3)", [X[5].tolist()]
    ).fetchall()
    assert [row for (row,) in found] == exact.tolist()
    attached.execute("CREATE TABLE coded AS SELECT id, vec_encode('m', vector) AS code, vector FROM lance.docs")
    found = attached.execute(
        "SELECT id FROM vec_search('coded', $1::FLOAT[12], model := 'm', code := 'code', rerank := 'vector', k := 3)",
        [X[5].tolist()],
    ).fetchall()
    assert [row for (row,) in found] == exact.tolist()


def test_functions_that_read_a_query_see_attached_tables_too(attached, X):
    fitted = attached.execute(
        "SELECT vec_fit_query('q', 'int8', 'SELECT vector FROM lance.docs').fitted_rows"
    ).fetchall()
    assert fitted == [(len(X),)]


def test_only_the_columns_and_rows_a_statement_needs_are_asked_of_lance(attached, monkeypatch):
    import lance

    asked = []
    scanner = lance.LanceDataset.scanner
    monkeypatch.setattr(
        lance.LanceDataset, "scanner", lambda self, **options: asked.append(options) or scanner(self, **options)
    )
    rows = attached.sql("SELECT id FROM lance.docs WHERE id BETWEEN 3 AND 9 AND grp = 4").fetchall()
    assert rows == [(4,)]
    assert asked[0]["columns"] == ["id"]
    assert all(part in str(asked[0]["filter"]) for part in ("(id >= 3)", "(id <= 9)", "(grp == 4)"))
    plan = attached.sql("EXPLAIN SELECT id FROM lance.docs WHERE id = 3").fetchall()[0][1]
    assert "Projections: id" in plan
    assert 'Filters: "id" = 3' in plan


def test_a_table_is_read_at_the_version_it_had_until_it_is_attached_again(attached, db, X):
    count = "SELECT count(*) FROM lance.docs"
    db.open_table("docs").delete("id < 10")
    assert attached.sql(count).fetchall() == [(len(X),)]
    vd.attach_lance(attached, db)
    assert attached.sql(count).fetchall() == [(len(X) - 10,)]


def test_the_path_another_name_and_a_choice_of_tables(con, db, tmp_path, X):
    db.create_table("a-b", pa.table({"id": [1]}))
    db.create_table("other", pa.table({"id": [2]}))
    assert vd.attach_lance(con, tmp_path / "db", name="my lake", tables=["a-b"]) == ["my lake.a-b"]
    assert con.sql('SELECT id FROM "my lake"."a-b"').fetchall() == [(1,)]
    with pytest.raises(Exception, match="other"):
        con.sql('FROM "my lake".other')


def test_a_running_result_of_the_connection_is_an_error_that_says_so_and_goes_on(attached, db):
    reader = attached.sql("SELECT id FROM range(100000) t(id)").to_arrow_reader(1000)
    first = reader.read_next_batch()
    with pytest.raises(EngineError, match="has an open result"):
        vd.attach_lance(attached, db)
    assert first.num_rows + sum(batch.num_rows for batch in reader) == 100_000


def test_what_cannot_be_attached_says_why(con, db, tmp_path, X):
    db.create_table("halves", pa.table({"id": [1], "vector": fixed(X[:1].astype(np.float16))}))
    with pytest.raises(CapabilityError, match=r"'halves' has float16 columns \(vector\)"):
        vd.attach_lance(con, db)
    with pytest.raises(EngineError, match="nothing"):
        vd.attach_lance(con, db, tables=["nothing"])
    con.execute(f"ATTACH '{tmp_path / 'file.duckdb'}' AS lance")
    with pytest.raises(EngineError, match="has a database called 'lance' already"):
        vd.attach_lance(con, db, tables=[])
    import duckdb

    with pytest.raises(EngineError, match=r"Call vecpipe\.register\(con\) first"):
        vd.attach_lance(duckdb.connect(), db, tables=[])


# Writing


@pytest.fixture
def model(docs):
    docs.execute(
        "INSERT INTO vecpipe.models BY NAME SELECT 'm' AS name, vec_fit(emb, 'normalize | int8') AS model FROM docs"
    )
    docs.execute(
        "INSERT INTO vecpipe.models BY NAME SELECT 'b' AS name, vec_fit(emb, 'center | binary') AS model FROM docs"
    )
    docs.execute("INSERT INTO vecpipe.models BY NAME SELECT 'z' AS name, vec_fit(emb, 'pca(4)') AS model FROM docs")
    return vecpipe.load_model(docs, "m")


CODED = """SELECT id, emb AS vector, vec_encode('m', emb) AS code, vec_encode('b', emb) AS bits,
           vec_transform('z', emb)::FLOAT[4] AS small FROM docs"""
MODELS = {"code": "m", "bits": "b", "small": "z"}


def test_a_query_streams_into_a_table_whose_columns_name_their_models_and_can_be_searched(docs, db, X, model):
    assert vd.write_lance(docs, CODED, db, "docs", models=MODELS) == len(X)
    table = db.open_table("docs")
    assert table.count_rows() == len(X)
    kinds = [table.schema.field(name).type for name in MODELS]
    assert kinds == [pa.binary(12), pa.list_(pa.uint8(), 2), pa.list_(pa.float32(), 4)]
    assert load_model(db, "m").to_bytes() == model.to_bytes()
    exact = np.argsort(-(X @ X[5]) / np.linalg.norm(X, axis=1))[:3].tolist()
    for column in MODELS:
        found = search(table, X[5], column=column, rerank="vector", k=3, oversample=100)
        assert found["id"].to_pylist() == exact


def test_a_version_of_a_model_is_stored_under_the_name_alone(docs, db, model):
    vecpipe.save_model(docs, "m", vecpipe.load_model(docs, "z"))
    [(first,)] = docs.execute("SELECT min(version) FROM vecpipe.models WHERE name = 'm'").fetchall()
    sql = f"SELECT id, vec_encode('m@{first}', emb) AS code FROM docs"
    vd.write_lance(docs, sql, db, "docs", models={"code": f"m@{first}"})
    assert load_model(db, "m").hash == model.hash


def test_rows_are_appended_by_the_same_model_only(docs, db, X, model):
    vd.write_lance(docs, CODED, db, "docs", models=MODELS)
    assert vd.write_lance(docs, CODED + " WHERE id < 5", db, "docs", mode="append", models=MODELS) == 5
    assert db.open_table("docs").count_rows() == len(X) + 5
    docs.execute(
        "INSERT INTO vecpipe.models BY NAME SELECT 'm' AS name, vec_fit(-emb, 'normalize | int8') AS model FROM "
        "(SELECT emb FROM docs LIMIT 50) t(emb)".replace("-emb", "vec_scale(emb, -2)")
    )
    with pytest.raises(InputError, match="was written by model 'm' version"):
        vd.write_lance(docs, CODED + " WHERE id < 5", db, "docs", mode="append", models=MODELS)
    with pytest.raises(InputError, match="a query that names no model"):
        vd.write_lance(docs, CODED + " WHERE id < 5", db, "docs", mode="append")
    assert db.open_table("docs").count_rows() == len(X) + 5


def test_a_query_that_fails_on_the_way_leaves_no_table_and_says_what_failed(docs, db):
    sql = "SELECT CASE WHEN i < 50000 THEN i ELSE error('stop here') END AS i FROM range(60000) t(i)"
    with pytest.raises(EngineError, match="stop here"):
        vd.write_lance(docs, sql, db, "broken")
    with pytest.raises(ValueError, match="not found"):
        db.open_table("broken")


def test_what_cannot_be_written_says_why(docs, db, model):
    vd.write_lance(docs, "SELECT 1 AS i", db, "t")
    with pytest.raises(EngineError, match="already exists"):
        vd.write_lance(docs, "SELECT 2 AS i", db, "t")
    assert vd.write_lance(docs, "SELECT 2 AS i", db, "t", mode="overwrite") == 1
    with pytest.raises(InputError, match="expected one of create, overwrite, append"):
        vd.write_lance(docs, "SELECT 1", db, "t", mode="upsert")
    with pytest.raises(InputError, match="models names column 'code', but the query returns i"):
        vd.write_lance(docs, "SELECT 1 AS i", db, "u", models={"code": "m"})
    with pytest.raises(ModelNotFoundError, match="nobody"):
        vd.write_lance(docs, "SELECT 1 AS i", db, "u", models={"i": "nobody"})
    with pytest.raises(InputError, match=r"cast it to that in the query"):
        vd.write_lance(docs, "SELECT vec_transform('z', emb) AS s FROM docs", db, "u", models={"s": "z"})
    with pytest.raises(InputError, match="code: row 0 holds 3 bytes, but this model's codes have 12"):
        vd.write_lance(docs, "SELECT 'abc'::BLOB AS code", db, "u", models={"code": "m"})
    with pytest.raises(EngineError, match="in: SELECT nothing"):
        vd.write_lance(docs, "SELECT nothing", db, "u")


def test_from_lance_through_duckdb_back_to_lance_in_one_statement(attached, db, X):
    attached.execute("SELECT vec_fit_query('m', 'normalize | int8', 'SELECT vector FROM lance.docs')")
    sql = "SELECT id, vector, vec_encode('m', vector) AS code FROM lance.docs WHERE grp = 3"
    written = vd.write_lance(attached, sql, db, "third", models={"code": "m"})
    assert written == len(range(3, len(X), 7))
    found = search(db.open_table("third"), X[10], rerank="vector", k=1)
    assert found["id"].to_pylist() == [10]


def test_empty_tables_are_attached_and_empty_results_written(con, db):
    db.create_table("none", schema=pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), 4))]))
    vd.attach_lance(con, db)
    assert con.sql("SELECT count(*), count(vec_norm(vector)) FROM lance.none").fetchall() == [(0, 0)]
    assert vd.write_lance(con, "SELECT * FROM lance.none", db, "again") == 0
    assert db.open_table("again").count_rows() == 0


def test_packed_bits_are_codes_for_all_functions(attached, db, X):
    import vecpipe.lancedb as vl

    table = db.open_table("docs")
    vl.add_column(table, "bits", vecpipe.fit(table.to_arrow().select(["vector"]), "center | binary"), name="b")
    vecpipe.save_model(attached, "b", vl.load_model(db, "b"))
    vd.attach_lance(attached, db)
    packed = np.packbits(X - X.mean(axis=0, dtype=np.float64) > 0, axis=1)
    found = attached.sql(
        "SELECT vec_hamming(a.bits, b.bits) FROM lance.docs a, lance.docs b WHERE b.id = 3 ORDER BY a.id"
    )
    want = np.unpackbits(packed ^ packed[3], axis=1).sum(axis=1)
    assert [row for (row,) in found.fetchall()] == want.tolist()
    nearest = attached.execute(
        "SELECT id FROM vec_search('lance.docs', $1::FLOAT[12], model := 'b', code := 'bits', rerank := 'vector', "
        "k := 1, oversample := 50)",
        [X[3].tolist()],
    )
    assert nearest.fetchall() == [(3,)]
