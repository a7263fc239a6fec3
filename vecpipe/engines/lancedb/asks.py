"""What a search asks of a LanceDB table, held against the table's columns and catalog before anything is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.arrays import Float32
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.lancedb.host import asking
from vecpipe.engines.lancedb.marks import Mark, mark_of, marked
from vecpipe.engines.lancedb.snapshots import Snapshot
from vecpipe.errors import InputError
from vecpipe.model import Model
from vecpipe.scoring import Metric, metric_named


@dataclass(frozen=True)
class Ask:
    """What one call of ``search`` asks for."""

    column: str | None = None
    model: Model | str | None = None
    k: int = 10
    rerank: str | None = None
    metric: Metric = "cosine"
    where: str | None = None
    text: str | None = None
    reranker: Any = None
    columns: Sequence[str] | None = None
    oversample: int = 4
    shortlist: int = 0
    use_index: bool = False
    nprobes: int | None = None
    database: Any = None


def check(ask: Ask) -> None:
    """Refuse parameters that ask for nothing that exists.

    Raises
    ------
    InputError, SpecError
        The message names the parameter.
    """
    for name, value in (("k", ask.k), ("oversample", ask.oversample), ("shortlist", ask.shortlist)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise InputError(f"{name} is {value!r}; expected a whole number")
    for name, value in (("k", ask.k), ("oversample", ask.oversample)):
        if value < 1:
            raise InputError(f"{name} is {value}; expected at least 1")
    if isinstance(ask.columns, str):
        raise InputError(f"columns is {ask.columns!r}; expected a list of names")
    if ask.shortlist < 0:
        raise InputError(f"shortlist is {ask.shortlist}; expected 0 (chosen) or more")
    metric_named(ask.metric)
    if ask.reranker is not None and ask.text is None:
        raise InputError("a reranker brings two lists together: pass text= too, or rerank= for exact scores")


def column_and_model(snap: Snapshot, ask: Ask) -> tuple[str, Model]:
    """Return the column to search and the model that wrote it, checked against each other.

    Raises
    ------
    InputError
        No such column, none that names a model, or one that another model wrote.
    ModelNotFoundError
        The catalog has no such model.
    """
    column = ask.column
    embedded = _embedded(snap.schema)
    if column is None:
        names = [*marked(snap.schema), *embedded]
        if len(names) != 1:
            found = f"models wrote {', '.join(names)}" if names else "no column of it names a model"
            raise InputError(f"cannot tell which column of {snap.uri} to search: {found}; pass column=")
        column = names[0]
    mark = mark_of(snap.field(column)) or embedded.get(column)
    model = ask.model if isinstance(ask.model, Model) else _stored(snap, ask, column, mark)
    if mark is not None and mark.hash != model.hash:
        raise InputError(
            f"column {column!r} was written by model {mark.name!r} version {mark.version} (hash {mark.hash[:12]}), "
            f"but the query would go through {ask.model if isinstance(ask.model, str) else model.spec!r} "
            f"(hash {model.hash[:12]}); refresh or migrate the column, or search with the model that wrote it"
        )
    _check_type(snap.field(column), column, model)
    return column, model


def _embedded(schema: Any) -> dict[str, Mark]:
    """Return the models of the columns that an embedding function of vecpipe fills."""
    kept = (schema.metadata or {}).get(b"embedding_functions")
    functions = json.loads(kept) if kept else []
    return {
        each["vector_column"]: Mark(each["model"]["name"], each["model"]["version"], each["model"]["content"])
        for each in functions
        if each["name"] == "vecpipe"
    }


def _stored(snap: Snapshot, ask: Ask, column: str, mark: Mark | None) -> Model:
    """Return the model of the catalog that is asked for by name, or by the column's own mark."""
    import lancedb

    from vecpipe.engines.lancedb.catalog import load_model

    assert not isinstance(ask.model, Model)
    if ask.model is None and mark is None:
        raise InputError(f"column {column!r} of {snap.uri} does not name the model that wrote it; pass model=")
    own = mark is not None and ask.model in (None, mark.name)
    key = (column, ask.model if not own else None)
    known = snap.models.get(key)
    if known is None:
        with asking(f"open the database of {snap.uri}"):
            database = ask.database or lancedb.connect(snap.uri.rstrip("/").rsplit("/", 1)[0])
        if own and mark is not None:
            known = load_model(database, mark.name, mark.version)
        else:
            assert ask.model is not None
            known = load_model(database, ask.model)
        snap.models[key] = known
    return known


def _check_type(field: pa.Field, column: str, model: Model) -> None:
    """Refuse a column that cannot hold what the model writes."""
    kind = field.type
    fits = _is_floats(kind) and kind.list_size == model.output_dim if model.codec is None else _is_codes(kind)
    if not fits:
        raise InputError(
            f"column {column!r} is {kind}, but {model.spec!r} writes {model.output_type} "
            f"of {model.bytes_per_vector} bytes; was it written by another model?"
        )


def _is_floats(kind: Any) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type))


def _is_codes(kind: Any) -> bool:
    return bool(
        pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or (pa.types.is_fixed_size_list(kind) and kind.value_type == pa.uint8())
    )


def check_raw(snap: Snapshot, column: str, model: Model) -> None:
    """Refuse a column that does not hold vectors of the width the model takes.

    Raises
    ------
    InputError
        The message names column and type.
    """
    kind = snap.field(column).type
    if not _is_floats(kind) or kind.list_size != model.dim:
        raise InputError(f"rerank column {column!r} is {kind}, expected raw vectors of {model.dim} dimensions")


def queries_of(q: Any, snap: Snapshot, model: Model, column: str) -> tuple[Float32, bool]:
    """Return queries ``(m, d) float32``, and whether several were asked.

    Raises
    ------
    InputError
        Not numbers, not finite, or of another width than the model takes.
    """
    if isinstance(q, str):
        q = _embedding_of(q, snap, column)
    try:
        found = np.asarray(q)
    except ValueError as error:
        raise InputError(f"q: {error}") from error
    many = found.ndim == 2
    rows = to_rows(found if many else found[None], column="q")
    if rows.dim != model.dim:
        hint = (
            "; the model is applied here, pass the query as the encoder gave it" if rows.dim == model.output_dim else ""
        )
        raise InputError(f"q has {rows.dim} dimensions, but the model of column {column!r} takes {model.dim}{hint}")
    return rows.values, many


def _embedding_of(text: str, snap: Snapshot, column: str) -> Any:
    """Return the raw vector of a text, through the function that vecpipe wraps for the column."""
    if column not in _embedded(snap.schema):
        raise InputError(
            f"q is text, but no embedding function of vecpipe fills column {column!r}; pass a vector. "
            "text= asks the full-text index"
        )
    from vecpipe.engines.lancedb.embedding import of_column

    return of_column(snap.schema, column).raw_queries(text)[0]


def shown_columns(snap: Snapshot, ask: Ask) -> list[str]:
    """Return the columns to return: those asked for, or all but vectors and codes."""
    if ask.columns is not None:
        for name in ask.columns:
            snap.field(name)
        return list(ask.columns)
    hidden = {ask.column, *marked(snap.schema)}
    return [
        field.name
        for field in snap.schema
        if field.name not in hidden and field.name != "score" and not pa.types.is_fixed_size_list(field.type)
    ]
