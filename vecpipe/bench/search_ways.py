"""The ways to search a DuckDB table that ``vecpipe bench search`` measures: vectors, codes, bits, cells, index."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial

import duckdb
import numpy as np
import pyarrow as pa

import vecpipe
from vecpipe.arrays import Float32
from vecpipe.bench.settings import Setting, ask_in_turns, cheapest
from vecpipe.columns.results import to_vectors
from vecpipe.metrics.retrieval import nearest

WARM = 5
EXACT, VECTORS, CODES, BITS = "DuckDB ORDER BY", "vec_search vectors", "vec_search codes", "vec_search_bits"
CELLS, INDEX = "vec_search cells", "vec_search index"
OVERSAMPLES = (4, 8, 16, 32, 64, 100)
PROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_CHUNK = 50_000


def cell_count(rows: int) -> int:
    """Return the number of cells that the documentation advises."""
    return max(2, round(4 * math.sqrt(rows)))


def fill_queries(con: duckdb.DuckDBPyConnection, Q: Float32) -> None:
    """Create ``queries(id INTEGER, emb FLOAT[d])``."""
    con.register("vecpipe_chunk", _chunk(Q, 0))
    con.execute("CREATE OR REPLACE TABLE queries AS FROM vecpipe_chunk")
    con.unregister("vecpipe_chunk")


def _chunk(X: Float32, first: int) -> pa.Table:
    ids = pa.array(np.arange(first, first + len(X), dtype=np.int32))
    return pa.table({"id": ids, "emb": to_vectors(X, fixed=True)})


class Searched:
    """A table in memory with vectors, codes and cells, in the order of its cells, and a resident index of it.

    Attributes
    ----------
    builds : dict
        Seconds that each way to search needs before the first query.
    """

    def __init__(self, X: Float32) -> None:
        self.con = vecpipe.connect()
        self.rows, self.dim = X.shape
        self.con.execute("SET enable_progress_bar = false")
        self.con.execute(f"CREATE TABLE given (id INTEGER, emb FLOAT[{self.dim}])")
        for start in range(0, self.rows, _CHUNK):
            self.con.register("vecpipe_chunk", _chunk(X[start : start + _CHUNK], start))
            self.con.execute("INSERT INTO given SELECT id, emb FROM vecpipe_chunk")
            self.con.unregister("vecpipe_chunk")
        spec = f"normalize | cells({cell_count(self.rows)}) | int8"
        fit = self._seconds(f"SELECT vec_fit_query('docs', '{spec}', 'SELECT emb FROM given')")
        signs = self._seconds("SELECT vec_fit_query('signs', 'center | rotate | binary', 'SELECT emb FROM given')")
        columns = (
            "vec_encode('docs', emb) AS code, vec_cell('docs', emb) AS cell, vec_encode('signs', emb)::BIT AS bits"
        )
        store = self._seconds(f"CREATE TABLE docs AS SELECT id, emb, {columns} FROM given ORDER BY cell")
        self.con.execute("DROP TABLE given")
        index = self._seconds("SELECT vec_index('docs', 'docs', 'docs')")
        self.builds = {
            EXACT: 0.0,
            VECTORS: 0.0,
            CODES: fit + store,
            BITS: signs + store,
            CELLS: fit + store,
            INDEX: fit + index,
        }

    def _seconds(self, sql: str) -> float:
        start = time.perf_counter()
        self.con.execute(sql).fetchall()
        return time.perf_counter() - start

    def ladders(self, k: int) -> list[list[Setting]]:
        """Return for each way to search its settings, cheapest first."""
        codes = f"model := 'docs', code := 'code', rerank := 'emb', k := {k}"
        cells = f"model := 'docs', cell := 'cell', rerank := 'emb', k := {k}"
        bits = f"model := 'signs', bits := 'bits', rerank := 'emb', k := {k}"
        index = f"index := 'docs', rerank := 'emb', k := {k}"
        probes = [count for count in PROBES if count <= cell_count(self.rows)]

        def setting(group: str, name: str, sql: str) -> Setting:
            return Setting(group, name, partial(self._ask, sql, group != EXACT), self.builds[group], k=k)

        def searches(
            group: str, arguments: str, knob: str, values: Sequence[int], name: str = "vec_search"
        ) -> list[Setting]:
            sql = f"SELECT id FROM {name}('docs', $q::BLOB, {arguments}, {knob} := {{}})"
            return [setting(group, f"{knob} {n}", sql.format(n)) for n in values]

        order = f"SELECT id FROM docs ORDER BY array_cosine_distance(emb, $q::FLOAT[{self.dim}]) LIMIT {k}"
        return [
            [setting(EXACT, "exact", order)],
            [setting(VECTORS, "exact", f"SELECT id FROM vec_search('docs', $q::BLOB, rerank := 'emb', k := {k})")],
            [setting(CODES, "int8, rerank", f"SELECT id FROM vec_search('docs', $q::BLOB, {codes})")],
            searches(BITS, bits, "oversample", OVERSAMPLES, "vec_search_bits"),
            searches(CELLS, cells, "nprobe", probes),
            searches(INDEX, index, "nprobe", probes),
        ]

    def _ask(self, sql: str, as_blob: bool, q: Float32) -> list[int]:
        given = {"q": q.tobytes() if as_blob else q.tolist()}  # as a BLOB it is planned faster
        return [row for (row,) in self.con.execute(sql, given).fetchall()]

    def close(self) -> None:
        """Let go of the table and the index."""
        self.con.execute("SELECT vec_index_drop('docs')").fetchall()
        self.con.close()


def measured(ladders: Sequence[Sequence[Setting]], X: Float32, Q: Float32, target: float) -> list[Setting]:
    """Choose a setting of each way with the first half of the queries, and measure it with the others.

    Other queries, since answers and prepared queries are remembered.

    Parameters
    ----------
    X : (n, d) float32
        Rows of length one.
    Q : (m, d) float32
        Queries of length one; ``WARM`` of the second half do not count.
    """
    exact = nearest(Q, X, ladders[0][0].k)
    half = (len(Q) - WARM) // 2
    chosen = [cheapest(ladder, Q[:half], exact[:half], target) for ladder in ladders]
    ask_in_turns(chosen, Q[half:], exact[half:], WARM)
    return chosen
