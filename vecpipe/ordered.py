"""Computing in several threads with results in order and a bounded number of them waiting."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vecpipe.errors import InputError

Result = TypeVar("Result")


def thread_count(threads: int | None) -> int:
    """Return how many threads compute: by default as many as there are processors, at most 8.

    Raises
    ------
    InputError
        Less than one.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; expected at least 1")
    return threads or min(os.cpu_count() or 1, 8)


def in_order(
    pool: ThreadPoolExecutor, calls: Iterator[Callable[[], Result] | None], ahead: int
) -> Iterator[Result | None]:
    """Make calls in the threads of a pool, at most ``ahead`` at a time, and yield their results in order.

    None among the calls is yielded as it is, in its place.
    """
    waiting: deque[Future[Result] | None] = deque()
    for call in calls:
        waiting.append(None if call is None else pool.submit(call))
        while len(waiting) > ahead:
            yield _result(waiting.popleft())
    while waiting:
        yield _result(waiting.popleft())


def _result(future: Future[Result] | None) -> Result | None:
    return None if future is None else future.result()
