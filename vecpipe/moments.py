"""Weighted moments of a stream of vectors, in float64, mergeable; and how an affine step changes them.

Nothing here keeps rows: samples, extrema and counts of bad rows live in ``sketch``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecpipe.arrays import Float32, Float64


@dataclass(frozen=True)
class Affine:
    """The map ``x -> x @ matrix + offset``, or ``x * matrix + offset`` where the matrix is 1-D (diagonal).

    Of wider vectors than the matrix has rows the first dimensions are taken, so that truncation is a diagonal map.

    Attributes
    ----------
    matrix : (d,) or (d, k) float64
    offset : (k,) float64
    """

    matrix: Float64
    offset: Float64

    @property
    def diagonal(self) -> bool:
        """Whether the map works on each dimension alone."""
        return self.matrix.ndim == 1

    def then(self, other: Affine) -> Affine:
        """Return the one map that does this one, then ``other``."""
        kept = len(other.matrix)
        matrix, offset = self.matrix[..., :kept], self.offset[:kept]
        if other.diagonal:
            return Affine(matrix * other.matrix, offset * other.matrix + other.offset)
        product = matrix[:, None] * other.matrix if self.diagonal else matrix @ other.matrix
        return Affine(product, offset @ other.matrix + other.offset)


@dataclass(frozen=True)
class Moments:
    """Weighted moments of n vectors around their mean.

    Attributes
    ----------
    weight, weight_squared : float
        Sums of the weights and of their squares (both n when there are no weights).
    mean : (d,) float64
    scatter : (d, d) float64
        Sum of w (x - mean)(x - mean)^T.
    third : (d,) float64 or None
        Sum of w |x - mean|^2 (x - mean).
    fourth : float or None
        Sum of w |x - mean|^4; with ``third`` it is what Ledoit-Wolf shrinkage needs beside the scatter. Both
        are None after a map that does not carry them.
    """

    weight: float
    weight_squared: float
    mean: Float64
    scatter: Float64
    third: Float64 | None
    fourth: float | None

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return len(self.mean)

    @property
    def covariance(self) -> Float64:
        """Population covariance, ``(d, d) float64``."""
        return self.scatter / self.weight

    @staticmethod
    def empty(dim: int) -> Moments:
        """Return the moments of no rows."""
        return Moments(0.0, 0.0, np.zeros(dim), np.zeros((dim, dim)), np.zeros(dim), 0.0)

    @staticmethod
    def of_rows(X: Float32 | Float64, weights: Float64 | None = None) -> Moments:
        """Return the moments of ``(n, d)`` rows, exactly, in float64 throughout."""
        weights = np.ones(len(X)) if weights is None else weights
        total = float(weights.sum())
        if total == 0.0:
            return Moments.empty(X.shape[1])
        centred = X.astype(np.float64)
        mean = weights @ centred / total
        centred -= mean
        return _centred_moments(centred, weights, total, mean)

    @staticmethod
    def of_block(X: Float32, weights: Float64 | None = None, squares: Float32 | None = None) -> Moments:
        """Return the moments of one block of at most some 10,000 rows, its products in float32.

        The block is multiplied as it stands while no mean is large beside the deviation (the cancellation then
        costs at most two bits) and centred first where one is. ``squares`` are the rows' squared norms, where known.
        """
        ones = np.ones(len(X)) if weights is None else weights
        total = float(ones.sum())
        if total == 0.0:
            return Moments.empty(X.shape[1])
        w = ones.astype(np.float32)
        mean = (w @ X).astype(np.float64) / total
        if weights is None:
            product = (X.T @ X).astype(np.float64)
        else:
            scaled = X * np.sqrt(w)[:, None]
            product = (scaled.T @ scaled).astype(np.float64)
        scatter = product - total * np.outer(mean, mean)
        spread = np.diagonal(scatter) / total
        if (mean * mean > 4.0 * spread).any():
            centred = X.astype(np.float64)
            mean = ones @ centred / total
            centred -= mean
            return _centred_moments(centred.astype(np.float32), ones, total, mean)
        norms = (np.einsum("ij,ij->i", X, X) if squares is None else squares).astype(np.float64)
        norms += float(mean @ mean) - 2.0 * (X @ mean.astype(np.float32))
        pull = ones * norms
        third = (pull.astype(np.float32) @ X).astype(np.float64) - pull.sum() * mean
        return Moments(total, float(ones @ ones), mean, scatter, third, float(pull @ norms))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both streams together (Chan, Golub and LeVeque 1983)."""
        if other.weight == 0.0:
            return self
        if self.weight == 0.0:
            return other
        total = self.weight + other.weight
        mean = self.mean + (other.mean - self.mean) * (other.weight / total)
        a, b = self._around(mean), other._around(mean)
        third = None if a.third is None or b.third is None else a.third + b.third
        fourth = None if a.fourth is None or b.fourth is None else a.fourth + b.fourth
        squared = self.weight_squared + other.weight_squared
        return Moments(total, squared, mean, a.scatter + b.scatter, third, fourth)

    def _around(self, centre: Float64) -> Moments:
        """Return the same sums taken around another centre."""
        shift = self.mean - centre
        length = float(shift @ shift)
        scatter = self.scatter + self.weight * np.outer(shift, shift)
        if self.third is None or self.fourth is None:
            return Moments(self.weight, self.weight_squared, centre, scatter, None, None)
        trace, pulled = float(np.trace(self.scatter)), self.scatter @ shift
        third = self.third + (trace + self.weight * length) * shift + 2.0 * pulled
        fourth = self.fourth + 4.0 * float(shift @ pulled) + self.weight * length * length
        fourth += 4.0 * float(shift @ self.third) + 2.0 * length * trace
        return Moments(self.weight, self.weight_squared, centre, scatter, third, fourth)

    def through(self, step: Affine) -> Moments:
        """Return the moments after an affine step; third and fourth do not carry over."""
        kept = len(step.matrix)
        mean, scatter = self.mean[:kept], self.scatter[:kept, :kept]
        if step.diagonal:
            mean = mean * step.matrix + step.offset
            scatter = scatter * np.outer(step.matrix, step.matrix)
        else:
            mean = mean @ step.matrix + step.offset
            scatter = step.matrix.T @ scatter @ step.matrix
        keeps = step.diagonal and kept == self.dim and bool((step.matrix == 1.0).all())
        third, fourth = (self.third, self.fourth) if keeps else (None, None)
        return Moments(self.weight, self.weight_squared, mean, scatter, third, fourth)


def _centred_moments(centred: Float32 | Float64, weights: Float64, total: float, mean: Float64) -> Moments:
    norms = np.einsum("ij,ij->i", centred, centred).astype(np.float64)
    scaled: Float32 | Float64 = centred
    if not (weights == 1.0).all():
        root = np.sqrt(weights)[:, None]
        scaled = centred * (root.astype(np.float32) if centred.dtype == np.float32 else root)
    scatter = (scaled.T @ scaled).astype(np.float64)
    pull = weights * norms
    third = (pull.astype(centred.dtype) @ centred).astype(np.float64)
    return Moments(total, float(weights @ weights), mean, scatter, third, float(pull @ norms))
