"""Rerankers for LanceDB's own search builders: exact scores, scores normalised by a bank of queries, sets of vectors.

A LanceDB reranker is given the query's text, not its vector; these take the vector when they are made, one for each
query. They need the column of vectors among those the search selects.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lancedb.rerankers import Reranker

from vecpipe.arrays import Float32
from vecpipe.columns.vectors import to_rows, to_sets
from vecpipe.errors import InputError
from vecpipe.metrics.retrieval import top_places
from vecpipe.scoring import Metric, exact_scores, max_sim, metric_named
from vecpipe.search.querybank import QueryBank

_RELEVANCE = "_relevance_score"


class _ByVectors(Reranker):  # type: ignore[misc]
    """Scores rows by a column of theirs; rows without a score (NULL, no direction) are left out."""

    def __init__(self, column: str, return_score: str) -> None:
        super().__init__(return_score)
        self.column = column

    def scores(self, rows: pa.Table) -> Float32:
        """Return ``(n,) float32``, larger is closer; NaN for a row that has no score."""
        raise NotImplementedError

    def _ranked(self, rows: pa.Table) -> pa.Table:
        if self.column not in rows.column_names:
            raise InputError(
                f"the results have no column {self.column!r} to score; select it too: .select([..., {self.column!r}])"
            )
        scores = self.scores(rows)
        order = top_places(scores[None], len(scores))[0]
        order = order[~np.isnan(scores[order])]
        ranked = rows.take(pa.array(order)).append_column(_RELEVANCE, pa.array(scores[order], pa.float32()))
        return self._keep_relevance_score(ranked)

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """Rank the results of a vector search by their scores."""
        return self._ranked(vector_results)

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """Rank the results of a full-text search by their scores."""
        return self._ranked(fts_results)

    def rerank_hybrid(self, query: str, vector_results: pa.Table, fts_results: pa.Table) -> pa.Table:
        """Rank the rows of both lists by their scores."""
        return self._ranked(self.merge_results(vector_results, fts_results))


class ExactRerank(_ByVectors):
    """Scores candidates exactly by a column of raw vectors, whatever column the search ran on.

    LanceDB's ``refine_factor`` scores again within the searched column only.

    Parameters
    ----------
    q : (d,)
        The query as the encoder gave it.
    column
        Column of raw vectors.
    metric
        cosine, ip or l2 (minus the distance).

    Raises
    ------
    InputError, SpecError
        Not a vector of finite numbers, or an unknown metric.
    """

    def __init__(self, q: Any, column: str, metric: Metric = "cosine", return_score: str = "relevance") -> None:
        super().__init__(column, return_score)
        self.q = to_rows(np.asarray(q)[None], column="q").values
        self.metric = metric_named(metric)

    def scores(self, rows: pa.Table) -> Float32:
        """Return exact scores of the raw vectors."""
        raw = to_rows(rows[self.column], column=self.column, dim=self.q.shape[1])
        scores = exact_scores(self.q, raw.values, self.metric)[0]
        return scores if raw.valid is None else np.where(raw.valid, scores, np.float32(np.nan))


class QueryBankRerank(ExactRerank):
    """Scores candidates by the inverted softmax over a bank of queries, so that hubs step back.

    Parameters
    ----------
    q, column
        As for ``ExactRerank``; the metric is the bank's.
    bank : QueryBank
    hubs
        Values of ``id`` of the rows that were the nearest of some query of the bank. Where they are given, a list is
        normalised only if its own nearest row is one of them (the dynamic form); left out, every list is.
    id
        Column that ``hubs`` speaks of.

    Raises
    ------
    InputError
        As for ``ExactRerank``.
    """

    def __init__(
        self,
        q: Any,
        column: str,
        bank: QueryBank,
        *,
        hubs: Collection[Any] | None = None,
        id: str = "_rowid",
        return_score: str = "relevance",
    ) -> None:
        super().__init__(q, column, bank.metric, return_score)
        self.bank = bank
        self.hubs = hubs
        self.id = id

    def scores(self, rows: pa.Table) -> Float32:
        """Return normalised scores, or the raw ones where the nearest row is no hub."""
        scores = super().scores(rows)
        if self.hubs is not None:
            if self.id not in rows.column_names:
                raise InputError(f"the results have no column {self.id!r}, which hubs speaks of; select it too")
            if not len(scores) or np.isnan(scores).all():
                return scores
            if rows[self.id][int(np.nanargmax(scores))].as_py() not in self.hubs:
                return scores
        raw = to_rows(rows[self.column], column=self.column, dim=self.q.shape[1])
        return self.bank.normalise(scores, raw.values)


class MaxSimRerank(_ByVectors):
    """Scores candidates by late interaction: each query vector's best match in a row's set of vectors, summed.

    Parameters
    ----------
    Q : (t, d)
        The vectors of the query, one a token.
    column
        Column of lists of vectors.

    Raises
    ------
    InputError
        Not a matrix of finite numbers.
    """

    def __init__(self, Q: npt.ArrayLike, column: str, return_score: str = "relevance") -> None:
        super().__init__(column, return_score)
        self.queries = to_rows(np.asarray(Q), column="Q").values

    def scores(self, rows: pa.Table) -> Float32:
        """Return the sums of best matches; NaN for a row without vectors."""
        X, offsets, _ = to_sets(rows[self.column], column=self.column, dim=self.queries.shape[1])
        return max_sim(self.queries, X, offsets)
