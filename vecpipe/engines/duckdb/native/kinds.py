"""The kinds of aggregates: totals a dimension, results from gathered rows, and sketches that merge.

What is computed from a group's rows is given from outside, as a function of the ``Group``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecpipe.blocks import Block
from vecpipe.engines.duckdb.native.aggregate import Aggregate, Input, Positions, by_width, with_weight
from vecpipe.engines.duckdb.native.blocks import Rows, Summary
from vecpipe.engines.duckdb.native.collect import Group, groups, result_of
from vecpipe.engines.duckdb.native.reading import Vectors
from vecpipe.engines.duckdb.native.rows import HOLES, INFINITIES, NANS, NULLS, RAGGED, RowArena, two_specs
from vecpipe.engines.duckdb.native.slots import Ids, States, by_arena, claim, close_if_empty, open_arena
from vecpipe.engines.duckdb.native.sums import SumArena, combine_sums, quick_sum, reduce_rows, sums_of, weighted_sum
from vecpipe.errors import InputError, RowError, SpecError
from vecpipe.sketch import Sketch
from vecpipe.spec import parse

_FLOAT_MAX = float(np.finfo(np.float32).max)
# Threads that do many short things hand the interpreter's lock to each other for each of them, and wait longer than
# they work. So half of the cores add up the chunks of a mean while the others read, and groups are finished by one
# thread at a time where there are many: a group of few rows is nothing but short calls. Plain locks, since Ctrl-C
# cannot strike between taking one and noting that it is taken.
_ADDING = [threading.Lock() for _ in range(max(1, (os.cpu_count() or 1) // 2))]
_FINISHING = threading.Lock()
_MANY_GROUPS = 32


class Totals(Aggregate):
    """One number a dimension: sum, mean, minimum, maximum.

    Parameters
    ----------
    ufunc : numpy.ufunc
        ``add``, ``minimum`` or ``maximum``.
    mean
        Divide by the weight.
    weight
        Column of the weights, if there is one.
    """

    def __init__(self, name: str, ufunc: np.ufunc, *, mean: bool = False, weight: int | None = None) -> None:
        self.name, self.ufunc, self.mean, self.weight = name, ufunc, mean, weight

    def _arena(self, width: int) -> SumArena:
        return open_arena(((id(self), width), threading.get_ident()), lambda: SumArena(width, self.ufunc))

    def update(self, chunk: Input) -> None:
        """Add a chunk."""
        quick = self.mean and self.weight is None and chunk.states.single
        with _ADDING[(threading.get_ident() >> 12) % len(_ADDING)] if quick else nullcontext():
            self._add(chunk)

    def _add(self, chunk: Input) -> None:
        part = chunk.reader.vectors(chunk.columns[0], chunk.count)
        if not part.width and not len(part.holes) and not len(part.values):
            return  # nothing but NULL
        for same in by_width(part, chunk.states):
            self._add_part(chunk, same, part.nulls)

    def _add_part(self, chunk: Input, part: Vectors, nulls: NDArray[np.int64]) -> None:
        arena = self._arena(part.width)
        first, arena.rows_read = arena.rows_read, arena.rows_read + chunk.count
        states = chunk.states
        # A sum of floats is finite exactly when each of them is, and costs no second pass; the sum of minima and
        # maxima is not, and groups mix.
        later = states.single and self.ufunc is np.add and part.values.dtype == np.float32 and part.width > 0
        values = self.check(part, first, elements=not later)
        weights, weighted = self.weights(chunk, self.weight, nulls, first)
        rows, values, weights = with_weight(part, values, weights, weighted)
        if not len(values):
            close_if_empty(arena)
            return
        if rows is not None and not states.single:
            pointers = np.ascontiguousarray(states.pointers[rows])
            states = States(pointers.ctypes.data, len(pointers))
        total = None
        if later:
            if weights is not None:
                total = weighted_sum(values, weights)
            else:
                total = quick_sum(values) if self.mean else reduce_rows(self.ufunc, values)
            if not np.isfinite(total).all():
                self.check(part, first)
                total = reduce_rows(self.ufunc, values) if weights is None else total
        for home, at, local in by_arena(claim(states, arena)):
            assert isinstance(home, SumArena)
            if home.width != part.width:
                i = 0 if at is None else int(at[0])
                row = first + (i if rows is None else int(rows[i]))
                raise InputError(f"{self.where(row)} has {part.width} dimensions, expected {home.width}")
            if total is not None:
                home.add_total(int(local[0]), total, len(values) if weights is None else float(weights.sum()))
            elif at is None:
                home.add(local, values, weights)
            else:
                home.add(local, values[at], None if weights is None else weights[at])

    def combine(self, source: int, target: int, count: int) -> None:
        """Add states to states."""
        combine_sums(self._arena, source, target, count)

    def results(self, ids: Ids) -> list[Any]:
        """Return the totals, or means; NULL without rows or without weight."""
        out: list[Any] = []
        of = " of one of several groups" if len(ids) > 1 else ""
        for found in sums_of(ids):
            if found is None or found[1] == 0.0:
                out.append(None)
                continue
            with np.errstate(invalid="ignore"):
                value = found[0] / found[1] if self.mean else found[0]
            if not np.isfinite(found[1]):
                raise InputError(
                    f"{self.name}: the weights{of} add up to more than a DOUBLE holds; divide them by a constant"
                )
            if not float(np.abs(value).max(initial=0.0)) <= _FLOAT_MAX:
                raise InputError(f"{self.name}: the result{of} is beyond the range of FLOAT")
            out.append(value)
        return out


def whole_sketch(width: int, spec: bytes | None) -> Sketch:
    """Return a sketch that keeps its sample, whatever the spec."""
    return Sketch(width)


def moments_sketch(width: int, spec: bytes | None) -> Sketch:
    """Return a sketch for what needs moments alone."""
    return Sketch(width, keep_sample=False)


class Gathered(Aggregate):
    """Aggregates over the gathered rows of a group.

    Parameters
    ----------
    finish
        Makes the result of a group; None is NULL.
    make_summary
        Makes the empty summary of a large group from the width.
    vector, spec, weight
        Columns of these arguments.
    tag
        Keep the rows, and with each a value of column 0: ``bigint``, ``uuid`` or ``bytes``.
    lenient
        Count rows that break a rule instead of raising.
    """

    def __init__(
        self,
        name: str,
        finish: Callable[[Group], Any],
        make_summary: Callable[[int, bytes | None], Summary] = whole_sketch,
        *,
        vector: int = 0,
        spec: int | None = None,
        weight: int | None = None,
        tag: str = "",
        lenient: bool = False,
    ) -> None:
        self.name, self.finish, self.make_summary = name, finish, make_summary
        self.vector, self.spec, self.weight, self.tag, self.lenient = vector, spec, weight, tag, lenient

    def _arena(self) -> RowArena:
        key = (id(self), threading.get_ident())
        return open_arena(key, lambda: RowArena(self.make_summary, keep_rows=bool(self.tag)))

    def update(self, chunk: Input) -> None:
        """Gather a chunk."""
        part = chunk.reader.vectors(chunk.columns[self.vector], chunk.count)
        arena = self._arena()
        first, arena.rows_read = arena.rows_read, arena.rows_read + chunk.count
        if not self.lenient:
            for same in by_width(part, chunk.states):
                self.check(same, first, elements=False)
        weights, weighted = self.weights(chunk, self.weight, part.nulls, first)
        ids = claim(chunk.states, arena)
        if self.spec is not None:
            self._note_spec(chunk, ids, first)
        _count(ids, part.nulls, NULLS)
        for same in (part, *part.ragged):
            _count(ids, same.holes, HOLES)
            rows, values, heavy = with_weight(same, same.values, weights, weighted)
            if self.lenient and not same.width:
                _count(ids, np.arange(len(values)) if rows is None else rows, RAGGED)
                continue
            if self.lenient and values.dtype.kind == "f" and len(values):
                rows, values = _leave_out(ids, rows, values)
            if len(values):
                self._append(chunk, ids, rows, values, heavy, first)

    def _append(self, chunk: Input, ids: Ids, rows: Positions, values: NDArray[Any], weights: Any, first: int) -> None:
        tags = self._tags(chunk, rows, len(values)) if self.tag else None
        width = values.shape[1]
        with np.errstate(over="ignore"):
            values = values.astype(np.float32, copy=False)
        try:
            given = Rows(Block.of(values, weights), tags)
        except RowError as error:
            i = error.row if rows is None else int(rows[error.row])
            raise InputError(f"{self.where(first + i)} {error.rule}") from None
        own = ids if rows is None or len(ids) == 1 else ids[rows]
        for home, at, local in by_arena(own):
            assert isinstance(home, RowArena)
            mine = given if at is None else given.take(at)
            with home.lock:
                if not self.lenient:
                    other = home.widths[local]
                    clash = np.flatnonzero((other != 0) & (other != width))
                    if clash.size:
                        i = int(clash[0]) if at is None or len(local) == 1 else int(at[clash[0]])
                        row = first + (i if rows is None else int(rows[i]))
                        raise InputError(f"{self.where(row)} has {width} dimensions, expected {other[clash[0]]}")
                    home.widths[local] = width
                home.store(width).append(local, mine)

    def _tags(self, chunk: Input, rows: Positions, count: int) -> NDArray[Any]:
        column, kind = chunk.columns[0], "<i8" if self.tag == "bigint" else "|V16"
        where = np.arange(count) if rows is None else rows
        data, valid = chunk.reader.fixed(column, chunk.count, kind)
        if valid is not None and not valid[where].all():
            raise InputError(f"{self.name}: id: a row with a vector has a NULL id")
        if self.tag == "bytes":
            out = np.empty(count, object)
            out[:] = chunk.reader.strings(column, where)
            return out
        return data if rows is None else data[rows]

    def _note_spec(self, chunk: Input, ids: Ids, first: int) -> None:
        assert self.spec is not None
        column = chunk.columns[self.spec]
        valid = chunk.reader.validity(column, chunk.count)
        if valid is not None:
            row = first + int(np.flatnonzero(~valid)[0])
            raise SpecError(f"{self.where(row, 'spec')} is NULL; a spec is text such as 'center | pca(128) | int8'")
        specs, which = chunk.reader.constant_strings(column, chunk.count)
        if which is not None and len(ids) == 1:
            raise SpecError(f"{self.name}: {two_specs(specs[0], specs[1])}")
        for home, at, local in by_arena(ids):
            assert isinstance(home, RowArena)
            if which is None and len(local) == 1 and home.spec_bytes(int(local[0])) == specs[0]:
                continue  # as for every chunk of a group but the first
            for spec in specs:
                if spec not in home.specs:
                    parse(spec.decode())
            with home.lock:
                codes = np.array([home.specs.setdefault(spec, len(home.specs)) for spec in specs], np.int64)
                mine = codes[0] if which is None else codes[which if at is None else which[at]]
                before = home.spec_of[local]
                home.spec_of[local] = np.where(before < 0, mine, before)
                clash = np.flatnonzero(home.spec_of[local] != mine)
                if clash.size:
                    names = {code: spec for spec, code in home.specs.items()}
                    new = np.broadcast_to(mine, len(local))[clash[0]]
                    raise SpecError(
                        f"{self.name}: {two_specs(names[int(home.spec_of[local[clash[0]]])], names[int(new)])}"
                    )

    def results(self, ids: Ids) -> list[Any]:
        """Return what ``finish`` makes of each group."""
        with _FINISHING if len(ids) >= _MANY_GROUPS else nullcontext():
            return [result_of(group, self.finish, alone=len(ids) == 1) for group in groups(ids)]


def _leave_out(ids: Ids, rows: Positions, values: NDArray[Any]) -> tuple[Positions, NDArray[Any]]:
    """Count and drop rows with NaN or an infinite value."""
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    fine = np.isfinite(values).all(axis=1)
    if fine.all():
        return rows, values
    where = np.arange(len(values)) if rows is None else rows
    nan = np.isnan(values).any(axis=1)
    _count(ids, where[nan], NANS)
    _count(ids, where[~fine & ~nan], INFINITIES)
    return where[fine], values[fine]


def _count(ids: Ids, rows: NDArray[np.int64], which: int) -> None:
    """Count rows that are left out, in their groups."""
    if not len(rows):
        return
    if len(ids) == 1:
        home, _, local = by_arena(ids)[0]
        assert isinstance(home, RowArena)
        with home.lock:
            home.counters[local[0], which] += len(rows)
        return
    for home, _, local in by_arena(ids[rows]):
        assert isinstance(home, RowArena)
        with home.lock:
            np.add.at(home.counters[:, which], local, 1)


class Merged(Aggregate):
    """Sketches in, one sketch out.

    Parameters
    ----------
    finish
        Makes the result of a group.
    """

    def __init__(self, name: str, finish: Callable[[Group], Any]) -> None:
        self.name, self.finish = name, finish

    def _arena(self) -> RowArena:
        return open_arena((id(self), threading.get_ident()), lambda: RowArena(whole_sketch))

    def update(self, chunk: Input) -> None:
        """Merge a chunk of sketches."""
        valid = chunk.reader.validity(chunk.columns[0], chunk.count)
        rows = np.arange(chunk.count) if valid is None else np.flatnonzero(valid)
        ids = claim(chunk.states, self._arena())
        for row in rows.tolist():
            sketch = Sketch.from_bytes(chunk.reader.strings(chunk.columns[0], np.array([row]))[0])
            home, _, local = by_arena(ids[:1] if len(ids) == 1 else ids[row : row + 1])[0]
            assert isinstance(home, RowArena)
            with home.lock:
                slot = int(local[0])
                home.match(slot, sketch.dim, None)
                mine = home.store(sketch.dim).summaries
                if slot in mine:
                    mine[slot].merge(sketch)
                else:
                    mine[slot] = sketch

    def results(self, ids: Ids) -> list[Any]:
        """Return what ``finish`` makes of each group."""
        return [result_of(group, self.finish, alone=len(ids) == 1) for group in groups(ids)]
