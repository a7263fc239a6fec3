"""Which rows of a block may score as well as the bar of their query, whatever rounding did to the matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecpipe import kernels
from vecpipe.arrays import Float32, Float64, Mask
from vecpipe.query_products import bfloats
from vecpipe.rules import row_not_finite
from vecpipe.scoring import Metric

Places = npt.NDArray[np.int64]
Scores = Float32 | Float64

MANY = 8
"""How many times more rows than are asked for may reach a bar before the block raises it itself."""

_EPS, _LEAST = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).smallest_subnormal)


@dataclass
class Block:
    """Vectors ``(n, d)``, their lengths, whether float32 may lose their products, and ``bfloats`` of them if asked."""

    X: Float32
    norms: Float64
    odd: bool
    _halves: npt.NDArray[np.uint16] | None = None

    @staticmethod
    def of(X: Float32) -> Block:
        """Return the block of vectors.

        Raises
        ------
        RowError
            A vector holds NaN or an infinite value.
        """
        squares, far = kernels.wide_squared_norms(X)
        bad = far[~np.isfinite(squares[far])]
        if bad.size:
            raise row_not_finite(X, int(bad[0]))
        norms = np.sqrt(squares)
        return Block(X, norms, kernels.odd_lengths(norms))

    def take(self, at: Places) -> Block:
        """Return the block of some of the vectors."""
        return Block(self.X[at], self.norms[at], self.odd)

    def halves(self) -> npt.NDArray[np.uint16]:
        """Return the vectors rounded to bfloat16, once for all queries."""
        if self._halves is None:
            self._halves = bfloats(self.X)
        return self._halves


def bounded(
    products: Scores, metric: Metric, lengths: Float64, block: Block, lost: Float64 | float = 0.0
) -> tuple[Scores, Scores]:
    """Return scores of products ``(m, n)``, which are overwritten, and what they are off by at most.

    Parameters
    ----------
    products : (m, n)
        Of queries with the vectors of the block; for cosine, of queries of length one.
    lengths : (m,)
        Of the queries.
    lost : (m,)
        A product is off by what rounding did to its sum, and by ``lost`` times the length of the vector.

    Returns
    -------
    scores, slack
        ``(m, n)``, and ``(m, n)`` or for cosine ``(m,)``.
    """
    scores, norms = products, block.norms
    kind: Any = scores.dtype.type
    unit = _EPS * (block.X.shape[1] + 8)  # in float64 too: scores that are equal once rounded to float32 are ties
    if metric == "cosine":
        scores *= (1 / np.where(norms > 0, norms, np.nan)).astype(kind)
        return scores, np.broadcast_to(2 * unit + lost, lengths.shape).astype(kind)
    slack = np.empty_like(scores)
    if metric == "ip":
        np.multiply((unit * lengths + lost)[:, None], norms, out=slack, casting="same_kind")
        slack += kind(_LEAST)
    else:  # minus the squared distance
        np.multiply(np.broadcast_to(2 * lost, lengths.shape)[:, None], norms, out=slack, casting="same_kind")
        scores *= kind(2)
        for squares in ((lengths**2)[:, None], norms**2):
            scores -= squares.astype(kind)
            slack += (4 * unit * squares).astype(kind)
    return scores, slack


def reaching(scores: Scores, bar: Scores, slack: Scores, k: int, most: float | None = None) -> tuple[Places, Places]:
    """Return the pairs whose scores ``(m, n)`` may reach the bar ``(m,)`` of their query; scores are overwritten.

    Rounding took at most ``slack`` from them, of each pair ``(m, n)`` or of each query ``(m,)``. Where far more than k
    rows would reach the bar, it is raised to the block's own k-th best, less what rounding may have added. Scores
    beyond ``most``, of either sign, are infinite in float32, and ties.
    """
    n = scores.shape[1]
    kind: Any = scores.dtype.type
    bar = np.maximum(bar, kind(np.finfo(kind).min))  # NaN and -inf are no scores
    by_query = slack.ndim == 1
    if by_query:
        low = bar - slack
    else:
        scores += slack
        low = bar
    if n > MANY * k and not (low > np.finfo(kind).min).any():  # the first block
        hit, many = np.empty_like(scores, dtype=bool), np.arange(len(bar))
    else:
        hit = scores >= low[:, None]
        queries, rows = _places(hit)
        many = np.flatnonzero(np.bincount(queries, minlength=len(bar)) > MANY * k)
        if n <= k or not len(many):
            return queries, rows
    surely = scores[many] - (slack[many, None] if by_query else 2 * slack[many])
    np.copyto(surely, -np.inf, where=np.isnan(surely))
    if most is not None:
        np.copyto(surely, -np.inf, where=surely < -most)
        np.minimum(surely, most, out=surely)
    raised = np.maximum(bar[many], np.partition(surely, n - k, axis=1)[:, n - k])
    hit[many] = scores[many] >= (raised - slack[many] if by_query else raised)[:, None]
    return _places(hit)


def _places(hit: Mask) -> tuple[Places, Places]:
    """Return the rows and columns of what is true: of few in many, found faster than NumPy does, in either order."""
    if hit.strides[0] < hit.strides[1]:
        columns, rows = _places(hit.T)
        return rows, columns
    found = np.flatnonzero(hit)
    rows = found // hit.shape[1]
    return rows, found - rows * hit.shape[1]
