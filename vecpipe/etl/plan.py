"""What a run reads, computes and writes, decided before its first row; what cannot be is refused here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe import model_columns
from vecpipe.columns.codes import from_codes
from vecpipe.columns.results import to_codes, to_vectors
from vecpipe.columns.vectors import to_rows
from vecpipe.errors import InputError
from vecpipe.etl.filling import rows_of_part
from vecpipe.etl.parts import Computed
from vecpipe.etl.tables import Table
from vecpipe.etl.targets import Target, record_in
from vecpipe.etl.types import cast, plain
from vecpipe.model import Model
from vecpipe.rules import OnInvalid
from vecpipe.sources import vector_column


@dataclass(frozen=True)
class Plan:
    """What to read, what to compute, what to write; ``compute`` takes a batch of the source and its first row."""

    columns: list[str]
    vector: str
    kept: list[str]
    output: str
    schema: Any
    options: dict[str, Any]
    compute: Callable[[Any, int], Computed]


def plan_of(
    rows_in: Table,
    rows_out: Target,
    model: Model,
    column: str | None,
    output: str | None,
    keep: Sequence[str] | None,
    drop_vector: bool,
    decode: bool,
    on_invalid: OnInvalid,
) -> Plan:
    """Return the plan of a run; parameters as in ``apply_model``.

    Raises
    ------
    InputError
        A column is missing or named twice, or the target cannot hold one.
    CapabilityError
        The model cannot be undone.
    """
    codes = decode and model.codec is not None
    vector = _code_column(rows_in.schema, column) if codes else vector_column(rows_in.schema, column)
    if codes:
        _check_writer(rows_in.schema, vector, model)
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

    def compute(batch: Any, first_row: int) -> Computed:
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
            else:
                results = model_columns.written(model, rows, column=vector, first_row=first_row)
                new = to_vectors(*results, fixed=True) if model.codec is None else to_codes(*results)
        arrays = [cast(batch.column(other), schema.field(other).type) for other in kept]
        made = pa.RecordBatch.from_arrays([*arrays, new.cast(kind)], schema=schema)
        return Computed(made, invalid, made.num_rows)

    options = {
        "target": rows_out.name,
        "column": vector,
        "output": name,
        "keep": kept,
        "decode": decode,
        "on_invalid": on_invalid,
    }
    return Plan([*dict.fromkeys([vector, *kept])], vector, kept, name, schema, options, compute)


def _check_invertible(model: Model) -> None:
    if model.codec is None:
        model.inverse(np.zeros((1, model.output_dim), np.float32))
    else:
        model.decode(np.zeros((1, model.bytes_per_vector), np.uint8))


def _check_writer(schema: Any, column: str, model: Model) -> None:
    """Refuse to decode what a file says that another model has written."""
    record = record_in(schema.metadata)
    if record.get("column") == column and record.get("model", model.hash) != model.hash:
        raise InputError(
            f"{column}: the file says that its codes are by the model {record.get('spec')!r} with the hash "
            f"{str(record['model'])[:12]}; this one is {model.spec!r} with the hash {model.hash[:12]}"
        )


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


def part_rows_of(schema: Any) -> int:
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
    return rows_of_part(row)
