"""What commands print: tables, cells, progress, error messages."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_IN_UDF = re.compile(r"\A.*?Python exception occurred while executing the UDF: (?:\w+: )?", re.DOTALL)
_PIPE_WIDTH = 160


def message(error: Exception) -> str:
    """Return an error's own words, without what the layers it came through have put around them."""
    return _IN_UDF.sub("", str(error)).strip().removeprefix("Invalid Input Error: ")


def console() -> Console:
    """Return a console on standard output, wide where that is not a terminal."""
    return _console(sys.stdout)


def _console(stream: Any) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, width=None if stream.isatty() else _PIPE_WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """Return a table of values; numbers stand to the right."""
    from rich.markup import escape
    from rich.table import Table

    rows = [tuple(row) for row in rows]
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for position, name in enumerate(columns):
        values = [row[position] for row in rows if row[position] is not None]
        numbers = bool(values) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        made.add_column(escape(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(cell(value)) for value in row))
    return made


def cell(value: Any, width: int = 100) -> str:
    """Return a value in the room a table has for it: vectors and codes by their beginning and size."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes | bytearray):
        return f"{bytes(value[:8]).hex(' ')}{' …' if len(value) > 8 else ''} ({len(value):,} bytes)"
    if isinstance(value, list | tuple) and len(value) > 6 and isinstance(value[0], int | float):
        return f"[{', '.join(f'{v:.4g}' for v in value[:4])}, … {len(value):,}]"
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def as_json(value: Any) -> str:
    """Return a value as JSON, bytes in hexadecimal."""
    return json.dumps(value, default=lambda v: v.hex() if isinstance(v, bytes) else str(v), ensure_ascii=False)


class Lines:
    """Progress as lines of text, for logs and pipes."""

    def __init__(self, verb: str, every: float) -> None:
        self._verb, self._every = verb, every
        self._start: tuple[float, int] | None = None
        self._last = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        """Print where things stand, unless it is too soon."""
        now = time.monotonic()
        first = self._start or (now, done)
        if self._start is not None and now - self._last < self._every and done != total:
            return
        self._start, self._last = first, now
        of = f" of {total:,}" if total is not None else ""
        pace = ""
        if now > first[0]:  # the first call says where things stand, not how long it took to get there
            rate = (done - first[1]) / (now - first[0])
            pace = f", {rate:,.0f} rows/s"
            pace += f", {(total - done) / rate:,.0f} s left" if total is not None and rate > 0 else ""
        click.echo(f"{self._verb}: {done:,}{of} rows{pace}", err=True)


@contextmanager
def progress(verb: str, mode: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """Give a callback that shows rows done, rows/s and the time left.

    Parameters
    ----------
    verb
        What is being done.
    mode
        ``auto``: a bar on a terminal, a line each ten seconds otherwise; ``lines``: a line at every step;
        ``none``.
    """
    if mode == "none":
        yield None
        return
    if mode == "lines" or not sys.stderr.isatty():
        yield Lines(verb, 0.0 if mode == "lines" else 10.0)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    words = TextColumn("{task.completed:,.0f} rows"), TextColumn("{task.fields[rate]}")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), *words, TimeRemainingColumn(), console=_console(sys.stderr)
    ) as bar:
        task = bar.add_task(verb, total=None, rate="")
        first: list[tuple[float, int]] = []

        def update(done: int, total: int | None) -> None:
            now = time.monotonic()
            first.append((now, done)) if not first else None
            begun, before = first[0]
            rate = f"{(done - before) / (now - begun):,.0f} rows/s" if now > begun else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield update


progress_option = click.option(
    "--progress",
    "progress_mode",
    type=click.Choice(["auto", "lines", "none"]),
    default="auto",
    show_default=True,
    help="A bar on a terminal, lines for logs, or nothing.",
)
