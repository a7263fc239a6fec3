"""Search in LanceDB tables: against brute force, and refusing what would search with the wrong model or vector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed

import vecpipe
import vecpipe.lancedb as vl
from vecpipe.engines.lancedb import snapshots
from vecpipe.engines.lancedb.catalog import load_model, save_model
from vecpipe.engines.lancedb.search import search, search_async
from vecpipe.engines.lancedb.snapshots import snapshot
from vecpipe.errors import CapabilityError, EngineError, InputError, ModelNotFoundError, SpecError
from vecpipe.metrics.retrieval import nearest


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def marks(name, version, model):
    return {"vecpipe:model": name, "vecpipe:version": str(version), "vecpipe:hash": model.hash}


def columns_of(db, X, specs, **more):
    """A table of vectors and, for each spec, the column that its model writes, marked with the model."""
    arrays, fields = [pa.array(np.arange(len(X))), fixed(X)], [pa.field("id", pa.int64())]
    fields.append(pa.field("vector", arrays[1].type))
    for name, spec in specs.items():
        model = vecpipe.fit(pa.table({"vector": arrays[1]}), spec)
        version = save_model(db, name, model)
        if model.codec is None:
            array = fixed(model.transform(X)[0])
        elif model.codec.name == "binary":
            array = fixed(model.encode(X)[0])
        else:
            array = pa.array([row.tobytes() for row in model.encode(X)[0]], pa.binary(model.bytes_per_vector))
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata=marks(name, version, model)))
    for name, values in more.items():
        arrays.append(pa.array(values))
        fields.append(pa.field(name, arrays[-1].type))
    return pa.table(arrays, schema=pa.schema(fields))


SPECS = {"code": "normalize | int8", "bits": "center | binary", "small": "center | pca(8)"}


def hold_nothing(monkeypatch):
    """As in a process that has searched no table yet."""
    monkeypatch.setattr(snapshots, "_SHELF", snapshots._Shelf())
    monkeypatch.setattr(snapshots, "_HANDLES", weakref.WeakKeyDictionary())


@pytest.fixture
def db(tmp_path, monkeypatch):
    hold_nothing(monkeypatch)
    return lancedb.connect(tmp_path / "db")


@pytest.fixture(name="X")
def rows_of_docs():
    return unit(anisotropic(500, 32))


@pytest.fixture
def docs(db, X):
    words = [f"{('red', 'green', 'blue')[i % 3]} thing number {i}" for i in range(len(X))]
    return db.create_table("docs", columns_of(db, X, SPECS, body=words, grp=np.arange(len(X)) % 10))


def ids(result):
    return result["id"].to_pylist()


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("column", SPECS)
def test_search_with_exact_rerank_finds_the_nearest_rows_in_order(docs, X, column, metric):
    found = search(docs, X[7], column=column, rerank="vector", k=10, oversample=30, metric=metric)
    assert ids(found) == nearest(X[7:8], X, 10, metric)[0].tolist()
    exact = {"cosine": X @ X[7], "ip": X @ X[7], "l2": -np.linalg.norm(X - X[7], axis=1)}[metric]
    np.testing.assert_allclose(found["score"].to_numpy(), exact[ids(found)], atol=1e-3 if metric == "l2" else 1e-6)


def test_search_returns_what_is_asked_for_and_no_vectors_unless_asked(docs, X):
    assert search(docs, X[0], column="code").column_names == ["id", "body", "grp", "score"]
    assert search(docs, X[0], column="code", columns=["vector", "id"]).column_names == ["vector", "id", "score"]
    assert search(docs, X[0], column="code", columns=[], k=3).shape == (3, 1)


def test_several_queries_at_once_give_what_each_gives_alone(docs, X):
    together = search(docs, X[:5], column="code", rerank="vector", k=4)
    assert together["query_index"].to_pylist() == sorted([0, 1, 2, 3, 4] * 4)
    for at in range(5):
        mine = together.filter(pa.array(np.array(together["query_index"]) == at))
        assert mine.drop_columns(["query_index"]).equals(search(docs, X[at], column="code", rerank="vector", k=4))


@pytest.mark.parametrize("column", SPECS)
def test_a_filter_is_applied_before_the_search(docs, X, column):
    found = search(docs, X[7], column=column, rerank="vector", k=5, oversample=20, where="grp = 3")
    among = np.flatnonzero(np.arange(len(X)) % 10 == 3)
    assert ids(found) == among[nearest(X[7:8], X[among], 5, "cosine")[0]].tolist()
    assert search(docs, X[7], column=column, where="grp = 99").num_rows == 0
    assert search(docs, X[7], column=column, rerank="vector", where="grp = 99").column_names == [
        "id", "body", "grp", "score",
    ]  # fmt: skip


@pytest.mark.parametrize("column", SPECS)
def test_k_above_the_number_of_rows_returns_all_rows(docs, X, column):
    assert sorted(ids(search(docs, X[7], column=column, k=10_000, metric="l2"))) == list(range(len(X)))


@pytest.mark.parametrize("column", SPECS)
def test_an_empty_table_gives_no_rows(db, X, column):
    table = db.create_table("empty", columns_of(db, X, SPECS).slice(0, 0))
    found = search(table, X[0], column=column, rerank="vector")
    assert (found.num_rows, found.column_names) == (0, ["id", "score"])


def test_the_async_table_gives_the_same(docs, X, tmp_path):
    async def asked():
        table = await (await lancedb.connect_async(tmp_path / "db")).open_table("docs")
        return await search_async(table, X[3], column="code", rerank="vector", k=6, where="grp < 5")

    assert asyncio.run(asked()).equals(search(docs, X[3], column="code", rerank="vector", k=6, where="grp < 5"))


# What would search with the wrong model or vector


@pytest.mark.parametrize("column", SPECS)
def test_a_query_of_another_width_is_refused(docs, column):
    with pytest.raises(InputError, match=rf"q has 5 dimensions, but the model of column '{column}' takes 32"):
        search(docs, np.ones(5, np.float32), column=column)


def test_a_query_that_went_through_the_model_already_is_refused_with_a_hint(docs):
    with pytest.raises(InputError, match="takes 32; the model is applied here"):
        search(docs, np.ones(8, np.float32), column="small")


@pytest.mark.parametrize("column", SPECS)
def test_another_model_than_the_one_that_wrote_the_column_is_refused_with_both_hashes(db, docs, X, column):
    other = vecpipe.fit(pa.table({"v": fixed(X[:100])}), SPECS[column] + "" if column != "bits" else "binary")
    written = docs.schema.field(column).metadata[b"vecpipe:hash"].decode()
    with pytest.raises(InputError, match=rf"{written[:12]}.*{other.hash[:12]}"):
        search(docs, X[0], column=column, model=other)
    save_model(db, "other", other)
    with pytest.raises(InputError, match="was written by model"):
        search(docs, X[0], column=column, model="other")


def test_a_column_keeps_its_own_version_when_its_model_has_a_newer_one(db, docs, X):
    before = search(docs, X[0], column="code")
    save_model(db, "code", vecpipe.fit(pa.table({"v": fixed(X[:100])}), "normalize | int8"))
    assert search(docs, X[0], column="code").equals(before)
    assert search(docs, X[0], column="code", model="code").equals(before)


def test_an_unmarked_column_is_searched_with_a_model_that_is_given_only(db, docs, X):
    plain = docs.to_arrow().select(["id", "vector", "code"]).replace_schema_metadata(None)
    plain = pa.table(plain.columns, names=plain.column_names)
    table = db.create_table("plain", plain)
    with pytest.raises(InputError, match="does not name the model that wrote it; pass model="):
        search(table, X[0], column="code")
    assert ids(search(table, X[0], column="code", model="code")) == ids(search(docs, X[0], column="code"))
    with pytest.raises(InputError, match="no column of it names a model; pass column="):
        search(table, X[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InputError, "models wrote code, bits, small; pass column="),
        ({"column": "nothing"}, InputError, "has no column 'nothing'; there are id, vector, code"),
        ({"column": "code", "rerank": "nothing"}, InputError, "has no column 'nothing'"),
        ({"column": "code", "rerank": "small"}, InputError, "expected raw vectors of 32 dimensions"),
        ({"column": "code", "columns": ["nothing"]}, InputError, "has no column 'nothing'"),
        ({"column": "code", "k": 0}, InputError, "k is 0; expected at least 1"),
        ({"column": "code", "oversample": 0}, InputError, "oversample is 0"),
        ({"column": "code", "shortlist": -1}, InputError, "shortlist is -1"),
        ({"column": "code", "metric": "dot"}, SpecError, "expected one of cosine, ip, l2"),
        ({"column": "code", "where": "nothing = 1"}, EngineError, "filter='nothing = 1'"),
        ({"column": "small", "where": "nothing = 1"}, EngineError, "filter='nothing = 1'"),
        ({"column": "code", "model": "nobody"}, ModelNotFoundError, "no model is named 'nobody'"),
        ({"column": "code", "use_index": True}, CapabilityError, "use_index is for packed bits"),
        ({"column": "code", "reranker": object()}, InputError, "pass text= too"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_says_why(docs, X, options, error, message):
    with pytest.raises(error, match=message):
        search(docs, X[0], **options)


@pytest.mark.parametrize("q", ["words", [[1.0, 2.0], [3.0]], np.full(32, np.nan, np.float32)])
def test_what_is_no_query_is_refused(docs, q):
    with pytest.raises(InputError, match="q"):
        search(docs, q, column="code")


# Rows without a vector


@pytest.mark.parametrize("column", SPECS)
def test_rows_without_a_code_or_a_raw_vector_are_never_found(db, X, column):
    full = columns_of(db, X, SPECS)
    gone = np.arange(len(X)) % 3 == 0
    kept = np.flatnonzero(~gone).tolist()
    coded = db.create_table("coded", without(full, column, gone), on_bad_vectors="null")
    assert sorted(ids(search(coded, X[0], column=column, k=1_000, metric="l2"))) == kept
    raw = db.create_table("raw", without(full, "vector", gone), on_bad_vectors="null")
    assert sorted(ids(search(raw, X[0], column=column, rerank="vector", k=1_000, metric="l2"))) == kept


def without(table, column, gone):
    """The table with NULL in some rows of a column."""
    at = table.schema.get_field_index(column)
    rows = [None if lost else row for lost, row in zip(gone, table[column].to_pylist(), strict=True)]
    return table.set_column(at, table.schema.field(at), pa.array(rows, table.schema.field(at).type))


@pytest.mark.parametrize("column", SPECS)
def test_a_query_without_direction_finds_nothing_by_cosine(docs, column):
    zero = np.zeros(32, np.float32)
    assert search(docs, zero, column=column, rerank="vector").num_rows == 0
    assert search(docs, zero, column="code").num_rows == 0


# Versions


def test_new_changed_and_deleted_rows_are_seen_and_only_changed_fragments_are_read(docs, X, monkeypatch):
    search(docs, X[0], column="code")
    read = []
    original = type(snapshot(docs))._read
    monkeypatch.setattr(
        type(snapshot(docs)),
        "_read",
        lambda self, column, model, fragments: read.append(len(fragments)) or original(self, column, model, fragments),
    )
    more = docs.to_arrow().slice(0, 3)
    docs.add(more.set_column(0, "id", pa.array([1000, 1001, 1002])))
    assert set(ids(search(docs, X[0], column="code", rerank="vector", k=2))) == {0, 1000}
    assert read == [1]
    docs.delete("id = 0")
    assert ids(search(docs, X[0], column="code", rerank="vector", k=1)) == [1000]
    assert read == [1, 1]
    docs.checkout(1)
    assert ids(search(docs, X[0], column="code", rerank="vector", k=1)) == [0]


def test_a_table_made_anew_under_an_old_name_is_another_table(db, docs, X):
    assert ids(search(docs, X[0], column="code", rerank="vector", k=1)) == [0]
    turned = docs.to_arrow().take(pa.array(np.arange(len(X))[::-1]))
    turned = turned.set_column(0, "id", pa.array(np.arange(len(X))))
    db.drop_table("docs")
    again = db.create_table("docs", turned)
    assert again.version == 1
    assert ids(search(again, X[0], column="code", rerank="vector", k=1)) == [len(X) - 1]


@pytest.mark.parametrize("where", [None, "grp = 3"])
def test_codes_beyond_the_memory_allowed_are_read_for_every_search(docs, X, monkeypatch, where):
    want = search(docs, X[:3], column="code", k=20, where=where)
    hold_nothing(monkeypatch)
    monkeypatch.setenv("VECPIPE_RESIDENT_BYTES", "1000")
    assert snapshot(docs).codes("code", load_model(docs._conn, "code")) is None
    assert search(docs, X[:3], column="code", k=20, where=where).equals(want)


def test_columns_in_memory_stay_within_the_bound_and_come_back(db, docs, X, monkeypatch):
    other = db.create_table("other", docs.to_arrow())
    want = search(docs, X[0], column="code")
    rows = len(X) * 32
    monkeypatch.setenv("VECPIPE_RESIDENT_BYTES", str(rows + rows // 2))
    assert search(other, X[0], column="code").equals(want)
    gc.collect()
    held = [found() for kept in (docs, other) for found in snapshot(kept)._columns.values()]
    assert [matrix is None for matrix in held] == [True, False]
    assert search(docs, X[0], column="code").equals(want)


def test_searches_of_many_threads_read_a_cold_table_once(docs, X, monkeypatch):
    read = []
    original = type(snapshot(docs))._read
    monkeypatch.setattr(type(snapshot(docs)), "_read", lambda *args: read.append(1) or original(*args))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda q: ids(search(docs, q, column="code", rerank="vector", k=1)), X[:64]))
    assert found == [[i] for i in range(64)]
    assert len(read) == 1


# LanceDB's own indexes


def test_words_and_vectors_come_together(docs, X):
    from lancedb.index import FTS
    from lancedb.rerankers import LinearCombinationReranker

    docs.create_index("body", config=FTS())
    by_vector = ids(search(docs, X[7], column="code", rerank="vector", k=5))
    found = search(docs, X[7], column="code", rerank="vector", text="number 123", k=5, oversample=10)
    assert 123 in ids(found)
    assert by_vector[0] in ids(found)
    assert found.column_names == ["id", "body", "grp", "score"]
    scores = found["score"].to_numpy()
    assert (np.diff(scores) <= 0).all()
    only = search(docs, X[7], column="code", text="number 123", where="grp = 3", k=5)
    assert set(np.array(ids(only)) % 10) == {3}
    other = search(docs, X[7], column="code", text="number 123", k=5, reranker=LinearCombinationReranker())
    assert len(other) == 5


def test_words_without_a_full_text_index_are_refused(docs, X):
    with pytest.raises(EngineError, match="full_text_query='number'"):
        search(docs, X[7], column="code", text="number", k=5)


def test_packed_bits_are_searched_through_the_index_of_lancedb(docs, X):
    from lancedb.index import IvfFlat

    docs.create_index("bits", config=IvfFlat(distance_type="hamming", num_partitions=4))
    options = {"column": "bits", "rerank": "vector", "k": 10, "oversample": 30}
    found = search(docs, X[7], use_index=True, nprobes=4, **options)
    assert ids(found) == nearest(X[7:8], X, 10, "cosine")[0].tolist()
    assert search(docs, X[7], use_index=True, where="grp = 3", **options).num_rows == 10


@pytest.mark.parametrize("spec", SPECS.values())
def test_a_column_that_vecpipe_added_and_refreshed_is_searched(db, X, spec):
    table = db.create_table("t", pa.table({"id": np.arange(len(X)), "vector": fixed(X)}))
    model = vecpipe.fit(table.to_arrow().select(["vector"]), spec)
    vl.add_column(table, "code", model)
    assert table.schema.field("code").type == vl.fit_of(model).type
    assert ids(search(table, X[3], rerank="vector", k=1)) == [3]
    assert search(table, X[3]).column_names == ["id", "score"]
    table.add(pa.table({"id": [1000], "vector": fixed(X[3:4])}))
    assert 1000 not in ids(search(table, X[3], k=5_000, metric="l2"))
    vl.refresh(table, "code")
    assert set(ids(search(table, X[3], rerank="vector", k=2))) == {3, 1000}


def test_no_queries_give_no_rows_of_the_same_columns(docs, X):
    for column in ("code", "small"):
        none, one = (vl.search(docs, X[:m], column=column, k=3) for m in (0, 1))
        assert (none.num_rows, none.schema.names) == (0, one.schema.names)


def test_a_column_named_as_a_result_is_gives_way(db, X):
    table = db.create_table("named", pa.table({"id": range(500), "query_index": range(500), "vector": fixed(X)}))
    vl.add_column(table, "code", vecpipe.fit(X, "normalize | int8"))
    assert vl.search(table, X[:2], k=3).column_names == ["id", "score", "query_index"]
    assert vl.search(table, X[0], k=3).column_names == ["id", "query_index", "score"]


@pytest.mark.parametrize("options", [{"k": 2.5}, {"k": "3"}, {"k": True}, {"oversample": 1.5}, {"shortlist": None}])
def test_numbers_of_rows_are_whole_numbers(docs, X, options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is .*; expected a whole number"):
        vl.search(docs, X[0], column="code", **options)
    assert vl.search(docs, X[0], column="code", k=np.int64(3)).num_rows == 3


def test_columns_are_a_list_of_names(docs, X):
    with pytest.raises(InputError, match=r"columns is 'id'; expected a list of names"):
        vl.search(docs, X[0], column="code", columns="id")


def test_a_handle_of_a_table_that_was_made_anew_is_an_engine_error(db, docs, X):
    vl.search(docs, X[0], column="code")
    db.drop_table("docs")
    db.create_table("docs", columns_of(db, X[:100], SPECS))
    with pytest.raises(EngineError, match=r"was the table made anew\?"):
        vl.search(docs, X[0], column="code")
