"""One version of a LanceDB table, pinned: its codes held in memory, filters as masks, rows by their place.

A table handle moves on; a snapshot does not, so that a search reads codes, filter and rows of one version. Codes are
kept in the process by table and column, bounded by ``VECPIPE_RESIDENT_BYTES``, and a new version reads only the
fragments that are new or changed.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vecpipe.arrays import Bytes, Float32, Mask
from vecpipe.columns.codes import from_codes
from vecpipe.engines.lancedb.host import asking
from vecpipe.errors import EngineError, InputError
from vecpipe.metrics.retrieval import top_places
from vecpipe.model import Model
from vecpipe.scoring import Metric
from vecpipe.search.resident import CodeMatrix, Found
from vecpipe.settings import RESIDENT_CODES

INSTALL = "LanceDB tables need lancedb and pylance: pip install 'vecpipe[lancedb]'"
_BATCH_ROWS = 8_192


@dataclass(frozen=True)
class _Column:
    """Codes of a column at one version; ``parts`` says which rows came from which fragment, in order."""

    parts: tuple[tuple[str, int], ...]
    matrix: CodeMatrix


class _Shelf:
    """Columns in memory, the least recently used given up first once there are too many bytes."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._columns: OrderedDict[tuple[str, str, str], _Column] = OrderedDict()

    def get(self, key: tuple[str, str, str]) -> _Column | None:
        found = self._columns.get(key)
        if found is not None:
            self._columns.move_to_end(key)
        return found

    def put(self, key: tuple[str, str, str], column: _Column) -> None:
        limit = RESIDENT_CODES.read()
        self._columns[key] = column
        self._columns.move_to_end(key)
        while len(self._columns) > 1 and sum(kept.matrix.nbytes for kept in self._columns.values()) > limit:
            self._columns.popitem(last=False)


_SHELF = _Shelf()
_HANDLES: weakref.WeakKeyDictionary[Any, Snapshot] = weakref.WeakKeyDictionary()


class Snapshot:
    """A table at one version.

    Parameters
    ----------
    dataset : lance.LanceDataset
        Checked out at that version.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.version = int(dataset.version)
        self.uri = str(dataset.uri)
        self.schema = dataset.schema
        self.models: dict[tuple[str, str | None], Model] = {}
        self._columns: dict[tuple[str, str], weakref.ref[CodeMatrix]] = {}

    def top(
        self, column: str, model: Model, Q: Float32, count: int, metric: Metric, where: str | None, shortlist: int
    ) -> list[Found]:
        """Return the best ``count`` rows for each query by the codes of a column, places counted over the version.

        Codes beyond ``VECPIPE_RESIDENT_BYTES`` are read from the table for every search instead.

        Raises
        ------
        EngineError
            The filter is not one that LanceDB understands.
        InputError
            The column holds no codes of this model.
        """
        matrix = self.codes(column, model)
        if matrix is None:
            return self._stream(column, model, Q, count, metric, where)
        return matrix.top(Q, count, metric, allowed=self._allowed(where, len(matrix)), shortlist=shortlist)

    def codes(self, column: str, model: Model) -> CodeMatrix | None:
        """Return the codes of a column in memory; None where they are more than may be kept."""
        known = self._columns.get((column, model.hash))
        matrix = None if known is None else known()
        if matrix is None:
            matrix = self._load(column, model)
            if matrix is not None:
                self._columns[(column, model.hash)] = weakref.ref(matrix)  # the shelf alone decides how long it stays
        return matrix

    def _load(self, column: str, model: Model) -> CodeMatrix | None:
        if self.dataset.count_rows() * model.bytes_per_vector > RESIDENT_CODES.read():
            return None
        field = self.dataset.lance_schema.field(column).id()
        fragments = self.dataset.get_fragments()
        parts = tuple((_identity(fragment, field), int(fragment.count_rows())) for fragment in fragments)
        key = (self.uri, column, model.hash)
        with _SHELF.lock:  # two searches of a cold table read it once
            known = _SHELF.get(key)
            if known is not None and known.parts == parts:
                return known.matrix
            held = _ranges(known)
            rows = sum(count for _, count in parts)
            codes = np.zeros((rows, model.bytes_per_vector), dtype=np.uint8)
            valid = np.ones(rows, dtype=bool)
            at = 0
            for (name, count), fragment in zip(parts, fragments, strict=True):
                if known is not None and name in held:
                    start = held[name]
                    codes[at : at + count] = known.matrix.codes[start : start + count]
                    if known.matrix.valid is not None:
                        valid[at : at + count] = known.matrix.valid[start : start + count]
                    at += count
                    continue
                for part, there in self._read(column, model, [fragment]):
                    codes[at : at + len(part)] = part
                    if there is not None:
                        valid[at : at + len(part)] = there
                    at += len(part)
            matrix = CodeMatrix(model, codes, None if valid.all() else valid)
            _SHELF.put(key, _Column(parts, matrix))
            return matrix

    def _read(self, column: str, model: Model, fragments: Sequence[Any] | None) -> Iterator[tuple[Bytes, Mask | None]]:
        scanner = self.dataset.scanner(
            columns=[column], fragments=fragments, batch_size=_BATCH_ROWS, scan_in_order=True
        )
        with asking(f"read {column!r} of {self.uri} at version {self.version}; was the table made anew?"):
            for batch in scanner.to_batches():
                yield from_codes(batch.column(0), model.bytes_per_vector, column=column)

    def _stream(
        self, column: str, model: Model, Q: Float32, count: int, metric: Metric, where: str | None
    ) -> list[Found]:
        allowed = self._allowed(where, self.dataset.count_rows())
        best = [Found(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in Q]
        first = 0
        for codes, valid in self._read(column, model, None):
            here = None if allowed is None else allowed[first : first + len(codes)]
            for at, found in enumerate(CodeMatrix(model, codes, valid).top(Q, count, metric, allowed=here)):
                places = np.concatenate([best[at].places, found.places + first])
                scores = np.concatenate([best[at].scores, found.scores])
                order = top_places(scores[None], count)[0]
                best[at] = Found(places[order], scores[order])
            first += len(codes)
        return best

    def _allowed(self, where: str | None, rows: int) -> Mask | None:
        if where is None:
            return None
        allowed = np.zeros(rows, dtype=bool)
        allowed[self.scan(columns=["_rowoffset"], filter=where)["_rowoffset"].to_numpy()] = True
        return allowed

    def scan(self, **options: Any) -> Any:
        """Return the table of a Lance scan.

        Raises
        ------
        EngineError
            Lance refused it; the message holds what was asked.
        """
        try:
            return self.dataset.scanner(disable_scoring_autoprojection=True, **options).to_table()
        except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
            asked = ", ".join(f"{name}={value!r}" for name, value in options.items() if name != "nearest")
            raise EngineError(f"{error}\nin: a scan of {self.uri} with {asked}") from error

    def take(self, places: Any, columns: Sequence[str]) -> Any:
        """Return the rows at places of this version, in their order.

        Raises
        ------
        EngineError
            The version is not there any more, or LanceDB refused.
        """
        with asking(f"read rows of {self.uri} at version {self.version}; was the table made anew?"):
            return self.dataset.take(places, columns=list(columns))

    def field(self, column: str) -> Any:
        """Return the field of a column.

        Raises
        ------
        InputError
            There is none; the message lists those there are.
        """
        at = self.schema.get_field_index(column)
        if at < 0:
            raise InputError(f"{self.uri} has no column {column!r}; there are {', '.join(self.schema.names)}")
        return self.schema.field(at)


def _ranges(column: _Column | None) -> dict[str, int]:
    """Return the first row of each fragment that is held."""
    held, at = {}, 0
    for name, rows in column.parts if column is not None else ():
        held[name] = at
        at += rows
    return held


def _identity(fragment: Any, field: int) -> str:
    """Return what a fragment's rows of one column depend on: its files that hold it, overlays, deleted rows.

    Names of files are drawn at random, so that a table made anew under an old name is another one.
    """
    about = fragment.metadata.to_json()
    files = [file["path"] for file in about["files"] if field in file["fields"]]
    return json.dumps([about["id"], files, about.get("overlays"), about["deletion_file"]], default=str)


def snapshot(table: Any) -> Snapshot:
    """Return the version a LanceDB table handle stands at, pinned.

    Raises
    ------
    EngineError
        The table is not one that can be read here, or pylance is missing.
    """
    version = int(table.version)
    found = _HANDLES.get(table)
    if found is None or found.version != version:
        found = _HANDLES[table] = _pinned(table.to_lance, table)
    return found


async def snapshot_async(table: Any) -> Snapshot:
    """Return the version an ``AsyncTable`` stands at, pinned; errors as those of ``snapshot``."""
    version = int(await table.version())
    found = _HANDLES.get(table)
    if found is None or found.version != version:
        try:
            dataset = await table.to_lance()
        except (ImportError, NotImplementedError) as error:
            raise EngineError(f"{error}; {INSTALL}") from error
        found = _HANDLES[table] = Snapshot(dataset)
    return found


def _pinned(to_lance: Any, table: Any) -> Snapshot:
    try:
        return Snapshot(to_lance())
    except (ImportError, NotImplementedError) as error:
        raise EngineError(f"{table}: {error}; {INSTALL}") from error
