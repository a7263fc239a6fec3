"""What a scalar function of the SQL surface is, and the columns that the bodies of many take and give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vecpipe.arrays import Float32, Mask
from vecpipe.columns.results import to_vectors
from vecpipe.errors import InputError, SpecError
from vecpipe.rules import say_of_chunk


@dataclass(frozen=True)
class Scalar:
    """A scalar function.

    Attributes
    ----------
    name, arguments : str
        Name and arguments as the reference shows them.
    returns : str
        SQL type of the result.
    volatile : bool
        Whether each call counts: never folded into the plan.
    by_chunk : bool
        Whether the rows that errors name are those of the chunk; not where rows come in lists, or from a table that the
        function reads.
    """

    name: str
    arguments: str
    returns: str
    help: str
    function: Callable[..., Any]
    volatile: bool = False
    by_chunk: bool = True

    def called(self) -> Callable[..., Any]:
        """Return the function for DuckDB to call with the columns of a chunk."""
        function = self.function
        if not self.by_chunk:
            return function

        @wraps(function)
        def call(*columns: Any) -> Any:
            try:
                return function(*columns)
            except InputError as error:
                say_of_chunk(error, max(map(len, columns), default=0))
                raise

        return call


def constant(column: Any, what: str) -> Any:
    """Return the one value of a column that must hold the same in every row."""
    values = column.unique()
    if len(values) != 1:
        raise SpecError(f"{what} must be the same for all rows of a statement, found {len(values)} values")
    value = values[0].as_py()
    return float(value) if type(value).__name__ == "Decimal" else value


def both(a: Mask | None, b: Mask) -> Mask | None:
    """Return the rows that count in both masks; None where that is all of them."""
    if b.all():
        return a
    return b if a is None else a & b


def floats(values: npt.NDArray[Any], valid: Mask | None = None) -> Any:
    """Return a FLOAT column, NULL where the value is NaN or the row does not count."""
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if valid is None and len(values) and not math.isnan(values.min()):
        return pa.array(values)
    missing = np.isnan(values)
    if valid is not None:
        missing |= ~valid
    return pa.array(values, mask=missing if missing.any() else None)


def finite_vectors(values: Float32, valid: Mask | None) -> Any:
    """Return a FLOAT[] column, NULL where a value left the range of float32."""
    return to_vectors(values, both(valid, np.asarray(np.isfinite(values).all(axis=1))))
