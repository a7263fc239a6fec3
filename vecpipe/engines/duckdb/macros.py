"""The SQL texts of the package: read from ``sql/``, never written here."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from vecpipe.version import __version__


def sql_folder() -> Path:
    """Return the folder of SQL texts: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[2]
    inside = package / "sql"
    return inside if inside.is_dir() else package.parent / "sql"


@lru_cache(maxsize=1)
def catalog_sql() -> str:
    """Return the statements that create the catalog where it is missing."""
    return (sql_folder() / "catalog.sql").read_text()


def memory_catalog_sql() -> str:
    """Return the statements for a catalog in memory, beside a database that is to be left as it is."""
    return catalog_sql().replace(
        "CREATE SCHEMA IF NOT EXISTS vecpipe;", "ATTACH IF NOT EXISTS ':memory:' AS vecpipe (READ_WRITE);"
    )


@lru_cache(maxsize=1)
def macro_sql() -> str:
    """Return the statements that create or replace all macros, the version macro last."""
    texts = [path.read_text() for path in sorted((sql_folder() / "macros").glob("*.sql"))]
    return "\n".join([*texts, f"CREATE OR REPLACE MACRO vec_version() AS '{version_text()}';"])


@lru_cache(maxsize=1)
def version_text() -> str:
    """Return library version and a digest of the macros: what a database's macros are compared with."""
    paths = sorted((sql_folder() / "macros").glob("*.sql"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    return f"vecpipe {__version__} macros {digest[:12]}"


def temporary(sql: str) -> str:
    """Return the statements for macros of one connection, which leave nothing in the database."""
    return sql.replace("CREATE OR REPLACE MACRO", "CREATE OR REPLACE TEMP MACRO")
