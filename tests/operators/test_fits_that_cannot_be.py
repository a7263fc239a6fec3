"""Fits of rows that do not suffice: errors that say why, instead of models made of rounding errors."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from vecpipe.errors import FitError
from vecpipe.pipeline import Model, fit_sketch
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
    *("leanvec(2)", "rotate(kind=itq)", "cells(2)", "int8", "int8(scale=vector)", "int4", "lvq(8)", "bebr", "rabitq"),
    *("int8_outlier", "pq(2)", "pq(2, bits=4)", "opq(2)", "rvq(2)", "transform_code(2)", "osq(2)", "eden"),
]


@pytest.mark.parametrize("spec", LEARNING)
def test_a_step_that_leaves_no_row_is_named(spec):
    zeros, one, halves = np.zeros((20, 4)), np.ones((1, 4)), np.vstack([np.zeros((9, 4)), np.eye(4)])
    for before, X, weights in (
        ("normalize", zeros, None),
        ("center | normalize", one, None),
        ("normalize", halves, np.r_[np.ones(9), np.zeros(4)]),
    ):
        try:
            model = fitted(f"{before} | {spec}", X, weights)
        except FitError as error:
            assert str(error).startswith("normalize leaves no row to fit the next step from")
        else:
            assert set(model.steps[-1].state) <= {"signs", "lengths"}, "it has learnt from rows that are not there"


def test_rows_that_leave_the_range_of_float32_are_not_learnt_from():
    X = np.random.default_rng(3).standard_normal((300, 8)).astype(np.float32)
    far = X.copy()
    far[0] = 3e38
    for spec in ("rotate | pq(2)", "rotate | int8", "rotate | normalize | pca(2)", "rotate | cells(3)"):
        model = fitted(spec, far)
        assert all(np.isfinite(array).all() for step in model.steps for array in step.state.values())
        found = (model.encode(far) if model.codec else model.transform(far))[1]
        assert found is not None
        assert np.flatnonzero(~found).tolist() == [0]


def test_a_group_of_zero_vectors_is_a_fit_error_in_sql(con):
    con.execute(
        "CREATE TABLE docs AS SELECT i // 50 AS g, (CASE WHEN i >= 50 THEN [0, 0, 0, 0] ELSE "
        "[sin(i), cos(i), sin(2 * i), cos(3 * i)] END)::FLOAT[4] AS emb FROM range(100) r(i)"
    )
    for spec in ("normalize | pca(2)", "normalize | int8", "center | normalize | int8"):
        with pytest.raises(duckdb.Error, match="normalize leaves no row to fit") as caught:
            con.sql(f"SELECT g, vec_fit(emb, '{spec}') FROM docs GROUP BY g").fetchall()
        assert "defect" not in str(caught.value)


def test_a_sample_without_weight_is_a_fit_error():
    X = np.random.default_rng(4).standard_normal((66_000, 2)).astype(np.float32)
    weights = np.zeros(len(X))
    weights[row_hashes(X).argmax()] = 1.0  # the one row that the sample does not keep
    assert fitted("center", X, weights).info.rows == len(X)
    with pytest.raises(FitError, match="all rows of the sample weigh nothing"):
        fitted("int8", X, weights)
