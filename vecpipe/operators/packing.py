"""Small whole numbers packed into bytes: fields of 1 to 8 bits, none of which straddles a byte.

A field of 3, 5, 6 or 7 bits is cut into planes of 4, 2 and 1 bits (5 = 4 + 1), highest bits first, and each plane is
packed on its own. The first planes alone are therefore a coarser code. What the numbers mean is a codec's business.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32

MAX_BITS = 8


def planes(bits: int) -> tuple[int, ...]:
    """Return the widths of the planes that fields of so many bits are cut into, highest bits first."""
    return tuple(width for width in (8, 4, 2, 1) if bits & width)


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that ``count`` fields take."""
    return sum(-(-count * width // 8) for width in planes(bits))


def pack(fields: Bytes, bits: int) -> Bytes:
    """Pack ``(n, d) uint8`` fields below ``2**bits`` into ``(n, B) uint8``; the first field takes the highest bits."""
    n, count = fields.shape
    if bits == 8:
        return np.ascontiguousarray(fields)
    out = np.empty((n, packed_bytes(count, bits)), dtype=np.uint8)
    at, left = 0, bits
    for width in planes(bits):
        left -= width
        part = (fields >> np.uint8(left)) & np.uint8((1 << width) - 1) if width < bits else fields
        size = packed_bytes(count, width)
        out[:, at : at + size] = np.packbits(part, axis=1) if width == 1 else _pack_plane(part, width, size)
        at += size
    return out


def _pack_plane(part: Bytes, width: int, size: int) -> Bytes:
    each = 8 // width
    if part.shape[1] < each * size:
        part = np.pad(part, ((0, 0), (0, each * size - part.shape[1])))
    part = np.ascontiguousarray(part)
    while width < 8:  # neighbours as one number of 16 bits: the first of them is its low byte
        pairs = part.view("<u2")
        both = pairs >> np.uint16(8)
        both |= pairs << np.uint16(width)
        part, width = both.astype(np.uint8), 2 * width
    return part


@lru_cache(maxsize=3)
def _fields_of_bytes(width: int) -> npt.NDArray[np.unsignedinteger]:
    """Return the fields of each byte side by side, as one machine word a byte, ``(256,)``."""
    each = 8 // width
    shifts = np.arange(8 - width, -1, -width)
    fields = ((np.arange(256)[:, None] >> shifts) & ((1 << width) - 1)).astype(np.uint8)
    return np.ascontiguousarray(fields).view(f"u{each}")[:, 0]


def unpack(codes: Bytes, count: int, bits: int) -> Bytes:
    """Return the ``(n, d) uint8`` fields of packed bytes: the inverse of ``pack``."""
    if bits == 8:
        return codes
    total: Bytes | None = None
    at, left = 0, bits
    for width in planes(bits):
        left -= width
        size = packed_bytes(count, width)
        words = _fields_of_bytes(width).take(codes[:, at : at + size])
        part = words.view(np.uint8).reshape(len(codes), 8 // width * size)[:, :count]
        if total is None:
            total = part << np.uint8(left) if left else part
        else:
            total |= part << np.uint8(left)
        at += size
    assert total is not None
    return total


def unpack_as(values: npt.NDArray[np.int8], codes: Bytes, count: int, bits: int) -> npt.NDArray[np.int8]:
    """Return the signed byte that each field stands for, ``(n, d) int8``: ``values[unpack(codes, count, bits)]``."""
    if planes(bits) == (bits,) and bits < 8:
        each = 8 // bits
        fields = _fields_of_bytes(bits)[:, None].view(np.uint8)
        words = np.ascontiguousarray(values.take(fields)).view(f"u{each}")[:, 0]
        found = words.take(codes).view(np.int8)
        return found.reshape(len(codes), each * codes.shape[1])[:, :count]
    fields = unpack(codes, count, bits)
    if (np.diff(values.astype(np.int16)) == 1).all():
        return (fields + np.uint8(int(values[0]) % 256)).view(np.int8)
    return np.asarray(values.take(fields))


def stored_numbers(part: Bytes, kind: str) -> Float32:
    """Return the number at some bytes of each code, ``(n, w) uint8`` -> ``(n,) float32``.

    Bytes may come from a stranger: NaN and infinity, which no encoder writes, count as 0.

    Parameters
    ----------
    kind
        Type of the number, such as ``"<f2"``, ``"<f4"``, ``"<u2"``.
    """
    with np.errstate(invalid="ignore"):
        values = np.ascontiguousarray(part).view(kind)[:, 0].astype(np.float32)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
