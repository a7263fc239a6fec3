"""The page of SQL functions and operators, written from the macros, the registered functions and the registry."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from vecpipe.engines.duckdb import functions, planning
from vecpipe.engines.duckdb.aggregates import SIGNATURES
from vecpipe.engines.duckdb.operator_functions import operator_arguments
from vecpipe.operators import FAMILIES, Codec, Operator, parameters, registry
from vecpipe.reference.macros import Help, macros
from vecpipe.spec import signature

_TITLES = {
    "normalise": "Normalise",
    "whiten": "Centre and whiten",
    "reduce": "Reduce",
    "rotate": "Rotate",
    "cells": "Cells",
    "quantise": "Codecs",
}
_MODELS, _SEARCH, _NEIGHBOURS, _VECTORS = "Models", "Search", "Neighbours", "Vectors"
_SECTIONS = {
    "models": _MODELS,
    "fit": _MODELS,
    "search": _SEARCH,
    "search_bits": _SEARCH,
    "search_cells": _SEARCH,
    "search_range": _SEARCH,
    "search_stages": _SEARCH,
    "index": _SEARCH,
    "join": _SEARCH,
    "curate": _NEIGHBOURS,
    "fusion": _NEIGHBOURS,
    "hubness": _NEIGHBOURS,
    "normalise": _NEIGHBOURS,
    "votes": _NEIGHBOURS,
}
"""Where the macros of a file are shown."""
_SCALARS = {"vec_fit_sketch": _MODELS, "vec_farthest": _NEIGHBOURS}
"""Where scalar functions are shown that are not of single vectors."""
_HEAD = """# SQL reference

Functions of DuckDB, and the operators of a spec. [Python](python.md) and the [command line](cli.md) have pages of their
own; `vecpipe operators NAME` explains an operator in a terminal.

An argument `name := value` may be left out and is given by name; one in brackets may be left out and is given by
position; any other argument of a macro may be given either way. Tables and columns are named by text, and a table may
be a view or CTE. A `model` is the name of one in `vecpipe.models`, `docs` for its newest version or `docs@3` for
version 3. A `metric` is `cosine`, `ip` (inner product) or `l2` (minus the distance). `on_invalid := 'null'` gives
NULL for a row that would otherwise be an error."""
_VERSION = Help("Version of vecpipe, and a digest of the macros that this database holds.")


@dataclass(frozen=True)
class Entry:
    """A function as the page shows it; ``returns`` is a type, or the columns of a table."""

    section: str
    name: str
    forms: tuple[str, ...]
    returns: str
    help: Help


def sql_page() -> str:
    """Return the page as Markdown."""
    return "\n".join([_HEAD, *_functions(), *_aggregates(), *_operators()]) + "\n"


def entries() -> Iterator[Entry]:
    """Yield macros and scalar functions; aggregates are apart."""
    public, types = [], {}
    database = planning.Database.of(_no_database)
    for scalar in (*functions.scalars(database), *planning.scalars(database)):
        types[scalar.name] = scalar.returns
        if not scalar.name.startswith("_"):
            public.append(scalar)
    for macro in macros(types):
        yield Entry(_SECTIONS[macro.file], macro.name, macro.forms, macro.returns, macro.help)
    for scalar in public:
        section = _SCALARS.get(scalar.name, _VECTORS)
        yield Entry(section, scalar.name, (scalar.arguments,), scalar.returns, Help(scalar.help))
    yield Entry(_MODELS, "vec_version", ("",), "VARCHAR", _VERSION)


def _no_database(place: str) -> NoReturn:
    raise AssertionError("the reference calls no function")


def _functions() -> Iterator[str]:
    shown = sorted(entries(), key=lambda entry: entry.name)
    yield ""
    for section in (_MODELS, _SEARCH, _NEIGHBOURS):
        links = ", ".join(f"[{entry.name}](#{entry.name})" for entry in shown if entry.section == section)
        yield f"- **[{section}](#{section.lower()})**: {links}"
    for section, about in (
        (_VECTORS, "single vectors"),
        ("Aggregates", "groups of rows"),
        ("Operators", "steps of a spec"),
    ):
        yield f"- **[{section}](#{section.lower()})**: {about}"
    for section in (_MODELS, _SEARCH, _NEIGHBOURS):
        yield from ("", f"## {section}")
        for entry in shown:
            if entry.section == section:
                yield from _shown(entry)
    yield from ("", f"## {_VECTORS}", "", "| function | returns | what it does |", "|---|---|---|")
    for entry in shown:
        if entry.section == _VECTORS:
            yield _row(entry.name, entry.forms, entry.returns, entry.help.before)


def _shown(entry: Entry) -> Iterator[str]:
    yield from ("", f"### `{entry.name}`", "", "```text")
    yield from (f"{entry.name}({form})" for form in entry.forms)
    yield from ("```", "", entry.help.before)
    if entry.help.arguments:
        yield ""
        for names, text in entry.help.arguments:
            listed = ", ".join(f"`{name}`" for name in names.split(", ")) if names != "the others" else names
            yield f"- {listed}: {text}"
    if entry.help.after:
        yield from ("", entry.help.after)
    yield from ("", f"Returns {_result(entry)}.")


def _result(entry: Entry) -> str:
    """Return the columns of a table, or the type of a value."""
    if not entry.help.returns:
        return f"`{entry.returns}`"
    names = entry.returns.split(", ")
    return f"rows of `{'`, `'.join(names)}`" if all(map(str.isidentifier, names)) else entry.returns


def _row(name: str, forms: tuple[str, ...], returns: str, text: str) -> str:
    calls = "<br>".join(f"`{name}({form})`" for form in forms)
    return f"| {calls} | `{returns}` | {text.replace('|', '&#124;')} |"


def _aggregates() -> Iterator[str]:
    yield from (
        "",
        "## Aggregates",
        "",
        "With `GROUP BY`, `FILTER` and windows as any other; [more](aggregates.md).",
        "",
    )
    yield from ("| function | returns | what it does |", "|---|---|---|")
    for name in sorted({overload.name for overload in SIGNATURES}):
        overloads = [overload for overload in SIGNATURES if overload.name == name]
        forms = tuple(dict.fromkeys(overload.arguments for overload in overloads))
        returns = dict.fromkeys(overload.returns for overload in overloads)
        yield _row(name, forms, "` or `".join(returns), overloads[0].help)


def _operators() -> Iterator[str]:
    yield from ("", "## Operators", "", "A spec is operators joined by `|`, a codec last: `center | pca(128) | int8`.")
    for family in FAMILIES:
        yield from ("", f"### {_TITLES[family]}")
        for cls in registry().values():
            if cls.family == family:
                yield from _operator(cls)


def _operator(cls: type[Operator]) -> Iterator[str]:
    yield from ("", f"#### `{signature(cls)}`", "")
    yield inspect.getdoc(cls) or ""
    declared = parameters(cls)
    if declared:
        yield from ("", "| parameter | takes | default | meaning |", "|---|---|---|---|")
        for p in declared:
            default = "" if p.required else f"`{str(p.default).lower()}`"
            yield f"| `{p.name}` | {p.expected()} | {default} | {p.doc.replace('|', '&#124;')} |"
    yield ""
    if cls.stateless:
        returns = "BLOB" if issubclass(cls, Codec) else "FLOAT[]"
        method = ", ".join(p.name if p.required else f"{p.name}={p.default!r}" for p in declared)
        yield (
            f"Also a function of its own: `vec_{cls.name}({operator_arguments(cls)})` -> `{returns}`; "
            f"in Polars `.vec.{cls.name}({method})`."
        )
    yield f"Source: {cls.source}. Checked against: {cls.oracle}."
