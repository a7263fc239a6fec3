"""Contact with LanceDB: its tables as Lance datasets, and what it refuses as errors of vecpipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from vecpipe.errors import CapabilityError, EngineError, VecpipeError


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn what LanceDB raises inside the block into an ``EngineError`` that ends with ``what``."""
    try:
        yield
    except VecpipeError:
        raise
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OSError, pa.ArrowException) as error:
        raise EngineError(f"{_short(str(error))}\nLanceDB refused to {what}") from error


def _short(text: str) -> str:
    """Return a message without its middle where it quotes a whole expression."""
    return text if len(text) <= 1_000 else f"{text[:400]} ... {text[-400:]}"


def is_conflict(error: BaseException) -> bool:
    """Return whether a commit failed because of another writer's, so that it may be tried again on top of that."""
    return "Retryable commit conflict" in str(error) or "Too many concurrent writers" in str(error)


def latest_dataset(table: Any) -> Any:
    """Bring a LanceDB table to its newest version and return that as a Lance dataset; errors as ``dataset_of``."""
    _check_table(table)
    with asking(f"open the table {table.name!r}"):
        table.checkout_latest()
        return table.to_lance()


def dataset_of(table: Any) -> Any:
    """Return the version that a LanceDB table stands at as a Lance dataset.

    Raises
    ------
    CapabilityError
        pylance is not installed, the table is on a server, or on a branch.
    EngineError
        LanceDB refused.
    """
    _check_table(table)
    with asking(f"open the table {table.name!r}"):
        return table.to_lance()


def _check_table(table: Any) -> None:
    try:
        import lance  # noqa: F401
    except ImportError as error:
        raise CapabilityError("columns of LanceDB tables need pylance: pip install 'vecpipe[lancedb]'") from error
    if not hasattr(table, "to_lance"):
        raise CapabilityError(f"{type(table).__name__}: expected a table of a local or object-store LanceDB database")
    with asking(f"open the table {table.name!r}"):
        if table.current_branch() is not None:
            raise CapabilityError(f"table {table.name!r} is on the branch {table.current_branch()!r}; check out main")


def database_of(table: Any) -> Any:
    """Return the connection a table was opened with."""
    return table._conn


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
