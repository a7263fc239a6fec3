"""Whether a resident index still speaks of the table that it is searched for; where that cannot be told, it refuses.

Rows keep their numbers, and a vector that is changed moves its row behind all others, so that an index and the rows
after its last one are the whole table. Two things break that: a checkpoint after deletes, which numbers rows anew, and
another table under the same name. The first shows in the blocks of the file, the second in the table's number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import duckdb
import numpy as np

from vecpipe.arrays import Float32, Mask
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.duckdb import catalog
from vecpipe.errors import EngineError
from vecpipe.search.index import Index, Places, marks_of
from vecpipe.sources import open_source
from vecpipe.sql_names import name_parts, quoted, quoted_table

_TABLES = """
SELECT txid_current(), database_oid, table_oid, lower(database_name), lower(schema_name)
FROM duckdb_tables() WHERE lower(table_name) = lower($1)
"""
_BLOCKS = "SELECT total_blocks, used_blocks, free_blocks FROM pragma_database_size() WHERE lower(database_name) = $1"


@dataclass(frozen=True)
class TableIndex:
    """An index with what it was made of.

    Attributes
    ----------
    source, column : str
        The table and its column of vectors.
    since : int
        The transaction that read the table; one that began earlier may see rows that this one did not.
    uncoded : int
        Rows up to the last that have no code: without a vector, or without a direction.
    in_file : bool
        Whether the database is a file, and not in memory.
    """

    index: Index
    source: str
    column: str
    since: int
    uncoded: int
    in_file: bool

    @cached_property
    def last(self) -> int:
        """Number of the last row that has a vector, -1 where none has; later ones are not in the index."""
        return int(self.index.rows.max(initial=-1))

    @cached_property
    def place_of_last(self) -> int:
        """Where that row stands in the index."""
        return int(self.index.rows.argmax())


@dataclass(frozen=True)
class TableState:
    """What tells that the rows of a table may have been numbered anew, or that it is another one.

    Attributes
    ----------
    database, table : int
        Numbers that DuckDB gives them while they are open.
    here : bool
        Whether that is the database whose transactions the caller counts.
    blocks : tuple of int
        Blocks of the database's file, of which a checkpoint writes some and frees others; none in memory.
    """

    database: int
    table: int
    here: bool
    blocks: tuple[int, ...]


def state_of(
    cursor: duckdb.DuckDBPyConnection, source: str, database: str, place: str, *, in_file: bool
) -> tuple[int, TableState | None]:
    """Return a transaction and the state that it saw of a table.

    Parameters
    ----------
    source
        The table as the caller names it.
    database, place
        The caller's database and search path.
    in_file
        Whether the database is a file, whose blocks are looked at.

    Returns
    -------
    -1 and None where no table has that name there.
    """
    *above, name = (part.lower() for part in name_parts(source))
    schema = name_parts(place.split(",")[0])[-1].lower() if place else "main"
    ways = [(database.lower(), schema)]
    if len(above) == 1:  # schema.table or database.table
        ways = [(database.lower(), above[0]), (above[0], "main")]
    elif above:
        ways = [(above[-2], above[-1])]
    found = {tuple(row[3:]): row[:3] for row in catalog.run(cursor, _TABLES, [name]).fetchall()}
    for way in ways:
        if way in found:
            now, owner, table = map(int, found[way])
            sizes = catalog.run(cursor, _BLOCKS, [way[0]]).fetchall() if in_file else []
            blocks = tuple(int(size) for row in sizes for size in row)
            return now, TableState(owner, table, way[0] == database.lower(), blocks)
    return -1, None


def check_all_rows(cursor: duckdb.DuckDBPyConnection, found: TableIndex, source: str) -> None:
    """Hold every row of a table up to the last that an index knows against its mark: a pass over the vectors.

    Raises
    ------
    EngineError
        A row holds another vector, or has one that the index does not know.
    """
    order = np.argsort(found.index.rows, kind="stable")
    rows, marks = found.index.rows[order], found.index.marks[order]
    sql = f"SELECT rowid AS row, {quoted(found.column)} AS v FROM {quoted_table(source)} WHERE rowid <= {found.last}"
    uncoded = 0
    for batch in open_source(cursor, sql).batches:
        number = batch.column("row").to_numpy()
        vectors = to_rows(batch.column("v"), column=found.column, dim=found.index.model.dim, check_finite=False)
        place = np.minimum(np.searchsorted(rows, number), max(len(rows) - 1, 0))
        known = rows[place] == number if len(rows) else np.zeros(len(number), bool)
        uncoded += int(np.count_nonzero(~known))
        here = known if vectors.valid is None else known & vectors.valid
        if (known & ~here).any() or (marks_of(vectors.values[here]) != marks[place[here]]).any():
            raise moved(found)
    if uncoded > found.uncoded:
        raise moved(found)


def moved(found: TableIndex) -> EngineError:
    """Return the error for rows that are not those of the index."""
    return EngineError(
        f"the index of {found.source} names rows that now hold other vectors: rows have moved; {again(found)}"
    )


def named_rows(found: TableIndex, places: Places, tail: Places, k: int) -> tuple[Places, Places, Places]:
    """Return the rows that a search has to look at: those found in the index, its last row, and all rows after it.

    Parameters
    ----------
    places : (r,) int64
        What the index found.
    tail : (t,) int64
        Numbers of the rows of the table from the last row of the index on.
    k
        Rows that are wanted.

    Returns
    -------
    row, mark, needed : (n,) int64
        Number of each row; the mark of its vector, -1 where it is not in the index; how many rows that have a mark have
        to be in the table.
    """
    needed = k if len(places) >= k else 0
    if len(found.index) and found.place_of_last not in places:
        needed += 1
        places = np.append(places, found.place_of_last)  # held against its mark too: where it has moved, all may have
    new = tail[tail > found.last]
    rows = np.concatenate([found.index.rows[places], new])
    marks = np.full(len(rows), -1)
    marks[: len(places)] = found.index.marks[places]
    return rows, marks, np.full(len(rows), needed)


def check_end(found: TableIndex, tail: Places, transaction: int) -> None:
    """Refuse where it cannot be told which rows are not in the index."""
    if transaction < found.since:
        raise EngineError(
            f"the index of {found.source} was made after this transaction began, which may see rows that are not in "
            "it: COMMIT and search again"
        )
    if len(found.index) and found.last not in tail:
        raise EngineError(
            f"the index of {found.source} cannot tell which rows are new: its last row has been deleted, changed or "
            f"moved; {again(found)}"
        )


def check_rows(found: TableIndex, marks: Places, named: Mask | None, X: Float32, there: Places | None) -> None:
    """Refuse where a row that the index names holds another vector than it did.

    Parameters
    ----------
    marks, named : (n,)
        The mark of each row, and which rows the index names; None for all.
    X : (m, d) float32
        The vectors of the rows ``there``; None for all rows.
    """
    if named is not None:
        present = np.ones(len(marks), bool)
        if there is not None:
            present[:] = False
            present[there] = True
        if (named & ~present).any():
            raise moved(found)
        marks, X = marks[named], X[named[present]]
    if len(X) != len(marks) or (marks_of(X) != marks.astype(np.uint32)).any():
        raise moved(found)


def check_live(found: TableIndex, needed: Places, live: Places) -> None:
    """Refuse where so many of the rows that the index found are gone that others may be nearer.

    ``needed`` says for each row how many of them there have to be, ``live`` how many there are.
    """
    missing = np.flatnonzero(needed > live)
    if len(missing):
        raise EngineError(
            f"of the rows that the index of {found.source} names, {live[int(missing[0])]} are still in the table and "
            f"{needed[int(missing[0])]} are needed for an answer: {again(found)}, or search with a larger oversample"
        )


def again(found: TableIndex) -> str:
    """Return what to do about an index that has no answer."""
    return f"make it again: SELECT vec_index(..., '{found.source}', ...)"
