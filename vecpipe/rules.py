"""The rules that rows keep, how those that break one are found, and what errors say of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vecpipe.errors import InputError, RowError

OnInvalid = Literal["error", "null"]

MAX_DIM = 65_536
"""Most dimensions that vectors have."""

NO_ROWS = np.zeros(0, dtype=np.int64)
_FEW = 4_096
"""Numbers that are looked at one by one: sums of so few save nothing."""
_ROW = re.compile(r": row \d+ ")


@contextmanager
def rows_named(column: str, first_row: int = 0, positions: npt.NDArray[np.int64] | None = None) -> Iterator[None]:
    """Have complaints about a row of a block (``RowError``) name the column, and the row as the user counts.

    Parameters
    ----------
    first_row
        Number of the block's first row.
    positions : (n,) int64 or None
        Where the rows of the block were taken from; None for rows that follow each other.
    """
    try:
        yield
    except RowError as error:
        row = error.row if positions is None else int(positions[error.row])
        raise InputError(f"{column}: row {first_row + row} {error.rule}") from error


def say_of_chunk(error: BaseException, rows: int) -> None:
    """Have an error about a row of a chunk of ``rows`` say where the row is counted from, where that is not plain.

    A host that hands over chunks says neither which rows of the table they are nor in which order they come.
    """
    text = str(error)
    if rows > 1 and isinstance(error, InputError) and _ROW.search(text):
        error.args = (f"{text} (rows are counted from the start of the chunk that DuckDB read)",)


def null_element(where: str) -> InputError:
    """Return the error for a vector with a NULL element; ``where`` names column and row."""
    return InputError(f"{where} has a NULL element; every element must be a number")


def not_finite(where: str, row: npt.NDArray[Any]) -> InputError:
    """Return the error for a row ``(d,)`` with NaN or an infinite value; ``where`` names column and row."""
    return InputError(f"{where} {_not_finite(row)}")


def row_not_finite(rows: npt.NDArray[Any], row: int) -> RowError:
    """Return the error for a row of a block ``(n, d)`` with NaN or an infinite value."""
    return RowError(None, row, _not_finite(rows[row]))


def _not_finite(row: npt.NDArray[Any]) -> str:
    found = "NaN" if np.isnan(row).any() else "an infinite value (or one beyond float32)"
    return (
        f"holds {found}; every element must be finite. "
        "vec_is_valid(v) finds such rows; where on_invalid is offered, 'null' turns them to NULL"
    )


def wrong_code_length(column: str, row: int, length: int, width: int, unit: str = "bytes") -> InputError:
    """Return the error for a code of another length than the model writes."""
    return InputError(
        f"{column}: row {row} holds {length} {unit}, but this model's codes have {width}; "
        "was the column written by another model?"
    )


def check_width(found: int, dim: int | None, where: str) -> None:
    """Refuse a width that no vector has, or another one than ``dim``; ``where`` names column and row.

    Raises
    ------
    InputError
        No dimensions, too many, or not ``dim``.
    """
    if found > MAX_DIM:
        raise InputError(f"{where} has {found} dimensions; at most {MAX_DIM} are supported")
    if found == 0:
        raise InputError(f"{where} has no dimensions; expected at least 1")
    if dim is not None and found != dim:
        raise InputError(f"{where} has {found} dimensions, expected {dim}")


def nonfinite_rows(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the indices of rows that hold NaN or infinity, at the price of one pass when there are none."""
    if values.size == 0 or (values.size <= _FEW and np.isfinite(values).all()):
        return NO_ROWS
    with np.errstate(over="ignore", invalid="ignore"):
        # Row by row: BLAS would take threads to a product of the whole.
        sums = np.vecdot(values, np.ones(values.shape[1], dtype=values.dtype))
    suspects = np.flatnonzero(~np.isfinite(sums))
    if suspects.size:
        suspects = suspects[~np.isfinite(values[suspects]).all(axis=1)]
    return suspects
