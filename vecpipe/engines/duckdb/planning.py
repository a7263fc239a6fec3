"""The functions that a statement calls while it is planned: the text of its parts, its models, queries and cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vecpipe.arrays import Rows
from vecpipe.cells import cell_model
from vecpipe.engines.duckdb.catalog import Newest
from vecpipe.engines.duckdb.cells import nearest
from vecpipe.engines.duckdb.handles import keep_query, queries_known
from vecpipe.engines.duckdb.indexes import Indexes, index_name
from vecpipe.engines.duckdb.last import Last
from vecpipe.engines.duckdb.native.scalars import DatabaseFunction
from vecpipe.engines.duckdb.places import OpenCursor
from vecpipe.engines.duckdb.scalar import Scalar
from vecpipe.engines.duckdb.text_functions import Numbers, TextFunction, Texts, whole
from vecpipe.errors import SpecError
from vecpipe.model import Model
from vecpipe.scoring import metric_named
from vecpipe.sql_names import sql_text


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
    cells, there = nearest(cell_model(found), q, whole(count, "nprobe"), "vec_search: q")
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
    found = [(whole(a, "k"), whole(b, "oversample")) for a, b in zip(k, times, strict=True)]
    most = max(rows for rows, _ in found)
    if most > _MOST:
        raise SpecError(f"vec_search: k is {most}; expected at most {_MOST}, the largest LIMIT of DuckDB")
    return [min(rows * more, _MOST) for rows, more in found]


def _number(number: int) -> Numbers:
    return [number]


_FUNCTIONS = (
    TextFunction("_vec_sql", "vec_search", "template, name1, name2, name3, name4, name5", "texts", _sql),
    TextFunction("_vec_prepare", "vec_query", "model, q, metric, transaction, place", "texts", _query),
    TextFunction("_vec_version", "vec_search", "model, transaction, place", "bigint", _version),
    TextFunction("_vec_probed", "vec_search", "model, q, nprobe, transaction, place", "integers", _probed),
    TextFunction("_vec_limit", "vec_search", "k, times", "bigint", _limit),
    TextFunction("_vec_index_last", "vec_search", "index, database", "bigint", _last),
)
NATIVE = (
    *(function.native() for function in _FUNCTIONS),
    DatabaseFunction("_vec_database", "vecpipe", (), (), "bigint", _number, unregistered=True),
)


def scalars(database: Database) -> Iterator[Scalar]:
    """Yield the same as functions of Arrow columns."""
    for function in _FUNCTIONS:
        yield function.arrow(database)
