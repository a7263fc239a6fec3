"""The cells of a model: which one a vector lies in, and which ones to look into for a query.

A model has cells where a step of its spec is ``cells(n)``. Vectors are carried through the steps before it first.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vecpipe.arrays import Float32, Float64, Mask
from vecpipe.errors import CapabilityError, SpecError
from vecpipe.model import Model
from vecpipe.operators.cells import Cell, Cells


class CellModel:
    """The steps of a model up to its cells.

    Parameters
    ----------
    model
        A fitted model, one of whose steps is ``cells``.

    Raises
    ------
    CapabilityError
        The model has no cells, or more than one step of them.
    """

    def __init__(self, model: Model) -> None:
        places = [place for place, step in enumerate(model.steps) if isinstance(step, Cells)]
        if len(places) != 1:
            raise CapabilityError(
                f"the model {model.spec!r} has {'no' if not places else 'several steps of'} cells; "
                "fit one with a single step cells(n), for example 'normalize | cells(1024) | transform_code(bytes=96)'"
            )
        self._before = Model(model.steps[: places[0] + 1], model.dim, model.info)
        step = self._before.steps[-1]
        assert isinstance(step, Cells)
        self.step: Cells = step
        self.dim = model.dim

    def assign(self, X: Float32, valid: Mask | None = None) -> tuple[Cell, Mask]:
        """Return the cell of each vector, ``(n,) int32``, and which vectors have one.

        The cell of a vector depends on the model and the vector alone.

        Parameters
        ----------
        X : (n, d) float32
        valid : (n,) bool or None
            Rows outside have no cell.
        """
        moved, valid = self._before.transform(X, valid, stable=True)
        cells, found = self.step.assign(moved)
        return cells, found if valid is None else found & valid

    def distances(self, X: Float32, cells: Cell, valid: Mask | None = None) -> Float64:
        """Return one minus the cosine of each vector with the centroid of the cell given, ``(n,)``; NaN for none."""
        if len(cells) and (cells.min() < 0 or cells.max() >= self.step.used):
            raise SpecError(f"cells of this model are numbered 0 to {self.step.used - 1}, found {cells.max()}")
        moved, valid = self._before.transform(X, valid, stable=True)
        distances = 1.0 - self.step.closeness(moved, cells)
        return distances if valid is None else np.where(valid, distances, np.nan)

    def probe(self, Q: Float32, count: int) -> tuple[Cell, Mask]:
        """Return the ``count`` cells nearest to each query, nearest first, ``(m, p) int32``, and who has any.

        Raises
        ------
        SpecError
            ``count`` is not positive.
        """
        if count < 1:
            raise SpecError(f"nprobe is {count}; expected at least 1 cell to look into")
        moved, valid = self._before.transform_queries(Q)
        cells, found = self.step.probe(moved, count)
        return cells, found if valid is None else found & valid


@lru_cache(maxsize=32)
def cell_model(model: Model) -> CellModel:
    """Return the part of a model that knows its cells; made once for a model."""
    return CellModel(model)
