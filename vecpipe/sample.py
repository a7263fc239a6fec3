"""A uniform sample of a stream, chosen by content hash: it depends neither on order nor on how the stream was split.

Among all distinct rows those with the smallest hashes are kept, each once, with how often it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32, Float64

SAMPLE_ROWS = 65_536
_SAMPLE_BYTES = 128 << 20
_SLACK = 16_384
_SMALL = 4_096

Hashes = npt.NDArray[np.uint64]


def sample_capacity(dim: int) -> int:
    """Return how many rows a sample of this width holds: at most 65,536, and at most 128 MB of float32."""
    return min(SAMPLE_ROWS, max(1_024, _SAMPLE_BYTES // (4 * dim)))


def row_hashes(X: Float32) -> Hashes:
    """Return a 64-bit content hash for each row of ``(n, d) float32``; equal rows have equal hashes everywhere.

    Multilinear hashing modulo 2**64 of the row's bits, two dimensions to a word (Lemire and Kaser 2014), with
    splitmix64 multipliers and finaliser. A product modulo 2**64 forgets the high bits of a word, and those are all
    in which rows of signs or small integers differ: the upper halves are therefore hashed once more on their own,
    moved down.
    """
    if X.shape[1] % 2:
        X = np.concatenate([X, np.zeros((len(X), 1), np.float32)], axis=1)
    words = (X if X.strides[1] == X.itemsize else np.ascontiguousarray(X)).view(np.uint64)
    multipliers = _multipliers(words.shape[1])
    low = np.einsum("ij,j->i", words, multipliers[0])
    high = np.einsum("ij,j->i", words >> np.uint64(32), multipliers[1])
    return _finalise(_finalise(low) ^ high)


@lru_cache(maxsize=64)
def _multipliers(words: int) -> tuple[Hashes, Hashes]:
    drawn = _finalise(np.arange(1, 2 * words + 1, dtype=np.uint64)) | np.uint64(1)
    return drawn[:words], drawn[words:]


def _finalise(z: Hashes) -> Hashes:
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Sample:
    """Distinct rows of a stream with the smallest content hashes, in order of the hash.

    Attributes
    ----------
    rows : (m, d) float32
    weights : (m,) float64
        Sum of the weights of all occurrences of the row.
    counts : (m,) int64
        Number of occurrences.
    """

    hashes: Hashes
    rows: Float32
    counts: npt.NDArray[np.int64]
    weights: Float64


class BottomK:
    """The rows with the k smallest hashes seen so far, each once, with exact counts and weights.

    A row that ends among the k smallest was among them ever since it first came, so its count misses nothing.
    """

    def __init__(self, dim: int) -> None:
        self.capacity = sample_capacity(dim)
        self.full = False
        self._compact = True
        self._small: Sample | None = None
        self._size = 0
        self._limit = np.uint64(0xFFFFFFFFFFFFFFFF)
        self._rows = np.empty((0, dim), np.float32)
        self._hashes = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)
        self._weights = np.empty(0, np.float64)

    def __len__(self) -> int:
        return self._size

    def add(self, X: Float32, hashes: Hashes, counts: npt.NDArray[np.int64] | None, weights: Float64) -> None:
        """Offer rows; those above the limit are passed over."""
        near = np.flatnonzero(hashes <= self._limit) if self.full else np.arange(len(X))
        while len(near):
            if self._size >= self.capacity + _SLACK:
                self.compact()
            now = near[: self.capacity + _SLACK - self._size]
            near = near[len(now) :]
            self._reserve(self._size + len(now))
            here = slice(self._size, self._size + len(now))
            self._rows[here] = X if len(now) == len(X) else X[now]
            self._hashes[here], self._weights[here] = hashes[now], weights[now]
            self._counts[here] = 1 if counts is None else counts[now]
            self._size += len(now)
            self._compact, self._small = False, None

    def _reserve(self, size: int) -> None:
        room = len(self._hashes)
        if size <= room:
            return
        # Pages of the large arrays are only taken as they are written, so growing once costs nothing.
        room = max(256, 2 * size) if size <= _SMALL else self.capacity + _SLACK
        for name in ("_rows", "_hashes", "_counts", "_weights"):
            old = getattr(self, name)
            new = np.empty((room, *old.shape[1:]), old.dtype)
            new[: self._size] = old[: self._size]
            setattr(self, name, new)

    def compact(self) -> None:
        """Join equal rows and drop those beyond the capacity, moving as few rows as possible."""
        if self._compact:
            return
        self._compact = True
        order = np.argsort(self._hashes[: self._size])
        ordered = self._hashes[order]
        starts = np.ones(self._size, dtype=bool)
        np.not_equal(ordered[1:], ordered[:-1], out=starts[1:])
        first = order[starts]
        if len(first) < self._size:
            group = np.cumsum(starts) - 1
            self._counts[first] = np.bincount(group, self._counts[order], len(first)).astype(np.int64)
            self._weights[first] = np.bincount(group, self._weights[order], len(first))
        if len(first) > self.capacity:
            first = first[: self.capacity]
            self.full, self._limit = True, self._hashes[first[-1]]
        size = len(first)
        keep = np.zeros(self._size, dtype=bool)
        keep[first] = True
        holes = np.flatnonzero(~keep[:size])
        movers = size + np.flatnonzero(keep[size:])
        for array in (self._rows, self._hashes, self._counts, self._weights):
            array[holes] = array[movers]
        self._size = size

    def restore_limit(self) -> None:
        """Take what was read back as the smallest of a longer stream."""
        if self._size >= self.capacity:
            self.full, self._limit = True, self._hashes[: self._size].max()

    def sample(self) -> Sample:
        """Return what is kept, ordered by hash."""
        if self._small is not None:
            return self._small
        self.compact()
        order = np.argsort(self._hashes[: self._size])
        sample = Sample(self._hashes[order], self._rows[order], self._counts[order], self._weights[order])
        if self._size <= _SMALL:  # a larger copy is not worth its memory
            self._small = sample
        return sample
