"""FAISS: its factory strings, and the recall of codecs that both have."""

from __future__ import annotations

import doctest

import numpy as np
import pyarrow.parquet as pq
import pytest

import vecpipe.faiss_strings
from vecpipe.errors import SpecError
from vecpipe.faiss_strings import from_faiss, to_faiss
from vecpipe.pipeline import fit_sketch
from vecpipe.sketch import Sketch

SAME = {
    "OPQ48,PQ48x8": "opq(48)",
    "OPQ16,PQ16x4": "opq(16, bits=4)",
    "PQ96x4": "pq(96, bits=4)",
    "PCA64,SQ8": "pca(64) | int8",
    "PCAR64,SQ4": "pca(64) | rotate | int4(quantile=1)",
    "PCAWR64,SQfp16": "pca(64, whiten=true) | rotate | float16",
    "L2norm,SQbf16": "normalize | bfloat16",
    "RR,RaBitQ": "center | rabitq",
    "RR,RaBitQ4": "center | rabitq(bits=4)",
    "RR,EDEN2": "eden(bits=2)",
    "RR,EDEN4": "eden",
    "ITQ64,LSH": "center | normalize | pca(64, center=false) | rotate(kind=itq) | binary",
    "LSHr": "rotate | binary",
    "HR,SQ8": "rotate(kind=hadamard) | int8",
    "RQ8x8": "rvq(8)",
    "PCA32,Flat": "pca(32)",
}


@pytest.mark.parametrize(("factory", "spec"), SAME.items())
def test_strings_become_specs_and_come_back(factory, spec):
    assert from_faiss(factory) == spec
    assert to_faiss(spec) == factory


def test_widths_and_variants_are_understood():
    assert from_faiss("RR384,RaBitQ4", dim=384) == "center | rabitq(bits=4)"
    assert from_faiss("PQ48") == from_faiss("PQ48x8np") == "pq(48)"
    assert from_faiss("PQ96x4fs") == "pq(96, bits=4)"


@pytest.mark.parametrize(
    "factory",
    [
        "IVF100,PQ8",
        "HNSW32",
        "SQ6",
        "Flat",
        "RR64,SQ8",
        "RaBitQ",
        "OPQ8,PQ16",
        "OPQ8_64,PQ8",
        "",
        "x",
        "RR,RaBitQ0",
        "RR,EDEN0",
    ],
)
def test_what_has_no_equivalent_says_so(factory):
    with pytest.raises(SpecError, match="no equivalent"):
        from_faiss(factory)


@pytest.mark.parametrize("spec", ["center | int8", "lvq(4)", "int8(quantile=0.99)", "pq(8, seed=3)", "rabitq"])
def test_specs_without_an_equivalent_say_so(spec):
    with pytest.raises(SpecError, match="no equivalent"):
        to_faiss(spec)


def test_the_examples_of_the_docstrings_run():
    assert doctest.testmod(vecpipe.faiss_strings).failed == 0


@pytest.fixture(scope="module")
def scifact(shared_data):
    def matrix(name):
        column = pq.read_table(shared_data / "scifact" / name, columns=["emb"]).column(0).combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return np.ascontiguousarray(flat.reshape(len(column), -1))

    if not (shared_data / "scifact" / "docs.parquet").exists():
        pytest.skip("no scifact in the data folder")
    return matrix("docs.parquet"), matrix("queries.parquet")[:300]


@pytest.mark.parametrize(
    ("factory", "at_most"),
    [("SQ8", 0.005), ("SQ4", 0.02), ("RR,RaBitQ", 0.03), ("RR,RaBitQ4", 0.015), ("PCA64,SQ8", 0.005)],
)
def test_recall_is_that_of_faiss_at_no_more_bytes(scifact, factory, at_most):
    faiss = pytest.importorskip("faiss")
    docs, queries = scifact
    truth = np.argsort(-(queries @ docs.T), axis=1)[:, :10]

    def recall(found):
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])

    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(docs.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(docs)
    index.add(docs)
    theirs = recall(index.search(queries, 10)[1])
    sketch = Sketch(docs.shape[1])
    sketch.update(docs)
    model = fit_sketch(sketch, from_faiss(factory))
    scores = model.score(model.prepare(queries, "ip"), model.encode(docs)[0])
    ours = recall(np.argsort(-scores, axis=1)[:, :10])
    assert model.bytes_per_vector <= index.sa_code_size()
    assert ours >= theirs - at_most
