"""The mergeable one-pass summary that every fit starts from.

A sketch holds weighted moments, counts of rows that do not count, and a uniform sample chosen by content
hash. It knows nothing of operators: it is what a stream of rows leaves behind.
"""

from __future__ import annotations

import threading

import numpy as np

from vecpipe.arrays import Float32, Float64, Rows
from vecpipe.blocks import Block, block_rows
from vecpipe.errors import FitError, InputError
from vecpipe.kernels import BLOCK_ROWS
from vecpipe.moments import Moments, MomentSum
from vecpipe.sample import BottomK, Sample
from vecpipe.stored_sketch import MAX_WEIGHT, Stored

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
        False for fits that need moments alone (``needs_sample``): rows are hashed only where the stream ends before
        moments are accumulated, and there is no sample afterwards.

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
        self._early: list[Block] = []  # not hashed yet, where no sample may be asked for
        self._early_rows = 0
        self._gathering: Block | None = None
        self._gathered = 0
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
            Another width than the sketch's, a row that is not finite (``RowError``), or a weight that is negative, NaN,
            infinite, or so large that sums leave the range of float64.
        """
        if X.shape[1] != self.dim:
            raise InputError(f"vectors have {X.shape[1]} dimensions, but the fit began with {self.dim}")
        if weights is not None and (len(weights) != len(X) or not (np.isfinite(weights) & (weights >= 0)).all()):
            raise InputError("weight: every weight must be a finite number of at least 0")
        if weights is not None:
            self._check_weight(_sum(weights))
        whole, step = Block.of(X, weights), block_rows(self.dim)
        for start in range(0, len(X), step):
            self.update_block(whole.take(slice(start, start + step)))

    def update_block(self, block: Block) -> None:
        """Add a block, whose weights are finite and at least 0; the caller may fill it again afterwards.

        Raises
        ------
        InputError
            The weights are too large.
        """
        squares, weights = block.wide_squares(), block.filled_weights()
        total = _sum(weights)
        self._check_weight(total)
        hashing = self._keep_sample and not self._given_up
        hashes = block.hashes() if hashing else None
        direct = self._streamed is not None and len(block) >= block_rows(self.dim) // 2
        sums = block.sums(squares) if direct else None
        with self._lock:
            self.count += len(block)
            self.zeros += int((squares == 0).sum())
            self.weight_sum += total
            self.norm_sum += float(np.sqrt(squares) @ weights)
            if self._streamed is None and len(self._kept) + self._early_rows + len(block) > self._stream_from:
                self._stream()
            if sums is not None and self._streamed is not None:
                self._streamed.add_block(sums, block.rows, block.weights)
            elif self._streamed is not None:
                self._gather(block)
            if hashes is not None and not self._given_up:
                self._kept.add(block.rows, hashes, None, weights)
            elif self._streamed is None:
                self._early.append(block.copy())
                self._early_rows += len(block)

    def _check_weight(self, more: float) -> None:
        """Refuse weights before their squares, or what they are multiplied with, can overflow."""
        total = self.weight_sum + more
        if not total <= MAX_WEIGHT:
            raise InputError(
                f"weight: the weights add up to {total:g}, at most {MAX_WEIGHT:g} is supported; divide them by a "
                "constant, which changes no fit"
            )

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
            _add_block(self._streamed, Block.of(sample.rows[part], sample.weights[part]))
        for block in self._take_early():
            self._gather(block)
        self._flush()
        self._gathering = None  # there may be many sketches whose later rows come in whole blocks
        if not self._keep_sample:
            self._give_up()

    def _take_early(self) -> list[Block]:
        early, self._early, self._early_rows = self._early, [], 0
        return early

    def _settle(self) -> None:
        """Hash the rows that were not yet: somebody asks for what depends on all of them."""
        for block in self._take_early():
            self._kept.add(block.rows, block.hashes(), None, block.filled_weights())

    def _gather(self, block: Block) -> None:
        """Gather small batches into a block worth a product."""
        done = 0
        while done < len(block):
            if self._gathering is None:
                whole = block_rows(self.dim)
                self._gathering = Block.empty(whole, self.dim, np.empty(whole))
            count = min(len(block) - done, len(self._gathering) - self._gathered)
            here = slice(self._gathered, self._gathered + count)
            self._gathering.put(here, block.take(slice(done, done + count)))
            self._gathered += count
            done += count
            if self._gathered == len(self._gathering):
                self._flush()

    def _flush(self) -> None:
        if self._gathered and self._streamed is not None:
            assert self._gathering is not None
            _add_block(self._streamed, self._gathering.take(slice(0, self._gathered)))
        self._gathered = 0

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
            The other sketch is of another width, or the weights of both are too large.
        """
        if other.dim != self.dim:
            raise InputError(f"cannot merge sketches of {self.dim} and {other.dim} dimensions")
        self._check_weight(other.weight_sum)
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
        sample, moments = self.sample(), None if self.whole else self.moments()
        counts = (self.count, self.nulls, self.invalid, self.zeros)
        return Stored(self.dim, *counts, self.weight_sum, self.norm_sum, sample, moments).to_bytes()

    @staticmethod
    def from_bytes(data: bytes) -> Sketch:
        """Read a sketch back.

        Raises
        ------
        ModelFormatError
            The bytes are not a readable sketch.
        """
        stored = Stored.from_bytes(data)
        sketch, sample = Sketch(stored.dim), stored.sample
        sketch.count, sketch.nulls, sketch.invalid = stored.count, stored.nulls, stored.invalid
        sketch.zeros, sketch.weight_sum, sketch.norm_sum = stored.zeros, stored.weight_sum, stored.norm_sum
        sketch._kept.add(sample.rows, sample.hashes, sample.counts, sample.weights)
        if stored.moments is not None:
            sketch._streamed = MomentSum(stored.dim)
            sketch._streamed.add(stored.moments)
            sketch._kept.restore_limit()
        return sketch


def _sum(weights: Float64) -> float:
    with np.errstate(over="ignore"):
        return float(weights.sum())


def _add_block(moments: MomentSum, block: Block) -> None:
    moments.add_block(block.sums(block.wide_squares()), block.rows, block.weights)


def _exact_moments(sample: Sample, dim: int) -> Moments:
    """Return the moments of a sample in float64 throughout, in the order of the hashes."""
    moments = Moments.empty(dim)
    for start in range(0, len(sample.rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        moments = moments.merge(Moments.of_rows(sample.rows[part], sample.weights[part]))
    return moments
