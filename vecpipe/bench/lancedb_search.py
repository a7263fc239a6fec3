"""``vecpipe bench lancedb-search``: codes in memory with exact rerank against LanceDB's own indexes.

Each query is asked of every setting in turn, so that what else the machine does falls on all alike. Of each index
the fastest setting is shown that reaches the recall asked for, or else the one with the best recall.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from vecpipe.arrays import Float32, to_vectors
from vecpipe.bench.collections import load_collection
from vecpipe.bench.data import vectors
from vecpipe.fitting import fit
from vecpipe.metrics.retrieval import nearest

K = 10
_WARM = 10
_SPECS = (
    ("normalize | int8", (2, 4)),
    ("normalize | transform_code(96)", (4, 8)),
    ("normalize | float16", (1,)),
)
_REFINE = (1, 2, 5, 10, 20)


@dataclass
class Setting:
    """One way to search, and what was measured of it.

    Attributes
    ----------
    group, name : str
        The index, and its parameters.
    ask
        Returns the ids found for a query.
    build : float
        Seconds that index or column took.
    seconds, cpu : list of float
        Wall and processor time of each query.
    hits : int
        Of all ids that should be found.
    """

    group: str
    name: str
    ask: Callable[[Float32], list[int]]
    build: float
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    hits: int = 0

    @property
    def recall(self) -> float:
        """Recall@10."""
        return self.hits / (K * max(1, len(self.seconds)))

    @property
    def median(self) -> float:
        """Median milliseconds."""
        return 1e3 * statistics.median(self.seconds)


def run(
    rows: int, dim: int, queries: int, console: Console, *, data: Path | None = None, slow: bool = False,
    target: float = 0.99,
) -> tuple[Setting, Setting]:  # fmt: skip
    """Measure and print; return the best setting of vecpipe's and of LanceDB's at the recall asked for.

    Parameters
    ----------
    data
        Folder with docs.parquet and queries.parquet, in place of generated vectors.
    slow
        Build IVF_HNSW_SQ too, which takes minutes.
    target
        Recall@10 to reach.
    """
    X, Q = _rows(rows, dim, queries, data)
    exact = nearest(Q, X, K)
    console.print(f"{len(X):,} x {X.shape[1]} float32 in a LanceDB table, {len(Q)} queries, k = {K}, cosine")
    with tempfile.TemporaryDirectory() as folder:
        settings = [*_ours(folder, X), *_lances(folder, X, slow)]
        for at, q in enumerate([*Q[:_WARM], *Q]):
            for setting in settings:
                cpu, start = time.process_time(), time.perf_counter()
                found = setting.ask(q)
                seconds = time.perf_counter() - start
                if at >= _WARM:
                    setting.seconds.append(seconds)
                    setting.cpu.append(time.process_time() - cpu)
                    setting.hits += len(set(found) & set(exact[at - _WARM].tolist()))
    groups = list(dict.fromkeys(setting.group for setting in settings))
    best = [_best([each for each in settings if each.group == group], target) for group in groups]
    _show(best, target, console)
    ours = _best([each for each in best if each.group.startswith("vecpipe")], target)
    theirs = _best([each for each in best if not each.group.startswith("vecpipe")], target)
    ratio = f"{ours.median / theirs.median:.2f} of its time" if theirs.recall >= target else "which misses the recall"
    console.print(f"best: {ours.group} ({ours.name}) against {theirs.group} ({theirs.name}), {ratio}")
    return ours, theirs


def _rows(rows: int, dim: int, queries: int, data: Path | None) -> tuple[Float32, Float32]:
    if data is not None:
        collection = load_collection(data)
        return collection.docs, collection.queries[:queries]
    X = np.concatenate(list(vectors(rows + queries, dim)))
    return X[:rows], X[rows:]


def _ours(folder: str, X: Float32) -> list[Setting]:
    import lancedb

    from vecpipe.engines.lancedb.columns import add_column
    from vecpipe.engines.lancedb.search import search

    table = lancedb.connect(folder).create_table("ours", _data(X))
    settings: list[Setting] = []
    for spec, oversamples in _SPECS:
        start = time.perf_counter()
        column = f"code{len(settings)}"
        add_column(table, column, fit(_data(X), spec, column="vector"))
        build = time.perf_counter() - start
        for oversample in oversamples:
            options: dict[str, Any] = {"column": column, "columns": ["id"], "oversample": oversample}
            if oversample > 1:
                options["rerank"] = "vector"

            def ask(q: Float32, options: dict[str, Any] = options) -> list[int]:
                return list(search(table, q, k=K, **options)["id"].to_pylist())

            name = f"oversample {oversample}, rerank" if oversample > 1 else "no rerank"
            settings.append(Setting(f"vecpipe {spec}", name, ask, build))
    return settings


def _lances(folder: str, X: Float32, slow: bool) -> list[Setting]:
    import lancedb
    from lancedb.index import HnswSq, IvfPq, IvfRq

    pieces = max(1, X.shape[1] // 4)
    kinds: dict[str, Any] = {
        "IVF_RQ 1 bit": IvfRq(distance_type="cosine"),
        "IVF_RQ 4 bits": IvfRq(distance_type="cosine", num_bits=4),
        f"IVF_PQ {pieces} x 4 bits": IvfPq(distance_type="cosine", num_sub_vectors=pieces, num_bits=4),
    }
    if slow:
        kinds["IVF_HNSW_SQ"] = HnswSq(distance_type="cosine")
    settings: list[Setting] = []
    for number, (kind, config) in enumerate(kinds.items()):
        table = lancedb.connect(folder).create_table(f"index{number}", _data(X))
        start = time.perf_counter()
        table.create_index("vector", config=config)
        build = time.perf_counter() - start
        for refine in _REFINE:

            def ask(q: Float32, table: Any = table, refine: int = refine) -> list[int]:
                query = table.search(q).distance_type("cosine").select(["id", "_distance"]).limit(K)
                return list((query if refine == 1 else query.refine_factor(refine)).to_arrow()["id"].to_pylist())

            settings.append(Setting(f"LanceDB {kind}", f"refine {refine}", ask, build))
    return settings


def _data(X: Float32) -> pa.Table:
    return pa.table({"id": np.arange(len(X)), "vector": to_vectors(X, fixed=True)})


def _best(settings: list[Setting], target: float) -> Setting:
    reached = [setting for setting in settings if setting.recall >= target]
    return min(reached, key=lambda each: each.median) if reached else max(settings, key=lambda each: each.recall)


def _show(settings: list[Setting], target: float, console: Console) -> None:
    table = Table(title=f"Fastest setting of recall@{K} >= {target}", title_justify="left")
    for heading in ("search", "setting", "build s", "recall", "median ms", "p95 ms", "CPU ms"):
        table.add_column(heading, justify="left" if heading in ("search", "setting") else "right")
    for each in sorted(settings, key=lambda each: (each.recall < target, each.median)):
        table.add_row(
            each.group,
            each.name,
            f"{each.build:.1f}",
            f"{each.recall:.3f}",
            f"{each.median:.2f}",
            f"{1e3 * float(np.quantile(each.seconds, 0.95)):.2f}",
            f"{1e3 * statistics.median(each.cpu):.2f}",
        )
    console.print(table)
