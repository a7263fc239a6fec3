"""``vecpipe bench search``: k-NN joins and single queries in SQL against DuckDB's own, NumPy and vector indexes.

Of each way to search, the cheapest setting that reaches the recall asked for is found with queries of its own; other
queries measure it, each asked of every way in turn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from rich.console import Console

import vecpipe
from vecpipe.arrays import Float32
from vecpipe.bench.data import fill_table, vectors
from vecpipe.bench.pictures import figure_class
from vecpipe.bench.search_peers import peer_ladders
from vecpipe.bench.search_picture import draw, over_k, over_rows
from vecpipe.bench.search_ways import (
    BITS,
    CELLS,
    CODES,
    EXACT,
    INDEX,
    VECTORS,
    WARM,
    Searched,
    cell_count,
    fill_queries,
    measured,
)
from vecpipe.bench.settings import Setting, show_settings
from vecpipe.bench.timing import Line, PeakMemory, cpu_seconds, medians, show
from vecpipe.kernels import one_blas_thread

K = 10
_ASKED = 200
_MANY = 1_000
_FEW = 20
_BLOCK = 8_192
_TARGETS = {VECTORS: "", CODES: "<= 0.2", BITS: "<= 0.2", CELLS: "<= 0.04", INDEX: "<= 0.04"}


def run(
    rows: int,
    dim: int,
    large: int,
    queries: int,
    runs: int,
    console: Console,
    *,
    target: float = 0.95,
    peers: bool = True,
    slow: bool = False,
    picture: Path | None = None,
) -> list[Line]:
    """Measure and print; return the comparisons.

    Parameters
    ----------
    rows, large
        Sizes of the table that is joined, and of the one that is searched.
    target
        Recall@10 to reach.
    peers, slow
        Measure other libraries too; their graphs too, which take minutes to build.
    picture
        File for a picture of what a query costs over rows and over k.

    Raises
    ------
    VecpipeError
        A picture is asked for, and matplotlib is not installed.
    """
    if picture is not None:
        figure_class()  # before minutes of measuring, not after
    lines = joins(rows, dim, runs, console)
    made = np.concatenate(list(vectors(large + 2 * queries + WARM + _MANY, dim)))
    X, Q, many = np.split(made, [large, len(made) - _MANY])
    table = Searched(X)
    threads = table.con.execute("SELECT current_setting('threads')").fetchall()[0][0]
    console.print(f"{large:,} x {dim} float32, {queries} queries, five in a row, k = {K}, cosine, {threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        ladders = table.ladders(K)
        if peers:
            ladders += peer_ladders(X, K, cell_count(large), slow, folder, console)
        settings = measured(ladders, X, Q, target)
    show_settings(f"Cheapest setting of recall@{K} >= {target}", settings, target, console)
    lines += [*_against_exact(settings, target), wide_join(table.con, X, many)]
    if picture is not None:
        few = Q[: 2 * min(queries, _FEW) + WARM]
        draw(over_rows(X, few, K, target, settings), over_k(table, X, few, target), target, picture)
        console.print(f"Costs over rows and k: {picture}")
    table.close()
    show("vecpipe bench search", lines, console)
    return lines


def _against_exact(settings: list[Setting], target: float) -> list[Line]:
    exact = next(setting for setting in settings if setting.group == EXACT)
    return [
        Line(
            f"{setting.group}, {setting.name}",
            setting.median / 1e3,
            EXACT,
            exact.median / 1e3,
            _TARGETS[setting.group],
            f"recall@{K} {setting.recall:.3f} (target >= {target})",
        )
        for setting in settings
        if setting.group in _TARGETS
    ]


def joins(rows: int, dim: int, runs: int, console: Console) -> list[Line]:
    """Compare the processor time of a k-NN join with DuckDB's NEAREST and with NumPy."""
    con = vecpipe.connect()
    con.execute("SET enable_progress_bar = false")
    console.print(f"{rows:,} x {dim} float32 in a DuckDB table, {_ASKED} queries, k = {K}, processor time")
    X, Q = np.split(fill_table(con, "docs", rows + _ASKED, dim), [rows])
    con.execute(f"DELETE FROM docs WHERE id >= {rows}")
    fill_queries(con, Q)
    similarity = "array_cosine_similarity(queries.emb, docs.emb)"
    join = f"SELECT query_id, id FROM vec_knn_join('queries', 'docs', k := {K})"
    builtin = f"SELECT queries.id, docs.id FROM queries JOIN docs NEAREST {K} BY SIMILARITY {similarity}"

    def numpy() -> list[set[int]]:
        scores = Q @ X.T
        return [set(row) for row in np.argpartition(scores, rows - K, axis=1)[:, rows - K :].tolist()]

    def found(sql: str) -> list[set[int]]:
        ids: list[set[int]] = [set() for _ in Q]
        for query, row in con.execute(sql).fetchall():
            ids[query].add(row)
        return ids

    tasks: dict[str, Callable[[], Any]] = {
        "join": partial(found, join),
        "builtin": partial(found, builtin),
        "numpy": numpy,
    }
    answers = {name: task() for name, task in tasks.items()}
    with one_blas_thread():  # BLAS threads that wait for work would count
        seconds = medians(tasks, runs, clock=cpu_seconds)
    con.close()

    def line(peer: str, key: str, goal: str) -> Line:
        same = sum(one == other for one, other in zip(answers["join"], answers[key], strict=True))
        what = f"vec_knn_join, {_ASKED} queries, {rows:,} rows"
        return Line(what, seconds["join"], peer, seconds[key], goal, f"same answer for {same}/{_ASKED}")

    return [
        line(f"DuckDB NEAREST {K}, CPU", "builtin", "<= 0.067"),
        line("NumPy product, argpartition, CPU", "numpy", "<= 1.5"),
    ]


def wide_join(con: duckdb.DuckDBPyConnection, X: Float32, Q: Float32) -> Line:
    """Measure how memory grows in a join of many queries with the table that is searched, and its processor time."""
    fill_queries(con, Q)
    sql = f"SELECT count(*), sum(id) FROM vec_knn_join('queries', 'docs', k := {K})"
    with one_blas_thread():
        with PeakMemory() as memory:
            start = cpu_seconds()
            con.execute(sql).fetchall()
            seconds = cpu_seconds() - start
        time.sleep(0.25)
        start = cpu_seconds()
        for low in range(0, len(X), _BLOCK):
            scores = Q @ X[low : low + _BLOCK].T
            np.argpartition(scores, scores.shape[1] - K, axis=1)
        product = cpu_seconds() - start
    note = f"memory grew by {memory.grown:.0f} MB (target < 500)"
    what = f"vec_knn_join, {len(Q):,} queries, {len(X):,} rows"
    return Line(what, seconds, "NumPy by blocks, CPU", product, "<= 1.5", note)
