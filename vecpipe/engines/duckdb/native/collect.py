"""From slots to what a result is computed from: the rows and summaries a slot stands for.

A slot may stand for others too (what ``combine`` joined); this module walks those links.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecpipe.blocks import block_rows
from vecpipe.engines.duckdb.native.blocks import Rows, RowStore, Summary, concatenate
from vecpipe.engines.duckdb.native.rows import RowArena
from vecpipe.engines.duckdb.native.slots import TABLE, split
from vecpipe.errors import VecpipeError

_BATCH_ROWS = 65_536


@dataclass
class Part:
    """What a group holds of one width."""

    width: int
    summaries: list[tuple[RowArena, Summary]] = field(default_factory=list)
    rows: Rows | None = None
    waiting: list[Rows] = field(default_factory=list)

    def summary(self, make: Callable[[int], Any], *, fresh: bool = False) -> Any:
        """Return one summary of everything; read it only, it may be the live one unless ``fresh``."""
        if len(self.summaries) == 1 and self.rows is None and not fresh:
            return self.summaries[0][1]
        out = make(self.width)
        for arena, summary in self.summaries:
            with arena.lock:
                out.merge(summary)
        if self.rows is not None:
            step = block_rows(self.width)
            for at in range(0, len(self.rows), step):
                out.update_block(self.rows.take(slice(at, at + step)).block)
        return out


@dataclass
class Group:
    """One group: its rows and summaries by width, its spec, and the counts of rows left out."""

    parts: dict[int, Part]
    spec: bytes | None
    counters: NDArray[np.int64]


def result_of(group: Group | None, finish: Callable[[Group], Any], *, alone: bool) -> Any:
    """Return what ``finish`` makes of a group, None of none.

    DuckDB says no key of a group: unless it is ``alone``, errors say that it is one of several, and how large it is
    where its rows are all here.
    """
    if group is None:
        return None
    try:
        return finish(group)
    except VecpipeError as error:
        if not alone:
            parts = group.parts.values()
            here = sum(len(part.rows) for part in parts if part.rows is not None)
            size = "" if any(part.summaries for part in parts) else f", of {here} vectors"
            error.args = (f"{error} (in one of several groups{size})",)
        raise


def _closure(slot: int) -> list[tuple[RowArena, int]]:
    found, stack = [], [slot]
    with TABLE:
        while stack:
            arena, local = split(stack.pop())
            assert isinstance(arena, RowArena)
            found.append((arena, local))
            stack += arena.children.get(local, ())
    return found


def groups(ids: NDArray[np.uint64]) -> Iterator[Group | None]:
    """Yield the group of each slot number (None for 0), gathering at most 65,536 rows at a time."""
    batch: list[list[tuple[RowArena, int]]] = []
    size = 0
    for slot in ids.tolist():
        members = _closure(slot) if slot else []
        for arena, local in members:
            for store in tuple(arena.stores.values()):
                if local in store.summaries:
                    with arena.lock:
                        store.flush(local)
        count = sum(int(store.raw[local]) for arena, local in members for store in tuple(arena.stores.values()))
        if batch and size + count > _BATCH_ROWS:
            yield from _gather(batch)
            batch, size = [], 0
        batch.append(members)
        size += count
    yield from _gather(batch)


def _gather(batch: list[list[tuple[RowArena, int]]]) -> Iterator[Group | None]:
    out: list[Group | None] = []
    users: dict[tuple[int, int], tuple[RowStore, dict[int, list[Part]]]] = {}
    for members in batch:
        if not members:
            out.append(None)
            continue
        top, first = members[0]
        group = Group({}, top.spec_bytes(first), np.zeros(5, np.int64))
        out.append(group)
        for arena, local in members:
            group.counters += arena.counters[local]
            for width, store in tuple(arena.stores.items()):
                summary, raw = store.summaries.get(local), int(store.raw[local])
                if summary is None and not raw:
                    continue
                part = group.parts.setdefault(width, Part(width))
                if summary is not None:
                    part.summaries.append((arena, summary))
                if raw:
                    users.setdefault((arena.number, width), (store, {}))[1].setdefault(local, []).append(part)
    for store, wanting in users.values():
        wanted = np.array(sorted(wanting), np.int64)
        with store.arena.lock:
            found = store.gather(wanted)
        if found is None:
            continue
        rows, bounds = found
        for i, local in enumerate(wanted.tolist()):
            mine = rows.take(slice(int(bounds[i]), int(bounds[i + 1])))
            for part in wanting[local]:
                part.waiting.append(mine)
    for group_or_none in out:
        if group_or_none is not None:
            for part in group_or_none.parts.values():
                if part.waiting:
                    part.rows, part.waiting = concatenate(part.waiting), []
    yield from out
