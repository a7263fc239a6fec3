"""Each stateless operator as a function of its own: its parameters are the arguments behind the vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.columns.results import to_codes
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.duckdb.scalar import Scalar, both, constant, finite_vectors
from vecpipe.errors import SpecError
from vecpipe.operators import Codec, Operator, parameters, registry
from vecpipe.rules import rows_named


def scalars() -> Iterator[Scalar]:
    """Yield a function for each stateless operator."""
    for cls in registry().values():
        if cls.stateless:
            yield _from_operator(cls)


def operator_arguments(cls: type[Operator]) -> str:
    """Return the arguments of a stateless operator's function, those that may be left out in brackets."""
    declared = parameters(cls)
    required = ", ".join(["v", *(p.name for p in declared if p.required)])
    optional = [p.name for p in declared if not p.required]
    return required + "".join(f" [, {name}" for name in optional) + "]" * len(optional)


def _from_operator(cls: type[Operator]) -> Scalar:
    names = ["v", *(parameter.name for parameter in parameters(cls))]
    help_text = (cls.__doc__ or "").split("\n", 1)[0]
    returns = "BLOB" if issubclass(cls, Codec) else "FLOAT[]"
    name = f"vec_{cls.name}"

    def apply(*columns: Any) -> Any:
        _check_arity(name, columns, 1 + sum(parameter.required for parameter in parameters(cls)), len(names))
        rows = to_rows(columns[0], column=f"{name}: v")
        given = zip(parameters(cls), columns[1:], strict=False)
        step = cls(**{parameter.name: constant(column, f"{name}: {parameter.name}") for parameter, column in given})
        if rows.nulls == len(rows):
            return pa.nulls(len(rows), pa.binary() if isinstance(step, Codec) else pa.list_(pa.float32()))
        step = step.bind(rows.dim, {})
        valid = rows.valid
        if isinstance(step, Codec):
            if step.direction_only:
                valid = both(valid, np.asarray(rows.values.any(axis=1)))
            with rows_named(f"{name}: v"):
                return to_codes(step.encode(rows.values), valid)
        return finite_vectors(step.apply(rows.values), valid)

    return Scalar(name, operator_arguments(cls), returns, help_text, apply)


def _check_arity(name: str, columns: tuple[Any, ...], low: int, high: int) -> None:
    if not low <= len(columns) <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise SpecError(f"{name} takes {wanted} arguments, got {len(columns)}")
