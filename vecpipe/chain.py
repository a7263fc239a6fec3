"""Bound operators, one after another: folded where neighbours are affine, and run over the rows of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vecpipe import kernels
from vecpipe.arrays import Float32, Mask
from vecpipe.errors import InputError
from vecpipe.moments import Affine
from vecpipe.operators import Operator
from vecpipe.rules import nonfinite_rows


class Chain:
    """Steps as they are run: neighbouring affine ones are one product.

    Parameters
    ----------
    steps
        Operators, bound.
    of_queries
        Take the query side of operators with two sides.
    """

    def __init__(self, steps: Sequence[Operator], *, of_queries: bool = False) -> None:
        self._of_queries = of_queries
        self._links = _folded([(step, step.query_affine() if of_queries else step.affine()) for step in steps])

    def run(self, X: Float32, valid: Mask | None, *, stable: bool = False) -> tuple[Float32, Mask | None]:
        """Return ``(n, k)`` results of ``(n, d)`` rows, and which rows have a direction where a step asks for one.

        Whoever calls looks for results that are not finite: ``without_lost``.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # what leaves float32 is marked, not warned of
            for link in self._links:
                if isinstance(link, Affine):
                    X = kernels.affine(X, link.matrix, link.offset, stable=stable)
                else:
                    X = link.apply_query(X) if self._of_queries else link.apply(X, stable=stable)
                    if link.undefines:
                        X, valid = without_lost(X, valid)
        return X, valid


def _folded(steps: Sequence[tuple[Operator, Affine | None]]) -> list[Operator | Affine]:
    """Fold neighbouring affine steps into one product wherever a product is needed anyway."""
    links: list[Operator | Affine] = []
    group: list[tuple[Operator, Affine]] = []

    def close() -> None:
        if all(found.diagonal for _, found in group):
            links.extend(step for step, _ in group)
        else:
            whole = group[0][1]
            for _, found in group[1:]:
                whole = whole.then(found)
            links.append(whole)
        group.clear()

    for step, found in steps:
        if found is None:
            close()
            links.append(step)
        else:
            group.append((step, found))
    close()
    return links


def without_lost(X: Float32, valid: Mask | None) -> tuple[Float32, Mask | None]:
    """Turn rows without a finite result into rows that do not count, holding zeros."""
    lost = nonfinite_rows(X)
    if lost.size:
        valid = np.ones(len(X), dtype=bool) if valid is None else valid.copy()
        valid[lost] = False
        X = X.copy()
        X[lost] = 0
    return X, valid


def as_matrix(X: Any, dim: int, who: str) -> Float32:
    """Return ``(n, dim) float32`` of any matrix of numbers.

    Raises
    ------
    InputError
        No matrix of numbers, or another width than ``who`` takes.
    """
    found = np.asarray(X)
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise InputError(f"expected a matrix of numbers (rows, dimensions), got {found.dtype} of shape {found.shape}")
    if found.shape[1] != dim:
        raise InputError(f"vectors have {found.shape[1]} dimensions, but {who} {dim}")
    return np.ascontiguousarray(found, dtype=np.float32)  # sums along a row depend on how it lies in memory
