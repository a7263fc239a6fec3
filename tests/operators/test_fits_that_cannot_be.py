"""Fits of rows that do not suffice: errors that say why, instead of models made of rounding errors."""

from __future__ import annotations

import numpy as np
import pytest

from vecpipe.errors import FitError
from vecpipe.pipeline import Model, fit_sketch
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
