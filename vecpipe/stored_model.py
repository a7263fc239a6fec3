"""The bytes of a model: what is written, and what is checked when bytes from elsewhere are read.

What a model does is in ``model``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from vecpipe import container
from vecpipe.errors import ModelFormatError, SpecError
from vecpipe.operators import Operator
from vecpipe.operators.base import check_widths
from vecpipe.rules import MAX_DIM
from vecpipe.spec import format_spec, parse
from vecpipe.version import __version__

WHITENING = ("whitening_recall_before", "whitening_recall_after")
"""What the two numbers of ``FitInfo.whitening`` are called."""


@dataclass(frozen=True)
class FitInfo:
    """What the fit saw: rows that counted, NULL rows, invalid rows left out, zero vectors.

    ``whitening`` is recall@10 before and after a whitening step, on the sample, where there is such a step.
    """

    rows: int = 0
    nulls: int = 0
    invalid: int = 0
    zeros: int = 0
    whitening: tuple[float, float] | None = None


@dataclass(frozen=True)
class StoredModel:
    """What is stored of a model.

    Attributes
    ----------
    steps
        Operators, bound.
    dim, info
        As in ``Model``.
    output, bytes_per_vector
        What the model is said to write: SQL type, and bytes of one result.
    """

    steps: Sequence[Operator]
    dim: int
    info: FitInfo
    output: Any
    bytes_per_vector: Any

    def to_bytes(self) -> bytes:
        """Return the bytes (safetensors)."""
        record = {
            "spec": format_spec(self.steps),
            "dim": self.dim,
            "output": self.output,
            "bytes": self.bytes_per_vector,
            "rows": self.info.rows,
            "nulls": self.info.nulls,
            "invalid": self.info.invalid,
            "zeros": self.info.zeros,
            "library": __version__,
        }
        if self.info.whitening is not None:
            record |= dict(zip(WHITENING, self.info.whitening, strict=True))
        arrays = {
            f"{position}.{name}": array
            for position, step in enumerate(self.steps)
            for name, array in step.state.items()
        }
        return container.write("model", record, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> StoredModel:
        """Read bytes back.

        Raises
        ------
        ModelFormatError
            The bytes are not a readable model; the message says why.
        """
        record, arrays = container.read("model", data)
        dim = container.integer(record, "dim", 1, MAX_DIM)
        try:
            steps = _bound(parse(container.text(record, "spec")), dim, arrays)
        except SpecError as error:
            raise ModelFormatError(f"model: {error}") from error
        counts = {name: container.integer(record, name, 0) for name in ("rows", "nulls", "invalid", "zeros")}
        measured = WHITENING[0] in record
        kept = (container.number(record, WHITENING[0]), container.number(record, WHITENING[1])) if measured else None
        return StoredModel(steps, dim, FitInfo(**counts, whitening=kept), record.get("output"), record.get("bytes"))

    def check(self, output: str, bytes_per_vector: int) -> None:
        """Refuse bytes that promise other results than the steps give.

        Raises
        ------
        ModelFormatError
            Says which promise.
        """
        for name, said, made in (("output", self.output, output), ("bytes", self.bytes_per_vector, bytes_per_vector)):
            if said != made:
                raise ModelFormatError(f"model: {name} is {said!r}, but its spec makes it {made!r}")


def _bound(steps: Sequence[Operator], dim: int, arrays: container.Arrays) -> list[Operator]:
    """Return steps with their state, each bound to the width that the one before leaves."""
    check_widths(steps, dim)
    states: dict[str, dict[str, npt.NDArray[Any]]] = {str(position): {} for position in range(len(steps))}
    for key, array in arrays.items():
        position, _, name = key.partition(".")
        if position not in states:
            raise ModelFormatError(f"model: array {key!r} belongs to no step")
        states[position][name] = array
    bound, width = [], dim
    for step, state in zip(steps, states.values(), strict=True):
        bound.append(step.bind(width, state))
        width = step.output_dim(width)
    return bound
