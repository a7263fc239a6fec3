"""The namespace ``.vec`` of frames and lazy frames: fitting, and the nearest rows of another frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast

import numpy as np
import polars as pl

from vecpipe.arrays import Float32, Mask, OnInvalid, from_codes, to_rows
from vecpipe.engines.polars.columns import ModelLike, model_from
from vecpipe.errors import InputError, SpecError
from vecpipe.fitting import fit
from vecpipe.pipeline import Model
from vecpipe.scoring import Metric, metric_named
from vecpipe.search.join import BLOCK_ROWS, nearest_rows
from vecpipe.sources import vector_column

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


class VecFrame(Generic[Frame]):
    """``frame.vec``: fit a model from a column of vectors, find the nearest rows of another frame.

    A ``LazyFrame`` is read in batches by the streaming engine, and only the columns that are needed.
    """

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def fit(
        self,
        spec: str,
        *,
        column: str | None = None,
        weight: str | None = None,
        queries: pl.DataFrame | pl.LazyFrame | None = None,
        on_invalid: OnInvalid = "error",
        threads: int | None = None,
    ) -> Model:
        """Fit a spec in one pass over the rows; the same model as ``vecpipe.fit`` makes from them.

        Parameters
        ----------
        column
            Column of the vectors; not needed where only one column holds lists.
        weight
            Column of row weights.
        queries
            A frame of sample queries with the same column, for operators that are fitted to them too.
        on_invalid
            What a ragged, NaN or infinite row does: ``"error"`` stops, ``"null"`` leaves it out and counts it.
        threads
            Threads that compute; as many as there are processors by default.
        """
        name = _vectors(self._frame, column)
        wanted = [name] if weight is None else [name, weight]
        missing = [each for each in wanted if each not in _names(self._frame)]
        if missing:
            raise InputError(f"no column {missing[0]!r}; there are {', '.join(_names(self._frame))}")
        asked = None if queries is None else queries.select(_vectors(queries, column or name))
        rows = self._frame.select(wanted)
        return fit(rows, spec, column=name, weight=weight, queries=asked, on_invalid=on_invalid, threads=threads)

    def knn_join(
        self,
        other: pl.DataFrame | pl.LazyFrame,
        *,
        k: int = 10,
        column: str | None = None,
        other_column: str | None = None,
        id: str | None = "id",
        other_id: str | None = None,
        model: ModelLike | None = None,
        metric: str = "cosine",
    ) -> Frame:
        """Return the k rows of another frame nearest to each row of this one, by exact products of blocks.

        Parameters
        ----------
        other
            The frame to search. A lazy one is streamed: its rows are never in memory together.
        column
            Column of query vectors; not needed where only one column holds lists.
        other_column
            Column to search, ``column`` by default: raw vectors, or with ``model`` the codes that it wrote (for a
            model without codec, the vectors it returned).
        id, other_id
            Columns that name the rows here and there; ``other_id`` is ``id`` by default. None numbers the rows.
        model
            The model of the codes; query vectors are raw in any case.
        metric
            ``cosine``, ``ip`` (inner product) or ``l2`` (minus the distance).

        Returns
        -------
        Frame
            ``query_id, id, rank, score``, a lazy frame from a lazy one: rank from 1, larger scores are closer, ties
            go to the row that comes first. NULL vectors and rows without a score (zero vectors, under cosine) are
            not there.
        """
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise SpecError(f"knn_join: k is {k!r}; expected an integer of at least 1")
        found = None if model is None else model_from(model)
        chosen = metric_named(metric)
        mine = _vectors(self._frame, column)
        theirs = other_column or (mine if found is None or found.codec is None else None)
        if theirs is None:
            raise InputError("knn_join: name the column of codes with other_column=")
        their_id = id if other_id is None else other_id
        for frame, names in ((self._frame, (mine, id)), (other, (theirs, their_id))):
            for name in names:
                if name is not None and name not in _names(frame):
                    raise InputError(f"knn_join: no column {name!r}; there are {', '.join(_names(frame))}")
        schema = {
            "query_id": pl.Int64() if id is None else _type(self._frame, id),
            "id": pl.Int64() if their_id is None else _type(other, their_id),
            "rank": pl.Int64(),
            "score": pl.Float32(),
        }

        def run() -> pl.DataFrame:
            queries = _columns(self._frame, mine, id).lazy().collect()
            blocks = _Blocks(_columns(other, theirs, their_id), theirs, their_id, found)
            return _join(queries, mine, id, blocks, k, chosen, found).cast(schema)

        if isinstance(self._frame, pl.LazyFrame):
            return cast(Frame, pl.defer(run, schema=schema))
        return cast(Frame, run())


def _join(
    queries: pl.DataFrame, column: str, id: str | None, blocks: _Blocks, k: int, metric: Metric, model: Model | None
) -> pl.DataFrame:
    rows = to_rows(queries[column], column=column, dim=None if model is None else model.dim)
    live = np.arange(len(rows)) if rows.valid is None else np.flatnonzero(rows.valid)
    blocks.dim = rows.dim if model is None and len(live) else None
    places, scores = nearest_rows(rows.kept(), blocks, k, metric, model)
    there = places >= 0
    rank = np.broadcast_to(np.arange(1, k + 1), places.shape)[there]
    asked = pl.Series("query_id", np.repeat(live, there.sum(axis=1)), dtype=pl.Int64)
    found = pl.Series("id", places[there], dtype=pl.Int64)
    return pl.DataFrame(
        {
            "query_id": asked if id is None else queries[id].gather(asked),
            "id": blocks.ids(found),
            "rank": rank,
            "score": scores[there],
        }
    )


class _Blocks:
    """The rows to search, a block at a time, remembering their ids on the way."""

    def __init__(self, frame: pl.DataFrame | pl.LazyFrame, column: str, id: str | None, model: Model | None) -> None:
        self._frame, self._column, self._id, self._model = frame, column, id, model
        self._ids: list[pl.Series] = []
        self.dim: int | None = None

    def __iter__(self) -> Iterator[tuple[Any, Mask | None]]:
        start = 0
        for part in _batches(self._frame):
            if self._id is not None:
                self._ids.append(part[self._id])
            for piece in part[self._column].rechunk().to_frame().iter_slices(BLOCK_ROWS):
                yield self._items(piece[self._column], start)
                start += len(piece)

    def _items(self, series: pl.Series, start: int) -> tuple[Float32 | Any, Mask | None]:
        model = self._model
        if model is not None and model.codec is not None:
            return from_codes(series.to_arrow(), model.bytes_per_vector, column=self._column)
        dim = self.dim if model is None else model.output_dim
        rows = to_rows(series, column=self._column, dim=dim, first_row=start)
        return rows.values, rows.valid

    def ids(self, places: pl.Series) -> pl.Series:
        """Return the ids of the rows at these places."""
        if self._id is None:
            return places
        return (
            pl.concat(self._ids).gather(places)
            if self._ids
            else _columns(self._frame, self._id).lazy().collect()[self._id]
        )


def _batches(frame: pl.DataFrame | pl.LazyFrame) -> Iterator[pl.DataFrame]:
    if isinstance(frame, pl.DataFrame):
        yield frame
    else:
        yield from frame.collect_batches(chunk_size=16 * BLOCK_ROWS, engine="streaming")


def _columns(frame: Frame, *names: str | None) -> Frame:
    return frame.select(list(dict.fromkeys(name for name in names if name is not None)))


def _names(frame: pl.DataFrame | pl.LazyFrame) -> list[str]:
    return list(frame.lazy().collect_schema().names())


def _type(frame: pl.DataFrame | pl.LazyFrame, name: str) -> pl.DataType:
    return frame.lazy().collect_schema()[name]


def _vectors(frame: pl.DataFrame | pl.LazyFrame, column: str | None) -> str:
    """Return the name of the column of vectors: the one named, or the only one of lists."""
    return vector_column(frame.lazy().collect_schema().to_frame().to_arrow().schema, column)
