"""Measuring: medians of runs taken in turns, peak memory, and the table they are shown in."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

_PAUSE = 0.25
"""Seconds before each run: BLAS has its threads back by then, so that a peer is not measured with one."""


def cpu_seconds() -> float:
    """Return the processor time of all threads of this process."""
    return time.process_time()


def medians(
    tasks: Mapping[str, Callable[[], Any]],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
    pause: float = _PAUSE,
) -> dict[str, float]:
    """Return the median seconds of each task by a clock, run in turns after one run of each to warm up.

    Before each run comes a pause; none is needed where no task leaves BLAS threads behind.
    """
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(runs):
        for name, task in tasks.items():
            time.sleep(pause)
            start = clock()
            task()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


class PeakMemory:
    """How much the resident memory of the process grows at most while the block runs, in MB."""

    def __enter__(self) -> Self:
        self._before = _resident()
        self._peak = self._before
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self._peak = max(self._peak, _resident())

    @property
    def grown(self) -> float:
        """Growth in MB."""
        return (self._peak - self._before) / 1e6


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@dataclass(frozen=True)
class Line:
    """One comparison: what it cost here, what it cost the peer, and the ratio that is asked for."""

    what: str
    ours: float
    peer_name: str
    peer: float
    target: str
    note: str = ""

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.peer


def show(title: str, lines: list[Line], console: Console) -> None:
    """Print comparisons as a table."""
    table = Table(title=title, title_justify="left")
    for heading in ("what", "ours ms", "peer", "peer ms", "ours / peer", "target", ""):
        table.add_column(heading, justify="right" if heading.endswith("ms") or "/" in heading else "left")
    for line in lines:
        table.add_row(
            line.what,
            f"{line.ours * 1e3:,.1f}",
            line.peer_name,
            f"{line.peer * 1e3:,.1f}",
            f"{line.ratio:.2f}",
            line.target,
            line.note,
        )
    console.print(table)
