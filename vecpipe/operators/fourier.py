"""Orthonormal bases of waves, lowest frequencies first: cosines, and sines beside cosines."""

from __future__ import annotations

import numpy as np

from vecpipe.arrays import Float64


def cosine_basis(dim: int, k: int) -> Float64:
    """Return the first k waves of the orthonormal DCT-II, ``(dim, k)``, one a column (Ahmed, Natarajan, Rao 1974)."""
    # Whole turns are taken off as whole numbers: a large angle has lost digits before its cosine is taken.
    turns = (2 * np.arange(dim)[:, None] + 1) * np.arange(k) % (4 * dim)
    waves = np.cos(turns * (np.pi / (2 * dim))) * np.sqrt(2.0 / dim)
    waves[:, 0] = np.sqrt(1.0 / dim)
    return np.asarray(waves)


def fourier_basis(dim: int, k: int) -> Float64:
    """Return the first k of the real Fourier basis, ``(dim, k)``: ``x @ basis`` are parts of the transform of x.

    The order is Re 0, Re 1, Im 1, Re 2, Im 2 and so on, and ends with Re dim/2 where dim is even. Parts that stand
    for two conjugate frequencies are scaled by the root of two, so that the dim columns are orthonormal (Parseval).
    """
    frequency = (np.arange(k) + 1) // 2
    angles = np.arange(dim)[:, None] * frequency % dim * (2.0 * np.pi / dim)
    imaginary = (np.arange(k) > 0) & (np.arange(k) % 2 == 0)
    alone = (frequency == 0) | (2 * frequency == dim)
    return np.asarray(np.where(imaginary, -np.sin(angles), np.cos(angles)) * np.sqrt(np.where(alone, 1.0, 2.0) / dim))
