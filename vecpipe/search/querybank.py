"""Scores normalised by a bank of queries, so that rows near to everything stop crowding out the rest.

The inverted softmax over a bank of queries (Bogolin, Croitoru, Jin, Liu, Albanie 2022, "Cross Modal Retrieval with
Querybank Normalisation"). A normalised score is only comparable with those of the same query.
"""

from __future__ import annotations

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.errors import InputError
from vecpipe.scoring import Metric, exact_scores, metric_named

BETA = 20.0


class QueryBank:
    """A bank of queries, none of which should be among those to be searched with.

    Parameters
    ----------
    queries : (b, d) float32
    metric
        Of the scores that are normalised.
    beta
        Inverse temperature of the softmax.

    Raises
    ------
    InputError, SpecError
        An empty bank, a beta that is not positive, or another metric.
    """

    def __init__(self, queries: Float32, metric: Metric = "cosine", beta: float = BETA) -> None:
        if not len(queries):
            raise InputError("a bank of queries needs at least one query")
        if not beta > 0:
            raise InputError(f"beta is {beta}; expected a number above 0")
        self.queries = np.ascontiguousarray(queries, dtype=np.float32)
        self.metric = metric_named(metric)
        self.beta = float(beta)

    def log_denominators(self, X: Float32) -> Float64:
        """Return ``log sum_b exp(beta s(b, x))`` of rows ``(n, d)``, as ``(n,) float64``.

        A bank query without a direction counts for nothing; a row without one gets NaN.
        """
        scores = self.beta * exact_scores(self.queries, X, self.metric).astype(np.float64)
        lost = np.isnan(scores)
        if not len(X):
            return np.zeros(0)
        peak = np.where(lost, -np.inf, scores).max(axis=0)
        peak = np.where(np.isfinite(peak), peak, np.nan)
        sums = np.where(lost, 0.0, np.exp(np.where(lost, 0.0, scores - peak))).sum(axis=0)
        with np.errstate(divide="ignore"):
            return np.asarray(peak + np.log(sums))

    def normalise(self, scores: Float32, X: Float32) -> Float32:
        """Return the log of the inverted softmax for scores ``(n,)`` of one query with rows ``(n, d)``."""
        return np.asarray(self.beta * scores.astype(np.float64) - self.log_denominators(X), dtype=np.float32)
