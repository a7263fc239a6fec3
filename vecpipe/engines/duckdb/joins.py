"""The functions behind ``vec_knn_join``: queries are gathered once, documents are offered to them batch by batch."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vecpipe import model_columns
from vecpipe.arrays import Bytes, Float32, Mask
from vecpipe.columns.arrow import flat_array
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.duckdb import handles
from vecpipe.engines.duckdb.scalar import Scalar
from vecpipe.errors import InputError, SpecError
from vecpipe.kernels import one_blas_thread
from vecpipe.rules import rows_named
from vecpipe.scoring import metric_named
from vecpipe.search.candidates import Candidates, Pairs, Ranks

_EMB = "vec_knn_join: emb"
_OFFERED = "STRUCT(query INTEGER, score FLOAT)[]"


class Join:
    """The queries of one run of a join: their running bar, which of them have which key, and the ids they may own."""

    def __init__(self, candidates: Candidates, keys: Any | None, ids: Any | None) -> None:
        self.candidates = candidates
        self.ids = ids
        self.keys: Any | None = None
        if keys is not None:
            encoded = keys.dictionary_encode()
            codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            order = np.argsort(codes, kind="stable")
            bounds = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
            self.keys = encoded.dictionary
            self.members = [order[low:high] for low, high in itertools.pairwise(bounds)]

    def groups(self, keys: Any, valid: Mask | None) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
        """Yield the rows that each group of queries may find, with those queries (None for all)."""
        if self.keys is None:
            if valid is None:
                yield np.arange(len(keys)), None
            else:
                yield np.flatnonzero(valid), None
            return
        codes = _numbers(keys, self.keys)
        if valid is not None:
            codes = np.where(valid, codes, -1)
        order = np.argsort(codes, kind="stable")
        found, starts = np.unique(codes[order], return_index=True)
        for code, low, high in zip(found.tolist(), starts, np.append(starts[1:], len(order)), strict=True):
            if code >= 0:
                yield order[low:high], self.members[code]

    def owners(self, ids: Any) -> npt.NDArray[np.int64] | None:
        """Return the numbers of ids among those of the queries, -1 for others; None where queries find all rows."""
        return None if self.ids is None else _numbers(ids, self.ids)


def _numbers(texts: Any, known: Any) -> npt.NDArray[np.int64]:
    found = pc.index_in(flat_array(texts).cast(known.type), known).fill_null(-1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def scalars() -> Iterator[Scalar]:
    """Yield the functions; each call of them counts."""
    for name, arguments, returns, function, by_chunk in (
        ("_vec_gather", "vectors, keys, places, ids, model, k, metric, within, self", "VARCHAR", _gather, False),
        ("_vec_offer", "handle, id, v, key, own", _OFFERED, _offer, True),
    ):
        yield Scalar(name, arguments, returns, "Behind vec_knn_join.", function, volatile=True, by_chunk=by_chunk)


def _whole_number(value: Any, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise SpecError(f"vec_knn_join: k is {value!r}; expected a whole number of at least {least}")
    return value


def _gather(vectors: Any, keys: Any, places: Any, ids: Any, *settings: Any) -> Any:
    made: list[str | None] = []
    columns = (*map(flat_array, (vectors, keys, places, ids)), *(column.to_pylist() for column in settings))
    for lists, texts, at, own, handle, kept, name, within, apart in zip(*columns, strict=True):
        if apart is None:
            raise SpecError("vec_knn_join: self is NULL; expected true or false")
        if not lists.is_valid:
            made.append(None)
            continue
        order = np.argsort(at.values.to_numpy())
        rows = to_rows(lists.values.take(order), column="vec_knn_join: emb of queries")
        if rows.nulls == len(rows):
            made.append(None)
            continue
        if rows.valid is not None:
            rows.values[~rows.valid] = np.nan
        found = None if handle is None else handles.model_of(handle)
        if found is not None and rows.dim != found.dim:
            raise InputError(f"vec_knn_join: queries have {rows.dim} dimensions, the model takes {found.dim}")
        wanted = _whole_number(kept, 1)
        known, owners = None, None
        if apart:  # a row without an id is itself too
            encoded = own.values.take(order).dictionary_encode("encode")
            known, owners = encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)
        with one_blas_thread():
            candidates = Candidates(rows.values, wanted, metric_named(name), found, owners)
        alone = texts.values.take(order) if within else None
        made.append(handles.keep_join(Join(candidates, alone, known), secrets.token_bytes(16), candidates.nbytes))
    return pa.array(made, pa.string())


def _offer(handle: Any, ids: Any, v: Any, key: Any, own: Any) -> Any:
    names = set(handle.unique().to_pylist())
    if names == {None} or not names:
        return pa.nulls(len(v), _list_type())
    if len(names) > 1:
        raise SpecError("vec_knn_join: a batch belongs to several joins")
    join: Join = handles.join_of(names.pop())

    def rank() -> npt.NDArray[np.int64]:
        flat = flat_array(ids)
        if pa.types.is_dictionary(flat.type):  # an ENUM: the order of its values, not of their texts
            flat = flat.indices
        try:
            order = pc.array_sort_indices(flat).to_numpy()
        except pa.ArrowException:
            raise InputError(
                f"vec_knn_join: id: ties are broken by id, and values of type {flat.type} have no order; "
                "name a column of numbers or text"
            ) from None
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order))
        return ranks

    # Candidates look at the lengths of all vectors they are offered, and find those that are not finite.
    checked = join.keys is not None or join.candidates.model is not None
    values, valid = _rows(join.candidates, v, check=checked)
    parts = []
    owners = join.owners(own)
    with one_blas_thread():
        for at, queries in join.groups(key, valid):
            if len(at) == len(values):
                with rows_named(_EMB):
                    parts.append(join.candidates.offer(values, rank, queries, owners))
                continue
            with rows_named(_EMB, positions=at):
                some = None if owners is None else owners[at]
                pairs = join.candidates.offer(values[at], partial(_some, rank, at), queries, some)
            parts.append(Pairs(at[pairs.rows], pairs.queries, pairs.scores))
    return _lists(len(v), Pairs.join(parts))


def _some(rank: Ranks, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return rank()[at]


def _rows(candidates: Candidates, v: Any, *, check: bool) -> tuple[Float32 | Bytes, Mask | None]:
    """Return what a batch holds: codes where the model writes them, vectors otherwise; ``check`` names bad vectors."""
    model = candidates.model
    if model is not None:
        label = _EMB if model.codec is None else "vec_knn_join: code"
        return model_columns.read(model, v, column=label, check_finite=check)
    rows = to_rows(v, column=_EMB, dim=candidates.Q.shape[1], check_finite=check)
    return rows.values, rows.valid


def _list_type() -> Any:
    return pa.list_(pa.struct([("query", pa.int32()), ("score", pa.float32())]))


def _lists(count: int, pairs: Pairs) -> Any:
    order = np.argsort(pairs.rows, kind="stable")
    ends = np.cumsum(np.bincount(pairs.rows, minlength=count))
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    items = pa.StructArray.from_arrays(
        [pa.array(pairs.queries[order].astype(np.int32)), pa.array(pairs.scores[order])], names=["query", "score"]
    )
    return pa.ListArray.from_arrays(pa.array(offsets), items)
