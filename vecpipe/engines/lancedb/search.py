"""Search in LanceDB tables: the query goes through the model of the column, the best rows are scored again exactly.

Codes are scored by vecpipe from memory (``snapshots``); vectors a model writes are searched by LanceDB itself, with
whatever index it has on them. Either way the candidates' raw vectors give the final order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vecpipe.arrays import Float32
from vecpipe.columns.codes import from_codes
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.lancedb.asks import Ask, check, check_raw, column_and_model, queries_of, shown_columns
from vecpipe.engines.lancedb.host import asking
from vecpipe.engines.lancedb.snapshots import Snapshot, snapshot, snapshot_async
from vecpipe.errors import CapabilityError
from vecpipe.metrics.retrieval import top_places
from vecpipe.model import Model
from vecpipe.scoring import Metric, exact_scores
from vecpipe.search.resident import Found

_LANCE_METRICS = {"cosine": "cosine", "ip": "dot", "l2": "l2"}


def search(
    table: Any,
    q: Any,
    *,
    column: str | None = None,
    model: Model | str | None = None,
    k: int = 10,
    rerank: str | None = None,
    metric: Metric = "cosine",
    where: str | None = None,
    text: str | None = None,
    reranker: Any = None,
    columns: Sequence[str] | None = None,
    oversample: int = 4,
    shortlist: int = 0,
    use_index: bool = False,
    nprobes: int | None = None,
) -> pa.Table:
    """Return the k rows of a LanceDB table nearest to a query, with their ``score``, larger is closer.

    The query is what the encoder gave; the model is applied to it here, once the column's metadata shows that its
    rows were written by the same model.

    Parameters
    ----------
    table : lancedb.table.LanceTable
    q : (d,) or (m, d)
        A query, or several: then a column ``query_index`` says whose row it is. A text, for a column that an
        embedding function of vecpipe fills.
    column
        Column that a model wrote; may be left out where there is one such column.
    model
        A model, or the name of one in the table's database; left out, the one the column's metadata names.
    k
        Rows a query.
    rerank
        Column of raw vectors: the ``k * oversample`` best are scored again, exactly. Scores are then those of the raw
        vectors, else estimates in the space of the model.
    metric
        cosine, ip or l2 (minus the distance).
    where
        Filter in LanceDB's SQL, applied before the search; a scalar index helps.
    text
        Words for LanceDB's full-text index: both lists are brought together by the reranker.
    reranker : lancedb.rerankers.Reranker
        For ``text``; LanceDB's reciprocal rank fusion unless given.
    columns
        Columns to return; left out, all but vectors and codes.
    oversample
        Candidates a row that is asked for.
    shortlist
        Codes scored a query in a large table, after a look at sign bits; 0 chooses.
    use_index
        Find candidates through LanceDB's own index (or scan) of packed bits instead of vecpipe's scan; for codes that
        end in ``binary`` and are stored as a list of uint8.
    nprobes
        Partitions that LanceDB's index looks at.

    Returns
    -------
    pyarrow.Table
        At most k rows a query, best first; rows without a score (NULL, no direction) are never among them.

    Raises
    ------
    InputError
        Wrong width, a column that is missing or was written by another model, a parameter out of range.
    ModelNotFoundError
        The catalog has no such model.
    CapabilityError
        The column or the model cannot be searched in this way.
    EngineError
        LanceDB refused, for example the filter.

    Examples
    --------
    >>> import vecpipe.lancedb as vl
    >>> vl.search(table, q, column="code", rerank="vector", k=10, where="lang = 'en'")  # doctest: +SKIP
    """
    ask = Ask(
        column=column,
        model=model,
        k=k,
        rerank=rerank,
        metric=metric,
        where=where,
        text=text,
        reranker=reranker,
        columns=columns,
        oversample=oversample,
        shortlist=shortlist,
        use_index=use_index,
        nprobes=nprobes,
        database=getattr(table, "_conn", None),  # keeps the storage options that the path alone would lose
    )
    return _run(snapshot(table), q, ask)


async def search_async(table: Any, q: Any, **options: Any) -> pa.Table:
    """Do what ``search`` does for an ``AsyncTable``, away from the event loop.

    Parameters
    ----------
    table : lancedb.table.AsyncTable
    q : (d,) or (m, d)
        As in ``search``; so are the options, the result and the errors.
    """
    return await asyncio.to_thread(_run, await snapshot_async(table), q, Ask(**options))


def _run(snap: Snapshot, q: Any, ask: Ask) -> pa.Table:
    check(ask)
    column, model = column_and_model(snap, ask)
    Q, many = queries_of(q, snap, model, column)
    shown = shown_columns(snap, ask)
    if ask.rerank is not None:
        check_raw(snap, ask.rerank, model)
    count = ask.k if ask.rerank is None and ask.text is None else ask.k * ask.oversample
    needed = list(dict.fromkeys([*shown, *([ask.rerank] if ask.rerank else []), *(["_rowid"] if ask.text else [])]))
    if model.codec is None:
        lists = [_by_lance(snap, column, model, row, count, ask, needed) for row in Q]
    elif ask.use_index:
        lists = [_by_bits(snap, column, model, row, count, ask, needed) for row in Q]
    else:
        lists = _taken(snap, snap.top(column, model, Q, count, ask.metric, ask.where, ask.shortlist), needed)
    results = []
    for at, (rows, scores) in enumerate(lists):
        if ask.rerank is not None:
            scores = _exact(Q[at : at + 1], rows, ask.rerank, ask.metric)
        best = top_places(scores[None], ask.k if ask.text is None else count)[0]
        best = best[~np.isnan(scores[best])]
        rows, scores = rows.take(pa.array(best)), scores[best]
        if ask.text is not None:
            rows, scores = _with_text(snap, rows, scores, shown, count, ask)
        result = _scored(rows.select(shown), scores)
        results.append(_numbered(result, at) if many else result)
    if not results:
        return _numbered(_scored(_no_rows(snap, needed)[0].select(shown), np.zeros(0, np.float32)), 0)
    return pa.concat_tables(results) if len(results) != 1 else results[0]


def _numbered(rows: pa.Table, query: int) -> pa.Table:
    """Append whose rows these are; a column of that name gives way."""
    if "query_index" in rows.column_names:
        rows = rows.drop_columns(["query_index"])
    return rows.append_column("query_index", pa.array(np.full(len(rows), query, np.int32)))


def _taken(snap: Snapshot, found: list[Found], needed: list[str]) -> list[tuple[pa.Table, Float32]]:
    """Read the rows of all queries' candidates at once."""
    places = np.concatenate([np.zeros(0, np.int64), *(each.places for each in found)])
    rows = snap.take(places, needed) if needed else pa.table({"": pa.nulls(len(places))})
    lists, at = [], 0
    for each in found:
        lists.append((rows.slice(at, len(each.places)), each.scores))
        at += len(each.places)
    return lists


def _by_lance(
    snap: Snapshot, column: str, model: Model, q: Float32, count: int, ask: Ask, needed: list[str]
) -> tuple[pa.Table, Float32]:
    """Let LanceDB find candidates in a column of vectors; scores as vecpipe defines them."""
    moved, valid = model.transform_queries(q[None])
    if valid is not None and not valid[0]:
        return _no_rows(snap, needed)
    near = _near(column, moved[0], count, _LANCE_METRICS[ask.metric], ask.nprobes)
    rows = _nearest(snap, near, ask, [*needed, column])
    return rows, exact_scores(moved, to_rows(rows[column], column=column, dim=model.output_dim).values, ask.metric)[0]


def _by_bits(
    snap: Snapshot, column: str, model: Model, q: Float32, count: int, ask: Ask, needed: list[str]
) -> tuple[pa.Table, Float32]:
    """Let LanceDB find candidates by Hamming distance; scored by the model."""
    kind = snap.field(column).type
    if model.codec is None or model.codec.name != "binary" or not pa.types.is_fixed_size_list(kind):
        raise CapabilityError(
            f"use_index is for packed bits: column {column!r} is {kind}, written by {model.spec!r}; "
            "store a model that ends in binary as a list of uint8, or leave use_index out"
        )
    code, valid = model.encode(q[None])
    if valid is not None and not valid[0]:
        return _no_rows(snap, needed)
    rows = _nearest(snap, _near(column, code[0], count, "hamming", ask.nprobes), ask, [*needed, column])
    codes, _ = from_codes(rows[column], model.bytes_per_vector, column=column)
    return rows, model.score(model.prepare(q[None], ask.metric), codes)[0]


def _near(column: str, q: Any, count: int, metric: str, nprobes: int | None) -> dict[str, Any]:
    near: dict[str, Any] = {"column": column, "q": q, "k": count, "metric": metric}
    return near if nprobes is None else near | {"nprobes": nprobes}


def _nearest(snap: Snapshot, near: dict[str, Any], ask: Ask, columns: list[str]) -> pa.Table:
    if not snap.dataset.count_rows():
        return _no_rows(snap, columns)[0]
    named = [name for name in dict.fromkeys(columns) if name != "_rowid"]
    return snap.scan(
        nearest=near, columns=named, filter=ask.where, prefilter=ask.where is not None, with_row_id="_rowid" in columns
    )


def _no_rows(snap: Snapshot, columns: list[str]) -> tuple[pa.Table, Float32]:
    return snap.take([], columns), np.zeros(0, np.float32)


def _exact(q: Float32, rows: pa.Table, column: str, metric: Metric) -> Float32:
    """Return exact scores of candidates by their raw vectors; NaN where there is none."""
    raw = to_rows(rows[column], column=column, dim=q.shape[1])
    scores = exact_scores(q, raw.values, metric)[0]
    return scores if raw.valid is None else np.where(raw.valid, scores, np.float32(np.nan))


def _with_text(
    snap: Snapshot, rows: pa.Table, scores: Float32, shown: list[str], count: int, ask: Ask
) -> tuple[pa.Table, Float32]:
    """Bring the list by vectors and LanceDB's list by words together."""
    from lancedb.rerankers import RRFReranker

    words = snap.scan(
        full_text_query=ask.text,
        columns=[*shown, "_score"],
        limit=count,
        filter=ask.where,
        prefilter=ask.where is not None,
        with_row_id=True,
    )
    ids = [*shown, "_rowid"]
    by_vector = rows.select(ids).append_column("_distance", pa.array(-scores, pa.float32()))
    reranker = ask.reranker or RRFReranker()
    with asking(f"rerank with {reranker}"):
        merged = reranker.rerank_hybrid(ask.text, by_vector, words.select([*ids, "_score"]))
    merged = merged.slice(0, ask.k)
    return merged, np.asarray(merged["_relevance_score"].to_numpy(), dtype=np.float32)


def _scored(rows: pa.Table, scores: Float32) -> pa.Table:
    """Append the scores; a column of that name gives way."""
    if "score" in rows.column_names:
        rows = rows.drop_columns(["score"])
    if not rows.column_names:
        return pa.table({"score": scores})
    return rows.append_column("score", pa.array(scores, pa.float32()))
