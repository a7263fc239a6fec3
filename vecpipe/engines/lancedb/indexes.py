"""LanceDB's own indexes, built from centroids and codebooks that are trained here, once."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.arrays import Float32
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.lancedb.fits import check_searchable
from vecpipe.engines.lancedb.host import asking, dataset_of, latest_dataset
from vecpipe.errors import CapabilityError, InputError
from vecpipe.sample import row_hashes
from vecpipe.scoring import Metric
from vecpipe.search.ivf import Ivf, train

_METRICS = {"cosine": "cosine", "ip": "dot", "l2": "L2"}
_ROWS_A_PARTITION = 4_096
_SAMPLE_ROWS = 16_384
_SAMPLES_A_CENTROID = 64
_BATCH_ROWS = 8_192


def train_index(
    table: Any,
    column: str = "vector",
    *,
    partitions: int | None = None,
    subvectors: int | None = None,
    metric: Metric = "cosine",
    sample_rows: int | None = None,
    seed: int = 0,
) -> Ivf:
    """Train what an inverted file over a column of vectors needs; ``create_index`` builds it.

    The rows trained on are chosen by the hash of their content: the same rows give the same index, whatever their
    order and fragments.

    Parameters
    ----------
    table : lancedb.table.LanceTable
    column
        Column of float16, float32 or float64 vectors.
    partitions
        Number of centroids; a 4,096th of the rows unless given.
    subvectors
        Pieces for product quantisation, 8 bits each, as many as must divide the dimensions; None for vectors as they
        are (IVF_FLAT).
    metric
        cosine, ip or l2; searches have to use the same.
    sample_rows
        Rows to train on: 16,384, or 64 for each centroid, unless given.
    seed
        Of the first centroids.

    Raises
    ------
    CapabilityError
        LanceDB cannot search that column.
    FitError
        The table has too few rows.
    InputError
        No such column, or a parameter out of range.
    """
    dataset = dataset_of(table)
    _check_floats(_field(dataset, column))
    for name, value in (("partitions", partitions), ("subvectors", subvectors), ("sample_rows", sample_rows)):
        if value is not None and (not isinstance(value, Integral) or value < 1):
            raise InputError(f"{name} is {value!r}; expected a whole number of at least 1")
    found = max(1, round(int(dataset.count_rows()) / _ROWS_A_PARTITION)) if partitions is None else partitions
    rows = max(_SAMPLE_ROWS, _SAMPLES_A_CENTROID * found) if sample_rows is None else sample_rows
    return train(_sample(dataset, column, rows), partitions=found, subvectors=subvectors, metric=metric, seed=seed)


def create_index(table: Any, column: str = "vector", ivf: Ivf | None = None, *, replace: bool = True) -> None:
    """Build LanceDB's index from what was trained: IVF_PQ with a codebook, IVF_FLAT without.

    A column of packed bits gets IVF_FLAT by Hamming distance, which LanceDB trains by itself. Rows added later are
    found by searches at once, and enter the index with LanceDB's ``optimize``, by the same centroids and words.

    Parameters
    ----------
    table : lancedb.table.LanceTable
    column
        Column of vectors, or of packed bits.
    ivf
        From ``train_index``; for a column of bits it is left out.
    replace
        Take the place of an index there is.

    Raises
    ------
    CapabilityError
        LanceDB cannot index that column (int8, bfloat16, other codes); the message says what to store instead.
    InputError
        No such column, or centroids of another width.
    EngineError
        LanceDB refused.
    """
    dataset = latest_dataset(table)
    field = _field(dataset, column)
    check_searchable(field)
    if field.type.value_type == pa.uint8():
        if ivf is not None:
            raise InputError(f"column {column!r} holds packed bits, which LanceDB trains for by itself; leave ivf out")
        from lancedb.index import IvfFlat

        with asking(f"index the column {column!r}"):
            table.create_index(column, config=IvfFlat(distance_type="hamming"), replace=replace)
        return
    if ivf is None:
        raise InputError(f"column {column!r} holds vectors; pass ivf=train_index(table, {column!r})")
    if ivf.dim != field.type.list_size:
        raise InputError(f"the centroids have {ivf.dim} dimensions, but column {column!r} has {field.type.list_size}")
    options: dict[str, Any] = {"num_partitions": len(ivf.centroids), "ivf_centroids": ivf.centroids}
    if ivf.codebook is not None:
        options |= {"num_sub_vectors": len(ivf.codebook), "pq_codebook": ivf.codebook}
    with asking(f"index the column {column!r}"):
        kind = "IVF_FLAT" if ivf.codebook is None else "IVF_PQ"
        dataset.create_index(column, kind, metric=_METRICS[ivf.metric], replace=replace, **options)
        table.checkout_latest()


def _field(dataset: Any, column: str) -> Any:
    if column not in dataset.schema.names:
        raise InputError(f"{dataset.uri} has no column {column!r}; there are {', '.join(dataset.schema.names)}")
    return dataset.schema.field(column)


def _check_floats(field: Any) -> None:
    check_searchable(field)
    if field.type.value_type == pa.uint8():
        raise CapabilityError(f"column {field.name!r} holds packed bits; create_index needs no training for them")


def _sample(dataset: Any, column: str, rows: int) -> Float32:
    """Return the rows of the smallest content hashes, in the order of their hashes; a streaming read."""
    kept = np.zeros((0, dataset.schema.field(column).type.list_size), np.float32)
    hashes = np.zeros(0, np.uint64)
    for batch in dataset.scanner(columns=[column], batch_size=_BATCH_ROWS).to_batches():
        X = to_rows(batch.column(0), column=column, on_invalid="null").kept()
        if not len(X):
            continue
        all_hashes = np.concatenate([hashes, row_hashes(X)])
        order = np.argsort(all_hashes, kind="stable")[:rows]
        kept, hashes = np.concatenate([kept, X])[order], all_hashes[order]
    return kept
