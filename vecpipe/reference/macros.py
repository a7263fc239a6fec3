"""What the SQL texts say of the public macros: forms, help, arguments, results.

The help of a macro is the comment above it. Lines that are indented tell what an argument is, in the form
``--   name  text``; ``-- Returns: columns`` names what a table macro returns; an empty comment line ends the help, and
what follows it is for those who read the macro.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vecpipe.engines.duckdb.macros import sql_folder

_MACRO = re.compile(r"((?:^--[^\n]*\n)*)CREATE OR REPLACE MACRO (\w+)(.*?);$", re.MULTILINE | re.DOTALL)
_FORM = re.compile(r"(?:^-- (.*)\n|^)\(([^)]*)\) AS( TABLE)?", re.MULTILINE)
_FORWARDS_TO = re.compile(r"\) AS\s+(\w+)\(")
_ARGUMENT = re.compile(r"--   (\S.*?)  +(.*)")
_CONTINUED = re.compile(r"--    +(.*)")
_RETURNS = "-- Returns: "


@dataclass(frozen=True)
class Help:
    """The help of a function: paragraphs, and what its arguments are.

    Attributes
    ----------
    before, after : str
        Text before and after the list of arguments.
    arguments : tuple of (str, str)
        Names and meaning.
    returns : str
        Columns of the result; empty where the comment does not say.
    """

    before: str
    arguments: tuple[tuple[str, str], ...] = ()
    after: str = ""
    returns: str = ""


@dataclass(frozen=True)
class Macro:
    """A public macro: the file it stands in, its name, the arguments of each form, its help, what it returns."""

    file: str
    name: str
    forms: tuple[str, ...]
    help: Help
    returns: str


def read_help(comment: str) -> Help:
    """Read the help from the comment above a macro."""
    before: list[str] = []
    after: list[str] = []
    arguments: list[tuple[str, str]] = []
    returns = ""
    for line in comment.splitlines():
        if line == "--":
            break
        if line.startswith(_RETURNS):
            returns = line.removeprefix(_RETURNS)
        elif (found := _ARGUMENT.fullmatch(line)) and len(_indent(line)) == 3:
            arguments.append((found[1], found[2]))
        elif arguments and not after and (found := _CONTINUED.fullmatch(line)):
            name, text = arguments.pop()
            arguments.append((name, f"{text} {found[1]}"))
        else:
            (after if arguments else before).append(line.removeprefix("--").strip())
    return Help(" ".join(before), tuple(arguments), " ".join(after), returns)


def _indent(line: str) -> str:
    text = line.removeprefix("--")
    return text[: len(text) - len(text.lstrip())]


def macros(types: Mapping[str, str]) -> Iterator[Macro]:
    """Yield the public macros.

    Parameters
    ----------
    types
        SQL types of what the functions behind the macros return, by name.
    """
    found = []
    bodies = {}
    for path in sorted((sql_folder() / "macros").glob("*.sql")):
        for comment, name, body in _MACRO.findall(path.read_text()):
            bodies[name] = body
            if not name.startswith("_"):
                found.append((path.stem, name, comment, body))
    for file, name, comment, body in found:
        forms = [form for form in _FORM.findall(body) if not form[0].startswith("refused")]
        about = read_help(comment)
        returns = about.returns if forms[0][2] else _type(name, bodies, types)
        yield Macro(file, name, tuple(" ".join(form[1].split()) for form in forms), about, returns)


def _type(name: str, bodies: Mapping[str, str], types: Mapping[str, str]) -> str:
    """Return the type of a scalar macro: that of the function it calls."""
    while name not in types:
        called = _FORWARDS_TO.search(bodies[name])
        if called is None:
            raise ValueError(f"the macro {name} calls no function whose type is known")
        name = called[1]
    return types[name]
