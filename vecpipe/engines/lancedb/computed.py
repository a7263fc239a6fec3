"""Models as computed columns of LanceDB: one linear map, written as SQL that any client of LanceDB can refresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vecpipe.engines.lancedb.backfill import Backfilled
from vecpipe.engines.lancedb.host import asking
from vecpipe.engines.lancedb.marks import Mark
from vecpipe.errors import CapabilityError
from vecpipe.model import Model
from vecpipe.moments import Affine

_MAX_NUMBERS = 1 << 16
"""Numbers in one expression: it stands in the metadata of every version of the table."""


def is_computed(field: Any) -> bool:
    """Return whether LanceDB itself computes a column."""
    return b"computed_column.expression" in (field.metadata or {})


def expression(model: Model, source: str) -> str:
    """Return the SQL that gives what the model gives, NULL for NULL.

    Raises
    ------
    CapabilityError
        The model is not one affine map, or its numbers are too many for an expression.
    """
    whole = model.affine()
    if whole is None:
        raise CapabilityError(
            f"{model.spec!r} cannot be compiled to SQL: only chains of affine steps can (center, pca, whiten, rotate, "
            "project, truncate); leave compiled out"
        )
    column = f"`{source}`"
    size = model.output_dim
    if _is_truncation(whole):
        values = f"array_slice(arrow_cast({column}, 'List(Float32)'), 1, {size})"
    elif whole.matrix.size > _MAX_NUMBERS:
        raise CapabilityError(
            f"{model.spec!r} cannot be compiled to SQL: {whole.matrix.size:,} numbers are too many for an expression "
            f"that is part of the table's metadata (at most {_MAX_NUMBERS:,}); leave compiled out"
        )
    elif whole.diagonal:
        scaled = zip(whole.matrix, whole.offset, strict=True)
        terms = (f"{column}[{i}] * {_number(a)} + {_number(b)}" for i, (a, b) in enumerate(scaled, 1))
        values = f"make_array({', '.join(terms)})"
    else:
        rows = zip(whole.matrix.T, whole.offset, strict=True)
        terms = (f"inner_product({column}, [{', '.join(map(_number, w))}]) + {_number(b)}" for w, b in rows)
        values = f"make_array({', '.join(terms)})"
    return f"nvl2({column}, arrow_cast({values}, 'FixedSizeList({size}, Float32)'), NULL)"


def _is_truncation(whole: Affine) -> bool:
    return whole.diagonal and bool(np.all(whole.matrix == 1) and np.all(whole.offset == 0))


def _number(value: float) -> str:
    text = f"{value:.9g}"
    return text if any(mark in text for mark in ".e") else f"{text}.0"


def fill(table: Any, column: str, model: Model, source: str, mark: Callable[[], Mark]) -> Backfilled:
    """Add a computed column where it is not there yet, mark it with its model, and refresh it.

    Raises
    ------
    CapabilityError
        The model cannot be compiled.
    EngineError
        LanceDB refused.
    """
    if column not in table.schema.names:
        text = expression(model, source)
        with asking(f"add the computed column {column!r} to {table.name!r}"):
            table.add_columns(computed={column: text})
            table.update_field_metadata({"path": column, "metadata": mark().metadata()})
    return refresh(table, column)


def refresh(table: Any, column: str) -> Backfilled:
    """Let LanceDB fill new rows and those whose vectors have changed.

    Raises
    ------
    EngineError
        LanceDB refused.
    """
    with asking(f"refresh the computed column {column!r} of {table.name!r}"):
        done = table.refresh_column(column)
        table.checkout_latest()
    return Backfilled(table.name, column, int(done.rows_filled), 0, 0, 0, int(table.version))
