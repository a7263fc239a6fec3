"""Linear algebra that several operators share: principal axes, Hadamard matrices, random rotations."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32, Float64

_ROTATED_ROWS = 256


def principal_axes(covariance: Float64) -> tuple[Float64, Float64]:
    """Return eigenvalues ``(d,)``, largest first and none negative, and axes ``(d, d)``, one a column.

    The sign of an axis is fixed by making its entry of largest magnitude positive, so that equal covariances give
    equal axes.
    """
    values, axes = np.linalg.eigh((covariance + covariance.T) / 2)
    values, axes = np.maximum(values[::-1], 0.0), axes[:, ::-1]
    peaks = axes[np.abs(axes).argmax(axis=0), np.arange(len(values))]
    return values, np.asarray(axes * np.where(peaks < 0, -1.0, 1.0))


def hadamard_transform(X: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the orthonormal Walsh-Hadamard transform of rows whose width is a power of two.

    Additions in a fixed order only, so a row's result does not depend on the rows beside it.
    """
    turned = X.T.copy(order="C")
    _transform_columns(turned)
    return np.ascontiguousarray(turned.T)


def _transform_columns(Y: npt.NDArray[np.floating]) -> None:
    """Transform each column of ``(width, n)`` in place: whole rows are added, which is what memory does best."""
    width, n = Y.shape
    step = 1
    while step < width:
        pairs = Y.reshape(width // (2 * step), 2, step, n)
        top, bottom = pairs[:, 0].copy(), pairs[:, 1]
        pairs[:, 0] += bottom
        np.subtract(top, bottom, out=pairs[:, 1])
        step *= 2
    Y *= Y.dtype.type(1.0 / np.sqrt(width))


def rotation_signs(d: int, seed: int) -> npt.NDArray[np.int8]:
    """Draw what ``rotate_by_signs`` rotates by, ``(4, d) int8`` of ±1."""
    bits = random_generator(seed).integers(0, 2, (4, d), dtype=np.int8)
    return np.asarray(bits * np.int8(2) - np.int8(1))


def rotate_by_signs(X: npt.NDArray[np.floating], signs: npt.NDArray[np.int8]) -> npt.NDArray[np.floating]:
    """Return the rows rotated by sign flips and Walsh-Hadamard transforms (Ailon, Chazelle 2009).

    Flips and transforms take turns over the first and the last power of two of the dimensions, twice over. Additions
    in a fixed order only: a row's result does not depend on the rows beside it.
    """
    d = X.shape[1]
    width = power_of_two(d, below=True)
    out = np.empty(X.shape, dtype=X.dtype)
    for start in range(0, len(X), _ROTATED_ROWS):
        turned = X[start : start + _ROTATED_ROWS].T.copy(order="C")
        for turn in range(len(signs) // 2):
            turned *= signs[2 * turn][:, None]
            _transform_columns(turned[:width])
            turned *= signs[2 * turn + 1][:, None]
            _transform_columns(turned[d - width :])
        out[start : start + _ROTATED_ROWS] = turned.T
    return out


class WholeRotation:
    """What ``rotate_by_signs`` does, to float32 rows of one length, by sums of whole numbers.

    Rows are rounded to whole numbers before each transform. Their length is such that no sum of ``width`` of them
    reaches 2^24, so float32 products with the ±1 of a Hadamard matrix are exact: matrix products may add in any order,
    and a row's result does not depend on the rows beside it. A transform of 512 is two products, of 16 and of 32.

    Parameters
    ----------
    signs : (4, d) int8

    Attributes
    ----------
    length : float
        Length that rows must have, at most; the rounding is of about one part in a million of it.
    """

    def __init__(self, signs: npt.NDArray[np.int8]) -> None:
        d = signs.shape[1]
        self._width = power_of_two(d, below=True)
        self._inner = power_of_two(math.isqrt(self._width))
        self.length = 0.9 * 2**24 / math.sqrt(self._width)
        first, last = np.ones(d), np.ones(d)
        first[: self._width] = last[d - self._width :] = 1.0 / math.sqrt(self._width)
        self._flips: list[Float32] = []
        before = np.ones(d)
        for turn in range(len(signs) // 2):
            self._flips += [rows_f32(before * signs[2 * turn]), rows_f32(first * signs[2 * turn + 1])]
            before = last
        self._last = rows_f32(last)
        self._outer_matrix, self._inner_matrix = (
            rows_f32(np.sign(hadamard_transform(np.eye(size)))) for size in (self._width // self._inner, self._inner)
        )

    def __call__(self, rows: Float32) -> None:
        """Rotate ``(n, d)`` rows in place."""
        n, d = rows.shape
        shape = (n, self._width // self._inner, self._inner)
        between = np.empty(shape, dtype=np.float32)
        for turn, flips in enumerate(self._flips):
            rows *= flips
            np.rint(rows, out=rows)
            part = rows[:, d - self._width :] if turn % 2 else rows[:, : self._width]
            view = part.reshape(shape)
            np.matmul(view, self._inner_matrix, out=between)
            np.matmul(self._outer_matrix, between, out=view)
        rows *= self._last


def power_of_two(d: int, *, below: bool = False) -> int:
    """Return the smallest power of two that is at least d (the largest that is at most d with ``below``)."""
    above = 1 << (d - 1).bit_length()
    return above // 2 if below and above > d else above


def hadamard_matrix(d: int) -> Float64 | None:
    """Return an orthonormal ``(d, d)`` matrix with entries ±1/sqrt(d), or None where no construction is known here.

    Sylvester's doubling of order 1 or of a Paley matrix of order q + 1 for a prime q = 3 mod 4 (Paley 1933).
    """
    core = d
    while core > 0:
        base = _paley(core) if core > 2 else np.ones((1, 1)) if core == 1 else None
        if base is not None:
            matrix = base
            while len(matrix) < d:
                matrix = np.block([[matrix, matrix], [matrix, -matrix]])
            return np.asarray(matrix / np.sqrt(d))
        if core % 2:
            return None
        core //= 2
    return None


def _paley(order: int) -> Float64 | None:
    q = order - 1
    if q % 4 != 3 or any(q % factor == 0 for factor in range(2, int(q**0.5) + 1)):
        return None
    residues = np.full(q, -1.0)
    residues[np.unique(np.arange(1, q, dtype=np.int64) ** 2 % q)] = 1.0
    residues[0] = 0.0
    jacobsthal = residues[(np.arange(q)[:, None] - np.arange(q)) % q]
    skew = np.zeros((order, order))
    skew[0, 1:], skew[1:, 0] = 1.0, -1.0
    skew[1:, 1:] = jacobsthal
    return np.eye(order) + skew


def level_axes(covariance: Float64, axes: Float64) -> Float64:
    """Return axes ``(d, d)``, in columns, turned among each other until the variance along each is the same.

    One pair at a time, the least and the largest: a plane rotation gives one of them the mean, and d - 1 of them are
    enough whatever d is (Bendel, Mickey 1978; Davies, Higham 2000).
    """
    turned = np.ascontiguousarray(axes.T)
    spread = turned @ covariance @ axes
    level = float(np.trace(spread)) / len(spread)
    for _ in range(len(spread) - 1):
        variances = spread.diagonal()
        least, most = int(variances.argmin()), int(variances.argmax())
        below, above, both = variances[least] - level, variances[most] - level, spread[least, most]
        if below >= 0.0 or above <= 0.0:
            break
        tangent = below / (both + math.copysign(math.sqrt(both * both - below * above), both))
        cosine = 1.0 / math.hypot(1.0, tangent)
        sine = cosine * tangent
        for rows in (turned, spread):
            one, other = rows[least].copy(), rows[most]
            rows[least] = cosine * one - sine * other
            rows[most] = sine * one + cosine * other
        one, other = spread[:, least].copy(), spread[:, most].copy()
        spread[:, least], spread[:, most] = cosine * one - sine * other, sine * one + cosine * other
        spread[least, least] = level
    return turned.T


def random_generator(seed: int) -> np.random.Generator:
    """Return the generator that every random part of a fit draws from."""
    return np.random.Generator(np.random.Philox(seed))


def random_rotation(d: int, seed: int) -> Float64:
    """Return a ``(d, d)`` orthogonal matrix from the uniform (Haar) distribution (Mezzadri 2007)."""
    q, r = np.linalg.qr(random_generator(seed).standard_normal((d, d)))
    return np.asarray(q * np.where(np.diagonal(r) < 0, -1.0, 1.0))


def keeps_lengths(matrix: Float64) -> bool:
    """Return whether the rows of a matrix are orthonormal, so that ``x @ matrix`` is as long as x."""
    return bool(np.abs(matrix @ matrix.T - np.eye(len(matrix))).max() < 1e-5)


def rows_f32(array: npt.NDArray[np.floating]) -> Float32:
    """Return a C-contiguous float32 copy."""
    return np.ascontiguousarray(array, dtype=np.float32)


def symmetric_power(matrix: Float64, power: float) -> Float64:
    """Return a power of a positive semi-definite matrix, eigenvalues held above a millionth of the largest."""
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, max(float(values[-1]), 1e-300) * 1e-6)
    return np.asarray((vectors * values**power) @ vectors.T)
