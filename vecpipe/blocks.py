"""One pass over a block of rows, in pieces that stay in cache: everything a sketch wants to know of it but the product.

What becomes of it is decided in ``sketch``; the sums are those of ``moments.BlockSums``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.errors import InputError
from vecpipe.moments import BlockSums
from vecpipe.sample import Hashes, hash_sums, mix_hashes

_PIECE_BYTES = 1536 << 10


class NotFiniteError(InputError):
    """A row of a block holds NaN or an infinite value."""


@dataclass(frozen=True)
class BlockLook:
    """What one pass over a block of n rows finds: see ``look``.

    Attributes
    ----------
    hashes : (n,) uint64
    squares : (n,) float64
        Squared lengths.
    weights : (n,) float64
    total, third : (d,) float64
        Sums of w x and of w |x|^2 x.
    """

    hashes: Hashes
    squares: Float64
    weights: Float64
    total: Float64
    third: Float64

    def sums(self, X: Float32, weights: Float64 | None) -> BlockSums:
        """Return the sums of the block, adding the one product that costs."""
        scaled = X if weights is None else X * np.sqrt(weights).astype(np.float32)[:, None]
        w = self.weights
        square, fourth = float(w @ self.squares), float(w @ self.squares**2)
        product = np.asarray(scaled.T @ scaled, dtype=np.float32)
        return BlockSums(float(w.sum()), float(w @ w), square, fourth, self.total, self.third, product)


def look(X: Float32, weights: Float64 | None, *, hashing: bool = True) -> BlockLook:
    """Pass over a block once, in pieces that stay in cache: hashes, squared norms, first and third sums.

    Without ``hashing`` the hashes are left out.

    Raises
    ------
    NotFiniteError
        A row holds NaN or an infinite value; nothing has been made of the block.
    """
    n, d = X.shape
    rows = max(16, _PIECE_BYTES // (4 * d))
    filled = np.ones(n) if weights is None else weights
    sums_low, sums_high, squares = np.empty(n, np.uint64), np.empty(n, np.uint64), np.empty(n, np.float32)
    total, third = np.zeros(d), np.zeros(d)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        piece = X[part]
        if hashing:
            sums_low[part], sums_high[part] = hash_sums(piece)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            square = np.vecdot(piece, piece, out=squares[part])
            weight = filled[part].astype(np.float32)
            total += weight @ piece
            third += (weight * square) @ piece  # BlockSums.off_centre finds what overflows
    hashes = mix_hashes(sums_low, sums_high) if hashing else sums_low
    wide = squares.astype(np.float64)
    beyond = np.flatnonzero(~np.isfinite(squares))
    if beyond.size:
        bad = beyond[~np.isfinite(X[beyond]).all(axis=1)]
        if bad.size:
            raise NotFiniteError(f"vectors: row {int(bad[0])} of a block holds NaN or an infinite value")
        wide[beyond] = np.einsum("ij,ij->i", X[beyond].astype(np.float64), X[beyond].astype(np.float64))
    return BlockLook(hashes, wide, filled, total, third)
