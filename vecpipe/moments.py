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

    def of(self, x: Float64) -> Float64:
        """Return the image of one vector ``(d,) float64``."""
        kept = x[: len(self.matrix)]
        return np.asarray(kept * self.matrix + self.offset if self.diagonal else kept @ self.matrix + self.offset)

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
        # From a row of the most weight, not from zero: dimensions in which the rows are all the same then have that
        # mean and no scatter at all, where rounding would leave a little for whitening to blow up.
        heaviest = X[weights.argmax()].astype(np.float64)
        centred = np.subtract(X, heaviest, dtype=np.float64)
        shift = weights @ centred / total
        centred -= shift
        return _centred_moments(centred, weights, total, heaviest + shift)

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
        mean, scatter = step.of(self.mean), self.scatter[:kept, :kept]
        if step.diagonal:
            scatter = scatter * np.outer(step.matrix, step.matrix)
        else:
            scatter = step.matrix.T @ scatter @ step.matrix
        keeps = step.diagonal and kept == self.dim and bool((step.matrix == 1.0).all())
        third, fourth = (self.third, self.fourth) if keeps else (None, None)
        return Moments(self.weight, self.weight_squared, mean, scatter, third, fourth)


@dataclass(frozen=True)
class BlockSums:
    """Sums over one block of rows, its products in float32; ``MomentSum`` adds them up in float64.

    Attributes
    ----------
    weight, weight_squared, square, fourth : float
        Sums of w, w^2, w |x|^2 and w |x|^4.
    total, third : (d,) float64
        Sums of w x and of w |x|^2 x.
    product : (d, d) float32
        Sum of w x x^T.
    """

    weight: float
    weight_squared: float
    square: float
    fourth: float
    total: Float64
    third: Float64
    product: Float32

    @property
    def off_centre(self) -> bool:
        """Whether a mean is so large beside the deviation that subtracting it later would cost over two bits.

        Also where squares or cubes overflow: comparisons with NaN are false.
        """
        mean = self.total / self.weight
        spread = np.diagonal(self.product) / self.weight - mean * mean
        return not bool((mean * mean <= 4.0 * spread).all() and np.isfinite(self.third).all())


class MomentSum:
    """Moments in the making: blocks are added as they stand, which costs one matrix addition each.

    A block whose mean is large beside its deviation is centred first and kept apart.
    """

    def __init__(self, dim: int) -> None:
        self._apart = Moments.empty(dim)
        self._weight = self._weight_squared = self._square = self._fourth = 0.0
        self._total, self._third = np.zeros(dim), np.zeros(dim)
        self._product = np.zeros((dim, dim))

    def add_block(self, sums: BlockSums, X: Float32, weights: Float64 | None) -> None:
        """Add a block by its sums, or by its rows where the sums would lose precision."""
        if sums.weight == 0.0:
            return
        if sums.off_centre:
            self.add(Moments.of_rows(X, weights))
            return
        self._weight += sums.weight
        self._weight_squared += sums.weight_squared
        self._square += sums.square
        self._fourth += sums.fourth
        self._total += sums.total
        self._third += sums.third
        self._product += sums.product

    def add(self, moments: Moments) -> None:
        """Add moments of other rows."""
        self._apart = self._apart.merge(moments)

    def moments(self) -> Moments:
        """Return the moments of everything added, around the mean."""
        if self._weight == 0.0:
            return self._apart
        weight, mean = self._weight, self._total / self._weight
        length, pulled = float(mean @ mean), self._product @ mean
        third = self._third - (self._square - 2.0 * weight * length) * mean - 2.0 * pulled
        fourth = self._fourth + 4.0 * float(mean @ pulled) - 4.0 * float(mean @ self._third)
        fourth += 2.0 * length * self._square - 3.0 * weight * length * length
        scatter = self._product - weight * np.outer(mean, mean)
        return Moments(weight, self._weight_squared, mean, scatter, third, fourth).merge(self._apart)


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
