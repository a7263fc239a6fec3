"""What SQL text passes around by a short string: loaded models and prepared queries.

Both live in the process, not in a database: a model is found by its content hash, so that two databases that hold
the same model share it. Bounded; what has been pushed out is an error that says so, never another model.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

import numpy as np

from vecpipe.arrays import Float32
from vecpipe.errors import ModelNotFoundError
from vecpipe.pipeline import Metric, Model, Queries, exact_scores

Item = TypeVar("Item")


class _Shelf(Generic[Item]):
    """Least-recently-used store bounded by bytes; safe for threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: OrderedDict[str, tuple[Item, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def put(self, key: str, item: Item, size: int) -> None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return
            self._items[key] = (item, size)
            self._size += size
            while self._size > self.limit and len(self._items) > 1:
                _, (_, dropped) = self._items.popitem(last=False)
                self._size -= dropped

    def get(self, key: str) -> Item | None:
        with self._lock:
            found = self._items.get(key)
            if found is None:
                return None
            self._items.move_to_end(key)
            return found[0]


def _limit(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))


MODELS: _Shelf[Model] = _Shelf(_limit("VECPIPE_MODEL_CACHE_BYTES", 4 << 30))
_QUERIES: _Shelf[Query] = _Shelf(_limit("VECPIPE_QUERY_CACHE_BYTES", 512 << 20))


class Query:
    """One query, prepared: raw for exact scores, carried through a model for scores of codes."""

    def __init__(self, model: Model | None, q: Float32, metric: Metric) -> None:
        self.model = model
        self.raw = q
        self.metric = metric
        self.queries: Queries | None = None if model is None else model.prepare(q, metric)

    def exact(self, X: Float32) -> Float32:
        """Return ``(n,) float32`` scores of raw vectors."""
        return np.asarray(exact_scores(self.raw, X, self.metric)[0])


def load_model(data: bytes) -> Model:
    """Return the model of a catalog's BLOB, parsed once for as long as it stays in the cache."""
    key = hashlib.sha256(data).hexdigest()
    model = _BY_BYTES.get(key)
    if model is None:
        model = Model.from_bytes(data)
        _BY_BYTES.put(key, model, 1)
    MODELS.put(model.hash, model, 3 * len(data))
    return model


_BY_BYTES: _Shelf[Model] = _Shelf(4_096)


def model_of(handle: str) -> Model:
    """Return the model of a content hash that ``vec_model`` has returned.

    Raises
    ------
    ModelNotFoundError
        It has been pushed out of the cache, or the text is no such hash.
    """
    model = MODELS.get(handle)
    if model is None:
        raise ModelNotFoundError(
            f"model {handle[:12]!r} is not loaded; a statement with more models than the cache holds needs a larger "
            "VECPIPE_MODEL_CACHE_BYTES"
        )
    return model


def keep_query(model: Model | None, q: Float32, metric: Metric) -> str:
    """Prepare a query ``(1, d) float32`` and return its handle; the same query gives the same handle."""
    name = "" if model is None else model.hash
    handle = "q" + hashlib.blake2b(q.tobytes() + f"{name}{metric}".encode(), digest_size=12).hexdigest()
    if _QUERIES.get(handle) is None:
        query = Query(model, q, metric)
        _QUERIES.put(handle, query, 16 * q.shape[1] + 8_192)
    return handle


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
            f"query handle {handle[:32]!r} is not known in this process; call vec_query(model, q) in the same statement"
        )
    return query
