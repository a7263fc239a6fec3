"""Thousands of real texts that are there already: docstrings of the packages installed beside vecpipe.

Python source is parsed, not imported. What is written in C says its documentation only to an import, and only
modules known to do nothing else on import are imported for it.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sysconfig
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "_pyrepl"}
_COMPILED = (
    "array", "binascii", "bisect", "bz2", "cmath", "collections", "datetime", "functools", "gc", "hashlib", "heapq",
    "io", "itertools", "json", "lzma", "math", "operator", "os", "random", "re", "select", "socket", "sqlite3",
    "statistics", "string", "struct", "sys", "threading", "time", "unicodedata", "zlib",
    "numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.strings", "numpy.char",
    "pyarrow", "pyarrow.compute", "pyarrow.parquet", "pyarrow.csv", "pyarrow.dataset", "pyarrow.ipc",
    "duckdb",
)  # fmt: skip
_PACKAGES = ("numpy", "pyarrow", "duckdb")
SHORTEST = 40
LONGEST = 1_000


@dataclass(frozen=True)
class Document:
    """A documented function, class or module."""

    package: str
    name: str
    text: str


def gather(limit: int | None = None) -> list[Document]:
    """Return the documents, each text once, in an order that depends on what is installed alone.

    Parameters
    ----------
    limit
        Stop after so many.
    """
    found: list[Document] = []
    seen: set[str] = set()
    for document in _all():
        if document.text not in seen:
            seen.add(document.text)
            found.append(document)
        if limit is not None and len(found) >= limit:
            break
    return found


def _all() -> Iterator[Document]:
    for kind in (str, bytes, list, dict, set, int, float, object):
        yield from _members(kind, "python", kind.__name__)
    yield from _module(builtins, "python", "")
    for name in _COMPILED:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        package = name.partition(".")[0]
        yield from _module(module, package if package in _PACKAGES else "python", f"{name}.")
    yield from _folder(Path(sysconfig.get_paths()["stdlib"]), "")
    for package in _PACKAGES:
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            yield from _folder(Path(place), package)


def _document(package: str, name: str, doc: str | None) -> Iterator[Document]:
    if not doc:
        return
    text = inspect.cleandoc(doc)[:LONGEST].strip()
    if len(text) >= SHORTEST:
        yield Document(package, name, text)


def _module(module: types.ModuleType, package: str, prefix: str) -> Iterator[Document]:
    yield from _document(package, module.__name__, module.__doc__)
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or inspect.ismodule(value):
            continue
        if inspect.isclass(value):
            yield from _document(package, prefix + name, _doc(value))
            yield from _members(value, package, prefix + name)
        elif callable(value):
            yield from _document(package, prefix + name, _doc(value))


def _members(kind: type, package: str, name: str) -> Iterator[Document]:
    for member, value in sorted(vars(kind).items()):
        if not member.startswith("_"):
            yield from _document(package, f"{name}.{member}", _doc(value))


def _doc(value: Any) -> str | None:
    doc = getattr(value, "__doc__", None)
    return doc if isinstance(doc, str) else None


def _folder(folder: Path, package: str) -> Iterator[Document]:
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder)
        if not _SKIPPED.isdisjoint(inside.parts):
            continue
        parts = [package] if package else []
        parts += [*inside.parts[:-1], inside.stem] if inside.stem != "__init__" else inside.parts[:-1]
        try:
            source = path.read_bytes()
            if b'"""' in source or b"'''" in source:
                yield from _tree(ast.parse(source), package or "python", ".".join(parts))
        except (SyntaxError, ValueError, OSError, RecursionError):
            continue


def _tree(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, package: str, name: str) -> Any:
    """Yield the documents of a module or class and of what stands directly in it."""
    yield from _document(package, name, ast.get_docstring(node, clean=False))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _tree(child, package, f"{name}.{child.name}")
