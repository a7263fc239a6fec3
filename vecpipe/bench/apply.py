"""``vecpipe bench apply``: applying, encoding, searching and fitting against NumPy and DuckDB's own functions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

import vecpipe
from vecpipe.bench.data import fill_table
from vecpipe.bench.timing import Line, PeakMemory, medians, show
from vecpipe.columns.results import to_vectors

_BATCH = 2_048
_FIT_ROWS = 8_192
_SEARCHES = 15


def run(rows: int, dim: int, runs: int, console: Console) -> list[Line]:
    """Measure and print; return the lines."""
    con = vecpipe.connect()
    con.execute("SET enable_progress_bar = false")
    console.print(f"{rows:,} x {dim} float32 in a DuckDB table, {runs} runs each, medians")
    X = fill_table(con, "docs", rows, dim)
    kept = min(128, dim)

    def execute(sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = con.execute(sql, parameters or None).fetchall()
        return rows

    def store(query: str) -> None:
        execute(f"CREATE OR REPLACE TABLE out AS {query}")

    query, spec = "SELECT emb FROM docs", f"pca({kept})"
    with PeakMemory() as memory:
        pca = vecpipe.fit(con, query, spec)
    int8 = vecpipe.fit(con, query, "normalize | int8")
    vecpipe.save_model(con, "pca", pca)
    vecpipe.save_model(con, "int8", int8)
    components = pca.steps[0].state["components"]
    con.register("ready", pa.table({"e": to_vectors(X @ components, fixed=True)}))

    def numpy_fit() -> None:
        total = np.zeros((dim, dim))
        for start in range(0, rows, _FIT_ROWS):
            block = X[start : start + _FIT_ROWS]
            total += block.T @ block

    def kernel() -> None:
        for start in range(0, rows, _BATCH):
            int8.encode(X[start : start + _BATCH])

    seconds = medians(
        {
            "transform": partial(store, "SELECT vec_transform('pca', emb) AS e FROM docs"),
            "product": lambda: X @ components,
            "write": partial(store, "SELECT e FROM ready"),
            "encode": partial(store, "SELECT vec_encode('int8', emb) AS e FROM docs"),
            "kernel": kernel,
            "scan": partial(execute, "SELECT sum(emb[1]) FROM docs"),
            "fit": partial(vecpipe.fit, con, query, spec),
            "numpy fit": numpy_fit,
        },
        runs,
    )
    execute("CREATE TABLE coded AS SELECT id, emb, vec_encode('int8', emb) AS code FROM docs")
    execute("DROP TABLE docs")
    columns = "model := 'int8', code := 'code', rerank := 'emb', k := 10"
    search = f"SELECT id FROM vec_search('coded', $q, {columns})"
    builtin = f"SELECT id FROM coded ORDER BY array_cosine_distance(emb, $q::FLOAT[{dim}]) LIMIT 10"
    rng = np.random.default_rng(1)
    queries = X[rng.integers(0, rows, 20)] + np.float32(0.03) * rng.standard_normal((20, dim), dtype=np.float32)
    hits = [len({*execute(search, q=q.tobytes())} & {*execute(builtin, q=q.tolist())}) / 10 for q in queries]
    found = medians(
        {
            "search": partial(execute, search, q=queries[0].tobytes()),
            "builtin": partial(execute, builtin, q=queries[0].tolist()),
        },
        _SEARCHES,
        pause=0.0,
    )
    lines = [
        Line(
            f"CTAS vec_transform {spec}",
            seconds["transform"],
            "NumPy product + writing a ready table",
            seconds["product"] + seconds["write"],
            "<= 1.4",
        ),
        Line(
            "CTAS vec_encode int8",
            seconds["encode"],
            "kernel on one thread + scan",
            seconds["kernel"] + seconds["scan"],
            "<= 1.5",
        ),
        Line(
            f"fit {spec}",
            seconds["fit"],
            "NumPy X.T @ X by blocks",
            seconds["numpy fit"],
            "<= 1.5",
            f"memory grew by {memory.grown:.0f} MB (target < 400)",
        ),
        Line(
            "vec_search int8, rerank, k = 10",
            found["search"],
            "ORDER BY array_cosine_distance",
            found["builtin"],
            "<= 0.5",
            f"recall@10 {np.mean(hits):.3f} (target >= 0.99)",
        ),
    ]
    show("vecpipe bench apply", lines, console)
    return lines
