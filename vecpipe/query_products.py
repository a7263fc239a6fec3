"""Queries laid out once for fast products with many rows: as digits, half floats, bfloats or bits.

Integer, half-float and bit products go to numkong; products of float32 stay with BLAS, in ``kernels``.
"""

from __future__ import annotations

from functools import lru_cache

import numkong
import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Float64

_BFLOAT_LOSS = 2.0**-8
"""What an entry loses at most of itself as a bfloat16."""

_MANY, _WIDE = 96, 96


def _fast_count(count: int) -> int:
    """Return how many rows to lay out for so many: fours are fastest, but many eights take half as long again."""
    return count + (-count % 4 if count < _MANY else (4 - count) % 8)


class DigitQuery:
    """A float query as two int8 digits a dimension, for integer products with int8 codes.

    ``w ≈ scale * (high + low / 254)``: two digits keep the error of the query below 1/64,000 of its largest
    entry, so that the ranking is decided by the codes' error and not by the query's.

    Parameters
    ----------
    weights : (m, d) float
        Queries, already multiplied by whatever scale the codes have per dimension.
    shift : (m,) float64
        What every product gains.
    """

    def __init__(self, weights: Float64, shift: Float64 | None = None) -> None:
        self._shift = np.zeros(len(weights)) if shift is None else shift
        self._only_shift = float(self._shift[0]) if len(weights) == 1 else 0.0
        peak = np.abs(weights).max(axis=1, keepdims=True, initial=0.0)
        self.scale = np.where(peak > 0, peak / 127.0, 1.0)
        scaled = weights / self.scale
        high = np.rint(scaled)
        low = np.rint((scaled - high) * 254.0)
        digits = np.zeros((_fast_count(2 * len(weights)), weights.shape[1]), dtype=np.int8)
        digits[: len(weights)], digits[len(weights) : 2 * len(weights)] = high, np.clip(low, -127, 127)
        self._packed = numkong.dots_pack(digits)
        self.count = len(weights)
        self._mix = np.zeros((len(digits), self.count))
        self._mix[np.arange(self.count), np.arange(self.count)] = self.scale[:, 0]
        self._mix[self.count + np.arange(self.count), np.arange(self.count)] = self.scale[:, 0] / 254.0

    def dot(self, codes: npt.NDArray[np.int8]) -> Float32:
        """Return ``(m, n) float32`` products with ``(n, d) int8`` codes."""
        both = np.asarray(numkong.dots_packed(np.ascontiguousarray(codes), self._packed))
        if self.count == 1:
            # As few calls as can be: threads that score share the interpreter's lock.
            out = np.empty((1, len(both)), np.float32)
            np.add(both @ self._mix[:, 0], self._only_shift, out=out[0], casting="same_kind")
            return out
        wide = both.T
        sums = wide[: self.count] + wide[self.count : 2 * self.count] / 254.0
        sums *= self.scale
        sums += self._shift[:, None]
        return sums.astype(np.float32)


class HalfQuery:
    """A float query as two half floats a dimension, for products with half floats that stay as they are.

    ``w ≈ scale * (high + low / 2048)``: together they hold some 22 bits of each entry.

    Parameters
    ----------
    weights : (m, d) float
    """

    _LOW = 2048.0

    def __init__(self, weights: Float64) -> None:
        peak = np.abs(weights).max(axis=1, keepdims=True, initial=0.0)
        self.scale = np.where(peak > 0, peak, 1.0)
        scaled = weights / self.scale
        high = scaled.astype(np.float16)
        low = ((scaled - high) * self._LOW).astype(np.float16)
        self._packed = numkong.dots_pack(np.ascontiguousarray(np.concatenate([high, low])))
        self.count = len(weights)

    def dot(self, halves: npt.NDArray[np.float16]) -> Float32:
        """Return ``(m, n) float32`` products with ``(n, d) float16`` rows."""
        both = np.asarray(numkong.dots_packed(np.ascontiguousarray(halves), self._packed)).T
        sums = both[: self.count] + both[self.count :].astype(np.float64) / self._LOW
        return np.asarray(sums * self.scale, dtype=np.float32)


class BfloatQueries:
    """Queries as bfloat16, for products in half the time that are known to be near enough.

    Parameters
    ----------
    Q : (m, d) float32

    Attributes
    ----------
    losses : (m,) float64
        Products with a row are off by at most this times the length of the row, and by what float32 rounds.
    """

    def __init__(self, Q: Float32) -> None:
        self.count = len(Q)
        rows = np.zeros((_fast_count(self.count), Q.shape[1]), np.float32)
        rows[: self.count] = Q
        halves = numkong.astype(rows, "bf16")
        self._packed = numkong.dots_pack(halves)
        lost = np.asarray(numkong.astype(halves, "f32"))[: self.count].astype(np.float64) - Q
        wide = Q.astype(np.float64)
        own, lengths = (np.sqrt(np.vecdot(each, each)) for each in (lost, wide))
        self.losses = own + _BFLOAT_LOSS * (lengths + own)

    def dot(self, halves: npt.NDArray[np.uint16]) -> Float32:
        """Return ``(m, n) float32`` products with the rows ``(n, d)`` of ``bfloats``; those of a row are neighbours."""
        rows = numkong.from_pointer(halves.ctypes.data, halves.shape, "bf16", owner=halves)
        return np.asarray(numkong.dots_packed(rows, self._packed))[:, : self.count].T


def bfloats(X: Float32) -> npt.NDArray[np.uint16]:
    """Return ``(n, d)`` rows as bits of bfloat16, rounded; entries are finite, and not near the end of float32."""
    bits = np.ascontiguousarray(X).view(np.uint32) + np.uint32(0x8000)
    bits >>= 16
    return bits.astype(np.uint16)


@lru_cache
def bfloats_pay(dim: int) -> bool:
    """Return whether products of many rows of bfloat16 are faster than those of BLAS on this processor."""
    able = numkong.get_capabilities()
    return dim >= _WIDE and bool(able.get("skylake") or able.get("neonbfdot"))


class BitRows:
    """Rows of bits laid out once for Hamming distances to any number of queries.

    Parameters
    ----------
    bits : (n, B) uint8, packed
    """

    def __init__(self, bits: Bytes) -> None:
        self._packed = numkong.hammings_pack(np.ascontiguousarray(bits))
        self.count = len(bits)

    def distances(self, queries: Bytes) -> npt.NDArray[np.uint32]:
        """Return ``(m, n) uint32`` bits that differ between ``(m, B) uint8`` queries and the rows."""
        return np.asarray(numkong.hammings_packed(np.ascontiguousarray(queries), self._packed))
