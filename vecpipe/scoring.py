"""Scores of queries against codes and against vectors: what cosine, ip and l2 mean for a pipeline.

Scores speak of the space after the last step that changes the geometry. Steps behind it that only move or turn the
vectors (``center``, ``rotate``, ``pca``) are part of how a vector is coded: they change the codes, not what a score
estimates. Larger is closer for every metric; NaN where cosine has no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vecpipe import kernels
from vecpipe.arrays import Bytes, Float32, Float64, Mask
from vecpipe.errors import SpecError
from vecpipe.moments import Affine
from vecpipe.operators import Codec, Operator

Metric = Literal["cosine", "ip", "l2"]
METRICS: tuple[Metric, ...] = ("cosine", "ip", "l2")
_CLOSE = 2.0**-6
"""Share of two squared lengths below which their difference has lost too many digits of float32."""


def metric_named(name: Any) -> Metric:
    """Return a metric by name.

    Raises
    ------
    SpecError
        There is no such metric.
    """
    for metric in METRICS:
        if name == metric:
            return metric
    raise SpecError(f"metric is {name!r}; expected one of {', '.join(METRICS)}")


@dataclass(frozen=True)
class Queries:
    """Queries carried through a model once, with whatever scoring needs precomputed.

    Attributes
    ----------
    moved : (m, k) float32
        The queries in the space that scores speak of; NaN rows where a query has no direction there.
    prepared
        What the codec made of them.
    offset : (m,) float32
        What every product gains because the codes are moved.
    divided : bool
        Whether the prepared queries have been divided by their lengths.
    """

    moved: Float32
    prepared: Any
    offset: Float32
    metric: Metric
    divided: bool = False

    # Worked out once: a scan scores thousands of batches, and every call holds the interpreter's lock.

    @cached_property
    def moves(self) -> bool:
        """Whether an offset is to be added."""
        return bool(self.offset.any())

    @cached_property
    def lost(self) -> Mask | None:
        """Which queries have no direction; None without one."""
        lost: Mask = np.asarray(np.isnan(self.moved).any(axis=1))
        return lost if lost.any() else None

    @cached_property
    def lengths(self) -> Float32:
        """The ``(m, 1)`` squared lengths."""
        return kernels.squared_norms(self.moved)[:, None]


class Coding:
    """The last steps of a model that writes codes: those that only move or turn the vectors, and the codec.

    Parameters
    ----------
    steps
        All steps before the codec, bound.
    codec
        The codec, bound.
    """

    def __init__(self, steps: Sequence[Operator], codec: Codec) -> None:
        start = len(steps)
        while start and steps[start - 1].moves_only and not codec.lengthless:
            start -= 1
        self.codec = codec
        self.before = tuple(steps[:start])
        self._turn: Affine | None = None
        for step in steps[start:]:
            found = step.affine()
            assert found is not None
            self._turn = found if self._turn is None else self._turn.then(found)
        self._centre: Float32 | None = None
        if self._turn is not None:
            centre = np.zeros((1, self._turn.offset.shape[0]), dtype=np.float32)
            for step in reversed(steps[start:]):
                centre = step.invert(centre)
            self._centre = centre
        self._unit_rows = False
        for step in self.before:
            self._unit_rows = step.makes_unit_length or (self._unit_rows and step.keeps_unit_length)

    def prepare(self, moved: Float32, metric: Metric) -> Queries:
        """Prepare queries ``(m, k)`` that have come through the steps before; NaN rows have no direction."""
        ready = np.nan_to_num(moved)
        divided = metric == "cosine" and self._unit_rows
        if divided:  # products are cosines then, without another pass over each batch
            lengths = np.sqrt(kernels.squared_norms(ready))[:, None]
            ready = np.divide(ready, lengths, out=np.zeros_like(ready), where=lengths > 0)
            moved = np.where(lengths > 0, moved, np.float32(np.nan))
        offset = np.zeros(len(moved), dtype=np.float32)
        if self._turn is not None and self._centre is not None:
            offset = (ready.astype(np.float64) @ self._centre[0].astype(np.float64)).astype(np.float32)
            ready = self._turned(ready)
        return Queries(moved, self.codec.prepare(ready), offset, metric, divided)

    def _turned(self, X: Float32) -> Float32:
        assert self._turn is not None
        return kernels.affine(X, self._turn.matrix, np.zeros(self._turn.offset.shape[0]))

    def place(self, moved: Float32) -> Float32:
        """Return where vectors ``(m, k)`` of the space that scores speak of lie among the decoded codes."""
        return moved if self._turn is None else kernels.affine(moved, self._turn.matrix, self._turn.offset)

    @cached_property
    def _centre_prepared(self) -> Any:
        assert self._centre is not None
        return self.codec.prepare(self._turned(self._centre))

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared lengths of the decoded vectors in the space that scores speak of."""
        norms = self.codec.squared_norms(codes)
        if self._centre is not None and self._centre.any():
            shift = self.codec.score(self._centre_prepared, codes)[0]
            norms = norms + 2 * shift + kernels.squared_norms(self._centre)
        return np.asarray(np.maximum(norms, np.float32(0)))

    def score(self, queries: Queries, codes: Bytes) -> Float32:
        """Return ``(m, n) float32`` scores of ``(n, B) uint8`` codes."""
        products = self.codec.score(queries.prepared, codes)
        if queries.moves:
            products += queries.offset[:, None]
        if queries.lost is not None:
            products[queries.lost] = np.nan
        if queries.metric == "ip" or queries.divided:
            return products
        lengths = queries.lengths
        norms = self.squared_norms(codes)
        if queries.metric == "l2":
            return _minus_distance(lengths, products, norms)
        norms = np.where(norms > self.codec.noise, norms, np.float32(0))
        return _over(products, np.sqrt(lengths) * np.sqrt(norms))

    def score_pairs(self, a: Bytes, b: Bytes, metric: Metric) -> Float32:
        """Return ``(n,) float32`` scores of the vectors that codes ``(n, B)`` of two columns stand for, row by row."""
        if metric == "l2":  # the steps behind turn and move both sides alike
            return np.asarray(-self.codec.pair_distances(a, b), dtype=np.float32)
        products, left, right = self.codec.pair_products(a, b)
        if self._centre is not None and self._centre.any():
            on_left, on_right = (self.codec.score(self._centre_prepared, codes)[0] for codes in (a, b))
            centre = float(kernels.row_products(self._centre, self._centre)[0])
            products = products + on_left + on_right + centre
            left, right = left + 2 * on_left + centre, right + 2 * on_right + centre
        if metric == "ip":
            return products.astype(np.float32)
        return _cosines(products, left, right, self.codec.noise)


def _cosines(products: Float64, left: Float64, right: Float64, noise: float) -> Float32:
    """Return cosines from products and squared lengths, NaN where a length cannot be told from zero."""
    known = (left > noise) & (right > noise)
    lengths = np.sqrt(np.maximum(left, 0.0)) * np.sqrt(np.maximum(right, 0.0))
    cosines = np.divide(products, lengths, out=np.full(len(products), np.nan), where=known)
    return np.asarray(np.clip(cosines, -1.0, 1.0), dtype=np.float32)


def row_scores(A: Float32, B: Float32, metric: Metric) -> Float32:
    """Return ``(n,) float32`` scores of row with row, each by itself in float64; A or B may be one row for all."""
    with np.errstate(over="ignore"):
        if metric == "ip":
            return kernels.row_products(A, B).astype(np.float32)
        if metric == "l2":
            return (-kernels.row_distances(A, B)).astype(np.float32)
        return np.clip(kernels.row_cosines(A, B), -1.0, 1.0).astype(np.float32)


def exact_scores(Q: Float32, X: Float32, metric: Metric) -> Float32:
    """Return ``(m, n) float32`` scores of float vectors, larger is closer; NaN where cosine has no answer.

    One query is scored row by row in float64; several by a matrix product in float32, and where that does not hold
    the answer (vectors near to each other, lengths beyond its range) row by row too.
    """
    if len(Q) == 1:
        return row_scores(Q, X, metric)[None]
    if metric == "l2":
        return _distances(Q, X)
    if metric == "ip":
        with np.errstate(over="ignore", invalid="ignore"):
            products = kernels.inner_products(Q, X)
        lost = ~np.isfinite(products)
        for query in np.flatnonzero(lost.any(axis=1)):
            products[query, lost[query]] = row_scores(Q[query : query + 1], X[lost[query]], metric)
        return products
    squares, far = kernels.wide_squared_norms(X)
    lengths = np.sqrt(squares)
    lengths[lengths == 0] = np.nan
    if far.size:
        X = X.copy()
        X[far], _ = kernels.unit_rows(X[far])
        lengths[far] /= lengths[far]
    units, sizes = kernels.unit_rows(Q)
    units[sizes == 0] = np.nan
    cosines = kernels.inner_products(units, X)
    cosines /= lengths.astype(np.float32)
    return cosines


def _distances(Q: Float32, X: Float32) -> Float32:
    """Return minus the distances ``(m, n)`` of queries from rows.

    A distance that is small beside the vectors' own lengths would be lost in the difference of their squares: both
    sides are moved to the middle of the queries, and where that does not help, pairs are taken one by one.
    """
    known = Q[np.isfinite(Q).all(axis=1)]
    scale, middle = 1.0, np.zeros(Q.shape[1], np.float32)
    if known.size and X.size:
        peak = max(float(np.abs(known).max()), float(X.max()), -float(X.min()))
        if 0.0 < peak < np.inf and not 1e-10 < peak < 1e13:
            scale = 2.0 ** -np.frexp(peak)[1]
        middle = (np.median(known.astype(np.float64), axis=0) * scale).astype(np.float32)
    near, rows = ((side if scale == 1.0 else (side * scale).astype(np.float32)) - middle for side in (Q, X))
    with np.errstate(under="ignore"):
        lengths, norms = kernels.squared_norms(near), kernels.squared_norms(rows)
        scores = kernels.inner_products(near, rows)
        scores *= np.float32(-2)
        scores += lengths[:, None]
        scores += norms
        doubtful = np.flatnonzero(
            scores.min(axis=1, initial=np.inf) <= np.float32(_CLOSE) * (lengths + norms.max(initial=0))
        )
        close = [np.flatnonzero(scores[query] <= np.float32(_CLOSE) * (lengths[query] + norms)) for query in doubtful]
    np.maximum(scores, 0, out=scores)
    np.sqrt(scores, out=scores)
    if scale == 1.0:
        np.negative(scores, out=scores)
    else:
        with np.errstate(over="ignore", under="ignore"):
            scores = (scores.astype(np.float64) / -scale).astype(np.float32)
    for query, places in zip(doubtful, close, strict=True):
        scores[query, places] = row_scores(Q[query : query + 1], X[places], "l2")
    return scores


def _minus_distance(lengths: Float32, products: Float32, norms: Float32) -> Float32:
    return np.asarray(-np.sqrt(np.maximum(lengths - 2 * products + norms, 0)), dtype=np.float32)


def _over(products: Float32, lengths: Float32) -> Float32:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(products / np.where(lengths > 0, lengths, np.float32(np.nan)), dtype=np.float32)


def max_sim(Q: Float32, X: Float32, offsets: npt.NDArray[np.int64]) -> Float32:
    """Return ``(n,) float32`` late-interaction scores: for each query vector its best match in a row's set, summed.

    Parameters
    ----------
    Q : (t, d) float32
        The vectors of one query.
    X : (v, d) float32
        The vectors of all rows, a row's beside each other.
    offsets : (n + 1,) int64
        Where each row's begin; an empty set scores NaN.
    """
    sizes = np.diff(offsets)
    scores = np.full(len(sizes), np.nan, dtype=np.float32)
    full = sizes > 0
    if full.any():
        products = kernels.inner_products(Q, X)
        scores[full] = np.maximum.reduceat(products, offsets[:-1][full], axis=1).sum(axis=0)
    return scores
