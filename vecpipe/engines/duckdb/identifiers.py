"""Names in the text of SQL statements."""

from __future__ import annotations

import re

_PART = re.compile(r'"(?:[^"]|"")*"|[^".][^.]*')


def quoted(name: str) -> str:
    """Return the name of a column as SQL."""
    return '"' + name.replace('"', '""') + '"'


def quoted_table(source: str) -> str:
    """Return a table, view or ``schema.table`` as SQL; parts in double quotes may hold points.

    The same names as DuckDB's ``query_table`` understands, which does not show the numbers of rows.
    """
    parts = _PART.findall(source)
    return ".".join(part if part.startswith('"') else quoted(part) for part in parts)


def by_name(source: str) -> str:
    """Return SQL that reads a table, view or ``schema.table``."""
    return "query_table('" + source.replace("'", "''") + "')"
