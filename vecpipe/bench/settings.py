"""Ways to search one by one query, measured in turns: what else the machine does falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table

from vecpipe.arrays import Float32
from vecpipe.metrics.retrieval import Places

_ROW = 5
"""Queries that one setting is asked in a row."""

_REST = 0.05
"""Seconds."""


@dataclass
class Setting:
    """One way to search, and what was measured of it.

    Attributes
    ----------
    group, name : str
        The index, and its parameters.
    ask
        Returns the ids found for a query.
    build : float
        Seconds that index or column took.
    seconds, cpu : list of float
        Wall and processor time of each query.
    hits : int
        Of all ids that should be found.
    k : int
        Ids to be found for each query.
    """

    group: str
    name: str
    ask: Callable[[Float32], list[int]]
    build: float
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    hits: int = 0
    k: int = 10

    @property
    def recall(self) -> float:
        """Recall@k."""
        return self.hits / (self.k * max(1, len(self.seconds)))

    @property
    def median(self) -> float:
        """Median milliseconds."""
        return 1e3 * statistics.median(self.seconds)


def ask_in_turns(settings: Sequence[Setting], Q: Float32, exact: Places, warm: int) -> None:
    """Ask each query of every setting, a few in a row, and note times and hits.

    The first ``warm`` queries do not count, nor does the first of a row: what other settings read has pushed what this
    one reads out of the caches of the processor. Before each row there is a pause, since the threads of some libraries
    go on spinning for a while.

    Parameters
    ----------
    Q : (m, d) float32
    exact : (m, k) int64
        The ids that should be found for each query.
    """
    asked = list(zip(Q, exact.tolist(), strict=True))
    for q, _ in asked[:warm]:
        for setting in settings:
            setting.ask(q)
    for start in range(warm, len(asked), _ROW):
        for setting in settings:
            time.sleep(_REST)
            setting.ask(asked[start - 1][0])
            for q, ids in asked[start : start + _ROW]:
                cpu, begin = time.process_time(), time.perf_counter()
                found = setting.ask(q)
                setting.seconds.append(time.perf_counter() - begin)
                setting.cpu.append(time.process_time() - cpu)
                setting.hits += len(set(found) & set(ids))


def cheapest(ladder: Sequence[Setting], Q: Float32, exact: Places, target: float) -> Setting:
    """Return the first setting, cheapest first, that reaches a recall on some queries, or else the last one.

    It reaches it with a standard error to spare, since other queries may be harder.
    """
    for setting in ladder:
        found = [len(set(setting.ask(q)) & set(ids)) / len(ids) for q, ids in zip(Q, exact.tolist(), strict=True)]
        if np.mean(found) - np.std(found) / np.sqrt(len(found)) >= target:
            return setting
    return ladder[-1]


def fastest(settings: Sequence[Setting], target: float) -> Setting:
    """Return the fastest setting that reaches a recall, or else the one with the best recall."""
    reached = [setting for setting in settings if setting.recall >= target]
    return min(reached, key=lambda each: each.median) if reached else max(settings, key=lambda each: each.recall)


def show_settings(title: str, settings: Sequence[Setting], target: float, console: Console) -> None:
    """Print settings as a table, the fastest that reach the recall first."""
    table = Table(title=title, title_justify="left")
    for heading in ("search", "setting", "build s", "recall", "median ms", "p95 ms", "CPU ms"):
        table.add_column(heading, justify="left" if heading in ("search", "setting") else "right")
    for each in sorted(settings, key=lambda each: (each.recall < target, each.median)):
        table.add_row(
            each.group,
            each.name,
            f"{each.build:.1f}",
            f"{each.recall:.3f}",
            f"{each.median:.2f}",
            f"{1e3 * float(np.quantile(each.seconds, 0.95)):.2f}",
            f"{1e3 * statistics.median(each.cpu):.2f}",
        )
    console.print(table)
