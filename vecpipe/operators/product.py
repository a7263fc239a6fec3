"""Codecs of learnt codebooks: product quantisation and its rotated form.

A code is m numbers of 8 or of 4 bits, each the name of a word; two of 4 bits share a byte, and a pair of words is
then one word of 256 to whatever reads the code. Training and nearest words are ``kmeans``, reading codes is ``lut``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.errors import SpecError
from vecpipe.kernels import affine, one_blas_thread
from vecpipe.operators.base import Codec, Layout, State, check_matrix, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.kmeans import assign, kmeans, nearest, refine
from vecpipe.operators.linear import keeps_lengths, principal_axes, rows_f32
from vecpipe.operators.lut import ByteTables, look_up
from vecpipe.operators.packing import pack, packed_bytes, unpack
from vecpipe.operators.parameters import param
from vecpipe.ordered import each
from vecpipe.rules import MAX_DIM

TRAINING_ROWS = 32_768
"""Rows that a codebook of 256 words is trained on, at most."""

ENCODED_ROWS = 512
"""Rows that codes are found for at once: few enough to stay in cache."""
_FEW_QUERIES = 4
_TURNS = 16


class WordCodec(Codec):
    """m numbers of 8 or 4 bits as bytes; what product and residual quantisation share."""

    m: int
    bits: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in (4, 8):
            raise SpecError(f"{self.name}: bits is {self.bits}; expected 4 or 8")

    def code_bytes(self, dim: int) -> int:
        """Return m, or m / 2 rounded up for 4 bits."""
        return packed_bytes(self.m, self.bits)

    @property
    def _count(self) -> int:
        return 1 << self.bits

    def numbers(self, codes: Bytes) -> Bytes:
        """Return the numbers of the words that codes ``(n, B)`` name, ``(n, m) uint8``."""
        return unpack(codes, self.m, self.bits)


@register
@dataclass(eq=False)
class PQ(WordCodec):
    """Cut each vector into m pieces and store the nearest of 256 (or 16) centroids for each.

    Pieces are runs of neighbouring dimensions, the first ones longer by one where m does not divide d. Centroids come
    from k-means++ and Lloyd's rounds on at most 32,768 rows of the sample.
    """

    name = "pq"
    source = "Jegou, Douze, Schmid 2011"
    oracle = "numpy argmin over the centroids; recall of FAISS at no more bytes"

    m: int = param(doc="pieces, each of one number", minimum=1, maximum=MAX_DIM)
    bits: int = param(8, doc="bits a piece: 8 or 4", minimum=4, maximum=8)
    seed: int = param(0, doc="of the seeding", minimum=0, maximum=2**31 - 1)

    def output_dim(self, dim: int) -> int:
        """Return dim."""
        if self.m > dim:
            raise SpecError(f"{self.name}: cannot cut vectors of {dim} dimensions into {self.m} pieces")
        check_matrix(self.name, self._count, dim)
        return dim

    def _pieces(self, dim: int) -> list[slice]:
        ends = np.cumsum([dim // self.m + (i < dim % self.m) for i in range(self.m)])
        return [slice(int(start), int(end)) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def fit(self, data: FitData) -> State:
        """Learn ``words``, the centroids of all pieces side by side, ``(2**bits, d) float32``."""
        rows, weights = data.training_rows(TRAINING_ROWS)
        return {"words": self._train(rows, weights)}

    def _train(self, rows: Float32, weights: Float64) -> Float32:
        def train(piece: slice) -> Float32:
            return kmeans(np.ascontiguousarray(rows[:, piece]), weights, self._count, self.seed)

        return rows_f32(np.concatenate(each(train, self._pieces(rows.shape[1])), axis=1))

    def layout(self, dim: int) -> Layout:
        """Return the centroids."""
        return {"words": (np.float32, (self._count, dim))}

    def prepare_state(self) -> None:
        """Lay the centroids out as 256 words a byte."""
        pieces, words = self._pieces(self.dim), self.state["words"]
        sizes = [piece.stop - piece.start for piece in pieces]
        self._searches = [
            (piece, np.ascontiguousarray(wide.T), 0.5 * (wide * wide).sum(axis=1))
            for piece in pieces
            for wide in (words[:, piece].astype(np.float64),)
        ]
        if self.bits == 4:
            parts: list[npt.NDArray[Any]] = []
            for at, piece in enumerate(pieces):
                part = words[:, piece]
                parts.append(np.tile(part, (16, 1)) if at % 2 else np.repeat(part, 16, axis=0))
            words = np.concatenate(parts, axis=1)
            sizes = [sum(sizes[at : at + 2]) for at in range(0, self.m, 2)]
        self._tables = ByteTables(rows_f32(words), sizes)

    def encode(self, X: Float32) -> Bytes:
        """Return the numbers of the nearest centroids."""
        out = np.empty((len(X), self.m), dtype=np.uint8)
        with one_blas_thread():  # products so small that waking other threads costs more than it gains
            for start in range(0, len(X), ENCODED_ROWS):
                block = X[start : start + ENCODED_ROWS].astype(np.float64)
                for at, (piece, turned, half) in enumerate(self._searches):
                    out[start : start + ENCODED_ROWS, at] = nearest(block[:, piece], turned, half)
        return pack(out, self.bits)

    def decode(self, codes: Bytes) -> Float32:
        """Return the centroids side by side, ``(n, d) float32``."""
        return np.asarray(self._tables.gather(codes)[:, self._tables.columns], dtype=np.float32)

    def prepare(self, Q: Float32) -> Any:
        """Return look-up tables for few queries; for many, the queries as a product with decoded rows wants them."""
        if len(Q) <= _FEW_QUERIES:
            return self._tables.tables(rows_f32(Q)), None
        spread = np.zeros((len(Q), self._tables.width), dtype=np.float32)
        spread[:, self._tables.columns] = Q
        return None, spread

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return inner products with the centroids, ``(m, n) float32``."""
        tables, spread = prepared
        if tables is not None:
            return look_up(tables, codes)
        scores = np.empty((len(spread), len(codes)), dtype=np.float32)
        for start in range(0, len(codes), ENCODED_ROWS):
            near = self._tables.gather(codes[start : start + ENCODED_ROWS])
            np.matmul(spread, near.T, out=scores[:, start : start + ENCODED_ROWS])
        return scores

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors, the sum of the pieces'."""
        return np.asarray(look_up(self._squares, codes)[0])

    @cached_property
    def _squares(self) -> Float32:
        """The squared length of each byte's words, ``(1, b, 256)``."""
        words = self._tables.words.astype(np.float64)
        squares = np.add.reduceat(words * words, self._tables.starts, axis=1).T
        return np.ascontiguousarray(squares[None], dtype=np.float32)


@register
@dataclass(eq=False)
class OPQ(PQ):
    """Rotate so that m pieces lose least, then store each as ``pq`` does.

    The rotation begins with principal axes dealt out so that the product of variances is alike in all pieces, and takes
    turns with the centroids: given the codes, the best rotation is that of Procrustes.
    """

    name = "opq"
    source = "Ge, He, Ke, Sun 2013"
    oracle = "the rotation times its transpose is the identity; recall of FAISS at no more bytes"

    def output_dim(self, dim: int) -> int:
        """Return dim."""
        check_matrix(self.name, dim, dim)
        return super().output_dim(dim)

    def fit(self, data: FitData) -> State:
        """Learn the rotation ``(d, d) float32`` and the centroids ``(2**bits, d) float32``."""
        rows, weights = data.training_rows(TRAINING_ROWS)
        rotation = self._dealt(data)
        pieces = self._pieces(data.dim)
        share = weights[:, None].astype(np.float32)

        def turn(item: tuple[Float32, Float32]) -> tuple[Float32, Float32]:
            points, words = item
            words = refine(points, weights, words, 1, prior=0.0)
            return words, words[assign(points, words)]

        moved = rows @ rotation.astype(np.float32)
        words = self._train(moved, weights)
        for _ in range(_TURNS):
            items = [(np.ascontiguousarray(moved[:, piece]), np.ascontiguousarray(words[:, piece])) for piece in pieces]
            done = each(turn, items)
            words = np.concatenate([found for found, _ in done], axis=1)
            near = np.concatenate([found for _, found in done], axis=1)
            left, _, right = np.linalg.svd(((rows * share).T @ near).astype(np.float64))
            rotation = left @ right
            moved = rows @ rotation.astype(np.float32)
        items = [(np.ascontiguousarray(moved[:, piece]), np.ascontiguousarray(words[:, piece])) for piece in pieces]
        final = each(lambda item: refine(item[0], weights, item[1], 4, prior=0.0), items)
        return {"rotation": rows_f32(rotation), "words": rows_f32(np.concatenate(final, axis=1))}

    def _dealt(self, data: FitData) -> Float64:
        """Return principal axes ``(d, d)``, each to the piece of least product so far (section 3.2)."""
        values, axes = principal_axes(data.moments.covariance)
        sizes = [piece.stop - piece.start for piece in self._pieces(data.dim)]
        logs = np.log(np.maximum(values, 1e-12 * max(float(values[0]), 1e-300)))
        logs -= logs.min() - 1.0
        total = np.zeros(self.m)
        dealt: list[list[int]] = [[] for _ in sizes]
        for axis in range(data.dim):
            room = np.array([len(have) < size for have, size in zip(dealt, sizes, strict=True)])
            piece = int(np.argmin(np.where(room, total, np.inf)))
            dealt[piece].append(axis)
            total[piece] += logs[axis]
        return np.asarray(axes[:, [axis for have in dealt for axis in have]])

    def layout(self, dim: int) -> Layout:
        """Return rotation and centroids."""
        return {"rotation": (np.float32, (dim, dim)), **super().layout(dim)}

    def prepare_state(self) -> None:
        """Lay the centroids out, and widen the rotation."""
        super().prepare_state()
        self._rotation = self.state["rotation"].astype(np.float64)

    def encode(self, X: Float32) -> Bytes:
        """Return the numbers of the centroids nearest to the rotated vectors."""
        return super().encode(affine(X, self._rotation, np.zeros(self.dim), stable=True))

    def decode(self, codes: Bytes) -> Float32:
        """Return the centroids, rotated back."""
        return affine(super().decode(codes), self._rotation.T, np.zeros(self.dim))

    def prepare(self, Q: Float32) -> Any:
        """Return what ``pq`` prepares of the rotated queries."""
        return super().prepare((Q.astype(np.float64) @ self._rotation).astype(np.float32))

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors: those of ``pq`` before they are rotated back."""
        return super().squared_norms(codes) if self._keeps_lengths else Codec.squared_norms(self, codes)

    @cached_property
    def _keeps_lengths(self) -> bool:
        """Whether the rotation of the state is one: a model from elsewhere may hold any matrix."""
        return keeps_lengths(self._rotation.T)
