"""OSQ: whole bits for each principal axis, cells from Lloyd's rounds, packed without gaps; codes that bound distances.

What it shares with ``transform_code`` is the fit (axes, training rows, Gaussian bits to start from). What differs: an
axis has cells of its own instead of a share in a byte's words, so that a code says between which edges each coordinate
lies, and no distance can be less than that to the nearest corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vecpipe import kernels
from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.errors import ModelFormatError
from vecpipe.operators.base import Codec, Layout, State, check_matrix, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.kmeans import MAX_BITS, allocate_bits, gaussian_levels, lloyd_levels
from vecpipe.operators.linear import keeps_lengths, principal_axes
from vecpipe.operators.parameters import param

_ROWS = 512
_ROUNDS = 20
_TRAINING_ROWS = 16_384
_PRIOR = 0.25


@register
@dataclass(eq=False)
class OSQ(Codec):
    """Give each principal axis whole bits by its variance and learnt cells: codes that also bound distances from below.

    Principal axes, whole bits given one at a time to the axis whose error falls most, Lloyd's levels on each axis from
    at most 16,384 rows of the sample, fields packed across bytes. A zero vector has no code. ``transform_code`` finds
    more neighbours with the same bytes.
    """

    name = "osq"
    source = "Oakley, Ferhatosmanoglu 2025 (SQUASH); Ferhatosmanoglu et al. 2000 (VA+-file); Lloyd 1982"
    oracle = "no bound is above the exact distance; the nearest level of each axis"
    direction_only = True

    bytes: int = param(doc="bytes of a code", minimum=1, maximum=65_536)

    def output_dim(self, dim: int) -> int:
        """Return dim: the width of the vectors that codes stand for."""
        check_matrix(self.name, dim, dim)
        return dim

    def code_bytes(self, dim: int) -> int:
        """Return the bytes asked for."""
        return self.bytes

    # The fit ---------------------------------------------------------------------------------------------

    def fit(self, data: FitData) -> State:
        """Learn axes, bits and levels; arrays as in ``layout``."""
        mean = data.moments.mean
        values, vectors = principal_axes(data.moments.covariance)
        values = np.maximum(values, 0.0)
        bits = allocate_bits(values, 8 * self.bytes)
        live = np.flatnonzero(bits)
        axes = np.ascontiguousarray(vectors[:, live])
        rows, share = data.training_rows(_TRAINING_ROWS)
        points = (rows.astype(np.float64) - mean) @ axes
        levels = [
            lloyd_levels(
                points[:, at], share, gaussian_levels(int(bits[axis])) * np.sqrt(values[axis]), _ROUNDS, _PRIOR
            )
            for at, axis in enumerate(live)
        ]
        return {
            "mean": mean.astype(np.float32),
            "axes": axes.astype(np.float32),
            "bits": bits[live].astype(np.int32),
            "levels": np.concatenate(levels).astype(np.float32),
        }

    def layout(self, dim: int) -> Layout:
        """Return mean, coded axes, bits of each, and the levels of one axis after the other."""
        return {
            "mean": (np.float32, (dim,)),
            "axes": (np.float32, (dim, -1)),
            "bits": (np.int32, (-1,)),
            "levels": (np.float32, (-1,)),
        }

    def prepare_state(self) -> None:
        """Check that the arrays agree, and lay out where each bit of a code belongs."""
        axes, bits, levels = (self.state[name] for name in ("axes", "bits", "levels"))
        whole = bits.astype(np.int64)
        if not (
            1 <= len(whole) <= self.dim
            and axes.shape[1] == len(whole)
            and ((whole >= 1) & (whole <= MAX_BITS)).all()
            and whole.sum() <= 8 * self.bytes
            and (1 << whole).sum() == len(levels)
        ):
            raise ModelFormatError("osq: the arrays do not belong together")
        self._axes = axes.astype(np.float64)
        self._offset = -(self.state["mean"].astype(np.float64) @ self._axes)
        ends = np.cumsum(1 << whole)
        self._starts = ends - (1 << whole)
        cells = [levels[start:end] for start, end in zip(self._starts, ends, strict=True)]
        if any((np.diff(cell) < 0).any() for cell in cells):
            raise ModelFormatError("osq: levels are not in order")
        edges = [(cell[1:] + cell[:-1]) / np.float32(2) for cell in cells]
        open_ended = np.array([np.inf], np.float32)
        self._low = np.concatenate([part for axis in edges for part in (-open_ended, axis)])
        self._high = np.concatenate([part for axis in edges for part in (axis, open_ended)])
        groups = [(int(size), np.flatnonzero(whole == size)) for size in np.unique(whole)]
        self._bisections = [(size, axes, self._starts[axes]) for size, axes in groups]
        first = np.cumsum(whole) - whole
        self._axis_of_bit = np.repeat(np.arange(len(whole)), whole)
        inside = np.arange(int(whole.sum())) - np.repeat(first, whole)
        self._shift_of_bit = (np.repeat(whole, whole) - 1 - inside).astype(np.uint8)
        # A field lies in two neighbouring bytes at most: read both as one number, shift and mask.
        self._byte = first // 8
        self._shift = (16 - first % 8 - whole).astype(np.uint16)
        self._mask = ((1 << whole) - 1).astype(np.uint16)

    # Rows ------------------------------------------------------------------------------------------------

    def encode(self, X: Float32) -> Bytes:
        """Return ``(n, bytes) uint8``."""
        codes = np.zeros((len(X), self.bytes), dtype=np.uint8)
        for start in range(0, len(X), _ROWS):
            z = kernels.affine(X[start : start + _ROWS], self._axes, self._offset, stable=True)
            spread = self._fields(z).take(self._axis_of_bit, axis=1, mode="clip")
            spread >>= self._shift_of_bit
            spread &= np.uint8(1)
            packed = np.packbits(spread, axis=1)
            codes[start : start + _ROWS, : packed.shape[1]] = packed
        return codes

    def _fields(self, z: Float32) -> Bytes:
        """Return how many edges of its axis lie below each coordinate, by bisection: bits from the highest down."""
        fields = np.empty(z.shape, dtype=np.uint8)
        for bits, axes, starts in self._bisections:
            values = z.take(axes, axis=1, mode="clip")
            place = np.repeat(starts[None], len(z), axis=0)
            for bit in range(bits - 1, -1, -1):
                above = values > self._high.take(place + ((1 << bit) - 1), mode="clip")
                place += above.astype(np.int64) << bit
            fields[:, axes] = place - starts
        return fields

    def _cells(self, codes: Bytes) -> npt.NDArray[np.int64]:
        """Return the place of each coordinate's level in the list of all, ``(n, k)``."""
        padded = np.zeros((len(codes), codes.shape[1] + 1), dtype=np.uint16)
        padded[:, :-1] = codes
        pairs = (padded[:, :-1] << np.uint16(8)) | padded[:, 1:]
        fields = (pairs.take(self._byte, axis=1) >> self._shift) & self._mask
        return np.asarray(fields + self._starts)

    def decode(self, codes: Bytes) -> Float32:
        """Return ``(n, d) float32``."""
        out = np.empty((len(codes), self.dim), dtype=np.float32)
        for start in range(0, len(codes), _ROWS):
            near = self.state["levels"].take(self._cells(codes[start : start + _ROWS]))
            out[start : start + _ROWS] = near @ self.state["axes"].T + self.state["mean"]
        return out

    # Queries ---------------------------------------------------------------------------------------------

    def prepare(self, Q: Float32) -> tuple[Float32, Float32]:
        """Return ``(m, d)`` queries on the coded axes, and their products with the mean."""
        wide = Q.astype(np.float64)
        turned = wide @ self._axes
        return turned.astype(np.float32), (wide @ self.state["mean"].astype(np.float64)).astype(np.float32)

    def score(self, prepared: tuple[Float32, Float32], codes: Bytes) -> Float32:
        """Return inner products ``(m, n) float32``."""
        turned, offset = prepared
        scores = np.empty((len(turned), len(codes)), dtype=np.float32)
        for start in range(0, len(codes), _ROWS):
            near = self.state["levels"].take(self._cells(codes[start : start + _ROWS]))
            scores[:, start : start + _ROWS] = kernels.inner_products(turned, near)
        scores += offset[:, None]
        return scores

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors: the axes are at right angles, so levels add up."""
        if self._squares is None:
            return super().squared_norms(codes)
        ones = np.ones(len(self._starts), dtype=np.float32)
        norms = np.empty(len(codes), dtype=np.float32)
        for start in range(0, len(codes), _ROWS):
            norms[start : start + _ROWS] = self._squares.take(self._cells(codes[start : start + _ROWS])) @ ones
        mean = self.state["mean"].astype(np.float64)
        return np.asarray(np.maximum(norms + np.float32(mean @ mean), np.float32(0)))

    @cached_property
    def _squares(self) -> Float32 | None:
        """What each level adds to a squared norm; None where the axes are not at right angles."""
        axes = self.state["axes"].T.astype(np.float64)
        if not keeps_lengths(axes):
            return None
        along = np.repeat(axes @ self.state["mean"].astype(np.float64), 1 << self.state["bits"].astype(np.int64))
        levels = self.state["levels"].astype(np.float64)
        return np.asarray(levels * (levels + 2.0 * along), dtype=np.float32)

    def distance_bounds(self, Q: Float32, codes: Bytes) -> Float64:
        """Return ``(m, n)`` distances that no encoded vector can be nearer than: those to the edges of its cells.

        A row whose bound is above the k-th best exact distance found so far need not be looked at.
        """
        turned = (Q.astype(np.float64) - self.state["mean"]) @ self._axes
        bounds = np.empty((len(Q), len(codes)))
        for start in range(0, len(codes), _ROWS):
            cells = self._cells(codes[start : start + _ROWS])
            low, high = self._low.take(cells), self._high.take(cells)
            for query, q in enumerate(turned):
                gap = np.maximum(np.maximum(low - q, q - high), 0.0)
                bounds[query, start : start + _ROWS] = np.sqrt((gap * gap).sum(axis=1))
        return bounds
