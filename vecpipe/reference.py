"""The reference page, written from the registry, the functions and the macros.

``python -m vecpipe.reference docs/reference.md`` writes it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from vecpipe.engines.duckdb.aggregates import SIGNATURES
from vecpipe.engines.duckdb.catalog import Newest
from vecpipe.engines.duckdb.functions import scalars
from vecpipe.engines.duckdb.macros import sql_folder
from vecpipe.engines.duckdb.procedures import procedures
from vecpipe.operators import FAMILIES, Codec, Operator, parameters, registry
from vecpipe.spec import signature

_MACRO = re.compile(r"((?:^--[^\n]*\n)+)CREATE OR REPLACE MACRO (\w+)(.*?);$", re.MULTILINE | re.DOTALL)
_FORM = re.compile(r"(?:^-- (.*)\n|^)\(([^)]*)\) AS( TABLE)?", re.MULTILINE)
_TITLES = {
    "normalise": "Normalise",
    "whiten": "Centre and whiten",
    "reduce": "Reduce",
    "rotate": "Rotate",
    "cells": "Cells",
    "quantise": "Codecs",
}


def macros() -> Iterator[tuple[str, list[str], str, bool]]:
    """Yield name, the arguments of each form, help and whether it returns a table, for each public macro."""
    for path in sorted((sql_folder() / "macros").glob("*.sql")):
        for match in _MACRO.finditer(path.read_text()):
            comment, name, body = match.groups()
            if not name.startswith("_"):
                text = " ".join(line.removeprefix("--").strip() for line in comment.splitlines())
                forms = [form for form in _FORM.findall(body) if not form[0].startswith("refused")]
                yield name, [" ".join(arguments.split()) for _, arguments, _ in forms], text, bool(forms[0][2])


def reference() -> str:
    """Return the reference page as Markdown."""
    return "\n".join([*_head(), *_functions(), *_operators()]) + "\n"


def _head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Written by `make docs` from the code; `vecpipe operators NAME` shows the same in a terminal."


def _functions() -> Iterator[str]:
    yield from ("", "## SQL functions", "", "| function | returns | what it does |", "|---|---|---|")
    lines = [
        (name, "<br>".join(f"`{name}({arguments})`" for arguments in forms), "rows" if table else "a value", text)
        for name, forms, text, table in macros()
    ]
    lines += [
        (scalar.name, f"`{scalar.name}({scalar.arguments})`", f"`{scalar.returns}`", scalar.help)
        for scalar in (*scalars(), *procedures(_no_database, Newest(_no_database)))
        if not scalar.name.startswith("_")
    ]
    lines += [(f.name, f"`{f.name}({f.arguments})`", f"`{f.returns}`", f"Aggregate. {f.help}") for f in SIGNATURES]
    for _, call, returns, text in sorted(lines):
        yield f"| {call} | {returns} | {text.replace('|', '&#124;')} |"


def _no_database() -> NoReturn:
    raise AssertionError("the reference calls no function")


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
        names = ", ".join(["v", *(p.name for p in declared)])
        method = f".vec.{cls.name}({', '.join(p.name for p in declared)})"
        yield f"Also a function of its own: `vec_{cls.name}({names})` -> `{returns}`; in Polars `{method}`."
    yield f"Source: {cls.source}. Checked against: {cls.oracle}."


def main(arguments: list[str]) -> None:
    """Write the page to the path given, ``docs/reference.md`` by default."""
    path = Path(arguments[0] if arguments else "docs/reference.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reference())


if __name__ == "__main__":
    main(sys.argv[1:])
