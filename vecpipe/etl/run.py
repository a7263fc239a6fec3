"""One run: blocks from the source through the model into parts, parts into the target.

The rows are computed in parts of a fixed range each, kept in ``TARGET.partial`` until all are there and then put into
the target in one step. A run that dies at any moment leaves the target untouched and its finished parts in place;
the same call again goes on after the last of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.arrays import OnInvalid, from_codes, rows_named, to_codes, to_rows, to_vectors
from vecpipe.errors import InputError, ResumeError, VecpipeError
from vecpipe.etl.parts import PartWriter, Workspace, discard
from vecpipe.etl.tables import BLOCK_ROWS, Table, is_duckdb, open_table, split_name
from vecpipe.etl.targets import Target, open_target
from vecpipe.etl.types import cast, plain
from vecpipe.fitting import Progress
from vecpipe.kernels import one_blas_thread
from vecpipe.ordered import in_order, thread_count
from vecpipe.pipeline import Model
from vecpipe.sources import vector_column
from vecpipe.version import __version__

_PART_BYTES = 64 << 20
_MAX_PART_ROWS = 65_536


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
        plan = _plan(rows_in, rows_out, model, column, output, keep, drop_vector, decode, on_invalid)
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
        size = _part_rows(plan.schema) if part_rows is None else part_rows
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


@dataclass(frozen=True)
class _Plan:
    """What to read, what to compute, what to write."""

    columns: list[str]
    vector: str
    kept: list[str]
    output: str
    schema: Any
    options: dict[str, Any]
    compute: Callable[[Any, int], tuple[Any, int]]


def _plan(
    rows_in: Table,
    rows_out: Target,
    model: Model,
    column: str | None,
    output: str | None,
    keep: Sequence[str] | None,
    drop_vector: bool,
    decode: bool,
    on_invalid: OnInvalid,
) -> _Plan:
    codes = decode and model.codec is not None
    vector = _code_column(rows_in.schema, column) if codes else vector_column(rows_in.schema, column)
    name = output or ("decoded" if decode else "code" if model.codec else "vector")
    width = model.dim if decode else model.output_dim
    if isinstance(keep, str):
        raise InputError(f"keep is {keep!r}; expected a list of names")
    kept = [other for other in rows_in.schema.names if other != vector] if keep is None else list(keep)
    unknown = [other for other in kept if other not in rows_in.schema.names]
    if unknown:
        raise InputError(f"no column {unknown[0]!r} to keep; there are {', '.join(rows_in.schema.names)}")
    if drop_vector:
        kept = [other for other in kept if other != vector]
    elif keep is None:
        kept = list(rows_in.schema.names)
    if name in kept:
        raise InputError(f"the new column would be the second one named {name!r}; give it another name (--as)")
    if len(set(kept)) < len(kept):
        raise InputError("a column is kept twice, or two columns of the source have the same name")
    if decode:
        _check_invertible(model)
    kind = pa.list_(pa.float32(), width) if decode or model.codec is None else pa.binary()
    fields = [field.with_type(plain(field.type)) for field in map(rows_in.schema.field, kept)]
    schema = rows_out.prepared(pa.schema([*fields, pa.field(name, kind)]))

    def compute(batch: Any, first_row: int) -> tuple[Any, int]:
        array = batch.column(vector)
        if codes:
            found, valid = from_codes(array, model.bytes_per_vector, column=vector, first_row=first_row)
            new, invalid = to_vectors(model.decode(found), valid, fixed=True), 0
        else:
            rows = to_rows(
                array,
                column=vector,
                dim=model.output_dim if decode else model.dim,
                on_invalid=on_invalid,
                first_row=first_row,
            )
            invalid = rows.invalid
            if decode:
                new = to_vectors(model.inverse(rows.values), rows.valid, fixed=True)
            elif model.codec is None:
                new = to_vectors(*model.transform(rows.values, rows.valid), fixed=True)
            else:
                with rows_named(vector, first_row):
                    new = to_codes(*model.encode(rows.values, rows.valid, finite=True))
        arrays = [cast(batch.column(other), schema.field(other).type) for other in kept]
        return pa.RecordBatch.from_arrays([*arrays, new.cast(kind)], schema=schema), invalid

    options = {
        "target": rows_out.name,
        "column": vector,
        "output": name,
        "keep": kept,
        "decode": decode,
        "on_invalid": on_invalid,
    }
    return _Plan([*dict.fromkeys([vector, *kept])], vector, kept, name, schema, options, compute)


def _check_invertible(model: Model) -> None:
    if model.codec is None:
        model.inverse(np.zeros((1, model.output_dim), np.float32))
    else:
        model.decode(np.zeros((1, model.bytes_per_vector), np.uint8))


def _code_column(schema: Any, column: str | None) -> str:
    if column is not None:
        if column not in schema.names:
            raise InputError(f"no column {column!r}; there are {', '.join(schema.names)}")
        return column
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    found = [field.name for field in schema if any(test(field.type) for test in kinds)]
    if len(found) != 1:
        what = f"{len(found)} columns hold bytes ({', '.join(found)})" if found else "no column holds bytes"
        raise InputError(f"cannot tell which column holds the codes: {what}; name it with column=")
    return str(found[0])


def _compute(source: Table, workspace: Workspace, plan: _Plan, workers: int, progress: Progress | None) -> None:
    """Bring the workspace from the parts it has to all parts."""
    done = sum(part.rows for part in workspace.parts)
    if progress is not None:
        progress(done, source.rows)
    blocks = source.read(plan.columns, workspace.part_rows, len(workspace.parts))
    writer: PartWriter | None = None
    try:
        with one_blas_thread(), ThreadPoolExecutor(workers, "vecpipe-apply") as pool:
            calls = _calls(blocks, workspace.part_rows, plan)
            for result in in_order(pool, calls, 2 * workers):
                if writer is None:
                    writer = workspace.writer(plan.schema)
                if result is None:
                    writer.finish()
                    writer = None
                    continue
                batch, invalid = result
                writer.write(batch, invalid)
                done += batch.num_rows
                if progress is not None:
                    progress(done, source.rows)
    finally:
        if writer is not None:
            writer.close()
    if done != source.rows:
        raise ResumeError(
            f"{workspace.folder}: the source has {source.rows} rows, but {done} were read; it has changed meanwhile"
        )


def _calls(blocks: Iterator[tuple[int, Any]], part_rows: int, plan: _Plan) -> Iterator[Callable[[], Any] | None]:
    """Yield what is to be computed for each block, and None at the end of a part."""
    offset = 0
    for part, block in blocks:
        yield None if block is None else partial(plan.compute, block, part * part_rows + offset)
        offset = 0 if block is None else offset + block.num_rows


def _part_rows(schema: Any) -> int:
    """Return how many rows make a part of about 64 MB."""
    row = 0
    for field in schema:
        kind = field.type
        if pa.types.is_fixed_size_list(kind):
            row += 4 * kind.list_size
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            row += 4 * 1_024
        else:
            row += 256
    return int(min(max(_PART_BYTES // max(row, 1) // BLOCK_ROWS, 1) * BLOCK_ROWS, _MAX_PART_ROWS))


def _digest(run: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def _refuse_itself(source: Path, table: str | None, target: Path, into: str | None) -> None:
    if not (target.exists() and source.samefile(target)):
        return
    if table is None or into is None or split_name(table.lower()) == split_name(into.lower()):
        raise InputError("source and target are the same; write to another name")
