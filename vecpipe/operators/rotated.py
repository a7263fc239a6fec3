"""Codecs that rotate a vector at random and round its direction: RaBitQ, and Lloyd-Max levels (EDEN).

Both write a few bits a dimension, one factor that makes the inner product unbiased, and how well the rounded direction
points along the true one. They learn nothing from the data but its width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.errors import ModelFormatError, RowError
from vecpipe.kernels import affine, digit_sums, row_products, wide_squared_norms
from vecpipe.operators.base import Codec, Layout, State, check_matrix, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.kmeans import gaussian_levels
from vecpipe.operators.linear import WholeRotation, rotate_by_signs, rotation_signs
from vecpipe.operators.packing import pack, packed_bytes, stored_numbers, unpack_as
from vecpipe.operators.parameters import param
from vecpipe.query_products import DigitQuery

_ROWS = 256
_CELLS = 256
_LONGEST = 1e38
"""Length up to which float32 holds a vector however it is turned, and the factor of its code."""
_TAIL = 6
"""Bytes after the levels: the factor as float32, the cosine as 16 bits."""


class _Rotated(Codec):
    """A grid of levels on the rotated direction; ``x' = f R^T g`` with ``f = |x|^2 / <R x, g>``.

    ``<q, x'>`` then has the mean ``<q, x>`` over the rotations, and is exact for q = x.
    """

    knows_lengths = True

    bits: int
    seed: int

    def output_dim(self, dim: int) -> int:
        """Return dim."""
        check_matrix(self.name, dim, dim)
        return dim

    def rebuilt_elements(self, dim: int) -> int:
        """Return the size of the rotation matrix."""
        return dim * dim

    def code_bytes(self, dim: int) -> int:
        """Return the packed levels, 4 bytes for the factor and 2 for the cosine."""
        return packed_bytes(dim, self.bits) + _TAIL

    def fit(self, data: FitData) -> State:
        """Draw the signs of the rotation, ``(4, d) int8``."""
        return {"signs": rotation_signs(data.dim, self.seed)}

    def layout(self, dim: int) -> Layout:
        """Return the signs."""
        return {"signs": (np.int8, (4, dim))}

    def prepare_state(self) -> None:
        """Make the rotation's matrix for queries and for decoding, and the grid."""
        if (np.abs(self.state["signs"]) != 1).any():
            raise ModelFormatError(f"{self.name}: signs must be 1 or -1")
        self._matrix = rotate_by_signs(np.eye(self.dim), self.state["signs"]).astype(np.float64)
        self._rotation = WholeRotation(self.state["signs"])
        self._levels, self._shift = self._grid()
        self._values = (self._levels + self._shift).astype(np.float32)

    def _grid(self) -> tuple[npt.NDArray[np.int8], float]:
        """Return the levels as signed bytes ``(2**bits,)``, and what is added to each to give the grid's values."""
        raise NotImplementedError

    def _round(self, turned: Float32, grid: Float32) -> Bytes:
        """Return the number of the level for each entry of rotated rows ``(n, d)``; write the levels to ``grid``."""
        raise NotImplementedError

    def encode(self, X: Float32) -> Bytes:
        """Return levels, factor and cosine.

        Raises
        ------
        RowError
            A vector longer than 1e38.
        """
        out = np.empty((len(X), self.code_bytes(self.dim)), dtype=np.uint8)
        body = out.shape[1] - _TAIL
        turned = np.empty((min(len(X), _ROWS), self.dim), dtype=np.float32)
        grid = np.empty_like(turned)
        size = self._rotation.length
        for start in range(0, len(X), _ROWS):
            block = X[start : start + _ROWS]
            rows, t, g = out[start : start + _ROWS], turned[: len(block)], grid[: len(block)]
            length = _stretched(block, size, t)
            if length.max(initial=0.0) > _LONGEST:
                row = start + int(np.argmax(length > _LONGEST))
                raise RowError(self.name, row, f"is {length.max():.1e} long; expected {_LONGEST:.1e} at most")
            self._rotation(t)
            rows[:, :body] = pack(self._round(t, g), self.bits)
            along, square = (np.einsum("ij,ij->i", side, g).astype(np.float64) for side in (t, g))
            live = (along > 0) & (length > 0)
            safe = np.where(live, along, 1.0)
            factor = np.where(live, length * (size / safe), 0.0).astype("<f4")
            cosine = np.where(live, along / (size * np.sqrt(np.where(live, square, 1.0))), 0.0)
            rows[:, body : body + 4] = factor[:, None].view(np.uint8)
            rows[:, body + 4 :] = np.floor(np.minimum(cosine, 1.0) * 65535.0).astype("<u2")[:, None].view(np.uint8)
        return out

    def _body(self, codes: Bytes) -> npt.NDArray[np.int8]:
        """Return the levels as signed bytes, ``(n, d) int8``."""
        return unpack_as(self._levels, codes[:, :-_TAIL], self.dim, self.bits)

    def _tail(self, codes: Bytes) -> tuple[Float32, Float32]:
        """Return factors and cosines, each ``(n,) float32``."""
        return stored_numbers(codes[:, -_TAIL:-2], "<f4"), stored_numbers(codes[:, -2:], "<u2") / np.float32(65535)

    def decode(self, codes: Bytes) -> Float32:
        """Return ``f R^T g``, ``(n, d) float32``: unbiased, and longer than the vector by one over the cosine."""
        grid = self._values_of(codes) * self._tail(codes)[0][:, None]
        return affine(grid, self._matrix.T, np.zeros(self.dim))

    def prepare(self, Q: Float32) -> Any:
        """Return the rotated queries as integer digits, what the shift of the levels adds, and their lengths."""
        turned = Q.astype(np.float64) @ self._matrix
        return DigitQuery(turned), turned.sum(axis=1) * self._shift, np.sqrt((turned * turned).sum(axis=1))

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return unbiased inner products, ``(m, n) float32``."""
        digits, shift, _ = prepared
        return np.asarray((digits.dot(self._body(codes)) + shift[:, None]) * self._tail(codes)[0], dtype=np.float32)

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the vectors that were encoded, which the code knows: ``(f |g| cos)^2``."""
        with np.errstate(over="ignore", under="ignore"):
            return self.wide_squared_norms(codes).astype(np.float32)

    def wide_squared_norms(self, codes: Bytes) -> Float64:
        """Return ``(n,)`` squared norms of any size."""
        return self._lengths_of(self._grid_squares(codes), codes)

    def error_shares(self, codes: Bytes) -> Float64:
        """Return ``(1 - cos^2) / cos^2``."""
        squares = np.maximum(self._tail(codes)[1].astype(np.float64) ** 2, 1e-9)
        return np.asarray((1.0 - squares) / squares)

    def _values_of(self, codes: Bytes) -> Float32:
        """Return the levels as the grid has them, ``(n, d) float32``."""
        return np.asarray(self._body(codes).astype(np.float32) + np.float32(self._shift))

    def _lengths_of(self, squares: Float32 | Float64, codes: Bytes) -> Float64:
        """Return the squared norms that go with the squared lengths of the levels."""
        factor, cosine = self._tail(codes)
        return np.asarray(squares * (factor.astype(np.float64) * cosine) ** 2)

    def _grid_squares(self, codes: Bytes) -> Float64:
        """Return ``(n,)`` squared lengths ``|g|^2``: known beforehand where all levels have the same size."""
        sizes = np.abs(self._levels + self._shift)
        if sizes.min() == sizes.max():
            return np.full(len(codes), self.dim * float(sizes[0]) ** 2)
        body = self._body(codes)
        squares = row_products(body, body)
        if self._shift:
            squares = squares + 2.0 * self._shift * digit_sums(body) + self.dim * self._shift**2
        return squares

    def pair_products(self, a: Bytes, b: Bytes) -> tuple[Float64, Float64, Float64]:
        """Return inner products, and the squared lengths that the codes know, which decoding overstates.

        A rotation keeps products: those of the levels will do, and nothing is rotated back.
        """
        products, left, right = np.empty(len(a)), np.empty(len(a)), np.empty(len(a))
        for start in range(0, len(a), _ROWS):
            rows = slice(start, start + _ROWS)
            one, two = self._values_of(a[rows]), self._values_of(b[rows])
            products[rows] = np.einsum("ij,ij->i", one, two)
            left[rows] = self._lengths_of(np.einsum("ij,ij->i", one, one), a[rows])
            right[rows] = self._lengths_of(np.einsum("ij,ij->i", two, two), b[rows])
        products *= self._tail(a)[0].astype(np.float64)
        products *= self._tail(b)[0]
        return products, left, right

    def pair_distances(self, a: Bytes, b: Bytes) -> Float64:
        """Return ``(n,)`` distances from the products and the lengths that the codes know."""
        products, left, right = self.pair_products(a, b)
        return np.asarray(np.sqrt(np.maximum(left + right - 2.0 * products, 0.0)))

    def error_bound(self, prepared: Any, codes: Bytes, deviations: float = 1.9) -> Float32:
        """Return by how much a score misses the true inner product, at most, ``(m, n) float32``.

        ``|q| |x| sqrt((1 - c^2) / c^2) e / sqrt(d - 1)`` with c the cosine of the rounded and the true direction and e
        the deviations allowed: 1.9 holds for all but about one score in twenty, 4 practically always (RaBitQ, theorem
        3.2, where e is epsilon_0).
        """
        _, cosine = self._tail(codes)
        safe = np.maximum(cosine.astype(np.float64), 1e-9)
        spread = np.sqrt(np.maximum(1.0 - safe * safe, 0.0)) / safe * np.sqrt(self.wide_squared_norms(codes))
        allowed = deviations / math.sqrt(max(self.dim - 1, 1))
        return np.asarray(np.outer(prepared[2], spread) * allowed, dtype=np.float32)


@register
@dataclass(eq=False)
class RaBitQ(_Rotated):
    """Round a randomly rotated vector to a grid of 1 to 8 bits a dimension, with an unbiased inner product.

    With R the rotation, the grid's values are ``c - (2^b - 1) / 2`` for c = 0 .. 2^b - 1; each vector is scaled so that
    its rounding points as nearly along it as a search over scales finds. ``<q, x>`` is estimated by
    ``|x|^2 <R q, g> / <R x, g>``, and ``error_bound`` says how far off it may be. Put ``center`` before it.
    """

    name = "rabitq"
    source = "Gao, Long 2024 (RaBitQ); Gao et al. 2025 (more than one bit)"
    oracle = "unbiased over seeds; the error bound of the paper; recall of FAISS at no more bytes"

    bits: int = param(1, doc="bits a dimension", minimum=1, maximum=8)
    seed: int = param(0, doc="of the rotation", minimum=0, maximum=2**31 - 1)

    def _grid(self) -> tuple[npt.NDArray[np.int8], float]:
        return np.arange(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1)).astype(np.int8), 0.5

    def _round(self, turned: Float32, grid: Float32) -> Bytes:
        half = np.float32(2 ** (self.bits - 1))
        if self.bits == 1:
            fields = np.asarray(turned >= 0).view(np.uint8)
            np.subtract(fields, np.float32(0.5), out=grid)
            return fields
        # The best scale for a Gaussian direction, and steps to both sides of it: the vector's own is among them.
        typical = math.sqrt(self.dim) / _GAUSSIAN_STEP[self.bits] / self._rotation.length
        size = np.abs(turned)
        best, chosen = np.zeros(len(turned), np.float32), np.ones((len(turned), 1), dtype=np.float32)
        for factor in _SCALES:
            scale = np.float32(typical * factor)
            np.multiply(size, scale, out=grid)
            np.floor(grid, out=grid)
            np.minimum(grid, half - 1, out=grid)
            grid += np.float32(0.5)
            cosine = np.einsum("ij,ij->i", grid, size) / np.sqrt(np.einsum("ij,ij->i", grid, grid))
            better = cosine > best
            best[better], chosen[better] = cosine[better], scale
        np.multiply(turned, chosen, out=grid)
        np.clip(grid, -half, half - 1, out=grid)
        np.floor(grid, out=grid)
        fields = (grid + half).astype(np.uint8)
        grid += np.float32(0.5)
        return fields


_GAUSSIAN_STEP = {2: 0.9957, 3: 0.5860, 4: 0.3352, 5: 0.1881, 6: 0.1041, 7: 0.0569, 8: 0.0308}
"""Step of the uniform quantiser of least error for a unit Gaussian (Max 1960)."""
_SCALES = (0.92, 1.0, 1.08)


@register
@dataclass(eq=False)
class Eden(_Rotated):
    """Round a randomly rotated vector to the Lloyd-Max levels of a Gaussian, with an unbiased inner product.

    After the rotation R the entries of a direction are nearly Gaussian, whatever the data: the levels of least error
    are known beforehand, and nothing is fitted. ``<q, x>`` is estimated by ``|x|^2 <R q, g> / <R x, g>``.
    """

    name = "eden"
    source = "Vargaftik et al. 2022 (EDEN); Lloyd 1982; Zandieh et al. 2025 (TurboQuant)"
    oracle = "unbiased over seeds; the distortion of Lloyd-Max; recall of FAISS at no more bytes"

    bits: int = param(4, doc="bits a dimension", minimum=1, maximum=5)
    seed: int = param(0, doc="of the rotation", minimum=0, maximum=2**31 - 1)

    def _grid(self) -> tuple[npt.NDArray[np.int8], float]:
        levels = gaussian_levels(self.bits)
        self._unit = float(levels[-1]) / 127.0
        whole = np.rint(levels / self._unit)
        # Halves between whole levels: each cell of width 1/2 belongs to one level.
        cells = np.arange(-_CELLS, _CELLS) / 2
        self._field_of_cell = np.searchsorted((whole[1:] + whole[:-1]) / 2, cells, side="right").astype(np.uint8)
        return whole.astype(np.int8), 0.0

    def _round(self, turned: Float32, grid: Float32) -> Bytes:
        np.multiply(turned, np.float32(2.0 * math.sqrt(self.dim) / self._unit / self._rotation.length), out=grid)
        np.clip(grid, -_CELLS, _CELLS - 1, out=grid)
        grid += np.float32(_CELLS)
        fields = self._field_of_cell.take(grid.astype(np.uint16))
        self._values.take(fields, out=grid, mode="clip")
        return fields


def _stretched(X: Float32, length: float, out: Float32) -> Float64:
    """Write rows ``(n, d)`` of that length to ``out`` and return the lengths they had, ``(n,) float64``."""
    squares, far = wide_squared_norms(X)
    lengths = np.sqrt(squares)
    rates = length / np.where(lengths > 0, lengths, 1.0)
    np.multiply(X, rates.astype(np.float32)[:, None], out=out)
    if far.size:
        out[far] = X[far].astype(np.float64) * rates[far, None]
    return np.asarray(lengths)
