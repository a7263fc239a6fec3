"""Whatever holds a column, as one flat Arrow array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vecpipe.errors import InputError


def flat_array(data: Any) -> Any:
    """Return an Arrow array or chunked array as one array; a single chunk is not copied."""
    if not isinstance(data, pa.ChunkedArray):
        return data
    return data.chunk(0) if data.num_chunks == 1 else data.combine_chunks()


def list_array(data: Any, column: str) -> Any:
    """Return one flat Arrow list array, whatever was given.

    Raises
    ------
    InputError
        Not a column, or not one of lists.
    """
    if hasattr(data, "to_arrow") and not isinstance(data, pa.Array | pa.ChunkedArray):
        data = data.to_arrow()
    elif not isinstance(data, pa.Array | pa.ChunkedArray):
        if hasattr(data, "__arrow_c_stream__"):
            data = pa.chunked_array(data)
        elif hasattr(data, "__arrow_c_array__") or isinstance(data, Sequence):
            data = read_sequence(data, column)
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
    if not is_list(data.type):
        raise InputError(
            f"{column}: expected a list or array of numbers, got {data.type}; "
            "cast the column to FLOAT[n] or FLOAT[] first"
        )
    return data


def read_sequence(data: Any, column: str) -> Any:
    """Return a Python sequence, or what has an Arrow array, as an Arrow array.

    Raises
    ------
    InputError
        Its values are of no one Arrow type.
    """
    try:
        return pa.array(data)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{column}: cannot be read as a column ({error})") from error


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is a list whose values lie in the order of its rows."""
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_list_view(kind: Any) -> bool:
    """Whether an Arrow type is a list whose values lie in any order."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _in_line(views: Any) -> Any:
    """Return list views as lists. Arrow's own cast leaves the last offset unset (seen in 26.0)."""
    lengths = pc.fill_null(pc.list_value_length(views), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), views.flatten(), mask=views.is_null())
