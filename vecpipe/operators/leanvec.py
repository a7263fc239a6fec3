"""Projections that know what will be asked: rows and queries each get a map of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.kernels import affine
from vecpipe.moments import Affine, Moments
from vecpipe.operators.base import Layout, Operator, State, check_dim, check_matrix, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.linear import principal_axes, rows_f32
from vecpipe.operators.parameters import param
from vecpipe.rules import MAX_DIM

_FLOOR = 1e-10
_SHARES = 21
_STEPS = 500
_CHANGE = 1e-3
_SIZE = 0.999
_STILL = 1e-12
"""Size of a gradient, as a share of what it is a difference of, below which rounding gives it its direction."""


@register
@dataclass(eq=False)
class LeanVec(Operator):
    """Project rows and queries to k dimensions so that their inner products change least.

    Rows become ``B^T x`` and queries ``A^T q``. With K_x and K_q the second moments of rows and of sample queries and
    W the root of K_q, sphering takes P, the top k eigenvectors of ``W K_x W``, and ``A = W^-1 P``, ``B = W P``: no maps
    of rank k lose less of ``<q, x>`` on average. pca takes the top eigenvectors of K_x for both sides (nothing is
    subtracted), eig those of a mix of K_q and K_x whose share is searched. fw descends from the maps of pca by block
    Frank-Wolfe steps among maps of operator norm at most 1, 500 at most, and keeps the best it met: it loses more than
    sphering and is slower, but its maps lengthen nothing. auto is sphering where queries were given, else pca. Without
    queries the rows stand in for them. Score by inner product: after sphering and fw lengths and distances of projected
    rows are not those of the rows.
    """

    name = "leanvec"
    family = "reduce"
    source = "Tepper et al. 2024 (LeanVec); Tepper, Willke 2024 (GleanVec: sphering)"
    oracle = "singular values of K_q^1/2 K_x^1/2 beyond the k-th; PCA of the uncentred rows"

    k: int = param(doc="dimensions kept", minimum=1, maximum=MAX_DIM)
    mode: str = param("auto", doc="how the maps are found", choices=("auto", "pca", "sphering", "eig", "fw"))
    shrink: float | None = param(
        None, doc="share of the rows in K_q; by default d / (d + queries)", minimum=0.0, maximum=1.0
    )

    def output_dim(self, dim: int) -> int:
        """Return k."""
        check_matrix(self.name, dim, self.k)
        return check_dim(self.name, self.k, dim)

    def fit(self, data: FitData) -> State:
        """Learn ``forward`` and ``asking``, the maps of rows and of queries, ``(d, k) float32``, and the spectrum."""
        rows = _second_moment(data.moments)
        mode = self.mode if self.mode != "auto" else ("pca" if data.queries is None else "sphering")
        if mode == "pca":
            values, axes = principal_axes(rows)
            forward = asking = axes[:, : self.k]
        else:
            asked = rows if data.queries is None else self._shrunk(data.queries, rows)
            values, forward, asking = _MAPS[mode](asked, rows, self.k)
        return {"forward": rows_f32(forward), "asking": rows_f32(asking), "spectrum": values}

    def _shrunk(self, queries: FitData, rows: Float64) -> Float64:
        """Return K_q with some of K_x mixed in: few queries do not span the space they come from."""
        asked = _second_moment(queries.moments)
        share = queries.dim / (queries.dim + queries.count) if self.shrink is None else self.shrink
        size, own = float(np.trace(rows)), float(np.trace(asked))
        if own <= 0.0:
            return rows
        return np.asarray((1.0 - share) * asked / own + (share * rows / size if size > 0.0 else 0.0))

    def layout(self, dim: int) -> Layout:
        """Return both maps and the spectrum."""
        shape = (dim, self.k)
        return {"forward": (np.float32, shape), "asking": (np.float32, shape), "spectrum": (np.float64, (dim,))}

    def affine(self) -> Affine:
        """Return ``x @ B``."""
        return Affine(self.state["forward"].astype(np.float64), np.zeros(self.k))

    def query_affine(self) -> Affine:
        """Return ``q @ A``."""
        return Affine(self.state["asking"].astype(np.float64), np.zeros(self.k))

    def apply_query(self, Q: Float32) -> Float32:
        """Return ``(m, k) float32``."""
        return affine(Q, self.state["asking"], np.zeros(self.k))

    def invert(self, Y: Float32) -> Float32:
        """Return ``y A^T``: its inner products with queries are the scores."""
        return affine(Y, self.state["asking"].T, np.zeros(self.dim))


def _second_moment(moments: Moments) -> Float64:
    return np.asarray(moments.covariance + np.outer(moments.mean, moments.mean))


def _sphering(asked: Float64, rows: Float64, k: int) -> tuple[Float64, Float64, Float64]:
    """Return the spectrum of ``W K_x W`` and the maps ``W P`` and ``W^-1 P``."""
    values, axes = principal_axes(asked)
    values = np.maximum(values, _FLOOR * max(float(values[0]), 1e-300))
    root, inverse = (axes * np.sqrt(values)) @ axes.T, (axes / np.sqrt(values)) @ axes.T
    spectrum, turned = principal_axes(root @ rows @ root)
    # One number may move from one map to the other; this one leaves the rows' lengths as they were on average.
    forward = root @ turned[:, :k]
    size = float(np.trace(forward.T @ rows @ forward)) / max(float(np.trace(rows)), 1e-300)
    scale = 1.0 / np.sqrt(size) if size > 0 else 1.0
    return spectrum, forward * scale, inverse @ turned[:, :k] / scale


def _mixed(asked: Float64, rows: Float64, k: int) -> tuple[Float64, Float64, Float64]:
    """Return spectrum and axes, twice, of the mix of both moments that loses least of the inner products."""
    asked, size = asked / max(float(np.trace(asked)), 1e-300), max(float(np.trace(rows)), 1e-300)
    best, found = np.inf, principal_axes(rows)
    for share in np.linspace(0.0, 1.0, _SHARES):
        values, axes = principal_axes((1.0 - share) * asked + share * rows / size)
        loss = _loss(asked, rows, axes[:, :k], axes[:, :k])
        if loss < best:
            best, found = loss, (values, axes)
    return found[0], found[1][:, :k], found[1][:, :k]


def _descended(asked: Float64, rows: Float64, k: int) -> tuple[Float64, Float64, Float64]:
    """Return the spectrum of the rows and the maps that block Frank-Wolfe descent finds."""
    values, axes = principal_axes(rows)
    asked, rows = (moment / max(float(np.trace(moment)), 1e-300) for moment in (asked, rows))
    forward = asking = axes[:, :k]
    best = loss = _loss(asked, rows, forward, asking)
    found = forward, asking
    for step in range(1, _STEPS + 1):
        share = (step + 1.0) ** -_SIZE
        forward = _stepped(forward, rows, asked, asking, share)
        asking = _stepped(asking, asked, rows, forward, share)
        before, loss = loss, _loss(asked, rows, forward, asking)
        if loss < best:
            best, found = loss, (forward, asking)
        if abs(before - loss) <= _CHANGE * before:
            break
    return values, *found


def _stepped(side: Float64, own: Float64, across: Float64, other: Float64, share: float) -> Float64:
    """Return one map, a share of the way to the map of norm 1 along which the loss falls fastest.

    Where it does not fall at all (the rows' map of pca is the best for the queries' map of pca) the map stays.
    """
    given, wanted = own @ side @ (other.T @ across @ other), own @ (across @ other)
    slope = wanted - given
    if np.linalg.norm(slope) <= _STILL * np.linalg.norm(wanted):
        return side
    left, _, right = np.linalg.svd(slope, full_matrices=False)
    return np.asarray((1.0 - share) * side + share * (left @ right))


def _loss(asked: Float64, rows: Float64, forward: Float64, asking: Float64) -> float:
    """Return the mean square of what the maps change of inner products."""
    rest = np.eye(len(rows)) - asking @ forward.T
    return float(np.sum((asked @ rest) * (rest @ rows)))


_MAPS = {"sphering": _sphering, "eig": _mixed, "fw": _descended}
