"""Lists of neighbours for the tests: rows (query_id, id, rank, score) from a matrix of scores, and back."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

COLUMNS = ("query_id", "id", "rank", "score")


def scores(queries: int, docs: int, seed: int, hubs: int = 3) -> np.ndarray:
    """Cosine-like scores ``(queries, docs)`` where some docs are near to every query."""
    rng = np.random.default_rng(seed)
    S = 0.25 * rng.standard_normal((queries, docs))
    S[:, :hubs] += 0.4
    return np.clip(S, -1, 1)


def put(con: duckdb.DuckDBPyConnection, name: str, S: np.ndarray, k: int | None = None) -> None:
    """Create a table with the k best of each row of a matrix; NaN becomes a row without a score."""
    rows = []
    for query, row in enumerate(S):
        order = np.argsort(-np.nan_to_num(row, nan=-np.inf), kind="stable")[:k]
        rows += [(query, int(i), at, None if np.isnan(row[i]) else float(row[i])) for at, i in enumerate(order, 1)]
    columns = zip(*rows, strict=True) if rows else [[]] * 4
    types = (pa.int64(), pa.int64(), pa.int64(), pa.float64())
    data = pa.table({c: pa.array(list(v), t) for c, v, t in zip(COLUMNS, columns, types, strict=True)})
    con.register("put_data", data)
    con.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM put_data ORDER BY hash(id, query_id)")
    con.unregister("put_data")


def matrix(con: duckdb.DuckDBPyConnection, sql: str, shape: tuple[int, int]) -> np.ndarray:
    """The scores of a list as a matrix, NaN where there is no row; its ranks are checked on the way."""
    M = np.full(shape, np.nan)
    ranks: dict[int, list[tuple[int, float]]] = {}
    for query, item, rank, score in con.execute(f"SELECT query_id, id, rank, score FROM {sql}").fetchall():
        assert np.isnan(M[query, item])
        M[query, item] = score
        ranks.setdefault(query, []).append((rank, score))
    for found in ranks.values():
        assert [rank for rank, _ in found] == list(range(1, len(found) + 1))
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    return M
