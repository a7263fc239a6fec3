"""Blocks of rows on their way into a sketch: everything it wants to know of them.

What becomes of a block is decided in ``sketch``; the sums are those of ``moments.BlockSums``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vecpipe import kernels
from vecpipe.arrays import Float32, Float64
from vecpipe.kernels import BLOCK_ROWS
from vecpipe.moments import BlockSums
from vecpipe.rules import nonfinite_rows, row_not_finite
from vecpipe.sample import Hashes, row_hashes

_PIECE_BYTES = 1536 << 10
_BLOCK_BYTES = 64 << 20


def block_rows(dim: int) -> int:
    """Return how many rows of a width make a block: ``BLOCK_ROWS``, fewer of wide ones."""
    return int(np.clip(_BLOCK_BYTES // (4 * max(dim, 1)), 256, BLOCK_ROWS))


def squared_lengths(X: Float32) -> Float32:
    """Return the ``(n,)`` squared lengths of rows, infinite where float32 does not hold them.

    Raises
    ------
    RowError
        A row holds NaN or an infinite value.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.asarray(np.vecdot(X, X), dtype=np.float32)
    beyond = np.flatnonzero(~np.isfinite(squares))
    if beyond.size:
        bad = beyond[nonfinite_rows(X[beyond])]
        if bad.size:
            raise row_not_finite(X, int(bad[0]))
    return squares


@dataclass(frozen=True)
class Block:
    """Rows on their way into a sketch, with what is known of them.

    A block is a view of rows where they lie, or it has a ``room``: a matrix in which each row is followed by a one and
    by its squared length. The product of that matrix with itself holds the sums of x x^T, of x and of |x|^2 x, at the
    price of the first: so rows that are copied anyway are copied into a room.

    Attributes
    ----------
    rows : (n, d) float32
        All finite.
    squares : (n,) float32
        Their squared lengths, infinite where float32 does not hold them.
    weights : (n,) float64 or None
    room : (n, d + 2) float32 or None
    """

    rows: Float32
    squares: Float32
    weights: Float64 | None
    room: Float32 | None = None

    @staticmethod
    def of(X: Float32, weights: Float64 | None) -> Block:
        """Return ``(n, d)`` rows as a block, where they lie.

        Raises
        ------
        RowError
            A row holds NaN or an infinite value.
        """
        return Block(X, squared_lengths(X), weights)

    @staticmethod
    def empty(count: int, dim: int, weights: Float64 | None) -> Block:
        """Return a room for ``count`` rows, with ``count`` weights or none."""
        room = np.empty((count, dim + 2), np.float32)
        room[:, dim] = 1.0
        return Block._within(room, weights)

    @staticmethod
    def _within(room: Float32, weights: Float64 | None) -> Block:
        return Block(room[:, :-2], room[:, -1], weights, room)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Any) -> Block:
        """Return the rows at ``index``: a copy for an array, a view for a slice."""
        weights = None if self.weights is None else self.weights[index]
        if self.room is not None:
            return Block._within(self.room[index], weights)
        return Block(self.rows[index], self.squares[index], weights)

    def put(self, index: Any, other: Block) -> None:
        """Copy other rows to ``index``; of weights, where this block has some, none are ones."""
        self.rows[index], self.squares[index] = other.rows, other.squares
        if self.weights is not None:
            self.weights[index] = 1.0 if other.weights is None else other.weights

    def copy(self) -> Block:
        """Return the rows in memory of their own: callers fill theirs again."""
        return Block(self.rows.copy(), self.squares.copy(), None if self.weights is None else self.weights.copy())

    def filled_weights(self) -> Float64:
        """Return the weights, ones where there are none."""
        return np.ones(len(self)) if self.weights is None else self.weights

    def hashes(self) -> Hashes:
        """Return the ``(n,)`` content hashes of the rows."""
        out = np.empty(len(self), np.uint64)
        for part in self._pieces():
            out[part] = row_hashes(self.rows[part])
        return out

    def wide_squares(self) -> Float64:
        """Return the ``(n,)`` squared lengths in float64, which holds them all."""
        squares = self.squares.astype(np.float64)
        kernels.widen(squares, self.rows)
        return squares

    def sums(self, squares: Float64) -> BlockSums:
        """Return the sums of the block, given its ``wide_squares``; its product is what costs."""
        w = self.filled_weights()
        square, fourth = float(w @ squares), float(w @ squares**2)
        with np.errstate(over="ignore", invalid="ignore"):  # BlockSums.off_centre finds what overflows
            if self.room is None:
                product = _gram(self.rows, self.weights)
                total, third = self._first_and_third()
            else:
                both = _gram(self.room, self.weights)
                product, (total, third) = both[:-2, :-2], both[-2:, :-2].astype(np.float64)
        return BlockSums(float(w.sum()), float(w @ w), square, fourth, total, third, product)

    def _first_and_third(self) -> tuple[Float64, Float64]:
        """Return the ``(d,)`` sums of w x and of w |x|^2 x."""
        total, third = np.zeros(self.rows.shape[1]), np.zeros(self.rows.shape[1])
        weights = self.filled_weights().astype(np.float32)
        for part in self._pieces():
            total += weights[part] @ self.rows[part]
            third += (weights[part] * self.squares[part]) @ self.rows[part]
        return total, third

    def _pieces(self) -> list[slice]:
        """Return parts of the rows that stay in cache."""
        step = max(16, _PIECE_BYTES // (4 * self.rows.shape[1]))
        return [slice(start, start + step) for start in range(0, len(self), step)]


def _gram(X: Float32, weights: Float64 | None) -> Float32:
    if weights is None or (weights == 1.0).all():
        return np.asarray(X.T @ X, dtype=np.float32)
    scaled = X * np.sqrt(weights).astype(np.float32)[:, None]
    return np.asarray(scaled.T @ scaled, dtype=np.float32)
