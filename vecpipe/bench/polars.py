"""``vecpipe bench polars``: the expressions of ``.vec`` against NumPy products and kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console

from vecpipe.bench.data import vectors
from vecpipe.bench.timing import Line, cpu_seconds, medians, show
from vecpipe.errors import VecpipeError
from vecpipe.kernels import one_blas_thread
from vecpipe.metrics.retrieval import recall_at, top_places

_BATCH = 2_048
_ASKED = 2_000
_BLOCK = 8_192


def run(rows: int, dim: int, runs: int, console: Console) -> list[Line]:
    """Measure and print; return the lines.

    Raises
    ------
    VecpipeError
        Polars is not installed.
    """
    try:
        import polars as pl

        import vecpipe.polars  # noqa: F401 - registers .vec
    except ModuleNotFoundError as error:
        raise VecpipeError("this benchmark needs Polars: pip install 'vecpipe[polars]'") from error
    console.print(f"{rows:,} x {dim} float32 in a Polars frame, {runs} runs each, medians")
    X = np.concatenate(list(vectors(rows, dim)))
    frame = pl.DataFrame({"emb": X})
    kept = min(128, dim)
    pca, int8 = frame.vec.fit(f"pca({kept})"), frame.vec.fit("normalize | int8")
    components = pca.steps[0].state["components"]
    emb, unit = pl.col("emb").vec, X / np.linalg.norm(X, axis=1, keepdims=True)
    asked = frame.head(_ASKED)
    assert np.allclose(frame.select(emb.transform(pca))["emb"].to_numpy()[:9], pca.transform(X[:9])[0], atol=1e-5)
    wanted = top_places(unit[:50] @ unit.T, 10)
    joined = frame.head(50).vec.knn_join(frame, k=10, id=None)["id"].to_numpy().reshape(50, 10)
    recall = recall_at(joined, wanted, 10)

    def kernel() -> None:
        with one_blas_thread():
            for start in range(0, rows, _BATCH):
                int8.encode(X[start : start + _BATCH])

    def products() -> None:
        for start in range(0, rows, _BLOCK):
            _ = unit[:_ASKED] @ unit[start : start + _BLOCK].T

    # What is compared runs in turns, apart from the rest: joins leave memory and caches as nobody else does.
    vectors_in_turns: dict[str, Callable[[], Any]] = {
        "transform": lambda: frame.select(emb.transform(pca)),
        "streaming": lambda: frame.lazy().select(emb.transform(pca)).collect(engine="streaming"),
        "product": lambda: X @ components,
    }
    codes_in_turns: dict[str, Callable[[], Any]] = {
        "encode": lambda: frame.select(emb.encode(int8)),
        "kernel": kernel,
    }
    joins_in_turns: dict[str, Callable[[], Any]] = {
        "join": lambda: asked.vec.knn_join(frame, k=10, id=None),
        "products": products,
    }
    seconds: dict[str, float] = {}
    work: dict[str, float] = {}
    for tasks in (vectors_in_turns, codes_in_turns, joins_in_turns):
        seconds |= medians(tasks, runs)
        with one_blas_thread():  # BLAS threads that wait for work would count
            work |= medians(tasks, runs, clock=cpu_seconds)

    def line(what: str, ours: str, peer_name: str, peer: str, target: str, note: str = "") -> Line:
        cpu = f"processor time {work[ours] / work[peer]:.2f}"
        return Line(what, seconds[ours], peer_name, seconds[peer], target, f"{cpu}{note and ', '}{note}")

    lines = [
        line(f"transform pca({kept})", "transform", "NumPy product", "product", "<= 1.3"),
        line(f"transform pca({kept}), streaming", "streaming", "NumPy product", "product", "<= 1.3"),
        line("encode int8", "encode", "kernel by blocks", "kernel", "<= 1.5"),
        line(
            f"knn_join of {_ASKED:,} rows, k = 10",
            "join",
            "the products alone",
            "products",
            "<= 2",
            f"recall@10 {recall:.3f}",
        ),
    ]
    show("vecpipe bench polars", lines, console)
    return lines
