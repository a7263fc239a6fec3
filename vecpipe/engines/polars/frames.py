"""The namespace ``.vec`` of frames and lazy frames: fitting, and the nearest rows of another frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Generic, TypeVar, cast

import numpy as np
import polars as pl

from vecpipe import model_columns
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.polars.columns import ModelLike, model_from
from vecpipe.errors import InputError, SpecError
from vecpipe.fitting.stream import fit
from vecpipe.kernels import one_blas_thread
from vecpipe.model import Model
from vecpipe.rules import OnInvalid
from vecpipe.scoring import Metric, metric_named
from vecpipe.search.candidates import Candidates
from vecpipe.sources import vector_column

_BLOCK_ROWS = 4_096
_PAIRS = 1 << 20

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
            Threads that compute; as many as there are processors by default, at most 8.
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

        The scores are those of ``vec_knn_join`` in SQL.

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
            go to the smaller id. NULL vectors and rows without a score (zero vectors, under cosine) are
            not there.
        """
        if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
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
            blocks = _blocks(other, theirs, their_id)
            return _join(queries, mine, id, blocks, k, chosen, found).cast(schema)

        if isinstance(self._frame, pl.LazyFrame):
            return cast(Frame, pl.defer(run, schema=schema))
        return cast(Frame, run())


def _join(
    queries: pl.DataFrame,
    column: str,
    id: str | None,
    blocks: Iterator[_Block],
    k: int,
    metric: Metric,
    model: Model | None,
) -> pl.DataFrame:
    rows = to_rows(queries[column], column=column, dim=None if model is None else model.dim)
    Q = rows.values if rows.valid is None else np.where(rows.valid[:, None], rows.values, np.float32(np.nan))
    asked = pl.int_range(len(queries), eager=True) if id is None else queries[id]
    if rows.nulls == len(rows):
        return _best([], asked, k)
    candidates = Candidates(Q, k, metric, model)
    found: list[pl.DataFrame] = []

    def offer(block: _Block) -> pl.DataFrame:
        items, ids = block.items(rows.dim, model)
        pairs = candidates.offer(items, lambda: ids.rank("ordinal").to_numpy().astype(np.int64))
        return pl.DataFrame({"at": pairs.queries, "id": ids.gather(pairs.rows), "score": pairs.scores})

    with one_blas_thread(), ThreadPoolExecutor(pl.thread_pool_size(), "vecpipe-join") as pool:
        pending: deque[Future[pl.DataFrame]] = deque()
        for block in blocks:
            pending.append(pool.submit(offer, block))
            if len(pending) > 2 * pl.thread_pool_size():
                found.append(pending.popleft().result())
            if sum(map(len, found)) > _PAIRS + 4 * k * len(queries):
                found = [_ranked(found, k)]
        found.extend(future.result() for future in pending)
    return _best(found, asked, k)


def _ranked(found: list[pl.DataFrame], k: int) -> pl.DataFrame:
    """Return the k best of each query; ties go to the smaller id."""
    rows = pl.concat(found).select("at", "id", "score").sort("at", "score", "id", descending=[False, True, False])
    return rows.with_columns(rank=1 + pl.int_range(pl.len()).over("at")).filter(pl.col("rank") <= k)


def _best(found: list[pl.DataFrame], asked: pl.Series, k: int) -> pl.DataFrame:
    """Return the result of a join: at most k rows of each query, best first."""
    if not found:
        return pl.DataFrame({"query_id": asked[:0], "id": [], "rank": [], "score": []})
    rows = _ranked(found, k)
    return rows.select(asked.gather(rows["at"]).alias("query_id"), "id", "rank", "score")


@dataclass(frozen=True)
class _Block:
    """Some rows to search, from ``start`` on."""

    rows: pl.DataFrame
    column: str
    id: str | None
    start: int

    def items(self, dim: int, model: Model | None) -> tuple[Any, pl.Series]:
        """Return what is to be scored, with ids; without the rows that are NULL."""
        series = self.rows[self.column]
        stop = self.start + len(series)
        ids = pl.int_range(self.start, stop, eager=True) if self.id is None else self.rows[self.id]
        values: Any
        if model is not None:
            values, valid = model_columns.read(model, series.to_arrow(), column=self.column, first_row=self.start)
        else:
            rows = to_rows(series, column=self.column, dim=dim, first_row=self.start)
            values, valid = rows.values, rows.valid
        return (values, ids) if valid is None else (values[valid], ids.filter(pl.Series(valid)))


def _blocks(frame: pl.DataFrame | pl.LazyFrame, column: str, id: str | None) -> Iterator[_Block]:
    start = 0
    for part in _batches(_columns(frame, column, id)):
        for rows in part.rechunk().iter_slices(_BLOCK_ROWS):
            yield _Block(rows, column, id, start)
            start += len(rows)


def _batches(frame: pl.DataFrame | pl.LazyFrame) -> Iterator[pl.DataFrame]:
    if isinstance(frame, pl.DataFrame):
        yield frame
    else:
        yield from frame.collect_batches(chunk_size=16 * _BLOCK_ROWS, engine="streaming")


def _columns(frame: Frame, *names: str | None) -> Frame:
    return frame.select(list(dict.fromkeys(name for name in names if name is not None)))


def _names(frame: pl.DataFrame | pl.LazyFrame) -> list[str]:
    return list(frame.lazy().collect_schema().names())


def _type(frame: pl.DataFrame | pl.LazyFrame, name: str) -> pl.DataType:
    return frame.lazy().collect_schema()[name]


def _vectors(frame: pl.DataFrame | pl.LazyFrame, column: str | None) -> str:
    """Return the name of the column of vectors: the one named, or the only one of lists."""
    return vector_column(frame.lazy().collect_schema().to_frame().to_arrow().schema, column)
