"""``vecpipe sql``: statements from a file, a pipe, the command line or a prompt, with every function registered."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import duckdb

from vecpipe.cli.output import as_json, console, message, table

_FETCH = 1_000
_LEAVE = (".quit", ".exit")
_HELP = """\
A statement ends with ; and may take several lines. Ctrl-C drops what has been typed or stops what runs.
  FROM vec_models();        the models of this database
  SHOW TABLES;              its tables
  SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_name LIKE 'vec%' ORDER BY ALL;
  .help                     this text
  .quit, .exit or Ctrl-D    leave; at the beginning of a statement quit and exit too"""


@click.command(short_help="Run SQL with the vec_ functions: a file, or a prompt.")
@click.argument("file", required=False, metavar="[FILE|-]")
@click.option("-c", "--command", help="Run these statements instead of a file.")
@click.option("--db", type=click.Path(path_type=Path), help="Database file; in memory by default.")
@click.option("--read-only", is_flag=True, help="Open the database for reading.")
@click.option("--rows", default=40, show_default=True, type=click.IntRange(1), help="Rows shown of a result.")
@click.option(
    "--format", "style", default="table", show_default=True, type=click.Choice(["table", "csv", "json"]), help="Output."
)
def sql(file: str | None, command: str | None, db: Path | None, read_only: bool, rows: int, style: str) -> None:
    """Run SQL with the vec_ functions: FILE, - for standard input, or a prompt on a terminal.

    Results of --format csv and json (one object a line, NaN as null) are complete; tables show the first --rows rows.

    \b
    vecpipe sql examples/quickstart.sql
    vecpipe sql --db docs.duckdb -c 'FROM vec_models()'
    vecpipe sql --db docs.duckdb --read-only
    echo "SELECT vec_hash_embed('some text', 8)" | vecpipe sql -
    """
    from vecpipe.engines.duckdb import connect
    from vecpipe.errors import InputError

    if file is not None and command is not None:
        raise click.UsageError("give a file or --command, not both.")
    if read_only and db is None:
        raise click.UsageError("--read-only needs a database: --db PATH.")
    if read_only and db is not None and not db.is_file():
        raise InputError(f"{db}: no such database")
    text = command
    if file is not None and file != "-":
        try:
            text = Path(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read ({error})") from error
    elif command is None and (file == "-" or not sys.stdin.isatty()):
        text = sys.stdin.read()
    con = connect(":memory:" if db is None else db, **({"read_only": True} if read_only else {}))
    try:
        if text is not None:
            _script(con, text, rows, style)
        else:
            _prompt(con, rows, style)
    finally:
        con.close()


def _script(con: duckdb.DuckDBPyConnection, text: str, rows: int, style: str) -> None:
    from vecpipe.errors import EngineError

    text.encode()  # DuckDB's own words for text that is not UTF-8 say nothing of that
    try:
        statements = con.extract_statements(text)
    except duckdb.Error as error:
        raise EngineError(f"nothing was run: {message(error)}") from error
    for number, statement in enumerate(statements, 1):
        try:
            _run(con, statement, rows, style)
        except duckdb.Error as error:
            raise EngineError(
                f"{message(error)}\nin statement {number} of {len(statements)}:\n{statement.query.strip()}"
            ) from error


def _run(con: duckdb.DuckDBPyConnection, statement: Any, rows: int, style: str) -> None:
    result = _interruptibly(con, lambda: con.execute(statement))
    names = [column[0] for column in result.description or []]
    kinds = statement.expected_result_type
    if duckdb.ExpectedResultType.CHANGED_ROWS in kinds and names == ["Count"]:
        changed = _interruptibly(con, result.fetchall)
        if changed and style == "table":
            click.echo(f"{changed[0][0]:,} rows")
        return
    if not names or duckdb.ExpectedResultType.QUERY_RESULT not in kinds:
        _interruptibly(con, result.fetchall)
        return
    if style != "table":
        _stream(names, _batches(con, result), style)
        return
    found = _interruptibly(con, lambda: result.fetchmany(rows + 1))
    console().print(table(names, found[:rows]))
    if len(found) > rows:
        click.echo(f"the first {rows} rows; --rows shows more")
        con.interrupt()


def _interruptibly(con: duckdb.DuckDBPyConnection, action: Callable[[], Any]) -> Any:
    """Do something that may take long in a thread of its own: DuckDB does not look for Ctrl-C by itself."""
    with ThreadPoolExecutor(1, "vecpipe-sql") as pool:
        future = pool.submit(action)
        try:
            return future.result()
        except KeyboardInterrupt:
            con.interrupt()
            raise


def _batches(con: duckdb.DuckDBPyConnection, result: Any) -> Iterator[tuple[Any, ...]]:
    while found := _interruptibly(con, lambda: result.fetchmany(_FETCH)):
        yield from found


def _stream(names: list[str], rows: Iterator[tuple[Any, ...]], style: str) -> None:
    if style == "json":
        keys = _told_apart(names)
        for row in rows:
            click.echo(as_json(dict(zip(keys, row, strict=True))))
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([value.hex() if isinstance(value, bytes) else value for value in row])


def _told_apart(names: list[str]) -> list[str]:
    """Return names of which no two are equal, numbered as DuckDB numbers those of a table: a, a_1, a_2."""
    found: dict[str, None] = {}
    for name in names:
        number, key = 0, name
        while key in found or (number and key in names):
            number += 1
            key = f"{name}_{number}"
        found[key] = None
    return list(found)


def _prompt(con: duckdb.DuckDBPyConnection, rows: int, style: str) -> None:
    """Read statements from a terminal until end of file; errors are printed and forgotten."""
    from vecpipe.errors import VecpipeError
    from vecpipe.version import __version__

    history = _history()
    click.echo(f"vecpipe {__version__} on DuckDB {duckdb.__version__}. Statements end with ;  .help, .quit")
    pending = ""
    try:
        while True:
            try:
                line = input("   ...> " if pending else "vecpipe> ")
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo()
                pending = ""
                continue
            word = line.strip().rstrip(";").lower()
            if word in _LEAVE or (not pending and word in ("quit", "exit")):
                return
            if word == ".help" or (not pending and word.startswith(".")):
                click.echo(_HELP if word == ".help" else f"no such command: {word}; .help lists what there is")
                continue
            pending = f"{pending}\n{line}" if pending else line
            if not pending.strip():
                pending = ""
            if not pending.rstrip().endswith(";"):
                continue
            text, pending = pending, ""
            try:
                _script(con, text, rows, style)
            except VecpipeError as error:
                click.secho(str(error), fg="red", err=True)
            except KeyboardInterrupt:
                click.echo("interrupted", err=True)
    finally:
        history()


def _history() -> Any:
    """Load the prompt's history where the platform has line editing; return what saves it."""
    try:
        import readline
    except ImportError:
        return lambda: None
    state = os.environ.get("XDG_STATE_HOME")
    path = (Path(state) if state else Path.home() / ".local" / "state") / "vecpipe" / "history"
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1_000)

    def save() -> None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)

    return save
