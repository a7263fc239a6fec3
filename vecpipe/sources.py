"""Where rows come from: DuckDB queries, Arrow data of any kind, Parquet and Arrow IPC files, Polars frames.

Each becomes a stream of Arrow record batches; nothing here looks at the vectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from vecpipe.columns.arrow import is_list, is_list_view
from vecpipe.errors import EngineError, InputError, VecpipeError
from vecpipe.paths import ARROW_SUFFIXES, check_name, holds_duckdb, parquet_files
from vecpipe.sql_names import quoted

BATCH_ROWS = 8_192
_PART = r'(?:[^\W\d]\w*|"(?:[^"]|"")+")'
_TABLE = re.compile(rf"{_PART}(?:\.{_PART}){{0,2}}")
_URI = re.compile(r"[a-z][a-z0-9+]+:/", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A stream of record batches.

    Attributes
    ----------
    schema : pyarrow.Schema
    rows : int or None
        How many rows will come, where that is known beforehand.
    """

    schema: Any
    batches: Iterator[Any]
    rows: int | None = None


def open_source(
    source: Any,
    query: str | None = None,
    *,
    columns: Sequence[str | None] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Source:
    """Open anything that holds rows.

    Parameters
    ----------
    source
        A DuckDB connection (with ``query``) or relation; an Arrow table, batch, reader, dataset or column of vectors;
        a NumPy array ``(n, d)`` of numbers; a path of a Parquet or Arrow IPC file, or of a folder or pattern of
        Parquet files; a Polars frame; anything with ``__arrow_c_stream__``.
    query
        SQL, for a connection.
    columns
        The column of the vectors, None for the only one of a list type, and others, None for no other: where the
        source can leave columns unread, the rest of them are. Left out, all columns come.
    batch_rows
        Rows in a batch, where the source lets us choose.

    Raises
    ------
    InputError
        The source is of none of these kinds, or cannot be read.
    EngineError
        DuckDB refused the query; the message holds it.
    """
    if isinstance(source, duckdb.DuckDBPyConnection):
        if query is None:
            raise InputError("a connection needs a query, for example 'SELECT emb FROM docs'")
        try:
            return _streamed(source.sql(query).to_arrow_reader(batch_rows), query)
        except (duckdb.Error, AttributeError) as error:
            raise EngineError(f"{error}\nin: {query}") from error
    if isinstance(source, duckdb.DuckDBPyRelation):
        return _streamed(source.to_arrow_reader(batch_rows), "the relation")
    if isinstance(source, str | Path):
        return _file(Path(source), columns, batch_rows)
    if isinstance(source, np.ndarray):
        return open_source(_matrix(source), batch_rows=batch_rows)
    if isinstance(source, pa.Array | pa.ChunkedArray):
        return open_source(pa.table({"vector": source}), batch_rows=batch_rows)
    if isinstance(source, pa.Table):
        return Source(source.schema, iter(source.to_batches(max_chunksize=batch_rows)), source.num_rows)
    if isinstance(source, pa.RecordBatch):
        return open_source(pa.Table.from_batches([source]), batch_rows=batch_rows)
    if isinstance(source, ds.Dataset):
        return _dataset(source, "the dataset", columns, batch_rows)
    if hasattr(source, "collect_batches"):
        return _lazy_frame(source, columns, batch_rows)
    if hasattr(source, "__arrow_c_stream__"):
        return _stream(source, batch_rows)
    raise InputError(
        f"cannot read rows from {type(source).__name__}; give a DuckDB connection and a query, a relation, "
        "an Arrow table, reader or dataset, a 2-D NumPy array, a Parquet or Arrow file, or a Polars frame"
    )


def table_query(con: duckdb.DuckDBPyConnection, query: str, columns: Sequence[str | None]) -> str:
    """Return a query as it is; for the name of a table, a query that reads no more of it than is needed.

    Parameters
    ----------
    query
        SQL, or ``table``, ``schema.table``, ``database.schema.table``, each part in double quotes where need be.
    columns
        The column of the vectors, None for the only one of a list type, and others; None for no other.

    Raises
    ------
    InputError
        The table has no such column, or several that may hold the vectors.
    EngineError
        There is no such table.
    """
    if _TABLE.fullmatch(query.strip()) is None:
        return query
    schema = open_source(con, f"FROM {query} LIMIT 0").schema
    vectors, *others = columns
    needed = [vector_column(schema, vectors), *(vector_column(schema, name) for name in others if name is not None)]
    return f"SELECT {', '.join(quoted(name) for name in needed)} FROM {query}"


def _needed(schema: Any, columns: Sequence[str | None] | None) -> list[str] | None:
    """Return the columns to read, that of the vectors first; None for all, where one is missing or all are wanted."""
    if columns is None:
        return None
    vectors, *others = columns
    found = vector_column(schema, vectors)
    wanted = [name for name in others if name is not None]
    if not set(wanted) <= set(schema.names):
        return None
    return list(dict.fromkeys([found, *(vector_column(schema, name) for name in wanted)]))


def _broken(what: object) -> Callable[[Exception], InputError]:
    return lambda error: InputError(f"{what}: cannot be read to its end ({error})")


def _stream(source: Any, batch_rows: int) -> Source:
    """Read a stream of rows, or of the values of one column of vectors."""
    try:
        reader = pa.RecordBatchReader.from_stream(source)
    except pa.ArrowInvalid:
        try:
            column = pa.chunked_array(source)
        except (pa.ArrowException, TypeError) as error:
            raise InputError(f"cannot read rows from {type(source).__name__} ({error})") from error
        return open_source(column, batch_rows=batch_rows)
    return Source(reader.schema, _guarded(iter(reader), _broken(f"the {type(source).__name__}")))


def _dataset(found: Any, what: object, columns: Sequence[str | None] | None, batch_rows: int) -> Source:
    """Stream a dataset. Its schema is that of its first file, and a file without the vectors would count as NULL rows.

    Raises
    ------
    InputError
        A file cannot be read, or has no column of the vectors.
    """
    needed = _needed(found.schema, columns)
    try:
        if needed is not None:
            _check_files(found, needed[0], what)
        terms = None if needed is None else {name: ds.field(name) for name in needed}
        batches = found.to_batches(columns=terms, batch_size=batch_rows)
        return Source(found.schema, _guarded(iter(batches), _broken(what)), found.count_rows())
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{what}: cannot be read ({error})") from error


def _streamed(reader: Any, query: str) -> Source:
    """Return what DuckDB streams; what goes wrong at a late row reaches Arrow as an OSError."""
    return Source(reader.schema, _guarded(iter(reader), lambda error: EngineError(f"{error}\nin: {query}")))


def _guarded(
    batches: Iterator[Any],
    refusal: Callable[[Exception], VecpipeError],
    kinds: tuple[type[Exception], ...] = (pa.ArrowException, OSError, duckdb.Error),
) -> Iterator[Any]:
    """Yield batches; what fails between them is raised as an error of ours."""
    try:
        yield from batches
    except kinds as error:
        raise refusal(error) from error


def _matrix(X: npt.NDArray[Any]) -> Any:
    """Return the rows of a matrix as a table with one column, ``vector``; those that lie in line are not copied."""
    if X.ndim != 2 or not X.shape[1] or X.dtype.kind not in "fiu" or X.dtype.itemsize > 8:
        raise InputError(f"expected a 2-D array of numbers (rows, dimensions), got {X.dtype} of shape {X.shape}")
    flat = pa.array(np.ascontiguousarray(X, dtype=X.dtype.newbyteorder("=")).ravel())
    return pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, X.shape[1])})


def _check_files(found: Any, column: str, what: object) -> None:
    for fragment in found.get_fragments():
        names = fragment.physical_schema.names
        if column not in names:
            raise InputError(
                f"{getattr(fragment, 'path', what)}: no column {column!r}, which other files of {what} have; "
                f"there are {', '.join(names)}"
            )


def _lazy_frame(frame: Any, columns: Sequence[str | None] | None, batch_rows: int) -> Source:
    """Stream a Polars lazy frame: its rows are never in memory together."""

    def stream() -> Iterator[Any]:
        for part in frame.collect_batches(chunk_size=batch_rows, engine="streaming"):
            yield from part.to_arrow().to_batches(max_chunksize=batch_rows)

    try:
        schema = frame.collect_schema().to_frame().to_arrow().schema
    except Exception as error:  # whatever the frame's own plan raises, and Polars is not imported here
        raise InputError(f"the lazy frame cannot be read ({error})") from error
    needed = _needed(schema, columns)
    frame = frame if needed is None else frame.select(needed)
    return Source(schema, _guarded(stream(), _broken("the lazy frame"), (Exception,)))


def _file(path: Path, columns: Sequence[str | None] | None, batch_rows: int) -> Source:
    check_name(path)
    if path.is_file() and holds_duckdb(path):
        raise InputError(f"{path} is a DuckDB database: connect to it and give a query (--query) for the vectors")
    try:
        if path.is_file() and path.suffix.lower() in ARROW_SUFFIXES:
            return _arrow_file(path, batch_rows)
        if path.is_file():
            parquet = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
            batches = parquet.iter_batches(batch_rows, columns=_needed(parquet.schema_arrow, columns))
            return Source(parquet.schema_arrow, _guarded(batches, _broken(path)), parquet.metadata.num_rows)
        files = parquet_files(path)
        if files is not None:
            return _dataset(ds.dataset(files, format="parquet"), path, columns, batch_rows)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet or Arrow IPC ({error})") from error
    if _URI.match(str(path)):
        raise InputError(f"{path}: paths are local; for other places give a pyarrow dataset, or a DuckDB query")
    raise InputError(f"{path}: no such file")


def _arrow_file(path: Path, batch_rows: int) -> Source:
    """Open an Arrow IPC file or stream; the map stays open for as long as its batches are in use."""
    file = pa.memory_map(str(path))
    try:
        reader = pa.ipc.open_file(file)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    except pa.ArrowInvalid:
        file.seek(0)
        reader = pa.ipc.open_stream(file)
        batches = list(reader)
    cut = (batch.slice(at, batch_rows) for batch in batches for at in range(0, batch.num_rows, batch_rows))
    return Source(reader.schema, cut, sum(batch.num_rows for batch in batches))


def vector_column(schema: Any, column: str | None) -> str:
    """Return the name of the column that holds the vectors: the one named, or the only one of a list type.

    Raises
    ------
    InputError
        There is no such column, or several by that name, or none, or several of them to choose from.
    """
    names = list(schema.names)
    if column is not None:
        if column not in names:
            raise InputError(f"no column {column!r}; there are {', '.join(names)}")
        if names.count(column) > 1:
            raise InputError(f"{names.count(column)} columns are named {column!r}; give them names of their own")
        return column
    lists = [field.name for field in schema if _holds_lists(field.type)]
    if len(lists) != 1:
        found = (
            f"{len(lists)} columns hold lists ({', '.join(lists)})"
            if lists
            else f"no column holds lists of numbers ({', '.join(f'{one.name}: {one.type}' for one in schema)})"
        )
        raise InputError(
            f"cannot tell which column holds the vectors: {found}; name it with column=, or select no other list"
        )
    return str(lists[0])


def _holds_lists(kind: Any) -> bool:
    """Whether a type is a list or list view, not of texts or lists, also as a tensor or behind a dictionary."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (is_list(kind) or is_list_view(kind)):
        return False
    element = kind.value_type
    return not (pa.types.is_nested(element) or pa.types.is_string(element) or pa.types.is_large_string(element))
