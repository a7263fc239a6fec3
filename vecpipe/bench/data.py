"""Synthetic vectors that look like embeddings: a power-law spectrum, clusters, length one."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa

from vecpipe.arrays import Float32
from vecpipe.columns.results import to_vectors

_CHUNK = 50_000


def vectors(rows: int, dim: int, seed: int = 0) -> Iterator[Float32]:
    """Yield chunks of ``(n, dim) float32`` rows of length one, ``rows`` in all."""
    rng = np.random.default_rng(seed)
    spectrum = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    centres = rng.standard_normal((4_096, dim), dtype=np.float32) * spectrum
    for start in range(0, rows, _CHUNK):
        n = min(_CHUNK, rows - start)
        X = centres[rng.integers(0, len(centres), n)]
        X += np.float32(0.5) * rng.standard_normal((n, dim), dtype=np.float32) * spectrum
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        yield X


def fill_table(con: duckdb.DuckDBPyConnection, table: str, rows: int, dim: int) -> Float32:
    """Create ``table(id INTEGER, emb FLOAT[dim])`` and return its vectors as one matrix."""
    con.execute(f"CREATE OR REPLACE TABLE {table} (id INTEGER, emb FLOAT[{dim}])")
    matrix = np.empty((rows, dim), dtype=np.float32)
    start = 0
    for X in vectors(rows, dim):
        matrix[start : start + len(X)] = X
        ids = pa.array(np.arange(start, start + len(X), dtype=np.int32))
        chunk = pa.table({"id": ids, "emb": to_vectors(X, fixed=True)})
        con.register("vecpipe_chunk", chunk)
        con.execute(f"INSERT INTO {table} SELECT id, emb FROM vecpipe_chunk")
        con.unregister("vecpipe_chunk")
        start += len(X)
    return matrix
