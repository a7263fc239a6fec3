"""Matrix products, products of row with row and BLAS threads; nothing here knows what a product is for.

BLAS and SIMD libraries are known here and in ``query_products``, nowhere else.
"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numkong
import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from vecpipe.arrays import Float32, Float64

BLOCK_ROWS = 8_192
"""Rows in one product of a fit: enough for BLAS to run at full speed, few enough to stay in cache."""

_APPLY_ROWS = 1_024

LEAST_SQUARE, MOST_SQUARE = 1e-25, 1e30
"""Between them float32 holds squared norms, and products of rows, with digits to spare."""


@lru_cache(maxsize=1)
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")


def _set_threads(library: Any, count: int) -> None:
    """Set the threads of a BLAS library from whichever thread this is.

    threadpoolctl lets only the thread that first set a limit change it and passes over all others; here any thread
    may be the first in or the last out, and the guard keeps them apart.
    """
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    library.set_num_threads(count)
    if release is not None:
        release(force=True)


class _BlasGuard:
    """Counts the threads inside ``one_blas_thread``: the first in sets BLAS to one thread.

    BLAS gets its threads back only once nobody has been inside for a while. Switching for every batch wakes its
    workers each time, and on a busy machine their spinning costs more than the products do.
    """

    _IDLE_SECONDS = 0.1

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._before: list[int] | None = None
        self._left = 0.0
        self._waiting = False

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._before is None:
                libraries = _blas().lib_controllers
                self._before = [library.get_num_threads() for library in libraries]
                for library in libraries:
                    _set_threads(library, 1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            self._left = time.monotonic()
            if self._depth == 0 and not self._waiting:
                self._wait(self._IDLE_SECONDS)

    def _wait(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._restore)
        timer.daemon = True
        self._waiting = True
        timer.start()

    def _restore(self) -> None:
        with self._lock:
            self._waiting = False
            if self._depth or self._before is None:
                return
            rest = self._left + self._IDLE_SECONDS - time.monotonic()
            if rest > 0:
                self._wait(rest)
                return
            for library, count in zip(_blas().lib_controllers, self._before, strict=True):
                _set_threads(library, count)
            self._before = None


_GUARD = _BlasGuard()


def one_blas_thread() -> AbstractContextManager[None]:
    """Hold BLAS at one thread while the caller is one of several threads that compute."""
    return _GUARD


def affine(X: Float32, matrix: Float64 | Float32, offset: Float64 | Float32, *, stable: bool = False) -> Float32:
    """Return ``X @ matrix + offset`` (or ``X * matrix + offset`` for a 1-D matrix) as float32.

    Parameters
    ----------
    X : (n, d) float32
    matrix : (d,) or (d, k)
        Of wider rows the first d dimensions are taken.
    offset : (k,)
    stable
        Sum in float64. A float32 product differs in the last bit with the number of rows it is computed in
        (BLAS picks other kernels at the edges); rounded from float64 it does not, so that a codec behind it
        writes the same bytes whatever the batch.
    """
    if X.shape[1] > len(matrix):
        X = X[:, : len(matrix)]
    if matrix.ndim == 1:
        return np.asarray(X * matrix.astype(np.float32) + offset.astype(np.float32), dtype=np.float32)
    n, k = len(X), matrix.shape[1]
    out = np.empty((n, k), dtype=np.float32)
    if stable:
        wide, shift = matrix.astype(np.float64, copy=False), offset.astype(np.float64, copy=False)
        for start in range(0, n, _APPLY_ROWS):
            out[start : start + _APPLY_ROWS] = X[start : start + _APPLY_ROWS].astype(np.float64) @ wide + shift
        return out
    np.matmul(X, matrix.astype(np.float32, copy=False), out=out)
    out += offset.astype(np.float32, copy=False)
    return out


def squared_norms(X: Float32) -> Float32:
    """Return ``(n,)`` squared Euclidean norms of the rows."""
    return np.asarray(np.einsum("ij,ij->i", X, X), dtype=np.float32)


def wide_squared_norms(X: Float32) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Return ``(n,)`` squared norms of any size, and the rows whose squares float32 does not hold.

    Sums are in float32 wherever these hold them, and in float64 elsewhere.
    """
    with np.errstate(over="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", X, X).astype(np.float64)
    return squares, widen(squares, X)


def widen(squares: Float64, X: Float32) -> npt.NDArray[np.int64]:
    """Sum squared norms ``(n,)`` of rows again, in place, where float32 may not hold them; return these places."""
    far = beyond_float32(squares)
    if far.size:
        wide = X[far].astype(np.float64)
        squares[far] = np.einsum("ij,ij->i", wide, wide)
    return far


def beyond_float32(squares: Float64) -> npt.NDArray[np.int64]:
    """Return the places of squared norms that float32, where it summed them up, may have lost to its range."""
    return np.flatnonzero(~((squares > LEAST_SQUARE) & (squares < MOST_SQUARE)))


def odd_lengths(lengths: Float64) -> bool:
    """Return whether some lengths are so small or large that float32 may lose products of such rows."""
    return bool((lengths[beyond_float32(lengths * lengths)] > 0).any())


def unit_rows(X: Float32) -> tuple[Float32, Float64]:
    """Return the rows divided by their lengths, whatever these are, and the lengths ``(n,)``; zero rows stay zero."""
    wide = X.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    wide /= np.where(lengths > 0, lengths, 1.0)[:, None]
    return wide.astype(np.float32), lengths


def row_products(A: npt.NDArray[Any], B: npt.NDArray[Any]) -> Float64:
    """Return ``(n,)`` inner products of row with row: float32 in float64, int8 exactly.

    Each row by itself, so that its product does not depend on the rows beside it. Either side may be one row, which
    goes with all others.
    """
    left, right = _side_by_side(A, B)
    return np.asarray(numkong.dot(left, right)) if left.size else np.zeros(len(left))


def row_cosines(A: Float32, B: Float32) -> Float64:
    """Return ``(n,)`` cosines of row with row as ``row_products``, whatever their lengths; NaN where one is zero.

    One pass over the rows finds products and lengths.
    """
    left, right = _side_by_side(A, B)
    if not left.size:
        return np.full(len(left), np.nan)
    cosines = 1.0 - np.asarray(numkong.angular(left, right))
    odd = np.flatnonzero((cosines == 0.0) | (cosines == 1.0))  # what zero vectors get, and some others
    cosines[odd[~(left[odd].any(axis=1) & right[odd].any(axis=1))]] = np.nan
    return cosines


def row_distances(A: Float32, B: Float32) -> Float64:
    """Return ``(n,)`` Euclidean distances of row from row as ``row_products``."""
    left, right = _side_by_side(A, B)
    return np.asarray(numkong.euclidean(left, right)) if left.size else np.zeros(len(left))


def _side_by_side(A: npt.NDArray[Any], B: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return matrices of one shape whose rows have their entries side by side; rows may lie apart, or be the same."""
    count = len(B) if len(A) == 1 else len(A)
    left, right = (M if M.strides[1] == M.itemsize else np.ascontiguousarray(M) for M in (A, B))
    return np.broadcast_to(left, (count, A.shape[1])), np.broadcast_to(right, (count, B.shape[1]))


def digit_sums(levels: npt.NDArray[np.int8]) -> Float64:
    """Return the ``(n,)`` sums of the rows of ``(n, d) int8`` levels, exact."""
    return row_products(levels, np.ones((1, levels.shape[1]), dtype=np.int8))


def half_squares(halves: npt.NDArray[np.float16]) -> Float64:
    """Return ``(n,)`` squared norms of ``(n, d) float16`` rows without widening them."""
    return np.asarray(numkong.dot(halves, halves)) if len(halves) else np.zeros(0)


def bfloat_squares(halves: npt.NDArray[np.uint16]) -> Float64:
    """Return ``(n,)`` squared norms of ``(n, d)`` rows of bfloat16, given as their bits."""
    return np.asarray(numkong.dot(halves, halves, "bf16")) if len(halves) else np.zeros(0)


def inner_products(Q: Float32, X: Float32) -> Float32:
    """Return ``(m, n) float32`` inner products of queries with rows."""
    return np.asarray(Q @ X.T, dtype=np.float32)
