"""Names in the text of SQL statements."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

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


_PLACE = re.compile("%[ITN]")


def sql_text(template: str | None, *names: str | None) -> str | None:
    """Return SQL with names at its places, in their order: the function that writes the inner query of a macro.

    ``%I`` is a column, or NULL where there is none; ``%T`` what ``query_table`` reads: a table, view or CTE; ``%N``
    a table whose row numbers are asked for, which ``query_table`` does not show. NULL where a table is NULL. Names
    beyond the places are not used.
    """
    if template is None:
        return None
    given = iter(names)
    text, last = "", 0
    for place in _PLACE.finditer(template):
        name = next(given)
        if name is None and place[0] != "%I":
            return None
        text += template[last : place.start()] + _WRITTEN[place[0]](name)
        last = place.end()
    return text + template[last:]


_WRITTEN: dict[str, Callable[[Any], str]] = {
    "%I": lambda name: "NULL" if name is None else quoted(name),
    "%T": by_name,
    "%N": quoted_table,
}
