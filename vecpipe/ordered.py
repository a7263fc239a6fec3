"""Computing in several threads with results in order and a bounded number of them waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


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
