"""Computing in several threads with results in order and a bounded number of them waiting."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vecpipe.errors import InputError
from vecpipe.kernels import one_blas_thread

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 8
"""Unless more are asked for: every thread has blocks of rows in memory, and others waiting."""


def thread_count(asked: int | None = None) -> int:
    """Return the threads asked for; else as many as there are processors, at most ``MOST_THREADS``.

    Raises
    ------
    InputError
        Less than one is asked for.
    """
    if asked is not None and asked < 1:
        raise InputError(f"threads is {asked}; expected at least 1")
    return asked or min(os.cpu_count() or 1, MOST_THREADS)


def each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Map in several threads, BLAS at one: the results do not depend on how many there are."""
    with one_blas_thread(), ThreadPoolExecutor(thread_count()) as pool:
        return list(pool.map(work, items))


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
