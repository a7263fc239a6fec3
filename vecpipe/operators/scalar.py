"""Codecs that scale each vector, or all alike, before rounding: LVQ, recurrent sign bits, outlier dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32
from vecpipe.errors import ModelFormatError, RowError
from vecpipe.kernels import digit_sums, row_products
from vecpipe.operators.base import Codec, Layout, State, register
from vecpipe.operators.codecs import absmax_codes, absmax_scales
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.halves import HALF_OVERFLOW
from vecpipe.operators.packing import MAX_BITS, pack, packed_bytes, stored_numbers, unpack
from vecpipe.operators.parameters import param
from vecpipe.query_products import DigitQuery

_HALF_LIMIT = 65504.0


@register
@dataclass(eq=False)
class LVQ(Codec):
    """Divide each vector's own range evenly; a second level of bits refines the first.

    With l the least entry, u the greatest, B = bits and step s = (u - l) / (2^B - 1):
    ``c = round((x - l) / s)`` and ``x' = l + s c``. l and s are stored as half floats, l rounded down and s up, so that
    ``|x' - x| <= s/2`` holds with the stored numbers. ``residual=R`` spends R more bits on ``x - x'`` in
    ``[-s/2, s/2]``, which leaves ``s / 2(2^R - 1)``. The code begins with what ``lvq(bits)`` alone would write. Put
    ``center`` before it, as the paper does.
    """

    name = "lvq"
    source = "Aguerrebere et al. 2023 (locally-adaptive vector quantization)"
    oracle = "the bounds s/2 and s / 2(2^R - 1) of the paper"

    bits: int = param(doc="bits a dimension", minimum=1, maximum=MAX_BITS)
    residual: int = param(0, doc="bits a dimension of the second level", minimum=0, maximum=MAX_BITS)

    def code_bytes(self, dim: int) -> int:
        """Return 4 bytes for l and s, and the packed levels."""
        return 4 + packed_bytes(dim, self.bits) + packed_bytes(dim, self.residual)

    def encode(self, X: Float32) -> Bytes:
        """Return l, s and levels.

        Raises
        ------
        RowError
            A value beyond 65504, the largest half float.
        """
        peak = np.abs(X).max(axis=1, initial=0.0)
        if (peak > _HALF_LIMIT).any():
            row = int(np.flatnonzero(peak > _HALF_LIMIT)[0])
            raise RowError(self.name, row, HALF_OVERFLOW)
        low = _half_down(X.min(axis=1))
        top = 2**self.bits - 1
        wide = low.astype(np.float64)
        step = -_half_down(-(X.max(axis=1) - wide) / top)
        if not np.isfinite(step).all():
            row = int(np.flatnonzero(~np.isfinite(step))[0])
            raise RowError(self.name, row, "spans more than 65504, the largest half float; scale the vectors first")
        size = step.astype(np.float64)
        parts = [low[:, None].view(np.uint8), step[:, None].view(np.uint8)]
        unit = np.where(size > 0, size, 1.0)[:, None]
        scaled = (X - wide[:, None]) / unit
        levels = np.clip(np.rint(scaled), 0, top)
        parts.append(pack(levels.astype(np.uint8), self.bits))
        if self.residual:
            fine = 2**self.residual - 1
            rest = np.clip(np.rint((scaled - levels + 0.5) * fine), 0, fine)
            parts.append(pack(rest.astype(np.uint8), self.residual))
        return np.concatenate(parts, axis=1)

    def _read(self, codes: Bytes) -> tuple[Float32, Float32, Bytes, Bytes | None]:
        """Return l, s, levels and fine levels."""
        first = 4 + packed_bytes(self.dim, self.bits)
        low, step = stored_numbers(codes[:, :2], "<f2"), stored_numbers(codes[:, 2:4], "<f2")
        levels = unpack(codes[:, 4:first], self.dim, self.bits)
        return low, step, levels, unpack(codes[:, first:], self.dim, self.residual) if self.residual else None

    def decode(self, codes: Bytes) -> Float32:
        """Return ``(n, d) float32``."""
        low, step, levels, rest = self._read(codes)
        near = levels.astype(np.float32)
        if rest is not None:
            near += rest.astype(np.float32) * np.float32(1.0 / (2**self.residual - 1)) - np.float32(0.5)
        near *= step[:, None]
        near += low[:, None]
        return near

    def prepare(self, Q: Float32) -> Any:
        """Return the queries as integer digits, and their sums."""
        wide = Q.astype(np.float64)
        return DigitQuery(wide), wide.sum(axis=1)

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return ``l sum(q) + s <q, c>``, with the second level where there is one, ``(m, n) float32``."""
        digits, total = prepared
        low, step, levels, rest = self._read(codes)
        products, shift = _level_products(digits, levels, self.bits)
        if rest is not None:
            fine, fine_shift = _level_products(digits, rest, self.residual)
            share = 1.0 / (2**self.residual - 1)
            products, shift = products + share * fine, shift + share * fine_shift - 0.5
        return np.asarray(products * step + np.outer(total, low + shift * step.astype(np.float64)), dtype=np.float32)

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors: ``sum (l + s c)^2`` from sums of whole numbers."""
        low, step, levels, rest = self._read(codes)
        signed, shift = _signed_levels(levels, self.bits)
        total, squares = digit_sums(signed), row_products(signed, signed)
        if rest is not None:
            fine, fine_shift = _signed_levels(rest, self.residual)
            share = 1.0 / (2**self.residual - 1)
            squares += 2.0 * share * row_products(signed, fine) + share * share * row_products(fine, fine)
            total += share * digit_sums(fine)
            shift += share * fine_shift - 0.5
        # With c = signed + shift, the entries are (l + s shift) + s signed.
        base, size = low + shift * step.astype(np.float64), step.astype(np.float64)
        norms = self.dim * base * base + 2.0 * base * size * total + size * size * squares
        return np.asarray(np.maximum(norms, 0.0), dtype=np.float32)


def _signed_levels(levels: Bytes, bits: int) -> tuple[npt.NDArray[np.int8], float]:
    """Return the levels as signed bytes, and what was taken off each level to make it one."""
    if bits < MAX_BITS:
        return levels.view(np.int8), 0.0
    return (levels ^ np.uint8(128)).view(np.int8), 128.0


def _level_products(digits: DigitQuery, levels: Bytes, bits: int) -> tuple[Float32, float]:
    """Return products with the levels as signed bytes, and what was taken off each level to make it one."""
    signed, shift = _signed_levels(levels, bits)
    return digits.dot(signed), shift


def _half_down(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """Return the largest half floats that are not above the values."""
    with np.errstate(over="ignore"):
        halves = values.astype("<f2")
        over = halves.astype(np.float64) > values
        return np.asarray(np.where(over, np.nextafter(halves, np.float16(-np.inf)), halves), dtype="<f2")


@register
@dataclass(eq=False)
class BEBR(Codec):
    """Store u + 1 sign bits a dimension, each the sign of what those before it left over.

    ``b_0 = sign(x / s)``, ``b_i = b_(i-1) + 2^-i sign(x / s - b_(i-1))``: without the paper's trained networks this is
    nothing but a uniform quantiser without a level at zero, with one scale s for all vectors. s is fitted to the
    least squared error on the sample. One bit is ``binary`` with a length.
    """

    name = "bebr"
    source = "Gan et al. 2023 (recurrent binary embeddings), the training-free form"
    oracle = "the recurrence in float64"
    direction_only = True

    bits: int = param(2, doc="sign bits a dimension", minimum=1, maximum=MAX_BITS)

    def code_bytes(self, dim: int) -> int:
        """Return d bits / 8, rounded up by plane of bits."""
        return packed_bytes(dim, self.bits)

    def fit(self, data: FitData) -> State:
        """Learn ``scale``, ``(1,) float32``: that of least squared error among 48 spread over four octaves."""
        rows = data.rows[:4096].astype(np.float64)
        size = float(np.sqrt(np.average((rows * rows).mean(axis=1), weights=data.weights[:4096] + 1e-300)))
        best, scale = np.inf, 1.0
        for candidate in size * 2.0 ** np.linspace(-2.0, 2.0, 48) if size > 0 else ():
            levels = self._levels(rows / candidate).astype(np.float64)
            error = float((((2 * levels + 1 - 2**self.bits) * (candidate * self._unit) - rows) ** 2).sum())
            if error < best:
                best, scale = error, float(candidate)
        return {"scale": np.array([scale], np.float32)}

    def layout(self, dim: int) -> Layout:
        """Return one scale."""
        return {"scale": (np.float32, (1,))}

    def prepare_state(self) -> None:
        """Check that the scale is a length."""
        if not self.state["scale"][0] > 0:
            raise ModelFormatError("bebr: the scale is not positive")
        self._scale = float(self.state["scale"][0])

    @property
    def _unit(self) -> float:
        """Half the distance of two levels: 2^-u."""
        return math.ldexp(1.0, 1 - self.bits)

    def _levels(self, scaled: npt.NDArray[np.float64]) -> Bytes:
        half = 2 ** (self.bits - 1)
        return np.asarray(np.clip(np.floor(scaled * (half / 2)) + half, 0, 2 * half - 1), dtype=np.uint8)

    def encode(self, X: Float32) -> Bytes:
        """Return packed levels."""
        return pack(self._levels(X.astype(np.float64) / self._scale), self.bits)

    def _signed(self, codes: Bytes) -> npt.NDArray[np.int8]:
        levels = unpack(codes, self.dim, self.bits)
        return (levels ^ np.uint8(128)).view(np.int8) if self.bits == 8 else levels.view(np.int8)

    @property
    def _shift(self) -> float:
        """What turns signed levels into values in units of the step."""
        return (128.0 if self.bits == 8 else 0.0) - ((1 << self.bits) - 1) / 2

    def decode(self, codes: Bytes) -> Float32:
        """Return ``2^-u (2 c - (2^(u+1) - 1)) s``, ``(n, d) float32``."""
        values = self._signed(codes).astype(np.float32)
        values += np.float32(self._shift)
        values *= np.float32(2.0 * self._unit * self._scale)
        return values

    def prepare(self, Q: Float32) -> Any:
        """Return the queries as integer digits, and their sums."""
        wide = Q.astype(np.float64) * (2.0 * self._unit * self._scale)
        return DigitQuery(wide), wide.sum(axis=1) * self._shift

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return inner products by integer arithmetic, ``(m, n) float32``."""
        digits, shift = prepared
        products: Float32 = digits.dot(self._signed(codes))
        products += shift[:, None].astype(np.float32)
        return products

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors, from sums of whole numbers."""
        levels, shift = self._signed(codes), self._shift
        squares = row_products(levels, levels) + 2.0 * shift * digit_sums(levels) + self.dim * shift * shift
        return np.asarray(squares * (2.0 * self._unit * self._scale) ** 2, dtype=np.float32)


@register
@dataclass(eq=False)
class Int8Outlier(Codec):
    """Store each vector as whole multiples of its largest magnitude, and a few large dimensions as half floats.

    A dimension is an outlier where its root mean square is over ``sigma`` times that of the median dimension: few
    encoders have any, but where one is ten times as large as the rest ``int8(scale=vector)`` rounds the rest away.
    """

    name = "int8_outlier"
    source = "Dettmers et al. 2022 (LLM.int8()), with a rule relative to the data instead of 6.0"
    oracle = "error of at most max|x| / 254 outside the outliers; without outliers the bytes of int8(scale=vector)"

    sigma: float = param(4.0, doc="how many times the median dimension an outlier is", minimum=1.0, maximum=1e6)

    def code_bytes(self, dim: int) -> int:
        """Return 1 byte a dimension, 2 for an outlier, and 4 for the scale."""
        return dim + 4 + (int(self.state["outlier"].sum()) if self.state else 0)

    def fit(self, data: FitData) -> State:
        """Learn which dimensions are outliers, ``(d,) uint8``; at least one is not."""
        moments = data.moments
        size = np.sqrt(np.maximum(np.diagonal(moments.covariance), 0.0) + moments.mean**2)
        outlier = size > self.sigma * np.median(size)
        outlier[int(np.argmin(size))] = False
        return {"outlier": outlier.astype(np.uint8)}

    def layout(self, dim: int) -> Layout:
        """Return one flag a dimension."""
        return {"outlier": (np.uint8, (dim,))}

    def prepare_state(self) -> None:
        """Split the dimensions."""
        flags = self.state["outlier"]
        if flags.max(initial=0) > 1 or flags.all():
            raise ModelFormatError("int8_outlier: flags must be 0 or 1, and one dimension 0")
        self._large, self._small = np.flatnonzero(flags), np.flatnonzero(flags == 0)

    def encode(self, X: Float32) -> Bytes:
        """Return levels and scale of the ordinary dimensions, then the outliers as little-endian halves.

        Raises
        ------
        RowError
            A value beyond 65504, the largest half float, in an outlier dimension.
        """
        halves = np.clip(X[:, self._large], -1e6, 1e6)
        if (np.abs(halves) > _HALF_LIMIT).any():
            row = int(np.flatnonzero((np.abs(halves) > _HALF_LIMIT).any(axis=1))[0])
            raise RowError(self.name, row, HALF_OVERFLOW)
        rest = np.ascontiguousarray(halves, dtype="<f2").view(np.uint8).reshape(len(X), -1)
        return np.concatenate([absmax_codes(np.ascontiguousarray(X[:, self._small])), rest], axis=1)

    def _split(self, codes: Bytes) -> tuple[npt.NDArray[np.int8], Float32, Float32]:
        """Return levels ``(n, s)``, scales ``(n,)`` and outlier values ``(n, o)``."""
        small = len(self._small)
        large = np.ascontiguousarray(codes[:, small + 4 :]).view("<f2").astype(np.float32)
        large = np.nan_to_num(large, nan=0.0, posinf=0.0, neginf=0.0)
        return codes[:, :small].view(np.int8), absmax_scales(codes[:, : small + 4]), large

    def decode(self, codes: Bytes) -> Float32:
        """Return ``(n, d) float32``."""
        levels, scales, large = self._split(codes)
        out = np.empty((len(codes), self.dim), dtype=np.float32)
        out[:, self._small] = levels.astype(np.float32) * scales[:, None]
        out[:, self._large] = large
        return out

    def prepare(self, Q: Float32) -> Any:
        """Return the queries as integer digits for the levels, and their entries for the outliers."""
        return DigitQuery(Q[:, self._small].astype(np.float64)), np.ascontiguousarray(Q[:, self._large])

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return inner products, ``(m, n) float32``."""
        digits, wide = prepared
        levels, scales, large = self._split(codes)
        return np.asarray(digits.dot(levels) * scales + wide @ large.T, dtype=np.float32)

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors."""
        levels, scales, large = self._split(codes)
        norms = row_products(levels, levels) * scales.astype(np.float64) ** 2 + row_products(large, large)
        return np.asarray(norms, dtype=np.float32)
