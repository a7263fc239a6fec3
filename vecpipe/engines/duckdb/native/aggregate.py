"""What an aggregate is, and how it judges the rows of a chunk: the same rules and words as ``vecpipe.rules``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecpipe.arrays import Float64
from vecpipe.engines.duckdb.native.reading import Reader, Vectors
from vecpipe.engines.duckdb.native.slots import Ids, States, combine
from vecpipe.errors import InputError
from vecpipe.rules import check_width, nonfinite_rows, not_finite, null_element

Positions = NDArray[np.int64] | None
"""Positions in a chunk; None stands for all of them."""


@dataclass
class Input:
    """One chunk: the reader, its column vectors, the number of rows, the states."""

    reader: Reader
    columns: Sequence[int]
    count: int
    states: States


class Aggregate:
    """Base of the kinds of aggregates: one instance for each overload."""

    name: str

    def update(self, chunk: Input) -> None:
        """Take one chunk in."""
        raise NotImplementedError

    def combine(self, source: int, target: int, count: int) -> None:
        """Combine states; the default shares and links slots."""
        combine(source, target, count)

    def results(self, ids: Ids) -> list[Any]:
        """Return one result for each slot number; None is NULL."""
        raise NotImplementedError

    def where(self, row: int, argument: str = "v") -> str:
        """Return the words for a row; DuckDB's threads read apart, so a row has a number in its thread only."""
        return f"{self.name}: {argument}: row {row} in the reading order of its thread"

    def weights(self, chunk: Input, column: int | None, nulls: NDArray[np.int64], first: int) -> tuple[Any, Positions]:
        """Return weights and the rows that have one; refuses weights that are negative, NaN or infinite."""
        if column is None:
            return None, None
        weights, valid = chunk.reader.doubles(chunk.columns[column], chunk.count)
        bad = ~(weights >= 0) | np.isinf(weights)
        if valid is not None:
            bad &= valid
        bad[nulls] = False
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            where = self.where(first + row, "weight")
            raise InputError(f"{where} holds {weights[row]}; weights are finite and at least 0")
        return weights, None if valid is None else np.flatnonzero(valid)

    def check(self, part: Vectors, first: int, *, elements: bool = True) -> NDArray[Any]:
        """Return the values of the rows that are not NULL; the first row that breaks a rule is an error."""
        return check_vectors(part, lambda i: self.where(first + i), elements=elements)


def by_width(part: Vectors, states: States) -> list[Vectors]:
    """Return the vectors of a chunk in the parts that are checked, each by itself.

    Rows of several widths are no error where they may belong to several groups: that is for each group to say.
    """
    if states.single or not part.ragged:
        return [part]
    return [replace(part, ragged=[]), *part.ragged]


def check_vectors(part: Vectors, where: Callable[[int], str], *, elements: bool = True) -> NDArray[Any]:
    """Return the values of the rows that are not NULL; the first row of a chunk that breaks a rule is an error.

    Parameters
    ----------
    where
        Returns the words for a row of the chunk.
    elements
        False leaves it to the caller to find NaN and infinities.
    """
    if len(part.holes):
        raise null_element(where(int(part.holes[0])))
    for other in part.ragged:
        if len(other.values):
            check_width(other.width, part.width or None, where(int(other.rows[0]) if other.rows is not None else 0))
        if len(other.holes):
            raise null_element(where(int(other.holes[0])))
    values = part.values
    if not len(values):
        return values

    def row_of(i: int) -> int:
        return i if part.rows is None else int(part.rows[i])

    check_width(part.width, None, where(row_of(0)))
    if elements and values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32, copy=False)
        bad = nonfinite_rows(narrow)
        if bad.size:
            i = int(bad[0])
            raise not_finite(where(row_of(i)), narrow[i])
    return values


def with_weight(
    part: Vectors, values: NDArray[Any], weights: Float64 | None, weighted: Positions
) -> tuple[Positions, NDArray[Any], Float64 | None]:
    """Leave out rows with a NULL weight; return positions, values and weights of the rest."""
    rows = part.rows
    if weights is None:
        return rows, values, None
    if weighted is not None:
        has = np.zeros(len(weights), np.bool_)
        has[weighted] = True
        keep = has if rows is None else has[rows]
        values = values[keep]
        rows = np.flatnonzero(has) if rows is None else rows[keep]
    return rows, values, weights if rows is None else weights[rows]
