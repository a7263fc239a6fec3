"""Which LanceDB column type and which of its indexes the output of a model fits, and what LanceDB cannot search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vecpipe.engines.lancedb.backfill import column_type
from vecpipe.errors import CapabilityError
from vecpipe.model import Model

_FLOAT_INDEXES = ("IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_SQ", "IVF_HNSW_FLAT")
_BIT_INDEXES = ("IVF_FLAT", "IVF_HNSW_FLAT")


@dataclass(frozen=True)
class Fit:
    """How a model's output lies in a LanceDB table.

    Attributes
    ----------
    type : pyarrow.DataType
        Type of the column.
    indexes : tuple of str
        LanceDB's indexes on it; none where only vecpipe can score it.
    metrics : tuple of str
        LanceDB's metrics for them.
    note : str
        What to do with it.
    """

    type: Any
    indexes: tuple[str, ...]
    metrics: tuple[str, ...]
    note: str


def fit_of(model: Model) -> Fit:
    """Return the column type and the indexes of LanceDB that the output of a model fits.

    Vectors are float32, which every index takes. Packed bits of ``binary`` are a list of uint8, which LanceDB compares
    by Hamming distance. Every other code is a fixed number of bytes, which ``vecpipe.lancedb.search`` scores.
    """
    kind = column_type(model)
    if model.codec is None:
        return Fit(kind, _FLOAT_INDEXES, ("cosine", "l2", "dot"), "search() uses whatever index LanceDB has on it")
    if model.codec.name == "binary":
        return Fit(kind, _BIT_INDEXES, ("hamming",), "search() scores it; with use_index=True LanceDB finds candidates")
    return Fit(kind, (), (), "LanceDB cannot search these codes; search() scores them")


def check_searchable(field: Any) -> None:
    """Refuse a vector column that LanceDB stores but cannot search or index.

    Raises
    ------
    CapabilityError
        The message says which type to store instead.
    """
    kind = field.type
    if "bfloat16" in str(kind) or (pa.types.is_fixed_size_list(kind) and kind.value_type == pa.binary(2)):
        raise CapabilityError(
            f"column {field.name!r} holds bfloat16, which LanceDB stores but cannot search or index; "
            "store float16, or the codes of a model that ends in bfloat16, which vecpipe scores"
        )
    if not pa.types.is_fixed_size_list(kind):
        raise CapabilityError(
            f"column {field.name!r} is {kind}, which LanceDB cannot search or index; expected a fixed-size list of "
            "float16, float32 or float64, or packed bits as uint8. Codes are scored by vecpipe.lancedb.search"
        )
    value = kind.value_type
    if not (pa.types.is_floating(value) or value == pa.uint8()):
        raise CapabilityError(
            f"column {field.name!r} is a list of {value}, which LanceDB stores but cannot search or index; store "
            "float16 vectors, or the codes of a model that ends in int8, which vecpipe scores"
        )
