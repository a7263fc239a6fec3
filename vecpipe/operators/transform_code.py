"""Transform coding: the codec with the best recall a byte.

A vector is centred and turned to the principal axes of the data in the metric of the queries; the axes are shared out
among the bytes so that each byte carries eight bits by reverse water-filling; a byte names one of 256 words learnt for
its axes; the last byte holds a scale that gives what is decoded the length of the vector, and says whether that is the
length that nearly all have. A scale that made inner products unbiased would find fewer neighbours that lie close
together: a vector whose words fit badly would be decoded longer. After a fit that was given queries the scale does make
products unbiased, in their metric: where they do not look, a vector's length says nothing.

Why the metric: an error e in a vector changes a score by <q, e>, whose mean square is e'Me for the queries' second
moment M. Its square root, halfway between M and the plain metric, ranks best from 48 to 384 bytes, with the data's own
moment standing in for M where no queries are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.errors import ModelFormatError
from vecpipe.kernels import wide_squared_norms
from vecpipe.operators.base import Codec, Layout, State, check_matrix, register
from vecpipe.operators.fit_data import FitData, query_moment
from vecpipe.operators.kmeans import WORDS, group_words
from vecpipe.operators.linear import principal_axes, symmetric_power
from vecpipe.operators.lut import ByteTables, look_up, padded_width
from vecpipe.operators.norms import WordNorms
from vecpipe.operators.parameters import param
from vecpipe.operators.scale_bytes import ScaleBytes, common_length, length_scales
from vecpipe.operators.water_filling import MAX_GROUP, group_axes
from vecpipe.operators.word_search import LEVELS, WordSearch, make_searches

_METRIC_POWER = 0.5
_SCALE_FROM_BYTES = 8
_MARGIN = 0.004
_FINE = 0.03
"""Largest error of a length beside the error that coding makes along one axis."""
_NORM = 4000.0
_FEW_QUERIES = 3
_ROWS = 1024
_ENCODED_ROWS = 512
_TRAINING_ROWS = 16_384
_ROUNDS = 8
_WORD_PRIOR = 0.25


@dataclass(frozen=True)
class _Prepared:
    """Queries ready for scoring: constant part, weights of the decoded columns, and look-up tables when few."""

    offset: Float32
    columns: Float32
    tables: Float32 | None


@register
@dataclass(eq=False)
class TransformCode(Codec):
    """Spend a number of bytes on each vector where they help the ranking most: the best recall a byte.

    Principal axes in the metric of the queries (a sample of them where the fit is given one, else the data), eight
    bits to a byte by reverse water-filling, 256 learnt words a byte, one byte of scale from 8 bytes on. Fitted on at
    most 16,384 rows of the sample. Where 99 of 100 of them have one length, a code of 8 bytes or more says whether
    what it decodes to has it too, and a cosine needs no other. A zero vector has no code.
    """

    name = "transform_code"
    source = "Huang, Schultheiss 1963 (transform coding); Max 1960, Lloyd 1982; Gersho, Gray 1992"
    oracle = "scores equal inner products with the decoded vectors; recall above the best of FAISS at equal bytes"
    direction_only = True

    bytes: int = param(doc="bytes of a code, everything counted", minimum=1, maximum=65_536)

    def output_dim(self, dim: int) -> int:
        """Return dim: the width of the vectors that codes stand for."""
        check_matrix(self.name, dim, dim)
        return dim

    def code_bytes(self, dim: int) -> int:
        """Return the bytes asked for."""
        return self.bytes

    @property
    def _has_scale(self) -> bool:
        return self.bytes >= _SCALE_FROM_BYTES

    # The fit ---------------------------------------------------------------------------------------------

    def fit(self, data: FitData) -> State:
        """Learn axes, words and scales; arrays as in ``layout``, k axes coded in b bytes."""
        mean, covariance = data.moments.mean, data.moments.covariance
        d = len(mean)
        if not float(np.trace(covariance)) > 0.0:
            covariance = np.eye(d) * max(float(mean @ mean), 1.0) / d
        asked = None if data.queries is None else data.queries.rows
        root = symmetric_power(query_moment(mean, covariance, asked), _METRIC_POWER / 2)
        values, vectors = principal_axes(root @ covariance @ root)
        live = values > values[0] * 1e-9
        values, vectors = values[live], vectors[:, live]

        groups = group_axes(values, max(1, self.bytes - self._has_scale))
        axes = np.array([axis for group in groups for axis in group], dtype=np.int64)
        forward = root @ vectors[:, axes]
        lengths = np.sqrt((forward * forward).sum(axis=0))
        basis = np.rint(forward * (_NORM / lengths))
        measured = basis * (lengths / _NORM)
        shared = covariance @ measured
        backward = np.linalg.lstsq(measured.T @ shared, shared.T, rcond=1e-10)[0]

        rows, share = data.training_rows(max(4_096, _TRAINING_ROWS * 128 // max(128, self.bytes)))
        points = ((rows.astype(np.float64) - mean) @ measured).astype(np.float32)
        words = group_words(points, share, values[axes], [len(group) for group in groups], _ROUNDS, _WORD_PRIOR)
        step = np.maximum(np.abs(words).max(axis=0).astype(np.float64), 1e-30) / LEVELS
        state: State = {
            "mean": mean.astype(np.float32),
            "basis": basis.astype(np.int16),
            "step": step.astype(np.float32),
            "unit": (lengths / _NORM / step).astype(np.float32),
            "backward": (backward * step[:, None]).astype(np.float32),
            "words": np.rint(words / step).astype(np.int16),
            "sizes": np.array([len(group) for group in groups], dtype=np.int32),
            "scales": np.zeros(2),
            "length": np.zeros(1),
            "unbiased": np.array([int(asked is not None)], dtype=np.int32),
        }
        if self._has_scale:
            fitted, sample = self.bind(d, state), rows[:8_192]
            logs, _ = fitted._scaled(sample, *fitted._words_of(sample))
            logs = logs[np.isfinite(logs)] if np.isfinite(logs).any() else np.zeros(1, dtype=np.float32)
            low, high = (float(end) for end in np.quantile(logs, [0.0005, 0.9995]) + np.array([-_MARGIN, _MARGIN]))
            state["scales"] = np.array([low, high])
            if asked is None:
                length = common_length(wide_squared_norms(rows)[0])
                # The same tables and searches with these scales: to bind them anew would take as long as the words.
                fitted._scale_bytes = ScaleBytes(low, high, length)
                state["length"] = np.array([length if length and fitted._lengths_are_fine(rows[:2_048]) else 0.0])
        return state

    def _lengths_are_fine(self, rows: Float32) -> bool:
        """Whether decoded lengths miss those of rows by so little that the closest neighbours are told apart."""
        lengths = np.sqrt(np.maximum(wide_squared_norms(rows)[0], 1e-30))
        decoded = self.decode(self.encode(rows))
        missed = np.abs(np.sqrt(wide_squared_norms(decoded)[0]) / lengths - 1.0)
        errors = np.sqrt(wide_squared_norms(decoded - rows)[0]) / lengths
        return bool(np.median(missed) <= _FINE * np.median(errors) / np.sqrt(self.dim))

    def layout(self, dim: int) -> Layout:
        """Return mean, integer basis, steps, the way back, words, axes of each byte, range of logs, length, rule."""
        return {
            "mean": (np.float32, (dim,)),
            "basis": (np.int16, (dim, -1)),
            "step": (np.float32, (-1,)),
            "unit": (np.float32, (-1,)),
            "backward": (np.float32, (-1, dim)),
            "words": (np.int16, (WORDS, -1)),
            "sizes": (np.int32, (-1,)),
            "scales": (np.float64, (2,)),
            "length": (np.float64, (1,)),
            "unbiased": (np.int32, (1,)),
        }

    def prepare_state(self) -> None:
        """Check that the arrays agree, and make the tables that scoring reads."""
        state = self.state
        sizes, k = state["sizes"].astype(np.int64), state["basis"].shape[1]
        widths = [padded_width(int(size)) for size in sizes if 1 <= size <= MAX_GROUP]
        agree = all(len(state[name]) == k for name in ("step", "unit", "backward")) and state["words"].shape[1] == k
        in_order = len(widths) == len(sizes) and widths == sorted(widths, reverse=True)
        positive = bool((state["step"] > 0).all() and (state["unit"] > 0).all())
        room = self.bytes - self._has_scale
        if not (
            agree and in_order and positive and sizes.sum() == k and 1 <= len(sizes) <= max(1, room) and k <= self.dim
        ):
            raise ModelFormatError("transform_code: the arrays do not belong together")
        self._tables = ByteTables(state["words"], sizes)
        self._basis = state["basis"].astype(np.float32)
        self._weight = state["step"] * state["step"]
        self._measured = state["step"] * state["unit"]
        self._bytes_used = len(sizes)
        self._unbiased = self._has_scale and bool(state["unbiased"][0])
        low, high = (float(value) for value in state["scales"])
        self._scale_bytes = ScaleBytes(low, high, float(state["length"][0]) if self._has_scale else 0.0)
        if self._unbiased and self._scale_bytes.square:
            raise ModelFormatError("transform_code: unbiased scales know no length")

    # Made by the first who asks: not every use of a model encodes, or searches by cosine.

    @cached_property
    def _searches(self) -> list[WordSearch]:
        return make_searches(self.state["words"], self._tables.sizes, self._weight, self.state["unit"])

    @cached_property
    def _norms(self) -> WordNorms | None:
        return WordNorms.build(self.state["words"], self._tables.sizes, self.state["backward"], self.state["mean"])

    # Rows ------------------------------------------------------------------------------------------------

    def _project(self, block: Float32, whole: Float32, out: Float32) -> Float32:
        """Write coordinates on the coded axes, each in a unit of its own; return lengths ``(n,)`` of the centred rows.

        Coordinates are exact up to rounding of the centred row.
        Row and basis are whole numbers with norms of 4,000 at most, so every partial sum is below 2^24 and float32
        adds them exactly, in any order: the result does not depend on the batch. ``whole`` is overwritten.
        """
        np.subtract(block, self.state["mean"], out=whole)
        norm = np.sqrt(np.einsum("ij,ij->i", whole, whole))
        factor = (np.float32(_NORM) / np.maximum(norm, np.float32(1e-30)))[:, None]
        whole *= factor
        np.rint(whole, out=whole)
        np.matmul(whole, self._basis, out=out)
        out *= np.float32(1) / factor
        return np.asarray(norm)

    def _words_of(self, X: Float32) -> tuple[Bytes, Float32, Float32 | None]:
        """Return word bytes ``(n, b)``, lengths of the centred rows ``(n,)`` and, after queries, unbiased scales."""
        codes, lengths = np.empty((len(X), self._bytes_used), np.uint8), np.empty(len(X), np.float32)
        own, cross = (np.empty(len(X) if self._unbiased else 0, np.float32) for _ in range(2))
        size = min(len(X), _ENCODED_ROWS)
        centred, coordinates = np.empty((size, self.dim), np.float32), np.empty((size, len(self._weight)), np.float32)
        for start in range(0, len(X), size):
            block = X[start : start + size]
            rows, z = slice(start, start + len(block)), coordinates[: len(block)]
            lengths[rows] = self._project(block, centred[: len(block)], z)
            for search in self._searches:
                search(z, codes[rows])
            if self._unbiased:
                z *= self._measured
                np.einsum("ij,ij->i", z, z, out=own[rows])
                z *= self.state["step"]
                np.einsum("ij,ij->i", z, self._tables.rows(codes[rows]).astype(np.float32), out=cross[rows])
        if not self._unbiased:
            return codes, lengths, None
        ratio = own / np.maximum(cross, np.float32(1e-30))
        return codes, lengths, np.where((cross > 0) & (own > 0), ratio, np.float32(1))

    def _unscaled(self, words: Bytes) -> tuple[Float64, Float64]:
        """Return squared lengths ``(n,)`` of what words stand for around the mean, and their products with the mean.

        The same for a row whatever the batch.
        """
        if self._norms is not None:
            squares, along, unsure = self._norms.parts(words)
            far = np.flatnonzero(unsure)
        else:
            squares, along, far = np.empty(len(words)), np.empty(len(words)), np.arange(len(words))
        mean = self.state["mean"].astype(np.float64)
        for start in range(0, len(far), _ROWS):
            rows = far[start : start + _ROWS]
            near = self._tables.rows(words[rows]).astype(np.float64) @ self._wide_backward
            squares[rows], along[rows] = np.einsum("ij,ij->i", near, near), np.einsum("ij,j->i", near, mean)
        return squares, along

    @cached_property
    def _wide_backward(self) -> Float64:
        return self.state["backward"].astype(np.float64)

    def _scaled(
        self, X: Float32, words: Bytes, lengths: Float32, unbiased: Float32 | None
    ) -> tuple[Float32, Callable[[Float32], Float64]]:
        """Return the logarithms of the scales of rows ``(n, d)``, -inf for the mean itself.

        Also a function that takes scales ``(n,)`` and returns the squared lengths of what is decoded with them.
        """
        if unbiased is not None:
            logs = np.log(unbiased.astype(np.float64))
            return np.where(lengths > 0, logs, -np.inf).astype(np.float32), lambda scales: scales.astype(np.float64)
        squares, along = self._unscaled(words)
        square_of_mean = float(np.square(self.state["mean"], dtype=np.float64).sum())
        wanted, _ = wide_squared_norms(X)
        scale = length_scales(squares, along, wanted - square_of_mean, lengths)
        logs = np.log(np.where(lengths > 0, scale, 1.0))

        def decoded(scales: Float32) -> Float64:
            wide = scales.astype(np.float64)
            return np.asarray(square_of_mean + wide * (2.0 * along + wide * squares))

        return np.where(lengths > 0, logs, -np.inf).astype(np.float32), decoded

    def encode(self, X: Float32) -> Bytes:
        """Return ``(n, bytes) uint8``."""
        codes = np.zeros((len(X), self.bytes), dtype=np.uint8)
        found = self._words_of(X)
        codes[:, : self._bytes_used] = found[0]
        if self._has_scale:
            codes[:, -1] = self._scale_bytes.of(*self._scaled(X, *found))
        return codes

    def decode(self, codes: Bytes) -> Float32:
        """Return ``(n, d) float32``."""
        out = np.empty((len(codes), self.dim), dtype=np.float32)
        for start in range(0, len(codes), _ROWS):
            block = codes[start : start + _ROWS]
            near = self._tables.rows(block[:, : self._bytes_used]).astype(np.float32)
            if self._has_scale:
                near *= self._scale_bytes.scales(block[:, -1])[:, None]
            out[start : start + len(block)] = near @ self.state["backward"] + self.state["mean"]
        return out

    # Queries ---------------------------------------------------------------------------------------------

    def prepare(self, Q: Float32) -> _Prepared:
        """Fold axes, steps and mean into ``(m, d)`` queries."""
        wide = Q.astype(np.float64)
        folded = (wide @ self.state["backward"].T.astype(np.float64)).astype(np.float32)
        columns = np.zeros((len(Q), self._tables.width), dtype=np.float32)
        columns[:, self._tables.columns] = folded
        tables = self._tables.tables(folded) if len(Q) <= _FEW_QUERIES else None
        return _Prepared((wide @ self.state["mean"].astype(np.float64)).astype(np.float32), columns, tables)

    def score(self, prepared: _Prepared, codes: Bytes) -> Float32:
        """Return inner products ``(m, n)``: look-ups for few queries, decoded blocks and a product for many."""
        words = codes[:, : self._bytes_used]
        if prepared.tables is not None:
            scores = look_up(prepared.tables, words)
        else:
            scores = np.empty((len(prepared.columns), len(codes)), dtype=np.float32)
            for start in range(0, len(codes), _ROWS):
                near = self._tables.gather(words[start : start + _ROWS]).astype(np.float32)
                scores[:, start : start + len(near)] = prepared.columns @ near.T
        if self._has_scale:
            scores *= self._scale_bytes.scales(codes[:, -1])
        scores += prepared.offset[:, None]
        return scores

    def cosine_squares(self, codes: Bytes) -> Float64 | float:
        """Return squared lengths ``(n,)`` of decoded vectors, that of nearly all where the code says that it is it."""
        other = self._scale_bytes.other(codes[:, -1]) if self._has_scale else None
        if other is None:
            return self.wide_squared_norms(codes)
        if not other.size:
            return self._scale_bytes.square
        squares = np.full(len(codes), self._scale_bytes.square)
        squares[other] = self.wide_squared_norms(codes[other])
        return squares

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors, by tables where those are faster than decoding."""
        if self._norms is None:
            return super().squared_norms(codes)
        scales = self._scale_bytes.scales(codes[:, -1]) if self._has_scale else None
        wide, unsure = self._norms.squared_norms(codes[:, : self._bytes_used], scales)
        with np.errstate(over="ignore"):
            norms = wide.astype(np.float32)
        if unsure.any():
            norms[unsure] = super().squared_norms(codes[unsure])
        return norms
