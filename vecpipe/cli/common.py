"""What several commands share: opening databases, finding a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vecpipe.errors import InputError, ModelNotFoundError

if TYPE_CHECKING:
    import duckdb

    from vecpipe.model import Model


@contextmanager
def database(path: Path, *, read_only: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database with the functions registered, and close it.

    Raises
    ------
    InputError
        There is no such file, or it is no DuckDB database.
    EngineError
        DuckDB cannot open it, for example because another process has it open.
    """
    from vecpipe.engines.duckdb import connect
    from vecpipe.etl.tables import is_duckdb

    if read_only and not path.is_file():
        raise InputError(f"{path}: no such database")
    if path.exists() and not is_duckdb(path):
        raise InputError(f"{path} is not a DuckDB database")
    con = connect(path, read_only=read_only)
    try:
        yield con
    finally:
        con.close()


def inside_database(source: Path, table: str | None, query: str | None) -> bool:
    """Whether rows come from a DuckDB database, which takes a table or a query, and nothing else does.

    Raises
    ------
    click.UsageError
        Neither or both are given for a database, or one of them for another source.
    """
    from vecpipe.etl.tables import is_duckdb

    inside = is_duckdb(source) and not source.is_dir()
    if inside and (table is None) == (query is None):
        raise click.UsageError("a DuckDB source needs --table or --query, one of them.")
    if not inside and (table is not None or query is not None):
        raise click.UsageError("--table and --query are for DuckDB sources.")
    return inside


def model_from_database(path: Path, name: str) -> Model:
    """Return the newest model of a name in a database's catalog.

    Raises
    ------
    ModelNotFoundError
        There is none; the message lists the names there are.
    """
    from vecpipe.engines.duckdb import load_model

    with database(path) as con:
        return load_model(con, name)


def find_model(model: str, db: Path | None, *others: Path) -> Model:
    """Return a model by file, or by name from a catalog: of ``db``, else of the databases at hand.

    Raises
    ------
    ModelNotFoundError
        It is neither a file nor a name in any of them.
    """
    from vecpipe.etl.tables import is_duckdb
    from vecpipe.model import Model

    if db is None and Path(model).is_file():
        return Model.load(Path(model))
    places = [db] if db is not None else [path for path in others if path.is_file() and is_duckdb(path)]
    if not places:
        raise ModelNotFoundError(
            f"{model}: no such model file; to take a model by name from a catalog, say which database (--db)"
        )
    for place in places[:-1]:
        try:
            return model_from_database(place, model)
        except ModelNotFoundError:
            continue
    return model_from_database(places[-1], model)


def check_file(out: Path, *read: Path | None, overwrite: bool) -> None:
    """Refuse to write a model over what is read, or over a file that is there without being told to."""
    if not out.exists():
        return
    if any(path is not None and path.exists() and path.samefile(out) for path in read):
        raise InputError(f"{out} is what is read here; give the model a file of its own")
    if not overwrite:
        raise InputError(f"{out} exists already; choose another name, or overwrite it (--overwrite)")
