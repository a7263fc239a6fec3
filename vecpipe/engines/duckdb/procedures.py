"""Scalar functions that read or write the database they are called in: fits, advice.

Each opens a cursor of its own and so sees what is committed. They are registered like the other scalars, once for each
database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from vecpipe.advise import advise
from vecpipe.engines.duckdb import catalog
from vecpipe.engines.duckdb.places import OpenCursor, refuse_temporary
from vecpipe.engines.duckdb.scalar import Scalar
from vecpipe.errors import EngineError, InputError, SpecError
from vecpipe.fitting.stream import fit
from vecpipe.scoring import metric_named
from vecpipe.sql_names import by_name, quoted

_FITTED = pa.struct(
    [
        ("name", pa.string()),
        ("version", pa.int64()),
        ("spec", pa.string()),
        ("fitted_rows", pa.int64()),
        ("bytes_per_vector", pa.int64()),
    ]
)
_FIT_RETURNS = "STRUCT(name VARCHAR, version BIGINT, spec VARCHAR, fitted_rows BIGINT, bytes_per_vector BIGINT)"
_TRIED = pa.struct(
    [
        ("spec", pa.string()),
        ("bytes_per_vector", pa.int64()),
        ("recall", pa.float64()),
        ("reranked", pa.float64()),
        ("fit_seconds", pa.float64()),
        ("encode_rate", pa.float64()),
        ("chosen", pa.bool_()),
    ]
)
_ADVISE_RETURNS = (
    "STRUCT(spec VARCHAR, bytes_per_vector BIGINT, recall DOUBLE, reranked DOUBLE, fit_seconds DOUBLE, "
    "encode_rate DOUBLE, chosen BOOLEAN)[]"
)


def scalars(open_cursor: OpenCursor) -> Iterator[Scalar]:
    """Yield the functions for a database that cursors can be opened on."""
    yield Scalar(
        "_vec_fit_query",
        "name, spec, sql, queries, place",
        _FIT_RETURNS,
        "Behind vec_fit_query.",
        _fit(open_cursor),
        volatile=True,
        by_chunk=False,
    )
    yield Scalar(
        "_vec_advise",
        "source, vectors, recall, bytes, metric, place, temporary",
        _ADVISE_RETURNS,
        "Behind vec_advise.",
        _advise(open_cursor),
        volatile=True,
        by_chunk=False,
    )


def _fit(open_cursor: OpenCursor) -> Callable[..., Any]:
    def fit_query(*columns: Any) -> Any:
        results = []
        for name, spec, sql, queries, place in zip(*(c.to_pylist() for c in columns), strict=True):
            if name is None or spec is None or sql is None:
                raise InputError("vec_fit_query: name, spec and sql must not be NULL")
            for text in (sql,) if queries is None else (sql, queries):
                _check_one_select(text)
            cursor = open_cursor(place)
            try:
                weight = "weight" if "weight" in _columns(cursor, sql) else None
                model = fit(cursor, sql, spec, weight=weight, queries=queries)
                version = catalog.save_model(cursor, name, model)
            finally:
                cursor.close()
            results.append(
                {
                    "name": name,
                    "version": version,
                    "spec": model.spec,
                    "fitted_rows": model.info.rows,
                    "bytes_per_vector": model.bytes_per_vector,
                }
            )
        return pa.array(results, _FITTED)

    return fit_query


def _number(value: Any, name: str) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise SpecError(f"vec_advise: {name} is {value!r}; expected a number") from None


def _check_one_select(sql: str) -> None:
    """Refuse a text that is more than a query, which DuckDB would run statement by statement."""
    try:
        found = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise InputError(f"vec_fit_query: {error}\nin: {sql}") from error
    kinds = [statement.type.name for statement in found]
    if kinds != ["SELECT"]:
        raise InputError(f"vec_fit_query takes the text of one SELECT, got {', '.join(kinds) or 'nothing'} in: {sql}")


def _columns(cursor: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    try:
        return list(cursor.sql(sql).columns)
    except duckdb.Error as error:
        raise EngineError(f"{error}\nin: {sql}") from error


def _advise(open_cursor: OpenCursor) -> Callable[..., Any]:
    def advised(*columns: Any) -> Any:
        given = zip(*(column.to_pylist() for column in columns), strict=True)
        return pa.array([one(*values) for values in given], pa.list_(_TRIED))

    def one(
        source: Any, vectors: Any, recall: Any, size: Any, metric: Any, place: str, temporary: Sequence[str] | None
    ) -> Sequence[dict[str, Any]]:
        if source is None or vectors is None:
            raise InputError("vec_advise: the table and its column of vectors must not be NULL")
        sql = f"SELECT {quoted(str(vectors))} FROM {by_name(str(source))}"
        refuse_temporary(str(source), temporary, "vec_advise")
        cursor = open_cursor(place)
        try:
            advice = advise(
                cursor,
                sql,
                recall=_number(recall, "target"),
                bytes_per_vector=None if size is None else int(_number(size, "budget") or 0),
                metric=metric_named(metric),
            )
        finally:
            cursor.close()
        return [
            {
                "spec": tried.name,
                "bytes_per_vector": tried.bytes_per_vector,
                "recall": tried.recall10,
                "reranked": tried.reranked10,
                "fit_seconds": tried.fit_seconds,
                "encode_rate": tried.encode_rate,
                "chosen": tried.name == advice.spec and advice.reached,
            }
            for tried in advice.tried
        ]

    return advised
