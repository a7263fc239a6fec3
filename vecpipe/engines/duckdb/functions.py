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
    procedures,
    recall,
    vector_functions,
)
from vecpipe.engines.duckdb.catalog import Newest
from vecpipe.engines.duckdb.places import OpenCursor
from vecpipe.engines.duckdb.scalar import Scalar


def scalars(open_cursor: OpenCursor) -> Iterator[Scalar]:
    """Yield the functions of a database that cursors can be opened on."""
    newest = Newest(open_cursor)
    yield from vector_functions.scalars()
    yield from operator_functions.scalars()
    yield from model_functions.scalars()
    yield from joins.scalars()
    yield from cells.scalars(newest)
    yield from procedures.scalars(open_cursor, newest)
    yield from recall.scalars(open_cursor)
    yield from index_functions.scalars(open_cursor, newest)
