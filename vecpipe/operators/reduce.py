"""Operators that return fewer dimensions: prefixes, principal components, projections that ignore the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.errors import CapabilityError, FitError, ModelFormatError
from vecpipe.kernels import affine
from vecpipe.moments import Affine
from vecpipe.operators.base import Layout, Operator, State, check_dim, check_matrix, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.fourier import cosine_basis, fourier_basis
from vecpipe.operators.linear import (
    hadamard_transform,
    power_of_two,
    principal_axes,
    random_generator,
    rows_f32,
)
from vecpipe.operators.parameters import param
from vecpipe.rules import MAX_DIM

_WAVES = {"dct": cosine_basis, "fft_complex": fourier_basis}
"""Kinds of projections that keep the lowest frequencies, and what gives their orthonormal columns."""


@register
@dataclass(eq=False)
class Truncate(Operator):
    """Keep the first k dimensions; meant for embeddings trained that way (Matryoshka)."""

    name = "truncate"
    family = "reduce"
    source = "Kusupati et al. 2022"
    oracle = "NumPy slice"
    stateless = True

    k: int = param(doc="dimensions kept", minimum=1, maximum=MAX_DIM)

    def output_dim(self, dim: int) -> int:
        """Return k."""
        return check_dim(self.name, self.k, dim)

    def affine(self) -> Affine:
        """Return the selection as a diagonal map of the first k dimensions."""
        return Affine(np.ones(self.k), np.zeros(self.k))

    def apply(self, X: Float32, *, stable: bool = False) -> Float32:
        """Return ``(n, k) float32``."""
        return np.ascontiguousarray(X[:, : self.k])

    def invert(self, Y: Float32) -> Float32:
        """Return the rows padded with zeros."""
        return np.pad(Y, ((0, 0), (0, self.dim - self.k)))


@register
@dataclass(eq=False)
class Select(Operator):
    """Keep the k dimensions that vary most, in their old order.

    ``by=moment`` takes the largest mean squares instead, which is what inner products of uncentred vectors are made of.
    """

    name = "select"
    family = "reduce"
    source = "textbook variance ranking"
    oracle = "numpy.argsort of numpy.var"

    k: int = param(doc="dimensions kept", minimum=1, maximum=MAX_DIM)
    by: str = param("variance", doc="what ranks a dimension", choices=("variance", "moment"))

    def output_dim(self, dim: int) -> int:
        """Return k."""
        return check_dim(self.name, self.k, dim)

    def fit(self, data: FitData) -> State:
        """Learn which dimensions to keep, ``(k,) int32``, ascending; of equals the first."""
        rank = np.diagonal(data.moments.covariance)
        if self.by == "moment":
            rank = rank + data.moments.mean**2
        return {"dims": np.sort(np.argsort(-rank, kind="stable")[: self.k]).astype(np.int32)}

    def layout(self, dim: int) -> Layout:
        """Return the dimensions kept."""
        return {"dims": (np.int32, (self.k,))}

    def prepare_state(self) -> None:
        """Check that the dimensions are there."""
        dims = self.state["dims"]
        if dims.min() < 0 or dims.max() >= self.dim or (np.diff(dims) <= 0).any():
            raise ModelFormatError("select: dimensions must be ascending and within the vector")

    def apply(self, X: Float32, *, stable: bool = False) -> Float32:
        """Return ``(n, k) float32``."""
        return np.ascontiguousarray(X[:, self.state["dims"]])

    def invert(self, Y: Float32) -> Float32:
        """Return the rows with zeros where a dimension was left out."""
        out = np.zeros((len(Y), self.dim), dtype=np.float32)
        out[:, self.state["dims"]] = Y
        return out


@register
@dataclass(eq=False)
class PCA(Operator):
    """Project on the k directions of largest variance.

    ``center=false`` takes the directions of largest second moment and subtracts nothing, so that inner products
    and cosines of the vectors themselves are what is preserved.
    """

    name = "pca"
    family = "reduce"
    source = "Pearson 1901; Hotelling 1933"
    oracle = "sklearn.decomposition.PCA; faiss.PCAMatrix"
    from_moments = True

    k: int = param(doc="components kept", minimum=1, maximum=MAX_DIM)
    whiten: bool = param(False, doc="scale each component to variance 1")
    center: bool = param(True, doc="subtract the mean first")

    @property
    def moves_only(self) -> bool:
        """Without whitening: distances in the kept subspace stay as they are."""
        return not self.whiten

    def output_dim(self, dim: int) -> int:
        """Return k."""
        check_matrix(self.name, dim, self.k)
        return check_dim(self.name, self.k, dim, "components")

    def fit(self, data: FitData) -> State:
        """Learn mean ``(d,)``, components ``(d, k)`` and the spectrum ``(d,)``."""
        moments = data.moments
        mean = moments.mean if self.center else np.zeros(data.dim)
        second = moments.covariance if self.center else moments.covariance + np.outer(moments.mean, moments.mean)
        values, axes = principal_axes(second)
        if self.whiten and values[0] <= 0.0:
            raise FitError("pca: the rows do not vary, there is nothing to whiten; are they all the same?")
        return {"mean": mean, "components": rows_f32(axes[:, : self.k]), "spectrum": values}

    def layout(self, dim: int) -> Layout:
        """Return mean, components and spectrum."""
        return {
            "mean": (np.float64, (dim,)),
            "components": (np.float32, (dim, self.k)),
            "spectrum": (np.float64, (dim,)),
        }

    def about(self) -> dict[str, Any]:
        """Return the share of the variance that is kept."""
        spectrum = self.state["spectrum"]
        total, kept = float(spectrum.sum()), float(spectrum[: self.k].sum())
        return {"variance_kept": round(kept / total, 6) if total > 0 else 1.0}

    def _scale(self) -> Float64:
        if not self.whiten:
            return np.ones(self.k)
        values = self.state["spectrum"][: self.k]
        live = values > 1e-12 * max(float(values[0]), 0.0)
        return np.asarray(np.where(live, 1.0 / np.sqrt(np.where(live, values, 1.0)), 0.0))

    def affine(self) -> Affine:
        """Return ``(x - mean) @ components``, scaled where whitening was asked for."""
        matrix = self.state["components"].astype(np.float64) * self._scale()
        return Affine(matrix, -self.state["mean"] @ matrix)

    def invert(self, Y: Float32) -> Float32:
        """Return the points of the kept subspace."""
        scale = self._scale()
        back = np.where(scale > 0, 1.0 / np.where(scale > 0, scale, 1.0), 0.0)[:, None] * self.state["components"].T
        return affine(Y, back, self.state["mean"])


@register
@dataclass(eq=False)
class Project(Operator):
    """Project without looking at the data; at random, distances are kept up to about 1/sqrt(k).

    gaussian, sparse (a third of the entries, Achlioptas) and very_sparse (1/sqrt(d) of them, Li) draw a matrix;
    hadamard flips signs, mixes by a Walsh-Hadamard transform and samples k outputs.

    The others take dimensions for a signal and keep its lowest frequencies. The order of an embedding's dimensions
    means nothing, so they are here as baselines to compare with, not as advice. dct keeps the first k coefficients of
    the orthonormal DCT-II. fft_complex keeps k numbers of the discrete Fourier transform: Re 0, Re 1, Im 1, Re 2, Im 2
    and so on, so that an odd k takes whole frequencies and an even k the last one's real part alone. Both are linear
    and keep inner products where k = d. fft keeps the amplitudes of the k lowest frequencies and throws phases away.
    """

    name = "project"
    family = "reduce"
    source = (
        "Johnson, Lindenstrauss 1984; Achlioptas 2003; Li, Hastie, Church 2006; Tropp 2011; "
        "Ahmed, Natarajan, Rao 1974 (dct); Bulgakov, Segal 2024 (fft)"
    )
    oracle = "sklearn.random_projection; numpy.fft.rfft; scipy.fft.dct"

    k: int = param(doc="dimensions of the result", minimum=1, maximum=MAX_DIM)
    kind: str = param(
        "gaussian",
        doc="which map",
        choices=("gaussian", "sparse", "very_sparse", "hadamard", "fft", "fft_complex", "dct"),
    )
    seed: int = param(0, doc="of the random matrix", minimum=0, maximum=2**31 - 1)

    @property
    def moves_only(self) -> bool:
        """For dct and fft_complex, whose columns are orthonormal: distances in the kept subspace stay as they are."""
        return self.kind in _WAVES

    def output_dim(self, dim: int) -> int:
        """Return k."""
        check_matrix(self.name, dim, self.k)
        if self.kind == "fft":
            return check_dim(self.name, self.k, dim // 2 + 1, "frequencies (there are d/2 + 1)")
        if self.kind == "hadamard":
            return check_dim(self.name, self.k, power_of_two(dim), "outputs")
        return check_dim(self.name, self.k, dim, "coefficients") if self.kind in _WAVES else self.k

    def rebuilt_elements(self, dim: int) -> int:
        """Return the elements of the matrix that is not in the state, the padding of the hadamard kind included."""
        if self.kind == "hadamard":
            return power_of_two(dim) * self.k
        return dim * self.k if self.kind in _WAVES else 0

    def fit(self, data: FitData) -> State:
        """Draw the matrix ``(d, k) float32``, or the signs ``(d,)`` and outputs ``(k,)`` of the hadamard kind."""
        d, rng = data.dim, random_generator(self.seed)
        if self.kind == "fft" or self.kind in _WAVES:
            return {}
        if self.kind == "hadamard":
            signs = rng.integers(0, 2, d, dtype=np.int8) * np.int8(2) - np.int8(1)
            outputs = np.sort(rng.permutation(power_of_two(d))[: self.k]).astype(np.int32)
            return {"signs": signs, "outputs": outputs}
        if self.kind == "gaussian":
            return {"matrix": rows_f32(rng.standard_normal((d, self.k)) / np.sqrt(self.k))}
        density = 1.0 / 3.0 if self.kind == "sparse" else 1.0 / np.sqrt(d)
        drawn = rng.random((d, self.k))
        entries = np.where(drawn < density / 2, -1.0, np.where(drawn < density, 1.0, 0.0))
        return {"matrix": rows_f32(entries / np.sqrt(density * self.k))}

    def layout(self, dim: int) -> Layout:
        """Return the matrix, or signs and outputs, or nothing for kinds of frequencies."""
        if self.kind == "fft" or self.kind in _WAVES:
            return {}
        if self.kind == "hadamard":
            return {"signs": (np.int8, (dim,)), "outputs": (np.int32, (self.k,))}
        return {"matrix": (np.float32, (dim, self.k))}

    def prepare_state(self) -> None:
        """Build the matrix of the kinds that do not hold it."""
        self._matrix: Float64 | None = None
        if self.kind in _WAVES:
            self._matrix = _WAVES[self.kind](self.dim, self.k)
        elif self.kind == "hadamard":
            outputs, width = self.state["outputs"], power_of_two(self.dim)
            if (
                outputs.min(initial=0) < 0
                or outputs.max(initial=0) >= width
                or (np.abs(self.state["signs"]) != 1).any()
            ):
                raise ModelFormatError("project: signs or outputs are out of range")
            check_matrix(self.name, width, self.k)
            picks = np.zeros((self.k, width))
            picks[np.arange(self.k), outputs] = 1.0
            mixed = hadamard_transform(picks)[:, : self.dim] * np.sqrt(width / self.k)
            self._matrix = np.ascontiguousarray((mixed * self.state["signs"]).T)
        elif self.kind != "fft":
            self._matrix = self.state["matrix"].astype(np.float64)

    def affine(self) -> Affine | None:
        """Return the matrix; fft is not linear."""
        return None if self._matrix is None else Affine(self._matrix, np.zeros(self.k))

    def apply(self, X: Float32, *, stable: bool = False) -> Float32:
        """Return ``(n, k) float32``."""
        if self.kind != "fft":
            return super().apply(X, stable=stable)
        spectrum = np.fft.rfft(X.astype(np.float64), axis=1)[:, : self.k]
        return rows_f32(np.abs(spectrum) / np.sqrt(self.dim))

    def invert(self, Y: Float32) -> Float32:
        """Return the pseudo-inverse of the projection, the transpose of orthonormal columns.

        Raises
        ------
        CapabilityError
            The kind is fft: the phases are lost.
        """
        if self._matrix is None:
            raise CapabilityError("project(kind=fft) keeps amplitudes only and cannot be undone")
        back = self._matrix.T if self.moves_only else np.linalg.pinv(self._matrix)
        return affine(Y, back, np.zeros(self.dim))
