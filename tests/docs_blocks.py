"""Runs the SQL blocks of a Markdown file; as a script, rewrites the results that stand below them.

A ```sql block runs in order with the others of its file, on one fresh connection. A ```text block right below it
holds what its last statement returns.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import duckdb

import vecpipe

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```sql\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def run(con: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Run the statements of a block and return the last result as DuckDB shows it."""
    statements = con.extract_statements(sql)
    for statement in statements[:-1]:
        con.execute(statement)
    last = con.sql(statements[-1].query)
    return "" if last is None else f"{last}".strip("\n") + "\n"


def rewritten(path: Path) -> str:
    """Return the file with each result block brought up to date."""
    con = vecpipe.connect()
    con.execute("SET threads = 1")

    def replace(match: re.Match[str]) -> str:
        result = run(con, match.group(1))
        if match.group(2) is None:
            return match.group(0)
        return f"```sql\n{match.group(1)}```\n\n```text\n{result}```"

    return BLOCK.sub(replace, path.read_text())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(rewritten(Path(name)))
