"""Where the rows end up: a Parquet file, an Arrow IPC file, a table of a DuckDB database. Whole, or not at all.

A target carries a record of the run that made it (in the file's metadata, in the table's comment), so that the same
run can be told from another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vecpipe.errors import EngineError, InputError
from vecpipe.etl.tables import PARQUET_SUFFIXES, is_duckdb, split_name
from vecpipe.etl.types import refuse_unfit, without_halves
from vecpipe.files import replacing
from vecpipe.paths import ARROW_SUFFIXES, check_name
from vecpipe.sql_names import quoted_table

_KEY = b"vecpipe"
_HAS_SCHEMA = """
    SELECT 1 FROM duckdb_schemas()
    WHERE database_name = current_database() AND lower(schema_name) = lower($1)
"""
_HAS_VIEW = """
    SELECT 1 FROM duckdb_views()
    WHERE database_name = current_database() AND lower(schema_name) = lower($1) AND lower(view_name) = lower($2)
"""
_COMMENT = """
    SELECT comment FROM duckdb_tables()
    WHERE database_name = current_database() AND lower(schema_name) = lower($1) AND lower(table_name) = lower($2)
"""


class Target(Protocol):
    """A place for the result.

    Attributes
    ----------
    name : str
        For messages.
    folder : Path
        Where the parts of an unfinished run are kept.
    """

    name: str
    folder: Path

    def record(self) -> dict[str, Any] | None:
        """Return the record of the run that made what is there: empty for something else, None for nothing."""

    def prepared(self, schema: Any) -> Any:
        """Return the schema as this target can hold it; ``InputError`` for a column that it cannot hold."""

    def write(self, schema: Any, batches: Iterator[Any], record: dict[str, Any], *, replace: bool) -> None:
        """Put all rows in place in one step; ``replace`` says whether something may be there."""


def open_target(path: str | Path, table: str | None = None) -> Target:
    """Return the target for a path, by its suffix.

    Raises
    ------
    InputError
        The suffix says nothing, the folder is missing, or a table is named where there can be none.
    """
    path = Path(path)
    check_name(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if is_duckdb(path):
        if table is None:
            raise InputError(f"{path} is a DuckDB database: say into which table of it")
        return DuckDBTarget(path, table)
    if table is not None:
        raise InputError(f"{path} is not a DuckDB database, so it cannot hold a table {table!r}")
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return ParquetTarget(path)
    if path.suffix.lower() in ARROW_SUFFIXES:
        return ArrowTarget(path)
    raise InputError(f"{path}: expected a name ending in .parquet, .arrow, .feather or .duckdb")


def record_in(metadata: Any) -> dict[str, Any]:
    """Return the record of the run that made a file from its schema's metadata; empty where there is none."""
    try:
        found = json.loads((metadata or {}).get(_KEY, b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class _FileTarget:
    """What files share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.folder = path.with_name(path.name + ".partial")

    def record(self) -> dict[str, Any] | None:
        """Return the record in the file's metadata."""
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder; give the name of a file")
        if not self.path.exists():
            return None
        try:
            return record_in(self._metadata())
        except (pa.ArrowException, OSError):
            return {}

    def prepared(self, schema: Any) -> Any:
        """Return the schema as it is."""
        return schema

    def _metadata(self) -> Any:
        raise NotImplementedError


class ParquetTarget(_FileTarget):
    """A Parquet file, one row group a part."""

    def _metadata(self) -> Any:
        return pq.read_schema(self.path).metadata

    def prepared(self, schema: Any) -> Any:
        """Return the schema as it is, if Parquet has all of its types."""
        refuse_unfit(schema, lambda one: pq.ParquetWriter(pa.BufferOutputStream(), one).close(), "a Parquet file")
        return schema

    def write(self, schema: Any, batches: Iterator[Any], record: dict[str, Any], *, replace: bool) -> None:
        """Write beside the parts, then move."""
        texts = (pa.types.is_string, pa.types.is_large_string)
        words = [field.name for field in schema if any(test(field.type) for test in texts)]
        with (
            replacing(self.path, self.folder) as draft,
            pq.ParquetWriter(draft, _marked(schema, record), compression="zstd", use_dictionary=words) as writer,
        ):
            for rows in _grouped(batches):
                writer.write_table(rows, row_group_size=len(rows))


def _grouped(batches: Iterator[Any], rows: int = 32_768, size: int = 64 << 20) -> Iterator[Any]:
    """Join batches to row groups of a useful size."""
    held: list[Any] = []
    for batch in batches:
        held.append(batch)
        if sum(b.num_rows for b in held) >= rows or sum(b.nbytes for b in held) >= size:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


class ArrowTarget(_FileTarget):
    """An Arrow IPC file (Feather)."""

    def _metadata(self) -> Any:
        with pa.memory_map(str(self.path)) as file:
            return pa.ipc.open_file(file).schema.metadata

    def write(self, schema: Any, batches: Iterator[Any], record: dict[str, Any], *, replace: bool) -> None:
        """Write beside the parts, then move."""
        with (
            replacing(self.path, self.folder) as draft,
            pa.OSFile(str(draft), "wb") as file,
            pa.ipc.new_file(file, _marked(schema, record)) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)


def _marked(schema: Any, record: dict[str, Any]) -> Any:
    return schema.with_metadata({**(schema.metadata or {}), _KEY: json.dumps(record).encode()})


class DuckDBTarget:
    """A table of a DuckDB database, made in one transaction."""

    def __init__(self, path: Path, table: str) -> None:
        self.path, self.table = path, table
        self._table = quoted_table(table)
        if not self._table:
            raise InputError(f"{path}: {table!r} is no name for a table; say into which table of it")
        self.name = f"{table} in {path}"
        self.folder = path.with_name(f"{path.name}.{''.join(c if c.isalnum() else '_' for c in table)}.partial")

    def record(self) -> dict[str, Any] | None:
        """Return the record in the table's comment."""
        schema, table = split_name(self.table)
        if not self.path.exists():
            if schema.lower() != "main":
                raise InputError(f"{self.path}: a new database has no schema {schema!r}; CREATE SCHEMA it first")
            return None
        con = self._connect(read_only=True)
        try:
            if con.execute(_HAS_SCHEMA, [schema]).fetchone() is None:
                raise InputError(f"{self.path}: there is no schema {schema!r}; CREATE SCHEMA it first")
            if con.execute(_HAS_VIEW, [schema, table]).fetchone() is not None:
                raise InputError(f"{self.name} is a view; choose another name")
            row = con.execute(_COMMENT, [schema, table]).fetchone()
        finally:
            con.close()
        return None if row is None else record_in({_KEY: row[0] or "{}"})

    def prepared(self, schema: Any) -> Any:
        """Return the schema with half floats widened: DuckDB cannot scan them from Arrow."""
        seen: dict[str, str] = {}
        for name in schema.names:
            other = seen.setdefault(name.lower(), name)
            if other != name:
                raise InputError(f"{other!r} and {name!r} are one name in DuckDB, which would change one of them")
        wide = pa.schema([field.with_type(without_halves(field.type)) for field in schema], schema.metadata)
        with duckdb.connect() as con:
            empty = pa.RecordBatchReader.from_batches
            refuse_unfit(wide, lambda one: con.from_arrow(empty(one, [])).fetchall(), "a DuckDB table")
        return wide

    def write(self, schema: Any, batches: Iterator[Any], record: dict[str, Any], *, replace: bool) -> None:
        """Create the table and its comment in one transaction."""
        con = self._connect(read_only=False)
        comment = json.dumps(record).replace("'", "''")
        try:
            con.register("vecpipe_parts", pa.RecordBatchReader.from_batches(schema, batches))
            con.begin()
            con.execute(f"CREATE {'OR REPLACE ' if replace else ''}TABLE {self._table} AS FROM vecpipe_parts")
            con.execute(f"COMMENT ON TABLE {self._table} IS '{comment}'")
            con.commit()
        except duckdb.Error as error:
            raise EngineError(f"{self.name}: the finished rows could not be stored ({error})") from error
        finally:
            con.close()

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        try:
            return duckdb.connect(str(self.path), read_only=read_only)
        except duckdb.Error as error:
            raise EngineError(f"{self.path}: DuckDB cannot open it ({error})") from error
