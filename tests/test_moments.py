"""Weighted moments against their definition, through merges and affine maps."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic
from hypothesis import given
from hypothesis import strategies as st

from vecpipe.moments import Affine, Moments


def definition(X: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray | float]:
    X = X.astype(np.float64)
    C = X - X[0]  # so that rows that are all the same have no deviation here either
    shift = w @ C / w.sum()
    mean, C = X[0] + shift, C - shift
    squares = (C**2).sum(axis=1)
    return {
        "weight": w.sum(),
        "weight_squared": w @ w,
        "mean": mean,
        "scatter": (C.T * w) @ C,
        "third": (w * squares) @ C,
        "fourth": w @ squares**2,
    }


def assert_moments(found: Moments, X: np.ndarray, w: np.ndarray, tolerance: float = 1e-9) -> None:
    for name, expected in definition(X, w).items():
        scale = max(float(np.abs(expected).max()), 1e-30)
        if name == "third":
            scale = float(np.sqrt(definition(X, w)["fourth"] * np.trace(definition(X, w)["scatter"])))
        np.testing.assert_allclose(getattr(found, name), expected, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_of_rows_are_the_definition(weighted):
    X = anisotropic(300, 5)
    w = np.random.default_rng(0).random(300) if weighted else np.ones(300)
    assert_moments(Moments.of_rows(X, w if weighted else None), X, w)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 9))
def test_merged_moments_are_those_of_all_rows(sizes, seed):
    rng = np.random.default_rng(seed)
    X = anisotropic(sum(sizes) + 1, 4, seed) + np.float32(10 * seed)
    w = rng.random(len(X)) + 0.1
    merged = Moments.empty(4)
    for rows in np.split(np.arange(len(X)), np.cumsum(sizes)):
        merged = merged.merge(Moments.of_rows(X[rows], w[rows]))
    assert_moments(merged, X, w, 1e-8)


def test_no_rows_are_neutral():
    some = Moments.of_rows(anisotropic(10, 4))
    for merged in (some.merge(Moments.empty(4)), Moments.empty(4).merge(some)):
        np.testing.assert_array_equal(merged.scatter, some.scatter)
    assert Moments.of_rows(anisotropic(3, 4), np.zeros(3)).weight == 0


AFFINE = {
    "shift": Affine(np.ones(5), np.arange(5.0)),
    "scale": Affine(np.arange(1.0, 6.0), np.ones(5)),
    "dense": Affine(np.random.default_rng(1).standard_normal((5, 3)), np.arange(3.0)),
    "first dimensions": Affine(np.ones(2), np.zeros(2)),
    "dense on the first dimensions": Affine(np.random.default_rng(2).standard_normal((3, 4)), np.zeros(4)),
}


def applied(step: Affine, X: np.ndarray) -> np.ndarray:
    X = X[:, : len(step.matrix)].astype(np.float64)
    return (X * step.matrix if step.diagonal else X @ step.matrix) + step.offset


@pytest.mark.parametrize("name", AFFINE)
def test_moments_through_an_affine_map_are_those_of_the_mapped_rows(name):
    X, w = anisotropic(200, 5), np.random.default_rng(3).random(200)
    found = Moments.of_rows(X, w).through(AFFINE[name])
    expected = Moments.of_rows(applied(AFFINE[name], X), w)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-9)
    np.testing.assert_allclose(found.scatter, expected.scatter, atol=1e-9 * np.abs(expected.scatter).max())
    if found.third is not None:
        np.testing.assert_allclose(found.third, expected.third, atol=1e-9 * np.abs(expected.third).max())
        assert found.fourth == pytest.approx(expected.fourth)


@pytest.mark.parametrize("first", AFFINE)
@pytest.mark.parametrize("second", AFFINE)
def test_one_map_then_another_is_one_map(first, second):
    a, b = AFFINE[first], AFFINE[second]
    X = anisotropic(20, 5)
    middle = applied(a, X)
    if middle.shape[1] < len(b.matrix):
        pytest.skip("the second map needs more dimensions than the first leaves")
    np.testing.assert_allclose(applied(a.then(b), X), applied(b, middle), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("first", [0.0, 1e-9])
def test_rows_that_are_all_the_same_have_no_scatter_whatever_the_weights(first):
    X = anisotropic(1, 6).repeat(50, axis=0)
    w = np.random.default_rng(2).random(50)
    w[0] = first
    found = Moments.of_rows(X, w)
    assert not found.scatter.any()
    np.testing.assert_array_equal(found.mean, X[0])


def test_a_row_that_weighs_nothing_costs_the_others_no_digits():
    X, w = anisotropic(300, 5), np.ones(300)
    X[0], w[0] = 1e30, 0.0
    assert_moments(Moments.of_rows(X, w), X[1:], w[1:])
