"""Operators that work on each row alone and learn nothing: normalisation and the signed power."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecpipe.arrays import Float32
from vecpipe.operators.base import Operator, register
from vecpipe.operators.parameters import param


@register
@dataclass(eq=False)
class Normalize(Operator):
    """Scale each row to length 1 (l2), to root mean square 1 (rms), or to mean 0 and variance 1 (layer).

    With n the row's length: l2 is ``x / |x|``, rms ``x / sqrt(mean(x^2) + eps)``, layer
    ``(x - mean) / sqrt(var + eps)`` with the population variance. A zero row has no direction: l2, and rms with
    eps = 0, give NULL. A constant row has no variance: layer gives zeros.
    """

    name = "normalize"
    family = "normalise"
    source = "Ba, Kiros, Hinton 2016 (layer); Zhang, Sennrich 2019 (rms)"
    oracle = "sklearn.preprocessing.normalize; scipy.stats.zscore of a row"
    stateless = True
    undefines = True

    kind: str = param("l2", doc="which length becomes one", choices=("l2", "rms", "layer"))
    eps: float = param(0.0, doc="added under the root for rms and layer", minimum=0.0)

    @property
    def makes_unit_length(self) -> bool:
        """Only l2 leaves rows of length one."""
        return self.kind == "l2"

    def apply(self, X: Float32, *, stable: bool = False) -> Float32:
        """Return ``(n, d) float32``; NaN rows where there is no result."""
        wide = X.astype(np.float64)
        if self.kind == "layer":
            wide -= wide.mean(axis=1, keepdims=True)
        square = np.einsum("ij,ij->i", wide, wide)[:, None]
        length = np.sqrt(square if self.kind == "l2" else square / X.shape[1] + self.eps)
        if self.kind == "layer":
            # A constant row leaves rounding noise of the mean behind, not exact zeros.
            peak = np.abs(X).max(axis=1, keepdims=True, initial=0.0).astype(np.float64)
            flat = square <= X.shape[1] * (1e-14 * peak) ** 2
            return np.asarray(np.where(flat, 0.0, wide / np.where(flat, 1.0, length)), dtype=np.float32)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(wide / np.where(length > 0, length, np.nan), dtype=np.float32)

    def invert(self, Y: Float32) -> Float32:
        """Return Y: the length is lost, so the normalised row itself is the nearest answer."""
        return Y


@register
@dataclass(eq=False)
class Power(Operator):
    """Signed power ``sign(x) |x|^p``: p below 1 damps large entries, above 1 amplifies them."""

    name = "power"
    family = "normalise"
    source = "Perronnin, Sanchez, Mensink 2010; Razavian et al. 2014"
    oracle = "sign(x) |x|^p in NumPy"
    stateless = True
    undefines = True

    p: float = param(doc="the exponent", minimum=0.01, maximum=100.0)

    def apply(self, X: Float32, *, stable: bool = False) -> Float32:
        """Return ``(n, d) float32``."""
        return _signed_power(X, self.p)

    def invert(self, Y: Float32) -> Float32:
        """Return the rows before, by the power 1/p."""
        return _signed_power(Y, 1.0 / self.p)


def _signed_power(X: Float32, p: float) -> Float32:
    with np.errstate(over="ignore"):
        return np.asarray(np.sign(X) * np.abs(X).astype(np.float64) ** p, dtype=np.float32)
