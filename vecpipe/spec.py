"""The spec language: ``center | pca(128) | int8`` to operators and back.

A spec is operators joined by ``|``; parameters stand in brackets, by position or by name (``=`` or ``:=``).
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from typing import Any

from vecpipe.errors import SpecError
from vecpipe.operators import Codec, Operator, operator_named, parameters

MAX_SPEC = 4_096
MAX_STEPS = 64

_STEP = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:\(([^()]*)\)\s*)?\Z")
_ARGUMENT = re.compile(r"\s*(?:([A-Za-z_][A-Za-z0-9_]*)\s*:?=\s*)?([^\s=:][^=]*?)\s*\Z")
_INTEGER = re.compile(r"[+-]?\d{1,18}\Z")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\Z")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def parse(spec: str) -> list[Operator]:
    """Return the operators of a spec, unfitted.

    Raises
    ------
    SpecError
        The text is no spec, an operator or parameter is unknown (the nearest name is offered), a value breaks a
        rule, or a codec is followed by another step.

    Examples
    --------
    >>> format_spec(parse("center|pca( 16 )|int8"))
    'center | pca(16) | int8'
    """
    if not isinstance(spec, str):
        raise SpecError(f"a spec is text such as 'center | pca(128) | int8', not {type(spec).__name__}")
    if len(spec) > MAX_SPEC:
        raise SpecError(f"a spec has at most {MAX_SPEC} characters, this one has {len(spec)}")
    if not spec.strip():
        raise SpecError("the spec is empty; an example is 'center | pca(128) | int8'")
    parts = spec.split("|")
    if len(parts) > MAX_STEPS:
        raise SpecError(f"a spec has at most {MAX_STEPS} steps, this one has {len(parts)}")
    steps = [_step(part, spec) for part in parts]
    for step, after in itertools.pairwise(steps):
        if isinstance(step, Codec):
            raise SpecError(f"{step.name} writes codes and must be the last step, but {after.name} follows it")
    printed = len(format_spec(steps))  # what a model holds, and what is read back
    if printed > MAX_SPEC:
        raise SpecError(f"a spec has at most {MAX_SPEC} characters, this one has {printed} once it is formatted")
    return steps


def _step(text: str, spec: str) -> Operator:
    match = _STEP.match(text)
    if match is None:
        raise SpecError(f"cannot read {text.strip()!r} in {spec!r}; a step is a name, or a name(parameters)")
    name, inside = match.groups()
    cls = operator_named(name)
    declared = parameters(cls)
    given: dict[str, Any] = {}
    for position, text in enumerate(inside.split(",") if inside and inside.strip() else []):
        argument = _ARGUMENT.match(text)
        if argument is None:
            raise SpecError(f"{name}: cannot read the parameter {text.strip()!r}")
        key, value = argument.groups()
        if key is None:
            if position >= len(declared) or len(given) != position:
                raise SpecError(f"{name}: too many parameters by position; it takes ({_signature(declared)})")
            key = declared[position].name
        if key not in {parameter.name for parameter in declared}:
            near = difflib.get_close_matches(key, [parameter.name for parameter in declared], 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it takes ({_signature(declared)})"
            raise SpecError(f"{name}: no parameter is named {key!r}{hint}")
        if key in given:
            raise SpecError(f"{name}: {key} is given twice")
        given[key] = _value(value, name)
    missing = [parameter.name for parameter in declared if parameter.required and parameter.name not in given]
    if missing:
        raise SpecError(f"{name}: {missing[0]} is missing; it takes ({_signature(declared)})")
    return cls(**given)


def _value(text: str, name: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if text == "none":
        return None
    if _INTEGER.match(text):
        return int(text)
    if _NUMBER.match(text):
        return float(text)
    if _WORD.match(text):
        return text
    raise SpecError(f"{name}: cannot read the value {text!r}; expected a number, a word, true or false")


def _signature(declared: Sequence[Any]) -> str:
    return ", ".join(p.name if p.required else f"{p.name}={_text(p.default)}" for p in declared)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def format_step(step: Operator) -> str:
    """Return the text of one operator: required parameters by position, others by name where not the default."""
    words = []
    for parameter in parameters(type(step)):
        value = getattr(step, parameter.name)
        if parameter.required:
            words.append(_text(value))
        elif value != parameter.default:
            words.append(f"{parameter.name}={_text(value)}")
    return f"{step.name}({', '.join(words)})" if words else step.name


def format_spec(steps: Sequence[Operator]) -> str:
    """Return the text of a pipeline; ``parse`` gives the same pipeline back."""
    return " | ".join(format_step(step) for step in steps)


def signature(cls: type[Operator]) -> str:
    """Return name and parameters of an operator as the help shows them."""
    inside = _signature(parameters(cls))
    return f"{cls.name}({inside})" if inside else cls.name
