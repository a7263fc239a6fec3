"""The running candidates of many queries are those of brute force, in whatever numbers products are computed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from vecpipe import query_products
from vecpipe.arrays import Float32
from vecpipe.scoring import METRICS, Metric
from vecpipe.search import candidates
from vecpipe.search.candidates import Candidates

_K, _DIM = 5, 96


def _nearest(Q: Float32, X: Float32, metric: Metric, block: int) -> list[list[int]]:
    """Return the rows that each query finds, the nearest first, offered in blocks."""
    running = Candidates(Q, _K, metric)
    found: list[list[tuple[float, int]]] = [[] for _ in Q]
    for start in range(0, len(X), block):
        rows = X[start : start + block]
        pairs = running.offer(rows, partial(np.arange, len(rows)))
        for row, query, score in zip(pairs.rows, pairs.queries, pairs.scores, strict=True):
            found[query].append((-score, start + row))
    return [[row for _, row in sorted(each)[:_K]] for each in found]


def _brute_force(Q: Float32, X: Float32, metric: Metric) -> list[list[int]]:
    left, right = Q.astype(np.float64), X.astype(np.float64)
    scores = left @ right.T
    if metric == "cosine":
        scores /= np.outer(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))
    elif metric == "l2":
        scores = -np.linalg.norm(left[:, None] - right[None], axis=2)
    return np.argsort(-scores.astype(np.float32), axis=1, kind="stable")[:, :_K].tolist()


def _spread(rng: np.random.Generator) -> Float32:
    return rng.standard_normal((640, _DIM)).astype(np.float32)


def _crowded(rng: np.random.Generator) -> Float32:
    """Rows that bfloat16 does not tell apart."""
    return (rng.standard_normal(_DIM) + 1e-4 * rng.standard_normal((640, _DIM))).astype(np.float32)


def _copies(rng: np.random.Generator) -> Float32:
    return np.repeat(_spread(rng)[:40], 16, axis=0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [_spread, _crowded, _copies])
@pytest.mark.parametrize("halves", [True, False], ids=["bfloat16", "float32"])
def test_as_brute_force(monkeypatch, metric, rows, halves):
    monkeypatch.setattr(candidates, "bfloats_pay", lambda dim: halves)
    rng = np.random.default_rng(7)
    X = rows(rng)
    Q = (X[rng.integers(0, len(X), 70)] + 0.01 * rng.standard_normal((70, _DIM))).astype(np.float32)
    assert _nearest(Q, X, metric, 128) == _brute_force(Q, X, metric)


def test_bfloats_are_given_up_where_they_tell_nothing_apart(monkeypatch):
    monkeypatch.setattr(candidates, "bfloats_pay", lambda dim: True)
    rng = np.random.default_rng(8)
    X = (rng.standard_normal(_DIM) + 1e-4 * rng.standard_normal((4_096, _DIM))).astype(np.float32)
    asked = []
    dot = query_products.BfloatQueries.dot
    monkeypatch.setattr(query_products.BfloatQueries, "dot", lambda self, rows: (asked.append(1), dot(self, rows))[1])
    Q = X[:64]
    assert _nearest(Q, X, "cosine", 512) == _brute_force(Q, X, "cosine")
    assert len(asked) == 3


@pytest.mark.parametrize("scale", [2.0**-20, 1.0, 2.0**20])
def test_products_of_bfloats_are_as_near_as_they_say(scale):
    rng = np.random.default_rng(9)
    halfway = (1 + 2.0**-8 + 2.0**-20) * np.ones((3, 40))  # rounded up by all that an entry can lose
    Q = np.concatenate([rng.standard_normal((30, 40)), halfway]).astype(np.float32)
    X = (scale * np.concatenate([rng.standard_normal((90, 40)), halfway])).astype(np.float32)
    queries = query_products.BfloatQueries(Q)
    products = queries.dot(query_products.bfloats(X))
    wide = X.astype(np.float64)
    allowed = np.outer(queries.losses, np.linalg.norm(wide, axis=1))
    error = np.abs(products - Q.astype(np.float64) @ wide.T)
    assert (error <= allowed * (1 + 1e-5)).all()
    assert (error[-3:, -3:] > 0.9 * allowed[-3:, -3:]).all()  # the bound is not a loose one
