"""Codes whose every byte is a place in a table of 256: decoding and scoring them in NumPy.

``look_up`` sums one float per byte: the scores of few queries. ``ByteTables`` holds 256 words for each byte and writes
them side by side: decoded rows, or the scores of many queries by a matrix product. How words are learnt is not decided
here.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32

Indices = npt.NDArray[np.int64]

ROWS = 2048
_CELLS = ROWS * 128
_WIDTHS = (1, 2, 4, 8, 16)


def padded_width(size: int) -> int:
    """Return the columns that a group of axes takes in a decoded row: a power of two up to 16, then whole eights."""
    return next((width for width in _WIDTHS if width >= size), -(-size // 8) * 8)


class _Scratch:
    """Places in tables, the offset of each byte's table written once, and room for what stands there."""

    def __init__(self, count: int) -> None:
        rows = min(ROWS, max(1, _CELLS // count))
        self.count = count
        self.index = np.tile(np.arange(count, dtype=np.int64) * 256, (rows, 1))
        self.picked = np.empty((rows, count), dtype=np.float32)
        self.ones = np.ones(count, dtype=np.float32)
        # A table has 256 entries, so a code is the lowest byte of its place: copied there, it needs no addition.
        self.lowest = self.index.view(np.uint8).reshape(rows, count, 8)[:, :, 0 if sys.byteorder == "little" else 7]


# Taken and put back, since fresh megabytes for each call cost page faults. Not a thread's own: DuckDB's threads have
# no Python state between two calls.
_SCRATCH: list[_Scratch] = []


def _scratch(count: int) -> _Scratch:
    with suppress(IndexError):
        found = _SCRATCH.pop()
        if found.count == count:
            return found
    return _Scratch(count)


def look_up(tables: Float32, codes: Bytes) -> Float32:
    """Return the sums of the table entries that codes name: (m, b, 256), (n, b) -> (m, n) float32."""
    m, count = tables.shape[0], tables.shape[1]
    out = np.empty((m, len(codes)), dtype=np.float32)
    flat = tables.reshape(m, count * 256)
    scratch = _scratch(count)
    rows = len(scratch.index)
    for start in range(0, len(codes), rows):
        block = codes[start : start + rows]
        index, picked = scratch.index[: len(block)], scratch.picked[: len(block)]
        np.copyto(scratch.lowest[: len(block)], block)
        for query in range(m):
            flat[query].take(index, out=picked, mode="clip")
            np.matmul(picked, scratch.ones, out=out[query, start : start + len(block)])
    _SCRATCH.append(scratch)
    return out


@dataclass(frozen=True)
class _Run:
    """Consecutive bytes whose words are equally wide, as one flat table of machine words."""

    first: int
    count: int
    table: npt.NDArray[np.uint8]
    columns: slice


class ByteTables:
    """256 words for each byte of a code.

    Parameters
    ----------
    words : (256, k) int8, int16 or float32
        Columns grouped by byte.
    sizes : (b,) int
        Axes of each byte. Bytes of equal padded width that are neighbours are read together.

    Attributes
    ----------
    columns : (k,) int
        Where each axis stands in a row of ``gather``.
    width : int
        Columns of such a row.
    """

    def __init__(self, words: npt.NDArray[Any], sizes: npt.ArrayLike) -> None:
        self.words = words
        self.sizes: Indices = np.asarray(sizes, dtype=np.int64)
        ends = np.cumsum(self.sizes)
        self.starts = ends - self.sizes
        widths = [padded_width(int(size)) for size in self.sizes]
        self.columns = np.zeros(int(self.sizes.sum()), dtype=np.int64)
        self._runs: list[_Run] = []
        first = place = 0
        while first < len(widths):
            last = first
            while last < len(widths) and widths[last] == widths[first]:
                last += 1
            width, count = widths[first], last - first
            table = np.zeros((count, 256, width), dtype=words.dtype)
            for i in range(count):
                axes = slice(int(self.starts[first + i]), int(ends[first + i]))
                table[i, :, : axes.stop - axes.start] = words[:, axes]
                self.columns[axes] = place + i * width + np.arange(axes.stop - axes.start)
            run_columns = slice(place, place + count * width)
            self._runs.append(_Run(first, count, table.view(np.uint8), run_columns))
            first, place = last, run_columns.stop
        self.width = place
        self._offsets = np.arange(len(self.sizes), dtype=np.int64) * 256

    def gather(self, codes: Bytes) -> npt.NDArray[Any]:
        """Return the words of every byte side by side: (n, b) uint8 -> (n, width) of the words' type, gaps zero."""
        out = np.empty((len(codes), self.width), dtype=self.words.dtype)
        for start in range(0, len(codes), ROWS):
            block = codes[start : start + ROWS]
            for run in self._runs:
                kind = np.dtype(f"u{min(8, run.table.shape[2])}")
                flat = run.table.view(kind).reshape(run.count * 256, -1)
                index = block[:, run.first : run.first + run.count] + self._offsets[: run.count]
                target = out[start : start + len(block), run.columns]
                if flat.shape[1] == 1:
                    target[:] = flat[:, 0].take(index, mode="clip").view(self.words.dtype)
                else:
                    picked = flat.take(index, axis=0, mode="clip")
                    target[:] = picked.reshape(len(block), run.count * flat.shape[1]).view(self.words.dtype)
        return out

    def rows(self, codes: Bytes) -> npt.NDArray[Any]:
        """Return the words of every byte without gaps between them: (n, b) uint8 -> (n, k) of the words' type."""
        near = self.gather(codes)
        return near if self.width == len(self.columns) else near.take(self.columns, axis=1, mode="clip")

    def tables(self, queries: Float32) -> Float32:
        """Return the inner product of each query with each word: (m, k) -> (m, b, 256) float32."""
        products = queries[:, None, :] * self.words[None].astype(np.float32)
        sums = np.add.reduceat(products, self.starts, axis=2)
        return np.ascontiguousarray(sums.transpose(0, 2, 1))
