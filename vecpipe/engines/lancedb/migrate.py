"""Changing the model of a column while the table is in use: a second column, an audit, one commit that swaps the names.

The old column stays as ``COLUMN_previous`` until the migration is finished, so that going back is one commit as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vecpipe.engines.lancedb import history
from vecpipe.engines.lancedb.audit import audit
from vecpipe.engines.lancedb.catalog import load_model, save_model
from vecpipe.engines.lancedb.columns import add_column, drop, refresh, source_of, written_by
from vecpipe.engines.lancedb.host import asking, database_of, latest_dataset
from vecpipe.engines.lancedb.marks import mark_of, marked, no_marks
from vecpipe.errors import CapabilityError, InputError, RecallError
from vecpipe.model import Model
from vecpipe.model_names import check_model_name
from vecpipe.scoring import Metric

_TOLERANCE = 0.02


@dataclass(frozen=True)
class Migrated:
    """What a migration has done.

    Attributes
    ----------
    rows, resumed
        Rows written into the new column, and how many of them an interrupted run had computed.
    before, after
        Recall@k of the old and of the new column on the sample, against exact search on their source. A column of
        raw vectors is its own source: its recall is 1.
    cut_over
        Whether the new column has taken the name of the old one.
    behind
        Rows that other writers added meanwhile and that have no value in the new column yet.
    """

    table: str
    column: str
    rows: int
    resumed: int
    before: float
    after: float
    cut_over: bool
    behind: int
    version: int


def migrate(
    table: Any,
    column: str,
    model: Model | str,
    *,
    name: str | None = None,
    min_recall: float | None = None,
    metric: Metric = "cosine",
    k: int = 10,
    sample: int = 4_096,
    queries: Any = None,
    cut_over: bool = True,
    **filling: Any,
) -> Migrated:
    """Give a column another model: fill a second column, audit it, then swap the names in one commit.

    Readers find the old values under the column's name until the swap, and the new ones from then on. A migration
    that is interrupted at any moment goes on where it stopped when called again in the same way.

    Parameters
    ----------
    table : lancedb.table.LanceTable
    column
        Column that a model writes, whose source is read again; or a column of raw vectors, which a model without
        codec then maps, for example into the space of another encoder. Raw vectors must not be written meanwhile.
    model
        The new model, or the name of one in the catalog of the table's database.
    name
        Name for the model in the catalog; ``TABLE.COLUMN`` by default. Until the swap it is ``NAME_next``, so that
        the newest model of a name is always the one in use.
    min_recall
        Least recall@k of the new column on the sample; by default that of the old one less 0.02, and for raw vectors
        none.
    metric, k, sample
        What the audit measures, and on how many rows. A sixteenth of them are the queries.
    queries : (m, d) or None
        Queries of your own for the audit, in the space of the source.
    cut_over
        False stops before the swap, with the new column as ``COLUMN_next``: to index it, and to call again.
    **filling
        ``on_invalid``, ``checkpoint``, ``restart``, ``part_rows``, ``threads``, ``progress``: see ``add_column``.

    Raises
    ------
    RecallError
        The audit found less than ``min_recall``; both numbers are in the message, the new column stays beside.
    InputError
        There is no such column, an earlier migration of it has not been finished, or ``name`` ends like ``name@3``.
    CapabilityError
        A codec for a column of raw vectors.
    EngineError
        LanceDB refused, or stored values are not what the model gives.
    """
    dataset = latest_dataset(table)
    if column not in dataset.schema.names:
        raise InputError(f"no column {column!r}; there are {', '.join(dataset.schema.names)}")
    stored = model if isinstance(model, str) else None
    if isinstance(model, str):
        model = load_model(database_of(table), model)
    mark = mark_of(dataset.schema.field(column))
    named = name or stored or f"{table.name}.{column}"
    check_model_name(named)
    following, previous = f"{column}_next", f"{column}_previous"
    if previous in dataset.schema.names:
        if mark is not None and mark.hash == model.hash:
            return _resumed_after_swap(table, column, named, model, filling)
        raise InputError(
            f"an earlier migration of {column!r} of {table.name!r} is not finished: finish_migration(table, "
            f"{column!r}) drops the old values, {previous!r}; undo_migration(table, {column!r}) goes back to them"
        )
    begun = mark_of(dataset.schema.field(following)) if following in dataset.schema.names else None
    if begun is not None and begun.hash != model.hash:
        raise InputError(
            f"an earlier migration of {column!r} of {table.name!r} to another model, {begun.spec} ({begun.hash}), "
            f"is not finished: migrate(table, {column!r}, that model) goes on with it, drop(table, {following!r}) "
            "gives it up"
        )
    if mark is not None and mark.hash == model.hash:
        raise InputError(f"column {column!r} is written by model {model.hash} already; refresh brings it up to date")
    if mark is None and model.codec is not None:
        raise CapabilityError(
            f"{column!r} holds raw vectors and {model.spec!r} writes codes: add_column keeps codes beside the vectors; "
            "a migration of raw vectors takes a model without codec"
        )
    source = column if mark is None else source_of(dataset, mark)
    old = None if mark is None else load_model(database_of(table), mark.name, mark.version)
    filled = add_column(table, following, model, source=source, name=stored or f"{named}_next", **filling)
    before, after = audit(table, source, (column, old), (following, model), metric, k, sample, queries)
    least = (before - _TOLERANCE if mark is not None else 0.0) if min_recall is None else min_recall
    if after < least:
        raise RecallError(
            f"recall@{k} of {model.spec!r} is {after:.3f} on a sample of {table.name!r}, asked for {least:.3f} "
            f"({column!r} has {before:.3f}); nothing was switched over. min_recall= lets it pass, "
            f"drop(table, {following!r}) gives it up"
        )
    if not cut_over:
        return Migrated(
            table.name, column, filled.rows, filled.resumed, before, after, False, filled.behind, filled.version
        )
    _swap(table, (column, previous, "deprecated"), (following, column, "production"))
    behind = _settle(table, column, named, model, filling)
    return Migrated(table.name, column, filled.rows, filled.resumed, before, after, True, behind, int(table.version))


def undo_migration(table: Any, column: str) -> int:
    """Give a column its old values back, from ``COLUMN_previous``, and return the table's version.

    Rows written since the swap get the old model's values first. The new values stay as ``COLUMN_next``.

    Raises
    ------
    InputError
        There is no ``COLUMN_previous``, or rows written since the swap have no old raw vector.
    EngineError
        LanceDB refused.
    """
    following, previous = f"{column}_next", f"{column}_previous"
    schema = _unfinished(table, column)
    if mark_of(schema.field(previous)) is not None:
        refresh(table, previous)
    else:
        missing = _count(table, f"`{column}` IS NOT NULL AND `{previous}` IS NULL")
        if missing:
            raise InputError(
                f"{missing} rows were written to {column!r} since the swap and have no {previous!r}; "
                "going back would lose them"
            )
    _swap(table, (column, following, "archived"), (previous, column, "production"))
    mark = mark_of(table.schema.field(column))
    if mark is not None:
        _name_model(table, column, mark.name, load_model(database_of(table), mark.name, mark.version))
    return int(table.version)


def finish_migration(table: Any, column: str) -> int:
    """Drop the old column that a migration has kept, and return the table's version; from then on there is no way back.

    Raises
    ------
    InputError
        There is no ``COLUMN_previous``, or it is the source of other columns.
    EngineError
        LanceDB refused.
    """
    previous = f"{column}_previous"
    schema = _unfinished(table, column)
    if mark_of(schema.field(previous)) is not None:
        return drop(table, previous)
    dataset = latest_dataset(table)
    made = [name for name in marked(schema) if source_of(dataset, written_by(schema, name)) == previous]
    if made:
        raise InputError(
            f"{', '.join(made)} of {table.name!r} are made from {previous!r}: drop them, or keep it; new ones can be "
            f"made from {column!r}"
        )
    with asking(f"drop the column {previous!r} of {table.name!r}"):
        table.drop_columns([previous])
        table.checkout_latest()
    return int(table.version)


def _unfinished(table: Any, column: str) -> Any:
    schema = latest_dataset(table).schema
    if f"{column}_previous" not in schema.names:
        raise InputError(f"{table.name!r} has no column {column + '_previous'!r}: no migration of {column!r} is open")
    return schema


def _swap(table: Any, *renamed: tuple[str, str, str]) -> None:
    """Rename columns in one commit, then say what state each is in."""
    with asking(f"rename columns of {table.name!r}"):
        table.alter_columns(*({"path": old, "rename": new} for old, new, _ in renamed))
        # A version from before the swap has other columns by these names.
        table.update_field_metadata(
            *({"path": new, "metadata": {"lancedb:status": status} | history.forgotten()} for _, new, status in renamed)
        )
        table.checkout_latest()


def _settle(table: Any, column: str, named: str, model: Model, filling: dict[str, Any]) -> int:
    """Name the model after what it is now, and fill in rows that came since; return how many could not be filled."""
    previous = f"{column}_previous"
    if mark_of(table.schema.field(previous)) is not None:
        _name_model(table, column, named, model)
        return refresh(table, column, **filling).behind
    save_model(database_of(table), named, model)
    # What was a map of the raw vectors is the raw column now: a refresh must never write over it.
    with asking(f"take the mark off {column!r}"):
        table.update_field_metadata({"path": column, "metadata": no_marks()})
        table.checkout_latest()
    return _count(table, f"`{column}` IS NULL AND `{previous}` IS NOT NULL")


def _name_model(table: Any, column: str, named: str, model: Model) -> None:
    """Make a column's model the newest of a name in the catalog, and say so in the column's metadata."""
    mark = written_by(table.schema, column)
    version = save_model(database_of(table), named, model)
    with asking(f"mark the column {column!r} of {table.name!r}"):
        metadata = replace(mark, name=named, version=version).metadata()
        table.update_field_metadata({"path": column, "metadata": metadata})
        table.checkout_latest()


def _resumed_after_swap(table: Any, column: str, named: str, model: Model, filling: dict[str, Any]) -> Migrated:
    behind = _settle(table, column, named, model, filling)
    return Migrated(table.name, column, 0, 0, float("nan"), float("nan"), True, behind, int(table.version))


def _count(table: Any, where: str) -> int:
    with asking(f"count rows of {table.name!r}"):
        return int(table.count_rows(where))
