"""Fitting from a stream of rows: one pass, several threads, bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vecpipe.arrays import Float64, Rows
from vecpipe.columns.vectors import row_widths, to_rows
from vecpipe.errors import FitError, InputError
from vecpipe.fitting.steps import fit_sketch, needs_sample
from vecpipe.kernels import one_blas_thread
from vecpipe.model import Model
from vecpipe.ordered import in_order, thread_count
from vecpipe.rules import OnInvalid, rows_named
from vecpipe.sketch import Sketch
from vecpipe.sources import Source, open_source, table_query, vector_column
from vecpipe.spec import parse

Progress = Callable[[int, int | None], None]


def fit(
    source: Any,
    query_or_spec: str,
    spec: str | None = None,
    *,
    column: str | None = None,
    weight: str | None = None,
    queries: Any = None,
    on_invalid: OnInvalid = "error",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Fit a spec in one pass over the rows of a source.

    ``fit(con, "SELECT emb FROM docs", "pca(128) | int8")`` for a DuckDB connection, or ``fit(con, "docs", ...)`` for a
    table of it; ``fit(table, "pca(128) | int8")`` for everything else that ``open_source`` takes.

    Parameters
    ----------
    source
        A DuckDB connection or relation, Arrow table, reader or dataset, NumPy array, Polars frame, or a path: of a
        Parquet or Arrow file, a folder of Parquet files, a pattern (``data/*/part-*.parquet``).
    query_or_spec, spec
        Query, or name of a table, and spec for a connection; the spec alone otherwise.
    column
        Column of the vectors; not needed when only one column holds lists.
    weight
        Column of row weights, for example word frequencies.
    queries
        A sample of queries, for operators that are fitted to them too: for a connection a query text or the name of
        a table, otherwise any source, with the same column.
    on_invalid
        What a ragged, NaN or infinite row does: ``"error"`` stops, ``"null"`` leaves it out and counts it. The width is
        then that of most rows of the first batch with a valid row; that another width is as common or more so in the
        end is an error.
    threads
        Threads that compute; as many as there are processors by default, at most 8.
    progress
        Called with the rows done and, where known, the rows there are.

    Returns
    -------
    Model
        The same whatever the batches, the threads or the order of the rows.

    Raises
    ------
    SpecError, InputError, FitError, EngineError
        As the message says; nothing is changed anywhere.

    Examples
    --------
    >>> import numpy as np, pyarrow as pa
    >>> X = np.random.default_rng(0).standard_normal((1000, 8), dtype=np.float32)
    >>> table = pa.table({"emb": pa.FixedSizeListArray.from_arrays(X.ravel(), 8)})
    >>> fit(table, "pca(2)").output_type
    'FLOAT[2]'
    """
    query = None if spec is None else query_or_spec
    steps = parse(query_or_spec if spec is None else spec)
    if query is not None and isinstance(source, duckdb.DuckDBPyConnection):
        query = table_query(source, query, (column, weight))
        queries = table_query(source, queries, (column,)) if isinstance(queries, str) else queries
    opened = open_source(source, query, columns=(column, weight))
    sketch = sketch_source(
        opened,
        column=column,
        weight=weight,
        on_invalid=on_invalid,
        threads=threads,
        progress=progress,
        keep_sample=needs_sample(steps),
    )
    asked = None
    if queries is not None:
        asking = isinstance(queries, str) and query
        opened = open_source(source, queries) if asking else open_source(queries, columns=(column,))
        asked = sketch_source(opened, column=column, on_invalid=on_invalid, threads=threads)
    return fit_sketch(sketch, steps, asked)


def sketch_source(
    source: Source,
    *,
    column: str | None = None,
    weight: str | None = None,
    on_invalid: OnInvalid = "error",
    threads: int | None = None,
    progress: Progress | None = None,
    keep_sample: bool = True,
) -> Sketch:
    """Return the sketch of a stream of batches; parameters as in ``fit``.

    Raises
    ------
    InputError
        A row that breaks a rule: names column, row and rule. Where such rows are left out: most rows are of another
        width than the first ones.
    FitError
        The source has no vectors at all.
    """
    name = vector_column(source.schema, column)
    workers = thread_count(threads)
    sketch: Sketch | None = None
    row = nulls = invalid = 0
    widths: Counter[int] = Counter()

    # The sketch looks at every number anyway: rows that are not finite are an error it finds without another pass.
    checked = on_invalid != "error"

    def read(batch: Any, dim: int | None, first: int, *, check: bool) -> Rows:
        data = batch.column(name)
        return to_rows(data, column=name, dim=dim, on_invalid=on_invalid, first_row=first, check_finite=check)

    def work(sketch: Sketch, batch: Any, first: int) -> int:
        rows = read(batch, sketch.dim, first, check=checked)
        weights = None if weight is None else _weights(batch, weight, first, rows)
        with rows_named(name, first, None if rows.valid is None else np.flatnonzero(rows.valid)):
            sketch.add(rows, weights)
        return first + len(rows)

    def calls() -> Iterator[Callable[[], int]]:
        nonlocal sketch, row, nulls, invalid
        for batch in source.batches:
            if batch.num_rows == 0:
                continue
            if checked:
                widths.update(row_widths(batch.column(name), column=name))
            if sketch is None:
                first = read(batch, None, row, check=checked)
                if first.valid is not None and not first.valid.any():
                    row, nulls, invalid = row + len(first), nulls + first.nulls, invalid + first.invalid
                    continue
                sketch = Sketch(first.dim, keep_sample=keep_sample)
                sketch.nulls, sketch.invalid = nulls, invalid
            yield partial(work, sketch, batch, row)
            row += batch.num_rows

    with one_blas_thread(), ThreadPoolExecutor(workers, "vecpipe-fit") as pool:
        for done in in_order(pool, calls(), 2 * workers):
            if progress is not None and done is not None:
                progress(done, source.rows)
    if sketch is None:
        raise FitError(f"{name}: there are no vectors to fit from ({row} rows: {nulls} NULL, {invalid} invalid)")
    usual = max(widths, key=lambda width: (widths[width], -width), default=sketch.dim)
    if usual != sketch.dim:
        raise InputError(
            f"{name}: the first vectors have {sketch.dim} dimensions, as {widths[sketch.dim]} of them all, but "
            f"{widths[usual]} have {usual}; select the rows of one width"
        )
    return sketch


def _weights(batch: Any, weight: str, row: int, rows: Rows) -> Float64:
    if weight not in batch.schema.names:
        raise InputError(f"no weight column {weight!r}; there are {', '.join(batch.schema.names)}")
    vector_column(batch.schema, weight)  # several columns of that name
    values = batch.column(weight)
    kind = values.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise InputError(f"{weight}: weights must be numbers, not {kind}")
    weights = np.array(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    live = np.ones(len(rows), bool) if rows.valid is None else rows.valid
    bad = np.flatnonzero(live & ~(np.isfinite(weights) & (weights >= 0)))
    if bad.size:
        raise InputError(
            f"{weight}: row {row + int(bad[0])} holds {weights[bad[0]]}; weights are finite and at least 0"
        )
    return weights
