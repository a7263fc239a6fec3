"""Slots: what a DuckDB aggregate state points at.

A state in DuckDB's memory is eight bytes, the number of a slot (0: nothing yet), so DuckDB may move,
copy or drop it freely. Slots live in arenas, one for each aggregate and thread, and are counted:
``combine`` into an empty state shares the slot, and a shared slot is never changed again, because a
window's segment tree combines one state into many. An arena goes when its last slot goes.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vecpipe.engines.duckdb.native.memory import array_at

Ids = NDArray[np.uint64]
Locals = NDArray[np.int64]

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
# Guards numbers, counts and links of slots; held for microseconds. An arena's own ``lock`` guards its
# rows and sums; it may be held while taking this one, never the other way round.
TABLE = threading.RLock()
ARENAS: dict[int, Arena] = {}
_OPEN: dict[tuple[object, int], Arena] = {}
_NUMBERS = itertools.count(1)


def split(slot: int) -> tuple[Arena, int]:
    """Return the arena of a slot and its index there."""
    return ARENAS[slot >> 32], slot & 0xFFFFFFFF


def by_arena(ids: Ids) -> list[tuple[Arena, NDArray[np.intp] | None, Locals]]:
    """Group slot numbers by arena: (arena, positions or None for all, local indices)."""
    if len(ids) == 1:
        arena, local = split(int(ids[0]))
        return [(arena, None, np.array([local], np.int64))]
    numbers = (ids >> _SHIFT).astype(np.int64)
    low = (ids & _LOW).astype(np.int64)
    if (numbers == numbers[0]).all():
        return [(ARENAS[int(numbers[0])], None, low)]
    return [
        (ARENAS[number], at, low[at])
        for number in np.unique(numbers).tolist()
        for at in [np.flatnonzero(numbers == number)]
    ]


class States:
    """The state pointers of one callback."""

    def __init__(self, address: int, count: int) -> None:
        self.pointers = array_at(address, count, "<u8")
        first = int(self.pointers[0])
        # Compared as bytes: it is asked for every chunk, and NumPy would hand the interpreter's lock around for it.
        entries = ctypes.string_at(address, 8 * count)
        self.single = count == 1 or entries == entries[:8] * count
        if self.single:
            self.memory, self.index = array_at(first, 1, "<u8"), np.zeros(1, np.int64)
        else:
            low, high = int(self.pointers.min()), int(self.pointers.max())
            if (self.pointers & np.uint64(7)).any():
                raise RuntimeError("DuckDB laid out aggregate states at addresses that are not multiples of 8")
            # One view over the whole span: only the addresses that DuckDB gave are ever touched.
            self.memory = array_at(low, (high - low) // 8 + 1, "<u8")
            self.index = ((self.pointers - np.uint64(low)) >> np.uint64(3)).astype(np.int64)

    def read(self) -> Ids:
        """Return the slot number of each entry (one entry when ``single``)."""
        return self.memory[self.index]

    def write(self, where: Any, ids: Any) -> None:
        """Store slot numbers for the entries at ``where``."""
        self.memory[self.index[where]] = ids


class Arena:
    """Slots of one aggregate on one thread; subclasses hold what a slot stands for."""

    def __init__(self) -> None:
        self.number = next(_NUMBERS)
        self.lock = threading.RLock()
        self.refs = np.zeros(16, np.int32)
        self.used = 0
        self.live = 0
        self.rows_read = 0
        self.free: list[int] = []
        self.children: dict[int, list[int]] = {}
        self.key: tuple[object, int] | None = None

    def allocate(self, count: int) -> Locals:
        """Return ``count`` new slots with one reference each."""
        with TABLE:
            reused = [self.free.pop() for _ in range(min(count, len(self.free)))]
            fresh = count - len(reused)
            need = self.used + fresh
            if need > len(self.refs):
                self.grow(max(need, 2 * len(self.refs)))
            out = np.array(reused + list(range(self.used, need)), np.int64)
            self.used = need
            self.refs[out] = 1
            self.live += count
            # Since this thread looked the arena up, another one may have dropped its last slot, and the arena with it.
            ARENAS[self.number] = self
            if self.key is not None:
                _OPEN.setdefault(self.key, self)
            return out

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` slots."""
        self.refs = np.concatenate([self.refs, np.zeros(capacity - len(self.refs), np.int32)])

    def id_of(self, local: Any) -> Any:
        """Return slot numbers for local indices."""
        return np.uint64(self.number << 32) | np.asarray(local).astype(np.uint64)

    def dropped(self, dead: Locals) -> None:
        """Called under TABLE when slots lose their last reference."""

    def fork(self, old: Locals) -> Locals:
        """Return new slots that start as the old, shared ones; takes over one reference of each."""
        raise NotImplementedError

    def absorb(self, target: int, source: int) -> None:
        """Add one slot to another, which has one reference."""
        raise NotImplementedError


ArenaType = TypeVar("ArenaType", bound=Arena)


def open_arena(key: tuple[object, int], make: Callable[[], ArenaType]) -> ArenaType:
    """Return the arena for this aggregate and thread, a new one when the last went."""
    with TABLE:
        known = _OPEN.get(key)
        if known is not None:
            return cast(ArenaType, known)
        arena = make()
        arena.key = key
        _OPEN[key] = ARENAS[arena.number] = arena
        return arena


def close_if_empty(arena: Arena) -> None:
    """Forget an arena without slots."""
    with TABLE:
        if arena.live == 0:
            ARENAS.pop(arena.number, None)
            if arena.key is not None and _OPEN.get(arena.key) is arena:
                del _OPEN[arena.key]


def close_unused() -> None:
    """Forget the arenas that this thread opened and put no slot in (an update failed)."""
    me = threading.get_ident()
    with TABLE:
        for (_, thread), arena in tuple(_OPEN.items()):
            if thread == me:
                close_if_empty(arena)


def release(ids: Ids) -> None:
    """Give back one reference of each slot, and of what only they held."""
    with TABLE:
        while len(ids):
            below: list[int] = []
            for arena, _, local in by_arena(ids):
                np.subtract.at(arena.refs, local, 1)
                dead = local[arena.refs[local] == 0]
                if len(local) > 1 and len(dead):
                    dead = np.unique(dead)
                if len(dead):
                    arena.live -= len(dead)
                    if arena.children:
                        for one in dead.tolist():
                            below += arena.children.pop(one, ())
                    arena.dropped(dead)
                    close_if_empty(arena)
            ids = np.array(below, np.uint64)


def retain(slot: int) -> int:
    """Take one more reference of a slot."""
    arena, local = split(slot)
    arena.refs[local] += 1
    return slot


def claim(states: States, arena: Arena) -> Ids:
    """Return a slot of its own for each entry: new where there was none, a fork where it was shared."""
    ids = states.read()
    if len(ids) == 1 and ids[0]:
        home, slot = split(int(ids[0]))
        if home.refs[slot] == 1:
            return ids
    if (ids == 0).any():
        empty = np.flatnonzero(ids == 0)
        places, first = np.unique(states.index[empty], return_index=True)
        states.write(empty[first], arena.id_of(arena.allocate(len(places))))
        ids = states.read()
    for home, at, local in by_arena(ids):
        shared = home.refs[local] > 1
        if shared.any():
            where = np.flatnonzero(shared) if at is None else at[shared]
            _, first = np.unique(states.index[where], return_index=True)
            one_each = where[first]
            old = (ids[one_each] & _LOW).astype(np.int64)
            states.write(one_each, home.id_of(home.fork(old)))
            return claim(states, arena)
    return ids


def combine(source: int, target: int, count: int) -> None:
    """Combine states pairwise; sources stay as they are, and usable."""
    if not count:
        return
    sources, targets = States(source, count), States(target, count)
    given = sources.read()
    if sources.single:
        given = np.repeat(given, count)
    places = targets.index if not targets.single else np.zeros(count, np.int64)
    memory = targets.memory
    for place, slot in zip(places.tolist(), given.tolist(), strict=True):
        if not slot:
            continue
        have = int(memory[place])
        if not have:
            with TABLE:
                memory[place] = retain(slot)
            continue
        home, local = split(have)
        if home.refs[local] > 1:
            local = int(home.fork(np.array([local]))[0])
            memory[place] = home.id_of(local)
        home.absorb(local, slot)


def destroy(address: int, count: int) -> None:
    """Release the slots of states that DuckDB is about to forget."""
    if not count:
        return
    states = States(address, count)
    places = np.unique(states.index)
    ids = states.memory[places]
    states.memory[places] = 0
    ids = ids[ids != 0]
    if len(ids):
        release(ids)
