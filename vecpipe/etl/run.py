"""One run: blocks from the source through the model into parts, parts into the target.

The rows are computed in parts of a fixed range each, kept in ``TARGET.partial`` until all are there and then put into
the target in one step. A run that dies at any moment leaves the target untouched and its finished parts in place;
the same call again goes on after the last of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vecpipe.errors import InputError, ResumeError, VecpipeError
from vecpipe.etl.filling import fill_parts
from vecpipe.etl.parts import Computed, Workspace, discard
from vecpipe.etl.plan import Plan, part_rows_of, plan_of
from vecpipe.etl.tables import Table, is_duckdb, open_table, split_name
from vecpipe.etl.targets import open_target
from vecpipe.fitting.stream import Progress
from vecpipe.model import Model
from vecpipe.ordered import thread_count
from vecpipe.rules import OnInvalid
from vecpipe.version import __version__


@dataclass(frozen=True)
class Applied:
    """What a run has done.

    Attributes
    ----------
    rows
        Rows in the target.
    resumed
        How many of them an earlier, interrupted run had finished; all of them where there was nothing to do.
    invalid
        Rows that broke a rule and became NULL (``on_invalid="null"``).
    column
        Name of the new column.
    """

    target: str
    rows: int
    resumed: int
    invalid: int
    column: str


def apply_model(
    source: str | Path,
    model: Model,
    target: str | Path,
    *,
    table: str | None = None,
    into: str | None = None,
    column: str | None = None,
    output: str | None = None,
    keep: Sequence[str] | None = None,
    drop_vector: bool = False,
    decode: bool = False,
    on_invalid: OnInvalid = "error",
    overwrite: bool = False,
    restart: bool = False,
    part_rows: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Applied:
    """Apply a model to a table and write the rows, with the new column, to another.

    A run that is interrupted at any moment goes on where it stopped when called again in the same way, and gives
    what an uninterrupted one gives. The target is never seen half-written.

    Kept columns stay what they are, with four exceptions: dictionaries and ENUM become plain values; half floats become
    FLOAT in DuckDB; HUGEINT becomes DECIMAL(38, 0) in a file, and UHUGEINT, BIGNUM, BIT and TIMETZ text. A column that
    the target cannot hold (INTERVAL in Parquet) is refused by name before anything is computed.

    Parameters
    ----------
    source, table
        Parquet file, Arrow IPC file or stream, or DuckDB database and the name of a table of it.
    target, into
        File ending in ``.parquet``, ``.arrow`` or ``.feather``, or DuckDB database and the name of the new table.
        Unfinished parts are kept beside it, in ``<target>.partial``; they need as much room as the target.
    column
        Column of the vectors (of the codes, to decode); not needed where only one can be meant.
    output
        Name of the new column: by default ``code``, ``vector`` or ``decoded``, as the model and ``decode`` make it.
    keep
        Other columns to keep, in this order; all by default.
    drop_vector
        Leave out the column the model was applied to.
    decode
        Undo the model: codes (or transformed vectors) to vectors.
    on_invalid
        What a ragged, NaN or infinite row does: ``"error"`` stops, ``"null"`` gives NULL and counts it.
    overwrite
        Replace a target that is there.
    restart
        Throw away what an interrupted run has left instead of going on from it.
    part_rows
        Rows of a part: what an interruption costs at most. About 64 MB by default.
    threads
        Threads that compute; as many as there are processors by default, at most 8.
    progress
        Called with the rows done and the rows there are.

    Raises
    ------
    InputError
        Source or target cannot be read or written, a column is missing, a row breaks a rule.
    ResumeError
        There is an unfinished run with another model, source or options, or another process is writing this target.
    CapabilityError
        The model cannot be undone.
    EngineError
        DuckDB refused.
    """
    rows_in = open_table(source, table, into_duckdb=is_duckdb(Path(target)))
    try:
        rows_out = open_target(target, into)
        _refuse_itself(Path(source), table, Path(target), into)
        plan = plan_of(rows_in, rows_out, model, column, output, keep, drop_vector, decode, on_invalid)
        run = {
            "vecpipe": __version__,
            "model": {"hash": model.hash, "spec": model.spec},
            "source": rows_in.fingerprint(plan.columns),
            "options": plan.options,
        }
        record: dict[str, Any] = {"run": _digest(run), "model": model.hash, "spec": model.spec, "column": plan.output}
        there = rows_out.record()
        if there is not None and not overwrite:
            if there.get("run") != record["run"]:
                raise InputError(f"{rows_out.name} exists already; choose another name, or overwrite it (--overwrite)")
            discard(rows_out.folder, plan.output)
            return Applied(rows_out.name, rows_in.rows, rows_in.rows, int(there.get("invalid", 0)), plan.output)
        size = part_rows_of(plan.schema) if part_rows is None else part_rows
        if size < 1:
            raise InputError(f"part_rows is {size}; expected at least 1")
        workers = thread_count(threads)
        workspace = Workspace(rows_out.folder, {**run, "part_rows": size}, restart=restart)
        try:
            resumed = sum(part.rows for part in workspace.parts)
            _compute(rows_in, workspace, plan, workers, progress)
            rows_in.close()
            record["invalid"] = sum(part.invalid for part in workspace.parts)
            rows_out.write(plan.schema, workspace.batches(), record, replace=there is not None)
            workspace.remove()
        except VecpipeError:
            if not workspace.parts:
                workspace.remove()
            raise
        except OSError as error:
            kept = ""
            if workspace.parts:
                kept = f"; finished parts are kept in {rows_out.folder}, run again to go on from there"
            else:
                workspace.remove()
            raise InputError(f"{rows_out.name} cannot be written ({error}){kept}") from error
        finally:
            workspace.close()
        return Applied(rows_out.name, rows_in.rows, resumed, record["invalid"], plan.output)
    finally:
        rows_in.close()


def _compute(source: Table, workspace: Workspace, plan: Plan, workers: int, progress: Progress | None) -> None:
    """Bring the workspace from the parts it has to all parts."""
    blocks = source.read(plan.columns, workspace.part_rows, len(workspace.parts))
    done = fill_parts(
        _calls(blocks, workspace.part_rows, plan),
        partial(workspace.draft, plan.schema),
        workspace.finish,
        threads=workers,
        done=sum(part.rows for part in workspace.parts),
        total=source.rows,
        progress=progress,
    )
    if done != source.rows:
        raise ResumeError(
            f"{workspace.folder}: the source has {source.rows} rows, but {done} were read; it has changed meanwhile"
        )


def _calls(blocks: Iterator[tuple[int, Any]], part_rows: int, plan: Plan) -> Iterator[Callable[[], Computed] | None]:
    """Yield what is to be computed for each block, and None at the end of a part."""
    offset = 0
    for part, block in blocks:
        yield None if block is None else partial(plan.compute, block, part * part_rows + offset)
        offset = 0 if block is None else offset + block.num_rows


def _digest(run: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def _refuse_itself(source: Path, table: str | None, target: Path, into: str | None) -> None:
    if not (target.exists() and source.samefile(target)):
        return
    if table is None or into is None or split_name(table.lower()) == split_name(into.lower()):
        raise InputError("source and target are the same; write to another name")
