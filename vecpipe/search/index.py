"""A column of vectors, coded and held in memory as one matrix with the numbers of its rows; saved and mapped again.

Where the model has cells, rows lie ordered by cell, and a search reads those of the nearest cells alone. No engine is
in sight: what a row number means, and whether it still does, is the caller's business.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vecpipe.arrays import Bytes, Float32
from vecpipe.cells import CellModel
from vecpipe.errors import InputError, ModelFormatError
from vecpipe.model import Model
from vecpipe.operators.cells import Cells
from vecpipe.sample import row_hashes
from vecpipe.scoring import Metric
from vecpipe.search.resident import CodeMatrix

Places = npt.NDArray[np.int64]
Marks = npt.NDArray[np.uint32]
_FORMAT = "vecpipe index 2"
_KEY = b"vecpipe"
_STALE_SECONDS = 3_600


class Index:
    """Codes of the rows of one column, by row number.

    Parameters
    ----------
    model
        The model that wrote the codes.
    rows : (n,) int64
        Number of each row.
    codes : (n, B) uint8
    marks : (n,) uint32
        What ``marks_of`` made of each row's vector.
    starts : (c + 1,) int64 or None
        Where each cell begins, for rows that lie ordered by cell.
    """

    def __init__(self, model: Model, rows: Places, codes: Bytes, marks: Marks, starts: Places | None) -> None:
        self.model, self.rows, self.marks, self.starts = model, rows, marks, starts
        self.matrix = CodeMatrix(model, codes, sketch=starts is None)
        self._cells = None if starts is None else CellModel(model)

    @staticmethod
    def of(
        model: Model,
        rows: Sequence[Places],
        codes: Sequence[Bytes],
        marks: Sequence[Marks],
        cells: Sequence[npt.NDArray[np.int32]],
    ) -> Index:
        """Join the parts of a stream; ``cells`` says where each row lies, for a model that has cells."""
        number = np.concatenate([np.empty(0, np.int64), *rows])
        packed = np.concatenate([np.empty((0, model.bytes_per_vector), np.uint8), *codes])
        mark = np.concatenate([np.empty(0, np.uint32), *marks])
        if not has_cells(model):
            return Index(model, number, packed, mark, None)
        cell = np.concatenate([np.empty(0, np.int32), *cells])
        order = np.argsort(cell, kind="stable")
        count = CellModel(model).step.n
        starts = np.searchsorted(cell[order], np.arange(count + 1)).astype(np.int64)
        return Index(model, number[order], packed[order], mark[order], starts)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.rows.nbytes + self.marks.nbytes + self.matrix.nbytes

    def nearest(self, q: Float32, count: int, metric: Metric, nprobe: int) -> Places:
        """Return where the ``count`` rows of the best scores stand in ``rows`` and ``marks``, best first.

        Parameters
        ----------
        q : (d,) float32
        nprobe
            Cells to look into, where there are cells.
        """
        if not len(self):
            return np.empty(0, np.int64)
        if self._cells is None or self.starts is None:
            return self.matrix.top(q[None], count, metric)[0].places
        cells, there = self._cells.probe(q[None], nprobe)
        if not there[0]:
            return np.empty(0, np.int64)
        spans = [np.arange(self.starts[cell], self.starts[cell + 1]) for cell in cells[0].tolist()]
        return self.matrix.top_among(q, np.concatenate(spans), count, metric).places

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write to a file, whole or not at all, with what the caller wants to know again."""
        meta = {
            "format": _FORMAT,
            "about": dict(about),
            "model": base64.b64encode(self.model.to_bytes()).decode(),
            "starts": None if self.starts is None else self.starts.tolist(),
        }
        codes = np.ascontiguousarray(self.matrix.codes)
        width = codes.shape[1]
        columns = [
            pa.array(np.ascontiguousarray(self.rows)),
            pa.Array.from_buffers(pa.binary(width), len(codes), [None, pa.py_buffer(codes)]),
            pa.array(np.ascontiguousarray(self.marks)),
        ]
        schema = pa.schema(
            [("row", pa.int64()), ("code", pa.binary(width)), ("mark", pa.uint32())],
            metadata={_KEY: json.dumps(meta).encode()},
        )
        _forget_drafts(path)
        new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
        try:
            with pa.OSFile(str(new), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(pa.record_batch(columns, schema=schema))
            with new.open("rb+") as written:
                os.fsync(written.fileno())
            new.replace(path)
        except OSError as error:
            raise InputError(f"{path}: the index cannot be saved ({error})") from error
        finally:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> tuple[Index, dict[str, Any]]:
        """Map a file that ``save`` wrote, and return what was noted with it.

        Raises
        ------
        ModelFormatError
            The file is not a readable index.
        """
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            meta = json.loads((reader.schema.metadata or {})[_KEY])
            if meta["format"] != _FORMAT or reader.num_record_batches != 1:
                raise ValueError(f"format {meta['format']!r}")
            batch = reader.get_batch(0)
            batch.validate()
            model = Model.from_bytes(base64.b64decode(meta["model"], validate=True))
            width = model.bytes_per_vector
            kinds = [pa.int64(), pa.binary(width), pa.uint32()]
            if batch.schema.types != kinds or any(column.null_count for column in batch.columns):
                raise ValueError(f"columns of {', '.join(map(str, batch.schema.types))}")
            rows, packed, marks = batch.columns
            flat = np.frombuffer(packed.buffers()[1] or b"", np.uint8)[: len(packed) * width]
            starts = None if meta["starts"] is None else np.array(meta["starts"], np.int64)
            if (starts is not None) != has_cells(model):
                raise ValueError("cells do not fit the model")
            if starts is not None and not _in_order(starts, CellModel(model).step.n, len(rows)):
                raise ValueError("cells that are not in order")
            codes = flat.reshape(len(packed), width)
            return Index(model, rows.to_numpy(), codes, marks.to_numpy(), starts), dict(meta["about"])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"{path}: not a readable index ({error})") from error


def marks_of(X: Float32) -> Marks:
    """Return a number for each vector ``(n, d)``, ``(n,) uint32``, by which a row can be told to hold it still."""
    return row_hashes(X).astype(np.uint32)


def has_cells(model: Model) -> bool:
    """Whether a model has a step of cells."""
    return any(isinstance(step, Cells) for step in model.steps)


def _forget_drafts(path: Path) -> None:
    """Delete what processes that were killed have left of an index; a draft of the last hour may still be written."""
    for draft in path.parent.glob(f"{glob.escape(path.name)}.*.new"):
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > _STALE_SECONDS:
                draft.unlink()


def _in_order(starts: Places, cells: int, rows: int) -> bool:
    if starts.shape != (cells + 1,) or starts[0] != 0 or starts[-1] != rows:
        return False
    return bool((np.diff(starts) >= 0).all())
