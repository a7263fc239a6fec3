"""Finding the nearest of 256 words for each byte of a code, the same one whatever the batch.

Products are of whole numbers so small that float32 adds them without rounding, in whatever order BLAS takes them. What
the words mean is the codec's business (``transform_code``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.operators.kmeans import allocate_bits

Words = npt.NDArray[np.int16]

LEVELS = 32767.0
"""Largest magnitude of a word's entry: words are stored as int16 in steps of their column."""
_SEARCH_NORM = 2896.0
_GRID_BITS = 14
_ROWS = 1024


class WordSearch:
    """Nearest words of the bytes whose groups are equally large."""

    def __call__(self, z: Float32, codes: Bytes) -> None:
        """Write the bytes of rows of coordinates ``(n, k)`` into their places of ``(n, b)`` codes."""
        raise NotImplementedError


class _ExactSearch(WordSearch):
    """All 256 words of one byte, in whole numbers."""

    def __init__(self, byte: int, axes: slice, words: Words, weight: Float32) -> None:
        reach = float(np.sqrt((weight.astype(np.float64) * LEVELS**2).sum()))
        self.byte, self.axes = byte, axes
        self.factor = (np.sqrt(weight.astype(np.float64)) * (_SEARCH_NORM / max(reach, 1e-300))).astype(np.float32)
        whole = np.rint(words * self.factor)
        self.words = np.ascontiguousarray(whole.T)
        self.half = np.rint(0.5 * (whole * whole).sum(axis=1)).astype(np.float32)
        self.bound = np.floor(LEVELS * self.factor)

    def __call__(self, z: Float32, codes: Bytes) -> None:
        points = np.rint(np.clip(z[:, self.axes] * self.factor, -self.bound, self.bound))
        codes[:, self.byte] = ((points @ self.words) - self.half).argmax(axis=1)


class _GridSearch(WordSearch):
    """One or two axes a byte: the nearest word is read from a fine grid, all such bytes at once."""

    def __init__(self, bytes_: list[int], starts: list[int], sizes: list[int], words: Words, weight: Float32) -> None:
        self.bytes = np.array(bytes_)
        self.first = np.array(starts)
        self.second = np.array([s + 1 if k == 2 else s for s, k in zip(starts, sizes, strict=True)])
        self.table = np.empty((len(bytes_), 2**_GRID_BITS), dtype=np.uint8)
        cells = np.empty((len(bytes_), 2), dtype=np.int64)
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            axes = slice(start, start + size)
            if size == 1:
                bits = [_GRID_BITS, 0]
            else:
                spread = words[:, axes].astype(np.float64).var(axis=0) * weight[axes]
                first = int(allocate_bits(spread, 8)[0])
                bits = [min(max(first + 3, 4), _GRID_BITS - 4), 0]
                bits[1] = _GRID_BITS - bits[0]
            cells[i] = [2 ** bits[0], 2 ** bits[1]]
            self.table[i] = _nearest_on_grid(words[:, axes], weight[axes], cells[i])
        self.cells = cells
        self.rate = (cells / (2.0 * LEVELS + 2.0)).astype(np.float32)
        self.offsets = (np.arange(len(bytes_)) * 2**_GRID_BITS).astype(np.int32)

    def __call__(self, z: Float32, codes: Bytes) -> None:
        top = (self.cells - 1).astype(np.float32)
        one = np.clip((z[:, self.first] + np.float32(LEVELS + 1.0)) * self.rate[:, 0], 0, top[:, 0]).astype(np.int32)
        two = np.clip((z[:, self.second] + np.float32(LEVELS + 1.0)) * self.rate[:, 1], 0, top[:, 1]).astype(np.int32)
        index = one * self.cells[:, 1].astype(np.int32) + two + self.offsets
        codes[:, self.bytes] = self.table.ravel().take(index)


def _nearest_on_grid(words: Words, weight: Float32, cells: npt.NDArray[np.int64]) -> Bytes:
    """Nearest word of every cell's centre, first axis major; (2**14,) uint8."""
    span = 2.0 * LEVELS + 2.0
    centres = [(np.arange(count) + 0.5) * (span / count) - span / 2 for count in cells]
    if words.shape[1] == 1:
        return _nearest_on_line(centres[0], words[:, 0].astype(np.float64))
    points = np.stack([np.repeat(centres[0], cells[1]), np.tile(centres[1], cells[0])], axis=1)
    table = np.empty((len(points), 1), dtype=np.uint8)
    search = _ExactSearch(0, slice(0, words.shape[1]), words, weight)
    for start in range(0, len(points), _ROWS):
        search(points[start : start + _ROWS].astype(np.float32), table[start : start + _ROWS])
    return table[:, 0]


def make_searches(words: Words, sizes: npt.NDArray[np.int64], weight: Float32) -> list[WordSearch]:
    """Return what finds the words of all bytes, each with its own way for small and for large groups.

    Parameters
    ----------
    words : (256, k) int16
    sizes : (b,) axes of each byte
    weight : (k,) weight of each axis in a distance
    """
    starts = np.cumsum(sizes) - sizes
    searches: list[WordSearch] = []
    small = [i for i in range(len(sizes)) if sizes[i] <= 2]
    for i in range(len(sizes)):
        if sizes[i] > 2:
            axes = slice(int(starts[i]), int(starts[i] + sizes[i]))
            searches.append(_ExactSearch(i, axes, words[:, axes], weight[axes]))
    if small:
        searches.append(
            _GridSearch(small, [int(starts[i]) for i in small], [int(sizes[i]) for i in small], words, weight)
        )
    return searches


def _nearest_on_line(points: Float64, words: Float64) -> Bytes:
    """Return the index of the nearest word for each number, by bisection."""
    order = np.argsort(words, kind="stable")
    ascending = words[order]
    return order[np.searchsorted((ascending[1:] + ascending[:-1]) / 2, points)].astype(np.uint8)
