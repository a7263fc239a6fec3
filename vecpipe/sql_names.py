"""Names in the text of SQL statements."""

from __future__ import annotations

import re

_PART = re.compile(r'"(?:[^"]|"")*"|[^".][^.]*')


def quoted(name: str) -> str:
    """Return the name of a column as SQL."""
    return '"' + name.replace('"', '""') + '"'


def name_parts(source: str) -> list[str]:
    """Return the names that ``table``, ``schema.table`` and so on are made of."""
    return [part[1:-1].replace('""', '"') if part.startswith('"') else part for part in _PART.findall(source)]


def quoted_table(source: str) -> str:
    """Return a table, view or ``schema.table`` as SQL; parts in double quotes may hold points.

    The same names as DuckDB's ``query_table`` understands, which does not show the numbers of rows.
    """
    return ".".join(map(quoted, name_parts(source)))


def by_name(source: str) -> str:
    """Return SQL that reads a table, view or ``schema.table``."""
    return "query_table('" + source.replace("'", "''") + "')"
