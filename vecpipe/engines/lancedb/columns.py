"""Columns that a model writes: add, refresh, list, drop, go back.

The model is stored in the catalog of the table's database and named in the column's metadata, with its content hash,
so that a column is never continued with another one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from vecpipe.engines.lancedb import computed, history
from vecpipe.engines.lancedb.backfill import Backfilled, Plan, checkpoint_folder, fill
from vecpipe.engines.lancedb.catalog import load_model, save_model
from vecpipe.engines.lancedb.fragments import behind, field_id, field_name, pieces
from vecpipe.engines.lancedb.host import asking, database_of, dataset_of, latest_dataset
from vecpipe.engines.lancedb.marks import Mark, mark_of, marked
from vecpipe.errors import InputError
from vecpipe.etl.parts import discard
from vecpipe.fitting.stream import Progress
from vecpipe.model import Model
from vecpipe.model_names import check_model_name
from vecpipe.rules import OnInvalid, check_width
from vecpipe.sources import vector_column

_LISTED = pa.schema(
    [
        ("column", pa.string()),
        ("source", pa.string()),
        ("type", pa.string()),
        ("model", pa.string()),
        ("version", pa.int64()),
        ("spec", pa.string()),
        ("hash", pa.string()),
        ("behind", pa.int64()),
    ]
)
_OF_LANCE = {
    "_distance",
    "_row_created_at_version",
    "_row_last_updated_at_version",
    "_rowaddr",
    "_rowid",
    "_rowoffset",
}
"""Columns that LanceDB itself adds to what is read: with one of the table's own by such a name it reads nothing."""


def add_column(
    table: Any,
    column: str,
    model: Model | str,
    *,
    source: str = "vector",
    name: str | None = None,
    compiled: bool = False,
    on_invalid: OnInvalid = "error",
    checkpoint: str | Path | None = None,
    restart: bool = False,
    part_rows: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Backfilled:
    """Add a column that holds what a model makes of another, and fill it.

    A run that is interrupted at any moment goes on where it stopped when called again in the same way. The column
    appears once all rows are computed. A column that the same model has written already is brought up to date.

    Parameters
    ----------
    table : lancedb.table.LanceTable
    column
        Name of the new column: vectors as ``fixed_size_list<float32>[k]``, codes as ``fixed_size_binary[B]``, codes of
        ``binary`` as ``fixed_size_list<uint8>[B]``, which LanceDB searches by Hamming distance.
    model
        A model, or the name of one in the catalog of the table's database.
    source
        Column of the vectors.
    name
        Name for the model in the catalog; ``TABLE.COLUMN`` by default.
    compiled
        Make it a computed column of LanceDB, for models that are one linear map: it can be refreshed where vecpipe
        is not installed, and costs several times as much to fill. The parameters below do not apply.
    on_invalid
        What a ragged, NaN or infinite row does: ``"error"`` stops, ``"null"`` gives NULL and counts it.
    checkpoint
        Folder for unfinished work, and nothing else: it is removed in the end. Beside the table by default.
    restart
        Throw away what an interrupted run has left instead of going on from it.
    part_rows
        Rows of a part: what an interruption costs at most. 65,536, or fewer where they take more than 64 MB.
    threads
        Threads that compute; as many as there are processors by default, at most 8.
    progress
        Called with the rows done and the rows there are.

    Raises
    ------
    InputError
        No such source, a row that breaks a rule, or a column of that name that something else has written.
    ResumeError
        There is an unfinished run with another model (the message holds both hashes), source or options.
    CapabilityError
        pylance is missing, or the model cannot be compiled.
    EngineError
        LanceDB refused.
    """
    dataset = latest_dataset(table)
    if isinstance(model, str):
        name, model = model, load_model(database_of(table), model)
    _check_source(dataset.schema, source, model)
    if column in dataset.schema.names:
        _check_same(dataset, column, model.hash, source)
    else:
        _check_name(column)
    named = name or f"{table.name}.{column}"
    check_model_name(named)
    found = model

    def mark() -> Mark:
        version = save_model(database_of(table), named, found)
        return Mark.of(named, version, found, source, field_id(dataset, source))

    if compiled or (column in dataset.schema.names and computed.is_computed(dataset.schema.field(column))):
        return computed.fill(table, column, model, source, mark)
    plan = Plan(column, model, source, mark, on_invalid, checkpoint, restart, part_rows, threads, progress)
    return fill(table, plan)


def refresh(
    table: Any,
    column: str,
    model: Model | None = None,
    *,
    on_invalid: OnInvalid = "error",
    checkpoint: str | Path | None = None,
    restart: bool = False,
    part_rows: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Backfilled:
    """Bring a column up to date: rows that are new, or whose vectors have changed, since it was last written.

    Rows are told by the data files they lie in: appended, updated and merged rows lie in new ones. After a compaction
    the compacted rows do too, and are computed again.

    Parameters
    ----------
    table, column
        As for ``add_column``, and so are the parameters not listed here.
    model
        The model that wrote the column; from the catalog by default.

    Raises
    ------
    InputError
        No model writes the column, or another one than this (the message holds both hashes).
    ModelNotFoundError
        The catalog does not hold the model.
    ResumeError, EngineError
        As ``add_column``.
    """
    dataset = latest_dataset(table)
    mark = written_by(dataset.schema, column)
    if computed.is_computed(dataset.schema.field(column)):
        return computed.refresh(table, column)
    if model is None:
        model = load_model(database_of(table), mark.name, mark.version)
    source = source_of(dataset, mark)
    _check_same(dataset, column, model.hash, source)
    plan = Plan(column, model, source, lambda: mark, on_invalid, checkpoint, restart, part_rows, threads, progress)
    return fill(table, plan)


def list_columns(table: Any) -> pa.Table:
    """Return a row for each column that a model writes, at the version that the table stands at.

    ``behind`` counts the rows that a refresh would write; NULL for computed columns, where LanceDB alone knows.
    """
    dataset = dataset_of(table)
    rows = []
    for column in marked(dataset.schema):
        field = dataset.schema.field(column)
        mark = written_by(dataset.schema, column)
        late: int | None = None
        source = source_of(dataset, mark)
        if not computed.is_computed(field) and source in dataset.schema.names:
            late = sum(piece.live for piece in behind(dataset, column, pieces(dataset, source, mark.hash)))
        about = (column, source, str(field.type), mark.name, mark.version, mark.spec, mark.hash, late)
        rows.append(dict(zip(_LISTED.names, about, strict=True)))
    return pa.Table.from_pylist(rows, schema=_LISTED)


def drop(table: Any, column: str, *, checkpoint: str | Path | None = None) -> int:
    """Drop a column that a model writes, with what an unfinished run has left, and return the table's version.

    The model stays in the catalog.

    Raises
    ------
    InputError
        No model writes the column: LanceDB's own ``drop_columns`` drops others.
    """
    dataset = latest_dataset(table)
    written_by(dataset.schema, column)
    with asking(f"drop the column {column!r} of {table.name!r}"):
        table.drop_columns([column])
    if checkpoint is not None or "://" not in str(dataset.uri):
        discard(checkpoint_folder(str(dataset.uri), column, checkpoint), column)
    table.checkout_latest()
    return int(table.version)


def rollback(table: Any, column: str) -> int:
    """Make the table what it was before the last run that wrote the column, and return the new version.

    Raises
    ------
    InputError
        No run has written the column, rows were written since it began, which going back would lose, or LanceDB has
        cleaned up the version.
    """
    dataset = latest_dataset(table)
    start = history.start_of(dataset, column)
    if start is None:
        raise InputError(f"{table.name!r} has no version to go back to: no run has written {column!r}")
    if start not in {int(each["version"]) for each in table.list_versions()}:
        raise InputError(
            f"version {start} of {table.name!r}, before the last run that wrote {column!r}, has been cleaned up; "
            f"drop(table, {column!r}) removes the column alone"
        )
    with asking(f"go back to version {start} of {table.name!r}"):
        others = history.others_since(dataset, column, start)
        if others:
            raise InputError(
                f"going back to version {start} would lose what others have written since: {', '.join(others)}; "
                f"drop(table, {column!r}) removes the column alone"
            )
        table.checkout(start)
        table.restore()
    table.checkout_latest()
    return int(table.version)


def _check_name(column: str) -> None:
    """Refuse a name that LanceDB refuses once everything is computed, or cannot read again."""
    if not column or "." in column or "`" in column or column in _OF_LANCE:
        raise InputError(
            f"{column!r} cannot be the name of a column in LanceDB; choose one without points and backticks"
        )


def _check_source(schema: Any, source: str, model: Model) -> None:
    kind = schema.field(vector_column(schema, source)).type
    if pa.types.is_fixed_size_list(kind):
        check_width(kind.list_size, model.dim, f"column {source!r}")


def source_of(dataset: Any, mark: Mark) -> str:
    """Return the name that the source of a column has now."""
    return field_name(dataset, mark.source_id) or mark.source


def _check_same(dataset: Any, column: str, model_hash: str, source: str) -> None:
    mark = mark_of(dataset.schema.field(column))
    if mark is None:
        raise InputError(f"there is a column {column!r} that no model writes; choose another name")
    if mark.hash != model_hash:
        raise InputError(
            f"column {column!r} is written by model {mark.hash} ({mark.spec}), not by {model_hash}; "
            "migrate(table, column, model) changes the model of a column, or drop it first"
        )
    if source_of(dataset, mark) != source:
        raise InputError(f"column {column!r} is made from {source_of(dataset, mark)!r}, not from {source!r}")


def written_by(schema: Any, column: str) -> Mark:
    """Return the mark of a column.

    Raises
    ------
    InputError
        There is no such column, or no model writes it.
    """
    if column not in schema.names:
        raise InputError(f"no column {column!r}; there are {', '.join(schema.names)}")
    mark = mark_of(schema.field(column))
    if mark is None:
        names = marked(schema)
        there = f"models write {', '.join(names)}" if names else "add_column adds one that a model writes"
        raise InputError(f"no model writes the column {column!r}; {there}")
    return mark
