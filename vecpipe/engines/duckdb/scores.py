"""Scores of a BLOB column of codes, straight from DuckDB's memory: the native overload behind ``vec_score``.

Vectors, and databases opened before vecpipe was imported, take the Arrow function of ``functions`` instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32, Mask
from vecpipe.engines.duckdb.handles import query_of
from vecpipe.engines.duckdb.native.memory import BLOB, VARCHAR
from vecpipe.engines.duckdb.native.reading import Reader
from vecpipe.engines.duckdb.native.scalars import FloatFunction
from vecpipe.errors import InputError, SpecError
from vecpipe.kernels import one_blas_thread

NAME = "_vec_score"


def _rows(at: npt.NDArray[np.intp] | None, valid: Mask | None) -> npt.NDArray[np.intp] | None:
    """Return the rows of a group that are not NULL; None for all rows."""
    if valid is None:
        return at
    return np.flatnonzero(valid) if at is None else at[valid[at]]


def _scores(reader: Reader, columns: Sequence[int], count: int) -> Float32:
    code, handle = columns
    valid = reader.validity(code, count)
    out = None
    for text, at in reader.by_value(handle, count):
        query, rows = query_of(text.decode(errors="replace")), _rows(at, valid)
        model, queries = query.model, query.queries
        if model is None or queries is None:
            raise SpecError("codes cannot be scored without the model that wrote them; pass model := 'name'")
        if model.codec is None:
            raise InputError("vec_score: v: expected vectors, got BLOB; the model has no codec")
        codes = reader.codes(code, count, rows, model.bytes_per_vector, "vec_score: code")
        with one_blas_thread():
            scores: Float32 = model.score(queries, codes)[0]
        if rows is None:
            return scores
        if out is None:
            out = np.full(count, np.nan, np.float32)
        out[rows] = scores
    return np.full(count, np.nan, np.float32) if out is None else out


SCORES = (FloatFunction(NAME, "vec_score", (BLOB, VARCHAR), _scores),)
