"""Scores of raw vectors, each row for a query of its own: what the Arrow and the native functions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32
from vecpipe.engines.duckdb.handles import Query
from vecpipe.errors import InputError
from vecpipe.rules import nonfinite_rows, not_finite
from vecpipe.scoring import row_scores


class Asked:
    """The queries of the rows of a chunk, to score raw vectors for.

    Parameters
    ----------
    groups
        Queries with the rows of the chunk that are scored for them; None for all rows, where there is one query. The
        score of a row in no group is NaN.
    count
        Rows of the chunk.
    """

    def __init__(self, groups: Sequence[tuple[Query, npt.NDArray[np.intp] | None]], count: int) -> None:
        self._queries = [query for query, _ in groups]
        self._widths = {query.raw.shape[1] for query in self._queries}
        self._which = _numbered([at for _, at in groups], count)
        self._raw = np.concatenate([query.raw for query in self._queries]) if len(self._widths) == 1 else None
        metrics = {query.metric for query in self._queries}
        self._of_metric = {  # -1, for no query, is the last
            metric: np.array([query.metric == metric for query in self._queries] + [False]) for metric in metrics
        }

    def scores(self, X: Float32, place: Callable[[int], str], rows: npt.NDArray[np.int64] | None = None) -> Float32:
        """Return ``(n,) float32`` scores of raw vectors, each row for its query.

        Parameters
        ----------
        X : (n, d) float32
        place
            Says where row i is, for errors.
        rows : (n,) int or None
            Which rows of the chunk X holds; None for all.

        Raises
        ------
        InputError
            A row is not finite, or of another width than its query. No score of a row that is not finite is finite, so
            that only rows without a finite score are looked at again.
        """
        for width in self._widths:
            if X.shape[1] != width:
                raise InputError(f"{place(0)} has {X.shape[1]} dimensions, expected {width} as the query has")
        assert self._raw is not None
        which = self._which
        if which is not None and rows is not None:
            which = which[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            if which is None:
                scores = row_scores(self._raw, X, self._queries[0].metric)
            else:
                scores = np.full(len(X), np.nan, np.float32)
                for metric, of_metric in self._of_metric.items():
                    some = np.flatnonzero(of_metric[which])
                    scores[some] = row_scores(self._raw[which[some]], X[some], metric)
        odd = np.flatnonzero(~np.isfinite(scores) if which is None else ~np.isfinite(scores) & (which >= 0))
        if odd.size:
            bad = odd[nonfinite_rows(X[odd])]
            if bad.size:
                raise not_finite(place(int(bad[0])), X[bad[0]])
        return scores


def _numbered(groups: Sequence[npt.NDArray[np.intp] | None], count: int) -> npt.NDArray[np.intp] | None:
    """Return for each of ``count`` rows which group it is in, -1 for none; None where one group has all rows."""
    if len(groups) == 1 and groups[0] is None:
        return None
    which = np.full(count, -1, np.intp)
    for number, rows in enumerate(groups):
        which[rows] = number
    return which
