"""Polars series to matrices and back, a piece at a time over several threads.

A piece stays in cache through all the steps of a model, and BLAS runs at one thread while several pieces are under
way: cheaper than the whole column at once, and no more memory than the column and its result.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from vecpipe import model_columns
from vecpipe.arrays import Float32, Mask, Rows
from vecpipe.columns.results import to_codes, to_vectors
from vecpipe.columns.vectors import finite_rows, to_rows
from vecpipe.errors import InputError, SpecError
from vecpipe.kernels import one_blas_thread
from vecpipe.model import Model
from vecpipe.rules import OnInvalid, rows_named
from vecpipe.scoring import Metric, exact_scores

_ROWS = 1_024
_CODE_ROWS = 8_192

Values = npt.NDArray[Any]
Piece = tuple[Values, Mask | None]
ModelLike = Model | bytes | str | Path


def model_from(model: ModelLike) -> Model:
    """Return the model itself, or the one in these bytes or in this file.

    Raises
    ------
    InputError
        There is no such file, or this is neither a model, nor bytes, nor a path.
    ModelFormatError
        The bytes are not a readable model.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, bytes | bytearray | memoryview):
        return Model.from_bytes(bytes(model))
    if isinstance(model, str | Path):
        return Model.load(model)
    raise InputError(f"expected a model, its bytes or the path of a saved one, got {type(model).__name__}")


def one_query(q: Any, dim: int | None) -> Float32:
    """Return one query vector as ``(1, d) float32``.

    Raises
    ------
    InputError
        Not one vector of finite numbers, or of another width than ``dim``.
    """
    if isinstance(q, pl.Series):
        q = q.to_list() if q.dtype.is_nested() else [q.to_list()]
    try:
        found = np.atleast_2d(np.asarray(q, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"q: expected one vector of numbers ({error})") from error
    if len(found) != 1:
        raise InputError(f"q: expected one vector, got an array of shape {found.shape}")
    return to_rows(found, column="q", dim=dim).values


def transform(model: Model, series: pl.Series, on_invalid: OnInvalid, *, queries: bool = False) -> pl.Series:
    """Return the vectors after the model's steps, ``Array(Float32, k)``; ``queries`` takes the query side."""
    apply = model.transform_queries if queries else model.transform

    def piece(column: Any, start: int) -> Piece:
        rows = _rows(column, series, model.dim, on_invalid, start)
        return apply(rows.values, rows.valid)

    values, valid = _in_pieces(series, model.output_dim, np.float32, _ROWS, piece)
    return vector_series(series.name, values, valid)


def encode(model: Model, series: pl.Series, on_invalid: OnInvalid) -> pl.Series:
    """Return the codes of vectors, ``Binary``."""

    def piece(column: Any, start: int) -> Piece:
        rows = _rows(column, series, model.dim, on_invalid, start)
        with rows_named(_label(series), start):
            return model.encode(rows.values, rows.valid, finite=True)

    codes, valid = _in_pieces(series, model.bytes_per_vector, np.uint8, _ROWS, piece)
    return pl.Series(series.name, to_codes(codes, valid, fixed=True))


def decode(model: Model, series: pl.Series) -> pl.Series:
    """Return the vectors that codes stand for (for a model without codec: undo its steps), ``Array(Float32, d)``."""

    def piece(column: Any, start: int) -> Piece:
        items, valid = model_columns.read(model, column, column=_label(series), first_row=start)
        return model_columns.undone(model, items), valid

    values, valid = _in_pieces(series, model.dim, np.float32, _CODE_ROWS, piece)
    return vector_series(series.name, values, valid)


def score(model: Model | None, q: Float32, metric: Metric) -> Callable[[pl.Series], pl.Series]:
    """Return a function that scores codes (transformed vectors for a model without codec, raw ones without a model).

    Parameters
    ----------
    q : (1, d) float32
    """
    prepared = None if model is None else model.prepare(q, metric)

    def of(series: pl.Series) -> pl.Series:
        def piece(column: Any, start: int) -> Piece:
            if model is None or prepared is None:
                rows = _rows(column, series, q.shape[1], "error", start)
                return exact_scores(q, rows.values, metric).T, rows.valid
            items, valid = model_columns.read(model, column, column=_label(series), first_row=start)
            return model.score(prepared, items).T, valid

        scores, valid = _in_pieces(series, 1, np.float32, _CODE_ROWS, piece)
        missing = np.isnan(scores[:, 0]) if valid is None else np.isnan(scores[:, 0]) | ~valid
        return pl.Series(series.name, pa.array(scores[:, 0], mask=missing if missing.any() else None))

    return of


def is_valid(series: pl.Series) -> pl.Series:
    """Return whether every element of a vector is a finite number; NULL for NULL."""
    found = finite_rows(series, column=series.name)
    missing = series.is_null().to_numpy()
    return pl.Series(series.name, pa.array(found, mask=missing if missing.any() else None))


def width_of(series: pl.Series) -> int | None:
    """Return the width of the vectors: the column's own, or the one most rows have; None where all are NULL.

    Raises
    ------
    InputError
        Not a column of vectors, a ragged row, or one that is not finite.
    """
    if series.null_count() == len(series):
        return None
    if isinstance(series.dtype, pl.Array):
        return int(series.dtype.size)
    return to_rows(series, column=_label(series)).dim


def vector_series(name: str, values: Float32, valid: Mask | None) -> pl.Series:
    """Return an ``Array(Float32, k)`` series over a matrix, without copying it."""
    return pl.Series(name, to_vectors(values, valid, fixed=True))


def _label(series: pl.Series) -> str:
    """Return what errors call a column. Rows are counted in what Polars hands over, which may be a part of it."""
    return f"{series.name} (batch of {len(series):,} rows)"


def _rows(column: Any, series: pl.Series, dim: int, on_invalid: OnInvalid, start: int) -> Rows:
    return to_rows(column, column=_label(series), dim=dim, on_invalid=on_invalid, first_row=start)


def _in_pieces(
    series: pl.Series, width: int, kind: Any, size: int, piece: Callable[[Any, int], Piece]
) -> tuple[Values, Mask | None]:
    """Return ``(n, width)`` results and the rows that have one; ``piece`` gets Arrow rows and where they start."""
    n = len(series)
    column = _arrow(series)
    out = np.empty((n, width), dtype=kind)
    valid = np.ones(n, dtype=bool)

    def work(start: int) -> None:
        values, kept = piece(column.slice(start, size), start)
        out[start : start + size] = values
        if kept is not None:
            valid[start : start + size] = kept

    starts = range(0, n, size)
    threads = min(len(starts), pl.thread_pool_size())
    with one_blas_thread():
        if threads <= 1:
            for start in starts:
                work(start)
        else:
            with ThreadPoolExecutor(threads, "vecpipe-polars") as pool:
                for _ in pool.map(work, starts):
                    pass
    return out, None if valid.all() else valid


def _arrow(series: pl.Series) -> Any:
    """Return a series as one Arrow array, sharing its memory where the layouts are the same.

    Raises
    ------
    SpecError
        A type that Arrow has no array for, such as Object.
    """
    try:
        return series.rechunk().to_arrow()
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise SpecError(f"{series.name}: a column of {series.dtype} cannot be read ({error})") from error
