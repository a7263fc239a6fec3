"""Blocks of gathered rows: where the rows of all groups of an arena lie until somebody wants them.

Rows go, chunk by chunk, into one open block. A full block that belongs to one group goes to that group's summary as
it is; a mixed one is sorted by group once. A group gets a summary only when it has as many rows as a block; until
then it costs its rows, and nothing else, so ten thousand small groups cost what their vectors cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vecpipe.arrays import Float32
from vecpipe.blocks import Block, block_rows
from vecpipe.engines.duckdb.native.slots import Locals

_LARGE_RUN = 1024


class Summary(Protocol):
    """What a large group's rows are turned into."""

    def update_block(self, block: Block) -> None:
        """Add rows; their memory is filled again afterwards."""

    def merge(self, other: Any) -> None:
        """Take in another summary."""


class Owner(Protocol):
    """The arena that a store belongs to: which of its slots are held, and what a large group turns into."""

    refs: NDArray[np.int32]
    make_summary: Callable[[int, bytes | None], Summary]
    keep_rows: bool
    lock: Any

    def spec_bytes(self, local: int) -> bytes | None:
        """Return the spec that a slot was given, if any."""


@dataclass
class Rows:
    """Rows with their weights, and with tags (a row's id) or none."""

    block: Block
    tags: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.block)

    @property
    def values(self) -> Float32:
        """The rows, ``(n, d) float32``."""
        return self.block.rows

    def take(self, index: Any) -> Rows:
        """Return the rows at ``index``: a copy for an array, a view for a slice."""
        return Rows(self.block.take(index), None if self.tags is None else self.tags[index])

    def put(self, index: Any, other: Rows) -> None:
        """Copy other rows to ``index``."""
        self.block.put(index, other.block)
        if self.tags is not None and other.tags is not None:
            self.tags[index] = other.tags

    @classmethod
    def empty(cls, count: int, like: Rows) -> Rows:
        """Return room for ``count`` rows of the same kind."""
        weights = None if like.block.weights is None else np.empty(count)
        tags = None if like.tags is None else np.empty(count, like.tags.dtype)
        return cls(Block.empty(count, like.values.shape[1], weights), tags)


def concatenate(parts: list[Rows]) -> Rows:
    """Join rows; one part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    out, at = Rows.empty(sum(map(len, parts)), parts[0]), 0
    for part in parts:
        out.put(slice(at, at + len(part)), part)
        at += len(part)
    return out


@dataclass
class _Sealed:
    """A block sorted by slot: rows of keys[i] are bounds[i]:bounds[i + 1]."""

    rows: Rows
    keys: Locals
    bounds: Locals
    alive: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.alive = np.ones(len(self.keys), np.bool_)

    def positions(self, which: NDArray[np.intp]) -> Locals:
        """Return row positions of the runs ``which``, in order."""
        lengths = np.diff(self.bounds)[which]
        ends = np.cumsum(lengths)
        steps = np.repeat(self.bounds[which] - (ends - lengths), lengths)
        return steps + np.arange(int(lengths.sum()))


class RowStore:
    """The rows of one width in one arena."""

    def __init__(self, arena: Owner, width: int) -> None:
        self.arena, self.width = arena, width
        self.capacity = block_rows(width)
        self.open: Rows | None = None
        self.slots = np.empty(self.capacity, np.int64)
        self.fill = 0
        self.sealed: list[_Sealed] = []
        self.raw = np.zeros(len(arena.refs), np.int64)
        self.dead = 0
        self.summaries: dict[int, Summary] = {}

    def append(self, local: Locals, rows: Rows) -> None:
        """Copy rows in; ``local`` has one entry when all rows have one slot."""
        at, count, one = 0, len(rows), len(local) == 1
        if one:
            self.raw[local[0]] += count
        else:
            np.add.at(self.raw, local, 1)
        while at < count:
            if self.open is None:
                self.open, self.fill = Rows.empty(self.capacity, rows), 0
            step = min(count - at, self.capacity - self.fill)
            here = slice(self.fill, self.fill + step)
            self.open.put(here, rows.take(slice(at, at + step)))
            self.slots[here] = local[0] if one else local[at : at + step]
            self.fill += step
            at += step
            if self.fill == self.capacity:
                self._seal()

    def _seal(self) -> None:
        block, slots = self.open, self.slots[: self.fill]
        assert block is not None
        self.fill = 0
        if not self.arena.keep_rows and slots[0] >= 0 and (slots == slots[0]).all():
            if self.arena.refs[slots[0]] > 0:
                self._summarise(int(slots[0]), block)
            return
        order = np.argsort(slots, kind="stable")
        ordered = slots[order]
        living = (ordered >= 0) & (self.arena.refs[ordered] > 0)
        order, ordered = order[living], ordered[living]
        if not len(order):
            return
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        bounds = np.append(starts, len(ordered))
        keys, lengths = ordered[starts], np.diff(bounds)
        if not self.arena.keep_rows:
            direct = np.zeros(len(keys), np.bool_)
            for i in np.flatnonzero(lengths >= _LARGE_RUN).tolist():
                slot = int(keys[i])
                if slot in self.summaries or self.raw[slot] >= self.capacity:
                    self._summarise(slot, block.take(order[bounds[i] : bounds[i + 1]]))
                    direct[i] = True
            if direct.any():
                stay = np.repeat(~direct, lengths)
                order, keys, lengths = order[stay], keys[~direct], lengths[~direct]
                bounds = np.concatenate([[0], np.cumsum(lengths)])
        if len(order):
            self.sealed.append(_Sealed(block.take(order), keys, bounds))
        if not self.arena.keep_rows:
            for slot in keys[self.raw[keys] >= self.capacity].tolist():
                self.flush(slot)
        if self.dead > max(2 * self.capacity, int(self.raw.sum())):
            self._compact()

    def _summarise(self, slot: int, rows: Rows) -> None:
        summary = self.summaries.get(slot)
        if summary is None:
            summary = self.summaries[slot] = self.arena.make_summary(self.width, self.arena.spec_bytes(slot))
        for at in range(0, len(rows), self.capacity):
            summary.update_block(rows.take(slice(at, at + self.capacity)).block)
        self.raw[slot] -= len(rows)

    def flush(self, slot: int) -> None:
        """Move a slot's rows into its summary; what the slot stands for does not change."""
        found = self.gather(np.array([slot]), consume=True)
        if found is not None:
            self._summarise(slot, found[0])

    def _compact(self) -> None:
        kept = []
        for block in self.sealed:
            block.alive &= self.arena.refs[block.keys] > 0
            if block.alive.any():
                which = np.flatnonzero(block.alive)
                lengths = np.diff(block.bounds)[which]
                rows = block.rows.take(block.positions(which))
                kept.append(_Sealed(rows, block.keys[which], np.concatenate([[0], np.cumsum(lengths)])))
        self.sealed, self.dead = kept, 0

    def gather(self, wanted: Locals, consume: bool = False) -> tuple[Rows, Locals] | None:
        """Collect the rows of slots (sorted, distinct) in the order of slots.

        Returns the rows and the (len(wanted) + 1,) bounds of each slot's rows, or None without rows.
        """
        sources: list[tuple[Rows, Locals]] = []
        owners: list[Locals] = []
        emptied = False
        for block in self.sealed:
            at = np.minimum(np.searchsorted(block.keys, wanted), len(block.keys) - 1)
            hit = (block.keys[at] == wanted) & block.alive[at]
            if hit.any():
                which = at[hit]
                sources.append((block.rows, block.positions(which)))
                owners.append(np.repeat(np.flatnonzero(hit), np.diff(block.bounds)[which]))
                if consume:
                    block.alive[which] = False
                    emptied |= not block.alive.any()
        if self.open is not None and self.fill:
            slots = self.slots[: self.fill]
            at = np.minimum(np.searchsorted(wanted, slots), len(wanted) - 1)
            hit = wanted[at] == slots
            if hit.any():
                sources.append((self.open, np.flatnonzero(hit)))
                owners.append(at[hit])
                if consume:
                    slots[hit] = -1
        if emptied:
            self.sealed = [block for block in self.sealed if block.alive.any()]
        if not sources:
            return None
        owner = np.concatenate(owners)
        bounds = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(wanted)))])
        place = np.empty(len(owner), np.int64)
        place[np.argsort(owner, kind="stable")] = np.arange(len(owner))
        out, begin = Rows.empty(len(owner), sources[0][0]), 0
        for rows, positions in sources:
            end = begin + len(positions)
            out.put(place[begin:end], rows.take(positions))
            begin = end
        return out, bounds
