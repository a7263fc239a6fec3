"""The mergeable one-pass summary that every fit starts from.

A sketch holds weighted moments, counts of rows that do not count, and a uniform sample chosen by content
hash. It knows nothing of operators: it is what a stream of rows leaves behind.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from vecpipe import container
from vecpipe.arrays import MAX_DIM, Float32, Float64, Rows
from vecpipe.blocks import look
from vecpipe.errors import FitError, InputError, ModelFormatError
from vecpipe.kernels import BLOCK_ROWS
from vecpipe.moments import Moments, MomentSum
from vecpipe.sample import BottomK, Sample, row_hashes, sample_capacity

_MOMENTS_FROM = 16_384
"""Rows from which moments are accumulated as the rows come: a smaller stream keeps its rows and no matrix."""


class Sketch:
    """Summary of a stream of ``(n, d)`` batches; ``update`` may be called from several threads.

    While the distinct rows fit into the sample, the sample is the whole stream and moments are computed from it,
    in order of the hash, in float64: the result is then the same to the last bit whatever the order, the batches,
    the threads or the merges were. Beyond that, moments are accumulated block by block and equal to about 1e-7.

    Parameters
    ----------
    dim
        Width of the vectors.
    keep_sample
        False for fits that need moments alone (``pipeline.needs_sample``): rows are hashed only where the stream ends
        before moments are accumulated, and there is no sample afterwards.

    Attributes
    ----------
    count : int
        Rows that counted.
    nulls, invalid, zeros : int
        NULL rows, rows turned to NULL for breaking a rule, and zero vectors (these count).
    weight_sum, norm_sum : float
        Sums of the weights, and of the weighted lengths.
    """

    def __init__(self, dim: int, *, keep_sample: bool = True) -> None:
        self.dim = dim
        self._keep_sample = keep_sample
        self._given_up = False
        self.count = 0
        self.nulls = 0
        self.invalid = 0
        self.zeros = 0
        self.weight_sum = 0.0
        self.norm_sum = 0.0
        self._kept = BottomK(dim)
        self._stream_from = min(_MOMENTS_FROM, self._kept.capacity)
        self._streamed: MomentSum | None = None
        self._early: list[tuple[Float32, Float64 | None]] = []  # not hashed yet, where no sample may be asked for
        self._early_rows = 0
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
        """Add ``(n, d) float32`` rows with weights ``(n,)`` where there are any.

        Raises
        ------
        InputError
            Another width than the sketch's, a row that is not finite, or a weight that is negative, NaN or infinite.
        """
        if X.shape[1] != self.dim:
            raise InputError(f"vectors have {X.shape[1]} dimensions, but the fit began with {self.dim}")
        if weights is not None and (len(weights) != len(X) or not (np.isfinite(weights) & (weights >= 0)).all()):
            raise InputError("weight: every weight must be a finite number of at least 0")
        for start in range(0, len(X), BLOCK_ROWS):
            stop = start + BLOCK_ROWS
            self._block(X[start:stop], None if weights is None else weights[start:stop])

    def _block(self, X: Float32, weights: Float64 | None) -> None:
        hashing = self._keep_sample and not self._given_up
        about = look(X, weights, hashing=hashing)
        direct = self._streamed is not None and len(X) >= BLOCK_ROWS // 2
        sums = about.sums(X, weights) if direct else None
        with self._lock:
            self.count += len(X)
            self.zeros += int((about.squares == 0).sum())
            self.weight_sum += float(about.weights.sum())
            self.norm_sum += float(np.sqrt(about.squares) @ about.weights)
            if self._streamed is None and len(self._kept) + self._early_rows + len(X) > self._stream_from:
                self._stream()
            if sums is not None and self._streamed is not None:
                self._streamed.add_block(sums, X, weights)
            elif self._streamed is not None:
                self._queue(*_copies(X, weights))
            if hashing and not self._given_up:
                self._kept.add(X, about.hashes, None, about.weights)
            elif self._streamed is None:
                self._early.append(_copies(X, weights))
                self._early_rows += len(X)

    def _give_up(self) -> None:
        """Let the sample go; from here on the sketch has moments and counts."""
        if not self._given_up:
            self._given_up, self._kept = True, BottomK(self.dim)

    def _stream(self) -> None:
        """Begin to accumulate moments, from the rows kept so far (all there were)."""
        self._streamed = MomentSum(self.dim)
        sample = self._kept.sample()
        for start in range(0, len(sample.rows), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            self._add_rows(self._streamed, sample.rows[part], sample.weights[part])
        for rows, weights in self._take_early():
            self._queue(rows, weights)
        if not self._keep_sample:
            self._give_up()

    def _take_early(self) -> list[tuple[Float32, Float64 | None]]:
        early, self._early, self._early_rows = self._early, [], 0
        return early

    def _settle(self) -> None:
        """Hash the rows that were not yet: somebody asks for what depends on all of them."""
        for X, weights in self._take_early():
            self._kept.add(X, row_hashes(X), None, np.ones(len(X)) if weights is None else weights)

    @staticmethod
    def _add_rows(moments: MomentSum, X: Float32, weights: Float64 | None) -> None:
        moments.add_block(look(X, weights, hashing=False).sums(X, weights), X, weights)

    def _queue(self, X: Float32, weights: Float64 | None) -> None:
        """Gather small batches into a block worth a product."""
        self._pending.append((X, weights))
        self._pending_rows += len(X)
        if self._pending_rows >= BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._pending and self._streamed is not None:
            self._add_rows(self._streamed, *_joined(self._pending))
        self._pending, self._pending_rows = [], 0

    @property
    def whole(self) -> bool:
        """Whether the sample still holds every distinct row of the stream."""
        with self._lock:
            return self._whole()

    def _whole(self) -> bool:
        if self._given_up:
            return False
        self._settle()
        self._kept.compact()
        return not self._kept.full

    def sample(self) -> Sample:
        """Return the sample, ordered by hash.

        Raises
        ------
        FitError
            The sketch was made for specs that need no sample, and has let it go.
        """
        with self._lock:
            if self._given_up:
                raise FitError("this sketch has kept moments only, but the spec is fitted from rows")
            self._settle()
            return self._kept.sample()

    def moments(self) -> Moments:
        """Return the weighted moments of all rows that counted."""
        with self._lock:
            if self._whole():
                return _exact_moments(self._kept.sample(), self.dim)
            self._flush()
            assert self._streamed is not None
            return self._streamed.moments()

    def mean(self) -> Float64:
        """Return the weighted mean ``(d,)`` of all rows that counted, without their scatter where that is possible."""
        with self._lock:
            if not self._whole():
                self._flush()
                assert self._streamed is not None
                return self._streamed.moments().mean
            sample = self._kept.sample()
        total = np.zeros(self.dim)
        for start in range(0, len(sample.rows), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            total += sample.weights[part] @ sample.rows[part].astype(np.float64)
        return np.asarray(total / sample.weights.sum())

    def merge(self, other: Sketch) -> None:
        """Take in another sketch, as if its rows had come here.

        Raises
        ------
        InputError
            The other sketch is of another width.
        """
        if other.dim != self.dim:
            raise InputError(f"cannot merge sketches of {self.dim} and {other.dim} dimensions")
        whole = other.whole
        theirs = BottomK(self.dim).sample() if other._given_up else other.sample()
        moments = None if whole and self.whole else other.moments()
        with self._lock:
            self._settle()
            self.count += other.count
            self.nulls += other.nulls
            self.invalid += other.invalid
            self.zeros += other.zeros
            self.weight_sum += other.weight_sum
            self.norm_sum += other.norm_sum
            if self._streamed is None and (
                moments is not None or len(self._kept) + len(theirs.rows) > self._stream_from
            ):
                self._stream()
            if self._streamed is not None:
                self._flush()
                self._streamed.add(moments or _exact_moments(theirs, self.dim))
            if self._given_up or other._given_up:
                self._give_up()
                return
            self._kept.add(theirs.rows, theirs.hashes, theirs.counts, theirs.weights)
            if not whole:
                self._kept.compact()
                self._kept.restore_limit()

    def to_bytes(self) -> bytes:
        """Return the sketch as bytes (safetensors)."""
        sample = self.sample()
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "hashes": sample.hashes,
            "rows": sample.rows,
            "counts": sample.counts,
            "weights": sample.weights,
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
            "weight_sum": self.weight_sum,
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
        sketch.weight_sum = container.number(meta, "weight_sum")
        sketch.norm_sum = container.number(meta, "norm_sum")
        m = len(arrays["hashes"]) if "hashes" in arrays else 0
        shapes = {
            "hashes": (np.uint64, (m,)),
            "rows": (np.float32, (m, dim)),
            "counts": (np.int64, (m,)),
            "weights": (np.float64, (m,)),
        }
        if "scatter" in arrays:
            shapes |= {"mean": (np.float64, (dim,)), "scatter": (np.float64, (dim, dim))}
            shapes |= {"third": (np.float64, (dim,)), "sums": (np.float64, (3,))}
        container.check_arrays(arrays, shapes, finite=("rows", "weights", "mean", "scatter", "third", "sums"))
        if m > sample_capacity(dim):
            raise ModelFormatError(f"sketch: a sample of {m} rows is larger than {sample_capacity(dim)}")
        sketch._kept.add(arrays["rows"], arrays["hashes"], arrays["counts"], arrays["weights"])
        if "scatter" in arrays:
            weight, squared, fourth = (float(value) for value in arrays["sums"])
            sketch._streamed = MomentSum(dim)
            sketch._streamed.add(Moments(weight, squared, arrays["mean"], arrays["scatter"], arrays["third"], fourth))
            sketch._kept.restore_limit()
        return sketch


def _copies(X: Float32, weights: Float64 | None) -> tuple[Float32, Float64 | None]:
    """Return what may be kept: callers fill their arrays again."""
    return X.copy(), None if weights is None else weights.copy()


def _joined(batches: list[tuple[Float32, Float64 | None]]) -> tuple[Float32, Float64 | None]:
    """Return batches as one; a single one as it is."""
    if len(batches) == 1:
        return batches[0]
    rows = np.concatenate([X for X, _ in batches])
    if all(weights is None for _, weights in batches):
        return rows, None
    return rows, np.concatenate([np.ones(len(X)) if weights is None else weights for X, weights in batches])


def _exact_moments(sample: Sample, dim: int) -> Moments:
    """Return the moments of a sample in float64 throughout, in the order of the hashes."""
    moments = Moments.empty(dim)
    for start in range(0, len(sample.rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        moments = moments.merge(Moments.of_rows(sample.rows[part], sample.weights[part]))
    return moments
