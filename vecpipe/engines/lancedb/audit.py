"""How much of what an exact search finds two columns of a table find, on a sample of its rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from vecpipe import model_columns
from vecpipe.arrays import Float32, Mask
from vecpipe.columns.vectors import to_rows
from vecpipe.engines.lancedb.host import asking, latest_dataset
from vecpipe.errors import EngineError, InputError
from vecpipe.metrics.retrieval import nearest, recall_at, top_places
from vecpipe.model import Model
from vecpipe.scoring import Metric

_QUERY_SHARE = 16


def audit(
    table: Any,
    source: str,
    old: tuple[str, Model | None],
    new: tuple[str, Model],
    metric: Metric,
    k: int,
    sample: int,
    queries: Any,
) -> tuple[float, float]:
    """Return recall@k of both columns on sampled rows, after checking that the new one holds what its model gives.

    Parameters
    ----------
    old, new
        Column and the model that writes it; no model for a column of raw vectors, whose recall is 1.
    queries : (m, d) or None
        In the space of the source; None takes a sixteenth of the sample.

    Raises
    ------
    InputError
        There are too few rows.
    EngineError
        The new column holds something else than its model gives, or LanceDB refused.
    """
    dataset = latest_dataset(table)
    count = dataset.count_rows()
    chosen = np.sort(np.random.default_rng(0).choice(count, min(sample, count), replace=False))
    with asking(f"read a sample of {table.name!r}"):
        columns = list(dict.fromkeys([source, old[0], new[0]]))
        rows = dataset.take(chosen.tolist(), columns=columns)
    raw = to_rows(rows[source], column=source, on_invalid="null")
    stored, valid = _stored(rows[new[0]], new[1], new[0])
    usable = valid if raw.valid is None else valid & raw.valid
    _check_stored(new, raw.values[usable], stored[usable])
    before, known = (None, usable) if old[1] is None else _stored(rows[old[0]], old[1], old[0])
    usable = usable & known
    X = raw.values[usable]
    if queries is None:
        held = max(1, len(X) // _QUERY_SHARE)
        Q, X, places = X[:held], X[held:], np.flatnonzero(usable)[held:]
    else:
        Q, places = to_rows(queries, column="queries", dim=raw.dim).values, np.flatnonzero(usable)
    if len(X) < k or not len(Q):
        raise InputError(f"{len(X)} rows with vectors are too few to audit recall@{k}")
    exact = nearest(Q, X, k, metric)
    now = 1.0 if old[1] is None or before is None else _recall(old[1], Q, before[places], exact, k, metric)
    return now, _recall(new[1], Q, stored[places], exact, k, metric)


def _stored(values: Any, model: Model, column: str) -> tuple[Any, Mask]:
    """Return what is stored, ``(n, B) uint8`` codes or ``(n, k) float32`` vectors, and which rows have a value."""
    found, valid = model_columns.read(model, values, column=column)
    return found, np.ones(len(found), bool) if valid is None else valid


def _check_stored(new: tuple[str, Model], X: Float32, stored: Any) -> None:
    column, model = new
    if model.codec is None:
        expected, _ = model.transform(X)
        same = np.allclose(stored, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(expected).max(initial=0.0))))
    else:
        same = np.array_equal(stored, model.encode(X)[0])
    if not same:
        raise EngineError(f"{column!r} does not hold what {model.spec!r} gives; drop it and migrate again")


def _recall(model: Model, Q: Float32, stored: Any, exact: Any, k: int, metric: Metric) -> float:
    scores = model.score(model.prepare(Q, metric), stored)
    return recall_at(top_places(scores, k), exact, k)
