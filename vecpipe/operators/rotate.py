"""Rotations: maps that keep every distance and spread the variance over the dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.errors import ModelFormatError
from vecpipe.kernels import affine
from vecpipe.moments import Affine
from vecpipe.operators.base import Layout, Operator, State, check_matrix, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.linear import random_rotation, rotate_by_signs, rotation_signs, rows_f32
from vecpipe.operators.parameters import param
from vecpipe.ordered import each

_ITQ_ROWS = 16_384
_ITQ_ROUNDS = 50
_ITQ_BLOCK = 2_048


@register
@dataclass(eq=False)
class Rotate(Operator):
    """Rotate so that every dimension carries a like share of the variance, or so that signs say most.

    random draws an orthogonal matrix uniformly. hadamard flips signs and mixes by Walsh-Hadamard transforms of the
    first and of the last power of two of dimensions, twice over: its model is 2 d bits instead of d^2 numbers.
    itq is fitted: it turns the sample so that its signs lie as near to it as can be, and is meant for
    ``center | pca(k) | rotate(kind=itq) | binary``.
    """

    name = "rotate"
    family = "rotate"
    source = "Mezzadri 2007; Ailon, Chazelle 2009; Gong, Lazebnik 2011 (itq)"
    oracle = "distances are kept; the matrix times its transpose is the identity"
    keeps_unit_length = True

    kind: str = param("random", doc="which rotation", choices=("random", "hadamard", "itq"))
    seed: int = param(0, doc="of the random choice", minimum=0, maximum=2**31 - 1)

    @property
    def moves_only(self) -> bool:
        """Distances stay as they are."""
        return True

    def output_dim(self, dim: int) -> int:
        """Return dim."""
        check_matrix(self.name, dim, dim)
        return dim

    def rebuilt_elements(self, dim: int) -> int:
        """Return d^2 for the hadamard kind."""
        return dim * dim if self.kind == "hadamard" else 0

    def fit(self, data: FitData) -> State:
        """Draw the matrix ``(d, d) float32``, or the signs ``(4, d) int8`` of the hadamard kind."""
        if self.kind == "random":
            return {"matrix": rows_f32(random_rotation(data.dim, self.seed))}
        if self.kind == "itq":
            return {"matrix": rows_f32(itq_rotation(data.rows[:_ITQ_ROWS], data.weights[:_ITQ_ROWS], self.seed))}
        return {"signs": rotation_signs(data.dim, self.seed)}

    def layout(self, dim: int) -> Layout:
        """Return the matrix or the signs."""
        if self.kind != "hadamard":
            return {"matrix": (np.float32, (dim, dim))}
        return {"signs": (np.int8, (4, dim))}

    def prepare_state(self) -> None:
        """Turn the signs into the matrix they stand for."""
        if self.kind != "hadamard":
            self._matrix = self.state["matrix"].astype(np.float64)
            return
        signs = self.state["signs"]
        if (np.abs(signs) != 1).any():
            raise ModelFormatError("rotate: signs must be 1 or -1")
        self._matrix = rotate_by_signs(np.eye(self.dim), signs).astype(np.float64)

    def affine(self) -> Affine:
        """Return the rotation matrix."""
        return Affine(self._matrix, np.zeros(self.dim))

    def invert(self, Y: Float32) -> Float32:
        """Rotate back."""
        return affine(Y, self._matrix.T, np.zeros(self.dim))


def itq_rotation(rows: Float32, weights: Float64, seed: int) -> Float64:
    """Return the ``(d, d)`` rotation R of least ``|sign(X R) - X R|^2`` (Gong, Lazebnik 2011), from a random start.

    Given the signs B the best rotation is that of Procrustes: U V^T of the singular value decomposition of ``X^T B``.
    """
    rotation = random_rotation(rows.shape[1], seed)
    pulled = np.ascontiguousarray((rows * (weights / weights.max())[:, None].astype(np.float32)).T)
    best = -np.inf

    def pull(start: int) -> Float32:
        """Return what ``X^T B`` is of some rows."""
        block = slice(start, start + _ITQ_BLOCK)
        signs = rows[block] @ narrow
        return np.asarray(pulled[:, block] @ np.copysign(np.float32(1), signs, out=signs))

    for _ in range(_ITQ_ROUNDS):
        narrow = rotation.astype(np.float32)
        parts = each(pull, range(0, len(rows), _ITQ_BLOCK))
        left, values, right = np.linalg.svd(np.sum(parts, axis=0, dtype=np.float64))
        rotation = left @ right
        if float(values.sum()) <= best * (1.0 + 1e-5):  # the sum of singular values is what the signs agree by
            break
        best = float(values.sum())
    return np.asarray(rotation)
