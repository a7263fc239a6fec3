"""The byte format of models and sketches: safetensors with one JSON record and a content hash.

Bytes may come from a stranger: there is no pickle and no eval, every length is checked against the bytes there are,
and whatever cannot be read is a ``ModelFormatError`` that says why.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
from safetensors.numpy import save

from vecpipe.errors import ModelFormatError

FORMAT_VERSION = 1
_KEY = "vecpipe"
_deserialize: Any = safetensors.deserialize
_HEADER_LIMIT = 16 << 20

Arrays = dict[str, npt.NDArray[Any]]

_DTYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
}


def _digest(kind: str, record: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    state = hashlib.sha256()
    state.update(json.dumps([kind, record], sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def write(kind: str, record: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the bytes of a record and its arrays; the same content gives the same bytes."""
    clean = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    head = {"format": FORMAT_VERSION, "kind": kind, "hash": _digest(kind, record, clean), "record": record}
    text = json.dumps(head, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return bytes(save(clean, metadata={_KEY: text}))


def content_hash(data: bytes) -> str:
    """Return the content hash that the bytes claim, without checking it."""
    return str(_head(data)["hash"])


def read(kind: str, data: bytes) -> tuple[dict[str, Any], Arrays]:
    """Return record and arrays of bytes written by ``write``.

    Raises
    ------
    ModelFormatError
        Not such bytes, another kind, a newer format, or content that does not match its hash.
    """
    head = _head(data)
    if head.get("kind") != kind:
        raise ModelFormatError(f"expected a {kind}, but these bytes hold a {head.get('kind')!r}")
    if head.get("format") != FORMAT_VERSION:
        raise ModelFormatError(
            f"{kind}: format version {head.get('format')!r}, but this vecpipe reads {FORMAT_VERSION}; upgrade vecpipe"
        )
    try:
        entries: list[tuple[str, Any]] = _deserialize(bytes(data))
        arrays = {name: _array(entry) for name, entry in entries}
    except ModelFormatError:
        raise
    except Exception as error:
        raise ModelFormatError(f"{kind}: the arrays cannot be read ({error})") from error
    record = head.get("record")
    if not isinstance(record, dict):
        raise ModelFormatError(f"{kind}: the record is missing")
    try:
        digest = _digest(kind, record, arrays)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{kind}: the record cannot be read ({error})") from error
    if digest != head.get("hash"):
        raise ModelFormatError(f"{kind}: the content does not match its hash; the bytes were damaged or edited")
    return record, arrays


def _head(data: bytes) -> dict[str, Any]:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ModelFormatError(f"expected bytes, got {type(data).__name__}")
    if len(data) < 10:
        raise ModelFormatError(f"{len(data)} bytes are too few for a model")
    size = int.from_bytes(bytes(data[:8]), "little")
    if size > min(len(data) - 8, _HEADER_LIMIT):
        raise ModelFormatError("these bytes are no model: the header is longer than the bytes there are")
    try:
        header = json.loads(bytes(data[8 : 8 + size]))
        head = json.loads(header["__metadata__"][_KEY])
        if not isinstance(head, dict) or not isinstance(head["hash"], str):
            raise TypeError("no record")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFormatError(f"these bytes are no model: the header cannot be read ({error})") from error
    return head


def _array(entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    dtype = _DTYPES.get(str(entry["dtype"]))
    if dtype is None:
        raise ModelFormatError(f"arrays of type {entry['dtype']} are not used in models")
    return np.frombuffer(bytes(entry["data"]), dtype=dtype).reshape(entry["shape"])


def integer(record: Mapping[str, Any], name: str, low: int, high: int = 1 << 62) -> int:
    """Return an integer of the record, checked against its range."""
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ModelFormatError(f"{name} is {value!r}; expected an integer from {low} to {high}")
    return value


def number(record: Mapping[str, Any], name: str) -> float:
    """Return a finite number of the record."""
    value = record.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ModelFormatError(f"{name} is {value!r}; expected a finite number")
    return float(value)


def text(record: Mapping[str, Any], name: str) -> str:
    """Return a text of the record."""
    value = record.get(name)
    if not isinstance(value, str):
        raise ModelFormatError(f"{name} is {value!r}; expected text")
    return value


def check_arrays(
    arrays: Mapping[str, npt.NDArray[Any]],
    shapes: Mapping[str, tuple[Any, tuple[int, ...]]],
    *,
    finite: Iterable[str] | None = None,
    where: str = "sketch",
) -> None:
    """Check that exactly these arrays are there, with these dtypes and shapes, and finite where told.

    A length of -1 stands for any.

    Raises
    ------
    ModelFormatError
        Names the array and what was expected.
    """
    if set(arrays) != set(shapes):
        raise ModelFormatError(f"{where}: holds arrays {sorted(arrays)}, expected {sorted(shapes)}")
    for name, (dtype, shape) in shapes.items():
        array = arrays[name]
        fits = len(array.shape) == len(shape) and all(w in (-1, n) for n, w in zip(array.shape, shape, strict=True))
        if array.dtype != np.dtype(dtype) or not fits:
            raise ModelFormatError(
                f"{where}: array {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
            )
    for name in shapes if finite is None else finite:
        array = arrays.get(name, np.zeros(0))
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelFormatError(f"{where}: array {name} holds NaN or infinity")
