"""The scalar functions of the SQL surface, as functions of Arrow columns.

Each entry of ``scalars()`` is registered as it stands. Functions with defaults or names for their arguments are
macros over these (``sql/macros``); their own names then begin with an underscore.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vecpipe import kernels
from vecpipe.arrays import (
    Float32,
    Mask,
    OnInvalid,
    Rows,
    even_offsets,
    finite_rows,
    flat_array,
    from_codes,
    rows_named,
    to_codes,
    to_rows,
    to_vectors,
)
from vecpipe.diverse import farthest_points
from vecpipe.engines.duckdb.handles import (
    NO_MODEL,
    exact_by_query,
    keep_model,
    model_of,
    query_of,
    query_side,
)
from vecpipe.errors import InputError, ModelNotFoundError, SpecError
from vecpipe.operators import Codec, Operator, parameters, registry
from vecpipe.pipeline import Model, fit_sketch
from vecpipe.scoring import metric_named
from vecpipe.sketch import Sketch
from vecpipe.text import hash_embed


@dataclass(frozen=True)
class Scalar:
    """A scalar function.

    Attributes
    ----------
    name, arguments : str
        Name and arguments as the reference shows them.
    returns : str
        SQL type of the result.
    volatile : bool
        Whether each call counts: never folded into the plan.
    """

    name: str
    arguments: str
    returns: str
    help: str
    function: Callable[..., Any]
    volatile: bool = False


def scalars() -> Iterator[Scalar]:
    """Return every scalar function that needs no database: hand-written ones and the stateless operators."""
    yield from _HAND_WRITTEN
    taken = {scalar.name for scalar in _HAND_WRITTEN}
    for cls in registry().values():
        if cls.stateless and f"vec_{cls.name}" not in taken:
            yield _from_operator(cls)


def _from_operator(cls: type[Operator]) -> Scalar:
    names = ["v", *(parameter.name for parameter in parameters(cls))]
    help_text = (cls.__doc__ or "").split("\n", 1)[0]
    returns = "BLOB" if issubclass(cls, Codec) else "FLOAT[]"
    name = f"vec_{cls.name}"

    def apply(*columns: Any) -> Any:
        _check_arity(name, columns, 1 + sum(parameter.required for parameter in parameters(cls)), len(names))
        rows = to_rows(columns[0], column=f"{name}: v")
        given = zip(parameters(cls), columns[1:], strict=False)
        step = cls(**{parameter.name: constant(column, f"{name}: {parameter.name}") for parameter, column in given})
        if rows.nulls == len(rows):
            return pa.nulls(len(rows), pa.binary() if isinstance(step, Codec) else pa.list_(pa.float32()))
        step = step.bind(rows.dim, {})
        valid = rows.valid
        if isinstance(step, Codec):
            if step.direction_only:
                valid = _and(valid, np.asarray(rows.values.any(axis=1)))
            with rows_named(f"{name}: v"):
                return to_codes(step.encode(rows.values), valid)
        return _finite_vectors(step.apply(rows.values), valid)

    return Scalar(name, operator_arguments(cls), returns, help_text, apply)


def operator_arguments(cls: type[Operator]) -> str:
    """Return the arguments of a stateless operator's function, those that may be left out in brackets."""
    declared = parameters(cls)
    required = ", ".join(["v", *(p.name for p in declared if p.required)])
    optional = [p.name for p in declared if not p.required]
    return required + "".join(f" [, {name}" for name in optional) + "]" * len(optional)


def _and(a: Mask | None, b: Mask) -> Mask | None:
    if b.all():
        return a
    return b if a is None else a & b


def _finite_vectors(values: Float32, valid: Mask | None) -> Any:
    """Return a FLOAT[] column, NULL where a value left the range of float32."""
    return to_vectors(values, _and(valid, np.asarray(np.isfinite(values).all(axis=1))))


def _check_arity(name: str, columns: tuple[Any, ...], low: int, high: int) -> None:
    if not low <= len(columns) <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise SpecError(f"{name} takes {wanted} arguments, got {len(columns)}")


def constant(column: Any, what: str) -> Any:
    """Return the one value of a column that must hold the same in every row."""
    values = column.unique()
    if len(values) != 1:
        raise SpecError(f"{what} must be the same for all rows of a statement, found {len(values)} values")
    value = values[0].as_py()
    return float(value) if type(value).__name__ == "Decimal" else value


def _groups(column: Any) -> Iterator[tuple[Any, npt.NDArray[np.int64] | None]]:
    """Return each distinct value with the rows that hold it (None for all rows)."""
    array = flat_array(column)
    if pa.types.is_null(array.type):
        return
    if _is_one_text(array):
        yield array[0].as_py(), None
        return
    encoded = array.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if len(values) == 1 and encoded.null_count == 0:
        yield values[0], None
        return
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes, np.arange(len(values) + 1), sorter=order)
    for position, value in enumerate(values):
        yield value, order[bounds[position] : bounds[position + 1]]


def _is_one_text(array: Any) -> bool:
    """Whether every row holds the same text, told from the buffers: the case of a literal, for every batch."""
    if not pa.types.is_string(array.type) or array.null_count or len(array) == 0:
        return False
    if array.offset:
        return False
    _, offsets, data = array.buffers()
    length = int.from_bytes(memoryview(offsets)[4:8].tobytes(), "little")
    if length == 0 or not even_offsets(offsets, len(array), length, 4):
        return False
    texts = memoryview(data)[: length * len(array)].tobytes()
    return texts == texts[:length] * len(array)


def _floats(values: npt.NDArray[Any], valid: Mask | None = None) -> Any:
    """Return a FLOAT column, NULL where the value is NaN or the row does not count."""
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if valid is None and len(values) and not math.isnan(values.min()):
        return pa.array(values)
    missing = np.isnan(values)
    if valid is not None:
        missing |= ~valid
    return pa.array(values, mask=missing if missing.any() else None)


def _pair(name: str, a: Any, b: Any) -> tuple[Rows, Rows, Mask | None]:
    left = to_rows(a, column=f"{name}: first vector")
    right = to_rows(b, column=f"{name}: second vector")
    if left.dim != right.dim and left.nulls < len(left) and right.nulls < len(right):
        raise InputError(f"{name}: the vectors have {left.dim} and {right.dim} dimensions")
    if left.dim != right.dim:
        return left, Rows(np.zeros_like(left.values), np.zeros(len(left), bool)), np.zeros(len(left), bool)
    valid = left.valid if right.valid is None else right.valid if left.valid is None else left.valid & right.valid
    return left, right, valid


def _norm(v: Any) -> Any:
    rows = to_rows(v, column="vec_norm: v")
    return _floats(np.sqrt(np.einsum("ij,ij->i", rows.values, rows.values, dtype=np.float64)), rows.valid)


def _dots(left: Rows, right: Rows) -> npt.NDArray[np.float64]:
    return np.asarray(np.einsum("ij,ij->i", left.values, right.values, dtype=np.float64))


def _dot(a: Any, b: Any) -> Any:
    left, right, valid = _pair("vec_dot", a, b)
    return _floats(_dots(left, right), valid)


def _cosine(a: Any, b: Any) -> Any:
    left, right, valid = _pair("vec_cosine", a, b)
    lengths = np.sqrt(_dots(left, left)) * np.sqrt(_dots(right, right))
    products = _dots(left, right) / np.where(lengths > 0, lengths, np.nan)
    return _floats(np.clip(products, -1.0, 1.0), valid)


def _l2(a: Any, b: Any) -> Any:
    left, right, valid = _pair("vec_l2", a, b)
    difference = left.values.astype(np.float64) - right.values
    return _floats(np.sqrt(np.einsum("ij,ij->i", difference, difference)), valid)


def _sum(name: str, sign: float) -> Callable[[Any, Any], Any]:
    def combine(a: Any, b: Any) -> Any:
        left, right, valid = _pair(name, a, b)
        with np.errstate(over="ignore"):
            return _finite_vectors(left.values + np.float32(sign) * right.values, valid)

    return combine


def _scale(v: Any, factor: Any) -> Any:
    rows = to_rows(v, column="vec_scale: v")
    try:
        factors = np.asarray(factor.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    except pa.ArrowException:
        raise InputError(f"vec_scale: factor must be a number, not {factor.type}") from None
    known = np.isfinite(factors)
    with np.errstate(over="ignore"):
        scaled = (rows.values * np.where(known, factors, 0.0)[:, None]).astype(np.float32)
    return _finite_vectors(scaled, _and(rows.valid, known))


def _is_valid(v: Any) -> Any:
    return pa.array(finite_rows(v, column="vec_is_valid: v"), mask=np.asarray(v.is_null().to_numpy()))


def _hamming(a: Any, b: Any) -> Any:
    found = a.drop_null()[:1].to_pylist() + b.drop_null()[:1].to_pylist()
    lengths = [len(value) if isinstance(value, bytes | list) else 0 for value in found]
    if not lengths:
        return pa.nulls(len(a), pa.int32())
    left, left_valid = from_codes(a, lengths[0], column="vec_hamming: first code")
    right, right_valid = from_codes(b, lengths[0], column="vec_hamming: second code")
    valid = np.ones(len(left), bool) if left_valid is None else left_valid
    valid = valid if right_valid is None else valid & right_valid
    counts = np.bitwise_count(left ^ right).sum(axis=1, dtype=np.int32)
    return pa.array(counts, mask=None if valid.all() else ~valid)


def _hash_embed(text: Any, dim: Any) -> Any:
    width = constant(dim, "vec_hash_embed: d")
    if not isinstance(width, int) or isinstance(width, bool):
        raise SpecError(f"vec_hash_embed: d is {width!r}; expected an integer")
    values, valid = hash_embed(text, width)
    return to_vectors(values, valid)


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


def _on_invalid(column: Any, name: str) -> OnInvalid:
    value = constant(column, f"{name}: on_invalid")
    if value == "error":
        return "error"
    if value == "null":
        return "null"
    raise SpecError(f"{name}: on_invalid is {value!r}; expected 'error' or 'null'")


def rows_by_model(
    model: Any, v: Any, on_invalid: Any, name: str
) -> Iterator[tuple[npt.NDArray[np.int64] | None, Model, Float32, Mask | None]]:
    """Return each model with its rows: positions (None for all), vectors and mask.

    Where all models take vectors of one width, the column is read once: a batch may hold a thousand models.
    """
    mode, column = _on_invalid(on_invalid, name), f"{name}: v"
    models = [(model_of(handle), at) for handle, at in _groups(model)]
    together = len({found.dim for found, _ in models}) == 1 and sum(
        len(v) if at is None else len(at) for _, at in models
    ) == len(v)
    rows = to_rows(v, column=column, dim=models[0][0].dim, on_invalid=mode) if together else None
    for found, at in models:
        if rows is None:
            mine = to_rows(_take(v, at), column=column, dim=found.dim, on_invalid=mode)
            yield at, found, mine.values, mine.valid
        elif at is None:
            yield at, found, rows.values, rows.valid
        else:
            yield at, found, rows.values[at], None if rows.valid is None else rows.valid[at]


def _transform(model: Any, v: Any, on_invalid: Any) -> Any:
    with kernels.one_blas_thread():
        parts = [
            (at, *found.transform(values, valid))
            for at, found, values, valid in rows_by_model(model, v, on_invalid, "vec_transform")
        ]
    return _scatter(len(v), parts, to_vectors, pa.list_(pa.float32()))


def _encode(model: Any, v: Any, on_invalid: Any) -> Any:
    with kernels.one_blas_thread():
        parts = []
        for at, found, values, valid in rows_by_model(model, v, on_invalid, "vec_encode"):
            with rows_named("vec_encode: v", positions=at):
                parts.append((at, *found.encode(values, valid, finite=True)))
    return _scatter(len(v), parts, to_codes, pa.binary())


def _decode(model: Any, code: Any) -> Any:
    with kernels.one_blas_thread():
        parts: list[tuple[Any, Float32, Mask | None]] = []
        for handle, at in _groups(model):
            found, items = model_of(handle), _take(code, at)
            if found.codec is None:
                rows = to_rows(items, column="vec_decode: v", dim=found.output_dim)
                parts.append((at, found.inverse(rows.values), rows.valid))
            else:
                codes, valid = from_codes(items, found.bytes_per_vector, column="vec_decode: code")
                parts.append((at, found.decode(codes), valid))
    return _scatter(len(code), parts, to_vectors, pa.list_(pa.float32()))


def _items(found: Model, column: Any, label: str) -> tuple[npt.NDArray[Any], Mask | None]:
    """Return codes, or transformed vectors for a model without codec, and which rows count."""
    if found.codec is None:
        rows = to_rows(column, column=label, dim=found.output_dim)
        return rows.values, rows.valid
    return from_codes(column, found.bytes_per_vector, column=label)


def _score_codes(model: Any, a: Any, b: Any, metric: Any) -> Any:
    wanted = metric_named(constant(metric, "vec_score_codes: metric"))
    scores = np.full(len(a), np.nan, dtype=np.float32)
    with kernels.one_blas_thread():
        for handle, at in _groups(model):
            found = model_of(handle)
            left, some = _items(found, _take(a, at), "vec_score_codes: a")
            right, others = _items(found, _take(b, at), "vec_score_codes: b")
            valid = some if others is None else _and(some, others)
            where = np.arange(len(a)) if at is None else at
            if valid is not None:
                where, left, right = where[valid], left[valid], right[valid]
            if len(where):
                scores[where] = found.score_codes(left, right, wanted)
    return _floats(scores)


def _take(column: Any, at: npt.NDArray[np.int64] | None) -> Any:
    if at is None:
        return column
    if pa.types.is_binary_view(column.type):
        column = column.cast(pa.binary())
    return column.take(pa.array(at))


def _scatter(
    n: int,
    parts: list[tuple[npt.NDArray[np.int64] | None, npt.NDArray[Any], Mask | None]],
    column_of: Callable[[Any, Mask | None], Any],
    kind: Any,
) -> Any:
    """Put the results of groups back into row order, as a column; rows of no group are NULL."""
    if len(parts) == 1 and parts[0][0] is None:
        return column_of(parts[0][1], parts[0][2])
    if len({values.shape[1] for _, values, _ in parts}) != 1:
        return _reorder(n, [(at, column_of(values, valid)) for at, values, valid in parts], kind)
    together = np.zeros((n, parts[0][1].shape[1]), parts[0][1].dtype)
    there = np.zeros(n, bool)
    for at, values, valid in parts:
        together[at], there[at] = values, True if valid is None else valid
    return column_of(together, None if there.all() else there)


def _reorder(n: int, parts: list[tuple[Any, Any]], kind: Any) -> Any:
    """Put the results of groups back into row order; rows of no group are NULL."""
    where = np.full(n, -1, dtype=np.int64)
    start = 0
    for at, values in parts:
        where[at] = np.arange(start, start + len(values))
        start += len(values)
    if not parts:
        return pa.nulls(n, kind)
    joined = pa.concat_arrays([values for _, values in parts])
    return joined.take(pa.array(where, mask=where < 0))


def _score(code: Any, query: Any) -> Any:
    return _scores(code, query, raw=False)


def exact(v: Any, query: Any) -> Any:
    """Return scores of raw vectors for query handles: the Arrow form of ``vec_exact``."""
    return _scores(v, query, raw=True)


def _scores(items: Any, query: Any, *, raw: bool) -> Any:
    groups = [(query_of(handle), at) for handle, at in _groups(query)]
    result = np.full(len(items), np.nan, dtype=np.float32)
    exactly = [group for group in groups if raw or group[0].model is None]
    if exactly:
        if pa.types.is_binary(items.type) or pa.types.is_large_binary(items.type):
            raise SpecError(NO_MODEL)
        rows = to_rows(items, column="vec_exact: v", check_finite=False)
        if rows.valid is None or rows.valid.any():
            result = exact_by_query(exactly, rows.values, "vec_exact: v: row {}".format, len(items))
        if rows.valid is not None:
            result[~rows.valid] = np.nan
    with kernels.one_blas_thread():
        for found, at in groups:
            if raw or found.model is None:
                continue
            assert found.queries is not None
            chosen = _take(items, at)
            if found.model.codec is None:
                rows = to_rows(chosen, column="vec_score: v", dim=found.model.output_dim)
                scores, valid = found.model.score(found.queries, rows.values)[0], rows.valid
            else:
                codes, valid = from_codes(chosen, found.model.bytes_per_vector, column="vec_score: code")
                scores = found.model.score(found.queries, codes)[0]
            if at is None:
                return _floats(scores, valid)
            result[at] = scores if valid is None else np.where(valid, scores, np.float32(np.nan))
    return _floats(result)


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


_PICKS = pa.list_(pa.struct([("position", pa.int64()), ("distance", pa.float64())]))


def _farthest(vectors: Any, k: Any, metric: Any) -> Any:
    """Return the picks of farthest-point sampling in each list of vectors; positions count from 1, as in SQL."""
    if pa.types.is_null(vectors.type):
        return pa.nulls(len(vectors), _PICKS)
    if not (pa.types.is_list(vectors.type) or pa.types.is_large_list(vectors.type)):
        raise InputError(f"vec_farthest: vectors: expected a list of vectors, got {vectors.type}")
    chosen: list[list[dict[str, Any]] | None] = []
    wanted = zip(k.to_pylist(), metric.to_pylist(), strict=True)
    with kernels.one_blas_thread():
        for row, (most, name) in enumerate(wanted):
            if not vectors[row].is_valid:
                chosen.append(None)
                continue
            if not isinstance(most, int) or isinstance(most, bool):
                raise SpecError(f"vec_farthest: k is {most!r}; expected an integer")
            rows = to_rows(vectors[row].values, column="vec_farthest: vectors")
            picks, distances = farthest_points(rows.values, most, name, rows.valid)
            chosen.append(
                [
                    {"position": int(pick) + 1, "distance": None if math.isnan(distance) else float(distance)}
                    for pick, distance in zip(picks, distances, strict=True)
                ]
            )
    return pa.array(chosen, _PICKS)


_HAND_WRITTEN = (
    Scalar("vec_norm", "v", "FLOAT", "Euclidean length.", _norm),
    Scalar("vec_add", "a, b", "FLOAT[]", "Sum of two vectors.", _sum("vec_add", 1.0)),
    Scalar("vec_sub", "a, b", "FLOAT[]", "Difference of two vectors.", _sum("vec_sub", -1.0)),
    Scalar("vec_scale", "v, factor", "FLOAT[]", "Vector times a number.", _scale),
    Scalar("vec_dot", "a, b", "FLOAT", "Inner product.", _dot),
    Scalar("vec_cosine", "a, b", "FLOAT", "Cosine; NULL where a vector has no direction.", _cosine),
    Scalar("vec_l2", "a, b", "FLOAT", "Euclidean distance.", _l2),
    Scalar("vec_hamming", "a, b", "INTEGER", "Number of differing bits of two codes.", _hamming),
    Scalar("vec_is_valid", "v", "BOOLEAN", "Whether every element is a finite number.", _is_valid),
    Scalar("vec_hash_embed", "text, d", "FLOAT[]", "Lexical embedding by feature hashing.", _hash_embed),
    Scalar(
        "vec_farthest",
        "vectors, k, metric",
        "STRUCT(position BIGINT, distance DOUBLE)[]",
        "Up to k vectors of a list that lie far from each other (farthest-point sampling, Gonzalez 1985): the one "
        "nearest to the mean, then always the farthest from those picked, with its distance from them; cosine or l2.",
        _farthest,
    ),
    Scalar("vec_fit_sketch", "sketch, spec", "BLOB", "Fit a spec from a sketch: the model.", _fit_sketch),
    Scalar("_vec_load", "name, model, known", "VARCHAR", "Load a model, return its handle.", _load),
    Scalar("_vec_load_side", "name, model, base, known", "VARCHAR", "Load a model or its query side.", _load_side),
    Scalar("_vec_transform", "handle, v, on_invalid", "FLOAT[]", "Behind vec_transform.", _transform),
    Scalar("_vec_encode", "handle, v, on_invalid", "BLOB", "Behind vec_encode.", _encode),
    Scalar("_vec_score_codes", "handle, a, b, metric", "FLOAT", "Behind vec_score_codes.", _score_codes),
    Scalar("_vec_decode", "handle, code", "FLOAT[]", "Behind vec_decode.", _decode),
    Scalar("_vec_score", "code, query", "FLOAT", "Behind vec_score.", _score),
    Scalar("_vec_query_bits", "query", "BLOB", "Behind vec_search_bits.", _query_bits),
    Scalar("_vec_exact", "v, query", "FLOAT", "Behind vec_exact.", exact),
)
