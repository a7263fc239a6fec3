"""Choosing rows that lie far from each other.

Farthest-point sampling: each pick is the row with the largest distance to the picks before it. No engine in sight.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32, Float64, Mask
from vecpipe.errors import SpecError
from vecpipe.kernels import squared_norms
from vecpipe.metrics.medoid import unit_scales
from vecpipe.scoring import Metric, metric_named

METRICS: tuple[Metric, ...] = ("cosine", "l2")
_SAME = 1e-6
"""Squared distances up to this share of the squared lengths are rounding of float32: the rows count as the same."""


def farthest_points(
    X: Float32, k: int, metric: str = "cosine", valid: Mask | None = None
) -> tuple[npt.NDArray[np.int64], Float64]:
    """Choose ``k`` rows by farthest-point sampling, in time n d k.

    The first pick is the row nearest to the mean; ties go to the first row. Rows that equal a pick, up to the rounding
    of float32, are never picked, so that fewer than ``k`` come where there are fewer different rows.

    Parameters
    ----------
    X : (n, d) float32
    k
        Most rows to choose.
    metric
        ``cosine`` compares directions (rows without one are never picked), ``l2`` vectors.
    valid : (n,) bool or None
        Rows outside are never picked.

    Returns
    -------
    (m,) int64 and (m,) float64
        The picks in order, and the distance of each from the picks before it, NaN for the first. The distances fall;
        the next one is the radius within which the picks cover all rows, at most twice the least that is possible.
        For ``cosine`` they are one minus the cosine.

    Raises
    ------
    SpecError
        Negative ``k`` or another metric.

    References
    ----------
    Gonzalez 1985 (the bound on the radius), Eldar et al. 1997 (farthest-point sampling).
    """
    metric_named(metric, METRICS)
    if k < 0:
        raise SpecError(f"k is {k}; expected 0 or more")
    some = np.ones(len(X), dtype=bool) if valid is None else valid.copy()
    if metric == "cosine":
        scales = unit_scales(X)
        some &= scales > 0
        X = (X * scales[:, None]).astype(np.float32)
    rows = np.flatnonzero(some)
    if not len(rows) or not k:
        return np.zeros(0, np.int64), np.zeros(0)
    Y = X[rows]
    Y -= Y.mean(axis=0, dtype=np.float64).astype(np.float32)  # distances stay, cancellation gets less
    lengths = squared_norms(Y).astype(np.float64)
    nearest = np.full(len(Y), np.inf)
    same = np.zeros(len(Y), dtype=bool)
    picks, distances = [int(lengths.argmin())], [np.nan]
    while len(picks) < k:
        last = picks[-1]
        both = lengths + lengths[last]
        squared = both - 2.0 * (Y @ Y[last])
        same |= squared <= _SAME * both
        same[last] = True
        np.minimum(nearest, squared, out=nearest)
        nearest[same] = -np.inf
        pick = int(nearest.argmax())
        if same[pick]:
            break
        difference = Y[picks].astype(np.float64) - Y[pick]
        picks.append(pick)
        distances.append(float(np.einsum("ij,ij->i", difference, difference).min()))
    found = np.array(distances)
    return rows[picks], found / 2.0 if metric == "cosine" else np.sqrt(found)
