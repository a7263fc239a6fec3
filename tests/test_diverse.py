"""Farthest-point sampling against a slow one in float64, and its bound against the best set of centres there is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from conftest import anisotropic

from vecpipe.diverse import farthest_points
from vecpipe.errors import SpecError


def distances(X: np.ndarray, metric: str) -> np.ndarray:
    X = X.astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(X[:, None] - X[None], axis=2)
    unit = X / np.linalg.norm(X, axis=1)[:, None]
    return 1 - unit @ unit.T


def slowly(X: np.ndarray, k: int, metric: str) -> tuple[list[int], list[float]]:
    D = distances(X, metric)
    Y = X.astype(np.float64)
    Y = Y / np.linalg.norm(Y, axis=1)[:, None] if metric == "cosine" else Y
    picks = [int(((Y - Y.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    radii = [np.nan]
    while len(picks) < k:
        nearest = D[picks].min(axis=0)
        picks.append(int(nearest.argmax()))
        radii.append(float(nearest.max()))
    return picks, radii


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_picks_are_those_of_the_definition(metric, offset):
    X = anisotropic(300, 8, seed=2) + np.float32(offset if metric == "l2" else 0)
    picks, radii = farthest_points(X, 40, metric)
    expected, expected_radii = slowly(X, 40, metric)
    assert picks.tolist() == expected
    np.testing.assert_allclose(radii, expected_radii, rtol=1e-4)
    assert (np.diff(radii[1:]) <= 1e-6).all()


def test_the_picks_cover_all_rows_within_twice_the_least_radius():
    X = anisotropic(14, 3, seed=4)
    D = distances(X, "l2")
    for k in (2, 3):
        best = min(D[list(centres)].min(axis=0).max() for centres in combinations(range(14), k))
        picks, _ = farthest_points(X, k, "l2")
        assert D[picks].min(axis=0).max() <= 2 * best + 1e-6


def test_the_next_distance_is_the_radius_that_the_picks_cover():
    X = anisotropic(200, 5, seed=5)
    picks, radii = farthest_points(X, 11, "l2")
    D = distances(X, "l2")
    assert D[picks[:10]].min(axis=0).max() == pytest.approx(radii[10], rel=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_equal_rows_are_picked_once(metric):
    X = np.repeat(anisotropic(6, 4, seed=6), 5, axis=0)
    if metric == "cosine":
        X = X * np.float32(1.7) ** (np.arange(30) % 5)[:, None].astype(np.float32)
    picks, _ = farthest_points(X, 30, metric)
    assert sorted((picks // 5).tolist()) == list(range(6))


def test_ties_go_to_the_first_row():
    X = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 0]], np.float32)
    assert farthest_points(X, 9, "l2")[0].tolist() == [0, 2, 1, 3]


def test_rows_that_do_not_count_or_have_no_direction_are_never_picked():
    X = anisotropic(20, 4, seed=7)
    valid = np.arange(20) % 2 == 0
    X[4] = 0
    picks, _ = farthest_points(X, 50, "cosine", valid)
    assert sorted(picks.tolist()) == [row for row in range(0, 20, 2) if row != 4]
    assert 4 in farthest_points(X, 50, "l2", valid)[0]


@pytest.mark.parametrize(("rows", "k"), [(0, 5), (5, 0)])
def test_nothing_comes_of_nothing(rows, k):
    picks, radii = farthest_points(np.ones((rows, 3), np.float32), k)
    assert (len(picks), len(radii)) == (0, 0)


def test_wrong_arguments_are_named():
    with pytest.raises(SpecError, match="metric is 'ip'; expected one of cosine, l2"):
        farthest_points(np.ones((2, 2), np.float32), 1, "ip")
    with pytest.raises(SpecError, match="k is -1; expected 0 or more"):
        farthest_points(np.ones((2, 2), np.float32), -1)
