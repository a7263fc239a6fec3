"""Residual quantisation: each number names the word nearest to what the words before it left over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.errors import SpecError
from vecpipe.kernels import one_blas_thread
from vecpipe.operators.base import MAX_MATRIX, Layout, State, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.kmeans import Indices, assign, kmeans
from vecpipe.operators.lut import look_up
from vecpipe.operators.packing import pack
from vecpipe.operators.parameters import param
from vecpipe.operators.product import TRAINING_ROWS, WordCodec

BEAM = 5
_ROWS = 128
_NORM_ROWS = 256
_MOST_PAIRED = 12
"""Bytes of a code up to which the products of all pairs of words are held, 256 KiB a pair."""

Floating = TypeVar("Floating", np.float32, np.float64)


@register
@dataclass(eq=False)
class RVQ(WordCodec):
    """Store the nearest centroid, then that of what it left over, m times.

    Each stage's centroids are trained on what the nearest ones so far leave over; encoding keeps the best five ways
    from stage to stage. A word is as wide as the vector: encoding costs some 5 m times what a whole ``pq`` costs, and
    a model holds m * 2**bits * d numbers. Where that is not far below the numbers in the rows of the fit, it knows
    these by heart, and codes vectors it has not seen much worse.
    """

    name = "rvq"
    source = "Chen, Guan, Wang 2010"
    oracle = "each stage lowers the error; numpy argmin over all sums of centroids"

    m: int = param(doc="stages, each of one number", minimum=1, maximum=256)
    bits: int = param(8, doc="bits a stage: 8 or 4", minimum=4, maximum=8)
    seed: int = param(0, doc="of the seeding", minimum=0, maximum=2**31 - 1)

    def output_dim(self, dim: int) -> int:
        """Return dim."""
        if self.m * self._count * dim > MAX_MATRIX:
            raise SpecError(f"rvq: {self.m} stages of vectors of {dim} dimensions are more than this operator supports")
        return dim

    def fit(self, data: FitData) -> State:
        """Learn ``words``, ``(m, 2**bits, d) float32``."""
        rows, weights = data.training_rows(TRAINING_ROWS)
        left, stages = rows, []
        with one_blas_thread():
            for stage in range(self.m):
                words = kmeans(left, weights, self._count, self.seed + stage)
                stages.append(words)
                left = left - words[assign(left, words)]
        return {"words": np.stack(stages)}

    def layout(self, dim: int) -> Layout:
        """Return the words of all stages."""
        return {"words": (np.float32, (self.m, self._count, dim))}

    def prepare_state(self) -> None:
        """Widen the words."""
        self._wide = self.state["words"].astype(np.float64)
        self._half = _half(self._wide)

    def encode(self, X: Float32) -> Bytes:
        """Return the numbers of the words, the best of ``BEAM`` ways kept from stage to stage."""
        out = np.empty((len(X), self.m), dtype=np.uint8)
        with one_blas_thread():
            for start in range(0, len(X), _ROWS):
                rows = X[start : start + _ROWS].astype(np.float64)
                out[start : start + _ROWS] = _beam(rows, self._wide, self._half)
        return pack(out, self.bits)

    def decode(self, codes: Bytes) -> Float32:
        """Return the sums of the words, ``(n, d) float32``."""
        numbers = self.numbers(codes)
        total = np.zeros((len(codes), self.dim), dtype=np.float32)
        for stage, words in enumerate(self.state["words"]):
            total += words[numbers[:, stage]]
        return total

    def prepare(self, Q: Float32) -> Any:
        """Return the products of queries and words as look-up tables of 256, ``(m, b, 256) float32``."""
        products = np.einsum("qd,swd->qsw", Q.astype(np.float64), self._wide, optimize=True)
        if self.bits == 4:
            if self.m % 2:
                products = np.pad(products, ((0, 0), (0, 1), (0, 0)))
            products = (products[:, ::2, :, None] + products[:, 1::2, None, :]).reshape(len(Q), -1, 256)
        return np.ascontiguousarray(products, dtype=np.float32)

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return inner products by look-up, ``(m, n) float32``."""
        return look_up(prepared, codes)

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors: the sums over pairs of words, looked up."""
        if codes.shape[1] > _MOST_PAIRED:
            norms = np.empty(len(codes), dtype=np.float32)
            for start in range(0, len(codes), _NORM_ROWS):
                norms[start : start + _NORM_ROWS] = super().squared_norms(codes[start : start + _NORM_ROWS])
            return norms
        own, between = self._products_of_words
        norms = look_up(own, codes)[0]
        turned = np.ascontiguousarray(codes.T).astype(np.int64)
        for table, (one, other) in zip(between, combinations(range(codes.shape[1]), 2), strict=True):
            norms += table.take((turned[one] << 8) | turned[other])
        return np.asarray(np.maximum(norms, np.float32(0)))

    @cached_property
    def _products_of_words(self) -> tuple[Float32, list[Float32]]:
        """Squared lengths of each byte's words ``(1, b, 256)``, and twice their products for pairs of bytes."""
        words = list(self._wide)
        if self.bits == 4:
            halves = [*words, *([np.zeros_like(words[0])] if self.m % 2 else [])]
            words = [
                (one[:, None] + other).reshape(256, -1) for one, other in zip(halves[::2], halves[1::2], strict=True)
            ]
        own = np.stack([(word * word).sum(axis=1) for word in words]).astype(np.float32)
        between = [(2.0 * (one @ other.T)).astype(np.float32).ravel() for one, other in combinations(words, 2)]
        return own[None], between


def _half(words: npt.NDArray[Floating]) -> npt.NDArray[Floating]:
    """Return half the squared length of each word."""
    return np.asarray(0.5 * (words * words).sum(axis=-1))


def _parts(rows: npt.NDArray[Floating]) -> Iterator[npt.NDArray[Floating]]:
    """Return the rows in blocks that stay in cache."""
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


def _step(
    left: npt.NDArray[Floating], words: npt.NDArray[Floating], half: npt.NDArray[Floating], ways: int
) -> tuple[npt.NDArray[Floating], Indices, Indices]:
    """Take one word off what each row's ways left over, and keep the ways that leave least, best first.

    Parameters
    ----------
    left : (n, b, d)
    words : (w, d)
    half : (w,)

    Returns
    -------
    (n, ways, d), and of each way the one it comes from and the word taken, ``(n, ways)``
    """
    # Half the squared length of what is left less that of what would be left: larger is better.
    gain = left @ words.T - half - 0.5 * np.einsum("nbd,nbd->nb", left, left)[:, :, None]
    flat = gain.reshape(len(left), -1).astype(np.float32)
    best = np.argpartition(-flat, min(ways, flat.shape[1]) - 1, axis=1)[:, :ways]
    order = np.argsort(-np.take_along_axis(flat, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    parent, word = best // len(words), best % len(words)
    return left[np.arange(len(left))[:, None], parent] - words[word], parent, word


def _beam(rows: Float64, words: Float64, half: Float64) -> Bytes:
    """Return the best code of each row, ``(n, d), (m, w, d), (m, w) -> (n, m)``."""
    left, codes = rows[:, None], np.zeros((len(rows), 1, 0), dtype=np.uint8)
    for own, own_half in zip(words, half, strict=True):
        left, parent, word = _step(left, own, own_half, BEAM)
        codes = np.concatenate([np.take_along_axis(codes, parent[:, :, None], axis=1), word[:, :, None]], axis=2)
    return codes[:, 0].astype(np.uint8)
