"""Bringing vecpipe into a DuckDB connection: functions once for each database, catalog and macros where missing.

DuckDB calls a registered Python function through a bare pointer and does not keep it alive: every callable
registered here is kept for the life of the process. No connection is kept, so closing the last one still releases
the file.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType

from vecpipe.engines.duckdb import catalog, extension, functions, macros, places, planning
from vecpipe.errors import AggregatesUnavailableWarning, EngineError
from vecpipe.sql_names import quoted

_HAS_CATALOG = """
    SELECT 1 FROM duckdb_tables()
    WHERE database_name = current_database() AND schema_name = 'vecpipe' AND table_name = 'models'
"""
_KEPT: list[Callable[..., Any]] = []
_LIVE: dict[int, list[weakref.ref[duckdb.DuckDBPyConnection]]] = {}
_LENT: dict[int, dict[str, Any]] = {}
_LOCK = threading.RLock()
_FEW_ROWS, _SHORTLIST_ROWS = 50, 1_000


def connect(database: str | Path = ":memory:", **options: Any) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB database with vecpipe registered; options go to ``duckdb.connect``.

    Searches read raw vectors late, for their shortlist alone; DuckDB does so for at most
    ``late_materialization_max_rows`` rows, which becomes 1,000 here where it was the default of 50.

    Raises
    ------
    EngineError
        DuckDB cannot open the database.
    """
    try:
        con = duckdb.connect(str(database), **options)
    except duckdb.Error as error:
        raise EngineError(f"{error}\nin: opening {database}") from error
    with suppress(duckdb.Error):  # a locked configuration stays as it is
        if con.execute("SELECT current_setting('late_materialization_max_rows')").fetchall() == [(_FEW_ROWS,)]:
            con.execute(f"SET GLOBAL late_materialization_max_rows = {_SHORTLIST_ROWS}")
    return _bring_in(con, None)


def register(con: duckdb.DuckDBPyConnection, *, persist: bool | None = None) -> duckdb.DuckDBPyConnection:
    """Give a connection's database the ``vec_*`` functions, the catalog and the search macros.

    The database is the one that the connection is in: after ``USE other`` that is ``other``. Functions last as long as
    the first one is open and serve all connections to it, and what is attached. Catalog and macros are stored in the
    database; calling this again brings macros of another version up to date. Aggregates come with every database that
    is opened after vecpipe was imported; for another one an ``AggregatesUnavailableWarning`` says so, once.

    Parameters
    ----------
    con
        Any open connection; a running result of it is not disturbed.
    persist
        False leaves nothing in the database: macros are temporary, known to this connection alone, and where there
        is no catalog already, models are kept in memory. By default a database that cannot be written gets that.

    Returns
    -------
    DuckDBPyConnection
        The same connection.

    Raises
    ------
    EngineError
        DuckDB refused a statement.
    """
    return _bring_in(con, persist)


def _bring_in(con: duckdb.DuckDBPyConnection, persist: bool | None) -> duckdb.DuckDBPyConnection:
    with _LOCK:
        try:
            cursor = con.cursor()
        except duckdb.Error as error:
            raise EngineError(f"{error}\nin: registering vecpipe; open a connection first") from error
        try:
            places.go(cursor, places.place_of(con))
            [(database,)] = catalog.run(cursor, "SELECT current_database()").fetchall()
            if database == "vecpipe":
                raise EngineError(
                    "a database named vecpipe hides the schema of that name, which holds the models; "
                    "rename the file, or attach it: ATTACH 'vecpipe.duckdb' AS another_name"
                )
            token, missing = _register_functions(cursor)
            if missing is not None:
                warnings.warn(missing, AggregatesUnavailableWarning, stacklevel=3)
            ref = weakref.ref(con, partial(_forget, token))
            _LIVE[token] = [known for known in _LIVE.get(token, []) if known() is not None] + [ref]
            if persist is None:
                persist = not _read_only(cursor)
            catalog.run(cursor, f"USE {quoted(database)}.main")  # macros in main are seen from every schema
            if persist:
                catalog.run(cursor, macros.catalog_sql())
                if _macro_version(cursor) != macros.version_text():
                    catalog.run(cursor, macros.macro_sql())
            else:
                if not catalog.run(cursor, _HAS_CATALOG).fetchall():
                    catalog.run(cursor, macros.memory_catalog_sql())
                if _macro_version(cursor) != macros.version_text():
                    catalog.run(con, macros.temporary(macros.macro_sql()))
        finally:
            cursor.close()
    return con


def _forget(token: int, gone: weakref.ref[duckdb.DuckDBPyConnection]) -> None:
    """Let go of what was lent to a database, once no connection is left that a cursor could be opened through."""
    if all(ref() is None for ref in _LIVE.get(token, ())):
        _LENT.pop(token, None)


def _read_only(cursor: duckdb.DuckDBPyConnection) -> bool:
    sql = "SELECT readonly FROM duckdb_databases() WHERE database_name = current_database()"
    row = catalog.run(cursor, sql).fetchone()
    return bool(row and row[0])


def _macro_version(cursor: duckdb.DuckDBPyConnection) -> str | None:
    try:
        row = cursor.execute("SELECT vec_version()").fetchone()
    except duckdb.Error:
        return None
    return str(row[0]) if row else None


def missing_natives(cursor: duckdb.DuckDBPyConnection) -> str | None:
    """Return why a database has no aggregates nor other native functions, and what to do; None where it has them."""
    try:
        cursor.execute("SELECT vec_sum(NULL)").fetchall()
    except duckdb.CatalogException:
        instead = "vecpipe.fit and vec_fit_query fit models without them, and everything else works"
        if not extension.EXTENSION.available:
            return (
                f"vec_fit, vec_avg and the other aggregates are not available: {extension.EXTENSION.reason}; {instead}"
            )
        if extension.EXTENSION.errors:
            return f"vec_fit, vec_avg and the other aggregates are missing: {extension.EXTENSION.errors[-1]}; {instead}"
        return (
            "this database has no vec_fit, vec_avg and other aggregates because it was opened before vecpipe was "
            f"imported: import vecpipe first and open it again; {instead}"
        )
    return None


def _register_functions(cursor: duckdb.DuckDBPyConnection) -> tuple[int, str | None]:
    """Register all functions unless the database has them; return its token, and why a new one lacks native ones."""
    try:
        [(token,)] = cursor.execute("SELECT _vec_database()").fetchall()
    except duckdb.CatalogException:
        token = next(extension.EXTENSION.numbers)
        _create(cursor, "_vec_database", lambda: pa.array([token]), "BIGINT", parameters=[])
    if token in _LIVE:
        return token, None
    missing = missing_natives(cursor)
    database = planning.Database.of(partial(_cursor_of, token))
    extension.EXTENSION.registered[token] = database
    for scalar in (*functions.scalars(database), *(() if missing is None else functions.without_native(database))):
        _create(cursor, scalar.name, scalar.called(), scalar.returns, volatile=scalar.volatile)
    _LIVE[token] = []
    return token, missing


def _create(
    cursor: duckdb.DuckDBPyConnection,
    name: str,
    function: Callable[..., Any],
    returns: str,
    *,
    volatile: bool = False,
    parameters: list[str] | None = None,
) -> None:
    _KEPT.append(function)
    try:
        cursor.create_function(
            name,
            function,
            parameters,
            returns,
            type=PythonUDFType.ARROW,
            null_handling=FunctionNullHandling.SPECIAL,
            side_effects=volatile,
        )
    except duckdb.Error as error:
        raise EngineError(f"cannot register {name}: {error}") from error


def _cursor_of(token: int, place: str) -> duckdb.DuckDBPyConnection:
    """Return a new cursor at a place, through any connection that was registered and is still open."""
    for ref in reversed(_LIVE.get(token, [])):
        con = ref()
        if con is not None:
            try:
                cursor = con.cursor()
            except duckdb.Error:
                continue
            for name, data in _LENT.get(token, {}).items():
                cursor.register(name, data)
            places.go(cursor, place)
            return cursor
    raise EngineError(
        "every connection that vecpipe was registered on is closed; call vecpipe.register(con) on an open one"
    )


def lend(con: duckdb.DuckDBPyConnection, data: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
    """Register Arrow data by name on a connection, and on the cursors that functions of vecpipe open for it.

    What is registered is seen by one connection alone in DuckDB; a fit that reads a query would not find it.

    Returns
    -------
    DuckDBPyConnection
        A new cursor that sees the data, for the caller to close.

    Raises
    ------
    EngineError
        vecpipe was not registered on the connection.
    """
    try:
        [(token,)] = con.cursor().execute("SELECT _vec_database()").fetchall()
    except duckdb.Error as error:
        raise EngineError(f"{error}\nCall vecpipe.register(con) first") from error
    if token not in _LIVE:
        raise EngineError("vecpipe is not registered on this connection. Call vecpipe.register(con) first")
    try:
        for name, value in data.items():
            con.register(name, value)
    except duckdb.Error as error:
        raise EngineError(f"{error}\nin: registering {', '.join(data)}") from error
    _LENT.setdefault(token, {}).update(data)
    return _cursor_of(token, places.place_of(con))
