"""Filling a column: rows through the model into parts on disk, parts into data files, data files into one commit.

Nothing of the table changes until all rows are computed. Then the column appears, empty, and a second commit fills it
in every fragment at once. Appends and deletions by other writers do not get in the way; after an update or a
compaction the fragments concerned are computed again and the commit is tried on top of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe import model_columns
from vecpipe.arrays import Mask
from vecpipe.columns.results import to_byte_lists, to_codes, to_vectors
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.lancedb import history
from vecpipe.engines.lancedb.checkpoint import Checkpoint, Range
from vecpipe.engines.lancedb.fragments import Piece, behind, commit, live_rows, pieces, read_rows, write_piece
from vecpipe.engines.lancedb.host import asking, is_conflict, latest_dataset
from vecpipe.engines.lancedb.marks import Mark
from vecpipe.errors import EngineError, InputError, VecpipeError
from vecpipe.etl.filling import fill_parts, rows_of_part
from vecpipe.etl.parts import Computed, DraftPart
from vecpipe.fitting.stream import Progress
from vecpipe.model import Model
from vecpipe.ordered import thread_count
from vecpipe.rules import OnInvalid
from vecpipe.version import __version__

_COMMITS = 4
_CONFLICTS = 50


@dataclass(frozen=True)
class Backfilled:
    """What a backfill has done.

    Attributes
    ----------
    rows
        Rows that were written: those that were new or had changed.
    resumed
        How many of them an earlier, interrupted run had computed.
    invalid
        Rows that broke a rule and became NULL (``on_invalid="null"``).
    behind
        Rows that other writers added meanwhile and that wait for the next refresh.
    version
        Version of the table that holds the column.
    """

    table: str
    column: str
    rows: int
    resumed: int
    invalid: int
    behind: int
    version: int


@dataclass(frozen=True)
class Plan:
    """What to fill, from what, and how.

    Attributes
    ----------
    mark
        Called once all rows are computed and the column is to be added: what its metadata is to say.
    """

    column: str
    model: Model
    source: str
    mark: Callable[[], Mark]
    on_invalid: OnInvalid = "error"
    checkpoint: str | Path | None = None
    restart: bool = False
    part_rows: int | None = None
    threads: int | None = None
    progress: Progress | None = None

    @property
    def kind(self) -> Any:
        """Arrow type of the column."""
        return column_type(self.model)

    @property
    def schema(self) -> Any:
        """Arrow schema of the column alone."""
        return pa.schema([pa.field(self.column, self.kind)])

    def compute(self, block: Any, live: Mask | None, alive: int, first_row: int) -> Computed:
        """Return the column for a block of the source, NULL where a row is deleted."""
        found = block if live is None else block.filter(pa.array(live))
        rows = to_rows(found, column=self.source, dim=self.model.dim, on_invalid=self.on_invalid, first_row=first_row)
        values, valid = model_columns.written(self.model, rows, column=self.source, first_row=first_row)
        if live is not None:
            spread = np.zeros((len(live), values.shape[1]), values.dtype)
            spread[live] = values
            kept = live.copy()
            if valid is not None:
                kept[live] = valid
            values, valid = spread, kept
        batch = pa.RecordBatch.from_arrays([column_array(self.kind, values, valid)], [self.column])
        return Computed(batch, rows.invalid, alive)


def column_type(model: Model) -> Any:
    """Return the Arrow type of the column a model writes.

    Vectors are ``fixed_size_list<float32>[k]``. Codes are ``fixed_size_binary[B]``, which LanceDB does not take for
    vectors, so that a search that names no column still finds the raw one. Codes of ``binary`` are
    ``fixed_size_list<uint8>[B]``: LanceDB searches and indexes those by Hamming distance.
    """
    if model.codec is None:
        return pa.list_(pa.float32(), model.output_dim)
    if model.codec.name == "binary":
        return pa.list_(pa.uint8(), model.bytes_per_vector)
    return pa.binary(model.bytes_per_vector)


def column_array(kind: Any, values: Any, valid: Mask | None) -> Any:
    """Return a matrix as an Arrow array of a column's type."""
    if pa.types.is_fixed_size_binary(kind):
        return to_codes(values, valid, fixed=True)
    if kind.value_type == pa.uint8():
        return to_byte_lists(values, valid)
    return to_vectors(values, valid, fixed=True)


def checkpoint_folder(uri: str, column: str, named: str | Path | None) -> Path:
    """Return the folder of an unfinished backfill: the one named, or one beside a table that is a local folder.

    Raises
    ------
    InputError
        The table is not local and no folder is named.
    """
    if named is not None:
        return Path(named)
    if "://" in uri:
        raise InputError(f"{uri} is not a local folder: say where unfinished work is to be kept (checkpoint=)")
    table = Path(uri)
    name = "".join(letter if letter.isalnum() else "_" for letter in column)
    return table.with_name(f"{table.stem}.{name}.partial")


def fill(table: Any, plan: Plan) -> Backfilled:
    """Bring a column up to date in every fragment of the table, adding the column where it is not there yet.

    Raises
    ------
    InputError
        A row breaks a rule, or there is no source column.
    ResumeError
        There is an unfinished run with another model, source or options, or another process is at work on it.
    EngineError
        LanceDB refused, or other writers got in the way again and again.
    """
    dataset = latest_dataset(table)
    column = plan.column
    folder = checkpoint_folder(str(dataset.uri), column, plan.checkpoint)
    part_rows = rows_of_part(plan.model.bytes_per_vector) if plan.part_rows is None else plan.part_rows
    if part_rows < 1:
        raise InputError(f"part_rows is {part_rows}; expected at least 1")
    run = {
        "vecpipe": __version__,
        "model": {"hash": plan.model.hash, "spec": plan.model.spec},
        "source": {"table": _place(str(dataset.uri)), "column": plan.source},
        "options": {"output": column, "type": str(plan.kind), "on_invalid": plan.on_invalid},
        "part_rows": part_rows,
        "id": secrets.token_hex(4),
    }
    work = Checkpoint(folder, run, restart=plan.restart)
    try:
        with asking(f"fill the column {column!r} of {table.name!r}"):
            done = _rounds(table, plan, work)
        work.remove()
        return done
    except VecpipeError:
        if not work.parts:
            work.remove()
        raise
    finally:
        work.close()


def _place(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).resolve())


def _rounds(table: Any, plan: Plan, work: Checkpoint) -> Backfilled:
    """Compute and commit until no fragment is behind, or until others have added rows often enough."""
    column = plan.column
    rows = resumed = invalid = commits = conflicts = 0
    known = set(work.parts)
    while True:
        dataset = latest_dataset(table)
        there = column in dataset.schema.names
        pending = behind(dataset, column, pieces(dataset, plan.source, plan.model.hash))
        if (not pending and there) or commits == _COMMITS:
            break
        work.keep_only(pending)
        _compute(dataset, pending, work, plan, rows)
        try:
            if not there:
                about = plan.mark().metadata() | history.begun(int(dataset.version), work.run["id"])
                table.add_columns(pa.field(column, plan.kind, metadata=about))
                continue
            history.begin(table, dataset, column, work.run["id"])
            groups = [
                write_piece(dataset, piece, plan.schema, work.batches(piece), work.run["id"]) for piece in pending
            ]
            commit(dataset, groups)
        except (OSError, RuntimeError, ValueError) as error:
            conflicts += 1
            if not is_conflict(error):
                raise
            if conflicts > _CONFLICTS:
                raise EngineError(
                    f"{column}: other writers changed the table {conflicts} times while it was being written; "
                    f"finished parts are kept in {work.folder}, run again to go on from there"
                ) from error
            continue
        commits += 1
        finished = [(found, work.parts[found]) for piece in pending for found in work.ranges(piece)]
        rows += sum(part.live for _, part in finished)
        resumed += sum(part.live for found, part in finished if found in known)
        invalid += sum(part.invalid for _, part in finished)
    table.checkout_latest()
    return Backfilled(
        table.name, column, rows, resumed, invalid, sum(piece.live for piece in pending), int(table.version)
    )


def _compute(dataset: Any, pending: list[Piece], work: Checkpoint, plan: Plan, before: int) -> None:
    """Bring the folder from the parts it has to all parts of these fragments; ``before`` rows are in the table."""
    missing = [(piece, found) for piece in pending for found in work.ranges(piece) if found not in work.parts]
    total = before + sum(piece.live for piece in pending)
    have = sum(work.parts[found].live for piece in pending for found in work.ranges(piece) if found in work.parts)
    todo = iter(missing)

    def finish(draft: DraftPart) -> None:
        found = next(todo)[1]
        if draft.rows != found.stop - found.start:
            raise EngineError(f"fragment {found.number}: LanceDB gave other rows than it says there are")
        work.finish(draft, found)

    fill_parts(
        _calls(dataset, missing, work, plan),
        partial(work.draft, plan.schema),
        finish,
        threads=thread_count(plan.threads),
        done=before + have,
        total=total,
        progress=plan.progress,
    )


def _calls(
    dataset: Any, missing: list[tuple[Piece, Range]], work: Checkpoint, plan: Plan
) -> Iterator[Callable[[], Computed] | None]:
    """Yield what is to be computed for each block, and None at the end of a part."""
    for piece, found in missing:
        row = piece.first_row + live_rows(dataset, piece, plan.source, found.start)
        for block, live in read_rows(dataset, piece, plan.source, found.start, found.stop):
            alive = len(block) if live is None else int(live.sum())
            yield partial(plan.compute, block, live, alive, row)
            row += alive
        yield None
