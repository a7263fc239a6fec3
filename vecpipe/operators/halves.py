"""Codecs that store each number as a float of 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecpipe.arrays import Bytes, Float32
from vecpipe.errors import RowError
from vecpipe.kernels import bfloat_squares, half_squares
from vecpipe.operators.base import Codec, register
from vecpipe.query_products import HalfQuery

HALF_OVERFLOW = "holds a value beyond 65504, the largest half float; scale the vectors first"
_TINY = 1e-30
"""Squared norm below which squares may be too small for the product of halves."""


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
        RowError
            A value beyond 65504, the largest half float.
        """
        with np.errstate(over="ignore"):
            halves = np.ascontiguousarray(X, dtype="<f2")
        if not np.isfinite(halves).all():
            row = int(np.flatnonzero(~np.isfinite(halves).all(axis=1))[0])
            raise RowError(self.name, row, HALF_OVERFLOW)
        return halves.view(np.uint8)

    def decode(self, codes: Bytes) -> Float32:
        """Return the halves as float32."""
        return np.ascontiguousarray(codes).view("<f2").astype(np.float32)

    def prepare(self, Q: Float32) -> HalfQuery:
        """Return the queries as pairs of half floats."""
        return HalfQuery(Q.astype(np.float64))

    def score(self, prepared: HalfQuery, codes: Bytes) -> Float32:
        """Return inner products ``(m, n) float32`` without widening the codes."""
        return prepared.dot(np.ascontiguousarray(codes).view("<f2"))

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the halves, which stay as they are."""
        return half_squares(np.ascontiguousarray(codes).view("<f2")).astype(np.float32)


@register
@dataclass(eq=False)
class BFloat16(Codec):
    """Store each number as the upper half of a float32: 2 bytes a dimension, 8 bits of precision, float32's range.

    Rounds to nearest, ties to even; what would round to infinity becomes the largest finite value, about 3.39e38.
    """

    name = "bfloat16"
    source = "Google Brain's bfloat16; IEEE 754 round to nearest even"
    oracle = "error of at most half a step of the upper 16 bits of a float32; recall of FAISS at no more bytes"
    stateless = True

    def code_bytes(self, dim: int) -> int:
        """Return 2 d."""
        return 2 * dim

    def encode(self, X: Float32) -> Bytes:
        """Return the upper halves, little-endian."""
        bits = np.ascontiguousarray(X, dtype="<f4").view("<u4")
        size = bits & np.uint32(0x7FFFFFFF)
        size += ((size >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
        half = np.minimum(size >> np.uint32(16), np.uint32(0x7F7F)) | ((bits >> np.uint32(16)) & np.uint32(0x8000))
        return np.ascontiguousarray(half, dtype="<u2").view(np.uint8)

    def decode(self, codes: Bytes) -> Float32:
        """Return the halves as float32."""
        wide = np.ascontiguousarray(codes).view("<u2").astype("<u4") << np.uint32(16)
        return wide.view("<f4").astype(np.float32, copy=False)

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors; the halves stay as they are but in the tiniest rows."""
        with np.errstate(over="ignore"):
            norms = bfloat_squares(np.ascontiguousarray(codes).view("<u2")).astype(np.float32)
        tiny = norms < _TINY
        if tiny.any():
            norms[tiny] = super().squared_norms(codes[tiny])
        return norms
