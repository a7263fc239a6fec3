"""Functions of texts, queries and row numbers that work with what their database was registered with.

DuckDB calls them while it plans a statement, several times, or once for each: natively in a tenth of a millisecond.
Databases that were opened before vecpipe was imported take the same functions as functions of Arrow columns, in three
tenths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vecpipe.arrays import Rows
from vecpipe.columns.arrow import flat_array
from vecpipe.engines.duckdb.handles import query_rows, rows_of_blobs
from vecpipe.engines.duckdb.last import Last
from vecpipe.engines.duckdb.native.aggregate import check_vectors
from vecpipe.engines.duckdb.native.memory import ANY, BLOB, VARCHAR
from vecpipe.engines.duckdb.native.reading import Reader
from vecpipe.engines.duckdb.native.scalars import DatabaseFunction, Kind
from vecpipe.engines.duckdb.scalar import Scalar
from vecpipe.errors import SpecError
from vecpipe.kernels import one_blas_thread

Texts = Sequence[str | None]
Numbers = Sequence[int | None]


def whole(text: str | None, what: str) -> int:
    """Return a number of a search that counts something, or say what it is instead."""
    if text is None or not text.isdecimal() or int(text) < 1:
        shown = "NULL" if text is None else text
        raise SpecError(f"vec_search: {what} is {shown}; expected a whole number of at least 1")
    return int(text)


_LAST: Last[Rows] = Last()


def _queries_of(label: str, reader: Reader, vector: int, count: int) -> Rows:
    column = f"{label}: q"
    if reader.type_of(vector) == BLOB:
        blobs = reader.blobs(vector, count)
        if count > 1:
            return rows_of_blobs(blobs, column)
        known = _LAST.get(blobs[0])  # a search asks for its query when it is planned and when it is run
        if known is None:
            known = rows_of_blobs(blobs, column)
            _LAST.put(blobs[0], known)
        return known
    part = reader.vectors(vector, count, column)
    values = check_vectors(part, lambda i: f"{column}: row {i}")
    if part.rows is None:
        return Rows(values.astype(np.float32, copy=False))
    spread = np.zeros((count, values.shape[1]), np.float32)
    spread[part.rows] = values
    valid = np.zeros(count, bool)
    valid[part.rows] = True
    return Rows(spread, valid, int((~valid).sum()))


@dataclass(frozen=True)
class TextFunction:
    """A function for either kind of column.

    Attributes
    ----------
    name, label, kind, volatile, fields
        As of ``DatabaseFunction``.
    arguments : str
        Names: of the one called q the function gets ``Rows``, of the one called tail an array of numbers for each row,
        of all others lists of texts.
    function
        Takes what the database was registered with and the arguments; returns a value for each row, None for NULL:
        where these are lists of structs, ``(fields, n)`` numbers.
    """

    name: str
    label: str
    arguments: str
    kind: Kind
    function: Callable[..., Sequence[Any]]
    volatile: bool = False
    fields: tuple[str, ...] = ()

    def native(self) -> DatabaseFunction:
        """Return the function of DuckDB's own columns."""
        names = self.arguments.split(", ")
        special: dict[str, Callable[[Reader, int, int], Any]] = {
            "q": partial(_queries_of, self.label),
            "tail": Reader.number_lists,
        }
        return DatabaseFunction(
            self.name,
            self.label,
            tuple(ANY if name in special else VARCHAR for name in names),
            tuple(special.get(name, Reader.texts) for name in names),
            self.kind,
            self.function,
            volatile=self.volatile,
            fields=self.fields,
        )

    def arrow(self, database: Any) -> Scalar:
        """Return the function of Arrow columns, for what a database was registered with."""
        names = self.arguments.split(", ")
        special: dict[str, Callable[[Any], Any]] = {
            "q": partial(query_rows, column=f"{self.label}: q"),
            "tail": _number_lists,
        }
        reading: list[Callable[[Any], Any]] = [special.get(name, _texts) for name in names]
        returns, kind = _TYPES.get(self.kind, (f"STRUCT({' BIGINT, '.join(self.fields)} BIGINT)[]", None))

        def call(*columns: Any) -> Any:
            read = [of(column) for of, column in zip(reading, columns, strict=True)]
            with one_blas_thread():
                values = self.function(database, *read)
            return _structs(values, self.fields) if kind is None else pa.array(values, kind)

        return Scalar(self.name, self.arguments, returns, f"Behind {self.label}.", call, volatile=self.volatile)


def _texts(column: Any) -> Texts:
    return [None if value is None else str(value) for value in column.to_pylist()]


def _number_lists(column: Any) -> list[npt.NDArray[np.int64]]:
    lists = (item.values for item in flat_array(column))
    return [np.empty(0, np.int64) if numbers is None else numbers.to_numpy() for numbers in lists]


def _structs(values: Sequence[npt.NDArray[np.int64] | None], fields: Sequence[str]) -> Any:
    lengths = [0 if value is None else value.shape[1] for value in values]
    table = np.concatenate([np.empty((len(fields), 0), np.int64), *(value for value in values if value is not None)], 1)
    items = pa.StructArray.from_arrays([pa.array(numbers, mask=numbers < 0) for numbers in table], names=list(fields))
    missing = np.array([value is None for value in values], bool)
    offsets = pa.array(np.cumsum([0, *lengths]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, items, mask=pa.array(missing) if missing.any() else None)


_TYPES: dict[Kind, tuple[str, Any]] = {
    "texts": ("VARCHAR", pa.string()),
    "bigint": ("BIGINT", pa.int64()),
    "integers": ("INTEGER[]", pa.list_(pa.int32())),
}
