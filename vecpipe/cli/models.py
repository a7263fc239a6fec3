"""``vecpipe models``, ``show``, ``export`` and ``import``: the catalog and model files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vecpipe.cli.output import as_json, console, table

if TYPE_CHECKING:
    from vecpipe.model import Model

_PATH = click.Path(path_type=Path)
_COLUMNS = ("name", "version", "spec", "input_dim", "output_type", "bytes_per_vector", "fitted_rows")


@click.command(short_help="List the models in a database.")
@click.argument("db", type=_PATH)
@click.option("--json", "as_lines", is_flag=True, help="One JSON object a line.")
def models(db: Path, as_lines: bool) -> None:
    """List the models in the catalog of the database DB, newest version of each name first.

    \b
    vecpipe models demo.duckdb
    """
    from vecpipe.cli.common import database
    from vecpipe.engines.duckdb.catalog import run

    shown = (*_COLUMNS, "created_at")
    with database(db) as con:
        created = "strftime(created_at, '%Y-%m-%d %H:%M:%S')"
        rows = run(con, f"SELECT {', '.join(_COLUMNS)}, {created}, hash, current FROM vec_models()").fetchall()
    if as_lines:
        for row in rows:
            click.echo(as_json(dict(zip((*shown, "hash", "current"), row, strict=True))))
    elif rows:
        console().print(table(shown, [row[: len(shown)] for row in rows]))
    else:
        click.echo(f"{db} holds no models yet; vecpipe fit --db {db} --name NAME stores one")


@click.command(short_help="Show what a model is.")
@click.argument("place", metavar="DB|FILE", type=_PATH)
@click.argument("name", required=False)
@click.option("--json", "as_object", is_flag=True, help="As a JSON object.")
def show(place: Path, name: str | None, as_object: bool) -> None:
    """Show what a model is: spec, shapes of each step, variance kept, bytes a vector, hash.

    \b
    vecpipe show docs.duckdb docs
    vecpipe show docs.vecpipe
    """
    from vecpipe.cli.common import model_from_database
    from vecpipe.etl.tables import is_duckdb
    from vecpipe.model import Model

    if name is None and is_duckdb(place):
        raise click.UsageError(f"{place} is a database: say which model of it (vecpipe models {place} lists them).")
    if name is not None and place.is_file() and not is_duckdb(place):
        raise click.UsageError(f"{place} is not a DuckDB database; for a model file give the file alone.")
    model = Model.load(place) if name is None else model_from_database(place, name)
    about = model.describe()
    if as_object:
        click.echo(as_json(about))
        return
    console().print(table(("", "model"), [(key.replace("_", " "), _said(value)) for key, value in about.items()]))
    console().print(table(("step", "in", "out", "learnt", "bytes"), _steps(model)))


def _said(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _steps(model: Model) -> list[tuple[str, str, str, str, int]]:
    from vecpipe.operators import Codec
    from vecpipe.spec import format_step

    rows = []
    for step in model.steps:
        learnt = ", ".join(f"{key} {'x'.join(map(str, array.shape)) or 1}" for key, array in step.state.items())
        size = sum(array.nbytes for array in step.state.values())
        out = f"{step.code_bytes(step.dim)} bytes" if isinstance(step, Codec) else str(step.output_dim(step.dim))
        rows.append((format_step(step), str(step.dim), out, learnt or "nothing", size))
    return rows


@click.command(short_help="Write a model of a database to a file.")
@click.argument("db", type=_PATH)
@click.argument("name")
@click.argument("file", type=_PATH)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def export(db: Path, name: str, file: Path, overwrite: bool) -> None:
    """Write the newest model NAME of the database DB to FILE (safetensors).

    \b
    vecpipe export docs.duckdb docs docs.vecpipe
    """
    from vecpipe.cli.common import check_file, model_from_database

    check_file(file, db, overwrite=overwrite)
    model = model_from_database(db, name)
    model.save(file)
    click.echo(f"{file}: {model.spec}, {len(model.to_bytes()):,} bytes, hash {model.hash[:12]}")


@click.command("import", short_help="Store a model file in a database.")
@click.argument("db", type=_PATH)
@click.argument("file", type=_PATH)
@click.option("--name", help="Name in the catalog; the file's by default.")
def import_(db: Path, file: Path, name: str | None) -> None:
    """Store the model in FILE in the catalog of the database DB, which is made where it is missing.

    \b
    vecpipe import docs.duckdb docs.vecpipe --name docs
    """
    from vecpipe.cli.common import database
    from vecpipe.engines.duckdb import save_model
    from vecpipe.model import Model

    model = Model.load(file)
    name = name or file.stem
    with database(db, read_only=False) as con:
        version = save_model(con, name, model)
    click.echo(f"{db}: {name!r}, version {version}: {model.spec}, hash {model.hash[:12]}")
