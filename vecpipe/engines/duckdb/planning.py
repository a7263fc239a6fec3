"""The functions that a statement calls while it is planned: the text of its parts, its models, queries and cells.

DuckDB calls each several times for a statement, natively in a tenth of a millisecond. Databases that were opened before
vecpipe was imported take the same functions as functions of Arrow columns, in three tenths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.arrays import Rows
from vecpipe.cells import cell_model
from vecpipe.engines.duckdb.catalog import Newest
from vecpipe.engines.duckdb.cells import nearest
from vecpipe.engines.duckdb.handles import keep_query, queries_known, query_rows, rows_of_blobs
from vecpipe.engines.duckdb.indexes import Indexes, index_name
from vecpipe.engines.duckdb.last import Last
from vecpipe.engines.duckdb.native.aggregate import check_vectors
from vecpipe.engines.duckdb.native.memory import ANY, BLOB, VARCHAR
from vecpipe.engines.duckdb.native.reading import Reader
from vecpipe.engines.duckdb.native.scalars import Kind, PlanFunction
from vecpipe.engines.duckdb.places import OpenCursor
from vecpipe.engines.duckdb.scalar import Scalar
from vecpipe.errors import SpecError
from vecpipe.model import Model
from vecpipe.scoring import metric_named
from vecpipe.sql_names import sql_text

Texts = Sequence[str | None]
Numbers = Sequence[int | None]


@dataclass(frozen=True)
class Database:
    """What the functions of one open database work with."""

    open_cursor: OpenCursor
    newest: Newest
    indexes: Indexes

    @classmethod
    def of(cls, open_cursor: OpenCursor) -> Database:
        """Return what belongs to the database that cursors are opened on."""
        newest = Newest(open_cursor)
        return cls(open_cursor, newest, Indexes(open_cursor, newest))

    def model(self, name: str, transaction: str | None, place: str | None) -> tuple[Model, int]:
        """Return the newest committed model of a name and its version, as a transaction at a place is told."""
        return self.newest(name, int(transaction or 0), place or "")


def _sql(database: Database, *columns: Texts) -> Texts:
    return [sql_text(*row) for row in zip(*columns, strict=True)]


_LAST: Last[Texts] = Last()


def _query(database: Database, model: Texts, q: Rows, metric: Texts, transaction: Texts, place: Texts) -> Texts:
    others = model, metric, transaction, place
    key = None
    if len(q) > 1 and q.valid is None and all(column.count(column[0]) == len(q) for column in others):
        key = database, q.values.shape, *(column[0] for column in others), q.values.tobytes()
        known = _LAST.get(key)
        if known is not None and queries_known(known):
            return known
    prepared: list[str | None] = []
    for at, (name, wanted, number, where) in enumerate(zip(model, metric, transaction, place, strict=True)):
        if q.valid is not None and not q.valid[at]:
            prepared.append(None)
            continue
        found = None if name is None else database.model(name, number, where)[0]
        prepared.append(keep_query(found, q.values[at : at + 1], metric_named(wanted)))
    if key is not None:
        _LAST.put(key, prepared)
    return prepared


def _version(database: Database, model: Texts, transaction: Texts, place: Texts) -> Numbers:
    asked = zip(model, transaction, place, strict=True)
    return [None if name is None else database.model(name, *where)[1] for name, *where in asked]


def _probed(
    database: Database, model: Texts, q: Rows, nprobe: Texts, transaction: Texts, place: Texts
) -> Sequence[Any]:
    name, count = _same(model, "model"), _same(nprobe, "nprobe")
    if name is None:
        raise SpecError("cell := needs model := with the name of the model that the cells come from")
    found, _ = database.model(name, _same(transaction, "transaction"), _same(place, "place"))
    cells, there = nearest(cell_model(found), q, _whole(count, "nprobe"), "vec_search: q")
    return [row if known else None for row, known in zip(cells, there.tolist(), strict=True)]


def _same(values: Texts, what: str) -> str | None:
    first = values[0]
    if any(value != first for value in values):
        raise SpecError(
            f"vec_search: {what} must be the same for all rows of a statement, found {len({*values})} values"
        )
    return first


def _last(database: Database, index: Texts, where: Texts) -> Numbers:
    return [database.indexes.get(index_name(name), place or "").last for name, place in zip(index, where, strict=True)]


_MOST = 1 << 62
"""The largest number that DuckDB takes as a LIMIT."""


def _limit(database: Database, k: Texts, times: Texts) -> Numbers:
    found = [(_whole(a, "k"), _whole(b, "oversample")) for a, b in zip(k, times, strict=True)]
    most = max(rows for rows, _ in found)
    if most > _MOST:
        raise SpecError(f"vec_search: k is {most}; expected at most {_MOST}, the largest LIMIT of DuckDB")
    return [min(rows * more, _MOST) for rows, more in found]


def _whole(text: str | None, what: str) -> int:
    if text is None or not text.isdecimal() or int(text) < 1:
        shown = "NULL" if text is None else text
        raise SpecError(f"vec_search: {what} is {shown}; expected a whole number of at least 1")
    return int(text)


def _number(number: int) -> Numbers:
    return [number]


def _queries_of(label: str, reader: Reader, vector: int, count: int) -> Rows:
    column = f"{label}: q"
    if reader.type_of(vector) == BLOB:
        return rows_of_blobs(reader.blobs(vector, count), column)
    part = reader.vectors(vector, count, column)
    values = check_vectors(part, lambda i: f"{column}: row {i}")
    if part.rows is None:
        return Rows(values.astype(np.float32, copy=False))
    spread = np.zeros((count, values.shape[1]), np.float32)
    spread[part.rows] = values
    valid = np.zeros(count, bool)
    valid[part.rows] = True
    return Rows(spread, valid, int((~valid).sum()))


@dataclass(frozen=True)
class _Planned:
    """A function for either kind of column: each argument a list of texts, or ``Rows`` for the one called q."""

    name: str
    label: str
    arguments: str
    kind: Kind
    function: Callable[..., Sequence[Any]]

    def native(self) -> PlanFunction:
        names = self.arguments.split(", ")
        queries = partial(_queries_of, self.label)
        return PlanFunction(
            self.name,
            self.label,
            tuple(ANY if name == "q" else VARCHAR for name in names),
            tuple(queries if name == "q" else Reader.texts for name in names),
            self.kind,
            self.function,
        )

    def arrow(self, database: Database) -> Scalar:
        names = self.arguments.split(", ")

        def call(*columns: Any) -> Any:
            read = [
                query_rows(column, f"{self.label}: q") if name == "q" else _texts(column)
                for name, column in zip(names, columns, strict=True)
            ]
            return pa.array(self.function(database, *read), kind)

        returns, kind = _TYPES[self.kind]
        return Scalar(self.name, self.arguments, returns, f"Behind {self.label}.", call)


def _texts(column: Any) -> Texts:
    return [None if value is None else str(value) for value in column.to_pylist()]


_TYPES: dict[Kind, tuple[str, Any]] = {
    "texts": ("VARCHAR", pa.string()),
    "bigint": ("BIGINT", pa.int64()),
    "integers": ("INTEGER[]", pa.list_(pa.int32())),
}
_FUNCTIONS = (
    _Planned("_vec_sql", "vec_search", "template, name1, name2, name3, name4, name5", "texts", _sql),
    _Planned("_vec_prepare", "vec_query", "model, q, metric, transaction, place", "texts", _query),
    _Planned("_vec_version", "vec_search", "model, transaction, place", "bigint", _version),
    _Planned("_vec_probed", "vec_search", "model, q, nprobe, transaction, place", "integers", _probed),
    _Planned("_vec_limit", "vec_search", "k, times", "bigint", _limit),
    _Planned("_vec_index_last", "vec_search", "index, database", "bigint", _last),
)
NATIVE = (
    *(function.native() for function in _FUNCTIONS),
    PlanFunction("_vec_database", "vecpipe", (), (), "bigint", _number, unregistered=True),
)


def scalars(database: Database) -> Iterator[Scalar]:
    """Yield the same as functions of Arrow columns.

    Not beside the native ones: DuckDB would choose these for a literal.
    """
    for function in _FUNCTIONS:
        yield function.arrow(database)
