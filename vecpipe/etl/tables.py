"""Tables on disk, read from any row on in a stable order: Parquet, Arrow IPC, DuckDB tables.

A table is read in parts of a fixed number of positions, so that a later run can start at any part. Positions are row
numbers in files and row ids in a DuckDB table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vecpipe.errors import EngineError, InputError
from vecpipe.etl.types import file_type
from vecpipe.paths import ARROW_SUFFIXES, check_name, holds_duckdb
from vecpipe.sql_names import name_parts, quoted, quoted_table

BLOCK_ROWS = 8_192
"""Rows that are computed and held at a time."""

DUCKDB_SUFFIXES = (".duckdb", ".ddb", ".db")
PARQUET_SUFFIXES = (".parquet", ".pq")
DUCKDB_MEMORY = "256MB"
"""What DuckDB may hold while a table streams through: its default is most of the machine, kept as a cache."""

_BUFFER_BYTES = 1 << 20


class Table(Protocol):
    """A table whose rows come in the same order each time it is read.

    Attributes
    ----------
    schema : pyarrow.Schema
    rows : int
        Rows there are.
    """

    schema: Any
    rows: int

    @property
    def positions(self) -> int:
        """Where the last row ends; more than ``rows`` where rows have been deleted."""

    def fingerprint(self, columns: Sequence[str]) -> dict[str, Any]:
        """Return what tells this state of the table from another one, as JSON values."""

    def read(self, columns: Sequence[str], part_rows: int, first: int) -> Iterator[tuple[int, Any]]:
        """Yield ``(part, batch)`` from part ``first`` on; ``(part, None)`` once a part is complete."""

    def close(self) -> None:
        """Let go of files and connections."""


def is_duckdb(path: Path) -> bool:
    """Whether a path is a DuckDB database: by its first bytes where there is a file, else by its suffix."""
    if path.is_file() and path.stat().st_size:
        return holds_duckdb(path)
    return path.suffix.lower() in DUCKDB_SUFFIXES


def open_table(path: str | Path, table: str | None = None, *, into_duckdb: bool = False) -> Table:
    """Open a Parquet file, an Arrow IPC file or stream, or a table of a DuckDB database.

    Parameters
    ----------
    path, table
        ``table`` for a database alone.
    into_duckdb
        Whether DuckDB reads the rows: it gets its own types as they are, others get what they can read.

    Raises
    ------
    InputError
        There is no such file or table, or it cannot be read.
    """
    path = Path(path)
    check_name(path)
    if not path.is_file():
        what = "is a folder, and one file is needed" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}")
    if is_duckdb(path):
        if table is None:
            raise InputError(f"{path} is a DuckDB database: say which table of it")
        return DuckDBTable(path, table, own_types=into_duckdb)
    if table is not None:
        raise InputError(f"{path} is not a DuckDB database, so it has no table {table!r}")
    try:
        if path.suffix.lower() in ARROW_SUFFIXES:
            return ArrowTable(path)
        return ParquetTable(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet, Arrow IPC or DuckDB ({error})") from error


class _FileTable:
    """What files share: rows by number, size and time of change as the fingerprint."""

    schema: Any
    rows: int

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def positions(self) -> int:
        """As many as rows."""
        return self.rows

    def fingerprint(self, columns: Sequence[str]) -> dict[str, Any]:
        """Return size, time of change, rows and schema."""
        found = os.stat(self.path)
        return {
            "path": str(self.path.resolve()),
            "size": found.st_size,
            "changed": found.st_mtime_ns,
            "rows": self.rows,
            "schema": schema_text(self.schema),
        }

    def read(self, columns: Sequence[str], part_rows: int, first: int) -> Iterator[tuple[int, Any]]:
        """Yield blocks of at most ``BLOCK_ROWS`` rows; see ``Table``."""
        start = first * part_rows
        if start >= self.rows:
            return
        try:
            yield from _cut(self._from(start, columns), first, part_rows)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.path}: cannot be read to its end ({error})") from error

    def _from(self, start: int, columns: Sequence[str]) -> Iterator[Any]:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file."""


def _cut(batches: Iterator[Any], part: int, part_rows: int) -> Iterator[tuple[int, Any]]:
    """Cut a stream into parts of ``part_rows`` rows and these into blocks, wherever the batches end."""
    held: list[Any] = []
    waiting = done = 0
    for batch in batches:
        while batch.num_rows:
            taken = min(BLOCK_ROWS - waiting, part_rows - done - waiting, batch.num_rows)
            held.append(batch.slice(0, taken))
            batch = batch.slice(taken)
            waiting += taken
            if waiting == BLOCK_ROWS or done + waiting == part_rows:
                yield part, _joined(held)
                done, waiting, held = done + waiting, 0, []
            if done == part_rows:
                yield part, None
                part, done = part + 1, 0
    if held:
        yield part, _joined(held)
    if held or done:
        yield part, None


def _joined(batches: list[Any]) -> Any:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


class ParquetTable(_FileTable):
    """A Parquet file; row groups before the first row wanted are skipped unread."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        metadata = self._file.metadata
        self.schema = self._file.schema_arrow
        self.rows = int(metadata.num_rows)
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def _from(self, start: int, columns: Sequence[str]) -> Iterator[Any]:
        group = int(np.searchsorted(self._ends, start, side="right"))
        skip = start - (int(self._ends[group - 1]) if group else 0)
        groups = list(range(group, len(self._ends)))
        for batch in self._file.iter_batches(BLOCK_ROWS, row_groups=groups, columns=list(columns)):
            dropped = min(skip, batch.num_rows)
            skip -= dropped
            yield batch.slice(dropped).select(list(columns))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class ArrowTable(_FileTable):
    """An Arrow IPC file or stream, mapped into memory: rows before the first one wanted are not touched."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._map = pa.memory_map(str(path))
        try:
            reader = pa.ipc.open_file(self._map)
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except pa.ArrowInvalid:
            self._map.seek(0)
            reader = pa.ipc.open_stream(self._map)
            self._batches = list(reader)
        self.schema = reader.schema
        self.rows = sum(batch.num_rows for batch in self._batches)

    def _from(self, start: int, columns: Sequence[str]) -> Iterator[Any]:
        for batch in self._batches:
            dropped = min(start, batch.num_rows)
            start -= dropped
            yield batch.slice(dropped).select(list(columns))

    def close(self) -> None:
        """Let go of the file."""
        self._batches = []
        self._map.close()


class DuckDBTable:
    """A table of a DuckDB database, in the order of its row ids.

    With ``own_types`` its columns travel in Arrow types that only DuckDB reads, and no value or type is lost on the
    way to another table; without it, those that have no counterpart are cast (``file_type``).
    """

    def __init__(self, path: Path, table: str, *, own_types: bool = False) -> None:
        self.path, self.table = path, table
        self._name = quoted_table(table)
        self._casts: dict[str, str] = {}
        try:
            self._con = duckdb.connect(str(path), read_only=True)
        except duckdb.Error as error:
            raise EngineError(f"{path}: DuckDB cannot open it for reading ({error})") from error
        try:
            self._con.execute("SET preserve_insertion_order = true")
            self._con.execute(f"SET memory_limit = '{DUCKDB_MEMORY}'")
            self._con.execute(f"SET arrow_lossless_conversion = {'true' if own_types else 'false'}")
            columns = self._con.sql(f"FROM {self._name} LIMIT 0")
            if any(name.lower() == "rowid" for name in columns.columns):
                raise InputError(
                    f"{table} in {path} has a column 'rowid', which hides the row ids that its order is known by; "
                    "rename the column, or COPY the table to Parquet"
                )
            if not own_types:
                kinds = zip(columns.columns, columns.types, strict=True)
                self._casts = {name: text for name, kind in kinds if (text := file_type(kind))}
            self.schema = self._con.sql(f"{self._select(columns.columns)} LIMIT 0").to_arrow_table().schema
            count, last = self._one(f"SELECT count(*), coalesce(max(rowid), -1) FROM {self._name}")
        except duckdb.BinderException as error:
            self._con.close()
            raise InputError(
                f"{table} in {path} has no row ids (a view?), so its order is not certain; "
                "CREATE TABLE from it first, or COPY it to Parquet"
            ) from error
        except duckdb.Error as error:
            self._con.close()
            raise InputError(f"{path}: table {table!r} cannot be read ({error})") from error
        except InputError:
            self._con.close()
            raise
        self.rows, self._positions = int(count), int(last) + 1

    @property
    def positions(self) -> int:
        """The last row id, plus one."""
        return self._positions

    def _select(self, columns: Sequence[str]) -> str:
        """Return the query for columns, cast where a file cannot hold their type."""
        terms = [
            f"CAST({quoted(name)} AS {self._casts[name]}) AS {quoted(name)}" if name in self._casts else quoted(name)
            for name in columns
        ]
        return f"SELECT {', '.join(terms)} FROM {self._name}"

    def _one(self, sql: str) -> Any:
        (row,) = self._con.sql(sql).fetchall()
        return row

    def fingerprint(self, columns: Sequence[str]) -> dict[str, Any]:
        """Return rows, schema and a checksum of the columns: the file itself changes with any other table of it."""
        names = ", ".join(quoted(name) for name in columns)
        (checksum,) = self._one(f"SELECT bit_xor(hash(rowid, {names})) FROM {self._name}")
        return {
            "path": str(self.path.resolve()),
            "table": self.table,
            "rows": self.rows,
            "positions": self.positions,
            "content": str(checksum),
            "schema": schema_text(pa.schema([self.schema.field(name) for name in columns])),
        }

    def read(self, columns: Sequence[str], part_rows: int, first: int) -> Iterator[tuple[int, Any]]:
        """Yield blocks of at most ``BLOCK_ROWS`` rows, one query a part; see ``Table``."""
        edges = range(first * part_rows, self.positions + part_rows, part_rows)
        for part, (start, stop) in enumerate(pairwise(edges), first):
            sql = f"{self._select(columns)} WHERE rowid >= {start} AND rowid < {stop}"
            try:
                reader = self._con.sql(sql).to_arrow_reader(BLOCK_ROWS)
                for _, block in _cut(iter(reader), part, part_rows):
                    if block is not None:
                        yield part, block
            except (duckdb.Error, pa.ArrowException) as error:
                raise EngineError(f"{error}\nin: {sql}") from error
            yield part, None

    def close(self) -> None:
        """Close the connection."""
        self._con.close()


def split_name(name: str) -> tuple[str, str]:
    """Return schema and table of ``table`` or ``schema.table``."""
    *schema, table = name_parts(name) or [name]
    return ".".join(schema) or "main", table


def schema_text(schema: Any) -> list[str]:
    """Return names and types, without metadata."""
    return [f"{field.name}: {field.type}" for field in schema]
