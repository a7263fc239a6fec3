"""Exact scores of float vectors: one query row by row in float64, whatever the lengths of the vectors."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from vecpipe.advise import advise
from vecpipe.arrays import Float32, Float64
from vecpipe.diverse import farthest_points
from vecpipe.engines.lancedb import asks
from vecpipe.engines.lancedb.rerankers import ExactRerank
from vecpipe.errors import SpecError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.scoring import METRICS, Metric, exact_scores, metric_named
from vecpipe.search import ivf
from vecpipe.search.querybank import QueryBank
from vecpipe.sketch import Sketch

ROWS = np.ones((4, 2), np.float32)
TAKE_A_METRIC = {
    "advise": lambda metric: advise(None, metric=metric),
    "farthest_points": lambda metric: farthest_points(ROWS, 2, metric),
    "search of LanceDB": lambda metric: asks.check(asks.Ask(metric=metric)),
    "ExactRerank": lambda metric: ExactRerank(ROWS[0], "emb", metric),
    "QueryBank": lambda metric: QueryBank(ROWS, metric),
    "ivf.train": lambda metric: ivf.train(ROWS, partitions=1, metric=metric),
}


@pytest.mark.parametrize("name", TAKE_A_METRIC)
def test_whatever_takes_a_metric_refuses_another_with_the_same_error(name: str) -> None:
    known = "cosine, l2" if name == "farthest_points" else "cosine, ip, l2"
    with pytest.raises(SpecError, match=f"^metric is 'dot'; expected one of {known}$"):
        TAKE_A_METRIC[name]("dot")


def test_a_metric_is_found_by_name_among_those_the_caller_knows() -> None:
    assert [metric_named(name) for name in METRICS] == list(METRICS)
    assert metric_named("l2", ("cosine", "l2")) == "l2"
    for name in ("ip", None, 1):
        with pytest.raises(SpecError, match="expected one of cosine, l2"):
            metric_named(name, ("cosine", "l2"))


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


def in_float64(Q: Float32, X: Float32, metric: Metric) -> Float64:
    q, x = Q.astype(np.float64), X.astype(np.float64)
    if metric == "l2":
        return -np.sqrt(((q[:, None] - x) ** 2).sum(axis=2))
    return (q / np.linalg.norm(q, axis=1)[:, None]) @ (x / np.linalg.norm(x, axis=1)[:, None]).T


@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
@pytest.mark.parametrize("apart", [0.0, 5000.0])
def test_distances_of_many_queries_are_those_of_float64_wherever_the_vectors_lie(mean: float, apart: float) -> None:
    rng = np.random.default_rng(4)
    X = rng.standard_normal((400, 24)) + mean
    X[200:] += apart
    X[7] = X[3] + 1e-3
    X = X.astype(np.float32)
    Q = X[[3, 5, 50, 399]]
    found = exact_scores(Q, X, "l2")
    np.testing.assert_allclose(found, in_float64(Q, X, "l2"), rtol=2e-5)
    assert (found[np.arange(4), [3, 5, 50, 399]] == 0).all()


@pytest.mark.parametrize("size", [1e-40, 1e-25, 1e-12, 1e17, 1e20, 1e37])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_many_queries_are_scored_whatever_the_lengths(size: float, metric: Metric) -> None:
    rng = np.random.default_rng(5)
    X = (rng.standard_normal((60, 16)) * size).astype(np.float32)
    X[::7] = rng.standard_normal((9, 16), dtype=np.float32)
    np.testing.assert_allclose(exact_scores(X[1:5], X, metric), in_float64(X[1:5], X, metric), rtol=2e-5, atol=2e-6)


def test_products_beyond_the_range_of_float32_are_infinite_and_never_nan() -> None:
    X = (np.random.default_rng(6).standard_normal((60, 16)) * 1e20).astype(np.float32)
    found = exact_scores(X[:3], X, "ip")
    assert not np.isnan(found).any()
    assert (np.sign(found) == np.sign(X[:3].astype(np.float64) @ X.T.astype(np.float64))).all()


def test_zero_vectors_and_lost_queries_have_no_score_among_many() -> None:
    X = np.random.default_rng(7).standard_normal((9, 4), dtype=np.float32)
    X[4] = 0
    Q = X[[1, 4, 5]].copy()
    Q[2] = np.nan
    cosines = exact_scores(Q, X, "cosine")
    assert np.isnan(cosines[1:]).all()
    assert np.flatnonzero(np.isnan(cosines[0])).tolist() == [4]
    distances = exact_scores(Q, X, "l2")
    assert np.isfinite(distances[:2]).all()
    assert np.isnan(distances[2]).all()


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
