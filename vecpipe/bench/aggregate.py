"""``vecpipe bench aggregate``: averages and fits in SQL against DuckDB's own functions and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

import vecpipe
from vecpipe.bench.data import fill_table
from vecpipe.bench.timing import Line, PeakMemory, medians, show
from vecpipe.kernels import BLOCK_ROWS

_SQL_ONLY_SHARE = 50
_TENANT_ROWS = 20
_UNNESTED = """
    SELECT list(mean ORDER BY j) FROM (
        SELECT j, avg(x) AS mean
        FROM (SELECT unnest(emb) AS x, generate_subscripts(emb, 1) AS j FROM {table})
        GROUP BY j
    )"""


def run(rows: int, dim: int, tenants: int, threads: int, runs: int, console: Console) -> list[Line]:
    """Measure and print; return the lines."""
    con = vecpipe.connect()
    con.execute(f"SET enable_progress_bar = false; SET threads = {threads}").fetchall()
    console.print(f"{rows:,} x {dim} float32 in a DuckDB table, {threads} threads, {runs} runs each, medians")
    X = fill_table(con, "docs", rows, dim)
    few = max(1, rows // _SQL_ONLY_SHARE)
    kept = min(128, dim)

    def execute(sql: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = con.execute(sql).fetchall()
        return found

    def numpy_fit() -> None:
        total = np.zeros((dim, dim))
        for start in range(0, rows, BLOCK_ROWS):
            block = X[start : start + BLOCK_ROWS]
            total += block.T @ block

    execute(f"CREATE TABLE few AS FROM docs LIMIT {few}")
    unnested = _UNNESTED.format(table="few")
    assert np.allclose(execute(unnested)[0][0], execute("SELECT vec_avg(emb) FROM few")[0][0], atol=1e-5)
    with threadpool_limits(threads):
        # Each pair by itself: what DuckDB gives back to the system after the unnested query would slow the fit.
        averages: dict[str, Callable[[], Any]] = {
            "avg": partial(execute, "SELECT vec_avg(emb) FROM docs"),
            "one": partial(execute, "SELECT sum(emb[1]) FROM docs"),
        }
        few_rows = {"few": partial(execute, "SELECT vec_avg(emb) FROM few"), "unnest": partial(execute, unnested)}
        fits: dict[str, Callable[[], Any]] = {
            "fit": partial(execute, f"SELECT octet_length(vec_fit(emb, 'pca({kept})')) FROM docs"),
            "numpy": numpy_fit,
        }
        seconds = medians(averages, 3 * runs, pause=0.0) | medians(few_rows, runs) | medians(fits, runs)
    raw = tenants * _TENANT_ROWS * dim * 4 / 1e6
    execute(f"CREATE TABLE tenants AS SELECT id % {tenants} AS tenant, emb FROM docs LIMIT {tenants * _TENANT_ROWS}")
    groups = "SELECT sum(octet_length(m)) FROM (SELECT vec_fit(emb, 'center | int8') AS m FROM tenants GROUP BY tenant)"
    with PeakMemory() as memory:
        small = medians({"groups": partial(execute, groups)}, 1)["groups"]
    scan = medians({"scan": partial(execute, "SELECT sum(emb[1]) FROM tenants")}, 1)["scan"]
    lines = [
        Line("vec_avg(emb)", seconds["avg"], "sum(emb[1])", seconds["one"], "<= 2"),
        Line(f"vec_avg(emb), {few:,} rows", seconds["few"], "unnest, avg, list in SQL", seconds["unnest"], "<= 0.1"),
        Line(f"vec_fit pca({kept})", seconds["fit"], "NumPy X.T @ X by blocks", seconds["numpy"], "<= 1.3"),
        Line(
            f"vec_fit of {tenants:,} tenants of {_TENANT_ROWS} rows",
            small,
            "sum(emb[1])",
            scan,
            "",
            f"memory grew by {memory.grown:.0f} MB (target < {3 * raw:.0f}, three times the vectors)",
        ),
    ]
    show("vecpipe bench aggregate", lines, console)
    return lines
