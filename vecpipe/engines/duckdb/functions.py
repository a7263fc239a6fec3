"""All scalar functions of the SQL surface: each entry is registered as it stands.

Functions with defaults or names for their arguments are macros over these (``sql/macros``); their own names then begin
with an underscore.
"""

from __future__ import annotations

from collections.abc import Iterator

from vecpipe.engines.duckdb import (
    cells,
    index_functions,
    joins,
    model_functions,
    operator_functions,
    planning,
    procedures,
    recall,
    vector_functions,
)
from vecpipe.engines.duckdb.planning import Database
from vecpipe.engines.duckdb.scalar import Scalar


def scalars(database: Database) -> Iterator[Scalar]:
    """Yield the functions that every database gets; some have native overloads in ``scores``."""
    yield from vector_functions.scalars()
    yield from operator_functions.scalars()
    yield from model_functions.scalars()
    yield from joins.scalars()
    yield from cells.scalars()
    yield from procedures.scalars(database.open_cursor)
    yield from recall.scalars(database.open_cursor)
    yield from index_functions.scalars(database.indexes)


def without_native(database: Database) -> Iterator[Scalar]:
    """Yield the functions that a database without native ones gets besides: DuckDB would choose these for a literal."""
    yield from planning.scalars(database)
    yield from index_functions.arrow_scalars(database)
