"""Search in LanceDB tables: against brute force, and refusing what would search with the wrong model or vector."""

from __future__ import annotations

import asyncio

import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed

import vecpipe
from vecpipe.engines.lancedb.catalog import save_model
from vecpipe.engines.lancedb.search import search, search_async
from vecpipe.engines.lancedb.snapshots import forget, snapshot
from vecpipe.errors import CapabilityError, EngineError, InputError, ModelNotFoundError
from vecpipe.metrics.retrieval import nearest

lancedb = pytest.importorskip("lancedb")


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def marked(kind, name, version, model):
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
        fields.append(pa.field(name, array.type, metadata=marked(array, name, version, model)))
    for name, values in more.items():
        arrays.append(pa.array(values))
        fields.append(pa.field(name, arrays[-1].type))
    return pa.table(arrays, schema=pa.schema(fields))


SPECS = {"code": "normalize | int8", "bits": "center | binary", "small": "center | pca(8)"}


@pytest.fixture
def db(tmp_path):
    forget()
    return lancedb.connect(tmp_path / "db")


@pytest.fixture
def X():
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
