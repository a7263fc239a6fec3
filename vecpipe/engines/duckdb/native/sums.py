"""Aggregates whose state is one number a dimension: sum, mean, minimum, maximum.

A slot is one float64 row of its arena's table. A chunk is added by whole columns when it belongs to
one group, by groups or by "layers" (the r-th row of every group at once) when it belongs to many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecpipe.engines.duckdb.native.slots import TABLE, Arena, Ids, Locals, States, by_arena, claim, release, split
from vecpipe.errors import InputError

F64 = NDArray[np.float64]


_ACCUMULATORS = 6144
_TILE = 128
_QUICK_ROWS = 32
_ONES = np.ones(_QUICK_ROWS, np.float32)


def reduce_rows(ufunc: np.ufunc, values: NDArray[Any]) -> F64:
    """Reduce (n, d) rows to (d,) in float64.

    Several rows are laid side by side first: one long accumulator costs less than many short ones.
    """
    count, width = values.shape
    together = 1 << max(0, (_ACCUMULATORS // max(width, 1)).bit_length() - 1)
    whole = count // together * together
    if whole < 4 * together or not values.flags.c_contiguous:
        return np.asarray(ufunc.reduce(values, axis=0, dtype=np.float64))
    side_by_side = values[:whole].reshape(whole // together, together * width)
    # dtype=float64 makes NumPy widen in small buffers: float32 sums would lose digits.
    wide = ufunc.reduce(side_by_side, axis=0, dtype=values.dtype if ufunc is not np.add else np.float64)
    out = ufunc.reduce(wide.reshape(together, width), axis=0, dtype=np.float64)
    return out if whole == count else np.asarray(ufunc(out, ufunc.reduce(values[whole:], axis=0, dtype=np.float64)))


def quick_sum(values: NDArray[np.float32]) -> F64:
    """Return the (d,) sum of (n, d) float32 rows: 32 rows at a time in float32, those sums in float64.

    The error is below 2e-6 of the sum of the magnitudes, and typically far below 1e-7: enough for a mean, and a third
    of the time of widening every number.
    """
    count, width = values.shape
    whole = count // _QUICK_ROWS * _QUICK_ROWS
    if whole < 4 * _QUICK_ROWS or not values.flags.c_contiguous:
        return reduce_rows(np.add, values)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = np.matmul(_ONES, values[:whole].reshape(-1, _QUICK_ROWS, width))
    total = np.add.reduce(narrow, axis=0, dtype=np.float64)
    if whole < count:
        total += np.add.reduce(values[whole:], axis=0, dtype=np.float64)
    return np.asarray(total)


def weighted_sum(values: NDArray[Any], weights: F64) -> F64:
    """Return the (d,) weighted sum of (n, d) rows in float64, by tiles that fit a core's cache."""
    out = np.zeros(values.shape[1])
    tile = np.empty((128, values.shape[1]))
    for at in range(0, len(values), 128):
        part = values[at : at + 128]
        product = np.multiply(part, weights[at : at + 128, None], out=tile[: len(part)])
        out += np.add.reduce(product, axis=0)
    return out


class SumArena(Arena):
    """A table of float64 rows, with the count and the total weight of each.

    Parameters
    ----------
    width : int
        Dimension of the vectors.
    ufunc : numpy.ufunc
        ``add``, ``minimum`` or ``maximum``.
    """

    def __init__(self, width: int, ufunc: np.ufunc) -> None:
        super().__init__()
        self.width, self.ufunc = width, ufunc
        self.identity = 0.0 if ufunc is np.add else np.inf if ufunc is np.minimum else -np.inf
        self.table = np.empty((len(self.refs), width))
        self.weight = np.zeros(len(self.refs))

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` slots."""
        super().grow(capacity)
        table = np.empty((capacity, self.width))
        table[: len(self.table)] = self.table
        self.table = table
        self.weight = np.concatenate([self.weight, np.zeros(capacity - len(self.weight))])

    def allocate(self, count: int) -> Locals:
        """Return ``count`` new slots with one reference each."""
        with self.lock:
            out = super().allocate(count)
            self.table[out] = self.identity
            self.weight[out] = 0.0
            return out

    def dropped(self, dead: Locals) -> None:
        """Forget what slots without a reference stood for."""
        self.free += dead.tolist()

    def fork(self, old: Locals) -> Locals:
        """Return new slots that start as the old, shared ones."""
        new = self.allocate(len(old))
        with self.lock:
            self.table[new], self.weight[new] = self.table[old], self.weight[old]
        release(self.id_of(old))
        return new

    def add(self, local: Locals, values: NDArray[Any], weight: F64 | None) -> None:
        """Add (n, d) rows, each times its weight; ``local`` has one entry when all have one slot."""
        with self.lock:
            if len(local) == 1:
                total = reduce_rows(self.ufunc, values) if weight is None else weighted_sum(values, weight)
                self.add_total(int(local[0]), total, len(values) if weight is None else float(weight.sum()))
                return
            np.add.at(self.weight, local, 1.0 if weight is None else weight)
            self._add_groups(local, values if weight is None else values * weight[:, None])

    def add_total(self, slot: int, total: F64, weight: float) -> None:
        """Add a (d,) total to one slot."""
        with self.lock:
            row = self.table[slot]
            self.ufunc(row, total, out=row)
            self.weight[slot] += weight

    def join(self, local: Locals, totals: F64, weight: F64) -> None:
        """Add totals that other slots had."""
        with self.lock:
            if len(local) == 1:
                self.add_total(int(local[0]), self.ufunc.reduce(totals, axis=0), float(weight.sum()))
                return
            np.add.at(self.weight, local, weight)
            self._add_groups(local, totals)

    def _add_groups(self, local: Locals, values: NDArray[Any]) -> None:
        order = np.argsort(local, kind="stable")
        ordered = local[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        counts = np.diff(np.append(starts, len(ordered)))
        slots = ordered[starts]
        # Scratch that fits a core's cache: fresh megabytes for each step cost page faults, not sums.
        rows = np.empty((_TILE, values.shape[1]), values.dtype)
        sums = np.empty((_TILE, values.shape[1]))
        large = counts >= 12
        for i in np.flatnonzero(large).tolist():
            for begin in range(int(starts[i]), int(starts[i] + counts[i]), _TILE):
                part = order[begin : min(begin + _TILE, int(starts[i] + counts[i]))]
                taken = np.take(values, part, axis=0, out=rows[: len(part)], mode="clip")
                total = self.ufunc.reduce(taken, axis=0, dtype=np.float64)
                self.table[slots[i]] = self.ufunc(self.table[slots[i]], total)
        starts, counts, slots = starts[~large], counts[~large], slots[~large]
        for layer in range(int(counts.max(initial=0))):
            deep = np.flatnonzero(counts > layer)
            for begin in range(0, len(deep), _TILE):
                which = deep[begin : begin + _TILE]
                at = slots[which]
                taken = np.take(values, order[starts[which] + layer], axis=0, out=rows[: len(which)], mode="clip")
                have = np.take(self.table, at, axis=0, out=sums[: len(which)], mode="clip")
                self.table[at] = self.ufunc(have, taken, out=have)


def combine_sums(arena_of: Callable[[int], SumArena], source: int, target: int, count: int) -> None:
    """Add source states to target states, which may repeat; sources stay as they are.

    Parameters
    ----------
    arena_of
        Returns the arena for slots of a width; groups may differ in theirs.
    """
    sources, targets = States(source, count), States(target, count)
    given = sources.read()
    if sources.single and count > 1:
        given = np.repeat(given, count)
    widths = np.zeros(count, np.int64)
    have = np.flatnonzero(given != 0)
    for origin, at, _ in by_arena(given[have]) if len(have) else ():
        assert isinstance(origin, SumArena)
        widths[have if at is None else have[at]] = origin.width
    for width in np.unique(widths[have]).tolist():
        where = np.flatnonzero(widths == width)
        if len(where) == count:
            _join(arena_of(width), given, targets)
            continue
        pointers = np.ascontiguousarray(targets.pointers[where])
        _join(arena_of(width), given[where], States(pointers.ctypes.data, len(pointers)))


def _join(arena: SumArena, given: Ids, targets: States) -> None:
    """Add slots of one width to target states."""
    owned = claim(targets, arena)
    if len(owned) == 1:
        owned = np.repeat(owned, len(given))
    for origin, at, local in by_arena(given):
        assert isinstance(origin, SumArena)
        with origin.lock:
            values, weight = origin.table[local], origin.weight[local]
        into = owned if at is None else owned[at]
        for home, inner, slot in by_arena(into):
            assert isinstance(home, SumArena)
            if home.width != origin.width:
                raise InputError(f"vectors of {home.width} and of {origin.width} dimensions in one group")
            one, heavy = (values, weight) if inner is None else (values[inner], weight[inner])
            home.join(slot, one, heavy)


def sums_of(ids: NDArray[np.uint64]) -> list[tuple[F64, float] | None]:
    """Return (totals, weight) of each slot; None for slot 0."""
    out: list[tuple[F64, float] | None] = []
    with TABLE:
        for slot in ids.tolist():
            if not slot:
                out.append(None)
                continue
            arena, local = split(slot)
            assert isinstance(arena, SumArena)
            out.append((arena.table[local].copy(), float(arena.weight[local])))
    return out
