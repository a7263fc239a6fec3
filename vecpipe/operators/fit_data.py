"""What an operator is fitted from: the rows as they enter its step, summarised."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.errors import FitError
from vecpipe.moments import Moments
from vecpipe.rules import nonfinite_rows

if TYPE_CHECKING:
    from vecpipe.operators.base import Operator

_PLAIN_SHARE = 0.05
_QUERY_PRIOR = 3


class FitData:
    """What an operator is fitted from: the rows as they enter its step, summarised.

    Parameters
    ----------
    dim, count
        Width of the vectors entering the step, and how many rows the fit saw.
    sample
        Returns sample rows ``(m, d) float32``, carried through the steps before, and their weights ``(m,)``;
        called only when an operator asks for rows.
    moments
        Returns the moments of all rows, where they are known; called only when an operator asks for them.
    queries
        The same for a sample of queries, where one was given.
    mean
        Returns the mean of all rows, where that is known without their moments.
    """

    def __init__(
        self,
        dim: int,
        count: int,
        sample: Callable[[], tuple[Float32, Float64]],
        moments: Callable[[], Moments] | None,
        queries: FitData | None = None,
        mean: Callable[[], Float64] | None = None,
    ) -> None:
        self.dim = dim
        self.count = count
        self.queries = queries
        self._sample = sample
        self._exact = moments
        self._mean = mean

    @cached_property
    def _rows_and_weights(self) -> tuple[Float32, Float64]:
        return self._sample()

    @property
    def rows(self) -> Float32:
        """Sample rows, ``(m, d) float32``."""
        return self._rows_and_weights[0]

    @property
    def weights(self) -> Float64:
        """Weight of each sample row, ``(m,)``: how often it occurred, where no weights were given."""
        return self._rows_and_weights[1]

    @cached_property
    def moments(self) -> Moments:
        """Moments of the rows: of all of them where that is known, else of the sample."""
        return self._exact() if self._exact is not None else Moments.of_rows(self.rows, self.weights)

    @cached_property
    def mean(self) -> Float64:
        """Mean of the rows, ``(d,)``; cheaper than the moments where nothing else of them is needed."""
        return self.moments.mean if self._mean is None else self._mean()

    @cached_property
    def full_moments(self) -> Moments:
        """Moments with the third and fourth order sums, from the sample where the exact ones have lost them."""
        return self.moments if self.moments.fourth is not None else Moments.of_rows(self.rows, self.weights)

    def after(self, step: Operator, *, of_queries: bool = False) -> FitData:
        """Return what the next operator is fitted from, once this bound step has been applied."""
        affine = step.query_affine() if of_queries else step.affine()

        def moved() -> Moments:
            assert affine is not None
            return self.moments.through(affine)

        def moved_mean() -> Float64:
            assert affine is not None
            return affine.of(self.mean)

        def carried() -> tuple[Float32, Float64]:
            with np.errstate(over="ignore", invalid="ignore"):
                rows = step.apply_query(self.rows) if of_queries else step.apply(self.rows)
            weights = self.weights
            lost = nonfinite_rows(rows)
            if lost.size:
                rows, weights = np.delete(rows, lost, axis=0), np.delete(weights, lost)
            if not weights.any():
                what = "query" if of_queries else "row"
                raise FitError(
                    f"{step.name} leaves no {what} to fit the next step from: each is a zero vector there, leaves the "
                    "range of float32 or weighs nothing"
                )
            return rows, weights

        moments = None if affine is None or self._exact is None else moved
        mean = None if affine is None or self._mean is None else moved_mean
        queries = None if self.queries is None else self.queries.after(step, of_queries=True)
        return FitData(step.output_dim(self.dim), self.count, carried, moments, queries, mean)

    def training_rows(self, most: int) -> tuple[Float32, Float64]:
        """Return at most so many sample rows, and their weights with mean 1.

        The sample is ordered by a hash of the rows: its first rows are a uniform choice.
        """
        rows, weights = self.rows[:most], self.weights[:most]
        mean = float(weights.mean())
        return rows, weights / mean if mean > 0 else np.ones(len(rows))

    def quantiles(self, levels: Iterable[float]) -> Float64:
        """Return weighted per-dimension quantiles of the sample, ``(len(levels), d)``.

        The q-quantile is the smallest value whose weight share is at least q (inverted distribution function).
        """
        wanted = np.asarray(list(levels), dtype=np.float64)
        result = np.empty((len(wanted), self.dim))
        for j in range(self.dim):
            order = np.argsort(self.rows[:, j], kind="stable")
            share = np.cumsum(self.weights[order])
            at = np.searchsorted(share, wanted * share[-1] * (1 - 1e-12))
            result[:, j] = self.rows[order[np.minimum(at, len(order) - 1)], j]
        return result


def query_moment(mean: Float64, covariance: Float64, queries: Float32 | None) -> Float64:
    """Return the second moment of the queries, with trace d.

    It is drawn to the data's by 3 d imaginary rows, since few queries say little, and a little to the identity.
    """
    d = len(mean)
    moment = covariance + np.outer(mean, mean)
    trace = float(np.trace(moment))
    moment = moment * (d / trace) if trace > 0 else np.eye(d)
    if queries is not None and len(queries):
        wide = queries.astype(np.float64)
        seen = wide.T @ wide / len(wide)
        share = len(wide) / (len(wide) + _QUERY_PRIOR * d)
        if np.trace(seen) > 0:
            moment = share * seen * (d / np.trace(seen)) + (1.0 - share) * moment
    return np.asarray((1.0 - _PLAIN_SHARE) * moment + _PLAIN_SHARE * np.eye(d))
