"""Columns out: matrices of vectors and of codes as Arrow arrays over the same memory, and codes as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vecpipe.arrays import Bytes, Float32, Mask


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


def to_tokens(numbers: Bytes, valid: Mask | None = None) -> Any:
    """Return an Arrow list of text over ``(n, m) uint8`` numbers: ``p3c17`` is number 17 at position 3, from 0."""
    n, m = numbers.shape
    places = pa.array([f"p{place}c" for place in range(m)]).take(pa.array(np.tile(np.arange(m), n)))
    texts = pa.array([str(number) for number in range(256)]).take(pa.array(numbers.ravel()))
    tokens = pc.binary_join_element_wise(places, texts, "")
    offsets = pa.array(np.arange(0, n * m + 1, m, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, tokens, mask=None if valid is None else pa.array(~valid))


def _validity(valid: Mask | None) -> Any:
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
