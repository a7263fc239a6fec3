"""Scores of raw vectors, each row for a query of its own: what the Arrow and the native functions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32
from vecpipe.engines.duckdb.handles import Query
from vecpipe.rules import check_width, nonfinite_rows, not_finite
from vecpipe.scoring import row_scores


def exact_by_query(
    groups: Sequence[tuple[Query, npt.NDArray[np.intp] | None]],
    X: Float32,
    place: Callable[[int], str],
    count: int,
    rows: npt.NDArray[np.int64] | None = None,
) -> Float32:
    """Return ``(n,) float32`` scores of raw vectors, each row for a query of its own.

    Parameters
    ----------
    groups
        Queries with the rows of the chunk that are scored for them; None for all rows, where there is one query. The
        score of a row in no group is NaN.
    X : (n, d) float32
    count
        Rows of the chunk.
    rows : (n,) int or None
        Which rows of the chunk X holds; None for all.
    place
        Says where row i is, for errors.

    Raises
    ------
    InputError
        A row is not finite, or of another width than its query. No score of a row that is not finite is finite, so that
        only rows without a finite score are looked at again.
    """
    queries = [query for query, _ in groups]
    for query in queries:
        check_width(X.shape[1], query.raw.shape[1], place(0))
    which = _numbered([at for _, at in groups], count)
    if which is not None and rows is not None:
        which = which[rows]
    with np.errstate(over="ignore", invalid="ignore"):
        if which is None:
            scores = row_scores(queries[0].raw, X, queries[0].metric)
        else:
            scores = np.full(len(X), np.nan, np.float32)
            asked = np.concatenate([query.raw for query in queries])
            for metric in {query.metric for query in queries}:
                of_metric = np.array([query.metric == metric for query in queries] + [False])  # -1 is the last
                some = np.flatnonzero(of_metric[which])
                scores[some] = row_scores(asked[which[some]], X[some], metric)
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
