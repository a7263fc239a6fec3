"""The functions of resident indexes, as functions of Arrow columns; what they do is in ``indexes``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.arrays import flat_array
from vecpipe.engines.duckdb.functions import Scalar, constant
from vecpipe.engines.duckdb.handles import query_rows
from vecpipe.engines.duckdb.indexes import Indexes, OpenCursor, again, check, check_rows
from vecpipe.errors import EngineError, InputError, SpecError
from vecpipe.kernels import one_blas_thread
from vecpipe.scoring import metric_named

_NAMED = pa.list_(pa.struct([("row", pa.int64()), ("mark", pa.int64()), ("named", pa.int64())]))
_BUILT = "STRUCT(name VARCHAR, rows BIGINT, bytes BIGINT, last_row BIGINT)"
_LIST = (
    "STRUCT(name VARCHAR, source VARCHAR, spec VARCHAR, rows BIGINT, bytes BIGINT, last_row BIGINT, cells INTEGER)[]"
)


def scalars(open_cursor: OpenCursor) -> Iterator[Scalar]:
    """Yield the functions of one database."""
    indexes = Indexes(open_cursor)

    def build(name: Any, source: Any, model: Any, column: Any) -> Any:
        made = []
        for values in zip(*(part.to_pylist() for part in (name, source, model, column)), strict=True):
            if any(value is None for value in values):
                raise InputError("vec_index: name, source, model and emb must not be NULL")
            found = indexes.build(*values)
            made.append((values[0], len(found.index), found.index.nbytes, found.last))
        return pa.array([dict(zip(("name", "rows", "bytes", "last_row"), one, strict=True)) for one in made])

    def drop(name: Any) -> Any:
        return pa.array([indexes.drop(str(one)) for one in name.to_pylist()], pa.bool_())

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
            }
            for name, found in indexes.all().items()
        ]
        return pa.array([rows] * len(nothing))

    def rows_of(
        name: Any, model: Any, q: Any, count: Any, metric: Any, nprobe: Any, mark: Any, last_row: Any, transaction: Any
    ) -> Any:
        asked = query_rows(q, "vec_search: q")
        lists: list[list[dict[str, int | None]] | None] = []
        columns = (name, model, count, metric, nprobe, last_row, transaction)
        given = zip(*(column.to_pylist() for column in columns), strict=True)
        checked: set[tuple[Any, ...]] = set()
        for at, (one, wanted, most, measure, cells, end, now) in enumerate(given):
            if asked.valid is not None and not asked.valid[at]:
                lists.append(None)
                continue
            if not isinstance(most, int) or most < 1 or not isinstance(cells, int) or cells < 1:
                raise SpecError(
                    f"vec_search: k * oversample is {most!r} and nprobe {cells!r}; expected whole numbers of at least 1"
                )
            found = indexes.get(one)
            dim = found.index.model.dim
            if asked.dim != dim:
                raise InputError(f"vec_search: q has {asked.dim} dimensions, the index holds {dim}")
            if end != found.last:
                raise EngineError("vec_search: the index was made again while the search was planned: search again")
            if (one, wanted, now) not in checked:  # one statement: the same row in the same transaction for all queries
                checked.add((one, wanted, now))
                if wanted is not None:
                    indexes.check_model(one, wanted)
                if len(found.index):
                    check(found, mark[at : at + 1], now)
            with one_blas_thread():
                places = found.index.nearest(asked.values[at], most, metric_named(measure), cells)
            rows, marks = found.index.rows[places].tolist(), found.index.marks[places].tolist()
            named: list[dict[str, int | None]] = [
                {"row": row, "mark": mark, "named": len(rows)} for row, mark in zip(rows, marks, strict=True)
            ]
            if len(found.index) and found.last not in rows:
                # so that there is a row to count with
                named.append({"row": found.last, "mark": None, "named": len(rows)})
            lists.append(named)
        return pa.array(lists, _NAMED)

    def good(name: Any, named: Any, live: Any, k: Any, mark: Any, v: Any) -> Any:
        check_rows(indexes.get(constant(name, "vec_search: index")), flat_array(mark), flat_array(v))
        columns = (name, named, live, k)
        for one, count, there, wanted in set(zip(*(column.to_pylist() for column in columns), strict=True)):
            if count is not None and there < wanted <= count:
                source = indexes.get(one)
                raise EngineError(
                    f"of the {count} rows that the index of {source.source} names, {there} are still in the "
                    f"table, fewer than k = {wanted}: {again(source)}, or search with a larger oversample"
                )
        return pa.array(np.ones(len(name), dtype=bool))

    def last(name: Any) -> Any:
        return pa.array([None if one is None else indexes.get(one).last for one in name.to_pylist()], pa.int64())

    yield Scalar("_vec_index", "name, source, model, emb", _BUILT, "Behind vec_index.", build, volatile=True)
    yield Scalar(
        "vec_index_drop", "name", "BOOLEAN", "Forget a resident index and its file; whether there was one.", drop,
        volatile=True,
    )  # fmt: skip
    yield Scalar("_vec_indexes", "nothing", _LIST, "Behind vec_indexes.", listed, volatile=True)
    yield Scalar(
        "_vec_index_rows", "name, model, q, count, metric, nprobe, mark, last, transaction",
        "STRUCT(row BIGINT, mark BIGINT, named BIGINT)[]", "Behind vec_search.", rows_of, volatile=True,
    )  # fmt: skip
    yield Scalar(
        "_vec_index_good", "name, named, live, k, mark, v", "BOOLEAN", "Behind vec_search.", good, volatile=True
    )
    yield Scalar("_vec_index_last", "name", "BIGINT", "Behind vec_search.", last)
