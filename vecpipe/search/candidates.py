"""Which rows of a stream can be among the k best of each of many queries, told block by block, from several threads.

A block is scored by one matrix product, of bfloat16 where that is faster: it is off by no more than is known. What the
block holds that cannot be beaten by what came before is scored again, pair by pair in float64, so that a score does not
depend on the block it was computed in, and ties are ties. The best k scores of each query are kept as the bar for later
blocks; the rows themselves are not kept. No engine is in sight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vecpipe import kernels
from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.model import Model
from vecpipe.query_products import BfloatQueries, bfloats_pay
from vecpipe.sample import row_hashes
from vecpipe.scoring import Metric, row_scores
from vecpipe.search.reaching import MANY, Block, Places, Scores, bounded, reaching

Ranks = Callable[[], Places]

_QUERY_ROWS = 508
_PAIR_CELLS = 196_608
"""Numbers of one side of the pairs scored at once: copies that stay in cache; larger ones cost page faults."""
_USUAL_K = 1_000
_ROUGH_QUERIES = 32
"""From how many queries on rows are rounded to bfloat16 first; for fewer that takes longer."""
_TRUST = 3
"""How often more often than not bfloat16 may leave too many rows before it is given up."""
_ROUGH_SHARE = 0.01
"""Of the rows, as many more are scored one by one in the time that a product in float32 takes longer."""
_MOST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Pairs:
    """Candidates: which row of the block goes with which query, and its score.

    Attributes
    ----------
    rows, queries : (c,) int64
    scores : (c,) float32
    """

    rows: Places
    queries: Places
    scores: Float32

    @staticmethod
    def join(parts: list[Pairs]) -> Pairs:
        """Return all of them together."""
        if len(parts) == 1:
            return parts[0]
        none = np.empty(0, np.int64)
        return Pairs(
            np.concatenate([none, *(part.rows for part in parts)]),
            np.concatenate([none, *(part.queries for part in parts)]),
            np.concatenate([np.empty(0, np.float32), *(part.scores for part in parts)]),
        )


class Candidates:
    """The running bar of ``(m, d)`` queries: the k-th best score of each so far.

    Parameters
    ----------
    Q : (m, d) float32
        Queries; a row of NaN finds nothing.
    k
        How many rows each query is to find.
    metric
        cosine, ip or l2; larger is closer.
    model
        Where the rows that are offered are codes: the model that wrote them.
    owners : (m,) int64 or None
        Numbers: no query finds a row that has the same one.
    """

    def __init__(
        self, Q: Float32, k: int, metric: Metric, model: Model | None = None, owners: Places | None = None
    ) -> None:
        self.k, self.metric, self.model, self.owners = k, metric, model, owners
        self.Q = Q
        wide = Q.astype(np.float64)
        self._wide_norms = np.sqrt(np.vecdot(wide, wide))
        self._best = np.empty((len(Q), 0), np.float32)  # wider as rows are found: k may be beyond the rows there are
        self._lock = threading.Lock()
        self._scaled = Q
        if metric == "cosine":
            with np.errstate(invalid="ignore", divide="ignore"):
                self._scaled = (Q / self._wide_norms[:, None]).astype(np.float32)
        parts = self._parts(len(Q))
        self._prepared = [] if model is None else [model.prepare(Q[part], metric) for part in parts]
        self._rough: list[BfloatQueries] = []
        many = len(Q) >= _ROUGH_QUERIES and bfloats_pay(Q.shape[1])
        if model is None and many and not kernels.odd_lengths(self._wide_norms):
            self._rough = [BfloatQueries(self._scaled[part]) for part in parts]
        self._trust, self._seen = _TRUST, 0

    @staticmethod
    def _parts(count: int) -> list[slice]:
        return [slice(start, min(start + _QUERY_ROWS, count)) for start in range(0, count, _QUERY_ROWS)]

    @property
    def nbytes(self) -> int:
        """Memory it takes, about."""
        return 4 * self.Q.nbytes + 4 * len(self.Q) * min(self.k, _USUAL_K)

    def offer(
        self, rows: Float32 | Bytes, rank: Ranks, among: Places | None = None, owners: Places | None = None
    ) -> Pairs:
        """Return the pairs that rank among the k best of their query so far, at most k of each query.

        Parameters
        ----------
        rows : (n, d) float32 vectors, or (n, B) uint8 codes where there is a model
        rank
            Gives ``(n,)`` distinct numbers, asked for only when scores tie: the row with the smaller one wins.
        among : (q,) int64
            The queries that may find these rows; None for all of them.
        owners : (n,) int64
            Where queries have owners: those of the rows, -1 for none that a query has.

        Raises
        ------
        RowError
            A vector holds NaN or an infinite value.
        """
        whole = among is None
        chosen = np.arange(len(self.Q)) if among is None else among
        parts = enumerate(self._parts(len(chosen)))
        found = []
        if self.model is None:
            block = Block.of(np.asarray(rows, np.float32))
            rough = self._rough if whole and not block.odd else []
            for number, part in parts:
                found.append(self._vectors(block, chosen[part], rank, owners, rough[number] if rough else None))
            self._seen += len(rows)
        else:
            for number, part in parts:
                which = chosen[part]
                queries = self._prepared[number] if whole else self.model.prepare(self.Q[which], self.metric)
                found.append(self._codes(self.model.score(queries, rows), which, rank, owners))
        return Pairs.join(found)

    def _codes(self, scores: Float32, which: Places, rank: Ranks, owners: Places | None) -> Pairs:
        """Choose by the scores themselves: those of codes do not depend on the block."""
        self._disown(scores, which, owners)
        queries, rows = reaching(scores, self._bar(which), np.zeros(len(which), np.float32), self.k)
        return self._keep(which, queries, rows, scores[queries, rows], rank)

    def _vectors(
        self, block: Block, which: Places, rank: Ranks, owners: Places | None, rough: BfloatQueries | None
    ) -> Pairs:
        X = block.X
        queries, rows = self._near(block, which, owners, rough)
        if len(rows) > 2 * MANY * (self.k + 1) * max(1, len(which)):
            # Far more rows than can win: copies of each other, most likely. Of equal rows the first k are enough, and
            # as many more as a query may own.
            kept = _first_copies(X, rank(), self.k + _largest(owners))
            if len(kept) < len(X):
                own = None if owners is None else owners[kept]
                queries, rows = self._near(block.take(kept), which, own, rough)
                rows = kept[rows]
        return self._keep(which, queries, rows, self._exact(X, which[queries], rows), rank)

    def _disown(self, scores: Scores, which: Places, owners: Places | None) -> None:
        """Take the scores ``(q, n)`` of rows away from the queries with the same owner."""
        if self.owners is None or owners is None:
            return
        mine = self.owners[which]
        order = np.argsort(mine)
        first, last = (np.searchsorted(mine, owners, side, sorter=order) for side in ("left", "right"))
        counts = last - first
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        scores[order[np.repeat(first, counts) + nth], np.repeat(np.arange(len(owners)), counts)] = np.nan

    def _near(
        self, block: Block, which: Places, owners: Places | None, rough: BfloatQueries | None
    ) -> tuple[Places, Places]:
        """Return pairs that may reach the bar, whatever rounding did to the product."""
        lengths = self._wide_norms[which]
        units = self.metric == "cosine"
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if rough is not None and self._trust > 0:
                pairs = self._reaching(rough.dot(block.halves()), which, block, owners, rough.losses)
                count = len(block.X)
                some = 2 * self.k * count / (self._seen + count)  # twice as many as have to be expected
                if len(pairs[1]) <= len(which) * min(count, some + _ROUGH_SHARE * count):
                    self._trust = min(self._trust + 1, _TRUST)
                    return pairs
                self._trust -= 1  # rows are too near to each other
            products: Scores
            if block.odd or kernels.odd_lengths(lengths):
                products = (self.Q[which] / (lengths[:, None] if units else 1.0)) @ block.X.astype(np.float64).T
            else:
                Q = self._scaled if len(which) == len(self.Q) else self._scaled[which]
                products = kernels.inner_products(Q, block.X)
            return self._reaching(products, which, block, owners)

    def _reaching(
        self, products: Scores, which: Places, block: Block, owners: Places | None, lost: Float64 | float = 0.0
    ) -> tuple[Places, Places]:
        scores, slack = bounded(products, self.metric, self._wide_norms[which], block, lost)
        # Beyond float32 all scores are one, and ties: what float64 holds of them may not tell them apart.
        kind: Any = scores.dtype.type
        bar = np.minimum(self._bar(which), _MOST).astype(kind)
        if self.metric == "l2":
            bar = -(bar * bar) * kind(1 + 1e-6)
        self._disown(scores, which, owners)
        most = _MOST**2 if self.metric == "l2" else _MOST
        return reaching(scores, bar, slack, self.k, None if kind is np.float32 else most)

    def _exact(self, X: Float32, queries: Places, rows: Places) -> Float32:
        """Return the scores of pairs in float64, rounded; each pair by itself."""
        scores = np.empty(len(rows), np.float32)
        step = max(1, _PAIR_CELLS // X.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores[part] = row_scores(self.Q[queries[part]], X[rows[part]], self.metric)
        return scores

    def _bar(self, which: Places) -> Float32:
        with self._lock:
            return self._last(which)

    def _last(self, which: Places) -> Float32:
        """Return the k-th best scores so far, minus infinity where fewer were found; the lock is held."""
        if self._best.shape[1] < self.k:
            return np.full(len(which), -np.inf, np.float32)
        return np.asarray(self._best[which].min(axis=1))

    def _keep(self, which: Places, queries: Places, rows: Places, scores: Float32, rank: Ranks) -> Pairs:
        """Take the scores into the bar, and return the pairs at or above it, at most k of each query."""
        if not len(rows):
            return Pairs(rows, queries, scores)
        order = np.lexsort((-scores, queries))
        queries, rows, scores = queries[order], rows[order], scores[order]
        starts = np.flatnonzero(np.concatenate([[True], queries[1:] != queries[:-1]]))
        counts = np.diff(np.append(starts, len(queries)))
        if counts.max() > self.k:
            order = np.lexsort((rank()[rows], -scores, queries))
            queries, rows, scores = queries[order], rows[order], scores[order]
        place = np.arange(len(queries)) - np.repeat(starts, counts)
        first = place < self.k
        queries, rows, scores, place = queries[first], rows[first], scores[first], place[first]
        changed = queries[place == 0]
        fresh = np.full((len(changed), int(place.max()) + 1), -np.inf, np.float32)
        fresh[np.repeat(np.arange(len(changed)), np.minimum(counts, self.k)), place] = scores
        asked = which[changed]
        with self._lock:
            both = np.concatenate([self._best[asked], fresh], axis=1)
            width = min(self.k, both.shape[1])
            if width > self._best.shape[1]:
                room = np.full((len(self.Q), width - self._best.shape[1]), -np.inf, np.float32)
                self._best = np.concatenate([self._best, room], axis=1)
            over = both.shape[1] - width
            self._best[asked] = np.partition(both, over, axis=1)[:, over:] if over else both
            bar = self._last(which[queries])
        kept = scores >= bar
        return Pairs(rows[kept], which[queries[kept]], scores[kept])


def _largest(owners: Places | None) -> int:
    """Return the most rows that have one owner."""
    if owners is None:
        return 0
    return int(np.bincount(owners + 1)[1:].max(initial=0))


def _first_copies(X: Float32, rank: Places, k: int) -> Places:
    """Return the rows without those that have k equals of smaller rank."""
    _, group = np.unique(row_hashes(X + np.float32(0)), return_inverse=True)  # -0 + 0 is 0: equal rows hash alike
    order = np.lexsort((rank, group))
    ordered = group[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return np.sort(order[place < k])
