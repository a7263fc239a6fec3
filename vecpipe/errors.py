"""The errors a user meets. Each says what was found, where, what was expected and the next step."""

from __future__ import annotations

from collections.abc import Sequence

_LISTED = 20


class VecpipeError(Exception):
    """Base of every error that vecpipe raises on purpose."""


class SpecError(VecpipeError, ValueError):
    """A spec, or one of its parameters, cannot be understood or does not fit the vectors."""


class InputError(VecpipeError, ValueError):
    """Rows that no operator accepts: ragged, NaN, infinite, of a wrong width or type."""


class RowError(InputError):
    """A row of a block that is not finite, or that an operator cannot hold.

    Whoever cut the block knows column and row: ``rules.rows_named`` says them.

    Attributes
    ----------
    row : int
        Which row of the block.
    rule : str
        What it holds, and what to do.
    """

    def __init__(self, operator: str | None, row: int, rule: str) -> None:
        super().__init__(f"row {row} {rule}" if operator is None else f"{operator}: row {row} {rule}")
        self.row, self.rule = row, rule if operator is None else f"{rule} ({operator})"


class FitError(VecpipeError, ValueError):
    """The rows are valid but do not suffice for this fit, for example none at all."""


class ModelFormatError(VecpipeError, ValueError):
    """Bytes that are not a readable model or sketch."""


class ModelNotFoundError(VecpipeError, LookupError):
    """No model of that name can be seen in the catalog."""


class CapabilityError(VecpipeError, TypeError):
    """The operation does not exist for this model, for example decoding a model without a codec."""


class EngineError(VecpipeError, RuntimeError):
    """A host database refused a statement; the message holds the statement."""


class ResumeError(VecpipeError, RuntimeError):
    """An unfinished run cannot be continued by this one; the message says what differs."""


class RecallError(VecpipeError, RuntimeError):
    """An audit found fewer of the true neighbours than was asked for; nothing has been switched over."""


class AggregatesUnavailableWarning(UserWarning):
    """A database has the scalar functions but not the aggregates; the message says why and what to do."""


class WhiteningWarning(UserWarning):
    """A whitening step loses many of the neighbours that the vectors had before it."""


def listed(names: Sequence[object]) -> str:
    """Return names for a message: all of them, or the first 20 and how many more there are."""
    shown = ", ".join(map(str, names[:_LISTED]))
    return shown if len(names) <= _LISTED else f"{shown} ... and {len(names) - _LISTED} more"
