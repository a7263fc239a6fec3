"""Behind vec_recall: a search as it is set, run for sample queries and held against exact search.

It opens a cursor of its own and so sees what is committed, not the names of a WITH clause.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from vecpipe.arrays import Float32
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.duckdb import catalog
from vecpipe.engines.duckdb.places import OpenCursor, refuse_temporary
from vecpipe.engines.duckdb.scalar import Scalar
from vecpipe.errors import EngineError, InputError, SpecError
from vecpipe.metrics.audit import ExactBest
from vecpipe.metrics.interval import wilson
from vecpipe.scoring import metric_named
from vecpipe.sql_names import by_name, quoted

_ROWS = 16_384
_AUDIT = pa.struct(
    [
        ("queries", pa.int32()),
        ("k", pa.int32()),
        ("recall", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("worst", pa.float64()),
        ("search_ms", pa.float64()),
    ]
)
# A list of one: unnested, a struct would be made anew for each of its fields.
_RETURNS = (
    "STRUCT(queries INTEGER, k INTEGER, recall DOUBLE, low DOUBLE, high DOUBLE, worst DOUBLE, search_ms DOUBLE)[]"
)
_SETTINGS = (
    *("model", "code", "bits", "rerank", "stages", "models", "cell", "index", "ties", "nprobe", "k", "oversample"),
    "metric",
)


def scalars(open_cursor: OpenCursor) -> Iterator[Scalar]:
    """Yield the function for a database that cursors can be opened on."""
    yield Scalar(
        "_vec_recall",
        "source, queries, vectors, q, sample, settings, place, temporary",
        _RETURNS,
        "Behind vec_recall.",
        _recall(open_cursor),
        volatile=True,
        by_chunk=False,
    )


def _recall(open_cursor: OpenCursor) -> Callable[..., Any]:
    def recall(*columns: Any) -> Any:
        audits = []
        for *values, place, temporary in zip(*(column.to_pylist() for column in columns), strict=True):
            if any(value is None for value in values[:5]):
                raise InputError("vec_recall: source, queries, vectors, q and sample must not be NULL")
            for table in values[:2]:
                refuse_temporary(table, temporary, "vec_recall")
            cursor = open_cursor(place)
            try:
                audits.append(_audit(cursor, *values))
            finally:
                cursor.close()
        return pa.array([[audit] for audit in audits], pa.list_(_AUDIT))

    return recall


def _audit(
    cursor: duckdb.DuckDBPyConnection,
    source: str,
    queries: str,
    vectors: str,
    q: str,
    sample: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    given = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
    for name in ("k", "metric"):
        if name not in given:
            raise InputError(f"vec_recall: {name} must not be NULL")
    k, metric = int(given["k"]), metric_named(given["metric"])
    if k < 1 or sample < 1:
        raise SpecError(f"vec_recall: k is {k} and sample is {sample}; expected at least 1 of each")
    if not given.keys() & {"code", "rerank", "stages"}:
        raise SpecError("vec_recall needs code := or rerank := with the name of a column, or stages :=")
    if "cell" not in given and "index" not in given:
        given.pop("nprobe", None)
        if "code" not in given and "bits" not in given:
            given.pop("model", None)
    asked = _sampled(cursor, queries, q, int(sample))
    best = ExactBest(asked, k, metric)
    for rows in _batches(cursor, f"SELECT {quoted(vectors)} FROM {by_name(source)}", asked.shape[1]):
        best.add(rows)
    arguments = "".join(f", {name} := ${name}" for name in given)
    search = "vec_search_stages" if "stages" in given else "vec_search_bits" if "bits" in given else "vec_search"
    sql = f"SELECT {quoted(vectors)} FROM {search}($source, $q::FLOAT[{asked.shape[1]}]{arguments})"
    shares, spent = [], []
    for row, one in enumerate(asked):
        start = time.perf_counter()
        found = catalog.run(cursor, sql, {"source": source, "q": one.tolist(), **given}).fetchall()
        spent.append(time.perf_counter() - start)
        share = best.recall(row, np.array([value for (value,) in found], np.float32).reshape(-1, asked.shape[1]))
        if share is not None:
            shares.append(share)
    known = np.array(shares, dtype=np.float64)
    if not len(known):
        raise InputError("vec_recall: no query has a neighbour with a score")
    low, high = wilson(known, k)
    return {
        "queries": len(known),
        "k": k,
        "recall": float(known.mean()),
        "low": low,
        "high": high,
        "worst": float(known.min()),
        "search_ms": float(np.median(spent)) * 1e3,
    }


def _sampled(cursor: duckdb.DuckDBPyConnection, queries: str, q: str, sample: int) -> Float32:
    """Return a sample of the queries that is the same each time, ``(m, d) float32``."""
    column = quoted(q)
    sql = f"SELECT {column} FROM {by_name(queries)} WHERE {column} IS NOT NULL ORDER BY hash({column}) LIMIT {sample}"
    parts = list(_batches(cursor, sql, None))
    if not parts:
        raise InputError(f"vec_recall: {queries} has no queries in {q}")
    return np.concatenate(parts)


def _batches(cursor: duckdb.DuckDBPyConnection, sql: str, dim: int | None) -> Iterator[Float32]:
    try:
        reader = cursor.sql(sql).to_arrow_reader(_ROWS)
    except duckdb.Error as error:
        raise EngineError(f"{error}\nin: {sql}") from error
    first = 0
    for batch in reader:
        rows = to_rows(batch.column(0), column="vec_recall: vectors", dim=dim, first_row=first)
        first += len(rows)
        values = rows.values if rows.valid is None else rows.values[rows.valid]
        if len(values):
            yield values
