"""Columns of an input chunk to NumPy: vectors of every layout, codes, weights, ids, texts.

Type ids are read before any data, and a type that is not understood is an error, never a guess.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecpipe.engines.duckdb.native.capi import Api
from vecpipe.engines.duckdb.native.memory import (
    ARRAY,
    BIGINT,
    DECIMAL,
    ELEMENTS,
    HUGEINT,
    LIST,
    SQLNULL,
    WIDE,
    Mask,
    array_at,
    gather,
    hugeints,
    type_name,
)
from vecpipe.errors import InputError
from vecpipe.rules import wrong_code_length


@dataclass
class Vectors:
    """The vectors of one chunk.

    Attributes
    ----------
    values : (m, d) array of any numeric dtype
        The rows at ``rows``, in order; a view of DuckDB's memory where its layout allows.
    rows : (m,) int64 array or None
        Positions in the chunk; None means all of them.
    nulls : (k,) int64 array
        Positions of NULL vectors.
    holes : (j,) int64 array
        Positions of vectors with a NULL element.
    ragged : list of Vectors
        Rows of other widths, one entry a width (LIST columns only).
    """

    values: NDArray[Any]
    rows: NDArray[np.int64] | None
    nulls: NDArray[np.int64]
    holes: NDArray[np.int64]
    ragged: list[Vectors]

    @property
    def width(self) -> int:
        """Number of dimensions."""
        return int(self.values.shape[1])


_NONE = np.empty(0, np.int64)


class Reader:
    """Reads the columns of an input chunk."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def _free_type(self, handle: int) -> None:
        self.api.free(self.api.destroy_logical_type, handle)

    def validity(self, vector: int, count: int) -> Mask | None:
        """Return which of the first ``count`` entries are not NULL, or None when all are."""
        address = self.api.vector_get_validity(vector)
        if not address or not count:
            return None
        words = array_at(address, (count + 63) // 64, "<u8")
        mask: Mask = np.unpackbits(words.view(np.uint8), count=count, bitorder="little").view(np.bool_)
        return None if mask.all() else mask

    def _element(self, logical: int, column: str) -> tuple[str, float]:
        """Return the NumPy typestr of a list's element and its decimal scale factor."""
        type_id = self.api.get_type_id(logical)
        if type_id in ELEMENTS and type_id != 1:
            return ELEMENTS[type_id], 1.0
        if type_id == DECIMAL:
            inner = self.api.decimal_internal_type(logical)
            if inner in (3, 4, 5, 16):
                return ELEMENTS.get(inner, WIDE), 10.0 ** self.api.decimal_scale(logical)
        if type_id == HUGEINT:
            return WIDE, 1.0
        if type_id == SQLNULL:
            return "", 1.0
        raise InputError(f"{column}: elements are {type_name(type_id)}; expected floats, integers or decimals")

    def vectors(self, vector: int, count: int, column: str = "v") -> Vectors:
        """Read a vector column; refuses every other type before touching its data."""
        api = self.api
        logical = api.vector_get_column_type(vector)
        try:
            type_id = api.get_type_id(logical)
            if type_id == SQLNULL:
                return Vectors(np.empty((0, 0), np.float32), _NONE, np.arange(count), _NONE, [])
            if type_id not in (ARRAY, LIST):
                raise InputError(
                    f"{column}: expected a list or array of numbers, got {type_name(type_id)}; "
                    "cast the column to FLOAT[n] or FLOAT[] first"
                )
            fixed = type_id == ARRAY
            child_type = (api.array_type_child_type if fixed else api.list_type_child_type)(logical)
            try:
                typestr, scale = self._element(child_type, column)
            finally:
                self._free_type(child_type)
            width = int(api.array_type_array_size(logical)) if fixed else 0
        finally:
            self._free_type(logical)
        valid = self.validity(vector, count)
        nulls = _NONE if valid is None else np.flatnonzero(~valid)
        rows = None if valid is None else np.flatnonzero(valid)
        if not typestr:  # a list of untyped NULLs: [NULL]
            kept = np.arange(count) if rows is None else rows
            return Vectors(np.empty((0, 0), np.float32), _NONE, nulls, kept, [])
        if fixed:
            child = api.array_vector_get_child(vector)
            flat = array_at(api.vector_get_data(child), count * width, typestr).reshape(count, width)
            return self._dense(flat, rows, nulls, self.validity(child, count * width), scale)
        return self._lists(vector, count, rows, nulls, typestr, scale)

    def _dense(
        self, table: NDArray[Any], rows: NDArray[np.int64] | None, nulls: NDArray[np.int64], present: Mask | None,
        scale: float,
    ) -> Vectors:  # fmt: skip
        holes = _NONE
        if present is not None:
            whole = np.asarray(present.reshape(table.shape).all(axis=1))
            if rows is not None:
                whole_rows, holes = rows[whole[rows]], rows[~whole[rows]]
                rows = whole_rows
            elif not whole.all():
                rows, holes = np.flatnonzero(whole), np.flatnonzero(~whole)
        values = table if rows is None else table[rows]
        if values.dtype.itemsize == 16:
            values = hugeints(values)
        return Vectors(values if scale == 1.0 else values / scale, rows, nulls, holes, [])

    def _lists(
        self, vector: int, count: int, rows: NDArray[np.int64] | None, nulls: NDArray[np.int64], typestr: str,
        scale: float,
    ) -> Vectors:  # fmt: skip
        api = self.api
        entries = array_at(api.vector_get_data(vector), 2 * count, "<u8").reshape(count, 2)
        kept = np.arange(count) if rows is None else rows
        starts, lengths = (entries[kept, i].astype(np.int64) for i in (0, 1))
        size = int(api.list_vector_get_size(vector))
        outside = (starts < 0) | (lengths < 0) | (starts + lengths > size)
        if outside.any():
            raise InputError("a list reaches past the end of its vector (a DuckDB layout this version cannot read)")
        child = api.list_vector_get_child(vector)
        data = array_at(api.vector_get_data(child), size, typestr)
        present = self.validity(child, size)
        out: list[Vectors] = []
        for width in np.unique(lengths).tolist():
            same = lengths == width
            at, where = starts[same], kept[same]
            whole = len(where) == count and count > 0 and bool((np.diff(at) == width).all())
            if whole:
                span = slice(int(at[0]), int(at[0]) + count * width)
                table, mask = data[span].reshape(count, width), None if present is None else present[span]
                part = self._dense(table, None, _NONE, mask, scale)
            else:
                index = at[:, None] + np.arange(width)
                table, mask = data[index], None if present is None else present[index]
                part = self._dense(table, None, _NONE, mask, scale)
                part.holes = where[part.holes]
                part.rows = where if part.rows is None else where[part.rows]
            out.append(part)
        if not out:
            return Vectors(np.empty((0, 0), np.float32), _NONE, nulls, _NONE, [])
        first, *others = sorted(out, key=lambda part: -len(part.values))
        first.nulls, first.ragged = nulls, others
        return first

    def doubles(self, vector: int, count: int) -> tuple[NDArray[np.float64], Mask | None]:
        """Read a DOUBLE column: values (a view) and which are not NULL."""
        return array_at(self.api.vector_get_data(vector), count, "<f8"), self.validity(vector, count)

    def fixed(self, vector: int, count: int, typestr: str) -> tuple[NDArray[Any], Mask | None]:
        """Read a column of fixed-size items, such as BIGINT or UUID."""
        return array_at(self.api.vector_get_data(vector), count, typestr), self.validity(vector, count)

    def strings(self, vector: int, rows: NDArray[np.int64]) -> list[bytes]:
        """Read VARCHAR or BLOB values at rows that are known not to be NULL."""
        if not len(rows):
            return []
        base = int(self.api.vector_get_data(vector))
        heads = array_at(base, 4 * (int(rows.max()) + 1), "<u4").reshape(-1, 4)[rows]
        sizes = heads[:, 0].tolist()
        addresses = np.ascontiguousarray(heads[:, 2:]).view("<u8").ravel().tolist()
        read = ctypes.string_at
        return [
            read(base + 16 * row + 4 if size <= 12 else address, size)
            for row, size, address in zip(rows.tolist(), sizes, addresses, strict=True)
        ]

    def number_lists(self, vector: int, count: int) -> list[NDArray[np.int64]]:
        """Read a BIGINT[] column as views; one of nothing for NULL."""
        api = self.api
        child = api.list_vector_get_child(vector) if self.type_of(vector) == LIST else None
        if child is None or self.type_of(child) != BIGINT:
            raise InputError("expected lists of BIGINT")
        entries = array_at(api.vector_get_data(vector), 2 * count, "<u8").reshape(count, 2).astype(np.int64)
        data = array_at(api.vector_get_data(child), int(api.list_vector_get_size(vector)), "<i8")
        valid = self.validity(vector, count)
        if valid is not None:
            entries[~valid] = 0
        return [data[start : start + length] for start, length in entries.tolist()]

    def type_of(self, vector: int) -> int:
        """Return the type id of a column."""
        logical = self.api.vector_get_column_type(vector)
        try:
            return int(self.api.get_type_id(logical))
        finally:
            self._free_type(logical)

    def texts(self, vector: int, count: int) -> list[str | None]:
        """Read a VARCHAR column; None for NULL."""
        return [None if value is None else value.decode() for value in self.blobs(vector, count)]

    def blobs(self, vector: int, count: int) -> list[bytes | None]:
        """Read a BLOB column; None for NULL.

        Without NumPy, which takes several times as long for the one row that a plan asks for.
        """
        read, address = ctypes.string_at, self.api.vector_get_validity(vector)
        if count > 1 and not address:
            one = self._only_string(vector, count)
            if one is not None:
                return [one] * count
        entries = read(self.api.vector_get_data(vector), 16 * count)
        present = int.from_bytes(read(address, (count + 63) // 64 * 8), "little") if address else -1
        out: list[bytes | None] = []
        for row in range(count):
            entry = entries[16 * row : 16 * row + 16]
            size = int.from_bytes(entry[:4], "little")
            if not present >> row & 1:
                out.append(None)
            elif size <= 12:
                out.append(entry[4 : 4 + size])
            else:
                out.append(read(int.from_bytes(entry[8:], "little"), size))
        return out

    def _only_string(self, vector: int, count: int) -> bytes | None:
        """Return the value that all entries point to, none of them NULL; None where entries differ.

        Compared as bytes: it is asked for every chunk, and NumPy would hand the interpreter's lock around for it.
        """
        entries = ctypes.string_at(self.api.vector_get_data(vector), 16 * count)
        if entries != entries[:16] * count:
            return None
        size = int.from_bytes(entries[:4], "little")
        if size <= 12:
            return entries[4 : 4 + size]
        return ctypes.string_at(int.from_bytes(entries[8:16], "little"), size)

    def constant_strings(self, vector: int, count: int) -> tuple[list[bytes], NDArray[np.intp] | None]:
        """Read a VARCHAR column that is expected to be constant.

        Returns the distinct values and, when there are several, the index of each row's value.
        """
        one = self._only_string(vector, count)
        if one is not None:
            return [one], None
        values = self.strings(vector, np.arange(count))
        distinct = sorted(set(values))
        if len(distinct) == 1:
            return distinct, None
        index = {value: i for i, value in enumerate(distinct)}
        return distinct, np.fromiter((index[value] for value in values), np.intp, count)

    def entries(self, vector: int, count: int) -> bytes:
        """Return a VARCHAR column as DuckDB keeps it, 16 bytes a row; nothing where a row is NULL."""
        if self.validity(vector, count) is not None:
            return b""
        return ctypes.string_at(self.api.vector_get_data(vector), 16 * count)

    def by_value(self, vector: int, count: int) -> list[tuple[bytes, NDArray[np.intp] | None]]:
        """Return each distinct value of a VARCHAR column with its rows (None for all); NULL rows are left out."""
        valid = self.validity(vector, count)
        if valid is None:
            one = self._only_string(vector, count)
            if one is not None:
                return [(one, None)]
        rows = np.arange(count) if valid is None else np.flatnonzero(valid)
        found: dict[bytes, list[int]] = {}
        for row, value in zip(rows.tolist(), self.strings(vector, rows), strict=True):
            found.setdefault(value, []).append(row)
        return [(value, np.array(at, np.intp)) for value, at in found.items()]

    def codes(
        self, vector: int, count: int, rows: NDArray[np.intp] | None, width: int, column: str, ahead: int = 0
    ) -> NDArray[np.uint8]:
        """Read values of one length from a BLOB column: ``(m, width)``, at rows (None for all) that are not NULL.

        ``ahead`` is how many of the bytes are not the caller's, and not spoken of.

        Raises
        ------
        InputError
            A value has another length.
        """
        base = self.api.vector_get_data(vector)
        if rows is not None or not _even_lengths(base, count, width):
            lengths = array_at(base, 4 * count, "<u4")[::4]
            lengths = lengths if rows is None else lengths[rows]
            wrong = lengths != width
            if wrong.any():
                at = int(wrong.argmax())
                row = at if rows is None else int(rows[at])
                raise wrong_code_length(column, row, int(lengths[at]) - ahead, width - ahead)
        if width <= 12:
            inline = array_at(base, 16 * count, "|u1").reshape(count, 16)[:, 4 : 4 + width]
            return np.ascontiguousarray(inline if rows is None else inline[rows])
        addresses = array_at(base, 2 * count, "<i8")[1::2]
        return gather(addresses if rows is None else addresses[rows], width)


def inline(entries: bytes) -> bool:
    """Whether the entries of a VARCHAR column are there and hold all of their texts, pointing to none."""
    return bool(entries) and int(np.frombuffer(entries, "<u4")[::4].max(initial=0)) <= 12


def _even_lengths(base: int, count: int, width: int) -> bool:
    """Whether all strings of a vector have ``width`` bytes.

    Compared as bytes: it is asked for every chunk, and NumPy would hand the interpreter's lock around for it.
    """
    heads = ctypes.string_at(base, 16 * count)
    return all(heads[at::16] == bytes([byte]) * count for at, byte in enumerate(width.to_bytes(4, "little")))
