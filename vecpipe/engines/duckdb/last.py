"""What each thread made last: the pairs of a cross product come with the same queries, chunk after chunk."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

Made = TypeVar("Made")
_THREADS = 64


class Last(Generic[Made]):
    """What was made last, by thread; ``threading.local`` forgets a thread of DuckDB's after each callback."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[Hashable, Made]] = {}

    def get(self, key: Hashable) -> Made | None:
        """Return what this thread made last, if it was for this key."""
        found = self._of.get(threading.get_ident())
        return found[1] if found is not None and found[0] == key else None

    def put(self, key: Hashable, made: Made) -> None:
        """Remember what this thread has made."""
        if len(self._of) >= _THREADS:
            self._of.clear()
        self._of[threading.get_ident()] = key, made
