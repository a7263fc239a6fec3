"""How evenly vectors fill their space: from the moments of a set, or from few rows without a d x d matrix."""

from __future__ import annotations

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.kernels import one_blas_thread
from vecpipe.moments import Moments

_NOISE = 1e-15


def gram(X: Float32) -> Float64:
    """Return ``(n, n) float64`` with the non-zero eigenvalues of the population covariance of ``(n, d)`` rows."""
    centred = X.astype(np.float64)
    centred -= centred.mean(axis=0)
    with one_blas_thread():
        return np.asarray(centred @ centred.T / len(X))


def isoscore(covariance: Moments | Float64, dim: int) -> float | None:
    """Return IsoScore: 1 where every direction has the same variance, 0 where one direction has all of it.

    With PR = tr(C)^2 / |C|^2 (the participation ratio) the published definition equals ``(PR - 1) / (d - 1)``.

    Parameters
    ----------
    covariance
        Moments, or a symmetric matrix with the non-zero eigenvalues of the covariance.
    dim
        Width d of the vectors.

    Returns
    -------
    float or None
        None where it is undefined: a single point, or d = 1.

    References
    ----------
    Rudman, Gillman, Rayne, Eickhoff, "IsoScore", Findings of ACL 2022.
    """
    C = covariance.covariance if isinstance(covariance, Moments) else covariance
    squared = float(np.sum(C * C))
    if dim < 2 or squared <= 0.0:
        return None
    return (float(np.trace(C)) ** 2 / squared - 1.0) / (dim - 1.0)


def spectrum(covariance: Moments | Float64, dim: int) -> Float64 | None:
    """Return the share of the variance along each of the d principal axes, largest first; None for a point.

    Parameters and the matrix as in ``isoscore``.

    References
    ----------
    Pearson 1901; ``explained_variance_ratio_`` of scikit-learn.
    """
    C = covariance.covariance if isinstance(covariance, Moments) else covariance
    with one_blas_thread():
        values = np.maximum(np.linalg.eigvalsh(C)[::-1], 0.0)
    total = float(values.sum())
    if total <= 0.0:
        return None
    shares = np.zeros(dim)
    kept = min(len(values), dim)
    shares[:kept] = values[:kept] / total
    return shares


def effective_rank(shares: Float64) -> float:
    """Return the exponential of the entropy of a spectrum ``(d,)`` of shares: how many directions matter.

    References
    ----------
    Roy, Vetterli, "The effective rank", EUSIPCO 2007.
    """
    live = shares[shares > _NOISE]
    return float(np.exp(-np.sum(live * np.log(live))))


def mean_cosine(direction: Float64, count: int) -> float | None:
    """Return the mean cosine of two different rows, from the sum ``(d,)`` of n unit rows; None below two rows.

    It is the anisotropy of embeddings: near 0 where directions are spread, near 1 where all rows point one way.

    References
    ----------
    Ethayarajh, "How contextual are contextualized word representations?", EMNLP 2019.
    """
    if count < 2:
        return None
    return (float(direction @ direction) - count) / (count * (count - 1))
