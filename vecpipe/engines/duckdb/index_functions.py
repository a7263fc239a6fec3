"""The functions of resident indexes, of DuckDB's columns and of Arrow columns; what they do is in ``indexes``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.arrays import Float32, Rows
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.duckdb.index_checks import again, check_end, check_live, check_rows, named_rows
from vecpipe.engines.duckdb.indexes import Indexes, index_name
from vecpipe.engines.duckdb.model_functions import exact
from vecpipe.engines.duckdb.native.memory import ANY, BIGINT, VARCHAR
from vecpipe.engines.duckdb.native.reading import Reader
from vecpipe.engines.duckdb.native.scalars import FloatFunction
from vecpipe.engines.duckdb.planning import Database
from vecpipe.engines.duckdb.scalar import Scalar, constant
from vecpipe.engines.duckdb.scores import read_vectors, scores_of
from vecpipe.engines.duckdb.text_functions import TextFunction, Texts, whole
from vecpipe.errors import EngineError, InputError, SpecError
from vecpipe.scoring import metric_named
from vecpipe.search.index import Places

_MOST = np.iinfo(np.int32).max  # items in the lists of one batch
_NOTHING = np.empty((3, 0), np.int64)
_BUILT = "STRUCT(name VARCHAR, rows BIGINT, bytes BIGINT, last_row BIGINT)"
_LIST = (
    "STRUCT(name VARCHAR, source VARCHAR, spec VARCHAR, rows BIGINT, bytes BIGINT, last_row BIGINT, cells INTEGER, "
    "database VARCHAR)[]"
)


def scalars(indexes: Indexes) -> Iterator[Scalar]:
    """Yield the functions of one database."""

    def build(*columns: Any) -> Any:
        made = []
        for values in zip(*(column.to_pylist() for column in columns), strict=True):
            if any(value is None for value in values[:4]):
                raise InputError("vec_index: name, source, model and emb must not be NULL")
            found = indexes.build(*values)
            made.append((values[0], len(found.index), found.index.nbytes, found.last))
        return pa.array([dict(zip(("name", "rows", "bytes", "last_row"), one, strict=True)) for one in made])

    def drop(name: Any, database: Any) -> Any:
        asked = zip(name.to_pylist(), database.to_pylist(), strict=True)
        return pa.array([indexes.drop(index_name(one), where) for one, where in asked], pa.bool_())

    def listed(nothing: Any) -> Any:
        rows = [
            {
                "name": name,
                "source": found.source,
                "spec": found.index.model.spec,
                "rows": len(found.index),
                "bytes": found.index.nbytes,
                "last_row": found.last,
                "cells": None if found.index.starts is None else len(found.index.starts) - 1,
                "database": database,
            }
            for (database, name), found in indexes.all().items()
        ]
        return pa.array([rows] * len(nothing))

    yield Scalar(
        "_vec_index", "name, source, model, emb, place", _BUILT, "Behind vec_index.", build, volatile=True,
        by_chunk=False,
    )  # fmt: skip
    yield Scalar("_vec_index_drop", "name, database", "BOOLEAN", "Behind vec_index_drop.", drop, volatile=True)
    yield Scalar("_vec_indexes", "nothing", _LIST, "Behind vec_indexes.", listed, volatile=True)


def _rows_of(
    database: Database, name: Texts, model: Texts, q: Rows, tail: Sequence[Places], k: Texts, oversample: Texts,
    metric: Texts, nprobe: Texts, end: Texts, now: Texts, place: Texts, where: Texts, source: Texts,
) -> Sequence[Places | None]:  # fmt: skip
    """Return for each query the rows to look at, with their marks, and how many of them have to be there still."""
    indexes, total = database.indexes, 0
    out: list[Places | None] = []
    checked: set[tuple[Any, ...]] = set()
    columns = name, model, k, oversample, metric, nprobe, end, now, place, where, source
    for at, given in enumerate(zip(*columns, strict=True)):
        if q.valid is not None and not q.valid[at]:
            out.append(None)
            continue
        one, wanted, most, times, measure, cells, planned, transaction, path, home, table = given
        least, more, probed = whole(most, "k"), whole(times, "oversample"), whole(cells, "nprobe")
        index, began = index_name(one), int(transaction or 0)
        found = indexes.get(index, home or "")
        dim = found.index.model.dim
        if q.dim != dim:
            raise InputError(f"vec_search: q has {q.dim} dimensions, the index holds {dim}")
        if planned != str(found.last):
            raise EngineError("vec_search: the index was made again while the search was planned: search again")
        new = tail[at]
        if (one, wanted, transaction) not in checked:  # one statement: the same tail for all queries
            checked.add((one, wanted, transaction))
            if wanted is not None:
                indexes.check_model(index, found, wanted, began, path or "")
            check_end(found, new, began)
            indexes.check_table(index, home or "", found, table or "", began, path or "")
        if found.index.starts is not None and not q.values[at].any():  # no cell is near to no direction
            out.append(_NOTHING)
            continue
        places = found.index.nearest(q.values[at], least * more, metric_named(measure), probed)
        named = np.stack(named_rows(found, places, new, least))
        out.append(named)
        total += named.shape[1]
        if total > _MOST:
            raise EngineError(f"too many rows have come since the index of {found.source} was made: {again(found)}")
    return out


def _scores(database: Database, reader: Reader, columns: Sequence[int], count: int) -> Float32:
    """Return the exact scores of rows that an index named, once they are known to hold what it says."""
    name, home, mark, needed, live, v, query = columns
    found = database.indexes.get(_constant(reader, name, count), _constant(reader, home, count))
    part = read_vectors(found.column, reader, v, count)
    marks, named = reader.fixed(mark, count, "<i8")
    check_rows(found, marks, named, part.values.astype(np.float32, copy=False), part.rows)
    check_live(found, *(reader.fixed(column, count, "<i8")[0] for column in (needed, live)))
    return scores_of(found.column, True, part, reader, query, count)


def _constant(reader: Reader, column: int, count: int) -> str:
    values = reader.by_value(column, count)
    if len(values) != 1:
        raise SpecError("vec_search: index must be the same for all rows of a statement")
    return values[0][0].decode()


_ROWS = TextFunction(
    "_vec_index_rows",
    "vec_search",
    "name, model, q, tail, k, oversample, metric, nprobe, end, now, place, database, source",
    "rows",
    _rows_of,
    volatile=True,
    fields=("row", "mark", "needed"),
)
NATIVE = (
    _ROWS.native(),
    FloatFunction(
        "_vec_index_score",
        "vec_search",
        (VARCHAR, VARCHAR, BIGINT, BIGINT, BIGINT, ANY, VARCHAR),
        _scores,
        registered=True,
        volatile=True,
    ),
)


def arrow_scalars(database: Database) -> Iterator[Scalar]:
    """Yield the functions of a search for a database without native ones."""

    def scores(name: Any, home: Any, mark: Any, needed: Any, live: Any, v: Any, query: Any) -> Any:
        found = database.indexes.get(constant(name, "vec_search: index"), constant(home, "vec_search: database"))
        read = to_rows(v, column=found.column, check_finite=False)
        named = mark.is_valid().to_numpy(zero_copy_only=False)
        there = None if read.valid is None else np.flatnonzero(read.valid)
        vectors = read.values if there is None else read.values[there]
        check_rows(found, mark.fill_null(-1).to_numpy(), named, vectors, there)
        check_live(found, needed.to_numpy(), live.to_numpy())
        return exact(v, query)

    yield _ROWS.arrow(database)
    arguments = "name, database, mark, needed, live, v, query"
    yield Scalar("_vec_index_score", arguments, "FLOAT", "Behind vec_search.", scores, volatile=True)
