"""The catalog of models in a DuckDB database: table ``vecpipe.models``, one row a version of a name.

Wherever a model is named, ``name`` is its newest version and ``name@3`` is version 3.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import Any

import duckdb

from vecpipe.engines.duckdb import handles
from vecpipe.engines.duckdb.places import OpenCursor
from vecpipe.errors import EngineError, ModelNotFoundError, listed
from vecpipe.model import Model
from vecpipe.model_names import check_model_name, name_and_version

_NAMED = "FROM vecpipe.models WHERE name = $1 AND version = coalesce($2, version)"
_NEWEST = f"SELECT arg_max(model, version), max(version) {_NAMED}"
# Versions are told apart here: each search asks, and an aggregate takes DuckDB longer to plan than rows to fetch.
_HEADS = f"SELECT version, array_slice(model, 1, {handles.HEAD_BYTES}) {_NAMED}"
_NEWEST_HASH = "SELECT version, hash FROM vecpipe.models WHERE name = $1 ORDER BY version DESC LIMIT 1"
_INSERT = "INSERT INTO vecpipe.models (name, model) VALUES ($1, $2) RETURNING version"
_MISSING = re.compile(r"Catalog Error: Table with name (\S+) does not exist")
_NAMES = "SELECT DISTINCT name FROM vecpipe.models ORDER BY name"


def save_model(con: duckdb.DuckDBPyConnection, name: str, model: Model) -> int:
    """Store a model under a name and return its version; within the connection's transaction, if there is one.

    A model identical to the newest of that name is not stored again: its version is returned.

    Raises
    ------
    InputError
        The name ends like ``name@3``, which asks for a version.
    EngineError
        The database refused, for example because it is read-only.
    """
    check_model_name(name)
    newest = run(con, _NEWEST_HASH, [name]).fetchall()
    if newest and newest[0][1] == model.hash:
        return int(newest[0][0])
    rows = run(con, _INSERT, [name, model.to_bytes()]).fetchall()
    return int(rows[0][0])


def load_model(con: duckdb.DuckDBPyConnection, name: str) -> Model:
    """Return the newest model of a name, or the version that ``name@3`` asks for.

    Raises
    ------
    ModelNotFoundError
        There is none that the connection can see; the message lists the names there are.
    """
    return _read_newest(con, name)[0]


def newest_model(con: duckdb.DuckDBPyConnection, name: str) -> tuple[Model, int]:
    """Return the newest model of a name and its version; errors as in ``load_model``.

    A model that this process has loaded already is known by its header and not read again.
    """
    version, head = max(run(con, _HEADS, [*name_and_version(name)]).fetchall(), default=(0, b""))
    known = handles.model_with_head(head)
    return _read_newest(con, name) if known is None else (known, int(version))


def committed_model(open_cursor: OpenCursor, name: str, place: str) -> tuple[Model, int]:
    """Return the newest committed model of a name and its version, whatever the transaction of the caller holds."""
    cursor = open_cursor(place)
    try:
        return newest_model(cursor, name)
    except LookupError as error:
        raise type(error)(
            f"{error} (a model of a transaction that has not committed cannot be searched with: COMMIT first)"
        ) from None
    finally:
        cursor.close()


class Newest:
    """The newest committed model of a name at a place, looked up once for each transaction that asks.

    Planning a search asks several times, and each look is a statement of its own. What a transaction is told stays
    what it is told, as long as it is among the last that asked: it does not see what others commit in the meantime
    anyway.
    """

    _MANY = 1_024

    def __init__(self, open_cursor: OpenCursor) -> None:
        self._open_cursor = open_cursor
        self._known: OrderedDict[tuple[str, str, int], tuple[Model, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, name: str, transaction: int, place: str) -> tuple[Model, int]:
        """Return the model and its version; errors as in ``committed_model``."""
        key = place, name, transaction
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
        looked_up = committed_model(self._open_cursor, name, place)
        with self._lock:
            found = self._known.setdefault(key, looked_up)
            while len(self._known) > self._MANY:
                self._known.popitem(last=False)
        return found


def _read_newest(con: duckdb.DuckDBPyConnection, name: str) -> tuple[Model, int]:
    [(data, version)] = run(con, _NEWEST, [*name_and_version(name)]).fetchall()
    if data is None:
        names = model_names(con)
        there = f"there are: {listed(names)}" if names else "vecpipe.models is empty"
        raise ModelNotFoundError(f"no model is named {name!r}; {there}")
    return handles.model_of(handles.keep_model(data)), int(version)


def model_names(con: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the names in the catalog, sorted."""
    return [name for (name,) in run(con, _NAMES).fetchall()]


def run(con: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | dict[str, Any] | None = None) -> Any:
    """Execute a statement; what the database refuses becomes an ``EngineError`` that holds the statement."""
    try:
        return con.execute(sql, parameters) if parameters is not None else con.execute(sql)
    except duckdb.CatalogException as error:
        if _names_the_catalog(str(error), sql):
            raise EngineError(
                f"{error}\nin: {sql}\nCall vecpipe.register(con) first: it creates the catalog"
            ) from error
        raise EngineError(f"{error}\nin: {sql}") from error
    except duckdb.Error as error:
        raise EngineError(f"{error}\nin: {sql}") from error


def _names_the_catalog(refused: str, sql: str) -> bool:
    """Whether it is the catalog's own table that is missing: DuckDB names the schema where that is missing too."""
    found = _MISSING.match(refused)
    return found is not None and (found[1] == '"vecpipe.models"' or (found[1] == "models" and "vecpipe.models" in sql))
