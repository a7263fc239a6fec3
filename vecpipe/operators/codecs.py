"""Codecs that store one number a dimension in a plain form: bytes, half bytes, sign bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.errors import ModelFormatError
from vecpipe.kernels import row_products
from vecpipe.operators.base import Codec, Layout, State, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.lut import look_up
from vecpipe.operators.packing import pack, packed_bytes, stored_numbers, unpack
from vecpipe.operators.parameters import param
from vecpipe.query_products import DigitQuery

_NORM_ROWS = 256


class _Ranges(Codec):
    """Evenly spaced levels between the ends of each dimension's range; what falls outside is clipped."""

    bits: ClassVar[int] = 8
    quantile: float

    def code_bytes(self, dim: int) -> int:
        """Return the bytes of d levels."""
        return packed_bytes(dim, self.bits)

    def fit(self, data: FitData) -> State:
        """Learn ``low`` and ``step`` of each dimension, ``(d,) float32``."""
        tail = (1.0 - self.quantile) / 2
        if tail == 0.0:
            low, high = data.rows.min(axis=0).astype(np.float64), data.rows.max(axis=0).astype(np.float64)
        else:
            low, high = data.quantiles([tail, 1.0 - tail])
        return {"low": low.astype(np.float32), "step": ((high - low) / (2**self.bits - 1)).astype(np.float32)}

    def layout(self, dim: int) -> Layout:
        """Return low and step."""
        return {"low": (np.float32, (dim,)), "step": (np.float32, (dim,))}

    def prepare_state(self) -> None:
        """Derive the inverse steps."""
        step = self.state["step"]
        if (step < 0).any():
            raise ModelFormatError(f"{self.name}: a step is negative")
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.where(step > 0, np.float32(1) / step, np.float32(0))
        self._inverse = np.where(np.isfinite(inverse), inverse, np.float32(0)).astype(np.float32)

    @property
    def _half(self) -> int:
        """Half the number of levels: what lies between a level and the signed byte it is computed with."""
        return 1 << (self.bits - 1)

    def _signed(self, codes: Bytes) -> npt.NDArray[np.int8]:
        """Return the levels less half their number, ``(n, d) int8``."""
        if self.bits == 8:
            return codes.view(np.int8)
        return unpack(codes, self.dim, self.bits).view(np.int8) - np.int8(self._half)

    def encode(self, X: Float32) -> Bytes:
        """Return packed levels, those of 8 bits as signed bytes."""
        half = self._half
        levels = X - self.state["low"]
        levels *= self._inverse
        levels -= np.float32(half)
        np.rint(levels, out=levels)
        np.clip(levels, -half, half - 1, out=levels)
        if self.bits == 8:
            return levels.astype(np.int8).view(np.uint8)
        levels += np.float32(half)
        return pack(levels.astype(np.uint8), self.bits)

    def decode(self, codes: Bytes) -> Float32:
        """Return ``(n, d) float32``."""
        levels = self._signed(codes).astype(np.float32)
        levels += np.float32(self._half)
        levels *= self.state["step"]
        levels += self.state["low"]
        return levels

    def _middle(self) -> Float64:
        return np.asarray(self.state["low"] + self._half * self.state["step"].astype(np.float64))

    def prepare(self, Q: Float32) -> Any:
        """Return the queries as integer digits, with what the ranges add to every score."""
        wide = Q.astype(np.float64)
        return DigitQuery(wide * self.state["step"].astype(np.float64), wide @ self._middle())

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return inner products by integer arithmetic, ``(m, n) float32``."""
        products: Float32 = prepared.dot(self._signed(codes))
        return products

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors, a cache-sized block of levels at a time."""
        step, middle = self.state["step"].astype(np.float64), self._middle()
        linear, square = (2.0 * middle * step).astype(np.float32), (step * step).astype(np.float32)
        norms = np.empty(len(codes), dtype=np.float32)
        room = np.empty((min(_NORM_ROWS, len(codes)), self.dim), dtype=np.float32)
        for start in range(0, len(codes), _NORM_ROWS):
            signed = self._signed(codes[start : start + _NORM_ROWS])
            levels = room[: len(signed)]
            levels[:] = signed
            part = levels @ linear
            levels *= levels
            norms[start : start + _NORM_ROWS] = part + levels @ square
        return np.asarray(np.maximum(norms + np.float32(middle @ middle), np.float32(0)))

    @property
    def noise(self) -> float:
        """Squared length of what rounding can leave of a zero vector."""
        return float((self.state["step"].astype(np.float64) ** 2).sum()) / 4


@register
@dataclass(eq=False)
class Int8(_Ranges):
    """Store each number as one of 256 evenly spaced levels.

    ``scale=dimension`` fits a range for each dimension from quantiles of the sample and clips what falls outside;
    ``scale=vector`` fits nothing and spends 4 more bytes on each vector's own largest magnitude.
    """

    name = "int8"
    source = "uniform scalar quantisation; Dettmers et al. 2022 (scale=vector)"
    oracle = (
        "the formula of sentence_transformers.quantize_embeddings; error of at most half a step; "
        "recall of FAISS at no more bytes"
    )

    scale: str = param("dimension", doc="whose range is divided", choices=("dimension", "vector"))
    quantile: float = param(1.0, doc="share of the values inside a dimension's range", minimum=0.5, maximum=1.0)

    def code_bytes(self, dim: int) -> int:
        """Return d, or d + 4 with a scale for each vector."""
        return dim if self.scale == "dimension" else dim + 4

    def fit(self, data: FitData) -> State:
        """Learn ``low`` and ``step`` of each dimension, ``(d,) float32``, or nothing."""
        return super().fit(data) if self.scale == "dimension" else {}

    def layout(self, dim: int) -> Layout:
        """Return low and step, or nothing."""
        return super().layout(dim) if self.scale == "dimension" else {}

    def prepare_state(self) -> None:
        """Derive the inverse steps."""
        if self.scale == "dimension":
            super().prepare_state()

    def encode(self, X: Float32) -> Bytes:
        """Return ``(n, d)`` levels, or ``(n, d + 4)`` levels and scale."""
        return super().encode(X) if self.scale == "dimension" else absmax_codes(X)

    def decode(self, codes: Bytes) -> Float32:
        """Return ``(n, d) float32``."""
        if self.scale == "dimension":
            return super().decode(codes)
        return codes[:, :-4].view(np.int8).astype(np.float32) * absmax_scales(codes)[:, None]

    def prepare(self, Q: Float32) -> Any:
        """Return the queries as integer digits, with what the ranges add to every score."""
        if self.scale == "vector":
            return DigitQuery(Q.astype(np.float64))
        return super().prepare(Q)

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return inner products by integer arithmetic, ``(m, n) float32``."""
        if self.scale == "vector":
            levels = codes[:, :-4].view(np.int8)
            return np.asarray(prepared.dot(levels) * absmax_scales(codes), dtype=np.float32)
        return super().score(prepared, codes)

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors."""
        if self.scale == "vector":
            levels = codes[:, :-4].view(np.int8)
            squares = row_products(levels, levels) * absmax_scales(codes).astype(np.float64) ** 2
            return np.asarray(squares, dtype=np.float32)
        return super().squared_norms(codes)

    @property
    def noise(self) -> float:
        """Squared length of what rounding can leave of a zero vector."""
        return 0.0 if self.scale == "vector" else super().noise


def absmax_codes(X: Float32) -> Bytes:
    """Return ``(n, d + 4) uint8``: each row as whole multiples of its largest magnitude over 127, then that scale."""
    scale = np.abs(X).max(axis=1, initial=0.0) / np.float32(127)
    levels = np.rint(X / np.where(scale > 0, scale, np.float32(1))[:, None])
    codes = np.empty((len(X), X.shape[1] + 4), dtype=np.uint8)
    codes[:, :-4] = np.clip(levels, -127, 127).astype(np.int8).view(np.uint8)
    codes[:, -4:] = np.ascontiguousarray(scale, dtype="<f4").view(np.uint8).reshape(-1, 4)
    return codes


def absmax_scales(codes: Bytes) -> Float32:
    """Return the scales ``(n,) float32`` at the end of codes; what no encoder writes counts as 0."""
    return stored_numbers(codes[:, -4:], "<f4")


@register
@dataclass(eq=False)
class Int4(_Ranges):
    """Store each number as one of 16 evenly spaced levels, two to a byte.

    The range of a dimension is taken from quantiles of the sample; a value outside is clipped. With so few levels it
    pays to give up a value in a hundred for a finer step.
    """

    name = "int4"
    source = "uniform scalar quantisation"
    oracle = "numpy.clip(numpy.rint(...)); recall of FAISS at no more bytes (SQ4)"
    bits = 4

    quantile: float = param(0.99, doc="share of the values inside a dimension's range", minimum=0.5, maximum=1.0)

    @cached_property
    def _squares(self) -> Float32:
        """The sum of the squares of the two numbers that each byte holds, ``(1, d / 2, 256)``."""
        values = np.zeros((self.dim + self.dim % 2, 16))
        values[: self.dim] = self.state["low"][:, None] + np.arange(16) * self.state["step"].astype(np.float64)[:, None]
        squares = values * values
        pairs = squares[::2, :, None] + squares[1::2, None, :]
        return np.asarray(pairs.reshape(1, -1, 256), dtype=np.float32)

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors, by look-up of what each byte adds."""
        return np.asarray(look_up(self._squares, codes)[0])


@register
@dataclass(eq=False)
class Binary(Codec):
    """Store the sign of each number: 1 bit a dimension, set where the number is above 0.

    Signs say something only where dimensions are centred and of like variance: put ``center`` or ``rotate`` before
    it where they are not.
    """

    name = "binary"
    source = "Charikar 2002; Yamada, Asai, Hajishirzi 2021 (asymmetric scores)"
    oracle = "numpy.packbits, as in sentence_transformers.quantize_embeddings; rank by numpy's Hamming distance"
    stateless = True
    direction_only = True
    lengthless = True
    sign_bits = True

    def code_bytes(self, dim: int) -> int:
        """Return d / 8, rounded up."""
        return (dim + 7) // 8

    def encode(self, X: Float32) -> Bytes:
        """Return the packed signs, first dimension in the highest bit."""
        return np.packbits(X > 0, axis=1)

    def _bits(self, codes: Bytes) -> Bytes:
        return np.unpackbits(codes, axis=1, count=self.dim)

    def decode(self, codes: Bytes) -> Float32:
        """Return rows of ±1/sqrt(d), of length 1."""
        size = np.float32(1.0 / np.sqrt(self.dim))
        return np.where(self._bits(codes) > 0, size, -size)

    def prepare(self, Q: Float32) -> Any:
        """Return the queries as integer digits, with their sums to take away."""
        wide = Q.astype(np.float64) / np.sqrt(self.dim)
        return DigitQuery(2.0 * wide, -wide.sum(axis=1))

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return inner products of float queries with the signs, ``(m, n) float32``."""
        products: Float32 = prepared.dot(self._bits(codes).view(np.int8))
        return products

    def _differing(self, a: Bytes, b: Bytes) -> npt.NDArray[np.int64]:
        different = a ^ b
        if self.dim % 8:
            different[:, -1] &= np.uint8(256 - (1 << (8 - self.dim % 8)))
        return np.asarray(np.bitwise_count(different).sum(axis=1, dtype=np.int64))

    def pair_products(self, a: Bytes, b: Bytes) -> tuple[Float64, Float64, Float64]:
        """Return inner products from the number of differing bits, and lengths of one."""
        ones = np.ones(len(a))
        return 1.0 - 2.0 * self._differing(a, b) / self.dim, ones, ones

    def pair_distances(self, a: Bytes, b: Bytes) -> Float64:
        """Return ``(n,)`` distances from the number of differing bits."""
        return np.asarray(np.sqrt(4.0 * self._differing(a, b) / self.dim))

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ones."""
        return np.ones(len(codes), dtype=np.float32)
