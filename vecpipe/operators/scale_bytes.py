"""The last byte of a code of words: a scale, and whether what is decoded has the length that nearly all vectors have.

Where it has, a cosine needs no length of the code. What a scale corrects is the codec's business (``transform_code``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.errors import ModelFormatError

_ALIKE = 5e-4
"""By how much squared lengths of vectors may differ and be taken for one."""
_SHARE = 0.99
"""Share of the rows of a fit that are to have one length."""
_CLOSE = 2e-3
"""By how much the squared length of what is decoded may differ from that: half a step of a scale, and a little."""
_LEAST, _MOST = 1e-9, 1e9
"""Between them is a length that is known: its square is a float32 like any other."""
_LADDERS, _LADDER_ALONE = ((127, 64, _CLOSE), (32, 32, 0.02)), ((191, 64, 0.01),)
"""Steps between the least and the largest scale of the fit; steps beyond, and how wide they are."""
_STEPS_KNOWN = sum(_LADDERS[0][:2])
_FAR = 80.0
"""Logarithm that no scale reaches."""


def common_length(squares: Float64) -> float:
    """Return the length that nearly all rows have by their squared lengths ``(n,)``; 0 where there is none."""
    middle = float(np.median(squares))
    if not _LEAST < np.sqrt(middle) < _MOST or np.mean(np.abs(squares - middle) <= _ALIKE * middle) < _SHARE:
        return 0.0
    return 1.0 if abs(middle - 1.0) <= _ALIKE else float(np.sqrt(middle))


def length_scales(squares: Float64, along: Float64, beyond: Float64, lengths: Float32) -> Float64:
    """Return the scales of parts that, added to one vector, give sums of wanted lengths.

    Of two such scales the one nearer to what gives a part the length wanted of it alone; it is at most twice or half of
    that, since there may be none that does both.

    Parameters
    ----------
    squares, along : (n,) float64
        Squared lengths of the parts, and their products with the vector that they are added to.
    beyond : (n,) float64
        Squared lengths wanted of the sums, less that of this vector.
    lengths : (n,) float32
        Lengths wanted of the parts.
    """
    there = squares > 0
    size = np.where(there, squares, 1.0)
    alone = np.where(there & (lengths > 0), lengths / np.sqrt(size), 1.0)
    inside = along * along + size * beyond
    root = np.sqrt(np.maximum(inside, 0.0))
    low, high = (-along - root) / size, (root - along) / size
    near = np.where(np.abs(low - alone) < np.abs(high - alone), low, high)
    return np.clip(np.where(there & (inside >= 0), near, alone), alone / 2, alone * 2)


class ScaleBytes:
    """Bytes 1 to 255 are steps of a scale's logarithm; 0 is the scale 0.

    With a common length there are two ladders of steps: 1 to 191 for what is decoded to that length, and wider ones for
    all else. Each has even steps between the scales of the fit, and some beyond the largest: rows that the fit has not
    seen have larger scales, since words fit them less well.

    Parameters
    ----------
    low, high : float
        Logarithms of the least and the largest scale of the fit.
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
        steps = _LADDERS if length else _LADDER_ALONE
        ladders = [
            np.concatenate([np.linspace(low, high, within), high + step * np.arange(1, beyond + 1)])
            for within, beyond, step in steps
        ]
        self._edges = [((ladder[1:] + ladder[:-1]) / 2).astype(np.float32) for ladder in ladders]
        self._scales = np.concatenate([[0.0], *map(np.exp, ladders)]).astype(np.float32)

    def of(self, logs: Float32, squares: Callable[[Float32], Float64]) -> Bytes:
        """Return the bytes of scales.

        Parameters
        ----------
        logs : (n,) float32
            Logarithms; -inf for the scale 0.
        squares
            Returns the squared lengths ``(n,)`` of what is decoded with scales ``(n,)``.
        """
        written = 1 + np.searchsorted(self._edges[0], logs)
        if self.square:
            wrong = np.abs(squares(self._scales.take(written)) - self.square) > _CLOSE * self.square
            written[wrong] = 1 + _STEPS_KNOWN + np.searchsorted(self._edges[1], logs[wrong])
        return np.where(np.isfinite(logs), written, 0).astype(np.uint8)

    def scales(self, written: Bytes) -> Float32:
        """Return the scales ``(n,)`` of bytes ``(n,)``."""
        return self._scales.take(written, mode="clip")

    def other(self, written: Bytes) -> npt.NDArray[np.intp] | None:
        """Return the places of bytes ``(n,)`` whose vectors are not decoded to the common length; None without one."""
        if not self.square:
            return None
        steps = written - np.uint8(1)  # the scale 0 is the largest
        if int(steps.max(initial=0)) < _STEPS_KNOWN:
            return np.empty(0, np.intp)
        return np.flatnonzero(steps >= _STEPS_KNOWN)
