"""Vector indexes of other libraries for ``vecpipe bench search``, each with its settings, cheapest first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from vecpipe.arrays import Float32
from vecpipe.bench.search_ways import PROBES
from vecpipe.bench.settings import Setting
from vecpipe.columns.results import to_vectors
from vecpipe.errors import CapabilityError

Ladders = Iterator[list[Setting]]
_EFFORTS = (16, 32, 64, 128, 256, 512)
_REFINE = (10, 50)
_GRAPH = 32
_TRAINED = 65_536
"""Rows that lists are trained on, as many as a fit of vecpipe keeps."""


def peer_ladders(X: Float32, k: int, cells: int, slow: bool, folder: str, console: Console) -> list[list[Setting]]:
    """Build the indexes of the libraries that are installed; name those that are not, and leave them out.

    Parameters
    ----------
    X : (n, d) float32
        Rows of length one: the inner product is the cosine.
    cells
        Lists of an inverted file.
    slow
        Build graphs too.
    folder
        Where LanceDB keeps its tables.
    """
    found: list[list[Setting]] = []
    peers: tuple[tuple[str, Callable[[], Ladders]], ...] = (
        ("FAISS", partial(_faiss, X, k, cells, slow)),
        ("usearch", partial(_usearch, X, k)),
        ("sqlite-vec", partial(_sqlite_vec, X, k)),
        ("LanceDB", partial(_lancedb, X, k, slow, folder)),
    )
    for name, ladders in peers:
        if name == "usearch" and not slow:
            continue
        try:
            with console.status(name):
                found.extend(ladders())
        except ModuleNotFoundError as error:
            console.print(f"{name} is left out: no module {error.name}")
        except CapabilityError as error:
            console.print(f"{name} is left out: {error}")
    return found


def _faiss(X: Float32, k: int, cells: int, slow: bool) -> Ladders:
    import faiss

    every = faiss.omp_get_max_threads()

    def built(spec: str) -> tuple[Any, float]:
        start = time.perf_counter()
        index: Any = faiss.index_factory(X.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
        index.train(X[:_TRAINED])
        index.add(X)
        return index, time.perf_counter() - start

    def ask(index: Any, prepare: Callable[[], None] | None, q: Float32) -> list[int]:
        if prepare is None:
            return list(index.search(q[None], k)[1][0].tolist())
        prepare()
        faiss.omp_set_num_threads(1)  # for so little work threads wait for each other longer than they work
        found = list(index.search(q[None], k)[1][0].tolist())
        faiss.omp_set_num_threads(every)
        return found

    def probe(index: Any, lists: Any, nprobe: int, refine: int) -> None:
        index.k_factor, lists.nprobe = refine, nprobe

    flat, build = built("Flat")
    yield [Setting("FAISS flat", "exact", partial(ask, flat, None), build, k=k)]
    words, build = built(f"RR{X.shape[1]},IVF{cells},RaBitQfs,RFlat")
    yield [
        Setting(
            "FAISS IVF, RaBitQ fast scan",
            f"nprobe {nprobe}, refine {refine}",
            partial(ask, words, partial(probe, words, faiss.extract_index_ivf(words), nprobe, refine)),
            build,
            k=k,
        )
        for nprobe, refine in _probes()
    ]
    if slow:
        graph, build = built(f"HNSW{_GRAPH}")
        yield [
            Setting(
                "FAISS HNSW",
                f"efSearch {effort}",
                partial(ask, graph, partial(setattr, graph.hnsw, "efSearch", effort)),
                build,
                k=k,
            )
            for effort in _EFFORTS
        ]


def _usearch(X: Float32, k: int) -> Ladders:
    from usearch.index import Index

    start = time.perf_counter()
    index: Any = Index(ndim=X.shape[1], metric="cos", dtype="f32", connectivity=_GRAPH)
    index.add(np.arange(len(X)), X)
    build = time.perf_counter() - start

    def ask(effort: int, q: Float32) -> list[int]:
        index.expansion_search = effort
        return list(index.search(q, k).keys.tolist())

    yield [Setting("usearch HNSW", f"expansion {effort}", partial(ask, effort), build, k=k) for effort in _EFFORTS]


def _sqlite_vec(X: Float32, k: int) -> Ladders:
    import sqlite3

    import sqlite_vec

    con = sqlite3.connect(":memory:")
    if not hasattr(con, "enable_load_extension"):
        raise CapabilityError("the sqlite3 module of this Python loads no extensions")
    con.enable_load_extension(True)
    sqlite_vec.load(con)
    start = time.perf_counter()
    con.execute(f"CREATE VIRTUAL TABLE docs USING vec0(emb float[{X.shape[1]}] distance_metric=cosine)")
    con.executemany("INSERT INTO docs (rowid, emb) VALUES (?, ?)", ((at, row.tobytes()) for at, row in enumerate(X)))
    build = time.perf_counter() - start

    def ask(q: Float32) -> list[int]:
        sql = "SELECT rowid FROM docs WHERE emb MATCH ? AND k = ?"
        return [row for (row,) in con.execute(sql, (q.tobytes(), k))]

    yield [Setting("sqlite-vec", "exact", ask, build, k=k)]


def _lancedb(X: Float32, k: int, slow: bool, folder: str) -> Ladders:
    import lancedb
    from lancedb.index import HnswSq, IvfRq

    database = lancedb.connect(folder)

    def built(name: str, config: Any) -> tuple[Any, float]:
        data = pa.table({"id": np.arange(len(X)), "vector": to_vectors(X, fixed=True)})
        table = database.create_table(name, data)
        start = time.perf_counter()
        table.create_index("vector", config=config)
        return table, time.perf_counter() - start

    def ask(table: Any, nprobe: int | None, effort: int | None, refine: int, q: Float32) -> list[int]:
        query = table.search(q).distance_type("cosine").select(["id", "_distance"]).limit(k).refine_factor(refine)
        query = query if nprobe is None else query.nprobes(nprobe)
        query = query if effort is None else query.ef(effort)
        return list(query.to_arrow()["id"].to_pylist())

    table, build = built("words", IvfRq(distance_type="cosine"))
    yield [
        Setting(
            "LanceDB IVF_RQ",
            f"nprobes {nprobe}, refine {refine}",
            partial(ask, table, nprobe, None, refine),
            build,
            k=k,
        )
        for nprobe, refine in _probes()
    ]
    if slow:
        table, build = built("graph", HnswSq(distance_type="cosine"))
        yield [
            Setting("LanceDB IVF_HNSW_SQ", f"ef {effort}, refine 2", partial(ask, table, None, effort, 2), build, k=k)
            for effort in sorted({max(effort, 2 * k) for effort in _EFFORTS})  # it refuses fewer than it refines
        ]


def _probes() -> list[tuple[int, int]]:
    """Return lists to look into with how many times k rows are scored exactly, cheapest first."""
    return [(nprobe, refine) for refine in _REFINE for nprobe in PROBES]
