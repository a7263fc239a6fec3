"""Real embeddings for the benchmark of codecs: Parquet files of documents, queries and judgements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vecpipe.arrays import Float32, Rows
from vecpipe.columns.vectors import to_rows
from vecpipe.errors import InputError
from vecpipe.evaluate import Collection
from vecpipe.sources import vector_column

_HELD_OUT = 500


def load_collection(folder: Path, *, train_queries: bool = False) -> Collection:
    """Read ``docs.parquet``, ``queries.parquet`` and ``qrels.parquet`` (query_id, doc_id, score) of a folder.

    Without queries, 500 rows drawn with a fixed seed leave the documents and ask for their neighbours. A folder with
    one Parquet file of any name is read as documents; its first list column holds the vectors.

    Parameters
    ----------
    train_queries
        Let fits see the queries whose ``split`` is ``train``, and measure on the others.

    Raises
    ------
    InputError
        The folder holds no such files.
    """
    docs_file = folder / "docs.parquet"
    if not docs_file.exists():
        files = sorted(folder.glob("*.parquet"))
        if not files:
            raise InputError(f"{folder}: expected docs.parquet, or another Parquet file of vectors")
        docs_file = files[-1]
    docs, doc_ids = _vectors(pq.read_table(docs_file))
    queries_file = folder / "queries.parquet"
    if not queries_file.exists():
        chosen = np.random.default_rng(0).permutation(len(docs))[:_HELD_OUT]
        return Collection(np.delete(docs, chosen, axis=0), docs[chosen])
    table = pq.read_table(queries_file)
    fit_queries = None
    if train_queries:
        if "split" not in table.column_names:
            raise InputError(f"{queries_file}: has no column split to take training queries from")
        fit_queries, _ = _vectors(table.filter(pc.equal(table["split"], "train")))
        table = table.filter(pc.not_equal(table["split"], "train"))
    queries, query_ids = _vectors(table)
    judged = _judgements(folder / "qrels.parquet", query_ids, doc_ids)
    return Collection(docs, queries, judged=judged, fit_queries=fit_queries)


def _vectors(table: Any) -> tuple[Float32, list[Any]]:
    lists = [f.name for f in table.schema if pa.types.is_list(f.type) or pa.types.is_fixed_size_list(f.type)]
    name = lists[0] if lists else vector_column(table.schema, None)
    rows: Rows = to_rows(table[name], column=name)
    ids = next((table[column] for column in ("id", "_id", "doc_id", "query_id") if column in table.column_names), None)
    live = np.ones(len(rows), bool) if rows.valid is None else rows.valid
    live &= rows.values.any(axis=1)
    return rows.values[live], list(range(len(rows))) if ids is None else ids.filter(pa.array(live)).to_pylist()


def _judgements(path: Path, query_ids: list[Any], doc_ids: list[Any]) -> dict[int, dict[int, float]]:
    if not path.exists():
        return {}
    table = pq.read_table(path)
    columns = [table.column(i).to_pylist() for i in range(3)]
    query_row, doc_row = ({value: row for row, value in enumerate(ids)} for ids in (query_ids, doc_ids))
    judged: dict[int, dict[int, float]] = {}
    for query, doc, gain in zip(*columns, strict=True):
        if query in query_row and doc in doc_row:
            judged.setdefault(query_row[query], {})[doc_row[doc]] = float(gain)
    return judged
