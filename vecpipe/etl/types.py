"""Column types on their way from a source to a target: what is cast, and what a target cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa

from vecpipe.errors import InputError
from vecpipe.sql_names import quoted

_IN_FILES = {
    "HUGEINT": "DECIMAL(38, 0)",
    "UHUGEINT": "VARCHAR",
    "BIGNUM": "VARCHAR",
    "BIT": "VARCHAR",
    "TIME WITH TIME ZONE": "VARCHAR",
}
"""What DuckDB's own types become in a file: nothing else reads them there, and Arrow's next of kin lose values."""


def file_type(kind: Any) -> str | None:
    """Return the SQL type that a DuckDB type must be cast to for a file, or None where it can stay as it is."""
    text = _text(kind, _IN_FILES)
    return None if text == _text(kind, {}) else text


def _text(kind: Any, instead: dict[str, str]) -> str:
    """Return a DuckDB type as SQL, with other types in the place of some, however deep they lie."""
    if kind.id not in ("list", "array", "map", "struct", "union"):
        return instead.get(str(kind), str(kind))
    parts = [(name, part if name == "size" else _text(part, instead)) for name, part in kind.children]
    texts = [text for _, text in parts]
    if kind.id == "list":
        return f"{texts[0]}[]"
    if kind.id == "array":
        return f"{texts[0]}[{texts[1]}]"
    if kind.id == "map":
        return f"MAP({texts[0]}, {texts[1]})"
    members = parts[1:] if kind.id == "union" else parts  # a union's first part is its tag
    return f"{kind.id.upper()}({', '.join(f'{quoted(name)} {text}' for name, text in members)})"


def plain(kind: Any) -> Any:
    """Return an Arrow type without dictionaries: those of an Arrow file may not change from batch to batch."""
    return _mapped(kind, lambda one: plain(one.value_type) if pa.types.is_dictionary(one) else one)


def without_halves(kind: Any) -> Any:
    """Return an Arrow type with float32 for half floats."""
    return _mapped(kind, lambda one: pa.float32() if pa.types.is_float16(one) else one)


def _mapped(kind: Any, change: Callable[[Any], Any]) -> Any:
    """Return an Arrow type with its parts changed, however deep they lie."""

    def inner(field: Any) -> Any:
        return field.with_type(_mapped(field.type, change))

    if pa.types.is_struct(kind):
        return pa.struct([inner(field) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_field), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(inner(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(inner(kind.value_field))
    if pa.types.is_map(kind):
        return pa.map_(inner(kind.key_field), inner(kind.item_field), kind.keys_sorted)
    return change(kind)


def cast(array: Any, kind: Any) -> Any:
    """Return a column as another type, itself where it has that already."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array if array.type == kind else array.cast(kind)


def refuse_unfit(schema: Any, fits: Callable[[Any], Any], what: str) -> None:
    """Try each column by itself, so that a type is refused before anything is computed.

    Raises
    ------
    InputError
        Names the first column that ``what`` cannot hold.
    """
    for field in schema:
        try:
            fits(pa.schema([field]))
        except (pa.ArrowException, duckdb.Error) as error:
            raise InputError(
                f"{field.name}: {what} cannot hold a column of type {field.type}; "
                "cast it first, or leave it out (keep=, --keep)"
            ) from error
