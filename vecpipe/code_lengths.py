"""Squared lengths of what codes stand for, and which of them can be told from zero.

Steps before a codec that move and turn the vectors belong to the code, so that a length is measured from a centre: of
vectors near the origin it is a small difference of large numbers. What cosines are is decided in ``scoring``.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from vecpipe import kernels
from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.errors import InputError
from vecpipe.moments import Affine
from vecpipe.operators import Codec

CLOSE = 2.0**-6
"""Share of two squared lengths below which their difference has lost too many digits of float32."""
_ALIKE = 1e-5
"""By how much squared lengths of the same code may differ."""
_DECODED, _DIGITS = 2.0**-26, 2.0**-13
"""Rounding of squared lengths, as a share of what they are differences of: of decoded vectors, and of codes."""


class CodeLengths:
    """Lengths of codes that are turned and lie around a centre.

    Parameters
    ----------
    codec
        The codec, bound.
    turn
        The steps that turn and move the vectors before it; None without any.
    centre : (1, k) float32
        What they move to the origin; None where that is the origin.
    never_zero
        No code is that of a zero vector: rows were brought to length one before.
    """

    def __init__(self, codec: Codec, turn: Affine | None, centre: Float32 | None, *, never_zero: bool = False) -> None:
        self._codec = codec
        self._never_zero = never_zero
        self._turn = turn
        self._centre = centre
        self.centre_square = 0.0
        if centre is not None and turn is not None:
            self._turned_centre = kernels.affine(centre, turn.matrix, np.zeros(codec.dim))
            self._whole = self._turned_centre.shape == centre.shape
            self.centre_square = float(kernels.row_products(centre, centre)[0])

    @cached_property
    def _centre_prepared(self) -> tuple[Any, float]:
        """The turned centre's direction as the codec prepares it, and its length."""
        unit, length = kernels.unit_rows(self._turned_centre)
        return self._codec.prepare(unit), float(length[0])

    def along_centre(self, codes: Bytes) -> Float64:
        """Return products ``(n,)`` of the centre with the codes."""
        prepared, length = self._centre_prepared
        return np.asarray(self._codec.score(prepared, codes)[0].astype(np.float64) * length)

    def squares(self, codes: Bytes) -> Float64:
        """Return ``(n,)`` squared lengths of the vectors that codes stand for in the space that scores speak of."""
        along = None if self._centre is None else self.along_centre(codes)
        return np.maximum(self._signed(self._codec.wide_squared_norms(codes), codes, along), 0.0)

    def _signed(self, norms: Float64, codes: Bytes, along: Float64 | None) -> Float64:
        """Return squared lengths ``(n,)``, those that a codec estimates perhaps negative.

        Parameters
        ----------
        norms, along
            Squared lengths of the codes, and their products with the centre where there is one.
        """
        if along is None or self._centre is None:
            return norms
        size = norms + self.centre_square
        squares = size + 2.0 * along
        if not self._codec.knows_lengths:
            # Far from the centre and near the origin: a length that is a small difference of large numbers.
            unsure = np.flatnonzero(squares < CLOSE * size)
            if unsure.size:
                squares[unsure] = self._decoded_squares(codes[unsure])
        return np.asarray(squares)

    def _decoded_squares(self, codes: Bytes) -> Float64:
        along = self._turned_centre.astype(np.float64)
        wide = self._codec.decode(codes).astype(np.float64) + along
        beside = 0.0 if self._whole else max(self.centre_square - float((along * along).sum()), 0.0)
        return np.asarray(np.einsum("ij,ij->i", wide, wide) + beside)

    @cached_property
    def _zero(self) -> float:
        """Squared length up to which what is decoded cannot be told from zero: what a zero vector decodes to."""
        if self._codec.direction_only or self._never_zero:
            return self._codec.noise
        origin = np.zeros((1, self._codec.dim), np.float32)
        if self._turn is not None:
            origin += self._turn.offset.astype(np.float32)
        try:
            code = self._codec.encode(origin)
        except InputError:  # no zero vector has a code
            return self._codec.noise
        along = None if self._centre is None else self.along_centre(code)
        ways = (self._codec.wide_squared_norms(code), self._codec.pair_products(code, code)[1])
        largest = max(float(self._signed(norms, code, along)[0]) for norms in ways)
        return max(self._codec.noise, largest * (1.0 + _ALIKE))

    def divisors(self, norms: Float64, codes: Bytes, along: Float64 | None) -> Float64:
        """Return the squared lengths ``(n,)`` that make cosines of products; 0 where there is no telling from zero.

        Parameters
        ----------
        norms, along
            As in ``_signed``.
        """
        squares = self._signed(norms, codes, along)
        if along is None or self._centre is None:
            return np.where(squares > self._zero, squares, 0.0)
        size = norms + self.centre_square
        if not self._codec.knows_lengths:
            return np.where(squares > self._zero + _DECODED * size, squares, 0.0)
        # What the code does not know of the vector lies at right angles to what it knows: a vector no longer than
        # that has hardly a direction, and its cosines are to be small.
        errors = self._codec.error_shares(codes) * norms
        return np.where(np.abs(squares) > self._zero + _DIGITS * size, np.maximum(squares, errors), 0.0)
