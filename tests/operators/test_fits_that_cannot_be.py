"""Fits of rows that do not suffice: errors that say why, instead of models made of rounding errors."""

from __future__ import annotations

from contextlib import suppress

import duckdb
import numpy as np
import pytest

from vecpipe.errors import FitError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.sample import row_hashes
from vecpipe.sketch import Sketch


def fitted(spec: str, X: np.ndarray, weights: np.ndarray | None = None) -> Model:
    sketch = Sketch(X.shape[1])
    sketch.update(np.ascontiguousarray(X, np.float32), weights)
    return fit_sketch(sketch, spec)


@pytest.mark.parametrize("before", ["", "center | ", "rotate | ", "normalize | "])
@pytest.mark.parametrize("spec", ["whiten", "whiten(kind=zca)", "whiten(shrink=0.5)", "pca(2, whiten=true)"])
def test_rows_that_are_all_the_same_have_nothing_to_whiten(before, spec):
    rng = np.random.default_rng(0)
    for rows in (1, 5):
        for _ in range(10):
            X = np.repeat(rng.standard_normal((1, 8)), rows, axis=0)
            with pytest.raises(FitError, match="do not vary"):
                fitted(before + spec, X, rng.random(rows))
            with pytest.raises(FitError, match="do not vary"):
                fitted(before + spec, X)


def test_a_dimension_that_does_not_vary_stays_where_it_is_whatever_the_weights():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((500, 6))
    X[:, 2] = 0.3
    found = fitted("center | standardize", X, rng.random(500)).transform(X.astype(np.float32))[0]
    assert not found[:, 2].any()


LEARNING = [
    *("center", "standardize", "whiten", "whiten(shrink=ledoit_wolf)", "whiten(kind=phi_s)", "pca(2)", "select(2)"),
    *("leanvec(2)", "rotate(kind=itq)", "cells(2)", "int8", "int4", "bebr", "int8_outlier", "pq(2)", "pq(2, bits=4)"),
    *("opq(2)", "rvq(2)", "transform_code(2)", "osq(2)"),
]


@pytest.mark.parametrize("spec", LEARNING)
def test_a_step_that_leaves_no_row_is_named(spec):
    halves = np.vstack([np.zeros((9, 4)), np.eye(4)])
    for before, X, weights in (
        ("normalize", np.zeros((20, 4)), None),
        ("center | normalize", np.ones((1, 4)), None),
        ("normalize", halves, np.r_[np.ones(9), np.zeros(4)]),
    ):
        with pytest.raises(FitError, match=r"^normalize leaves no row to fit the next step from"):
            fitted(f"{before} | {spec}", X, weights)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("spec", LEARNING)
@pytest.mark.parametrize("size", [1e18, 1e25, 1e38])
def test_numbers_that_are_too_large_are_a_fit_error_or_give_a_finite_model(spec, size):
    X = np.clip(np.random.default_rng(5).standard_normal((300, 8)), -3, 3) * size
    with suppress(FitError):
        model = fitted(spec, X, np.linspace(1, 1e100, 300))
        assert all(np.isfinite(array).all() for step in model.steps for array in step.state.values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_products_beyond_float32_are_a_fit_error_that_names_the_step():
    X = np.random.default_rng(6).standard_normal((300, 10)) * 1e19
    with pytest.raises(FitError, match=r"^opq.* float"):
        fitted("center | opq(5)", X)


def test_weights_of_any_size_turn_to_the_same_signs():
    X, weights = np.random.default_rng(7).standard_normal((300, 8)), np.random.default_rng(8).random(300)
    plain = fitted("rotate(kind=itq) | binary", X, weights).encode(X.astype(np.float32))[0]
    large = fitted("rotate(kind=itq) | binary", X, weights * 2.0**300).encode(X.astype(np.float32))[0]
    np.testing.assert_array_equal(plain, large)


def test_rows_that_leave_the_range_of_float32_are_not_learnt_from():
    X = np.random.default_rng(3).standard_normal((300, 8)).astype(np.float32)
    far = X.copy()
    far[0] = 3e38
    for spec in ("rotate | pq(2)", "rotate | int8", "rotate | normalize | pca(2)", "rotate | cells(3)"):
        model = fitted(spec, far, np.r_[1e-25, np.ones(299)])
        assert all(np.isfinite(array).all() for step in model.steps for array in step.state.values())
        found = (model.encode(far) if model.codec else model.transform(far))[1]
        assert found is not None
        assert np.flatnonzero(~found).tolist() == [0]


def test_a_fit_without_rows_for_a_step_says_so_in_sql(con):
    for spec, rows in (("normalize | pca(2)", 50), ("normalize | int8", 50), ("center | normalize | int8", 1)):
        with pytest.raises(duckdb.Error, match="vec_fit: normalize leaves no row to fit the next step from"):
            con.sql(f"SELECT vec_fit([0, 0, 0, 0]::FLOAT[4], '{spec}') FROM range({rows})").fetchall()


def test_a_sample_without_weight_is_a_fit_error():
    X = np.random.default_rng(4).standard_normal((66_000, 2)).astype(np.float32)
    weights = np.zeros(len(X))
    weights[row_hashes(X).argmax()] = 1.0  # the one row that the sample does not keep
    assert fitted("center", X, weights).info.rows == len(X)
    with pytest.raises(FitError, match="all rows of the sample weigh nothing"):
        fitted("int8", X, weights)
