"""Squared lengths of what codes of words stand for, without decoding them.

A code names one word a byte, and the decoded vector is an affine map of the words. Its squared length is a quadratic
form of them: what lies within a byte is known for each of its 256 words, and what lies between bytes is close to a form
of low rank where the axes are close to orthogonal. A table holds both, as whole numbers side by side, and reading a
code is one sum over its bytes. How words are learnt and decoded is not decided here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Float64, Mask
from vecpipe.operators.linear import random_generator

TOLERANCE = 1.5e-4
"""Error of a squared length that is let go, root mean square over codes of random words, relative to their mean."""

_LANES = (16, 32)
_LEAST_PRODUCTS = 4_096
"""Size of the map below which decoding costs no more."""
_MOST_BYTES = 4_096
_ROUNDS = 24
_SEED = 20240607
_ROWS = 2_048
_BYTES_AT_ONCE = 16
_LEAST_FORM, _LEAST_SHARE = 1 / 16, 1 / 4


class WordNorms:
    """Squared lengths of ``scale * (w @ backward) + mean`` for the words w that codes name.

    With y the words less their mean, the form between bytes is a sum of ``weights * (y @ axes) ** 2`` and what such a
    sum leaves out. The rank is set by the room in the table.

    Attributes
    ----------
    error : float
        What is left out and rounded away, as ``TOLERANCE`` has it.
    """

    def __init__(self, columns: _Lanes, weights: Float64, shifts: tuple[float, float, float], error: float) -> None:
        self._columns, self._weights, self.error = columns, weights, error
        self._middle, self._size, self._constant = shifts

    @classmethod
    def build(
        cls, words: npt.NDArray[np.int16], sizes: npt.NDArray[np.int64], backward: Float32, mean: Float32
    ) -> WordNorms | None:
        """Return tables whose error is below ``TOLERANCE``; None where decoding is as fast, or no table is enough.

        Parameters
        ----------
        words : (256, k)
            Columns grouped by byte.
        sizes : (b,)
            Columns of each byte.
        backward : (k, d)
        mean : (d,)
        """
        if backward.size < _LEAST_PRODUCTS or len(sizes) > _MOST_BYTES:
            return None
        wide, offset = words.astype(np.float64), mean.astype(np.float64)
        gram, along = _gram(backward), backward.astype(np.float64) @ offset
        middle = wide.mean(axis=0)
        moved = wide - middle
        spread = np.maximum(moved.std(axis=0), 1e-30)
        scaled = gram * np.outer(spread, spread)
        size = float(np.trace(scaled))
        if not 0.0 < size < np.inf:
            return None
        byte = np.repeat(np.arange(len(sizes)), sizes)
        inside = byte[:, None] == byte
        starts = np.cumsum(sizes) - sizes
        linear = [wide * along] if along.any() else []
        for lanes in _LANES:
            whole = 1 + len(linear)
            room = lanes - 2 * whole
            rank = min(len(gram), room - room // 4)
            weights, vectors = _between(scaled, inside, rank)
            left = np.where(inside, 0.0, scaled - (vectors * weights) @ vectors.T)
            axes = vectors / spread[:, None]
            own = np.where(inside, gram - (axes * weights) @ axes.T, 0.0)
            square = (moved @ own + 2.0 * (gram @ middle)) * moved
            parts = [square, *linear, *(moved * axis for axis in axes.T)]
            values = np.stack([np.add.reduceat(part, starts, axis=1).T for part in parts], axis=2)
            # The axes' columns have a variance of about 1: an error e of one changes its square by some 2 e.
            lost = _rounding(values) * np.array([1.0, 2.0][:whole] + list(2.0 * np.abs(weights)))
            fine = np.ones(len(parts), dtype=bool)
            fine[whole + np.argsort(-lost[whole:], kind="stable")[room - rank :]] = False
            lost[fine] /= 2.0 ** _low_bits(len(sizes))
            error = float(np.sqrt(2.0 * (left * left).sum() + (lost * lost).sum())) / size
            if error <= TOLERANCE:
                shifts = float(middle @ gram @ middle), size, float(offset @ offset)
                return cls(_Lanes.of(values, fine, lanes), weights, shifts, error)
        return None

    def parts(self, words: Bytes) -> tuple[Float64, Float64, Mask]:
        """Return what squared lengths are made of, for ``(n, b) uint8`` words.

        Returns
        -------
        Three arrays ``(n,)``: squared lengths of ``w @ backward``, their products with the mean, and which of the
        squared lengths are small differences of large numbers.
        """
        sums = self._columns.sums(words)
        axes = sums[len(sums) - len(self._weights) :]
        axes *= axes
        form = self._weights @ axes
        form += sums[0]
        form += self._middle
        along = sums[1] if len(axes) + 1 < len(sums) else np.zeros(len(form))
        return form, along, form < _LEAST_FORM * self._size

    def squared_norms(self, words: Bytes, scales: Float32 | None) -> tuple[Float64, Mask]:
        """Return ``(n,)`` squared lengths, and which of them are small differences of large numbers.

        Parameters
        ----------
        words : (n, b) uint8
        scales : (n,), or None for ones
        """
        form, along, unsure = self.parts(words)
        scale = np.ones(1) if scales is None else scales.astype(np.float64)
        norms = form * (scale * scale)
        norms += self._constant
        if along.any():
            least = norms * _LEAST_SHARE
            norms += 2.0 * scale * along
            unsure |= norms < least
        return norms, unsure


def _gram(backward: Float32) -> Float64:
    wide = backward.astype(np.float64)
    return np.asarray(wide @ wide.T)


def _between(form: Float64, inside: npt.NDArray[np.bool_], rank: int) -> tuple[Float64, Float64]:
    """Return weights ``(r,)`` and orthonormal vectors ``(k, r)`` of the form of rank r nearest outside the blocks.

    What is inside is free, since tables hold it: it is filled with what the last form says there (principal factors,
    as in factor analysis), while power steps turn the vectors.
    """
    target = np.where(inside, 0.0, form)
    vectors = random_generator(_SEED).standard_normal((len(form), rank))
    for _ in range(_ROUNDS):
        vectors = np.linalg.qr(target @ vectors)[0]
        weights, turn = np.linalg.eigh(vectors.T @ target @ vectors)
        vectors = vectors @ turn
        target = np.where(inside, (vectors * weights) @ vectors.T, form)
    return weights, vectors


def _units(values: Float64) -> Float64:
    """Return what a whole number in one lane stands for, of columns ``(b, 256, c)`` each."""
    reach = ((values.max(axis=1) - values.min(axis=1)) / 2).sum(axis=0)
    return np.asarray(np.where(reach > 0, reach, 1.0) / (32_767 - len(values)))


def _low_bits(count: int) -> int:
    """Return the bits of a low lane: as many as ``count`` of them add up to less than 65,536."""
    return int(np.log2(65_535 // count + 1))


def _rounding(values: Float64) -> Float64:
    """Return the standard error of the sums of columns ``(b, 256, c)`` that take one lane."""
    return np.asarray(_units(values) * np.sqrt(len(values) / 12.0))


@dataclass(frozen=True)
class _Lanes:
    """Numbers of each word as 16-bit lanes whose sums over the bytes cannot overflow.

    A column takes one lane, or two: a high one, and low bits whose sum is read without a sign. The sums are whole
    numbers, so that neither the order of the bytes nor the batch changes them.

    Attributes
    ----------
    table : (b, 256, lanes) int16
    high : int
        Lanes that are read with a sign, one a column.
    mix : (lanes, c)
        What turns sums into those of the columns.
    shift : (c,)
        What every sum gains.
    """

    table: npt.NDArray[np.int16]
    high: int
    mix: Float64
    shift: Float64

    @classmethod
    def of(cls, values: Float64, fine: npt.NDArray[np.bool_], lanes: int) -> _Lanes:
        """Lay out columns ``(b, 256, c)``; those that are ``fine`` take two lanes."""
        count, _, columns = values.shape
        middle = (values.max(axis=1) + values.min(axis=1)) / 2
        bits = _low_bits(count)
        units = _units(values)
        steps = np.where(fine, units / 2.0**bits, units)
        whole = np.rint((values - middle[:, None, :]) / steps).astype(np.int64)
        places, low = np.flatnonzero(fine), columns + np.arange(int(fine.sum()))
        table, mix = np.zeros((count, 256, lanes), dtype=np.int16), np.zeros((lanes, columns))
        table[:, :, :columns] = np.where(fine, whole >> bits, whole)
        table[:, :, low] = whole[:, :, places] & ((1 << bits) - 1)
        mix[np.arange(columns), np.arange(columns)] = units
        mix[low, places] = steps[places]
        return cls(table, columns, mix, middle.sum(axis=0))

    def sums(self, words: Bytes) -> Float64:
        """Return the sums of the columns over the words of each code, ``(n, b) uint8 -> (c, n)``."""
        count, _, lanes = self.table.shape
        flat = self.table.reshape(count * 256, lanes)
        offsets = np.arange(0, count * 256, 256, dtype=np.int64)[:, None]
        out = np.empty((self.mix.shape[1], len(words)))
        rows = min(_ROWS, len(words))
        index = np.empty((_BYTES_AT_ONCE, rows), dtype=np.int64)
        picked = np.empty((_BYTES_AT_ONCE, rows, lanes), dtype=np.int16)
        for start in range(0, len(words), _ROWS):
            # A few bytes at a time: their part of the table stays in the nearest cache while many rows read it.
            turned = words[start : start + _ROWS].T
            size = turned.shape[1]
            total = np.zeros((size, lanes), dtype=np.int16)
            for first in range(0, count, _BYTES_AT_ONCE):
                part = turned[first : first + _BYTES_AT_ONCE]
                left = len(part)
                place, found = index[:left, :size], picked[:left, :size]
                np.add(part, offsets[first : first + left], out=place)
                np.take(flat, place, axis=0, out=found, mode="clip")
                while left > 1:
                    half = left // 2
                    found[:half] += found[left - half : left]
                    left -= half
                total += found[0]
            wide = total.astype(np.float64)
            wide[:, self.high :] = total[:, self.high :].view(np.uint16)
            np.matmul(self.mix.T, wide.T, out=out[:, start : start + size])
        out += self.shift[:, None]
        return out
