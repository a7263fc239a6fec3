"""LanceDB's indexes from centroids and codebooks trained here: reproducible, used, and refused where they cannot be."""

from __future__ import annotations

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed

import vecpipe
import vecpipe.lancedb as vl
from vecpipe.errors import CapabilityError, FitError, InputError, ModelFormatError, SpecError
from vecpipe.metrics.retrieval import nearest, recall_at
from vecpipe.search.ivf import Ivf, train


@pytest.fixture(scope="module", name="X")
def many_rows():
    return anisotropic(3_000, 16, seed=4)


@pytest.fixture
def db(tmp_path):
    return lancedb.connect(tmp_path / "db")


def made(db, X, name="docs"):
    return db.create_table(name, pa.table({"id": np.arange(len(X)), "vector": fixed(X)}))


def recall(table, X, metric, **options):
    lance = {"cosine": "cosine", "l2": "l2", "ip": "dot"}[metric]
    found = []
    for q in X[:20]:
        query = table.search(q).distance_type(lance).limit(10).select(["id", "_distance"]).nprobes(8)
        found.append(query.refine_factor(10).to_arrow()["id"].to_pylist())
    return recall_at(np.array(found), nearest(X[:20], X, 10, metric), 10)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("subvectors", [None, 4])
def test_lancedb_searches_the_index_it_is_given(db, X, metric, subvectors):
    table = made(db, X)
    ivf = vl.train_index(table, partitions=8, subvectors=subvectors, metric=metric)
    vl.create_index(table, "vector", ivf)
    (index,) = table.list_indices()
    assert index.columns == ["vector"]
    stats = table.index_stats(index.name)
    assert stats.index_type == ("IVF_PQ" if subvectors else "IVF_FLAT")
    assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (len(X), 0)
    assert recall(table, X, metric) >= 0.95


def test_the_index_holds_our_centroids(db, X):
    table = made(db, X)
    ivf = vl.train_index(table, partitions=8)
    vl.create_index(table, "vector", ivf)
    stats = table.to_lance().stats.index_stats(table.list_indices()[0].name)
    held = np.array(stats["indices"][0]["centroids"], np.float32)
    np.testing.assert_allclose(held, ivf.centroids, atol=1e-6)


def test_the_same_rows_give_the_same_index_in_any_order_and_fragments(db, X):
    ivf = vl.train_index(made(db, X), partitions=5, subvectors=2, sample_rows=1_000)
    turned = made(db, X[::-1][:1_500], "turned")
    turned.add(pa.table({"id": np.arange(1_500), "vector": fixed(X[::-1][1_500:])}))
    again = vl.train_index(turned, partitions=5, subvectors=2, sample_rows=1_000)
    assert again.hash == ivf.hash
    assert vl.train_index(turned, partitions=5, subvectors=2, sample_rows=1_000, seed=1).hash != ivf.hash
    back = Ivf.from_bytes(ivf.to_bytes())
    assert (back.hash, back.metric, back.seed) == (ivf.hash, "cosine", 0)
    np.testing.assert_array_equal(back.codebook, ivf.codebook)


def test_rows_added_later_are_found_and_folded_in(db, X):
    table = made(db, X[:2_000])
    vl.create_index(table, "vector", vl.train_index(table, partitions=4, subvectors=4))
    table.add(pa.table({"id": np.arange(2_000, 3_000), "vector": fixed(X[2_000:])}))
    assert recall(table, X, "cosine") >= 0.95
    table.optimize()
    assert table.index_stats(table.list_indices()[0].name).num_unindexed_rows == 0
    assert recall(table, X, "cosine") >= 0.95


def test_a_model_s_column_is_searched_through_its_index(db, X):
    table = made(db, X)
    model = vecpipe.fit(table.to_arrow().select(["vector"]), "center | pca(8)")
    vl.add_column(table, "small", model)
    vl.create_index(table, "small", vl.train_index(table, "small", partitions=4, metric="l2"))
    found = [
        vl.search(table, q, column="small", rerank="vector", metric="l2", oversample=20, nprobes=4)["id"].to_pylist()
        for q in X[:20]
    ]
    assert recall_at(np.array(found), nearest(X[:20], X, 10, "l2"), 10) >= 0.95


def test_float16_columns_are_trained_for_and_indexed(db, X):
    table = made(db, X.astype(np.float16))
    vl.create_index(table, "vector", vl.train_index(table, partitions=4))
    assert recall(table, X, "cosine") >= 0.9


def test_packed_bits_are_indexed_by_hamming_distance(db, X):
    table = made(db, X)
    vl.add_column(table, "bits", vecpipe.fit(table.to_arrow().select(["vector"]), "center | binary"))
    vl.create_index(table, "bits")
    assert table.index_stats(table.list_indices()[0].name).distance_type == "hamming"
    found = vl.search(table, X[5], rerank="vector", use_index=True, k=1)
    assert found["id"].to_pylist() == [5]
    with pytest.raises(InputError, match="leave ivf out"):
        vl.create_index(table, "bits", vl.train_index(table, partitions=2))
    with pytest.raises(CapabilityError, match="needs no training"):
        vl.train_index(table, "bits")


@pytest.mark.parametrize(
    ("spec", "kind", "indexed"),
    [
        ("pca(8)", pa.list_(pa.float32(), 8), True),
        ("center | binary", pa.list_(pa.uint8(), 2), True),
        ("normalize | int8", pa.binary(16), False),
        ("bfloat16", pa.binary(32), False),
    ],
)
def test_the_helper_names_the_type_that_add_column_writes_and_indexes_that_lancedb_builds(db, X, spec, kind, indexed):
    table = made(db, X)
    model = vecpipe.fit(table.to_arrow().select(["vector"]), spec)
    fit = vl.fit_of(model)
    assert (fit.type, bool(fit.indexes)) == (kind, indexed)
    vl.add_column(table, "out", model)
    assert table.schema.field("out").type == kind
    if indexed:
        assert vl.check_searchable(table.schema.field("out")) is None
    else:
        with pytest.raises(CapabilityError, match="cannot search or index"):
            vl.create_index(table, "out", train(X, partitions=2))


def test_types_that_lancedb_stores_but_cannot_search_are_refused(db, X):
    signed = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(16 * 10, np.int8)), 16)
    table = db.create_table("signed", pa.table({"id": np.arange(10), "code": signed}))
    with pytest.raises(CapabilityError, match="list of int8, which LanceDB stores but cannot search or index"):
        vl.train_index(table, "code", partitions=2)
    named = pa.field("item", pa.binary(2), metadata={"ARROW:extension:name": "lance.bfloat16"})
    halves = db.create_table("halves", schema=pa.schema([("code", pa.list_(named, 16))]))
    with pytest.raises(CapabilityError, match="bfloat16, which LanceDB stores but cannot search or index"):
        vl.train_index(halves, "code", partitions=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"partitions": 0}, InputError, "partitions is 0"),
        ({"partitions": 4, "subvectors": 3}, InputError, "divides the 16 dimensions"),
        ({"partitions": 4, "metric": "dot"}, SpecError, "expected one of cosine"),
        ({"partitions": 500}, FitError, "300 rows do not suffice to train 500"),
    ],
)
def test_what_cannot_be_trained_says_why(X, options, error, message):
    with pytest.raises(error, match=message):
        train(X[:300], **options)


def test_what_cannot_be_built_says_why(db, X):
    table = made(db, X)
    with pytest.raises(InputError, match="no column 'nothing'; there are id, vector"):
        vl.create_index(table, "nothing")
    with pytest.raises(InputError, match="pass ivf=train_index"):
        vl.create_index(table, "vector")
    with pytest.raises(InputError, match="the centroids have 4 dimensions, but column 'vector' has 16"):
        vl.create_index(table, "vector", train(X[:, :4].copy(), partitions=2))
    with pytest.raises(ModelFormatError):
        Ivf.from_bytes(vecpipe.fit(pa.table({"v": fixed(X)}), "center").to_bytes())


@pytest.mark.parametrize("options", [{"partitions": 0}, {"partitions": 2.5}, {"sample_rows": 0}, {"subvectors": 0}])
def test_numbers_of_an_index_are_whole_and_above_0(db, X, options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is .*; expected a whole number of at least 1"):
        vl.train_index(made(db, X), "vector", **options)
