"""Exact scores of float vectors: one query row by row in float64, whatever the lengths of the vectors."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from vecpipe.errors import SpecError
from vecpipe.pipeline import fit_sketch
from vecpipe.scoring import Metric, exact_scores
from vecpipe.sketch import Sketch


@pytest.mark.parametrize("dim", [1, 3, 16, 33, 384, 1537])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_one_query_is_scored_as_in_float64_whatever_the_lengths(dim: int, metric: Metric) -> None:
    rng = np.random.default_rng(dim)
    X = rng.standard_normal((200, dim), dtype=np.float32)
    X *= np.float32(10.0) ** rng.integers(-15, 16, (200, 1)).astype(np.float32)
    q = X[7:8] * np.float32(1.5)
    wide, asked = X.astype(np.float64), q[0].astype(np.float64)
    want = {
        "ip": wide @ asked,
        "l2": -np.linalg.norm(wide - asked, axis=1),
        "cosine": wide @ asked / (np.linalg.norm(wide, axis=1) * np.linalg.norm(asked)),
    }[metric]
    found = exact_scores(q, X, metric)
    assert found.dtype == np.float32
    near = 2.0**-23 * np.linalg.norm(wide, axis=1) * np.linalg.norm(asked) if metric == "ip" else 2.0**-23
    assert (np.abs(found[0] - want) <= near + 2.0**-23 * np.abs(want)).all()


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_the_score_of_a_row_does_not_depend_on_the_rows_beside_it(metric: Metric) -> None:
    X = np.random.default_rng(1).standard_normal((333, 100), dtype=np.float32)
    q = X[5:6] + np.float32(0.01)
    whole = exact_scores(q, X, metric)
    parts = [exact_scores(q, X[at : at + size], metric) for at, size in ((0, 1), (1, 100), (101, 232))]
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))
    np.testing.assert_array_equal(whole[:, ::-1], exact_scores(q, X[::-1], metric))
    np.testing.assert_array_equal(whole, exact_scores(q, np.asfortranarray(X), metric))


def test_cosine_has_no_answer_where_a_vector_is_zero_and_is_zero_where_they_are_orthogonal() -> None:
    X = np.array([[0, 0], [0, 3], [2, 0], [-0.0, 0]], np.float32)
    found = exact_scores(np.array([[5, 0]], np.float32), X, "cosine")
    np.testing.assert_array_equal(found, np.array([[np.nan, 0, 1, np.nan]], np.float32))
    assert np.isnan(exact_scores(np.zeros((1, 2), np.float32), X, "cosine")).all()
    assert exact_scores(X[:1], X[:0], "cosine").shape == (1, 0)


def test_equal_vectors_are_no_distance_apart() -> None:
    X = np.random.default_rng(2).standard_normal((50, 384), dtype=np.float32) * np.float32(1000)
    assert exact_scores(X[9:10], X, "l2")[0, 9] == 0


@pytest.mark.parametrize("spec", ["int8", "center"])
def test_a_model_refuses_a_metric_it_does_not_know(spec: str) -> None:
    X = np.random.default_rng(3).standard_normal((50, 8), dtype=np.float32)
    sketch = Sketch(8)
    sketch.update(X)
    model = fit_sketch(sketch, spec)
    items = model.encode(X)[0] if model.codec else model.transform(X)[0]
    with pytest.raises(SpecError, match="metric is 'dot'; expected one of cosine, ip, l2"):
        model.prepare(X, cast(Metric, "dot"))
    with pytest.raises(SpecError, match="metric is 'euclidean'"):
        model.score_codes(items, items, cast(Metric, "euclidean"))
