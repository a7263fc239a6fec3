"""The scalar functions of cells, as functions of Arrow columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe import kernels
from vecpipe.arrays import Mask, Rows
from vecpipe.cells import CellModel, cell_model
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.duckdb.groups import rows_by_model
from vecpipe.engines.duckdb.handles import model_of, query_rows
from vecpipe.engines.duckdb.scalar import Scalar, constant
from vecpipe.errors import SpecError
from vecpipe.operators.cells import Cell
from vecpipe.rules import check_width

_FITTED = pa.struct(
    [("cells", pa.int32()), ("used", pa.int32()), ("distance", pa.float64()), ("imbalance", pa.float64())]
)
_FITTED_RETURNS = "STRUCT(cells INTEGER, used INTEGER, distance DOUBLE, imbalance DOUBLE)"


def scalars() -> Iterator[Scalar]:
    """Yield the functions."""
    yield Scalar("_vec_cell", "handle, v, on_invalid", "INTEGER", "Behind vec_cell.", _cell)
    yield Scalar("_vec_probe", "handle, q, nprobe", "INTEGER[]", "Behind vec_probe.", _probe)
    yield Scalar("_vec_cell_distance", "handle, v, cell", "DOUBLE", "Behind vec_cells_report.", _distance)
    yield Scalar("_vec_cells_fit", "handle", _FITTED_RETURNS, "Behind vec_cells_report.", _fitted)


def _count(column: Any, name: str) -> int:
    value = constant(column, f"{name}: nprobe")
    if not isinstance(value, int) or isinstance(value, bool):
        raise SpecError(f"{name}: nprobe is {value!r}; expected a whole number of cells")
    return value


def _cell(model: Any, v: Any, on_invalid: Any) -> Any:
    cells = np.zeros(len(v), dtype=np.int32)
    there = np.zeros(len(v), dtype=bool)
    with kernels.one_blas_thread():
        for at, found, values, valid in rows_by_model(model, v, on_invalid, "vec_cell"):
            rows = slice(None) if at is None else at
            cells[rows], there[rows] = cell_model(found).assign(values, valid)
    return pa.array(cells, mask=None if there.all() else ~there)


def _of_one(model: Any, name: str) -> CellModel | None:
    handle = constant(model, f"{name}: model")
    return None if handle is None else cell_model(model_of(handle))


def _probe(model: Any, q: Any, nprobe: Any) -> Any:
    found, count = _of_one(model, "vec_probe"), _count(nprobe, "vec_probe")
    if found is None:
        return pa.nulls(len(q), pa.list_(pa.int32()))
    cells, there = nearest(found, query_rows(q, "vec_probe: q"), count, "vec_probe: q")
    offsets = pa.array(np.arange(len(cells) + 1, dtype=np.int32) * cells.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(cells.ravel()), mask=None if there.all() else pa.array(~there))


def nearest(found: CellModel, queries: Rows, count: int, column: str) -> tuple[Cell, Mask]:
    """Return the cells nearest to each query, ``(m, p) int32``; and who has any: not NULL, and with a direction."""
    if queries.nulls == len(queries):
        return np.zeros((len(queries), 0), np.int32), np.zeros(len(queries), bool)
    check_width(queries.dim, found.dim, column)
    cells, there = found.probe(queries.values, count)
    return cells, there if queries.valid is None else there & queries.valid


def _distance(model: Any, v: Any, cell: Any) -> Any:
    found = _of_one(model, "vec_cells_report")
    if found is None:
        return pa.nulls(len(v), pa.float64())
    rows = to_rows(v, column="vec_cells_report: vectors", dim=found.dim)
    known = np.asarray(cell.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    cells = cell.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
    distances = found.distances(rows.values, cells, known if rows.valid is None else known & rows.valid)
    return pa.array(distances, mask=np.isnan(distances))


def _fitted(model: Any) -> Any:
    rows = []
    for handle in model.to_pylist():
        step = None if handle is None else cell_model(model_of(handle)).step
        rows.append(
            step and {"cells": step.n, "used": step.used, "distance": step.distance, "imbalance": step.imbalance}
        )
    return pa.array(rows, _FITTED)
