"""The page of the Python API, written from signatures and docstrings of what is public."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from typing import Any

from vecpipe import errors

_HEAD = """# Python

Everything public: what the modules below list in `__all__`. `help(vecpipe.fit)` shows the whole text with types, shapes
and examples. Arrays are NumPy arrays, a row a vector; `valid` is None or says which rows count."""
_MODULES = {
    "vecpipe": "",
    "vecpipe.duckdb": "`connect`, `register`, `load_model` and `save_model` are those of `vecpipe`. What needs LanceDB "
    "imports it when it is called. [Searching LanceDB tables](lancedb-search.md#from-duckdb) shows them at work.",
    "vecpipe.polars": "`import vecpipe.polars` gives expressions, frames and lazy frames the namespace `.vec`; "
    "[Polars](polars.md) shows it at work.",
    "vecpipe.lancedb": "`import vecpipe.lancedb as vl`. [Columns and migrations](lancedb.md) and "
    "[searching](lancedb-search.md) show them at work.",
}
_WIDTH = 110
_SECTION = re.compile(r"\n\n(\w+)\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", re.DOTALL)


def python_page() -> str:
    """Return the page as Markdown.

    Raises
    ------
    ModuleNotFoundError
        Polars or LanceDB is not installed.
    """
    return "\n".join([_HEAD, *_modules(), *_errors()]) + "\n"


def _modules() -> Iterator[str]:
    shown: list[Any] = []
    for place, about in _MODULES.items():
        module = import_module(place)
        yield from ("", f"## `{place}`")
        if about:
            yield from ("", about)
        for name in sorted(module.__all__, key=lambda name: (name[0].isupper(), name)):
            thing = getattr(module, name)
            if isinstance(thing, str) or thing in shown or (inspect.isclass(thing) and issubclass(thing, Exception)):
                continue
            shown.append(thing)
            yield from _entry(name, thing)


def _entry(name: str, thing: Any) -> Iterator[str]:
    text, sections = _read(thing)
    yield from ("", f"### `{name}`", "", "```text", _call(name, thing), "```", "", text)
    for section, title in (("Parameters", ""), ("Attributes", "Attributes:"), ("Raises", "Raises:")):
        listed = [(names, meaning) for names, meaning in _items(sections.get(section, "")) if meaning]
        if listed:
            yield from ("", title, "") if title else ("",)
            yield from (f"- {_names(names)}: {meaning}" for names, meaning in listed)
    if inspect.isclass(thing):
        yield from _members(thing)


def _members(cls: type) -> Iterator[str]:
    rows = []
    for name, value in vars(cls).items():
        made = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if name.startswith("_") or not _is_ours(made):
            continue
        text, sections = _read(made)
        raised = ", ".join(_names(names) for names, _ in _items(sections.get("Raises", "")))
        shown = _call(name, made, wide=True) if inspect.isfunction(made) else name
        rows.append(f"| `.{_cell(shown)}` | {_cell(text)}{f' Raises {raised}.' if raised else ''} |")
    if rows:
        yield from ("", "| member | what it does |", "|---|---|", *rows)


def _is_ours(value: Any) -> bool:
    """Return whether a member of a class is a method or property that this package wrote."""
    if isinstance(value, property | cached_property):
        return True
    return inspect.isfunction(value) and value.__module__.startswith("vecpipe")


def _errors() -> Iterator[str]:
    yield from (
        "",
        "## Errors and warnings",
        "",
        "Every error is a `VecpipeError`, and the exception that Python has for such a case.",
        "",
    )
    yield from ("| class | is also | when |", "|---|---|---|")
    for name, cls in vars(errors).items():
        if inspect.isclass(cls) and issubclass(cls, Exception):
            also = [f"`{base.__name__}`" for base in cls.__bases__ if base is not errors.VecpipeError]
            yield f"| `{name}` | {', '.join(also)} | {_read(cls)[0]} |"


def _read(thing: Any) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of a docstring, and its sections by title."""
    text = (inspect.getdoc(thing) or "").replace("``", "`")
    return " ".join(text.split("\n\n")[0].split()), dict(_SECTION.findall(text))


def _items(section: str) -> Iterator[tuple[str, str]]:
    """Yield the names of each item of a section, without types, and the text below them."""
    for item in re.split(r"\n(?=\S)", section.strip("\n")) if section else ():
        names, _, text = item.partition("\n")
        yield names.split(" : ")[0], " ".join(text.split())


def _names(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _call(name: str, function: Callable[..., Any], *, wide: bool = False) -> str:
    """Return a call with defaults and the type of the result, over several lines where it is long."""
    if inspect.isclass(function) and not inspect.unwrap(function.__init__).__module__.startswith("vecpipe"):
        return name  # what makes instances is of another library, and changes with its version
    called = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in called.parameters.values() if p.name != "self"]
    arguments = str(called.replace(parameters=bare, return_annotation=called.empty))
    result = called.return_annotation
    result = result if isinstance(result, str) else getattr(result, "__name__", str(result))
    text = f"{name}{arguments}" + ("" if inspect.isclass(function) or result == "None" else f" -> {result}")
    if wide or len(text) <= _WIDTH:
        return text
    lines = [f"{name}("]
    for word in [f"{part}," for part in arguments[1:-1].split(", ")]:
        if len(lines) == 1 or len(lines[-1]) + len(word) >= _WIDTH:
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join([*lines[:-1], lines[-1].removesuffix(","), text[len(name + arguments) - 1 :]])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
