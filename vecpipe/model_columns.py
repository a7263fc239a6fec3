"""The column that a model writes, and what is read from it again: codes where it has a codec, vectors where not."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from vecpipe.arrays import Mask, Rows
from vecpipe.columns.codes import from_codes
from vecpipe.columns.vectors import to_rows
from vecpipe.model import Model
from vecpipe.rules import rows_named


def written(
    model: Model, rows: Rows, *, column: str, first_row: int = 0, positions: npt.NDArray[Any] | None = None
) -> tuple[npt.NDArray[Any], Mask | None]:
    """Return what a model makes of the vectors of a column, and which rows have a result.

    Parameters
    ----------
    column, first_row, positions
        For errors, as in ``rows_named``.

    Returns
    -------
    (n, B) uint8 codes, or (n, k) float32 for a model without codec; and the rows that have one

    Raises
    ------
    InputError
        Wrong width, or a row that the codec cannot hold: names column and row.
    """
    if model.codec is None:
        return model.transform(rows.values, rows.valid)
    with rows_named(column, first_row, positions):
        return model.encode(rows.values, rows.valid, finite=True)


def read(
    model: Model, data: Any, *, column: str, first_row: int = 0, check_finite: bool = True
) -> tuple[npt.NDArray[Any], Mask | None]:
    """Return what a model has written to a column, as it scores and decodes it, and which rows count.

    Parameters
    ----------
    data, column, first_row, check_finite
        As in ``to_rows``.

    Returns
    -------
    (n, B) uint8 codes, or (n, k) float32 for a model without codec; and the rows that are not NULL

    Raises
    ------
    InputError
        Codes of another length, vectors of another width, or not the kind of column that this model writes.
    """
    if model.codec is not None:
        return from_codes(data, model.bytes_per_vector, column=column, first_row=first_row)
    rows = to_rows(data, column=column, dim=model.output_dim, first_row=first_row, check_finite=check_finite)
    return rows.values, rows.valid


def undone(model: Model, items: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the vectors ``(n, d) float32`` that what ``read`` gives stands for.

    Raises
    ------
    CapabilityError
        A step cannot be undone.
    """
    return model.inverse(items) if model.codec is None else model.decode(items)
