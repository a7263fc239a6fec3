"""``vecpipe bench lancedb-search``: codes in memory with exact rerank against LanceDB's own indexes.

Each query is asked of every setting in turn, so that what else the machine does falls on all alike. Of each index
the fastest setting is shown that reaches the recall asked for, or else the one with the best recall.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from vecpipe.arrays import Float32
from vecpipe.bench.collections import load_collection
from vecpipe.bench.data import vectors
from vecpipe.bench.settings import Setting, ask_in_turns, fastest, show_settings
from vecpipe.columns.results import to_vectors
from vecpipe.fitting.stream import fit
from vecpipe.metrics.retrieval import nearest

K = 10
_WARM = 10
_SPECS = (
    ("normalize | int8", (2, 4)),
    ("normalize | transform_code(96)", (4, 8)),
    ("normalize | float16", (1,)),
)
_REFINE = (1, 2, 5, 10, 20)


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
        ask_in_turns(settings, np.concatenate([Q[:_WARM], Q]), np.concatenate([exact[:_WARM], exact]), _WARM)
    groups = list(dict.fromkeys(setting.group for setting in settings))
    best = [fastest([each for each in settings if each.group == group], target) for group in groups]
    show_settings(f"Fastest setting of recall@{K} >= {target}", best, target, console)
    ours = fastest([each for each in best if each.group.startswith("vecpipe")], target)
    theirs = fastest([each for each in best if not each.group.startswith("vecpipe")], target)
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
