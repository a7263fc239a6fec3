"""LanceDB tables in DuckDB: read in place through Arrow, with the columns and rows that a statement needs alone.

Nothing is installed into DuckDB and nothing is copied: a table is a pyarrow dataset, which DuckDB scans with its
projections and filters pushed down. Lance itself is imported when a table is attached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import duckdb
import pyarrow as pa

from vecpipe.columns.codes import from_codes
from vecpipe.engines.duckdb import catalog, connection
from vecpipe.engines.lancedb.backfill import column_array, column_type
from vecpipe.engines.lancedb.catalog import TABLE, save_model
from vecpipe.engines.lancedb.host import asking
from vecpipe.engines.lancedb.marks import Mark, mark_of
from vecpipe.engines.lancedb.snapshots import snapshot
from vecpipe.errors import CapabilityError, EngineError, InputError, VecpipeError
from vecpipe.model import Model
from vecpipe.model_names import name_and_version
from vecpipe.sql_names import quoted

if TYPE_CHECKING:
    from lancedb.db import DBConnection

WriteMode = Literal["create", "overwrite", "append"]
MODES: tuple[WriteMode, ...] = ("create", "overwrite", "append")
_BATCH_ROWS = 8_192
_ATTACHED = """
    SELECT coalesce(path, '') <> '' OR database_name = current_database()
    FROM duckdb_databases() WHERE database_name = $1
"""


def attach_lance(
    con: duckdb.DuckDBPyConnection,
    database: DBConnection | str | Path,
    *,
    name: str = "lance",
    tables: Sequence[str] | None = None,
) -> list[str]:
    """Make the tables of a LanceDB database tables of a DuckDB connection: ``FROM lance.docs``.

    Columns and comparisons of columns with constants are pushed down to Lance; vectors come as ``FLOAT[n]``, so that
    all ``vec_*`` functions and macros work on them. Each table is read at the version it has now; call this again to
    move on. The tables are seen by this connection and by what vecpipe runs for it, not by its cursors. The connection
    must not have an unfinished result.

    Parameters
    ----------
    con
        A connection that vecpipe was registered on.
    database
        A LanceDB connection, or the path or URI of one.
    name
        What the database is called in DuckDB.
    tables
        Which tables; left out, all of them.

    Returns
    -------
    list of str
        The names of the tables, such as ``lance.docs``.

    Raises
    ------
    EngineError
        LanceDB or DuckDB refused, for example because another database has that name.
    """
    import lancedb

    with asking(f"open {database}"):
        db = lancedb.connect(database) if isinstance(database, str | Path) else database
        found = list(_names(db)) if tables is None else list(tables)
        datasets = {f"{name}.{table}": snapshot(db.open_table(table)).dataset for table in found}
    for table, dataset in zip(found, datasets.values(), strict=True):
        _check_readable(table, dataset.schema)
    cursor = connection.lend(con, {_source(view): dataset for view, dataset in datasets.items()})
    try:
        here = catalog.run(cursor, _ATTACHED, [name]).fetchall()
        if here and here[0][0]:
            raise EngineError(f"DuckDB has a database called {name!r} already; attach LanceDB with another name=")
        if not here:
            catalog.run(cursor, f"ATTACH ':memory:' AS {quoted(name)}")
        for view, table in zip(datasets, found, strict=True):
            catalog.run(
                cursor, f"CREATE OR REPLACE VIEW {quoted(name)}.{quoted(table)} AS FROM {quoted(_source(view))}"
            )
    finally:
        cursor.close()
    return list(datasets)


def write_lance(
    con: duckdb.DuckDBPyConnection,
    sql: str,
    database: DBConnection | str | Path,
    table: str,
    *,
    mode: WriteMode = "create",
    models: Mapping[str, str] | None = None,
) -> int:
    """Stream what a query returns into a LanceDB table, a batch at a time.

    Parameters
    ----------
    con
        A connection that vecpipe was registered on.
    sql
        A SELECT. Cast vectors to ``FLOAT[n]``, which LanceDB can search.
    database
        A LanceDB connection, or the path or URI of one.
    table
        Name of the table there.
    mode
        create (refused where the table exists), overwrite or append.
    models
        For columns that ``vec_encode`` or ``vec_transform`` made, the name of the model: it is stored in the LanceDB
        database too and the column says which one wrote it, so that ``vecpipe.lancedb.search`` can check queries.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    EngineError
        DuckDB refused the query, or LanceDB the rows; with mode create or append nothing is seen of them then.
    InputError
        An unknown mode, or a column of ``models`` that the query does not return.
    ModelNotFoundError
        The DuckDB catalog has no such model.
    """
    import lancedb

    if mode not in MODES:
        raise InputError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    named = {
        column: (name_and_version(model)[0], catalog.load_model(con, model)) for column, model in (models or {}).items()
    }
    try:
        reader = con.sql(sql).to_arrow_reader(_BATCH_ROWS)
    except (duckdb.Error, AttributeError) as error:
        raise EngineError(f"{error}\nin: {sql}") from error
    fitted = {column: model for column, (_, model) in named.items()}
    schema = _stored_schema(reader.schema, fitted)
    stream = _Stream(reader, sql, {column: model for column, model in fitted.items() if model.codec is not None})
    try:
        with asking(f"write the table {table!r}"):
            db = lancedb.connect(database) if isinstance(database, str | Path) else database
            for column, (name, model) in named.items():
                mark = Mark(name, save_model(db, name, model), model.hash, model.spec)
                at = schema.get_field_index(column)
                schema = schema.set(at, schema.field(at).with_metadata(mark.metadata()))
            data = pa.RecordBatchReader.from_batches(schema, stream.batches(schema))
            if mode == "append":
                target = db.open_table(table)
                _check_marks(target.schema, schema, table)
                target.add(data)
            else:
                db.create_table(table, data, mode=mode)
    except EngineError:
        if stream.error is not None:  # what went wrong on our side, not how Arrow carried it to LanceDB and back
            raise stream.error from None
        raise
    return stream.rows


class _Stream:
    """What a query returns, codes in the type that LanceDB is to store, counted on the way."""

    def __init__(self, reader: Any, sql: str, coded: Mapping[str, Model]) -> None:
        self._reader = reader
        self._sql = sql
        self._coded = coded
        self.rows = 0
        self.error: VecpipeError | None = None

    def batches(self, schema: Any) -> Iterator[Any]:
        """Yield record batches of the schema."""
        try:
            for batch in self._reader:
                yield pa.record_batch([self._column(batch, field.name) for field in schema], schema=schema)
                self.rows += batch.num_rows
        except duckdb.Error as error:
            self.error = EngineError(f"{error}\nin: {self._sql}")
            raise
        except VecpipeError as error:
            self.error = error
            raise

    def _column(self, batch: Any, name: str) -> Any:
        model = self._coded.get(name)
        if model is None:
            return batch.column(name)
        codes, valid = from_codes(batch.column(name), model.bytes_per_vector, column=name)
        return column_array(column_type(model), codes, valid)


def _names(db: Any) -> Iterator[str]:
    """Yield the names of all tables, which LanceDB lists in pages; not the catalog of models."""
    page = None
    while True:
        listed = db.list_tables(page_token=page)
        yield from (name for name in listed.tables if name != TABLE)
        page = listed.page_token
        if not page:
            return


def _source(view: str) -> str:
    return f"_vec_lance_{view}"


def _check_readable(table: str, schema: Any) -> None:
    halves = [field.name for field in schema if "halffloat" in str(field.type)]
    if halves:
        raise CapabilityError(
            f"table {table!r} has float16 columns ({', '.join(halves)}), which DuckDB does not read from Arrow; "
            "leave it out with tables=, or store float32"
        )


def _stored_schema(schema: Any, named: Mapping[str, Model]) -> Any:
    """Return the schema to write: codes as the type LanceDB is to store them in."""
    for column, model in named.items():
        at = schema.get_field_index(column)
        if at < 0:
            raise InputError(f"models names column {column!r}, but the query returns {', '.join(schema.names)}")
        kind = schema.field(at).type
        if model.codec is None and kind != column_type(model):
            raise InputError(
                f"column {column!r} is {kind}, but {model.spec!r} writes {model.output_type}; "
                "cast it to that in the query"
            )
        schema = schema.set(at, schema.field(at).with_type(column_type(model)))
    return schema


def _check_marks(there: Any, here: Any, table: str) -> None:
    """Refuse to append what one model wrote to a column that another one wrote."""
    for field in here:
        new, at = mark_of(field), there.get_field_index(field.name)
        old = mark_of(there.field(at)) if at >= 0 else None
        if old is not None and (new is None or new.hash != old.hash):
            found = f"model {new.name!r} (hash {new.hash[:12]})" if new else "a query that names no model"
            raise InputError(
                f"column {field.name!r} of {table!r} was written by model {old.name!r} version {old.version} "
                f"(hash {old.hash[:12]}), the rows to append by {found}; pass models= with the model that wrote it"
            )
