"""Columns of codes in: ``(n, B) uint8``, with a mask of the rows that are not NULL."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.arrays import Bytes, Mask
from vecpipe.columns.arrow import flat_array, read_sequence
from vecpipe.errors import InputError
from vecpipe.rules import wrong_code_length


def from_codes(data: Any, width: int, *, column: str = "code", first_row: int = 0) -> tuple[Bytes, Mask | None]:
    """Return codes as ``(n, width) uint8`` and the mask of rows that are not NULL; rows count from ``first_row``.

    Raises
    ------
    InputError
        Not a binary column, or a code of another length than the model writes.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != width:
            raise InputError(
                f"{column}: expected uint8 codes of {width} bytes, shape (n, {width}), got {data.dtype} {data.shape}"
            )
        return np.ascontiguousarray(data), None
    if not isinstance(data, pa.Array | pa.ChunkedArray):
        data = read_sequence(data, column)
    data = flat_array(data)
    if pa.types.is_null(data.type):
        return np.zeros((len(data), width), np.uint8), np.zeros(len(data), bool)
    if pa.types.is_fixed_size_list(data.type) and data.type.value_type == pa.uint8():
        return _from_byte_lists(data, width, column, first_row)
    if pa.types.is_fixed_size_binary(data.type) or pa.types.is_binary_view(data.type):
        data = data.cast(pa.binary())
    if not (pa.types.is_binary(data.type) or pa.types.is_large_binary(data.type)):
        raise InputError(f"{column}: expected codes (BLOB), got {data.type}")
    n = len(data)
    kind = np.int64 if pa.types.is_large_binary(data.type) else np.int32
    buffers = data.buffers()
    offsets = np.frombuffer(buffers[1], dtype=kind, count=data.offset + n + 1)[data.offset :]
    flat = np.frombuffer(buffers[2], dtype=np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    if data.null_count == 0 and data.offset == 0 and even_offsets(buffers[1], n, width, np.dtype(kind).itemsize):
        return flat[: n * width].reshape(n, width), None
    valid = None if data.null_count == 0 else np.asarray(data.is_valid().to_numpy(zero_copy_only=False))
    lengths = np.diff(offsets)
    wrong = np.flatnonzero((lengths != width) if valid is None else (lengths != width) & valid)
    if wrong.size:
        row = int(wrong[0])
        raise wrong_code_length(column, first_row + row, int(lengths[row]), width)
    if valid is None:
        start = int(offsets[0]) if n else 0
        return flat[start : start + n * width].reshape(n, width), None
    codes = np.zeros((n, width), dtype=np.uint8)
    live = np.flatnonzero(valid)
    if live.size:
        codes[live] = flat[offsets[live][:, None].astype(np.int64) + np.arange(width)]
    return codes, valid


def _from_byte_lists(array: Any, width: int, column: str, first_row: int) -> tuple[Bytes, Mask | None]:
    """Return codes that are stored as fixed-size lists of bytes, which is how LanceDB takes packed bits."""
    if array.type.list_size != width and array.null_count < len(array):
        raise wrong_code_length(column, first_row, array.type.list_size, width)
    valid = None if array.null_count == 0 else np.asarray(array.is_valid().to_numpy(zero_copy_only=False))
    if valid is not None and not valid.any():
        return np.zeros((len(array), width), np.uint8), valid
    child = array.values.slice(array.offset * width, len(array) * width)
    flat = np.asarray(child.fill_null(0).to_numpy(zero_copy_only=False))
    return flat.reshape(len(array), width), valid


def even_offsets(buffer: Any, n: int, width: int, size: int) -> bool:
    """Whether the offsets of a binary or string array start at 0 and all of its values are of one width.

    Compared as bytes: it is asked for every batch, and NumPy would hand the interpreter's lock around for it.
    """
    return bool(memoryview(buffer)[: (n + 1) * size].tobytes() == _even_offsets(n, width, size))


@lru_cache(maxsize=64)
def _even_offsets(n: int, width: int, size: int) -> bytes:
    return (np.arange(n + 1, dtype=np.int64) * width).astype(f"i{size}").tobytes()
