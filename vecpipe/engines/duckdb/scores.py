"""Scores of codes and of vectors straight from DuckDB's memory: the native overloads behind every search.

Databases opened before vecpipe was imported take the Arrow functions of ``functions`` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Mask
from vecpipe.engines.duckdb.exact import Asked
from vecpipe.engines.duckdb.handles import NO_MODEL, Query, query_of
from vecpipe.engines.duckdb.last import Last
from vecpipe.engines.duckdb.native.aggregate import check_vectors
from vecpipe.engines.duckdb.native.memory import ANY, BIT, BLOB, VARCHAR
from vecpipe.engines.duckdb.native.reading import Reader, Vectors, inline
from vecpipe.engines.duckdb.native.scalars import FloatFunction
from vecpipe.errors import InputError, SpecError
from vecpipe.rules import check_width, nonfinite_rows, not_finite, wrong_code_length

Carried = Sequence[tuple[Query, npt.NDArray[np.intp] | None]]


def _rows(at: npt.NDArray[np.intp] | None, valid: Mask | None) -> npt.NDArray[np.intp] | None:
    """Return the rows of a group that are not NULL; None for all rows."""
    if valid is None:
        return at
    return np.flatnonzero(valid) if at is None else at[valid[at]]


def _bits(reader: Reader, vector: int, count: int, rows: npt.NDArray[np.intp] | None, width: int, column: str) -> Bytes:
    """Read codes from a BIT column, where each stands behind its number of unused bits."""
    found = reader.codes(vector, count, rows, width + 1, column, ahead=1)
    short = np.flatnonzero(found[:, 0])
    if short.size:
        at = int(short[0])
        row = at if rows is None else int(rows[at])
        raise wrong_code_length(column, row, 8 * width - int(found[at, 0]), 8 * width, "bits")
    return np.ascontiguousarray(found[:, 1:])


def _of_codes(kind: str, reader: Reader, columns: Sequence[int], count: int) -> Float32:
    code, handle = columns
    valid = reader.validity(code, count)
    out = None
    for text, at in reader.by_value(handle, count):
        query, rows = query_of(text.decode(errors="replace")), _rows(at, valid)
        model, queries = query.model, query.queries
        if model is None or queries is None:
            raise SpecError(NO_MODEL)
        if model.codec is None:
            raise InputError(f"vec_score: v: expected vectors, got {kind}; the model has no codec")
        read = _bits if kind == "BIT" else Reader.codes
        codes = read(reader, code, count, rows, model.bytes_per_vector, "vec_score: code")
        scores: Float32 = model.score(queries, codes)[0]
        if rows is None:
            return scores
        if out is None:
            out = np.full(count, np.nan, np.float32)
        out[rows] = scores
    return np.full(count, np.nan, np.float32) if out is None else out


def _no_codes(reader: Reader, columns: Sequence[int], count: int) -> Float32:
    raise SpecError(NO_MODEL)


def _of_vectors(label: str, raw: bool, reader: Reader, columns: Sequence[int], count: int) -> Float32:
    return scores_of(label, raw, read_vectors(label, reader, columns[0], count), reader, columns[1], count)


def read_vectors(label: str, reader: Reader, vector: int, count: int) -> Vectors:
    """Return the vectors of a chunk, all of one width and without NULL elements, but not looked into."""
    part = reader.vectors(vector, count, label)
    check_vectors(part, partial(_row, None, label), elements=False)
    return part


def scores_of(label: str, raw: bool, part: Vectors, reader: Reader, handles: int, count: int) -> Float32:
    """Return the scores of the vectors of a chunk for the queries in a column of handles, NaN for NULL.

    Parameters
    ----------
    label
        What errors call the vectors.
    raw
        Whether vectors are scored themselves even where a query was carried through a model.
    part
        From ``read_vectors``.
    """
    values = part.values
    out = np.full(count, np.nan, np.float32)
    if not len(values):
        return out
    exactly, carried = _asked(reader, handles, count, raw)
    if exactly is not None:
        scores = exactly.scores(_narrow(values), partial(_row, part.rows, label), part.rows)
        if part.rows is None and not carried:
            return scores
        out[slice(None) if part.rows is None else part.rows] = scores
    for query, at in carried:
        chosen, rows = (values, part.rows) if at is None else _some(part.rows, values, at, count)
        scores = _carried(query, chosen, rows, label)
        if rows is None:
            return scores
        out[rows] = scores
    return out


_LAST: Last[Asked] = Last()


def _asked(reader: Reader, column: int, count: int, raw: bool) -> tuple[Asked | None, Carried]:
    """Return the queries of a chunk: those of raw vectors, and those carried through a model with their rows."""
    key = reader.entries(column, count), raw
    known = _LAST.get(key)
    if known is not None:
        return known, ()
    groups = [(query_of(text.decode(errors="replace")), at) for text, at in reader.by_value(column, count)]
    exactly = [group for group in groups if raw or group[0].model is None]
    asked = Asked(exactly, count) if exactly else None
    if asked is not None and len(groups) == len(exactly) > 1 and inline(key[0]):
        _LAST.put(key, asked)
    return asked, [group for group in groups if not raw and group[0].model is not None]


def _some(
    rows: npt.NDArray[np.int64] | None, values: npt.NDArray[Any], at: npt.NDArray[np.intp], count: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Return the vectors at some rows of the chunk, and those of the rows that have one."""
    if rows is None:
        return values[at], at
    place = np.full(count, -1)
    place[rows] = np.arange(len(rows))
    there = at[place[at] >= 0]
    return values[place[there]], there


def _row(rows: npt.NDArray[np.int64] | None, label: str, i: int) -> str:
    return f"{label}: row {i if rows is None else int(rows[i])}"


def _narrow(values: npt.NDArray[Any]) -> Float32:
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _carried(query: Query, values: npt.NDArray[Any], rows: npt.NDArray[np.int64] | None, label: str) -> Float32:
    """Return the scores of what a model has written: vectors, or codes as arrays of bytes."""
    model = query.model
    assert model is not None
    assert query.queries is not None
    if model.codec is not None:
        if values.dtype != np.uint8:
            raise InputError(f"{label}: expected codes (BLOB), got vectors; the model {model.spec!r} writes codes")
        if values.shape[1] != model.bytes_per_vector:
            row = 0 if rows is None else int(rows[0])
            raise wrong_code_length("vec_score: code", row, values.shape[1], model.bytes_per_vector)
    else:
        check_width(values.shape[1], model.output_dim, _row(rows, label, 0))
        values = _narrow(values)
        bad = nonfinite_rows(values)
        if bad.size:
            raise not_finite(_row(rows, label, int(bad[0])), values[bad[0]])
    return np.asarray(model.score(query.queries, values)[0])


SCORES = (
    FloatFunction("_vec_score", "vec_score", (BLOB, VARCHAR), partial(_of_codes, "BLOB")),
    FloatFunction("_vec_score", "vec_score", (BIT, VARCHAR), partial(_of_codes, "BIT")),
    FloatFunction("_vec_score", "vec_score", (ANY, VARCHAR), partial(_of_vectors, "v", False)),
    FloatFunction("_vec_exact", "vec_exact", (BLOB, VARCHAR), _no_codes),
    FloatFunction("_vec_exact", "vec_exact", (ANY, VARCHAR), partial(_of_vectors, "v", True)),
)
