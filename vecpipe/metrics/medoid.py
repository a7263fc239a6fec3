"""The most central row of a set."""

from __future__ import annotations

import numpy as np

from vecpipe.arrays import Float32, Float64

_TIE = 1e-12


def unit_scales(X: Float32) -> Float64:
    """Return ``(n,) float64`` with one over the length of each row; 0 for zero rows."""
    lengths = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
    return np.asarray(np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0))


def most_central(X: Float32) -> list[int]:
    """Return the rows of ``(n, d)`` with the largest mean cosine to all rows: more than one where they tie.

    Computed from the sum of the unit rows, in time n d. Zero rows have no direction and come only where there is
    nothing else.

    References
    ----------
    Kaufman, Rousseeuw 1987 (medoids), with the cosine as similarity.
    """
    scale = unit_scales(X)
    scores = (X @ (scale @ X)) * scale
    scores[scale == 0] = -np.inf
    best = float(scores.max())
    return [int(i) for i in np.flatnonzero(scores >= best - _TIE * max(1.0, abs(best)))]
