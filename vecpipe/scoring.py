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
from vecpipe.code_lengths import CLOSE, CodeLengths
from vecpipe.errors import SpecError
from vecpipe.moments import Affine
from vecpipe.operators import Codec, Operator

Metric = Literal["cosine", "ip", "l2"]
METRICS: tuple[Metric, ...] = ("cosine", "ip", "l2")


def metric_named(name: Any, among: Sequence[Metric] = METRICS) -> Metric:
    """Return a metric by name.

    Parameters
    ----------
    among
        The metrics that the caller knows.

    Raises
    ------
    SpecError
        There is no such metric, or the caller does not know it.
    """
    for metric in among:
        if name == metric:
            return metric
    raise SpecError(f"metric is {name!r}; expected one of {', '.join(among)}")


@dataclass(frozen=True)
class Queries:
    """Queries carried through a model once, with whatever scoring needs precomputed.

    Attributes
    ----------
    moved : (m, k) float32
        The queries in the space that scores speak of; NaN rows where a query has no direction there.
    prepared
        What the codec made of them; for cosine and l2 of their directions, so that products stay in range.
    offset : (m,) float32
        What every product gains because the codes are moved.
    final : bool
        Whether these products are the scores.
    lengths : (m,) float64
        For l2: their lengths in the space of the codes.
    beside : (m,) float64
        For l2: their squared distances from the subspace that codes lie in.
    """

    moved: Float32
    prepared: Any
    offset: Float32
    metric: Metric
    final: bool = False
    lengths: Float64 | None = None
    beside: Float64 | None = None

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
            self._centre = centre if centre.any() else None
        self._unit_rows = False
        for step in self.before:
            self._unit_rows = step.makes_unit_length or (self._unit_rows and step.keeps_unit_length)
        self._lengths = CodeLengths(codec, self._turn, self._centre, never_zero=self._unit_rows)

    def prepare(self, moved: Float32, metric: Metric) -> Queries:
        """Prepare queries ``(m, k)`` that have come through the steps before; NaN rows have no direction."""
        ready = np.nan_to_num(moved)
        offset = np.zeros(len(moved), dtype=np.float32)
        if metric == "l2":  # the steps behind turn and move queries and codes alike
            placed = self.place(ready)
            units, lengths = kernels.unit_rows(placed)
            return Queries(
                moved, self.codec.prepare(units), offset, metric, False, lengths, self._beside(ready, placed)
            )
        if metric == "cosine":
            ready, lengths = kernels.unit_rows(ready)
            moved = np.where(lengths[:, None] > 0, moved, np.float32(np.nan))
        if self._centre is not None:
            offset = (ready.astype(np.float64) @ self._centre[0].astype(np.float64)).astype(np.float32)
        if self._turn is not None:
            ready = self._turned(ready)
        return Queries(moved, self.codec.prepare(ready), offset, metric, metric == "ip" or self._unit_rows)

    def _turned(self, X: Float32) -> Float32:
        assert self._turn is not None
        return kernels.affine(X, self._turn.matrix, np.zeros(self._turn.offset.shape[0]))

    def place(self, moved: Float32) -> Float32:
        """Return where vectors ``(m, k)`` of the space that scores speak of lie among the decoded codes."""
        if self._turn is None:
            return moved
        return kernels.affine(moved, self._turn.matrix, self._turn.offset, stable=True)

    def _beside(self, moved: Float32, placed: Float32) -> Float64:
        """Return squared distances ``(m,)`` of queries from the subspace that the steps behind keep."""
        if moved.shape[1] == placed.shape[1]:
            return np.zeros(len(moved))
        centred = moved.astype(np.float64) - (0.0 if self._centre is None else self._centre)
        kept = placed.astype(np.float64)
        return np.asarray(np.maximum((centred * centred).sum(axis=1) - (kept * kept).sum(axis=1), 0.0))

    def squared_norms(self, codes: Bytes) -> Float64:
        """Return ``(n,)`` squared lengths of the vectors that codes stand for in the space that scores speak of."""
        return self._lengths.squares(codes)

    def score(self, queries: Queries, codes: Bytes) -> Float32:
        """Return ``(m, n) float32`` scores of ``(n, B) uint8`` codes."""
        products = self.codec.score(queries.prepared, codes)
        if queries.moves:
            products += queries.offset[:, None]
        if queries.lost is not None:
            products[queries.lost] = np.nan
        if queries.final:
            return products
        if queries.metric == "l2":
            assert queries.lengths is not None
            assert queries.beside is not None
            return _minus_distance(products, queries.lengths, queries.beside, self.codec.wide_squared_norms(codes))
        norms = self.codec.cosine_squares(codes) if self._turn is None else self.codec.wide_squared_norms(codes)
        if isinstance(norms, float):
            if norms != 1.0:
                products *= np.float32(1.0 / np.sqrt(norms))
            return products
        squares = self._lengths.divisors(
            norms, codes, None if self._centre is None else self._lengths.along_centre(codes)
        )
        squares[squares == 0] = np.nan
        products *= (1.0 / np.sqrt(squares)).astype(np.float32)
        return products if self._centre is None else np.clip(products, -1.0, 1.0, out=products)

    def score_pairs(self, a: Bytes, b: Bytes, metric: Metric) -> Float32:
        """Return ``(n,) float32`` scores of the vectors that codes ``(n, B)`` of two columns stand for, row by row."""
        if metric == "l2":  # the steps behind turn and move both sides alike
            return np.asarray(-self.codec.pair_distances(a, b), dtype=np.float32)
        products, left, right = self.codec.pair_products(a, b)
        on_left, on_right = None, None
        if self._centre is not None:
            on_left, on_right = self._lengths.along_centre(a), self._lengths.along_centre(b)
            products = products + on_left + on_right + self._lengths.centre_square
        if metric == "ip":
            return products.astype(np.float32)
        lengths = np.sqrt(self._lengths.divisors(left, a, on_left)) * np.sqrt(
            self._lengths.divisors(right, b, on_right)
        )
        cosines = np.divide(products, lengths, out=np.full(len(products), np.nan), where=lengths > 0)
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
            scores.min(axis=1, initial=np.inf) <= np.float32(CLOSE) * (lengths + norms.max(initial=0))
        )
        close = [np.flatnonzero(scores[query] <= np.float32(CLOSE) * (lengths[query] + norms)) for query in doubtful]
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


def _minus_distance(products: Float32, lengths: Float64, beside: Float64, norms: Float64) -> Float32:
    """Return minus the distances ``(m, n)`` from products with directions, lengths and squared norms; overwrites."""
    squares = lengths * lengths + beside
    peak = max(float(squares.max(initial=0.0)), float(norms.max(initial=0.0)))
    if kernels.LEAST_SQUARE < peak < kernels.MOST_SQUARE:
        products *= (-2.0 * lengths).astype(np.float32)[:, None]
        products += squares.astype(np.float32)[:, None]
        products += norms.astype(np.float32)
        np.maximum(products, 0, out=products)
        np.sqrt(products, out=products)
        return np.negative(products, out=products)
    wide = squares[:, None] - 2.0 * lengths[:, None] * products + norms
    return np.asarray(-np.sqrt(np.maximum(wide, 0.0)), dtype=np.float32)


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
