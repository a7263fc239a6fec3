"""``vecpipe fit`` and ``vecpipe apply``: whole tables in, a model or a new table out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vecpipe.cli.output import progress, progress_option

if TYPE_CHECKING:
    from vecpipe.model import Model

_PATH = click.Path(path_type=Path)
_on_invalid = click.option(
    "--on-invalid",
    type=click.Choice(["error", "null"]),
    default="error",
    show_default=True,
    help="What a ragged, NaN or infinite row does: stop, or count as NULL.",
)


@click.command(short_help="Fit a spec to the vectors of a table.")
@click.argument("source", type=_PATH)
@click.argument("spec")
@click.option("--table", help="Table of a DuckDB source.")
@click.option("--query", help="Query on a DuckDB source, instead of a table.")
@click.option("--column", help="Column of the vectors; needed where several hold lists.")
@click.option("--weight", help="Column of row weights.")
@click.option("--name", help="Store the model under this name in a DuckDB catalog.")
@click.option("--db", type=_PATH, help="Database of that catalog; the source itself by default, if it is one.")
@click.option("--out", type=_PATH, help="Write the model to this file.")
@click.option("--overwrite", is_flag=True, help="Replace that file where it is there.")
@_on_invalid
@progress_option
def fit(
    source: Path,
    spec: str,
    table: str | None,
    query: str | None,
    column: str | None,
    weight: str | None,
    name: str | None,
    db: Path | None,
    out: Path | None,
    overwrite: bool,
    on_invalid: Literal["error", "null"],
    progress_mode: str,
) -> None:
    """Fit SPEC to the vectors of SOURCE in one pass.

    SOURCE is a Parquet or Arrow file, a folder or 'pattern*' of Parquet files, or a DuckDB database.

    \b
    vecpipe fit docs.parquet 'center | pca(128) | int8' --out docs.vecpipe
    vecpipe fit docs.parquet 'pca(128)' --name docs --db docs.duckdb
    vecpipe fit docs.duckdb 'whiten | normalize | int8' --table docs --name docs
    vecpipe fit docs.duckdb 'pca(64)' --query "SELECT emb FROM docs WHERE lang = 'en'" --out en.vecpipe
    """
    from vecpipe.cli.common import check_file, inside_database
    from vecpipe.engines.duckdb import save_model
    from vecpipe.fitting.stream import fit as fit_rows
    from vecpipe.model_names import check_model_name
    from vecpipe.spec import parse

    inside = inside_database(source, table, query)
    if name is None and out is None:
        raise click.UsageError("say where the model goes: --name (with --db) or --out FILE.")
    if name is not None and db is None and not inside:
        raise click.UsageError("--name needs a database to store the model in: --db PATH.")
    if db is not None and name is None:
        raise click.UsageError("--db needs a name for the model: --name.")
    if name is not None and not name.strip():
        raise click.UsageError("--name is empty.")
    parse(spec)
    if name is not None:
        check_model_name(name)
    _check_places(out, None if name is None else db or source)
    if out is not None:
        check_file(out, source, db, overwrite=overwrite)
    with progress("fit", progress_mode) as report:
        if inside:
            model = _fit_database(source, table, query, spec, column, weight, on_invalid, report)
        else:
            model = fit_rows(source, spec, column=column, weight=weight, on_invalid=on_invalid, progress=report)
    click.echo(_summary(model))
    if out is not None:
        from vecpipe.files import write_whole

        _writing(out, lambda: write_whole(out, model.to_bytes()))
        click.echo(f"written to {out}")
    if name is not None:
        from vecpipe.cli.common import database

        where = db or source
        with database(where, read_only=False) as con:
            version = save_model(con, name, model)
        click.echo(f"stored in {where} as {name!r}, version {version}")


def _check_places(out: Path | None, db: Path | None) -> None:
    """Refuse a place that no model can be written to before the rows are read."""
    from vecpipe.cli.common import database
    from vecpipe.errors import InputError

    for place in (out, db):
        if place is not None and not place.parent.is_dir():
            raise InputError(f"{place}: there is no folder {place.parent}")
    if out is not None and out.is_dir():
        raise InputError(f"{out} is a folder; give the name of a file")
    if db is not None and db.exists():
        with database(db, read_only=False):
            pass


def _fit_database(
    source: Path,
    table: str | None,
    query: str | None,
    spec: str,
    column: str | None,
    weight: str | None,
    on_invalid: Literal["error", "null"],
    report: Any,
) -> Model:
    from vecpipe.cli.common import database
    from vecpipe.engines.duckdb.catalog import run
    from vecpipe.fitting.stream import fit as fit_rows
    from vecpipe.sql_names import quoted_table

    with database(source) as con:
        total: int | None = None
        if table is not None:
            query = quoted_table(table)
            ((total,),) = run(con, f"SELECT count(*) FROM {query}").fetchall()
        assert query is not None

        def counted(done: int, _: int | None) -> None:
            report(done, total)

        return fit_rows(
            con,
            query,
            spec,
            column=column,
            weight=weight,
            on_invalid=on_invalid,
            progress=None if report is None else counted,
        )


def _summary(model: Model) -> str:
    about = model.describe()
    kept = f", {about['variance_kept']:.1%} of the variance kept" if "variance_kept" in about else ""
    left_out = "".join(
        f", {about[key]:,} {what}" for key, what in (("null_rows", "NULL"), ("invalid_rows", "invalid")) if about[key]
    )
    return (
        f"{model.spec}: fitted on {model.info.rows:,} rows{left_out}; {model.dim} x float32 become "
        f"{model.output_type}, {model.bytes_per_vector:,} bytes a vector ({about['ratio']:g}x smaller{kept}); "
        f"hash {model.hash[:12]}"
    )


def _writing(path: Path, action: Any) -> None:
    from vecpipe.errors import InputError

    try:
        action()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


@click.command(short_help="Apply a model to every row of a table, into another.")
@click.argument("source", type=_PATH)
@click.argument("model")
@click.argument("target", type=_PATH)
@click.option("--table", help="Table of a DuckDB source.")
@click.option("--into", help="Table of a DuckDB target; made by this command.")
@click.option("--db", type=_PATH, help="Database whose catalog holds MODEL; source and target by default.")
@click.option("--column", help="Column of the vectors; needed where several hold lists.")
@click.option("--as", "output", help="Name of the new column.  [default: code, vector or decoded]")
@click.option("--keep", help="Other columns to keep, comma-separated; all by default.")
@click.option("--drop-vector", is_flag=True, help="Leave out the column the model is applied to.")
@click.option("--decode", is_flag=True, help="Undo the model: codes to vectors.")
@_on_invalid
@click.option("--overwrite", is_flag=True, help="Replace a target that is there.")
@click.option("--restart", is_flag=True, help="Throw away what an interrupted run has left.")
@click.option("--part-rows", type=click.IntRange(1), help="Rows an interruption costs at most.  [default: 64 MB worth]")
@click.option(
    "--threads", type=click.IntRange(1, 256), help="Threads that compute.  [default: as many as processors, at most 8]"
)
@progress_option
def apply(
    source: Path,
    model: str,
    target: Path,
    table: str | None,
    into: str | None,
    db: Path | None,
    column: str | None,
    output: str | None,
    keep: str | None,
    drop_vector: bool,
    decode: bool,
    on_invalid: Literal["error", "null"],
    overwrite: bool,
    restart: bool,
    part_rows: int | None,
    threads: int | None,
    progress_mode: str,
) -> None:
    """Apply MODEL to every row of SOURCE and write the rows, with the new column, to TARGET.

    SOURCE and TARGET are Parquet files, Arrow IPC files or DuckDB databases, in any combination. MODEL is a model
    file, or the name of a model in a catalog. Rows stream through in bounded memory. An interrupted run goes on where
    it stopped when the same command is given again; TARGET appears whole or not at all.

    \b
    vecpipe apply docs.parquet docs.vecpipe codes.parquet --drop-vector
    vecpipe apply docs.duckdb docs codes.duckdb --table docs --into codes --keep id,title
    vecpipe apply docs.arrow docs codes.parquet --db docs.duckdb --as code
    vecpipe apply codes.parquet docs.vecpipe approx.parquet --decode
    """
    from vecpipe.cli.common import find_model
    from vecpipe.etl import apply_model

    found = find_model(model, db, source, target)
    try:
        with progress("decode" if decode else "apply", progress_mode) as report:
            done = apply_model(
                source,
                found,
                target,
                table=table,
                into=into,
                column=column,
                output=output,
                keep=None if keep is None else [name.strip() for name in keep.split(",") if name.strip()],
                drop_vector=drop_vector,
                decode=decode,
                on_invalid=on_invalid,
                overwrite=overwrite,
                restart=restart,
                part_rows=part_rows,
                threads=threads,
                progress=report,
            )
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on after the last finished part", err=True)
        raise
    earlier = f", {done.resumed:,} of them by an earlier run" if done.resumed else ""
    invalid = f"; {done.invalid:,} invalid rows became NULL" if done.invalid else ""
    click.echo(f"{done.target}: {done.rows:,} rows{earlier}, new column {done.column}{invalid}")
