"""FAISS and the quantisation of sentence-transformers beside our codecs, on the same rows in the same run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from vecpipe.arrays import Float32
from vecpipe.evaluate import Collection, Evaluation, measure
from vecpipe.metrics.retrieval import top_places


def faiss_specs(dim: int, budgets: tuple[int, ...], *, slow: bool) -> list[str]:
    """Return index strings to compare with; what trains for long is left out unless asked.

    Product quantisers train without their polysemous step ("np"), which plain searches do not use and which takes most
    of the time; residual quantisers keep a byte for the length.
    """
    specs = ["SQ8", "SQ6", "SQ4", f"RR{dim},RaBitQ", f"RR{dim},RaBitQ2", f"RR{dim},RaBitQ4"]
    specs += [f"PCAR{size},SQ8" for size in budgets if size < dim]
    if slow:
        specs.append(f"PQ{dim // 4}x4np")
        for size in sorted({*budgets, dim // 8}):
            if dim % size == 0 and size < dim:
                specs += [f"PQ{size}x8np", f"OPQ{size},PQ{size}x8np"]
        specs += [f"RQ{size - 1}x8_Nqint8" for size in residual_sizes(dim)]
    return specs


def residual_sizes(dim: int) -> list[int]:
    """Return bytes a vector to try residual quantisers at: the time of their fits grows with bytes and width."""
    return [size for size in (16, dim // 8) if 1 < size <= min(64, dim)]


def evaluate_faiss(spec: str, collection: Collection) -> Evaluation:
    """Train, fill and search a FAISS index of flat codes with inner products."""
    import faiss

    X, Q = collection.docs, collection.queries
    index: Any = faiss.index_factory(X.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
    start = time.perf_counter()
    index.train(X)
    trained = time.perf_counter() - start
    start = time.perf_counter()
    index.add(X)
    added = time.perf_counter() - start
    start = time.perf_counter()
    index.search(Q[:1], 10)
    one = time.perf_counter() - start
    _, found = index.search(Q, min(100, len(X)))
    rates = (trained, len(X) / added, len(X) / one)
    return measure(f"FAISS {spec}", int(index.sa_code_size()), rates, collection, found.astype(np.int64))


def evaluate_sentence_transformers(collection: Collection) -> Iterator[Evaluation]:
    """Measure int8 and binary embeddings as ``quantize_embeddings`` of sentence-transformers defines them.

    The formulae are restated here, since the package needs a deep learning framework: int8 by the range of each
    dimension over the documents, ``binary`` by the sign; queries stay float for int8 and are signs for binary.
    """
    X, Q = collection.docs, collection.queries
    low, high = X.min(axis=0), X.max(axis=0)
    step = np.where(high > low, (high - low) / 255, 1).astype(np.float32)

    start = time.perf_counter()
    codes = ((X - low) / step - 128).astype(np.int8)
    yield _measured("sentence-transformers int8", X.shape[1], start, codes.astype(np.float32) * step, Q, collection)
    start = time.perf_counter()
    signs = np.where(X > 0, 1, -1).astype(np.float32)
    asked = np.where(Q > 0, 1, -1).astype(np.float32)
    yield _measured("sentence-transformers binary", X.shape[1] // 8, start, signs, asked, collection)


def _measured(
    name: str, size: int, start: float, decoded: Float32, asked: Float32, collection: Collection
) -> Evaluation:
    encoded = time.perf_counter() - start
    start = time.perf_counter()
    scores = asked @ decoded.T
    scored = (time.perf_counter() - start) / len(asked)
    costs = (0.0, len(decoded) / encoded, len(decoded) / scored)
    return measure(name, size, costs, collection, top_places(scores, 100))
