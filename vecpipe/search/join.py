"""The k best rows for each of many queries: blocks of rows are scored one after the other, the best so far are kept.

Scores are somebody else's business: a scorer is any function from a block to a matrix of scores. Memory is bounded by
one block of rows and its scores, so that the rows may be a stream.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32, Mask
from vecpipe.kernels import one_blas_thread
from vecpipe.pipeline import Model
from vecpipe.scoring import Metric, exact_scores

Places = npt.NDArray[np.int64]
Block = TypeVar("Block")
Scorer = Callable[[Any], Float32]

QUERY_ROWS = 512
"""Queries that share one product: with blocks of 4,096 rows their scores take 8 MB."""
BLOCK_ROWS = 4_096


class Best:
    """The k best of a stream of scores, for each of m queries; ties go to the row that came first.

    Parameters
    ----------
    queries
        m.
    k
        How many to keep of each.

    Attributes
    ----------
    scores : (m, k) float32
        Best first; -inf where there are fewer than k.
    places : (m, k) int64
        Where each stood in the stream; -1 where there are fewer than k.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.scores: Float32 = np.full((queries, k), -np.inf, dtype=np.float32)
        self.places: Places = np.full((queries, k), -1, dtype=np.int64)
        self._k = k
        self._seen = 0

    def add(self, scores: Float32) -> None:
        """Take in the scores ``(m, n)`` of the next n rows; NaN and -inf are no scores."""
        n, k = scores.shape[1], self._k
        limit = self.scores[:, -1]
        if self._seen < k < n:
            # Nothing to beat yet: without the k-th best of the block every row would be a candidate.
            clean = np.where(np.isnan(scores), np.float32(-np.inf), scores)
            limit = np.maximum(limit, np.nextafter(np.partition(clean, n - k, axis=1)[:, n - k], np.float32(-np.inf)))
        flat = np.flatnonzero(scores > limit[:, None])
        if flat.size:
            rows, columns = np.divmod(flat, n)
            self._merge(rows, scores[rows, columns], columns + self._seen)
        self._seen += n

    def _merge(self, rows: Places, scores: Float32, places: Places) -> None:
        """Rank candidates (ordered by query) together with what is kept, for the queries that have any."""
        k = self._k
        changed, counts = np.unique(rows, return_counts=True)
        kept = np.repeat(np.arange(len(changed)), k)
        query = np.concatenate([kept, np.repeat(np.arange(len(changed)), counts)])
        score = np.concatenate([self.scores[changed].ravel(), scores])
        place = np.concatenate([self.places[changed].ravel(), places])
        # What is kept comes first and candidates are in order of place: a stable sort leaves ties as they should be.
        order = np.lexsort((-score, query))
        starts = np.searchsorted(query[order], np.arange(len(changed)))
        best = order[starts[:, None] + np.arange(k)]
        self.scores[changed], self.places[changed] = score[best], place[best]


def scorers(Q: Float32, metric: Metric, model: Model | None = None) -> list[Scorer]:
    """Return a function from a block of rows to ``(m, n)`` scores, for each ``QUERY_ROWS`` of the queries.

    Parameters
    ----------
    Q : (m, d) float32
        Raw queries.
    model
        The model whose codes (or transformed vectors) the blocks hold; None for raw vectors.
    """
    parts = [Q[start : start + QUERY_ROWS] for start in range(0, len(Q), QUERY_ROWS)]
    if model is None:
        return [partial(exact_scores, part, metric=metric) for part in parts]
    return [partial(model.score, model.prepare(part, metric)) for part in parts]


def best_of(
    queries: Sequence[Scorer],
    counts: Sequence[int],
    blocks: Iterable[tuple[Any, Mask | None]],
    k: int,
    *,
    threads: int | None = None,
) -> list[Best]:
    """Return the k best rows of a stream of blocks, for each group of queries.

    Parameters
    ----------
    queries
        Scorer of each group, as ``scorers`` returns them.
    counts
        Queries of each group.
    blocks
        Rows as the scorers take them, and the mask of those that count.
    threads
        Groups that are scored at once; as many as there are processors by default.
    """
    found = [Best(count, k) for count in counts]

    def take(group: tuple[Scorer, Best], block: tuple[Any, Mask | None]) -> None:
        scores = group[0](block[0])
        if block[1] is not None:
            scores[:, ~block[1]] = np.nan
        group[1].add(scores)

    groups = list(zip(queries, found, strict=True))
    workers = max(1, min(len(groups), threads or os.cpu_count() or 1))
    if workers == 1:
        for block in blocks:
            for group in groups:
                take(group, block)
        return found
    with one_blas_thread(), ThreadPoolExecutor(workers, "vecpipe-join") as pool:
        for block in blocks:
            for _ in pool.map(partial(take, block=block), groups):
                pass
    return found


def nearest_rows(
    Q: Float32,
    blocks: Iterable[tuple[Any, Mask | None]],
    k: int,
    metric: Metric,
    model: Model | None = None,
    *,
    threads: int | None = None,
) -> tuple[Places, Float32]:
    """Return places ``(m, k)`` and scores ``(m, k)`` of the k best rows for each of ``(m, d)`` queries, best first.

    A place is the number of the row in the stream, -1 where fewer than k rows have a score; the score is -inf there.
    Larger is closer. Parameters as in ``scorers`` and ``best_of``.
    """
    parts = scorers(Q, metric, model)
    counts = [min(QUERY_ROWS, len(Q) - start) for start in range(0, len(Q), QUERY_ROWS)]
    found = best_of(parts, counts, blocks, k, threads=threads)
    if not found:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
    return np.concatenate([best.places for best in found]), np.concatenate([best.scores for best in found])
