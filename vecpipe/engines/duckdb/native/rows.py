"""Slots that stand for rows: which arena's blocks hold them, their width, their spec, what was left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vecpipe.engines.duckdb.native.blocks import RowStore, Summary
from vecpipe.engines.duckdb.native.slots import ARENAS, TABLE, Arena, Locals, retain
from vecpipe.errors import InputError, SpecError

NULLS, HOLES, NANS, INFINITIES, RAGGED = range(5)
"""Kinds of rows that are counted and left out: the columns of ``RowArena.counters``."""


class RowArena(Arena):
    """Slots that stand for rows.

    Parameters
    ----------
    make_summary : callable
        Makes the empty summary of a large group from the width.
    keep_rows : bool
        Never summarise: the result names a row.
    """

    def __init__(self, make_summary: Callable[[int, bytes | None], Summary], keep_rows: bool = False) -> None:
        super().__init__()
        self.make_summary, self.keep_rows = make_summary, keep_rows
        self.stores: dict[int, RowStore] = {}
        self.widths = np.zeros(len(self.refs), np.int64)
        self.spec_of = np.full(len(self.refs), -1, np.int64)
        self.specs: dict[bytes, int] = {}
        self.counters = np.zeros((len(self.refs), 5), np.int64)

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` slots."""
        more = capacity - len(self.refs)
        super().grow(capacity)
        self.widths = np.concatenate([self.widths, np.zeros(more, np.int64)])
        self.spec_of = np.concatenate([self.spec_of, np.full(more, -1, np.int64)])
        self.counters = np.concatenate([self.counters, np.zeros((more, 5), np.int64)])
        for store in self.stores.values():
            store.raw = np.concatenate([store.raw, np.zeros(capacity - len(store.raw), np.int64)])

    def allocate(self, count: int) -> Locals:
        """Return ``count`` new slots with one reference each."""
        with self.lock:
            out = super().allocate(count)
            self.widths[out], self.spec_of[out], self.counters[out] = 0, -1, 0
            return out

    def store(self, width: int) -> RowStore:
        """Return the store of the rows of one width."""
        with self.lock:
            if width not in self.stores:
                self.stores[width] = RowStore(self, width)
            return self.stores[width]

    def dropped(self, dead: Locals) -> None:
        """Forget what slots without a reference stood for."""
        stores = tuple(self.stores.values())
        held = sum((store.raw[dead] for store in stores), np.zeros(len(dead), np.int64))
        self.free += dead[held == 0].tolist()  # no row in any block bears its number
        for store in stores:
            store.dead += int(store.raw[dead].sum())
            store.raw[dead] = 0
            if store.summaries:
                for slot in dead.tolist():
                    store.summaries.pop(slot, None)

    def fork(self, old: Locals) -> Locals:
        """Return new slots that start as the old, shared ones."""
        new = self.allocate(len(old))
        self.widths[new], self.spec_of[new] = self.widths[old], self.spec_of[old]
        for slot, link in zip(new.tolist(), self.id_of(old).tolist(), strict=True):
            self.children[slot] = [link]
        return new

    def absorb(self, target: int, source: int) -> None:
        """Link one slot to another."""
        with TABLE:
            other, local = ARENAS[source >> 32], source & 0xFFFFFFFF
            assert isinstance(other, RowArena)
            self.match(target, int(other.widths[local]), other.spec_bytes(local))
            self.children.setdefault(target, []).append(retain(source))

    def spec_bytes(self, local: int) -> bytes | None:
        """Return the spec that a slot was given, if any."""
        code = int(self.spec_of[local])
        return None if code < 0 else next(spec for spec, at in self.specs.items() if at == code)

    def match(self, slot: int, width: int, spec: bytes | None) -> None:
        """Refuse to join groups of another width or spec; adopt them where a slot has none."""
        if width and not self.widths[slot]:
            self.widths[slot] = width
        elif width and width != self.widths[slot]:
            raise InputError(f"vectors of {self.widths[slot]} and of {width} dimensions in one group")
        if spec is None:
            return
        have = self.spec_bytes(slot)
        if have is None:
            self.spec_of[slot] = self.specs.setdefault(spec, len(self.specs))
        elif have != spec:
            raise SpecError(two_specs(have, spec))


def two_specs(one: bytes, other: bytes) -> str:
    """Return the message for a spec that varies within a group."""
    return (
        f"the spec must be the same for all rows of a group; found {one.decode()!r} and {other.decode()!r}; "
        "add it to GROUP BY or pass a constant"
    )
