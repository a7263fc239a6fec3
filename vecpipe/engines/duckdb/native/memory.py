"""Addresses in DuckDB's memory as NumPy arrays, and the type ids of its C API: the only place that makes a view.

Views point into DuckDB's memory and are valid only inside the callback that got the address.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

INTEGER, BIGINT, FLOAT, DOUBLE, VARCHAR, BLOB, DECIMAL, BIT = 4, 5, 10, 11, 17, 18, 19, 29
HUGEINT, LIST, UUID, ARRAY, ANY, SQLNULL = 16, 24, 27, 33, 34, 36
WIDE = "|V16"  # a 128-bit integer

ELEMENTS = {
    1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8",
    6: "|u1", 7: "<u2", 8: "<u4", 9: "<u8", 10: "<f4", 11: "<f8",
}  # fmt: skip
_NAMES = {
    1: "BOOLEAN", 2: "TINYINT", 3: "SMALLINT", 4: "INTEGER", 5: "BIGINT", 6: "UTINYINT", 7: "USMALLINT",
    8: "UINTEGER", 9: "UBIGINT", 10: "FLOAT", 11: "DOUBLE", 12: "TIMESTAMP", 13: "DATE", 14: "TIME",
    15: "INTERVAL", 16: "HUGEINT", 17: "VARCHAR", 18: "BLOB", 19: "DECIMAL", 23: "ENUM", 24: "LIST",
    25: "STRUCT", 26: "MAP", 27: "UUID", 28: "UNION", 29: "BIT", 31: "TIMESTAMP WITH TIME ZONE",
    32: "UHUGEINT", 33: "ARRAY", 36: "NULL",
}  # fmt: skip

Mask = NDArray[np.bool_]


class _Memory:
    __slots__ = ("__array_interface__",)

    def __init__(self, address: int, count: int, typestr: str, step: int | None = None) -> None:
        self.__array_interface__ = {
            "data": (address, False), "shape": (count,), "typestr": typestr, "version": 3,
            "strides": None if step is None else (step,),
        }  # fmt: skip


def array_at(address: int | None, count: int, typestr: str) -> NDArray[Any]:
    """View ``count`` elements at an address that DuckDB gave for them."""
    if not count or not address:
        return np.empty(0, typestr)
    return np.asarray(_Memory(address, count, typestr))


_LOWEST, _ADDRESSES, _NARROW = 4096, 1 << 48, 8192


@lru_cache(maxsize=64)
def _everywhere(width: int) -> NDArray[Any]:
    """Return a view of all addresses there can be, as items of ``width`` bytes, one beginning at each."""
    return np.asarray(_Memory(_LOWEST, _ADDRESSES - _LOWEST, f"|V{width}", 1))


def gather(addresses: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """Copy ``width`` bytes from each address, ``(n, width)``.

    One call: each that lets go of the interpreter's lock wakes other threads, which costs more than it copies. The
    view spans far more than is mapped; only the rows are read.
    """
    if not len(addresses):
        return np.empty((0, width), np.uint8)
    if width <= _NARROW:  # NumPy counts the bytes of a view by its items, and those of wide ones would overflow
        picked = _everywhere(width)[addresses - _LOWEST]
    else:
        first = int(addresses.min())
        offsets = addresses - first
        picked = np.asarray(_Memory(first, int(offsets.max()) + 1, f"|V{width}", 1))[offsets]
    return np.asarray(picked).view(np.uint8).reshape(len(addresses), width)


def hugeints(table: NDArray[Any]) -> NDArray[np.float64]:
    """Return 128-bit integers as float64."""
    halves = np.ascontiguousarray(table).view("<u8").reshape(*table.shape, 2)
    low, high = halves[..., 0], halves[..., 1]
    negative = high >> np.uint64(63) == 1
    low_part = np.where(negative, ~low + np.uint64(1), low)
    high_part = np.where(negative, ~high + (low == 0).astype(np.uint64), high)
    size = high_part.astype(np.float64) * 2.0**64 + low_part.astype(np.float64)
    return np.where(negative, -size, size)


def type_name(type_id: int) -> str:
    """Return the SQL name of a C API type id."""
    return _NAMES.get(type_id, f"type number {type_id}")
