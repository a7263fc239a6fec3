"""The rows of a batch by the value that they hold in a column of handles, and results back in the order of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vecpipe.arrays import Float32, Mask
from vecpipe.columns.arrow import flat_array
from vecpipe.columns.codes import even_offsets
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.duckdb.handles import model_of
from vecpipe.engines.duckdb.scalar import constant
from vecpipe.errors import InputError, SpecError
from vecpipe.model import Model
from vecpipe.rules import OnInvalid

Read = TypeVar("Read")


def by_value(column: Any) -> Iterator[tuple[Any, npt.NDArray[np.int64] | None]]:
    """Return each distinct value with the rows that hold it (None for all rows)."""
    array = flat_array(column)
    if pa.types.is_null(array.type):
        return
    if _is_one_text(array):
        yield array[0].as_py(), None
        return
    encoded = array.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if len(values) == 1 and encoded.null_count == 0:
        yield values[0], None
        return
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes, np.arange(len(values) + 1), sorter=order)
    for position, value in enumerate(values):
        yield value, order[bounds[position] : bounds[position + 1]]


def _is_one_text(array: Any) -> bool:
    """Whether every row holds the same text, told from the buffers: the case of a literal, for every batch."""
    if not pa.types.is_string(array.type) or array.null_count or len(array) == 0:
        return False
    if array.offset:
        return False
    _, offsets, data = array.buffers()
    length = int.from_bytes(memoryview(offsets)[4:8].tobytes(), "little")
    if length == 0 or not even_offsets(offsets, len(array), length, 4):
        return False
    texts = memoryview(data)[: length * len(array)].tobytes()
    return texts == texts[:length] * len(array)


def rows_by_model(
    model: Any, v: Any, on_invalid: Any, name: str
) -> Iterator[tuple[npt.NDArray[np.int64] | None, Model, Float32, Mask | None]]:
    """Return each model with its rows: positions (None for all), vectors and mask.

    Where all models take vectors of one width, the column is read once: a batch may hold a thousand models.
    """
    mode, column = _on_invalid(on_invalid, name), f"{name}: v"
    models = [(model_of(handle), at) for handle, at in by_value(model)]
    together = len({found.dim for found, _ in models}) == 1 and sum(
        len(v) if at is None else len(at) for _, at in models
    ) == len(v)
    rows = to_rows(v, column=column, dim=models[0][0].dim, on_invalid=mode) if together else None
    for found, at in models:
        if rows is None:
            mine = read_some(v, at, partial(to_rows, column=column, dim=found.dim, on_invalid=mode))
            yield at, found, mine.values, mine.valid
        elif at is None:
            yield at, found, rows.values, rows.valid
        else:
            yield at, found, rows.values[at], None if rows.valid is None else rows.valid[at]


def _on_invalid(column: Any, name: str) -> OnInvalid:
    value = constant(column, f"{name}: on_invalid")
    if value == "error":
        return "error"
    if value == "null":
        return "null"
    raise SpecError(f"{name}: on_invalid is {value!r}; expected 'error' or 'null'")


def take(column: Any, at: npt.NDArray[np.int64] | None) -> Any:
    """Return the rows of a column at some positions; None for all of them."""
    return column if at is None else _binary(column).take(pa.array(at))


def _binary(column: Any) -> Any:
    return column.cast(pa.binary()) if pa.types.is_binary_view(column.type) else column


def read_some(column: Any, at: npt.NDArray[np.int64] | None, read: Callable[[Any], Read]) -> Read:
    """Return what ``read`` makes of the rows of a column at some positions; errors count the rows of the column."""
    try:
        return read(take(column, at))
    except InputError:
        if at is not None:
            alone = np.full(len(column), -1)
            alone[at] = at
            read(_binary(column).take(pa.array(alone, mask=alone < 0)))  # the others are NULL, and break no rule
        raise


def scatter(
    n: int,
    parts: list[tuple[npt.NDArray[np.int64] | None, npt.NDArray[Any], Mask | None]],
    column_of: Callable[[Any, Mask | None], Any],
    kind: Any,
) -> Any:
    """Put the results of groups back into row order, as a column; rows of no group are NULL."""
    if len(parts) == 1 and parts[0][0] is None:
        return column_of(parts[0][1], parts[0][2])
    if len({values.shape[1] for _, values, _ in parts}) != 1:
        return _reorder(n, [(at, column_of(values, valid)) for at, values, valid in parts], kind)
    together = np.zeros((n, parts[0][1].shape[1]), parts[0][1].dtype)
    there = np.zeros(n, bool)
    for at, values, valid in parts:
        together[at], there[at] = values, True if valid is None else valid
    return column_of(together, None if there.all() else there)


def _reorder(n: int, parts: list[tuple[Any, Any]], kind: Any) -> Any:
    """Put the results of groups back into row order; rows of no group are NULL."""
    where = np.full(n, -1, dtype=np.int64)
    start = 0
    for at, values in parts:
        where[at] = np.arange(start, start + len(values))
        start += len(values)
    if not parts:
        return pa.nulls(n, kind)
    joined = pa.concat_arrays([values for _, values in parts])
    return joined.take(pa.array(where, mask=where < 0))
