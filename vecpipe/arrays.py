"""Arrow columns to matrices and back: nulls, ragged rows and dtypes are decided here and nowhere else.

Everything downstream sees a C-contiguous ``(n, d) float32`` matrix and a mask of the rows that count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vecpipe.errors import InputError, RowError, SpecError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
OnInvalid = Literal["error", "null"]

MAX_DIM = 65_536


@dataclass(frozen=True)
class Rows:
    """Vectors of one column.

    Attributes
    ----------
    values : (n, d) float32
        One vector a row; rows outside ``valid`` hold zeros.
    valid : (n,) bool or None
        None when every row counts.
    nulls, invalid : int
        How many rows were NULL, and how many broke a rule and were turned to NULL.
    """

    values: Float32
    valid: Mask | None = None
    nulls: int = 0
    invalid: int = 0

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.values.shape[1])

    def kept(self) -> Float32:
        """Return the rows that count, in order."""
        return self.values if self.valid is None else self.values[self.valid]


def to_rows(
    data: Any,
    *,
    column: str = "vector",
    dim: int | None = None,
    on_invalid: OnInvalid = "error",
    first_row: int = 0,
    check_finite: bool = True,
) -> Rows:
    """Turn a column of vectors into a matrix.

    Parameters
    ----------
    data
        Arrow array or chunked array of fixed-size list, list, large list or list view over float16/32/64, integers
        or decimals (dictionary-encoded too); anything with ``__arrow_c_array__`` / ``__arrow_c_stream__``; a
        2-D NumPy array; or a list of lists.
    column
        Name used in errors.
    dim
        Width the vectors must have; None takes the width that most rows have.
    on_invalid
        ``"error"`` raises on a row that breaks a rule, ``"null"`` counts it and treats it as NULL.
    first_row
        Number of the first row, for errors.
    check_finite
        False leaves it to the caller to find NaN and infinities; only where they are an error.

    Raises
    ------
    InputError
        Wrong type, ragged row, wrong width, NULL element, NaN or infinity: names column, row and rule.
    SpecError
        ``on_invalid`` is something else.
    """
    if on_invalid not in ("error", "null"):
        raise SpecError(f"on_invalid is {on_invalid!r}; expected 'error' or 'null'")
    if isinstance(data, np.ndarray):
        if data.ndim != 2:
            raise InputError(f"{column}: expected a 2-D array (rows, dimensions), got shape {data.shape}")
        return _finish(_as_float32(data, column), None, 0, column, dim, on_invalid, first_row, check_finite)
    array = _arrow(data, column)
    if pa.types.is_fixed_size_list(array.type):
        values, valid, nulls, ragged = _from_fixed(array, column, dim)
    else:
        values, valid, nulls, ragged = _from_lists(array, column, dim, on_invalid, first_row)
    if ragged.size and on_invalid == "error":
        row = int(ragged[0])
        raise null_element(f"{column}: row {first_row + row}")
    if ragged.size:
        valid = np.ones(len(values), dtype=bool) if valid is None else valid
        valid[ragged] = False
    rows = _finish(values, valid, nulls, column, dim, on_invalid, first_row, check_finite)
    return Rows(rows.values, rows.valid, rows.nulls, rows.invalid + int(ragged.size))


def flat_array(data: Any) -> Any:
    """Return an Arrow array or chunked array as one array; a single chunk is not copied."""
    if not isinstance(data, pa.ChunkedArray):
        return data
    return data.chunk(0) if data.num_chunks == 1 else data.combine_chunks()


def _arrow(data: Any, column: str) -> Any:
    """Return one flat Arrow list array, whatever was given."""
    if hasattr(data, "to_arrow") and not isinstance(data, pa.Array | pa.ChunkedArray):
        data = data.to_arrow()
    elif not isinstance(data, pa.Array | pa.ChunkedArray):
        if hasattr(data, "__arrow_c_stream__"):
            data = pa.chunked_array(data)
        elif hasattr(data, "__arrow_c_array__") or isinstance(data, Sequence):
            data = _from_python(data, column)
        else:
            raise InputError(f"{column}: expected a column of vectors, got {type(data).__name__}")
    data = flat_array(data)
    if isinstance(data, pa.ExtensionArray):
        data = data.storage
    if pa.types.is_dictionary(data.type):
        data = data.dictionary_decode()
    if pa.types.is_null(data.type):
        return data.cast(pa.list_(pa.float32()))
    if is_list_view(data.type):
        data = _in_line(data)
    if not _is_list(data.type):
        raise InputError(
            f"{column}: expected a list or array of numbers, got {data.type}; "
            "cast the column to FLOAT[n] or FLOAT[] first"
        )
    return data


def _from_python(data: Any, column: str) -> Any:
    try:
        return pa.array(data)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{column}: cannot be read as a column ({error})") from error


def is_list_view(kind: Any) -> bool:
    """Whether a type is a list whose values lie in any order."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _in_line(views: Any) -> Any:
    """Return list views as lists. Arrow's own cast leaves the last offset unset (seen in 26.0)."""
    lengths = pc.fill_null(pc.list_value_length(views), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), views.flatten(), mask=views.is_null())


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _numbers(values: Any, column: str) -> npt.NDArray[Any]:
    """Return the flat child of a list array as NumPy, NULL elements as NaN."""
    kind = values.type
    if pa.types.is_null(kind):
        return np.full(len(values), np.nan, dtype=np.float32)
    if pa.types.is_decimal(kind):
        values = pc.cast(values, pa.float64())
    elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise InputError(f"{column}: elements are {kind}; expected float16/32/64, integers or decimals")
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _as_float32(flat: npt.NDArray[Any], column: str) -> Float32:
    if flat.dtype == np.float32:
        return np.ascontiguousarray(flat)
    if flat.dtype.kind not in "fiu":
        raise InputError(f"{column}: elements are {flat.dtype}; expected float16/32/64 or integers")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(flat, dtype=np.float32)


_NO_ROWS = np.zeros(0, dtype=np.int64)


@contextmanager
def rows_named(column: str, first_row: int = 0, positions: npt.NDArray[np.int64] | None = None) -> Iterator[None]:
    """Have an operator's complaints about a row of a block name the column, and the row as the user counts.

    Parameters
    ----------
    first_row
        Number of the block's first row.
    positions : (n,) int64 or None
        Where the rows of the block were taken from; None for rows that follow each other.
    """
    try:
        yield
    except RowError as error:
        row = error.row if positions is None else int(positions[error.row])
        raise InputError(f"{column}: row {first_row + row} {error.rule}") from error


def null_element(where: str) -> InputError:
    """Return the error for a vector with a NULL element; ``where`` names column and row."""
    return InputError(f"{where} has a NULL element; every element must be a number")


def not_finite(where: str, row: npt.NDArray[Any]) -> InputError:
    """Return the error for a row ``(d,)`` with NaN or an infinite value; ``where`` names column and row."""
    rule = "NaN" if np.isnan(row).any() else "an infinite value (or one beyond float32)"
    return InputError(
        f"{where} holds {rule}; every element must be finite. "
        "vec_is_valid(v) finds such rows; where on_invalid is offered, 'null' turns them to NULL"
    )


def check_width(found: int, dim: int | None, where: str) -> None:
    """Refuse a width that no vector has, or another one than ``dim``; ``where`` names column and row.

    Raises
    ------
    InputError
        No dimensions, too many, or not ``dim``.
    """
    if found > MAX_DIM:
        raise InputError(f"{where} has {found} dimensions; at most {MAX_DIM} are supported")
    if found == 0:
        raise InputError(f"{where} has no dimensions; expected at least 1")
    if dim is not None and found != dim:
        raise InputError(f"{where} has {found} dimensions, expected {dim}")


def _from_fixed(array: Any, column: str, dim: int | None) -> tuple[Float32, Mask | None, int, Any]:
    width = array.type.list_size
    nulls = array.null_count
    if nulls == len(array) and dim is not None:
        width = dim
        return np.zeros((nulls, width), np.float32), np.zeros(nulls, bool), nulls, _NO_ROWS
    check_width(width, dim, column)
    child = array.values.slice(array.offset * width, len(array) * width)
    flat = _numbers(child, column)
    valid = None if nulls == 0 else np.asarray(array.is_valid().to_numpy(zero_copy_only=False))
    broken = _NO_ROWS
    if child.null_count:
        gaps = np.asarray(child.is_null().to_numpy(zero_copy_only=False)).reshape(-1, width).any(axis=1)
        broken = np.flatnonzero(gaps if valid is None else gaps & valid)
    return _as_float32(flat.reshape(-1, width), column), valid, nulls, broken


def _usual(lengths: npt.NDArray[np.int64]) -> int:
    """Return the commonest length above 0 (the least of several), so that it depends on no order of the rows."""
    found, counts = np.unique(lengths[lengths > 0], return_counts=True)
    return int(found[counts.argmax()]) if found.size else 0


def row_widths(data: Any, *, column: str = "vector") -> dict[int, int]:
    """Return how many rows of a column of vectors have each number of dimensions; NULL and empty rows aside."""
    array = _arrow(data, column)
    lengths = pc.drop_null(pc.list_value_length(array)).to_numpy(zero_copy_only=False)
    found, counts = np.unique(lengths[lengths > 0], return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _from_lists(
    array: Any, column: str, dim: int | None, on_invalid: OnInvalid, first_row: int
) -> tuple[Float32, Mask | None, int, Any]:
    n, nulls = len(array), array.null_count
    offsets = np.asarray(array.offsets.to_numpy(zero_copy_only=False)).astype(np.int64, copy=False)
    lengths = np.diff(offsets)
    valid = None if nulls == 0 else np.asarray(array.is_valid().to_numpy(zero_copy_only=False))
    live = np.arange(n) if valid is None else np.flatnonzero(valid)
    if live.size == 0:
        return np.zeros((n, dim or 1), np.float32), valid if n else None, nulls, _NO_ROWS
    width = dim if dim is not None else _usual(lengths[live])
    if width == 0 and on_invalid == "null":
        return np.zeros((n, 1), np.float32), valid, nulls, live
    wrong = live[lengths[live] != width]
    if wrong.size and on_invalid == "error":
        check_width(int(lengths[wrong[0]]), width or None, f"{column}: row {first_row + int(wrong[0])}")
    check_width(width, dim, f"{column}: row {first_row + int(live[0])}")
    start, stop = int(offsets[0]), int(offsets[-1])
    child = array.values.slice(start, stop - start)
    flat = _numbers(child, column)
    if not wrong.size and live.size == n:
        values = _as_float32(flat.reshape(n, width), column)
        broken_flat = child.is_null() if child.null_count else None
    else:
        good = live if not wrong.size else live[lengths[live] == width]
        take = (offsets[good] - start)[:, None] + np.arange(width)
        values = np.zeros((n, width), dtype=np.float32)
        values[good] = _as_float32(flat[take.ravel()].reshape(-1, width), column)
        broken_flat = None
        if child.null_count:
            gaps = np.asarray(child.is_null().to_numpy(zero_copy_only=False))[take].any(axis=1)
            return values, valid, nulls, np.union1d(wrong, good[gaps])
    if broken_flat is not None:
        gaps = np.asarray(broken_flat.to_numpy(zero_copy_only=False)).reshape(n, width).any(axis=1)
        return values, valid, nulls, np.flatnonzero(gaps)
    return values, valid, nulls, wrong


def _finish(
    values: Float32,
    valid: Mask | None,
    nulls: int,
    column: str,
    dim: int | None,
    on_invalid: OnInvalid,
    first_row: int,
    check_finite: bool,
) -> Rows:
    """Check width and finiteness; zero the rows that do not count."""
    check_width(values.shape[1], dim, column)
    if valid is not None:
        values = np.where(valid[:, None], values, np.float32(0))
    bad = nonfinite_rows(values) if check_finite else _NO_ROWS
    if bad.size == 0:
        return Rows(values, valid, nulls, 0)
    if on_invalid == "error":
        row = int(bad[0])
        raise not_finite(f"{column}: row {first_row + row}", values[row])
    valid = np.ones(len(values), dtype=bool) if valid is None else valid.copy()
    valid[bad] = False
    values = np.where(valid[:, None], values, np.float32(0))
    return Rows(values, valid, nulls, int(bad.size))


def finite_rows(data: Any, *, column: str = "vector") -> Mask:
    """Return which rows hold at least one element and finite numbers only, each row judged by itself.

    Raises
    ------
    InputError
        Not a column of vectors.
    """
    array = _arrow(data, column)
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    offsets = np.asarray(array.offsets.to_numpy(zero_copy_only=False)).astype(np.int64, copy=False)
    flat = _as_float32(_numbers(array.values.slice(offsets[0], offsets[-1] - offsets[0]), column), column)
    bad = np.concatenate([[0], np.cumsum(~np.isfinite(flat))])
    ends = offsets - offsets[0]
    return np.asarray((np.diff(bad[ends]) == 0) & (np.diff(ends) > 0))


def nonfinite_rows(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the indices of rows that hold NaN or infinity, at the price of one pass when there are none."""
    if values.size == 0:
        return _NO_ROWS
    with np.errstate(over="ignore", invalid="ignore"):
        # Row by row: BLAS would take threads to a product of the whole.
        sums = np.vecdot(values, np.ones(values.shape[1], dtype=values.dtype))
    suspects = np.flatnonzero(~np.isfinite(sums))
    if suspects.size:
        suspects = suspects[~np.isfinite(values[suspects]).all(axis=1)]
    return suspects


def _validity(valid: Mask | None) -> Any:
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))


def to_vectors(values: Float32, valid: Mask | None = None, *, fixed: bool = False) -> Any:
    """Return an Arrow list (or fixed-size list) of float32 over the matrix, without copying it.

    Parameters
    ----------
    values : (n, k) float32
    valid : (n,) bool or None
        Rows outside are NULL.
    fixed
        Fixed-size list instead of list.
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    n, k = values.shape
    child = pa.Array.from_buffers(pa.float32(), n * k, [None, pa.py_buffer(values)])
    if fixed:
        kind = pa.list_(pa.float32(), k)
        return pa.Array.from_buffers(kind, n, [_validity(valid)], children=[child])
    offsets = pa.py_buffer(np.arange(0, n * k + 1, k, dtype=np.int32) if k else np.zeros(n + 1, np.int32))
    return pa.Array.from_buffers(pa.list_(pa.float32()), n, [_validity(valid), offsets], children=[child])


def to_codes(codes: Bytes, valid: Mask | None = None, *, fixed: bool = False) -> Any:
    """Return an Arrow binary (or fixed-size binary) array over ``(n, B) uint8`` codes, without copying them."""
    codes = np.ascontiguousarray(codes, dtype=np.uint8)
    n, width = codes.shape
    if fixed:
        return pa.Array.from_buffers(pa.binary(width), n, [_validity(valid), pa.py_buffer(codes)])
    offsets = pa.py_buffer(np.arange(0, n * width + 1, width, dtype=np.int32))
    return pa.Array.from_buffers(pa.binary(), n, [_validity(valid), offsets, pa.py_buffer(codes)])


def to_byte_lists(codes: Bytes, valid: Mask | None = None) -> Any:
    """Return an Arrow fixed-size list of uint8 over ``(n, B) uint8`` codes, without copying them."""
    codes = np.ascontiguousarray(codes, dtype=np.uint8)
    n, width = codes.shape
    child = pa.Array.from_buffers(pa.uint8(), n * width, [None, pa.py_buffer(codes)])
    return pa.Array.from_buffers(pa.list_(pa.uint8(), width), n, [_validity(valid)], children=[child])


def even_offsets(buffer: Any, n: int, width: int, size: int) -> bool:
    """Whether the offsets of a binary or string array start at 0 and all of its values are of one width.

    Compared as bytes: it is asked for every batch, and NumPy would hand the interpreter's lock around for it.
    """
    return bool(memoryview(buffer)[: (n + 1) * size].tobytes() == _even_offsets(n, width, size))


@lru_cache(maxsize=64)
def _even_offsets(n: int, width: int, size: int) -> bytes:
    return (np.arange(n + 1, dtype=np.int64) * width).astype(f"i{size}").tobytes()


def wrong_code_length(column: str, row: int, length: int, width: int) -> InputError:
    """Return the error for a code of another length than the model writes."""
    return InputError(
        f"{column}: row {row} holds {length} bytes, but this model's codes have {width}; "
        "was the column written by another model?"
    )


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
        data = _from_python(data, column)
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


def to_sets(
    data: Any, *, column: str = "vectors", dim: int | None = None
) -> tuple[Float32, npt.NDArray[np.int64], Mask | None]:
    """Turn a column of lists of vectors into one matrix, a row's vectors beside each other.

    Returns
    -------
    (v, d) float32, (n + 1,) int64, (n,) bool or None
        The vectors of all rows, where each row's begin, and the rows that are not NULL.

    Raises
    ------
    InputError
        Not lists of vectors, or a vector that breaks a rule of ``to_rows``.
    """
    data = flat_array(data)
    if not (pa.types.is_list(data.type) or pa.types.is_large_list(data.type)) or not _is_list(data.type.value_type):
        raise InputError(f"{column}: expected lists of vectors, got {data.type}")
    valid = None if data.null_count == 0 else np.asarray(data.is_valid().to_numpy(zero_copy_only=False))
    lengths = pc.fill_null(pc.list_value_length(data), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    vectors = data.flatten()
    if not len(vectors):
        return np.zeros((0, dim or 1), np.float32), offsets, valid
    rows = to_rows(vectors, column=column, dim=dim)
    if rows.valid is not None:
        raise null_element(f"{column}: a list of vectors")
    return rows.values, offsets, valid
