"""Resident indexes of DuckDB tables: built from committed rows, searched for row numbers that the statement looks up.

What a search returns is always read from the table, in the transaction of the search: a row that was deleted is not
there, a row that was changed has another number and is found with the rows added since, which are scored as they are.
An index that can no longer tell which rows those are refuses to answer.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vecpipe.cells import CellModel
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.duckdb import catalog
from vecpipe.engines.duckdb.index_checks import TableIndex, TableState, again, check_all_rows, state_of
from vecpipe.engines.duckdb.places import OpenCursor, go
from vecpipe.errors import CapabilityError, EngineError, InputError, ModelFormatError, ModelNotFoundError, SpecError
from vecpipe.kernels import one_blas_thread
from vecpipe.ordered import in_order
from vecpipe.rules import rows_named
from vecpipe.search.index import Index, has_cells, marks_of
from vecpipe.settings import INDEXES
from vecpipe.sources import open_source
from vecpipe.sql_names import quoted, quoted_table

_PATH = "SELECT path, readonly FROM duckdb_databases() WHERE database_name = $1"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


class Indexes:
    """The indexes of one open database.

    Parameters
    ----------
    open_cursor
        Opens a cursor on the database.
    newest
        The newest models of its names.
    """

    def __init__(self, open_cursor: OpenCursor, newest: catalog.Newest) -> None:
        self._open = open_cursor
        self._newest = newest
        self._held: dict[tuple[str, str], TableIndex] = {}  # by database, which may be an attached one, and name
        self._seen: dict[tuple[str, str], tuple[int, TableState | None]] = {}  # when its table was last looked at
        self._lock = threading.RLock()

    def build(self, name: str, source: str, model_name: str, column: str, place: str) -> TableIndex:
        """Read a table in one transaction, hold its codes, and save them beside a database that is a file."""
        cursor = self._open(place)
        try:
            cursor.begin()
            [(database,)] = catalog.run(cursor, "SELECT current_database()").fetchall()
            path, writable = self._file(name, database)
            model, _ = catalog.newest_model(cursor, model_name)
            if model.codec is None:
                raise CapabilityError(f"an index holds codes, but the model {model.spec!r} ends in no codec")
            [(since,)] = catalog.run(cursor, "SELECT txid_current()").fetchall()
            _, state = state_of(cursor, source, database, place, in_file=path is not None)
            sql = f"SELECT rowid AS row, {quoted(column)} AS v FROM {quoted_table(source)}"
            columns = catalog.run(cursor, f"FROM {quoted_table(source)} LIMIT 0").description
            if "rowid" in {str(described[0]).lower() for described in columns}:
                raise InputError(
                    f"vec_index: {source} has a column called rowid, which hides the numbers of its rows that an index "
                    "needs: give the column another name"
                )
            cells = CellModel(model) if has_cells(model) else None
            rows, codes, marks, places, others = [], [], [], [], []
            size = 0

            def encode(batch: Any, first: int) -> tuple[Any, ...]:
                read = to_rows(batch.column("v"), column=column, dim=model.dim, first_row=first)
                with rows_named(column, first):
                    packed, valid = model.encode(read.values, read.valid, finite=True)
                cell = None
                if cells is not None:
                    cell, there = cells.assign(read.values, read.valid)
                    valid = there if valid is None else valid & there
                kept = np.arange(len(read)) if valid is None else np.flatnonzero(valid)
                numbers = batch.column("row").to_numpy()
                rest, numbers = np.delete(numbers, kept), numbers[kept]
                marked = marks_of(read.values[kept])
                if len(kept) < len(read):
                    packed, cell = packed[kept], None if cell is None else cell[kept]
                return numbers, packed, marked, cell, rest

            def calls() -> Iterator[Callable[[], tuple[Any, ...]]]:
                first = 0
                for batch in open_source(cursor, sql).batches:
                    if batch.num_rows:
                        yield partial(encode, batch, first)
                    first += batch.num_rows

            threads = os.cpu_count() or 1
            with one_blas_thread(), ThreadPoolExecutor(threads, "vecpipe-index") as pool:
                for part in in_order(pool, calls(), 2 * threads):
                    assert part is not None
                    number, packed, marked, cell, rest = part
                    rows.append(number)
                    codes.append(packed)
                    marks.append(marked)
                    others.append(rest)
                    if cell is not None:
                        places.append(cell)
                    size += packed.nbytes
                    self._refuse_too_much((database, name), size)
            cursor.commit()
        finally:
            cursor.close()
        index = Index.of(model, rows, codes, marks, places)
        last = int(index.rows.max(initial=-1))
        uncoded = sum(int(np.count_nonzero(rest <= last)) for rest in others)
        found, key = TableIndex(index, source, column, int(since), uncoded, path is not None), (database, name)
        with self._lock:
            self._refuse_too_much(key, index.nbytes)
        if path is not None and writable:  # searches go on meanwhile
            index.save(path, {"source": source, "column": column, "uncoded": uncoded})
        with self._lock:
            self._held[key], self._seen[key] = found, (found.since, state)
        return found

    def drop(self, name: str, database: str) -> bool:
        """Forget an index, in memory and beside the database; return whether there was one."""
        path, writable = self._file(name, database)
        if path is not None and path.exists() and not writable:
            raise EngineError(
                f"index {name!r} is not dropped: database {database} is read-only here, and so is its file {path}"
            )
        with self._lock:
            there = self._held.pop((database, name), None) is not None
            self._seen.pop((database, name), None)
        if path is not None and path.exists():
            path.unlink()
            there = True
        return there

    def get(self, name: str, database: str) -> TableIndex:
        """Return an index of a database, mapping its file where it is not in memory yet.

        Raises
        ------
        ModelNotFoundError
            There is none of that name.
        """
        with self._lock:
            found = self._held.get((database, name))
            if found is not None:
                return found
            path, _ = self._file(name, database)
            if path is None or not path.exists():
                names = ", ".join(sorted(other for where, other in self._held if where == database)) or "none"
                raise ModelNotFoundError(
                    f"no index of database {database} is named {name!r} (in memory: {names}); "
                    f"make it with SELECT vec_index('{name}', 'table', 'model', emb := 'column')"
                )
            index, about = Index.load(path)
            try:
                found = TableIndex(index, str(about["source"]), str(about["column"]), -1, int(about["uncoded"]), True)
            except (KeyError, TypeError, ValueError) as error:
                raise ModelFormatError(f"{path}: not a readable index ({error!r})") from error
            self._refuse_too_much((database, name), index.nbytes)
            self._held[database, name] = found
            return found

    def all(self) -> dict[tuple[str, str], TableIndex]:
        """Return the indexes in memory by database and name."""
        with self._lock:
            return dict(sorted(self._held.items()))

    def check_model(self, name: str, found: TableIndex, model_name: str, transaction: int, place: str) -> None:
        """Refuse where an index was made with another model than the newest of a name."""
        newest, _ = self._newest(model_name, transaction, place)
        if newest.hash != found.index.model.hash:
            raise EngineError(f"index {name!r} was made with another model than {model_name!r} is now; {again(found)}")

    def check_table(
        self, name: str, database: str, found: TableIndex, source: str, transaction: int, place: str
    ) -> None:
        """Refuse where a table is not the one that an index was made of, or its rows have been numbered anew.

        A table is looked at when there have been other transactions since the last search. Its rows are all read where
        that is not enough: at the first search by an index from a file, and after a checkpoint that changed the
        database's file.
        """
        key = database, name
        with self._lock:
            then, known = self._seen.get(key, (-1, None))
            if known is not None and known.here and then <= transaction <= then + 1 and source == found.source:
                self._seen[key] = transaction, known
                return
        cursor = self._open("")
        try:
            now, state = state_of(cursor, source, database, place, in_file=found.in_file)
            if known is not None and state is not None and state.database != known.database:
                with self._lock:
                    self._held.pop(key, None)
                    self._seen.pop(key, None)
                raise EngineError(f"index {name!r} was in memory for another database {database}: search again")
            if known is not None and (state is None or state.table != known.table):
                raise EngineError(
                    f"index {name!r} was made of the table {found.source}, and {source} is another table now; "
                    f"{again(found)}"
                )
            if state is None or state != known:
                go(cursor, place)
                check_all_rows(cursor, found, source)
        finally:
            cursor.close()
        with self._lock:
            self._seen[key] = max(now, transaction), state

    def _refuse_too_much(self, key: tuple[str, str], size: int) -> None:
        limit = INDEXES.read()
        others = sum(held.index.nbytes for other, held in self._held.items() if other != key)
        if size + others > limit:
            raise EngineError(
                f"index {key[1]!r}: {(size + others) / 1e6:,.0f} MB of indexes would be held, more than "
                f"{limit / 1e6:,.0f} MB; take a model with shorter codes, drop one with vec_index_drop(name), or set "
                "VECPIPE_INDEX_BYTES to more"
            )

    def _file(self, name: str, database: str) -> tuple[Path | None, bool]:
        """Return where an index is saved, None for a database in memory, and whether that may be written."""
        if not _NAME.fullmatch(name):
            raise InputError(f"index name {name!r}: expected letters, digits, - and _, at most 100")
        cursor = self._open("")
        try:
            rows = catalog.run(cursor, _PATH, [database]).fetchall()
        finally:
            cursor.close()
        if not rows or not rows[0][0]:
            return None, False
        path, read_only = rows[0]
        return Path(f"{path}.{name}.vecindex"), not read_only


def index_name(name: Any) -> str:
    """Return the name of an index, or say that there is none."""
    if name is None:
        raise SpecError("the name of an index is NULL; give the name that vec_index was called with")
    return str(name)
