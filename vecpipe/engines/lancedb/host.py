"""Contact with LanceDB: what it refuses becomes an error of vecpipe that says what was being done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from vecpipe.errors import EngineError, VecpipeError


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn what LanceDB raises inside the block into an ``EngineError`` that ends with ``what``."""
    try:
        yield
    except VecpipeError:
        raise
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OSError, pa.ArrowException) as error:
        raise EngineError(f"{error}\nLanceDB refused to {what}") from error


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
