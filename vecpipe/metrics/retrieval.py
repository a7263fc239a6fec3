"""How well a ranking finds what it should: exact neighbours, recall, nDCG."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32
from vecpipe.scoring import Metric, exact_scores

Places = npt.NDArray[np.int64]

_BLOCK = 16_384


def top_places(scores: Float32, k: int) -> Places:
    """Return the places of the k largest scores a row, best first; ties go to the lower place, NaN ranks last.

    Parameters
    ----------
    scores : (m, n) float32
    k
        At most n are returned.
    """
    clean = np.where(np.isnan(scores), -np.inf, scores)
    n = clean.shape[1]
    k = min(k, n)
    if k < n:
        # Everything that ties with the k-th best takes part, so that the lower place wins there too.
        limit = np.partition(clean, n - k, axis=1)[:, n - k]
        result = np.empty((len(clean), k), dtype=np.int64)
        for row, low in enumerate(limit):
            places = np.flatnonzero(clean[row] >= low)
            result[row] = places[np.argsort(-clean[row, places], kind="stable")[:k]]
        return result
    return np.argsort(-clean, axis=1, kind="stable")


def nearest(Q: Float32, X: Float32, k: int, metric: Metric = "ip") -> Places:
    """Return the exact k nearest rows of ``(n, d)`` X for each of ``(m, d)`` Q, best first, a block at a time."""
    scores = np.full((len(Q), 0), -np.inf, dtype=np.float32)
    places = np.zeros((len(Q), 0), dtype=np.int64)
    for start in range(0, len(X), _BLOCK):
        block = exact_scores(Q, X[start : start + _BLOCK], metric)
        best = top_places(block, k)
        scores = np.concatenate([scores, np.take_along_axis(block, best, axis=1)], axis=1)
        places = np.concatenate([places, best + start], axis=1)
        keep = top_places(scores, k)
        scores, places = np.take_along_axis(scores, keep, axis=1), np.take_along_axis(places, keep, axis=1)
    return places


def recall_at(found: Places, wanted: Places, k: int) -> float:
    """Return the mean share of the k wanted places among the first k found."""
    k = min(k, wanted.shape[1])
    hits = (found[:, :k, None] == wanted[:, None, :k]).any(axis=2)
    return float(hits.mean())


def rerank(Q: Float32, X: Float32, candidates: Places, k: int, metric: Metric = "ip") -> Places:
    """Return the k best of each query's candidates by exact score, best first."""
    result = np.empty((len(Q), min(k, candidates.shape[1])), dtype=np.int64)
    for row, places in enumerate(candidates):
        best = top_places(exact_scores(Q[row : row + 1], X[places], metric), k)[0]
        result[row] = places[best]
    return result


def ndcg_at(found: Places, judged: Mapping[int, Mapping[int, float]], k: int = 10) -> float:
    """Return the mean nDCG@k with linear gains over the queries that have a judgement (Järvelin, Kekäläinen 2002).

    Parameters
    ----------
    found : (m, >= k) places of documents
    judged
        For each query (its row in ``found``) the gains of documents by place; others gain nothing.
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    values = []
    for query, gains in judged.items():
        best = sorted(gains.values(), reverse=True)[:k]
        ideal = float(np.dot(best, discounts[: len(best)]))
        if ideal > 0:
            got = np.array([gains.get(int(place), 0.0) for place in found[query, :k]])
            values.append(float(got @ discounts[: len(got)]) / ideal)
    return float(np.mean(values)) if values else float("nan")
