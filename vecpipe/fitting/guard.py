"""The whitening guard: how many neighbours a whitening step keeps, measured on the sample at every fit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32
from vecpipe.errors import WhiteningWarning
from vecpipe.operators import Operator
from vecpipe.rules import nonfinite_rows
from vecpipe.scoring import exact_scores

Indices = npt.NDArray[np.int64]

GUARD_ROWS = 2_000
_LEAST_ROWS = 200
_NEIGHBOURS = 10
_ALLOWED_LOSS = 0.25


def whitens(step: Operator) -> bool:
    """Whether a step brings the axes of a space to like variance."""
    return step.name == "whiten" or (step.name == "pca" and bool(getattr(step, "whiten", False)))


def neighbours_kept(rows: Float32, steps: Sequence[Operator]) -> tuple[float, float] | None:
    """Return recall@10 before and after the first step that whitens, or None where there is none to measure.

    A tenth of the rows are queries and the rest is searched; the truth is their cosine neighbours in the original
    space. The rows decide the result: they come in the order of the sample, which is that of their hashes.

    Parameters
    ----------
    rows : (n, d) float32
        At most ``GUARD_ROWS`` rows of the sample.
    steps
        The steps, bound.
    """
    first = next((at for at, step in enumerate(steps) if whitens(step)), None)
    if first is None or len(rows) < _LEAST_ROWS:
        return None
    before = rows
    for step in steps[:first]:
        before = step.apply(before)
    after = steps[first].apply(before)
    lost = np.union1d(nonfinite_rows(before), nonfinite_rows(after))
    lost = np.union1d(lost, np.flatnonzero(~rows.any(axis=1)))
    rows, before, after = (np.delete(found, lost, axis=0) for found in (rows, before, after))
    if len(rows) < _LEAST_ROWS:
        return None
    truth = _nearest(rows)
    return _shared(truth, _nearest(before)), _shared(truth, _nearest(after))


def warn_if_whitening_hurts(kept: tuple[float, float]) -> None:
    """Warn where whitening loses over a quarter of the neighbours that there were before it."""
    before, after = kept
    if after < before - _ALLOWED_LOSS:
        warnings.warn(
            f"whitening keeps {after:.0%} of the 10 neighbours nearest to the original vectors, where {before:.0%} "
            "were there before it: on most encoders that hurts retrieval. Measure it with your queries; "
            "whiten(power=auto) is gentler",
            WhiteningWarning,
            stacklevel=4,
        )


def _nearest(X: Float32) -> Indices:
    """Return the 10 nearest of the other rows for each of the first tenth."""
    queries = len(X) // 10
    scores = np.nan_to_num(exact_scores(X[:queries], X[queries:], "cosine"), nan=-2.0)
    return np.asarray(np.argsort(-scores, axis=1, kind="stable")[:, :_NEIGHBOURS])


def _shared(truth: Indices, found: Indices) -> float:
    """Return the share of the true neighbours that were found."""
    return round(float((truth[:, :, None] == found[:, None, :]).any(axis=2).mean()), 4)
