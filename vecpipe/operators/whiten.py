"""Operators fitted from mean and covariance that keep the space: centring, standardising, whitening.

Row weights given to the fit enter the mean and the covariance; with word frequencies as weights this is Zipfian
whitening (Yokoi et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.errors import FitError, SpecError
from vecpipe.kernels import affine
from vecpipe.moments import Affine
from vecpipe.operators.base import Layout, Operator, State, check_matrix, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.linear import (
    hadamard_matrix,
    level_axes,
    principal_axes,
    random_rotation,
    rows_f32,
)
from vecpipe.operators.parameters import param


@register
@dataclass(eq=False)
class Center(Operator):
    """Subtract the (weighted) mean vector."""

    name = "center"
    family = "whiten"
    source = "Mu, Viswanath 2018 (for embeddings)"
    oracle = "sklearn.preprocessing.StandardScaler(with_std=False)"
    from_moments = True

    @property
    def moves_only(self) -> bool:
        """Distances stay as they are."""
        return True

    def fit(self, data: FitData) -> State:
        """Learn the mean, ``(d,) float64``."""
        return {"mean": data.mean}

    def layout(self, dim: int) -> Layout:
        """Return one mean vector."""
        return {"mean": (np.float64, (dim,))}

    def affine(self) -> Affine:
        """Return ``x - mean``."""
        return Affine(np.ones(self.dim), -self.state["mean"])

    def invert(self, Y: Float32) -> Float32:
        """Return ``y + mean``."""
        return np.asarray(Y + self.state["mean"].astype(np.float32))


@register
@dataclass(eq=False)
class Standardize(Operator):
    """Bring each dimension to mean 0 and (population) variance 1; a constant dimension becomes 0."""

    name = "standardize"
    family = "whiten"
    source = "textbook z-score; Ioffe, Szegedy 2015"
    oracle = "sklearn.preprocessing.StandardScaler"
    from_moments = True

    def fit(self, data: FitData) -> State:
        """Learn mean and deviation, each ``(d,) float64``."""
        mean, variance = data.moments.mean, np.diagonal(data.moments.covariance)
        constant = variance <= (1e-7 * mean) ** 2
        return {"mean": mean, "deviation": np.where(constant, 0.0, np.sqrt(np.maximum(variance, 0.0)))}

    def layout(self, dim: int) -> Layout:
        """Return mean and deviation."""
        return {"mean": (np.float64, (dim,)), "deviation": (np.float64, (dim,))}

    def affine(self) -> Affine:
        """Return ``(x - mean) / deviation``."""
        deviation = self.state["deviation"]
        scale = np.where(deviation > 0, 1.0 / np.where(deviation > 0, deviation, 1.0), 0.0)
        return Affine(scale, -self.state["mean"] * scale)

    def invert(self, Y: Float32) -> Float32:
        """Return ``y * deviation + mean``."""
        return affine(Y, self.state["deviation"], self.state["mean"])


@register
@dataclass(eq=False)
class Whiten(Operator):
    """Make the covariance the identity, wholly or in part.

    With mean m and covariance V diag(l) V^T: pca gives ``(x - m) V l^(-p/2)``, zca turns that back by ``V^T`` and so
    stays nearest to x, cholesky uses the factor of the inverse covariance, phi_s turns and scales all axes by one
    number so that every dimension has variance 1 while distances keep their proportions. ``power=auto`` takes p from
    the spectrum, without labels (see ``tempered_power``). Whitening often hurts retrieval on good encoders: a fit
    measures on the sample how many neighbours it keeps, and warns.
    """

    name = "whiten"
    family = "whiten"
    source = "Kessy, Lewin, Strimmer 2018; Ranzinger et al. 2024 (phi_s); Ledoit, Wolf 2004; Yokoi et al. 2024"
    oracle = "sklearn.decomposition.PCA(whiten=True); sklearn.covariance.ledoit_wolf; covariance = identity"

    kind: str = param("pca", doc="which whitening", choices=("pca", "zca", "cholesky", "phi_s"))
    shrink: float | str = param(
        0.0,
        doc="share of the mean variance mixed into the covariance, or ledoit_wolf",
        minimum=0.0,
        maximum=1.0,
        choices=("ledoit_wolf",),
    )
    power: float | str = param(
        1.0,
        doc="partial whitening: 0 only centres, 1 whitens, auto tempers by the spectrum",
        minimum=0.0,
        maximum=1.0,
        choices=("auto",),
    )
    remove: int = param(0, doc="how many top components to take out (all-but-the-top)", minimum=0)
    eps: float = param(1e-9, doc="directions with less than eps of the top variance vanish", minimum=0.0, maximum=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind in ("cholesky", "phi_s") and (self.power != 1.0 or self.remove):
            raise SpecError(f"whiten: power and remove apply to kind=pca and kind=zca, not to {self.kind}")

    def output_dim(self, dim: int) -> int:
        """Return dim, less what pca whitening removes."""
        check_matrix(self.name, dim, dim)
        if self.remove >= dim:
            raise SpecError(f"whiten: cannot remove {self.remove} components of vectors that have {dim}")
        return dim - self.remove if self.kind == "pca" else dim

    def fit(self, data: FitData) -> State:
        """Learn mean ``(d,)``, forward and backward matrix, and the spectrum ``(d,)``."""
        covariance = data.moments.covariance
        shrinkage = ledoit_wolf_shrinkage(data) if isinstance(self.shrink, str) else self.shrink
        dim = data.dim
        level = float(np.trace(covariance)) / dim
        covariance = (1.0 - shrinkage) * covariance + shrinkage * level * np.eye(dim)
        values, axes = principal_axes(covariance)
        if values[0] <= 0.0:
            raise FitError("whiten: the rows do not vary, there is nothing to whiten; are they all the same?")
        forward, backward = self._maps(covariance, values, axes)
        return {
            "mean": data.moments.mean,
            "forward": rows_f32(forward),
            "backward": rows_f32(backward),
            "spectrum": values,
            "shrinkage": np.array([shrinkage]),
        }

    def _maps(self, covariance: Float64, values: Float64, axes: Float64) -> tuple[Float64, Float64]:
        if self.kind == "cholesky":
            if values[-1] <= self.eps * values[0]:
                raise FitError(
                    "whiten: the covariance is singular, cholesky needs full rank; use shrink=ledoit_wolf, or kind=pca"
                )
            lower = np.linalg.cholesky(np.linalg.inv(covariance))
            return lower, np.linalg.inv(lower)
        if self.kind == "phi_s":
            spread = hadamard_matrix(len(values))
            turn = level_axes(covariance, axes @ random_rotation(len(values), 0)) if spread is None else axes @ spread.T
            scale = float(np.sqrt(values.mean()))
            return turn / scale, scale * turn.T
        live = values > self.eps * values[0]
        live[: self.remove] = False
        power = tempered_power(values[live]) if isinstance(self.power, str) else self.power
        root = np.where(live, values, 1.0) ** (power / 2)
        forward, backward = axes * (live / root), (axes * (live * root)).T
        if self.kind == "pca":
            return forward[:, self.remove :], backward[self.remove :]
        return forward @ axes.T, axes @ backward

    def layout(self, dim: int) -> Layout:
        """Return mean, both maps, spectrum and shrinkage."""
        k = self.output_dim(dim)
        return {
            "mean": (np.float64, (dim,)),
            "forward": (np.float32, (dim, k)),
            "backward": (np.float32, (k, dim)),
            "spectrum": (np.float64, (dim,)),
            "shrinkage": (np.float64, (1,)),
        }

    def affine(self) -> Affine:
        """Return ``(x - mean) @ forward``."""
        forward = self.state["forward"].astype(np.float64)
        return Affine(forward, -self.state["mean"] @ forward)

    def invert(self, Y: Float32) -> Float32:
        """Return ``y @ backward + mean``; removed directions stay at the mean."""
        return affine(Y, self.state["backward"], self.state["mean"])


def tempered_power(values: Float64) -> float:
    """Return how far to whiten a spectrum: the largest p in [0, 1] that leaves the strong directions half the variance.

    The strong directions are the first r, with r the participation ratio ``(sum l)^2 / sum l^2`` rounded up. p = 1
    gives every direction the same weight, those of noise too; the longer the tail beside the r strong ones, the
    smaller p. A rule of our own; that the exponent should follow from the spectrum is the point of Li et al. 2026
    (spectral tempering), whose rule is another.

    Parameters
    ----------
    values : (d,) eigenvalues, largest first, all positive
    """
    if len(values) == 0:
        return 1.0
    values = values / values[0]
    strong = int(np.ceil(values.sum() ** 2 / (values**2).sum()))

    def share(power: float) -> float:
        tempered = values ** (1.0 - power)
        return float(tempered[:strong].sum() / tempered.sum())

    if share(1.0) >= 0.5:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) >= 0.5 else (low, middle)
    return low


def ledoit_wolf_shrinkage(data: FitData) -> float:
    """Return the optimal share of the scaled identity in the covariance (Ledoit and Wolf 2004, Theorem 3.2)."""
    moments = data.full_moments
    assert moments.fourth is not None
    n, d = moments.weight, data.dim
    covariance = moments.covariance
    level = float(np.trace(covariance)) / d
    square = float((covariance * covariance).sum())
    distance = (square - d * level * level) / d
    if distance <= 0.0:
        return 0.0
    noise = (moments.fourth / n - square) / (d * n)
    return float(min(max(noise, 0.0), distance) / distance)
