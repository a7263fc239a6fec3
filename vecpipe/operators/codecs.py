"""Codecs that store one number a dimension in a plain form: half floats, bytes, sign bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vecpipe.arrays import Bytes, Float32
from vecpipe.errors import InputError, ModelFormatError
from vecpipe.kernels import DigitQuery
from vecpipe.operators.base import Codec, FitData, Layout, State, param, register

_NORM_ROWS = 256


@register
@dataclass(eq=False)
class Float16(Codec):
    """Store each number as an IEEE half float: 2 bytes a dimension, 11 bits of precision."""

    name = "float16"
    source = "IEEE 754 binary16"
    oracle = "numpy.float16"
    stateless = True

    def code_bytes(self, dim: int) -> int:
        """Return 2 d."""
        return 2 * dim

    def encode(self, X: Float32) -> Bytes:
        """Return the little-endian halves.

        Raises
        ------
        InputError
            A value beyond 65504, the largest half float.
        """
        with np.errstate(over="ignore"):
            halves = np.ascontiguousarray(X, dtype="<f2")
        if not np.isfinite(halves).all():
            row = int(np.flatnonzero(~np.isfinite(halves).all(axis=1))[0])
            raise InputError(f"float16: row {row} holds a value beyond 65504; scale the vectors first")
        return halves.view(np.uint8)

    def decode(self, codes: Bytes) -> Float32:
        """Return the halves as float32."""
        return np.ascontiguousarray(codes).view("<f2").astype(np.float32)


@register
@dataclass(eq=False)
class Int8(Codec):
    """Store each number as one of 256 evenly spaced levels.

    ``scale=dimension`` fits a range for each dimension from quantiles of the sample and clips what falls outside;
    ``scale=vector`` fits nothing and spends 4 more bytes on each vector's own largest magnitude.
    """

    name = "int8"
    source = "uniform scalar quantisation; Dettmers et al. 2022 (scale=vector)"
    oracle = "sentence_transformers.quantize_embeddings; error of at most half a step"

    scale: str = param("dimension", doc="whose range is divided", choices=("dimension", "vector"))
    quantile: float = param(1.0, doc="share of the values inside a dimension's range", minimum=0.5, maximum=1.0)

    def code_bytes(self, dim: int) -> int:
        """Return d, or d + 4 with a scale for each vector."""
        return dim if self.scale == "dimension" else dim + 4

    def fit(self, data: FitData) -> State:
        """Learn ``low`` and ``step`` of each dimension, ``(d,) float32``."""
        if self.scale == "vector":
            return {}
        tail = (1.0 - self.quantile) / 2
        if tail == 0.0:
            low, high = data.rows.min(axis=0).astype(np.float64), data.rows.max(axis=0).astype(np.float64)
        else:
            low, high = data.quantiles([tail, 1.0 - tail])
        return {"low": low.astype(np.float32), "step": ((high - low) / 255.0).astype(np.float32)}

    def layout(self, dim: int) -> Layout:
        """Return low and step, or nothing."""
        if self.scale == "vector":
            return {}
        return {"low": (np.float32, (dim,)), "step": (np.float32, (dim,))}

    def prepare_state(self) -> None:
        """Derive the inverse steps."""
        if self.scale == "dimension":
            step = self.state["step"]
            if (step < 0).any():
                raise ModelFormatError("int8: a step is negative")
            with np.errstate(divide="ignore", over="ignore"):
                inverse = np.where(step > 0, np.float32(1) / step, np.float32(0))
            self._inverse = np.where(np.isfinite(inverse), inverse, np.float32(0)).astype(np.float32)

    def encode(self, X: Float32) -> Bytes:
        """Return ``(n, d)`` levels, or ``(n, d + 4)`` levels and scale."""
        if self.scale == "dimension":
            levels = X - self.state["low"]
            levels *= self._inverse
            levels -= np.float32(128)
            np.rint(levels, out=levels)
            np.clip(levels, -128, 127, out=levels)
            return levels.astype(np.int8).view(np.uint8)
        scale = np.abs(X).max(axis=1, initial=0.0) / np.float32(127)
        levels = np.rint(X / np.where(scale > 0, scale, np.float32(1))[:, None])
        codes = np.empty((len(X), X.shape[1] + 4), dtype=np.uint8)
        codes[:, :-4] = np.clip(levels, -127, 127).astype(np.int8).view(np.uint8)
        codes[:, -4:] = np.ascontiguousarray(scale, dtype="<f4").view(np.uint8).reshape(-1, 4)
        return codes

    def _scales(self, codes: Bytes) -> Float32:
        with np.errstate(invalid="ignore"):
            scales = np.ascontiguousarray(codes[:, -4:]).view("<f4")[:, 0].astype(np.float32)
        return np.nan_to_num(scales, nan=0.0, posinf=0.0, neginf=0.0)

    def decode(self, codes: Bytes) -> Float32:
        """Return ``(n, d) float32``."""
        if self.scale == "dimension":
            levels = codes.view(np.int8).astype(np.float32)
            levels += np.float32(128)
            levels *= self.state["step"]
            levels += self.state["low"]
            return levels
        return codes[:, :-4].view(np.int8).astype(np.float32) * self._scales(codes)[:, None]

    def prepare(self, Q: Float32) -> Any:
        """Return the queries as integer digits, and what the ranges add to every score."""
        wide = Q.astype(np.float64)
        if self.scale == "vector":
            return DigitQuery(wide), np.zeros(len(Q))
        step, low = self.state["step"].astype(np.float64), self.state["low"].astype(np.float64)
        return DigitQuery(wide * step), wide @ (low + 128.0 * step)

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return inner products by integer arithmetic, ``(m, n) float32``."""
        digits, shift = prepared
        if self.scale == "vector":
            return np.asarray(digits.dot(codes[:, :-4].view(np.int8)) * self._scales(codes), dtype=np.float32)
        return np.asarray(digits.dot(codes.view(np.int8)) + shift[:, None], dtype=np.float32)

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors, a cache-sized block of levels at a time."""
        if self.scale == "vector":
            return super().squared_norms(codes)
        step = self.state["step"].astype(np.float64)
        middle = self.state["low"] + 128.0 * step
        linear, square = (2.0 * middle * step).astype(np.float32), (step * step).astype(np.float32)
        norms = np.empty(len(codes), dtype=np.float32)
        for start in range(0, len(codes), _NORM_ROWS):
            levels = codes[start : start + _NORM_ROWS].view(np.int8).astype(np.float32)
            part = levels @ linear
            levels *= levels
            norms[start : start + _NORM_ROWS] = part + levels @ square
        return np.asarray(np.maximum(norms + np.float32(middle @ middle), np.float32(0)))

    @property
    def noise(self) -> float:
        """Squared length of what rounding can leave of a zero vector."""
        return 0.0 if self.scale == "vector" else float((self.state["step"].astype(np.float64) ** 2).sum()) / 4


@register
@dataclass(eq=False)
class Binary(Codec):
    """Store the sign of each number: 1 bit a dimension, set where the number is above 0.

    Signs say something only where dimensions are centred and of like variance: put ``center`` or ``rotate`` before
    it where they are not.
    """

    name = "binary"
    source = "Charikar 2002; Yamada, Asai, Hajishirzi 2021 (asymmetric scores)"
    oracle = "numpy.packbits; sentence_transformers.quantize_embeddings(precision='ubinary')"
    stateless = True
    direction_only = True

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
        """Return the queries as integer digits, and their sums."""
        wide = Q.astype(np.float64) / np.sqrt(self.dim)
        return DigitQuery(2.0 * wide), wide.sum(axis=1)

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return inner products of float queries with the signs, ``(m, n) float32``."""
        digits, total = prepared
        return np.asarray(digits.dot(self._bits(codes).view(np.int8)) - total[:, None], dtype=np.float32)

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ones."""
        return np.ones(len(codes), dtype=np.float32)
