"""Cells: centroids of directions that a model remembers, so that a column can say which part of space a row lies in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32, Float64, Mask
from vecpipe.errors import ModelFormatError, SpecError
from vecpipe.kernels import inner_products, odd_lengths, row_products
from vecpipe.moments import Affine
from vecpipe.operators.base import MAX_MATRIX, Layout, Operator, State, register
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.linear import random_generator
from vecpipe.operators.parameters import param
from vecpipe.operators.spherical import spherical_kmeans, unit_rows
from vecpipe.query_products import BfloatQueries, bfloats, bfloats_pay

Cell = npt.NDArray[np.int32]

_ROWS = 1_024
_PAIRS = 4_096
_MANY = 256
"""From how many cells on products are those of bfloat16 first; for fewer they take longer."""
_HELD_OUT = 16
_FEW = 4
_SURE = 2_000
"""Rows that tell a mean distance to about two parts in a hundred."""


@register
@dataclass(eq=False)
class Cells(Operator):
    """Leave vectors as they are and remember n cells: centroids of directions, found by spherical k-means.

    ``vec_cell`` gives the cell a vector lies in, that of the centroid with the largest cosine; ``vec_probe`` the cells
    nearest to a query. Cells are of similar size, and cells with numbers beside each other lie near each other. A zero
    vector has no cell. Where there are fewer vectors than cells, the cells too many stay empty.
    """

    name = "cells"
    family = "cells"
    source = "Dhillon, Modha 2001 (spherical k-means); Jégou, Douze, Schmid 2011 (inverted file)"
    oracle = "numpy argmax of cosines; faiss.Kmeans(spherical=True); recall of FAISS IVF in as many rows"

    n: int = param(doc="how many cells", minimum=1, maximum=16_384)
    seed: int = param(0, doc="of the seeding", minimum=0, maximum=2**31 - 1)

    @property
    def moves_only(self) -> bool:
        """Vectors stay as they are."""
        return True

    keeps_unit_length = True

    def output_dim(self, dim: int) -> int:
        """Return dim."""
        if self.n * dim > MAX_MATRIX:
            raise SpecError(f"cells: {self.n} cells of {dim} dimensions are more than this operator supports")
        return dim

    def fit(self, data: FitData) -> State:
        """Learn ``centroids``, ``(n, d) float32``, zero where empty, and two ``figures``: distance and imbalance.

        The distance is the mean of one minus the cosine to the nearest centroid, the imbalance n times the sum of the
        squared shares of the cells: both of rows that the centroids were not fitted on, where there are enough; of few
        such rows no less than those of all rows.
        """
        rows, kept = unit_rows(data.rows)
        weights = data.weights[kept]
        centroids = np.zeros((self.n, data.dim), dtype=np.float32)
        if not len(rows) or weights.sum() <= 0:
            return {"centroids": centroids, "figures": np.array([0.0, 1.0])}
        # Rows come in the order of their hashes: every sixteenth is a fair sample.
        asked = np.zeros(len(rows), dtype=bool)
        asked[::_HELD_OUT] = len(rows) >= _FEW * self.n
        found = spherical_kmeans(rows[~asked], weights[~asked], self.n, random_generator(self.seed))
        centroids[: len(found)] = found
        held = asked if asked.any() else ~asked
        distance, imbalance = _judged(rows[held], weights[held], found)
        if held.sum() < _SURE:
            # Few rows may lie near by chance. Rows like these lie no nearer than those the centroids were fitted on.
            near, even = _judged(rows, weights, found)
            distance, imbalance = max(distance, near), max(imbalance, even)
        return {"centroids": centroids, "figures": np.array([distance, imbalance])}

    def layout(self, dim: int) -> Layout:
        """Return the centroids and the figures of the fit."""
        return {"centroids": (np.float32, (self.n, dim)), "figures": (np.float64, (2,))}

    def prepare_state(self) -> None:
        """Check that centroids have length one or zero."""
        centroids = self.state["centroids"].astype(np.float64)
        lengths = np.einsum("ij,ij->i", centroids, centroids)
        used = lengths > 0
        if not np.all(np.abs(lengths[used] - 1.0) < 1e-3):
            raise ModelFormatError("cells: a centroid's length is neither 1 nor 0")
        self.used = int(used.sum())
        if not used[: self.used].all():
            raise ModelFormatError("cells: an empty cell comes before one that is not")
        self._rough: BfloatQueries | None = None

    def affine(self) -> Affine:
        """Return the identity."""
        return Affine(np.ones(self.dim), np.zeros(self.dim))

    def apply(self, X: Float32, *, stable: bool = False) -> Float32:
        """Return X."""
        return X

    def invert(self, Y: Float32) -> Float32:
        """Return Y."""
        return Y

    @property
    def distance(self) -> float:
        """Mean distance of a row to the nearest centroid, as the fit measured it."""
        return float(self.state["figures"][0])

    @property
    def imbalance(self) -> float:
        """How uneven the cells of the fit's sample were: 1 where all had the same size."""
        return float(self.state["figures"][1])

    def assign(self, X: Float32) -> tuple[Cell, Mask]:
        """Return the cell of each row, ``(n,) int32``, and which rows have one.

        The cell of a row does not depend on the rows beside it, nor on the processor: where products in bfloat16 or
        float32 cannot tell which centroid is nearest, those in question are computed again in float64, pair by pair,
        and a tie goes to the lower cell.
        """
        cells = np.zeros(len(X), dtype=np.int32)
        lengths = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
        valid: Mask = np.asarray(lengths > 0)
        if not self.used:
            return cells, np.zeros(len(X), dtype=bool)
        doubt = _doubt(lengths, X.shape[1])
        for start in range(0, len(X), _ROWS):
            part = slice(start, start + _ROWS)
            closeness, more = self._closeness_to_all(X[part], lengths[part])
            best = closeness.argmax(axis=1)
            floor = closeness[np.arange(len(best)), best] - doubt[part] - more
            cells[part] = self._nearest(X[part], closeness >= floor[:, None], best)
        return cells, valid

    def _closeness_to_all(self, X: Float32, lengths: Float64) -> tuple[Float32, Float64 | float]:
        """Return products ``(n, used)`` of rows with centroids, and by how much two may be off beside ``_doubt``."""
        narrow = self.state["centroids"][: self.used]
        if self.used < _MANY or not bfloats_pay(X.shape[1]) or odd_lengths(lengths):
            return inner_products(X, narrow), 0.0
        if self._rough is None:
            self._rough = BfloatQueries(narrow)
        return self._rough.dot(bfloats(X)).T, 2 * self._rough.losses.max() * lengths

    def _nearest(self, X: Float32, near: Mask, best: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the nearest cell of each row among those in question ``(n, used)``, where there is more than one."""
        found = np.flatnonzero(near)
        rows, contenders = found // self.used, found % self.used
        counts = np.bincount(rows, minlength=len(X))
        open_ = counts[rows] > 1
        rows, contenders = rows[open_], contenders[open_]
        products = np.empty(len(rows))
        centroids = self.state["centroids"]
        for start in range(0, len(rows), _PAIRS):
            part = slice(start, start + _PAIRS)
            products[part] = row_products(X[rows[part]], centroids[contenders[part]])
        order = np.lexsort((contenders, -products, rows))
        asked, first = np.unique(rows[order], return_index=True)
        best = best.copy()
        best[asked] = contenders[order][first]
        return best

    def closeness(self, X: Float32, cells: Cell) -> Float64:
        """Return the cosine of each row with the centroid of a cell, ``(n,) float64``; NaN for a zero row."""
        lengths = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
        products = row_products(X, self.state["centroids"][cells])
        return np.asarray(products / np.where(lengths > 0, lengths, np.nan))

    def probe(self, Q: Float32, count: int) -> tuple[Cell, Mask]:
        """Return the cells nearest to each query, nearest first, ``(m, p) int32``, and which queries have any.

        p is ``count``, or the number of cells that are not empty where that is less.
        """
        count = min(count, self.used)
        probed = np.zeros((len(Q), count), dtype=np.int32)
        narrow = self.state["centroids"][: self.used]
        for row, q in enumerate(Q if count else ()):
            closeness = narrow @ q
            least = np.partition(closeness, self.used - count)[self.used - count]
            contenders = np.flatnonzero(closeness >= least - _doubt(np.linalg.norm(q), len(q)))
            products = row_products(q[None], narrow[contenders])
            probed[row] = contenders[np.argsort(-products, kind="stable")[:count]]
        return probed, np.asarray(Q.any(axis=1)) & (self.used > 0)


def _doubt(lengths: Any, dim: int) -> Any:
    """Return by how much two float32 products of rows of these lengths with centroids may be off, in all.

    Whatever the order of summing, the error of a product of d terms is below d ulp of the product of the lengths.
    """
    return (2.1 * 2.0**-24 * (dim + 2)) * lengths


def _judged(rows: Float32, weights: Float64, centroids: Float32) -> tuple[float, float]:
    """Return mean distance and imbalance of rows of length one.

    The imbalance n sum(p^2) of the shares p is estimated without bias from counts c: n sum(c (c - 1)) / (m (m - 1)).
    """
    nearest: list[npt.NDArray[np.int64]] = []
    largest: list[Float32] = []
    for at in range(0, len(rows), _ROWS):
        closeness = inner_products(rows[at : at + _ROWS], centroids)
        nearest.append(closeness.argmax(axis=1))
        largest.append(closeness.max(axis=1))
    distance = np.average(1.0 - np.concatenate(largest).astype(np.float64), weights=weights if weights.any() else None)
    counts = np.bincount(np.concatenate(nearest), minlength=len(centroids)).astype(np.float64)
    pairs = len(rows) * (len(rows) - 1.0)
    imbalance = len(centroids) * float((counts * (counts - 1)).sum()) / pairs if pairs else 1.0
    return max(float(distance), 0.0), imbalance
