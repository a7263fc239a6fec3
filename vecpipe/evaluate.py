"""What a spec costs and what it finds: fitted, encoded and scored on given rows against exact search.

The benchmark of codecs and the adviser both stand on this; nothing here decides what is good.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from vecpipe.arrays import Bytes, Float32
from vecpipe.columns.results import to_vectors
from vecpipe.fitting.steps import fit_sketch
from vecpipe.fitting.stream import sketch_source
from vecpipe.kernels import one_blas_thread
from vecpipe.metrics.retrieval import Places, ndcg_at, nearest, recall_at, rerank, top_places
from vecpipe.model import Model
from vecpipe.scoring import Metric
from vecpipe.sketch import Sketch
from vecpipe.sources import Source

_ROWS = 2_048
_QUERIES = 64


@dataclass
class Collection:
    """Documents, queries, and what an exact search finds.

    Attributes
    ----------
    docs, queries : (n, d), (m, d) float32
    judged
        Gains of documents (by row) for queries (by row), where there are judgements.
    fit_queries : (q, d) float32 or None
        Sample queries that a fit may look at.
    """

    docs: Float32
    queries: Float32
    metric: Metric = "ip"
    judged: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    fit_queries: Float32 | None = None

    def __post_init__(self) -> None:
        self.exact: Places = nearest(self.queries, self.docs, 100, self.metric)
        self.sketch: Sketch = sketch_of(self.docs)
        self.query_sketch: Sketch | None = None if self.fit_queries is None else sketch_of(self.fit_queries)


@dataclass(frozen=True)
class Evaluation:
    """What one codec costs and finds.

    Attributes
    ----------
    fit_seconds, encode_rate, score_rate : float
        Seconds of the fit from a finished sketch; rows a second encoded, and scored for one query.
    recall10, recall100 : float
        Recall at 10 and at 100 by codes alone.
    reranked10 : float
        Recall at 10 after scoring the 40 best by code exactly.
    ndcg10 : float
        NaN where there are no judgements.
    """

    name: str
    bytes_per_vector: int
    fit_seconds: float
    encode_rate: float
    score_rate: float
    recall10: float
    recall100: float
    reranked10: float
    ndcg10: float


def sketch_of(X: Float32) -> Sketch:
    """Return the sketch of a matrix."""
    import pyarrow as pa

    table = pa.table({"v": to_vectors(X, fixed=True)})
    return sketch_source(Source(table.schema, iter(table.to_batches(max_chunksize=8_192)), len(X)), column="v")


def evaluate(spec: str, collection: Collection) -> Evaluation:
    """Fit a spec on the documents and measure it.

    Raises
    ------
    VecpipeError
        The spec cannot be fitted on these vectors.
    """
    start = time.perf_counter()
    model = fit_sketch(collection.sketch, spec, collection.query_sketch)
    fitted = time.perf_counter() - start
    model.encode(collection.docs[:1])  # builds whatever tables the codec keeps
    start = time.perf_counter()
    codes = encode(model, collection.docs)
    encoded = time.perf_counter() - start
    start = time.perf_counter()
    one = model.prepare(collection.queries[:1], collection.metric)
    for at in range(0, len(codes), _ROWS):
        model.score(one, codes[at : at + _ROWS])
    scored = time.perf_counter() - start
    return measure(
        spec,
        model.bytes_per_vector,
        (fitted, len(codes) / encoded, len(codes) / scored),
        collection,
        search(model, codes, collection.queries, 100, collection.metric),
    )


def measure(
    name: str, size: int, costs: tuple[float, float, float], collection: Collection, found: Places
) -> Evaluation:
    """Return the evaluation of a ranking found by any means."""
    again = rerank(collection.queries, collection.docs, found[:, :40], 10, collection.metric)
    return Evaluation(
        name,
        size,
        *costs,
        recall10=recall_at(found, collection.exact, 10),
        recall100=recall_at(found, collection.exact, 100),
        reranked10=recall_at(again, collection.exact, 10),
        ndcg10=ndcg_at(found, collection.judged),
    )


def encode(model: Model, X: Float32) -> Bytes:
    """Return the codes of all rows, a batch at a time; rows without a code get zeros."""
    codes = np.zeros((len(X), model.bytes_per_vector), dtype=np.uint8)

    def work(at: int) -> None:
        part, valid = model.encode(X[at : at + _ROWS])
        codes[at : at + len(part)] = part if valid is None else np.where(valid[:, None], part, 0)

    work(0)  # builds whatever tables the codec keeps, once
    with one_blas_thread(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(work, range(_ROWS, len(X), _ROWS)))
    return codes


def search(model: Model, codes: Bytes, Q: Float32, k: int, metric: Metric) -> Places:
    """Return the k best places by code for each query, best first."""
    found = []
    for at in range(0, len(Q), _QUERIES):
        queries = model.prepare(Q[at : at + _QUERIES], metric)
        scores = [model.score(queries, codes[row : row + _ROWS]) for row in range(0, len(codes), _ROWS)]
        found.append(top_places(np.concatenate(scores, axis=1), k))
    return np.concatenate(found)
