"""Residual quantisation: each number names the word nearest to what the words before it left over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vecpipe.arrays import Bytes, Float32
from vecpipe.errors import SpecError
from vecpipe.kernels import one_blas_thread
from vecpipe.operators.base import MAX_MATRIX, FitData, Layout, State, param, register
from vecpipe.operators.kmeans import assign, kmeans, nearest
from vecpipe.operators.lut import look_up
from vecpipe.operators.product import ENCODED_ROWS, WordCodec, training_rows


@register
@dataclass(eq=False)
class RVQ(WordCodec):
    """Store the nearest centroid, then that of what it left over, m times.

    Each stage's centroids are trained on the residuals of the stage before; encoding takes the nearest word of each
    stage in turn. A word is as wide as the vector: m stages cost m times what a whole ``pq`` costs.
    """

    name = "rvq"
    source = "Chen, Guan, Wang 2010"
    oracle = "each stage lowers the error; numpy argmin over the centroids"

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
        rows, weights = training_rows(data)
        left = rows.astype(np.float32, copy=True)
        stages = []
        with one_blas_thread():
            for stage in range(self.m):
                words = kmeans(left, weights, self._count, self.seed + stage, rounds=12)
                stages.append(words)
                left -= words[assign(left, words)]
        return {"words": np.stack(stages)}

    def layout(self, dim: int) -> Layout:
        """Return the words of all stages."""
        return {"words": (np.float32, (self.m, self._count, dim))}

    def prepare_state(self) -> None:
        """Widen the words."""
        self._wide = self.state["words"].astype(np.float64)
        self._half = 0.5 * (self._wide**2).sum(axis=2)

    def encode(self, X: Float32) -> Bytes:
        """Return the numbers of the words."""
        out = np.empty((len(X), self.m), dtype=np.uint8)
        for start in range(0, len(X), ENCODED_ROWS):
            left = X[start : start + ENCODED_ROWS].astype(np.float64)
            for stage, (words, half) in enumerate(zip(self._wide, self._half, strict=True)):
                index = nearest(left, words.T, half)
                out[start : start + ENCODED_ROWS, stage] = index
                left -= words[index]
        return self._packed(out)

    def _numbers(self, codes: Bytes) -> Bytes:
        """Return the numbers of the words of each stage, ``(n, m)``."""
        if self.bits == 8:
            return codes
        both = np.empty((len(codes), 2 * codes.shape[1]), dtype=np.uint8)
        both[:, ::2], both[:, 1::2] = codes >> np.uint8(4), codes & np.uint8(15)
        return both[:, : self.m]

    def decode(self, codes: Bytes) -> Float32:
        """Return the sums of the words, ``(n, d) float32``."""
        numbers = self._numbers(codes)
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
