"""The mergeable one-pass summary that every fit starts from.

A sketch holds weighted moments, extrema, counts of rows that do not count, and a uniform sample chosen by content
hash. It knows nothing of operators: it is what a stream of rows leaves behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vecpipe import container
from vecpipe.arrays import MAX_DIM, Float32, Float64, Rows
from vecpipe.errors import InputError, ModelFormatError
from vecpipe.kernels import BLOCK_ROWS, squared_norms
from vecpipe.moments import Moments

SAMPLE_ROWS = 65_536
_SAMPLE_BYTES = 128 << 20
_SLACK = 16_384
_MOMENTS_FROM = 16_384
"""Rows from which moments are accumulated as the rows come: a smaller stream keeps its rows and no matrix."""

Hashes = npt.NDArray[np.uint64]


def sample_capacity(dim: int) -> int:
    """Return how many rows a sample of this width holds: at most 65,536, and at most 128 MB of float32."""
    return min(SAMPLE_ROWS, max(1_024, _SAMPLE_BYTES // (4 * dim)))


def row_hashes(X: Float32) -> Hashes:
    """Return a 64-bit content hash for each row of ``(n, d) float32``.

    Multilinear hashing modulo 2**64 over the row's bits (Lemire and Kaser 2014) with splitmix64 multipliers, then
    the splitmix64 finaliser. A product modulo 2**64 forgets the high bits of a word, and those are all in which
    rows of signs or small integers differ: the bytes are therefore hashed in both orders. Equal rows have equal
    hashes on every machine.
    """
    n, d = X.shape
    if d % 2:
        X = np.concatenate([X, np.zeros((n, 1), np.float32)], axis=1)
    words = np.ascontiguousarray(X).view(np.uint64)
    width = words.shape[1]
    multipliers = _finalise(np.arange(1, 2 * width + 1, dtype=np.uint64)) | np.uint64(1)
    forward = np.einsum("ij,j->i", words, multipliers[:width])
    backward = np.einsum("ij,j->i", words.byteswap(), multipliers[width:])
    return _finalise(_finalise(forward) ^ backward)


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


class _BottomK:
    """The rows with the k smallest hashes seen so far, each once, with exact counts and weights.

    A row that ends among the k smallest was among them ever since it first came, so its count misses nothing.
    """

    def __init__(self, dim: int) -> None:
        self.capacity = sample_capacity(dim)
        self.full = False
        self._dim = dim
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
        if self.full:
            near = np.flatnonzero(hashes <= self._limit)
            X, hashes, weights = X[near], hashes[near], weights[near]
            counts = None if counts is None else counts[near]
        start = 0
        while start < len(X):
            if self._size >= self.capacity + _SLACK:
                self.compact()
            take = min(len(X) - start, self.capacity + _SLACK - self._size)
            self._reserve(self._size + take)
            here, there = slice(self._size, self._size + take), slice(start, start + take)
            self._rows[here], self._hashes[here] = X[there], hashes[there]
            self._counts[here] = 1 if counts is None else counts[there]
            self._weights[here] = weights[there]
            self._size += take
            start += take

    def _reserve(self, size: int) -> None:
        room = len(self._hashes)
        if size <= room:
            return
        room = min(max(size, 2 * room, 256), self.capacity + _SLACK)
        for name in ("_rows", "_hashes", "_counts", "_weights"):
            old = getattr(self, name)
            new = np.empty((room, *old.shape[1:]), old.dtype)
            new[: self._size] = old[: self._size]
            setattr(self, name, new)

    def compact(self) -> None:
        """Join equal rows and drop those beyond the capacity, moving as few rows as possible."""
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
        self.compact()
        order = np.argsort(self._hashes[: self._size])
        return Sample(self._hashes[order], self._rows[order], self._counts[order], self._weights[order])


class Sketch:
    """Summary of a stream of ``(n, d)`` batches; ``update`` may be called from several threads.

    While the distinct rows fit into the sample, the sample is the whole stream and moments are computed from it,
    in order of the hash, in float64: the result is then the same to the last bit whatever the order, the batches,
    the threads or the merges were. Beyond that, moments are accumulated block by block and equal to about 1e-7.

    Attributes
    ----------
    count : int
        Rows that counted.
    nulls, invalid, zeros : int
        NULL rows, rows turned to NULL for breaking a rule, and zero vectors (these count).
    minimum, maximum : (d,) float32
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self.nulls = 0
        self.invalid = 0
        self.zeros = 0
        self.norm_sum = 0.0
        self.minimum = np.full(dim, np.inf, np.float32)
        self.maximum = np.full(dim, -np.inf, np.float32)
        self._kept = _BottomK(dim)
        self._streamed: Moments | None = None
        self._pending: list[tuple[Float32, Float64 | None]] = []
        self._pending_rows = 0
        self._lock = threading.Lock()

    def add(self, rows: Rows, weights: Float64 | None = None) -> None:
        """Add the rows of a column, counting its NULLs."""
        if rows.valid is not None and weights is not None:
            weights = weights[rows.valid]
        with self._lock:
            self.nulls += rows.nulls
            self.invalid += rows.invalid
        self.update(rows.kept(), weights)

    def update(self, X: Float32, weights: Float64 | None = None) -> None:
        """Add ``(n, d) float32`` rows, all finite, with weights ``(n,)`` where there are any.

        Raises
        ------
        InputError
            Another width than the sketch's, or a weight that is negative, NaN or infinite.
        """
        if X.shape[1] != self.dim:
            raise InputError(f"vectors have {X.shape[1]} dimensions, but the fit began with {self.dim}")
        if weights is not None and (len(weights) != len(X) or not (np.isfinite(weights) & (weights >= 0)).all()):
            raise InputError("weight: every weight must be a finite number of at least 0")
        for start in range(0, len(X), BLOCK_ROWS):
            stop = start + BLOCK_ROWS
            self._block(X[start:stop], None if weights is None else weights[start:stop])

    def _block(self, X: Float32, weights: Float64 | None) -> None:
        hashes = row_hashes(X)
        norms = squared_norms(X)
        low, high = X.min(axis=0), X.max(axis=0)
        direct = self._streamed is not None and len(X) >= BLOCK_ROWS // 2
        part = Moments.of_block(X, weights, norms) if direct else None
        filled = np.ones(len(X)) if weights is None else weights
        with self._lock:
            self.count += len(X)
            self.zeros += int((norms == 0).sum())
            self.norm_sum += float(np.sqrt(norms.astype(np.float64)) @ filled)
            np.minimum(self.minimum, low, out=self.minimum)
            np.maximum(self.maximum, high, out=self.maximum)
            if self._streamed is None and len(self._kept) + len(X) > _MOMENTS_FROM:
                self._stream()
            if part is not None and self._streamed is not None:
                self._streamed = self._streamed.merge(part)
            elif self._streamed is not None:
                self._queue(X, weights)
            self._kept.add(X, hashes, None, filled)

    def _stream(self) -> None:
        """Begin to accumulate moments, from the rows kept so far (all there were)."""
        self._streamed = _moments_of(self._kept.sample(), self.dim, Moments.of_block)

    def _queue(self, X: Float32, weights: Float64 | None) -> None:
        """Gather small batches into a block worth a product."""
        self._pending.append((X.copy(), weights))
        self._pending_rows += len(X)
        if self._pending_rows >= BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._pending and self._streamed is not None:
            X = np.concatenate([rows for rows, _ in self._pending])
            weights = None
            if any(w is not None for _, w in self._pending):
                weights = np.concatenate([np.ones(len(r)) if w is None else w for r, w in self._pending])
            self._streamed = self._streamed.merge(Moments.of_block(X, weights))
        self._pending, self._pending_rows = [], 0

    @property
    def whole(self) -> bool:
        """Whether the sample still holds every distinct row of the stream."""
        with self._lock:
            return self._whole()

    def _whole(self) -> bool:
        self._kept.compact()
        return not self._kept.full

    def sample(self) -> Sample:
        """Return the sample, ordered by hash."""
        with self._lock:
            return self._kept.sample()

    def moments(self) -> Moments:
        """Return the weighted moments of all rows that counted."""
        with self._lock:
            if self._whole():
                return _moments_of(self._kept.sample(), self.dim, Moments.of_rows)
            self._flush()
            assert self._streamed is not None
            return self._streamed

    def merge(self, other: Sketch) -> None:
        """Take in another sketch, as if its rows had come here.

        Raises
        ------
        InputError
            The other sketch is of another width.
        """
        if other.dim != self.dim:
            raise InputError(f"cannot merge sketches of {self.dim} and {other.dim} dimensions")
        theirs = other.sample()
        moments = None if other.whole and self.whole else other.moments()
        with self._lock:
            self.count += other.count
            self.nulls += other.nulls
            self.invalid += other.invalid
            self.zeros += other.zeros
            self.norm_sum += other.norm_sum
            np.minimum(self.minimum, other.minimum, out=self.minimum)
            np.maximum(self.maximum, other.maximum, out=self.maximum)
            if self._streamed is None and (moments is not None or len(self._kept) + len(theirs.rows) > _MOMENTS_FROM):
                self._stream()
            if self._streamed is not None:
                self._flush()
                moments = moments or _moments_of(theirs, self.dim, Moments.of_block)
                self._streamed = self._streamed.merge(moments)
            self._kept.add(theirs.rows, theirs.hashes, theirs.counts, theirs.weights)

    def to_bytes(self) -> bytes:
        """Return the sketch as bytes (safetensors)."""
        sample = self.sample()
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "hashes": sample.hashes,
            "rows": sample.rows,
            "counts": sample.counts,
            "weights": sample.weights,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
        if not self.whole:
            moments = self.moments()
            assert moments.third is not None
            assert moments.fourth is not None
            arrays |= {"mean": moments.mean, "scatter": moments.scatter, "third": moments.third}
            arrays["sums"] = np.array([moments.weight, moments.weight_squared, moments.fourth])
        meta = {
            "dim": self.dim,
            "count": self.count,
            "nulls": self.nulls,
            "invalid": self.invalid,
            "zeros": self.zeros,
            "norm_sum": self.norm_sum,
        }
        return container.write("sketch", meta, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> Sketch:
        """Read a sketch back.

        Raises
        ------
        ModelFormatError
            The bytes are not a readable sketch.
        """
        meta, arrays = container.read("sketch", data)
        dim, count = container.integer(meta, "dim", 1, MAX_DIM), container.integer(meta, "count", 0)
        sketch = Sketch(dim)
        sketch.count = count
        sketch.nulls = container.integer(meta, "nulls", 0)
        sketch.invalid = container.integer(meta, "invalid", 0)
        sketch.zeros = container.integer(meta, "zeros", 0)
        sketch.norm_sum = container.number(meta, "norm_sum")
        m = len(arrays["hashes"]) if "hashes" in arrays else 0
        shapes = {
            "hashes": (np.uint64, (m,)),
            "rows": (np.float32, (m, dim)),
            "counts": (np.int64, (m,)),
            "weights": (np.float64, (m,)),
            "minimum": (np.float32, (dim,)),
            "maximum": (np.float32, (dim,)),
        }
        if "scatter" in arrays:
            shapes |= {"mean": (np.float64, (dim,)), "scatter": (np.float64, (dim, dim))}
            shapes |= {"third": (np.float64, (dim,)), "sums": (np.float64, (3,))}
        container.check_arrays(arrays, shapes, finite=("rows", "weights", "mean", "scatter", "third", "sums"))
        if m > sample_capacity(dim):
            raise ModelFormatError(f"sketch: a sample of {m} rows is larger than {sample_capacity(dim)}")
        sketch.minimum, sketch.maximum = arrays["minimum"].copy(), arrays["maximum"].copy()
        sketch._kept.add(arrays["rows"], arrays["hashes"], arrays["counts"], arrays["weights"])
        if "scatter" in arrays:
            weight, squared, fourth = (float(value) for value in arrays["sums"])
            sketch._streamed = Moments(weight, squared, arrays["mean"], arrays["scatter"], arrays["third"], fourth)
            sketch._kept.restore_limit()
        return sketch


def _moments_of(sample: Sample, dim: int, of: Callable[[Float32, Float64 | None], Moments]) -> Moments:
    """Return the moments of a sample block by block, by ``Moments.of_rows`` or ``of_block``."""
    moments = Moments.empty(dim)
    plain = bool((sample.weights == 1.0).all())
    for start in range(0, len(sample.rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        moments = moments.merge(of(sample.rows[block], None if plain else sample.weights[block]))
    return moments
