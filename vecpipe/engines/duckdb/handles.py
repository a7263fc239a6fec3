"""What SQL text passes around by a short string: loaded models and prepared queries.

Both live in the process, not in a database: a model is found by its content hash, so that two databases that hold
the same model share it. Bounded; what has been pushed out is an error that says so, never another model.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from vecpipe import settings
from vecpipe.arrays import Float32, Mask, Rows
from vecpipe.columns.vectors import to_rows
from vecpipe.errors import InputError, ModelNotFoundError
from vecpipe.model import Model
from vecpipe.scoring import Metric, Queries

Item = TypeVar("Item")


class _Shelf(Generic[Item]):
    """Least-recently-used store bounded by bytes; safe for threads.

    Handles have at most 12 characters, which is what DuckDB keeps inline. They begin with a number drawn for this
    process, so that a handle another process made is unknown here.
    """

    def __init__(self, kind: str, limit: settings.ByteLimit) -> None:
        self._prefix = kind + secrets.token_hex(2)
        self._limit = limit
        self._count = 0
        self._size = 0
        self._handles: dict[bytes, str] = {}
        self._items: OrderedDict[str, tuple[Item, int, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def handle(self, content: bytes) -> str | None:
        """Return the handle of what was put with this content key, if it is still here."""
        with self._lock:
            return self._handles.get(content)

    def put(self, content: bytes, item: Item, size: int) -> str:
        limit = self._limit.read()
        with self._lock:
            known = self._handles.get(content)
            if known is not None:
                return known
            handle = f"{self._prefix}{self._count:x}"
            self._count += 1
            self._handles[content] = handle
            self._items[handle] = (item, size, content)
            self._size += size
            while self._size > limit and len(self._items) > 1:
                _, (_, freed, dropped) = self._items.popitem(last=False)
                self._size -= freed
                del self._handles[dropped]
            return handle

    def get(self, handle: str) -> Item | None:
        with self._lock:
            found = self._items.get(handle)
            if found is None:
                return None
            self._items.move_to_end(handle)
            return found[0]

    def holds(self, handles: Iterable[str | None]) -> bool:
        """Return whether all of these are still here."""
        with self._lock:
            return all(handle in self._items for handle in handles)


_MODELS: _Shelf[Model] = _Shelf("m", settings.MODEL_CACHE)
_QUERIES: _Shelf[Query] = _Shelf("q", settings.QUERY_CACHE)
_JOINS: _Shelf[Any] = _Shelf("j", settings.JOIN_CACHE)


NO_MODEL = "codes cannot be scored without the model that wrote them; pass model := 'name'"


class Query:
    """One query, prepared: raw for exact scores, carried through a model for scores of codes."""

    def __init__(self, model: Model | None, q: Float32, metric: Metric) -> None:
        self.model = model
        self.raw = q
        self.metric = metric
        self.queries: Queries | None = None if model is None else model.prepare(q, metric)


class QuerySide(Model):
    """A model whose transform is what queries get."""

    def transform(self, X: Float32, valid: Mask | None = None, *, stable: bool = False) -> tuple[Float32, Mask | None]:
        """Apply the query side of the steps."""
        return self.transform_queries(X, valid)


_QUERY_MARK = "?"
_OVERHEAD = 640  # bytes of a query and its handle beside its numbers

HEAD_BYTES = 256
"""So many bytes at the beginning of a model hold the hash of its content: reading them is not reading a model."""
_HEADS = 4_096
_BY_HEAD: dict[bytes, str] = {}


def query_side(handle: str) -> str:
    """Return the handle of the query side of a model."""
    return handle + _QUERY_MARK


def keep_model(data: bytes) -> str:
    """Load the model of a catalog's BLOB, once for as long as it stays in the cache, and return its handle.

    Raises
    ------
    ModelFormatError
        The bytes are not a readable model.
    """
    content = hashlib.sha256(data).digest()
    handle = _MODELS.handle(content) or _MODELS.put(content, Model.from_bytes(data), 3 * len(data))
    _BY_HEAD[data[:HEAD_BYTES]] = handle
    while len(_BY_HEAD) > _HEADS:
        _BY_HEAD.pop(next(iter(_BY_HEAD)), None)
    return handle


def model_with_head(head: bytes) -> Model | None:
    """Return the model whose bytes begin like this, if it is here: they hold the hash of its content."""
    handle = _BY_HEAD.get(head)
    return None if handle is None else _MODELS.get(handle)


def model_of(handle: str) -> Model:
    """Return the model of a handle.

    Raises
    ------
    ModelNotFoundError
        It has been pushed out of the cache, or the text is no handle of this process.
    """
    model = _MODELS.get(handle.removesuffix(_QUERY_MARK))
    if model is None:
        raise ModelNotFoundError(
            f"model handle {handle[:32]!r} is not known in this process, or a statement uses more models than the "
            "cache holds: then set VECPIPE_MODEL_CACHE_BYTES to more"
        )
    return _query_side_of(model) if handle.endswith(_QUERY_MARK) else model


@lru_cache(maxsize=16)
def _query_side_of(model: Model) -> QuerySide:
    return QuerySide(model.steps, model.dim, model.info)


def keep_query(model: Model | None, q: Float32, metric: Metric) -> str:
    """Prepare a query ``(1, d) float32`` and return its handle; the same query gives the same handle."""
    name = "" if model is None else model.hash
    content = hashlib.sha256(q.tobytes() + f"{name}{metric}".encode()).digest()
    known = _QUERIES.handle(content)
    if known is not None:
        return known
    query = Query(model, q.copy(), metric)  # a view would hold all queries of its batch
    return _QUERIES.put(content, query, _OVERHEAD + q.nbytes + _nbytes(query.queries))


def _nbytes(value: Any) -> int:
    """Return the bytes of the arrays in what a model made of a query, and some for each object that holds them."""
    if value is None:
        return 0
    if isinstance(value, np.ndarray):
        return 128 + value.nbytes
    if isinstance(value, (list, tuple)):
        return 64 + sum(map(_nbytes, value))
    if isinstance(value, dict):
        return 256 + sum(map(_nbytes, value.values()))
    return 64 + _nbytes(vars(value)) if hasattr(value, "__dict__") else 32


def query_of(handle: str) -> Query:
    """Return the query of a handle.

    Raises
    ------
    ModelNotFoundError
        The handle is unknown: pushed out of the cache, or from another process.
    """
    query = _QUERIES.get(handle)
    if query is None:
        raise ModelNotFoundError(
            f"query handle {handle[:32]!r} is not known in this process: call vec_query(model, q) in the same "
            "statement; where a LATERAL join has more queries than memory holds, set VECPIPE_QUERY_CACHE_BYTES to "
            "more, or join with vec_knn_join"
        )
    return query


def queries_known(handles: Iterable[str | None]) -> bool:
    """Whether none of these queries has been pushed out."""
    return _QUERIES.holds(handles)


def keep_join(join: Any, name: bytes, size: int) -> str:
    """Keep the state of one run of a join, and return its handle."""
    return _JOINS.put(name, join, size)


def join_of(handle: str) -> Any:
    """Return the state of a join.

    Raises
    ------
    ModelNotFoundError
        Many joins at once have pushed it out of the cache, or another process made it.
    """
    join = _JOINS.get(handle)
    if join is None:
        raise ModelNotFoundError(
            "vec_knn_join: its queries have been pushed out of memory by other joins: set VECPIPE_JOIN_CACHE_BYTES "
            "to more, or run fewer at once"
        )
    return join


def query_rows(q: Any, column: str) -> Rows:
    """Return query vectors from a column of vectors, or of BLOBs that hold float32 numbers, little-endian.

    A statement is planned faster with a BLOB: DuckDB copies a constant list number by number, many times.

    Raises
    ------
    InputError
        A BLOB that does not hold whole numbers of four bytes, and as ``to_rows``.
    """
    kind = q.type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        return to_rows(q, column=column)
    return rows_of_blobs(q.to_pylist(), column)


def rows_of_blobs(texts: Sequence[bytes | None], column: str) -> Rows:
    """Return query vectors from BLOBs, None for NULL; errors as in ``query_rows``."""
    sizes = {len(text) for text in texts if text is not None}
    if not sizes:
        return to_rows(pa.nulls(len(texts)), column=column)
    if len(sizes) > 1 or 0 in sizes or any(size % 4 for size in sizes):
        raise InputError(
            f"{column}: BLOBs of {sorted(sizes)} bytes; a query as a BLOB holds float32 numbers, 4 bytes each, as "
            "numpy's q.astype('<f4').tobytes()"
        )
    width = sizes.pop()
    flat = b"".join(bytes(width) if text is None else text for text in texts)
    values = np.frombuffer(flat, "<f4").reshape(len(texts), width // 4).astype(np.float32)
    valid = np.array([text is not None for text in texts])
    rows = to_rows(values, column=column)
    return rows if valid.all() else Rows(rows.values, valid, int((~valid).sum()))
