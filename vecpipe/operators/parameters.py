"""Parameters of operators: how they are declared, checked and shown. They are dataclass fields made by ``param``."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vecpipe.errors import SpecError


def param(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Iterable[str] = (),
) -> Any:
    """Declare a parameter of an operator: its default, its range or choices, and its help text."""
    metadata = {"doc": doc, "minimum": minimum, "maximum": maximum, "choices": tuple(choices)}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameter:
    """One declared parameter, as the spec language and the help see it."""

    name: str
    kinds: tuple[type, ...]
    default: Any
    doc: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def optional(self) -> bool:
        """Whether it may be left out as None."""
        return types.NoneType in self.kinds

    def check(self, value: Any, operator: str) -> Any:
        """Return the value in its declared type.

        Raises
        ------
        SpecError
            Wrong type, out of range or not among the choices; the message holds the rule.
        """
        where = f"{operator}: {self.name}"
        if value is None and self.optional:
            return None
        if isinstance(value, bool) and bool not in self.kinds:
            raise SpecError(f"{where} is {value}; expected {self.expected()}")
        if float in self.kinds and isinstance(value, int) and int not in self.kinds and bool not in self.kinds:
            value = float(value)
        if not isinstance(value, self.kinds):
            raise SpecError(f"{where} is {value!r}; expected {self.expected()}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            low = -np.inf if self.minimum is None else self.minimum
            high = np.inf if self.maximum is None else self.maximum
            if not (low <= value <= high and math.isfinite(value)):
                raise SpecError(f"{where} is {value}; expected {self.expected()}")
        if isinstance(value, str) and self.choices and value not in self.choices:
            near = difflib.get_close_matches(value, self.choices, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SpecError(f"{where} is {value!r}; expected {self.expected()}{hint}")
        return value

    def expected(self) -> str:
        """Return the rule in words: ``an integer from 1 to 65536``."""
        words = {int: "an integer", float: "a number", bool: "true or false"}
        parts = [words[kind] for kind in self.kinds if kind in words]
        if str in self.kinds:
            parts.append("one of " + ", ".join(self.choices) if self.choices else "a word")
        rule = " or ".join(parts)
        if self.minimum is not None and self.maximum is not None:
            return f"{rule} from {self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"{rule} of at least {self.minimum:g}"
        return rule


_KNOWN: dict[type[Any], tuple[Parameter, ...]] = {}


def parameters(cls: type[Any]) -> tuple[Parameter, ...]:
    """Return the declared parameters of an operator, in order."""
    if cls not in _KNOWN:
        _KNOWN[cls] = _declared(cls)
    return _KNOWN[cls]


def _declared(cls: type[Any]) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(cls)
    found = []
    for item in dataclasses.fields(cls):
        if "doc" not in item.metadata:
            continue
        hint = hints[item.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        meta = item.metadata
        found.append(
            Parameter(item.name, kinds, item.default, meta["doc"], meta["minimum"], meta["maximum"], meta["choices"])
        )
    return tuple(found)
