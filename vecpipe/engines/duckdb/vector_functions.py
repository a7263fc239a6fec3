"""Functions of single vectors, of two, and of the vectors of a list: no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vecpipe import kernels
from vecpipe.arrays import Mask, Rows
from vecpipe.columns.codes import from_codes
from vecpipe.columns.results import to_vectors
from vecpipe.columns.vectors import finite_rows, to_rows
from vecpipe.diverse import farthest_points
from vecpipe.engines.duckdb.scalar import Scalar, both, constant, finite_vectors, floats
from vecpipe.errors import InputError, SpecError
from vecpipe.text import hash_embed

_PICKS = pa.list_(pa.struct([("position", pa.int64()), ("distance", pa.float64())]))


def scalars() -> Iterator[Scalar]:
    """Yield the functions."""
    yield from (
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
            "nearest to the mean, then always the farthest from those picked, with its distance from them; cosine or "
            "l2.",
            _farthest,
            by_chunk=False,
        ),
    )


def _norm(v: Any) -> Any:
    rows = to_rows(v, column="vec_norm: v")
    return floats(np.sqrt(np.einsum("ij,ij->i", rows.values, rows.values, dtype=np.float64)), rows.valid)


def _sum(name: str, sign: float) -> Callable[[Any, Any], Any]:
    def combine(a: Any, b: Any) -> Any:
        left, right, valid = _pair(name, a, b)
        with np.errstate(over="ignore"):
            return finite_vectors(left.values + np.float32(sign) * right.values, valid)

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
    return finite_vectors(scaled, both(rows.valid, known))


def _dot(a: Any, b: Any) -> Any:
    left, right, valid = _pair("vec_dot", a, b)
    return floats(_dots(left, right), valid)


def _cosine(a: Any, b: Any) -> Any:
    left, right, valid = _pair("vec_cosine", a, b)
    lengths = np.sqrt(_dots(left, left)) * np.sqrt(_dots(right, right))
    products = _dots(left, right) / np.where(lengths > 0, lengths, np.nan)
    return floats(np.clip(products, -1.0, 1.0), valid)


def _l2(a: Any, b: Any) -> Any:
    left, right, valid = _pair("vec_l2", a, b)
    difference = left.values.astype(np.float64) - right.values
    return floats(np.sqrt(np.einsum("ij,ij->i", difference, difference)), valid)


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


def _is_valid(v: Any) -> Any:
    return pa.array(finite_rows(v, column="vec_is_valid: v"), mask=np.asarray(v.is_null().to_numpy()))


def _hash_embed(text: Any, dim: Any) -> Any:
    width = constant(dim, "vec_hash_embed: d")
    if not isinstance(width, int) or isinstance(width, bool):
        raise SpecError(f"vec_hash_embed: d is {width!r}; expected an integer")
    values, valid = hash_embed(text, width)
    return to_vectors(values, valid)


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
            of = "" if len(vectors) == 1 else f" of list {row} in the chunk that DuckDB read"
            rows = to_rows(vectors[row].values, column=f"vec_farthest: vectors{of}")
            picks, distances = farthest_points(rows.values, most, name, rows.valid)
            chosen.append(
                [
                    {"position": int(pick) + 1, "distance": None if math.isnan(distance) else float(distance)}
                    for pick, distance in zip(picks, distances, strict=True)
                ]
            )
    return pa.array(chosen, _PICKS)


def _pair(name: str, a: Any, b: Any) -> tuple[Rows, Rows, Mask | None]:
    left = to_rows(a, column=f"{name}: first vector")
    right = to_rows(b, column=f"{name}: second vector")
    if left.dim != right.dim and left.nulls < len(left) and right.nulls < len(right):
        raise InputError(f"{name}: the vectors have {left.dim} and {right.dim} dimensions")
    if left.dim != right.dim:
        return left, Rows(np.zeros_like(left.values), np.zeros(len(left), bool)), np.zeros(len(left), bool)
    valid = left.valid if right.valid is None else right.valid if left.valid is None else left.valid & right.valid
    return left, right, valid


def _dots(left: Rows, right: Rows) -> npt.NDArray[np.float64]:
    return np.asarray(np.einsum("ij,ij->i", left.values, right.values, dtype=np.float64))
