"""Which spec to use: candidates tried on a sample of the user's own vectors, with rows held out as queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from vecpipe.errors import FitError, InputError, VecpipeError
from vecpipe.evaluate import Collection, Evaluation, evaluate
from vecpipe.fitting.stream import sketch_source
from vecpipe.metrics.audit import wide_scores
from vecpipe.operators import registry
from vecpipe.scoring import Metric, metric_named
from vecpipe.sketch import Sketch
from vecpipe.sources import open_source, table_query

SAMPLE_ROWS = 20_000
HELD_OUT = 500

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)

OnSpec = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Advice:
    """What was tried, smallest codes first, and what to use.

    Attributes
    ----------
    tried : list of Evaluation
    spec : str
        The spec to use.
    reached : bool
        Whether it meets the target (True where none was set).
    rows, queries : int
        Rows searched and held-out queries.
    """

    tried: list[Evaluation]
    spec: str
    reached: bool
    rows: int
    queries: int


def advise(
    source: Any,
    query: str | None = None,
    *,
    column: str | None = None,
    recall: float | None = None,
    bytes_per_vector: int | None = None,
    metric: Metric = "cosine",
    on_spec: OnSpec | None = None,
) -> Advice:
    """Try candidate specs on a sample and return them with the one to use.

    With a target recall the smallest codes that reach it are chosen; with a budget the best recall within it; with
    both, the smallest within the budget that reach it; with neither, recall 0.95. Recall is recall@10 by codes alone.
    The sample and everything else is deterministic: the same rows give the same advice in any order.

    Parameters
    ----------
    source, query, column
        As in ``fit``.
    recall
        Share of the exact 10 nearest that codes alone must find, in (0, 1].
    bytes_per_vector
        Largest code.
    metric
        cosine, ip or l2.
    on_spec
        Called with each spec before it is tried, its number and how many there are.

    Raises
    ------
    InputError, FitError, SpecError
        A bad row, a bad target, fewer than 100 distinct rows, scores beyond the range of float32, or another metric.
    """
    if recall is not None and not 0.0 < recall <= 1.0:
        raise InputError(f"recall is {recall}; expected a number above 0, at most 1")
    if bytes_per_vector is not None and bytes_per_vector < 1:
        raise InputError(f"bytes is {bytes_per_vector}; expected at least 1")
    metric = metric_named(metric)
    if query is not None and isinstance(source, duckdb.DuckDBPyConnection):
        query = table_query(source, query, (column,))
    collection, unit = _collection(sketch_source(open_source(source, query, columns=(column,)), column=column), metric)
    _check_truth(collection)
    # Distances stay as they are when all vectors are moved, and off the origin codes of moved ones keep far more.
    before = "center | " if metric == "l2" else "normalize | " if metric == "cosine" and not unit else ""
    specs = list(candidates(collection.docs.shape[1], bytes_per_vector, before=before))
    tried = []
    for number, spec in enumerate(specs):
        if on_spec is not None:
            on_spec(spec, number, len(specs))
        try:
            result = evaluate(spec, collection)
        except VecpipeError:
            continue  # a candidate that these vectors do not suit is no candidate
        if bytes_per_vector is None or result.bytes_per_vector <= bytes_per_vector:
            tried.append(result)
    if not tried:
        raise FitError(f"no spec has codes of at most {bytes_per_vector} bytes for these vectors")
    tried.sort(key=lambda result: (result.bytes_per_vector, -result.recall10, result.name))
    chosen, reached = _choose(tried, recall, bytes_per_vector)
    return Advice(tried, chosen.name, reached, len(collection.docs), len(collection.queries))


def _collection(sketch: Sketch, metric: Metric) -> tuple[Collection, bool]:
    rows = sketch.sample().rows
    if metric == "cosine":
        rows = rows[rows.any(axis=1)]
    if len(rows) < 100:
        raise FitError(f"{len(rows)} distinct rows are too few to try specs on; at least 100 are needed")
    held_out = min(HELD_OUT, len(rows) // 10)
    unit = bool(np.allclose(np.linalg.norm(rows[:HELD_OUT], axis=1), 1.0, atol=1e-3))
    docs = rows[held_out : held_out + SAMPLE_ROWS]
    return Collection(docs, rows[:held_out], metric), unit


def _check_truth(collection: Collection) -> None:
    """Refuse vectors whose exact scores float32 does not hold: all of them would tie, and so would those of codes."""
    for query, places in zip(collection.queries, collection.exact, strict=True):
        scores = wide_scores(query, collection.docs[places], collection.metric)
        size = np.abs(scores[scores != 0])
        if not ((size >= _SMALLEST) & (size <= _LARGEST)).all():
            peak = float(np.abs(collection.docs).max())
            raise FitError(
                f"{collection.metric} scores of these vectors (largest entry {peak:.3g}) are beyond the range of "
                "float32: scale the vectors first, or use cosine"
            )


def candidates(dim: int, limit: int | None, *, before: str = "") -> Iterator[str]:
    """Yield the specs to try for vectors of this width, codes of at most ``limit`` bytes, behind the steps before."""
    there = registry()
    sizes = {max(4, round(dim * share)) for share in (1 / 16, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3)}
    if limit is not None:
        sizes.add(limit)
    for size in sorted(sizes):
        if size <= 4 * dim and (limit is None or size <= limit) and "transform_code" in there:
            yield f"{before}transform_code({size})"
    yield f"{before}rotate | binary"
    for name, spec in (("rabitq", "rabitq(2)"), ("rabitq", "rabitq(4)"), ("lvq", "lvq(4)")):
        if name in there:
            yield f"{before}{spec}"
    yield f"{before}int8"
    yield f"{before}float16"


def _choose(tried: list[Evaluation], recall: float | None, limit: int | None) -> tuple[Evaluation, bool]:
    best = max(tried, key=lambda result: (result.recall10, -result.bytes_per_vector))
    if recall is None and limit is not None:
        return best, True
    target = 0.95 if recall is None else recall
    good = [result for result in tried if result.recall10 >= target]
    return (good[0], True) if good else (best, False)
