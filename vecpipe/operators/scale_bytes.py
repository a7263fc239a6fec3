"""The last byte of a code of words: a scale, and whether the vector has the length that nearly all have.

Where vectors of one length are known, their cosines and distances need no length of a code. What a scale corrects is
the codec's business (``transform_code``).
"""

from __future__ import annotations

import numpy as np

from vecpipe.arrays import Bytes, Float32, Float64, Mask
from vecpipe.errors import ModelFormatError

_ALIKE = 5e-4
"""By how much squared lengths may differ and be taken for one."""
_SHARE = 0.99
"""Share of the rows of a fit that are to have one length."""
_LEAST, _MOST = 1e-9, 1e9
"""Between them is a length that is known: its square is a float32 like any other."""
_STEPS, _STEPS_TWICE = 255, 127
_FAR = 80.0
"""Logarithm that no scale reaches."""


def common_length(squares: Float64) -> float:
    """Return the length that nearly all rows have by their squared lengths ``(n,)``; 0 where there is none."""
    middle = float(np.median(squares))
    if not _LEAST < np.sqrt(middle) < _MOST or np.mean(_alike(squares, middle)) < _SHARE:
        return 0.0
    return 1.0 if _alike(np.ones(1), middle)[0] else float(np.sqrt(middle))


def _alike(squares: Float64 | Float32, square: float) -> Mask:
    return np.asarray(np.abs(squares - square) <= _ALIKE * square)


class ScaleBytes:
    """Bytes 1 to 255 are even steps of a scale's logarithm; 0 is the scale 0.

    With a common length the steps are there twice, half as many: 1 to 127 for vectors that have it, then those for
    all others.

    Parameters
    ----------
    low, high : float
        Logarithms of the least and the largest scale.
    length : float
        The length that nearly all vectors have; 0 where there is none.

    Raises
    ------
    ModelFormatError
        No such scales or lengths are written.
    """

    def __init__(self, low: float, high: float, length: float) -> None:
        if not (-_FAR < low <= high < _FAR and (length == 0.0 or _LEAST < length < _MOST)):
            raise ModelFormatError("transform_code: scales or lengths out of range")
        self.square = length * length
        ladder = np.linspace(low, high, _STEPS_TWICE if length else _STEPS)
        self._edges: Float32 = ((ladder[1:] + ladder[:-1]) / 2).astype(np.float32)
        self._scales: Float32 = np.zeros(256, dtype=np.float32)
        for start in (1, 1 + _STEPS_TWICE) if length else (1,):
            self._scales[start : start + len(ladder)] = np.exp(ladder)

    def of(self, logs: Float32, squares: Float32) -> Bytes:
        """Return the bytes of vectors from logarithms of scales ``(n,)``, -inf for 0, and squared lengths ``(n,)``."""
        places = 1 + np.searchsorted(self._edges, logs)
        if self.square:
            places[~_alike(squares, self.square)] += _STEPS_TWICE
        return np.where(np.isfinite(logs), places, 0).astype(np.uint8)

    def scales(self, written: Bytes) -> Float32:
        """Return the scales ``(n,)`` of bytes ``(n,)``."""
        return self._scales.take(written, mode="clip")

    def unknown(self, written: Bytes) -> Mask | None:
        """Return of which bytes ``(n,)`` the length is not known; None where it is known of all."""
        if not self.square:
            return np.ones(len(written), dtype=np.bool_)
        steps = written - np.uint8(1)  # the scale 0 is the largest
        if int(steps.max(initial=0)) < _STEPS_TWICE:
            return None
        return np.asarray(steps >= _STEPS_TWICE)
