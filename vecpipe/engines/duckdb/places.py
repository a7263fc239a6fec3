"""Where a statement is: which database and schema its names are looked up in, and what a cursor cannot see there.

A function that reads or writes the database opens a cursor of its own, which starts in the database that was opened
first and sees what is committed. A place, the search path of the connection that calls, leads it to where the caller
is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import duckdb

from vecpipe.errors import EngineError, InputError

OpenCursor = Callable[[str], duckdb.DuckDBPyConnection]
"""Opens a cursor at a place; '' is where the database was opened."""

# A name that the binder makes: nothing is executed, so that a running result of the connection is not disturbed.
_HERE = """FROM query('SELECT 1 AS "at ' || replace(current_setting('search_path'), '"', '""') || '"')"""
_GO = "SET search_path = $1"


def place_of(con: duckdb.DuckDBPyConnection) -> str:
    """Return the place of a connection, whatever else it is doing."""
    try:
        return str(con.sql(_HERE).columns[0]).removeprefix("at ")
    except duckdb.Error as error:
        raise EngineError(f"{error}\nin: asking a connection which database it is in") from error


def go(cursor: duckdb.DuckDBPyConnection, place: str) -> None:
    """Lead a cursor to a place."""
    if place:
        try:
            cursor.execute(_GO, [place])
        except duckdb.Error as error:
            raise EngineError(f"{error}\nin: {_GO} with {place!r}") from error


def refuse_temporary(source: str, temporary: Sequence[str] | None, function: str) -> None:
    """Refuse a table by a name that is temporary where the caller is: a cursor would read another table, or none.

    Parameters
    ----------
    temporary
        Names of the temporary tables and views of the connection that called.
    """
    if source.removeprefix('"').removesuffix('"').lower() in {name.lower() for name in temporary or ()}:
        raise InputError(
            f"{function}: {source} is a temporary table or view of this connection, or data registered on it, which no "
            "other connection sees, and this function reads with one of its own: make an ordinary table of it"
        )
