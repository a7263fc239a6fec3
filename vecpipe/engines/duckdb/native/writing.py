"""Results of a finalize callback into DuckDB's result vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecpipe.engines.duckdb.native.capi import Api
from vecpipe.engines.duckdb.native.memory import array_at


class Writer:
    """Writes the results of a finalize callback."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def write(self, kind: str, vector: int, offset: int, values: Sequence[Any]) -> None:
        """Write values (None is NULL) at ``offset``; ``kind`` is the return type's name here."""
        self._set_null(vector, [offset + i for i, value in enumerate(values) if value is None])
        getattr(self, f"_{kind}")(vector, offset, values)

    def _set_null(self, vector: int, rows: Sequence[int]) -> None:
        if rows:
            self.api.vector_ensure_validity_writable(vector)
            mask = self.api.vector_get_validity(vector)
            for row in rows:
                self.api.validity_set_row_invalid(mask, row)

    def _bytes(self, vector: int, offset: int, values: Sequence[bytes | None]) -> None:
        assign = self.api.vector_assign_string_element_len
        for i, value in enumerate(values):
            if value is not None:
                assign(vector, offset + i, value, len(value))

    def _texts(self, vector: int, offset: int, values: Sequence[str | None]) -> None:
        self._bytes(vector, offset, [None if value is None else value.encode() for value in values])

    def _fixed(self, vector: int, offset: int, values: Sequence[Any], typestr: str) -> None:
        data = array_at(self.api.vector_get_data(vector), offset + len(values), typestr)
        for i, value in enumerate(values):
            if value is not None:
                data[offset + i] = value

    def _double(self, vector: int, offset: int, values: Sequence[float | None]) -> None:
        self._fixed(vector, offset, values, "<f8")

    def _bigint(self, vector: int, offset: int, values: Sequence[int | None]) -> None:
        self._fixed(vector, offset, values, "<i8")

    def _uuid(self, vector: int, offset: int, values: Sequence[Any]) -> None:
        self._fixed(vector, offset, values, "|V16")

    def _floats(self, vector: int, offset: int, values: Sequence[NDArray[Any] | None], typestr: str = "<f4") -> None:
        api = self.api
        start, end = self._lists(vector, offset, [0 if value is None else len(value) for value in values])
        if end > start:
            child = array_at(api.vector_get_data(api.list_vector_get_child(vector)), end, typestr)
            at = start
            for value in values:
                if value is not None:
                    child[at : at + len(value)] = value
                    at += len(value)

    def _lists(self, vector: int, offset: int, lengths: Sequence[int]) -> tuple[int, int]:
        """Make room for lists of these lengths; return where the first begins and the last ends."""
        api = self.api
        start = int(api.list_vector_get_size(vector))
        end = start + sum(lengths)
        api.list_vector_reserve(vector, end)
        entries = array_at(api.vector_get_data(vector), 2 * (offset + len(lengths)), "<u8").reshape(-1, 2)[offset:]
        entries[:, 0] = np.cumsum([start, *lengths[:-1]])
        entries[:, 1] = lengths
        api.list_vector_set_size(vector, end)
        return start, end

    def _rows(self, vector: int, offset: int, values: Sequence[NDArray[np.int64] | None]) -> None:
        """Write lists of structs of numbers from ``(fields, n)`` arrays, where a negative number is NULL."""
        api = self.api
        start, end = self._lists(vector, offset, [0 if value is None else value.shape[1] for value in values])
        table = [value for value in values if value is not None]
        if end == start:
            return
        structs = api.list_vector_get_child(vector)
        for place, numbers in enumerate(np.concatenate(table, axis=1)):
            child = api.struct_vector_get_child(structs, place)
            array_at(api.vector_get_data(child), end, "<i8")[start:] = numbers
            self._set_null(child, (start + np.flatnonzero(numbers < 0)).tolist())

    def _integers(self, vector: int, offset: int, values: Sequence[NDArray[Any] | None]) -> None:
        self._floats(vector, offset, values, "<i4")

    def _doubles(self, vector: int, offset: int, values: Sequence[NDArray[Any] | None]) -> None:
        self._floats(vector, offset, values, "<f8")
