"""Recall of a search that returns vectors, against exact search over a stream of rows.

A row counts as found where its exact score reaches that of the k-th best row: which of several rows with the same
score come does not matter, and rows need no key.
"""

from __future__ import annotations

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.metrics.retrieval import top_places
from vecpipe.scoring import Metric, exact_scores

_NEAR = 1e-6


class ExactBest:
    """The vectors that score best for each query, gathered from batches of rows.

    Parameters
    ----------
    queries : (m, d) float32
    k
        How many to keep.
    """

    def __init__(self, queries: Float32, k: int, metric: Metric) -> None:
        self.queries, self.k, self.metric = queries, k, metric
        self._scores = np.full((len(queries), 0), np.nan, dtype=np.float32)
        self._vectors = np.zeros((len(queries), 0, queries.shape[1]), dtype=np.float32)

    def add(self, X: Float32) -> None:
        """Look at more rows, ``(n, d) float32``."""
        scores = exact_scores(self.queries, X, self.metric)
        best = top_places(scores, self.k)
        together = np.concatenate([self._scores, np.take_along_axis(scores, best, axis=1)], axis=1)
        vectors = np.concatenate([self._vectors, X[best]], axis=1)
        keep = top_places(together, self.k)
        self._scores = np.take_along_axis(together, keep, axis=1)
        self._vectors = np.take_along_axis(vectors, keep[:, :, None], axis=1)

    def wanted(self, query: int) -> Float64:
        """Return the exact scores of the best rows of a query, those that have one."""
        scores = wide_scores(self.queries[query], self._vectors[query], self.metric)
        return scores[~np.isnan(scores)]

    def recall(self, query: int, found: Float32) -> float | None:
        """Return the share of the best rows among those found, ``(f, d) float32``; None where no row has a score."""
        wanted = self.wanted(query)
        if not len(wanted):
            return None
        scores = wide_scores(self.queries[query], found, self.metric)
        least = wanted.min() - _NEAR * np.abs(wanted).max()
        return min(int((scores >= least).sum()), len(wanted)) / len(wanted)


def wide_scores(q: Float32, X: Float32, metric: Metric) -> Float64:
    """Return exact scores of rows for one query in float64, ``(n,)``; NaN where cosine has no answer."""
    wide, rows = q.astype(np.float64), X.astype(np.float64)
    if metric == "l2":
        return np.asarray(-np.sqrt(((rows - wide) ** 2).sum(axis=1)))
    products = rows @ wide
    if metric == "ip":
        return np.asarray(products)
    lengths = np.sqrt((rows * rows).sum(axis=1)) * np.sqrt(wide @ wide)
    return np.asarray(products / np.where(lengths > 0, lengths, np.nan))
