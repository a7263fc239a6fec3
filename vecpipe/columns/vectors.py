"""Columns of vectors, and of lists of vectors, in: matrices, with a mask of the rows that count."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vecpipe.arrays import Float32, Mask, Rows
from vecpipe.columns.arrow import flat_array, is_list, list_array
from vecpipe.errors import InputError, SpecError
from vecpipe.rules import NO_ROWS, OnInvalid, check_width, nonfinite_rows, not_finite, null_element


def to_rows(
    data: Any,
    *,
    column: str = "vector",
    dim: int | None = None,
    on_invalid: OnInvalid = "error",
    first_row: int = 0,
    check_finite: bool = True,
) -> Rows:
    """Turn a column of vectors into a matrix.

    Parameters
    ----------
    data
        Arrow array or chunked array of fixed-size list, list, large list or list view over float16/32/64, integers
        or decimals (dictionary-encoded too); anything with ``__arrow_c_array__`` / ``__arrow_c_stream__``; a
        2-D NumPy array; or a list of lists.
    column
        Name used in errors.
    dim
        Width the vectors must have; None takes the width that most rows have.
    on_invalid
        ``"error"`` raises on a row that breaks a rule, ``"null"`` counts it and treats it as NULL.
    first_row
        Number of the first row, for errors.
    check_finite
        False leaves it to the caller to find NaN and infinities; only where they are an error.

    Raises
    ------
    InputError
        Wrong type, ragged row, wrong width, NULL element, NaN or infinity: names column, row and rule.
    SpecError
        ``on_invalid`` is something else.
    """
    if on_invalid not in ("error", "null"):
        raise SpecError(f"on_invalid is {on_invalid!r}; expected 'error' or 'null'")
    if isinstance(data, np.ndarray):
        if data.ndim != 2:
            raise InputError(f"{column}: expected a 2-D array (rows, dimensions), got shape {data.shape}")
        return _finish(_as_float32(data, column), None, 0, column, dim, on_invalid, first_row, check_finite)
    array = list_array(data, column)
    if pa.types.is_fixed_size_list(array.type):
        values, valid, nulls, ragged = _from_fixed(array, column, dim)
    else:
        values, valid, nulls, ragged = _from_lists(array, column, dim, on_invalid, first_row)
    if ragged.size and on_invalid == "error":
        row = int(ragged[0])
        raise null_element(f"{column}: row {first_row + row}")
    if ragged.size:
        valid = np.ones(len(values), dtype=bool) if valid is None else valid
        valid[ragged] = False
    rows = _finish(values, valid, nulls, column, dim, on_invalid, first_row, check_finite)
    return Rows(rows.values, rows.valid, rows.nulls, rows.invalid + int(ragged.size))


def row_widths(data: Any, *, column: str = "vector") -> dict[int, int]:
    """Return how many rows of a column of vectors have each number of dimensions; NULL and empty rows aside."""
    array = list_array(data, column)
    lengths = pc.drop_null(pc.list_value_length(array)).to_numpy(zero_copy_only=False)
    found, counts = np.unique(lengths[lengths > 0], return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def finite_rows(data: Any, *, column: str = "vector") -> Mask:
    """Return which rows hold at least one element and finite numbers only, each row judged by itself.

    Raises
    ------
    InputError
        Not a column of vectors.
    """
    array = list_array(data, column)
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    offsets = np.asarray(array.offsets.to_numpy(zero_copy_only=False)).astype(np.int64, copy=False)
    flat = _as_float32(_numbers(array.values.slice(offsets[0], offsets[-1] - offsets[0]), column), column)
    bad = np.concatenate([[0], np.cumsum(~np.isfinite(flat))])
    ends = offsets - offsets[0]
    return np.asarray((np.diff(bad[ends]) == 0) & (np.diff(ends) > 0))


def to_sets(
    data: Any, *, column: str = "vectors", dim: int | None = None
) -> tuple[Float32, npt.NDArray[np.int64], Mask | None]:
    """Turn a column of lists of vectors into one matrix, a row's vectors beside each other.

    Returns
    -------
    (v, d) float32, (n + 1,) int64, (n,) bool or None
        The vectors of all rows, where each row's begin, and the rows that are not NULL.

    Raises
    ------
    InputError
        Not lists of vectors, or a vector that breaks a rule of ``to_rows``.
    """
    data = flat_array(data)
    if not (pa.types.is_list(data.type) or pa.types.is_large_list(data.type)) or not is_list(data.type.value_type):
        raise InputError(f"{column}: expected lists of vectors, got {data.type}")
    valid = None if data.null_count == 0 else np.asarray(data.is_valid().to_numpy(zero_copy_only=False))
    lengths = pc.fill_null(pc.list_value_length(data), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    vectors = data.flatten()
    if not len(vectors):
        return np.zeros((0, dim or 1), np.float32), offsets, valid
    rows = to_rows(vectors, column=column, dim=dim)
    if rows.valid is not None:
        raise null_element(f"{column}: a list of vectors")
    return rows.values, offsets, valid


def _numbers(values: Any, column: str) -> npt.NDArray[Any]:
    """Return the flat child of a list array as NumPy, NULL elements as NaN."""
    kind = values.type
    if pa.types.is_null(kind):
        return np.full(len(values), np.nan, dtype=np.float32)
    if pa.types.is_decimal(kind):
        values = pc.cast(values, pa.float64())
    elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise InputError(f"{column}: elements are {kind}; expected float16/32/64, integers or decimals")
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _as_float32(flat: npt.NDArray[Any], column: str) -> Float32:
    if flat.dtype == np.float32:
        return np.ascontiguousarray(flat)
    if flat.dtype.kind not in "fiu":
        raise InputError(f"{column}: elements are {flat.dtype}; expected float16/32/64 or integers")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(flat, dtype=np.float32)


def _from_fixed(array: Any, column: str, dim: int | None) -> tuple[Float32, Mask | None, int, Any]:
    width = array.type.list_size
    nulls = array.null_count
    if nulls == len(array) and dim is not None:
        width = dim
        return np.zeros((nulls, width), np.float32), np.zeros(nulls, bool), nulls, NO_ROWS
    check_width(width, dim, column)
    child = array.values.slice(array.offset * width, len(array) * width)
    flat = _numbers(child, column)
    valid = None if nulls == 0 else np.asarray(array.is_valid().to_numpy(zero_copy_only=False))
    broken = NO_ROWS
    if child.null_count:
        gaps = np.asarray(child.is_null().to_numpy(zero_copy_only=False)).reshape(-1, width).any(axis=1)
        broken = np.flatnonzero(gaps if valid is None else gaps & valid)
    return _as_float32(flat.reshape(-1, width), column), valid, nulls, broken


def _usual(lengths: npt.NDArray[np.int64]) -> int:
    """Return the commonest length above 0 (the least of several), so that it depends on no order of the rows."""
    found, counts = np.unique(lengths[lengths > 0], return_counts=True)
    return int(found[counts.argmax()]) if found.size else 0


def _from_lists(
    array: Any, column: str, dim: int | None, on_invalid: OnInvalid, first_row: int
) -> tuple[Float32, Mask | None, int, Any]:
    n, nulls = len(array), array.null_count
    offsets = np.asarray(array.offsets.to_numpy(zero_copy_only=False)).astype(np.int64, copy=False)
    lengths = np.diff(offsets)
    valid = None if nulls == 0 else np.asarray(array.is_valid().to_numpy(zero_copy_only=False))
    live = np.arange(n) if valid is None else np.flatnonzero(valid)
    if live.size == 0:
        return np.zeros((n, dim or 1), np.float32), valid if n else None, nulls, NO_ROWS
    width = dim if dim is not None else _usual(lengths[live])
    if width == 0 and on_invalid == "null":
        return np.zeros((n, 1), np.float32), valid, nulls, live
    wrong = live[lengths[live] != width]
    if wrong.size and on_invalid == "error":
        check_width(int(lengths[wrong[0]]), width or None, f"{column}: row {first_row + int(wrong[0])}")
    check_width(width, dim, f"{column}: row {first_row + int(live[0])}")
    start, stop = int(offsets[0]), int(offsets[-1])
    child = array.values.slice(start, stop - start)
    flat = _numbers(child, column)
    if not wrong.size and live.size == n:
        values = _as_float32(flat.reshape(n, width), column)
        broken_flat = child.is_null() if child.null_count else None
    else:
        good = live if not wrong.size else live[lengths[live] == width]
        take = (offsets[good] - start)[:, None] + np.arange(width)
        values = np.zeros((n, width), dtype=np.float32)
        values[good] = _as_float32(flat[take.ravel()].reshape(-1, width), column)
        broken_flat = None
        if child.null_count:
            gaps = np.asarray(child.is_null().to_numpy(zero_copy_only=False))[take].any(axis=1)
            return values, valid, nulls, np.union1d(wrong, good[gaps])
    if broken_flat is not None:
        gaps = np.asarray(broken_flat.to_numpy(zero_copy_only=False)).reshape(n, width).any(axis=1)
        return values, valid, nulls, np.flatnonzero(gaps)
    return values, valid, nulls, wrong


def _finish(
    values: Float32,
    valid: Mask | None,
    nulls: int,
    column: str,
    dim: int | None,
    on_invalid: OnInvalid,
    first_row: int,
    check_finite: bool,
) -> Rows:
    """Check width and finiteness; zero the rows that do not count."""
    check_width(values.shape[1], dim, column)
    if valid is not None:
        values = np.where(valid[:, None], values, np.float32(0))
    bad = nonfinite_rows(values) if check_finite else NO_ROWS
    if bad.size == 0:
        return Rows(values, valid, nulls, 0)
    if on_invalid == "error":
        row = int(bad[0])
        raise not_finite(f"{column}: row {first_row + row}", values[row])
    valid = np.ones(len(values), dtype=bool) if valid is None else valid.copy()
    valid[bad] = False
    values = np.where(valid[:, None], values, np.float32(0))
    return Rows(values, valid, nulls, int(bad.size))
