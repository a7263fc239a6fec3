"""Functions that take a model, codes or a query by handle: what stands behind the macros that take a name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vecpipe import kernels, model_columns
from vecpipe.arrays import Bytes, Float32, Mask
from vecpipe.columns.results import to_codes, to_tokens, to_vectors
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.duckdb.exact import Asked
from vecpipe.engines.duckdb.groups import by_value, read_some, rows_by_model, scatter
from vecpipe.engines.duckdb.handles import NO_MODEL, keep_model, model_of, query_of, query_side
from vecpipe.engines.duckdb.scalar import Scalar, both, constant, floats
from vecpipe.errors import CapabilityError, InputError, ModelNotFoundError, SpecError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.operators.product import WordCodec
from vecpipe.rules import rows_named
from vecpipe.scoring import metric_named
from vecpipe.sketch import Sketch


def scalars() -> Iterator[Scalar]:
    """Yield the functions."""
    yield from (
        Scalar(
            "vec_fit_sketch",
            "sketch, spec",
            "BLOB",
            "Fit a spec from a sketch: the model.",
            _fit_sketch,
            by_chunk=False,
        ),
        Scalar("_vec_load", "name, model, known", "VARCHAR", "Load a model, return its handle.", _load),
        Scalar("_vec_load_side", "name, model, base, known", "VARCHAR", "Load a model or its query side.", _load_side),
        Scalar("_vec_transform", "handle, v, on_invalid", "FLOAT[]", "Behind vec_transform.", _transform),
        Scalar("_vec_encode", "handle, v, on_invalid", "BLOB", "Behind vec_encode.", _encode),
        Scalar("_vec_score_codes", "handle, a, b, metric", "FLOAT", "Behind vec_score_codes.", _score_codes),
        Scalar("_vec_decode", "handle, code", "FLOAT[]", "Behind vec_decode.", _decode),
        Scalar("_vec_tokens", "handle, code", "VARCHAR[]", "Behind vec_tokens.", _tokens),
        Scalar("_vec_score", "code, query", "FLOAT", "Behind vec_score.", score),
        Scalar("_vec_query_bits", "query", "BLOB", "Behind vec_search_bits.", _query_bits),
        Scalar(
            "_vec_other_bits", "bits, found, model, wanted", "BIGINT", "Behind vec_search_bits: an error.", _other_bits
        ),
        Scalar("_vec_exact", "v, query", "FLOAT", "Behind vec_exact.", exact),
    )


def _load(name: Any, data: Any, known: Any) -> Any:
    handles: list[str | None] = []
    for wanted, blob, names in zip(name.to_pylist(), data.to_pylist(), known.to_pylist(), strict=True):
        if wanted is None:
            handles.append(None)
        elif blob is None:
            raise ModelNotFoundError(
                f"no model is named {wanted!r}; " + (f"there are: {names}" if names else "vecpipe.models is empty")
            )
        else:
            handles.append(keep_model(blob))
    return pa.array(handles, pa.string())


def _load_side(name: Any, data: Any, base: Any, known: Any) -> Any:
    """Load a model, or the query side of the model that a name ending in .query is said of."""
    sides = [own is None and other is not None for own, other in zip(data.to_pylist(), base.to_pylist(), strict=True)]
    loaded = _load(name, pc.coalesce(data, base), known).to_pylist()
    handles = [handle and query_side(handle) if side else handle for handle, side in zip(loaded, sides, strict=True)]
    return pa.array(handles, pa.string())


def _fit_sketch(sketch: Any, spec: Any) -> Any:
    models = []
    for data, wanted in zip(sketch.to_pylist(), spec.to_pylist(), strict=True):
        if wanted is None:
            raise SpecError("vec_fit_sketch: spec is NULL; a spec is text such as 'center | pca(128) | int8'")
        models.append(None if data is None else fit_sketch(Sketch.from_bytes(data), wanted).to_bytes())
    return pa.array(models, pa.binary())


def _transform(model: Any, v: Any, on_invalid: Any) -> Any:
    with kernels.one_blas_thread():
        parts = [
            (at, *found.transform(values, valid))
            for at, found, values, valid in rows_by_model(model, v, on_invalid, "vec_transform")
        ]
    return scatter(len(v), parts, to_vectors, pa.list_(pa.float32()))


def _encode(model: Any, v: Any, on_invalid: Any) -> Any:
    with kernels.one_blas_thread():
        parts = []
        for at, found, values, valid in rows_by_model(model, v, on_invalid, "vec_encode"):
            with rows_named("vec_encode: v", positions=at):
                parts.append((at, *found.encode(values, valid, finite=True)))
    return scatter(len(v), parts, to_codes, pa.binary())


def _decode(model: Any, code: Any) -> Any:
    with kernels.one_blas_thread():
        parts: list[tuple[Any, Float32, Mask | None]] = []
        for handle, at in by_value(model):
            found = model_of(handle)
            items, valid = _read(found, code, at, "vec_decode")
            parts.append((at, model_columns.undone(found, items), valid))
    return scatter(len(code), parts, to_vectors, pa.list_(pa.float32()))


def _tokens(model: Any, code: Any) -> Any:
    parts: list[tuple[Any, Bytes, Mask | None]] = []
    for handle, at in by_value(model):
        found = model_of(handle)
        if not isinstance(found.codec, WordCodec):
            raise CapabilityError(
                f"vec_tokens: {found.spec!r} writes no numbers of centroids; take a spec that ends in pq, opq or rvq"
            )
        codes, valid = _read(found, code, at, "vec_tokens")
        parts.append((at, found.codec.numbers(codes), valid))
    return scatter(len(code), parts, to_tokens, pa.list_(pa.string()))


def _read(
    found: Model, column: Any, at: npt.NDArray[np.int64] | None, name: str, argument: str | None = None
) -> tuple[npt.NDArray[Any], Mask | None]:
    """Return what a model has written at some rows, called as the function's argument is."""
    label = f"{name}: {argument or ('v' if found.codec is None else 'code')}"
    return read_some(column, at, partial(model_columns.read, found, column=label))


def _score_codes(model: Any, a: Any, b: Any, metric: Any) -> Any:
    wanted = metric_named(constant(metric, "vec_score_codes: metric"))
    scores = np.full(len(a), np.nan, dtype=np.float32)
    with kernels.one_blas_thread():
        for handle, at in by_value(model):
            found = model_of(handle)
            left, some = _read(found, a, at, "vec_score_codes", "a")
            right, others = _read(found, b, at, "vec_score_codes", "b")
            valid = some if others is None else both(some, others)
            where = np.arange(len(a)) if at is None else at
            if valid is not None:
                where, left, right = where[valid], left[valid], right[valid]
            if len(where):
                scores[where] = found.score_codes(left, right, wanted)
    return floats(scores)


def score(code: Any, query: Any) -> Any:
    """Return scores of what a model wrote for query handles: the Arrow form of ``vec_score``."""
    return _scores(code, query, raw=False)


def exact(v: Any, query: Any) -> Any:
    """Return scores of raw vectors for query handles: the Arrow form of ``vec_exact``."""
    return _scores(v, query, raw=True)


def _scores(items: Any, query: Any, *, raw: bool) -> Any:
    groups = [(query_of(handle), at) for handle, at in by_value(query)]
    result = np.full(len(items), np.nan, dtype=np.float32)
    exactly = [group for group in groups if raw or group[0].model is None]
    if exactly:
        if pa.types.is_binary(items.type) or pa.types.is_large_binary(items.type):
            raise SpecError(NO_MODEL)
        rows = to_rows(items, column="vec_exact: v", check_finite=False)
        if rows.valid is None or rows.valid.any():
            result = Asked(exactly, len(items)).scores(rows.values, "vec_exact: v: row {}".format)
        if rows.valid is not None:
            result[~rows.valid] = np.nan
    with kernels.one_blas_thread():
        for found, at in groups:
            if raw or found.model is None:
                continue
            assert found.queries is not None
            chosen, valid = _read(found.model, items, at, "vec_score")
            scores = found.model.score(found.queries, chosen)[0]
            if at is None:
                return floats(scores, valid)
            result[at] = scores if valid is None else np.where(valid, scores, np.float32(np.nan))
    return floats(result)


def _query_bits(query: Any) -> Any:
    """Return the sign bits of each query, NULL for one without direction."""
    made: list[bytes | None] = []
    for handle in query.to_pylist():
        found = None if handle is None else query_of(handle)
        if found is None:
            made.append(None)
            continue
        if found.model is None or found.queries is None:
            raise SpecError("vec_search_bits: name the model that wrote them; pass model := 'name'")
        bits, known = found.model.query_bits(found.queries)
        made.append(bits[0].tobytes() if known[0] else None)
    return pa.array(made, pa.binary())


def _other_bits(*columns: Any) -> Any:
    """Refuse bits of another width than the query's; for SQL's ``error``, DuckDB would read raw vectors of all rows."""
    bits, found, model, wanted = (column[0].as_py() for column in columns)
    raise InputError(
        f"vec_search_bits: {bits}: a row holds {found} bits, but the codes of model {model!r} have {wanted}; "
        "was the column written by another model?"
    )
