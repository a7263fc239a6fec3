"""Audits against exact search over a stream of rows."""

from __future__ import annotations

import numpy as np
import pytest

from vecpipe.metrics.audit import ExactBest


@pytest.mark.parametrize(("mean", "size"), [(0.0, 1.0), (1000.0, 1.0), (0.0, 1e20), (0.0, 1e-25)])
def test_an_audit_tells_the_nearest_rows_from_others_wherever_they_lie(mean: float, size: float) -> None:
    X = ((np.random.default_rng(0).standard_normal((600, 32)) + mean) * size).astype(np.float32)
    best = ExactBest(X[:8], 10, "l2")
    for start in range(0, len(X), 100):
        best.add(X[start : start + 100])
    wide = X.astype(np.float64)
    for query in range(8):
        order = np.argsort(((wide - wide[query]) ** 2).sum(axis=1))
        assert best.recall(query, X[order[:10]]) == 1.0
        assert best.recall(query, X[order[5:15]]) == 0.5
        assert best.recall(query, X[order[100:110]]) == 0.0
