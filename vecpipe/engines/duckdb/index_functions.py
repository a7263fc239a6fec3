"""The functions of resident indexes, as functions of Arrow columns; what they do is in ``indexes``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.columns.arrow import flat_array
from vecpipe.engines.duckdb.handles import query_rows
from vecpipe.engines.duckdb.index_checks import again, check_end, check_live, check_rows, named_rows
from vecpipe.engines.duckdb.indexes import Indexes, index_name
from vecpipe.engines.duckdb.model_functions import exact
from vecpipe.engines.duckdb.scalar import Scalar, constant
from vecpipe.errors import EngineError, InputError, SpecError
from vecpipe.kernels import one_blas_thread
from vecpipe.scoring import metric_named

_NAMED = pa.struct([("row", pa.int64()), ("mark", pa.int64()), ("needed", pa.int64())])
_MOST = np.iinfo(np.int32).max  # items in the lists of one batch
_NOTHING = (np.empty(0, np.int64),) * 3
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

    def rows_of(name: Any, model: Any, q: Any, tail: Any, *others: Any) -> Any:
        asked = query_rows(q, "vec_search: q")
        later = flat_array(tail)
        columns = (name, model, *others)
        ends, parts = np.zeros(len(asked) + 1, np.int64), []
        unasked = None if asked.valid is None else pa.array(~asked.valid)
        checked: set[tuple[Any, ...]] = set()
        for at, given in enumerate(zip(*(column.to_pylist() for column in columns), strict=True)):
            ends[at + 1] = ends[at]
            if asked.valid is not None and not asked.valid[at]:
                continue
            one, wanted, least, times, measure, cells, planned, transaction, place, database, source = given
            if not all(isinstance(number, int) and number >= 1 for number in (least, times, cells)):
                raise SpecError(
                    f"vec_search: k is {least!r}, oversample {times!r} and nprobe {cells!r}; expected whole numbers of "
                    "at least 1"
                )
            found = indexes.get(index_name(one), database)
            dim = found.index.model.dim
            if asked.dim != dim:
                raise InputError(f"vec_search: q has {asked.dim} dimensions, the index holds {dim}")
            if planned != found.last:
                raise EngineError("vec_search: the index was made again while the search was planned: search again")
            new = later[at].values
            new = np.empty(0, np.int64) if new is None else new.to_numpy()
            if (one, wanted, transaction) not in checked:  # one statement: the same tail for all queries
                checked.add((one, wanted, transaction))
                if wanted is not None:
                    indexes.check_model(one, found, wanted, transaction, place)
                check_end(found, new, transaction)
                indexes.check_table(one, database, found, source, transaction, place)
            if found.index.starts is not None and not asked.values[at].any():  # no cell is near to no direction
                continue
            with one_blas_thread():
                places = found.index.nearest(asked.values[at], least * times, metric_named(measure), cells)
            parts.append(named_rows(found, places, new, least))
            ends[at + 1] += len(parts[-1][0])
            if ends[at + 1] > _MOST:
                raise EngineError(f"too many rows have come since the index of {found.source} was made: {again(found)}")
        offsets = pa.array(ends.astype(np.int32))
        row, mark, needed = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else _NOTHING
        fields = [pa.array(row), pa.array(mark, mask=mark < 0), pa.array(needed)]
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(_NAMED)), mask=unasked)

    def score(name: Any, named: Any, live: Any, v: Any, query: Any, database: Any) -> Any:
        rows, vectors = flat_array(named), flat_array(v)
        found = indexes.get(index_name(constant(name, "vec_search: index")), constant(database, "vec_search: database"))
        check_rows(found, rows.field("mark"), vectors)
        check_live(found, rows.field("needed"), flat_array(live))
        return exact(vectors, query)

    yield Scalar(
        "_vec_index", "name, source, model, emb, place", _BUILT, "Behind vec_index.", build, volatile=True,
        by_chunk=False,
    )  # fmt: skip
    yield Scalar("_vec_index_drop", "name, database", "BOOLEAN", "Behind vec_index_drop.", drop, volatile=True)
    yield Scalar("_vec_indexes", "nothing", _LIST, "Behind vec_indexes.", listed, volatile=True)
    yield Scalar(
        "_vec_index_rows", "name, model, q, tail, k, oversample, metric, nprobe, end, now, place, database, source",
        "STRUCT(row BIGINT, mark BIGINT, needed BIGINT)[]", "Behind vec_search.", rows_of, volatile=True,
    )  # fmt: skip
    yield Scalar(
        "_vec_index_score", "name, named, live, v, query, database", "FLOAT", "Behind vec_search.", score, volatile=True
    )
