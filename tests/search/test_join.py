"""The running top k: however the rows are cut into blocks, it is what sorting all scores gives."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic
from hypothesis import given
from hypothesis import strategies as st

from vecpipe.pipeline import fit_sketch
from vecpipe.search import join
from vecpipe.search.join import Best, nearest_rows
from vecpipe.sketch import Sketch


def sorted_places(scores: np.ndarray, k: int) -> np.ndarray:
    clean = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-clean, axis=1, kind="stable")[:, :k]
    found = np.where(np.isneginf(np.take_along_axis(clean, order, axis=1)), -1, order)
    return np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=-1)


@given(
    rows=st.integers(1, 40),
    k=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    seed=st.integers(0, 10_000),
    values=st.integers(1, 30),
)
def test_blocks_of_any_size_give_what_sorting_gives_and_ties_go_to_the_first(rows, k, cuts, seed, values):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, values, (3, rows)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    best = Best(3, k)
    for block in np.split(scores, sorted(cut for cut in cuts if cut < rows), axis=1):
        best.add(block)
    expected = sorted_places(scores, k)
    np.testing.assert_array_equal(best.places, expected)
    there = expected >= 0
    np.testing.assert_array_equal(best.scores[there], np.take_along_axis(scores, np.maximum(expected, 0), 1)[there])
    assert np.isneginf(best.scores[~there]).all()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_groups_of_queries_and_threads_change_nothing(metric, threads, monkeypatch):
    monkeypatch.setattr(join, "QUERY_ROWS", 7)
    X, Q = anisotropic(500).astype(np.float64), anisotropic(23, seed=4).astype(np.float64)
    scores = Q @ X.T
    if metric == "cosine":
        scores /= np.outer(np.linalg.norm(Q, axis=1), np.linalg.norm(X, axis=1))
    if metric == "l2":
        scores = -np.linalg.norm(Q[:, None] - X, axis=2)
    rows = X.astype(np.float32)
    blocks = [(rows[start : start + 60], None) for start in range(0, 500, 60)]
    places, found = nearest_rows(Q.astype(np.float32), blocks, 5, metric, threads=threads)
    np.testing.assert_array_equal(places, sorted_places(scores, 5))
    np.testing.assert_allclose(found, np.take_along_axis(scores, places, 1), atol=1e-4 * np.abs(scores).max())


def test_rows_outside_the_mask_are_not_found():
    X = anisotropic(50)
    live = np.ones(50, bool)
    live[[3, 20]] = False
    places, scores = nearest_rows(X[:4], [(X[:25], live[:25]), (X[25:], None)], 50, "cosine", threads=1)
    assert not np.isin([3, 20], places).any()
    assert (places[:, -2:] == -1).all()
    assert np.isneginf(scores[:, -2:]).all()


def test_codes_are_scored_through_their_model():
    X = anisotropic(300)
    sketch = Sketch(12)
    sketch.update(X)
    model = fit_sketch(sketch, "normalize | transform_code(6)")
    codes, _ = model.encode(X)
    places, _ = nearest_rows(X[:9], [(codes[:100], None), (codes[100:], None)], 4, "ip", model)
    np.testing.assert_array_equal(places, sorted_places(model.score(model.prepare(X[:9], "ip"), codes), 4))


def test_no_queries_find_nothing():
    places, scores = nearest_rows(np.zeros((0, 12), np.float32), [(anisotropic(5), None)], 3, "ip")
    assert places.shape == scores.shape == (0, 3)
