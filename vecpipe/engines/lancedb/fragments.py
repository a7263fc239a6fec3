"""Fragments of a Lance table: which of them a column is behind on, their rows in physical order, and writing a column.

A fragment's part of a column is a data file of its own, and the file's name holds a digest of the model and of the
files its source column lies in. So a fragment is up to date exactly where the name fits: rows that were appended,
updated, merged or compacted since lie in other files, and no list of what has been done is kept anywhere that could
be wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vecpipe.arrays import Mask
from vecpipe.errors import InputError
from vecpipe.etl.tables import BLOCK_ROWS

_IO_BUFFER = 32 << 20
_BLOCKS_AHEAD = 4


@dataclass(frozen=True)
class Piece:
    """A fragment a column is to be written for.

    Attributes
    ----------
    fragment : lance.fragment.LanceFragment
    digest : str
        Of the model and of the data files that hold the source column.
    rows : int
        Physical rows: those deleted since are still in the files.
    live : int
        Rows that are not deleted.
    first_row : int
        Rows of the table before this fragment, for errors.
    """

    fragment: Any
    digest: str
    rows: int
    live: int
    first_row: int

    @property
    def number(self) -> int:
        """The fragment's id."""
        return int(self.fragment.fragment_id)


def pieces(dataset: Any, source: str, model_hash: str) -> list[Piece]:
    """Return all fragments of a dataset, in order.

    Raises
    ------
    InputError
        There is no source column.
    """
    ids = set(_field_ids(_field(dataset, source)))
    found, first_row = [], 0
    for fragment in dataset.get_fragments():
        about = fragment.metadata
        files = sorted(str(file.path) for file in about.files if ids & set(file.fields))
        overlays = [str(overlay) for overlay in getattr(about, "overlays", None) or []]
        text = json.dumps([model_hash, int(fragment.fragment_id), sorted(ids), files, overlays])
        live = int(about.num_rows)
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        found.append(Piece(fragment, digest, int(about.physical_rows), live, first_row))
        first_row += live
    return found


def behind(dataset: Any, column: str, every: Iterable[Piece]) -> list[Piece]:
    """Return the pieces whose rows of the column are missing or were made from something else."""
    if column not in dataset.schema.names:
        return list(every)
    ids = set(_field_ids(_field(dataset, column)))
    return [piece for piece in every if not _written(piece, ids)]


def _written(piece: Piece, ids: set[int]) -> bool:
    files = [str(file.path) for file in piece.fragment.metadata.files if ids & set(file.fields)]
    return len(files) == 1 and files[0].startswith(_file_name(piece))


def _file_name(piece: Piece) -> str:
    return f"vecpipe-{piece.digest}-"


def _field(dataset: Any, column: str) -> Any:
    for field in dataset.lance_schema.fields():
        if field.name() == column:
            return field
    raise InputError(f"no column {column!r}; there are {', '.join(dataset.schema.names)}")


def field_id(dataset: Any, column: str) -> int:
    """Return the id of a column's field.

    Raises
    ------
    InputError
        There is no such column.
    """
    return int(_field(dataset, column).id())


def field_name(dataset: Any, number: int | None) -> str | None:
    """Return the name that the field of an id has now, None where it is gone."""
    return next((str(field.name()) for field in dataset.lance_schema.fields() if int(field.id()) == number), None)


def _field_ids(field: Any) -> Iterator[int]:
    yield int(field.id())
    for child in field.children():
        yield from _field_ids(child)


def read_rows(dataset: Any, piece: Piece, source: str, start: int, stop: int) -> Iterator[tuple[Any, Mask | None]]:
    """Yield blocks of the source column for the physical rows from ``start`` to ``stop``, and which are not deleted."""
    deleted = piece.live != piece.rows
    scanner = dataset.scanner(
        columns=[source],
        fragments=[piece.fragment],
        offset=start,
        limit=stop - start,
        batch_size=BLOCK_ROWS,
        batch_readahead=_BLOCKS_AHEAD,
        io_buffer_size=_IO_BUFFER,
        with_row_id=deleted,  # NULL for a deleted row; both are asked for only where there are some, as they cost time
        include_deleted_rows=deleted,
    )
    for batch in scanner.to_batches():
        live = batch.column("_rowid").is_valid() if deleted else None
        yield batch.column(source), None if live is None else np.asarray(live.to_numpy(zero_copy_only=False))


def live_rows(dataset: Any, piece: Piece, source: str, stop: int) -> int:
    """Return how many of a fragment's physical rows before ``stop`` are not deleted."""
    if piece.live == piece.rows or stop == 0:
        return stop
    return sum(
        int(live.sum()) if live is not None else len(block)
        for block, live in read_rows(dataset, piece, source, 0, stop)
    )


def write_piece(dataset: Any, piece: Piece, schema: Any, batches: Iterable[Any], run: str) -> Any:
    """Write a fragment's part of a column as a data file and return what puts it in place.

    The name of the file ends in the id of the run, so that a resumed run writes over what an interrupted one left.
    """
    from lance import LanceOperation
    from lance.file import LanceFileWriter
    from lance.fragment import DataFile

    name = f"{_file_name(piece)}{run}.lance"
    version = str(dataset.data_storage_version)
    options = dataset.latest_storage_options()
    with LanceFileWriter(f"{dataset.uri}/data/{name}", schema, version=version, storage_options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    major, minor = (int(number) for number in version.split("."))
    field = field_id(dataset, schema.names[0])
    return LanceOperation.DataReplacementGroup(piece.number, DataFile(name, [field], [0], major, minor))


def commit(dataset: Any, groups: Sequence[Any]) -> int:
    """Put data files in place, all in one version of the table, and return that version."""
    from lance import LanceDataset, LanceOperation

    operation = LanceOperation.DataReplacement(list(groups))
    return int(LanceDataset.commit(dataset, operation, read_version=dataset.version).version)
