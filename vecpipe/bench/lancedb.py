"""``vecpipe bench lancedb``: filling a column of codes in a LanceDB table against building LanceDB's own index."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import pyarrow as pa
from rich.console import Console

from vecpipe.bench.data import vectors
from vecpipe.bench.timing import Line, PeakMemory, show
from vecpipe.columns.results import to_vectors
from vecpipe.engines.lancedb.columns import add_column, drop
from vecpipe.fitting.stream import fit
from vecpipe.model import Model

_FITTED_ROWS = 50_000


def run(rows: int, dim: int, spec: str, runs: int, console: Console) -> list[Line]:
    """Measure and print; return the lines."""
    import lancedb

    with tempfile.TemporaryDirectory(prefix="vecpipe-bench-") as folder:
        db = lancedb.connect(folder)
        table = make_table(db, rows, dim)
        console.print(f"{rows:,} x {dim} float32 in a LanceDB table, {runs} runs, medians; the index is built once")
        model = fit(table.search().select(["vector"]).limit(_FITTED_ROWS).to_arrow(), spec)
        lines = [backfill(table, model, runs)]
    show("vecpipe bench lancedb", lines, console)
    return lines


def make_table(db: Any, rows: int, dim: int) -> Any:
    """Create the table ``docs(id, vector)``."""

    def batches() -> Any:
        start = 0
        for X in vectors(rows, dim):
            ids = pa.array(range(start, start + len(X)), pa.int64())
            yield pa.RecordBatch.from_arrays([ids, to_vectors(X, fixed=True)], schema=schema)
            start += len(X)

    schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), dim))])
    return db.create_table("docs", pa.RecordBatchReader.from_batches(schema, batches()))


def backfill(table: Any, model: Model, runs: int) -> Line:
    """Measure filling a column of codes, and the build of an IVF_PQ index on the vectors."""
    from lancedb.index import IvfPq

    seconds = []
    with PeakMemory() as memory:
        for turn in range(runs):
            if turn:
                drop(table, "code")
            start = time.perf_counter()
            done = add_column(table, "code", model)
            seconds.append(time.perf_counter() - start)
    ours = statistics.median(seconds)
    start = time.perf_counter()
    table.create_index("vector", config=IvfPq(distance_type="cosine"))
    index = time.perf_counter() - start
    note = (
        f"{done.rows / ours:,.0f} rows/s (target >= 100,000 on 2 processors), {model.bytes_per_vector} bytes a code, "
        f"memory grew by {memory.grown:.0f} MB"
    )
    return Line(f"add_column {model.spec}", ours, "building an IVF_PQ index", index, "<= 0.33", note)
