"""Finding the nearest of 256 words for each byte of a code, the same one whatever the batch.

Products are of whole numbers so small that float32 adds them without rounding, in whatever order BLAS takes them. What
the words mean is the codec's business (``transform_code``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.operators.kmeans import WORDS, allocate_bits

Words = npt.NDArray[np.int16]

LEVELS = 32767.0
"""Largest magnitude of a word's entry: words are stored as int16 in steps of their column."""
_SEARCH_NORM = 2896.0
_GRID_BITS = 14
_ROWS = 1024


class WordSearch:
    """Nearest words of some bytes of a code."""

    def __call__(self, z: Float32, codes: Bytes) -> None:
        """Write the bytes of rows of coordinates ``(n, k)`` into their places of ``(n, b)`` codes."""
        raise NotImplementedError


class _ExactSearch(WordSearch):
    """All 256 words of each of the first bytes, in whole numbers.

    A word's half square is a last column beside its entries, met by a one beside each point's: one product gives what
    is to be largest, below 2^24 in each partial sum (a point and a word reach 2,896 at most).
    """

    def __init__(self, sizes: npt.NDArray[np.int64], words: Words, weight: Float32, unit: Float32) -> None:
        columns, rates, bounds = [], [], []
        self.words: list[Float32] = []
        start = 0
        for size in sizes:
            axes = slice(start, start + int(size))
            wide = weight[axes].astype(np.float64)
            reach = float(np.sqrt((wide * LEVELS**2).sum()))
            factor = (np.sqrt(wide) * (_SEARCH_NORM / max(reach, 1e-300))).astype(np.float32)
            whole = np.rint(words[:, axes] * factor)
            half = np.rint(0.5 * (whole * whole).sum(axis=1))
            self.words.append(np.ascontiguousarray(np.column_stack([whole, -half]).T.astype(np.float32)))
            columns += [*range(start, axes.stop), start]
            rates += [*(factor * unit[axes]), 0.0]
            bounds += [*np.floor(LEVELS * factor), 0.0]
            start = axes.stop
        self.columns = np.array(columns)
        self.rate, self.high = np.array(rates, np.float32), np.array(bounds, np.float32)
        self.low = -self.high
        ends = np.cumsum(sizes + 1)
        self.places = list(zip((ends - sizes - 1).tolist(), ends.tolist(), strict=True))
        self.low[ends - 1] = self.high[ends - 1] = 1.0

    def __call__(self, z: Float32, codes: Bytes) -> None:
        points = z.take(self.columns, axis=1, mode="clip")
        points *= self.rate
        np.maximum(points, self.low, out=points)
        np.minimum(points, self.high, out=points)
        np.rint(points, out=points)
        closeness = np.empty((len(z), WORDS), dtype=np.float32)
        best = np.empty(len(z), dtype=np.intp)
        for byte, (words, (start, end)) in enumerate(zip(self.words, self.places, strict=True)):
            np.matmul(points[:, start:end], words, out=closeness)
            codes[:, byte] = np.argmax(closeness, axis=1, out=best)


class _GridSearch(WordSearch):
    """One or two axes a byte: the nearest word is read from a fine grid, all such bytes at once.

    Parameters
    ----------
    first, count, size
        First byte, number of bytes, axes of each.
    start
        First axis.
    """

    def __init__(
        self, first: int, count: int, size: int, start: int, words: Words, weight: Float32, unit: Float32
    ) -> None:
        self.bytes, self.axes = slice(first, first + count), slice(start, start + count * size)
        self.size = size
        self.table = np.empty((count, 2**_GRID_BITS), dtype=np.uint8)
        cells = np.empty((count, size), dtype=np.int64)
        for i in range(count):
            axes = slice(start + i * size, start + (i + 1) * size)
            bits = [_GRID_BITS]
            if size == 2:
                spread = words[:, axes].astype(np.float64).var(axis=0) * weight[axes]
                bits = [min(max(int(allocate_bits(spread, 8)[0]) + 3, 4), _GRID_BITS - 4)]
                bits.append(_GRID_BITS - bits[0])
            cells[i] = [2**width for width in bits]
            self.table[i] = _nearest_on_grid(words[:, axes], weight[axes], cells[i])
        rate = (cells / (2.0 * LEVELS + 2.0)).ravel()
        self.rate = (rate * unit[self.axes]).astype(np.float32)
        self.middle = (rate * (LEVELS + 1.0)).astype(np.float32)
        self.top = (cells.ravel() - 1).astype(np.float32)
        self.second = (cells[:, -1] << 32) + 1
        self.offsets = np.arange(count) * 2**_GRID_BITS

    def __call__(self, z: Float32, codes: Bytes) -> None:
        places = z[:, self.axes] * self.rate
        places += self.middle
        np.maximum(places, np.float32(0), out=places)
        np.minimum(places, self.top, out=places)
        index = self._pairs(places.astype("<i4")) if self.size == 2 else places.astype(np.int64)
        index += self.offsets
        codes[:, self.bytes] = self.table.ravel().take(index, mode="clip")

    def _pairs(self, cells: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Return ``cells[:, 0::2] * second + cells[:, 1::2]``.

        Two cells lie beside each other as one number, first + second 2^32: times (width 2^32 + 1) the upper half of it
        is what is wanted, without a pass over every other number.
        """
        index = cells.view("<i8")
        index *= self.second
        index >>= np.int64(32)
        return index


def _nearest_on_grid(words: Words, weight: Float32, cells: npt.NDArray[np.int64]) -> Bytes:
    """Nearest word of every cell's centre, first axis major; (2**14,) uint8."""
    span = 2.0 * LEVELS + 2.0
    centres = [(np.arange(count) + 0.5) * (span / count) - span / 2 for count in cells]
    if words.shape[1] == 1:
        return _nearest_on_line(centres[0], words[:, 0].astype(np.float64))
    points = np.stack([np.repeat(centres[0], cells[1]), np.tile(centres[1], cells[0])], axis=1).astype(np.float32)
    table = np.empty((len(points), 1), dtype=np.uint8)
    search = _ExactSearch(np.array([2]), words, weight, np.ones(2, np.float32))
    for start in range(0, len(points), _ROWS):
        search(points[start : start + _ROWS], table[start : start + _ROWS])
    return table[:, 0]


def make_searches(words: Words, sizes: npt.NDArray[np.int64], weight: Float32, unit: Float32) -> list[WordSearch]:
    """Return what finds the words of all bytes, each with its own way for small and for large groups.

    Parameters
    ----------
    words : (256, k) int16
    sizes : (b,) axes of each byte, those of more than two first, then those of two
    weight : (k,) weight of each axis in a distance
    unit : (k,) how many steps of the words a coordinate of 1 makes on each axis
    """
    searches: list[WordSearch] = []
    large = int((sizes > 2).sum())
    if large:
        searches.append(_ExactSearch(sizes[:large], words, weight, unit))
    first, start = large, int(sizes[:large].sum())
    for size in (2, 1):
        count = int((sizes == size).sum())
        if count:
            searches.append(_GridSearch(first, count, size, start, words, weight, unit))
        first, start = first + count, start + count * size
    return searches


def _nearest_on_line(points: Float64, words: Float64) -> Bytes:
    """Return the index of the nearest word for each number, by bisection."""
    order = np.argsort(words, kind="stable")
    ascending = words[order]
    return order[np.searchsorted((ascending[1:] + ascending[:-1]) / 2, points)].astype(np.uint8)
