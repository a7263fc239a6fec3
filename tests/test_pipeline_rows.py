"""Rows that a model has no result for: masked by encode and transform, whatever the spec."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic

from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.sketch import Sketch

X = anisotropic(300, 8)
BARE = ["int8", "int8(scale=vector)", "int4", "bfloat16", "binary", "rabitq", "lvq(8)", "pq(2)", "transform_code(6)"]


def fitted(spec: str) -> Model:
    sketch = Sketch(8)
    sketch.update(X)
    return fit_sketch(sketch, spec)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spec", [*BARE, "center | int8", "rotate | pq(2)", "truncate(4) | int8"])
def test_rows_that_are_not_finite_have_no_code(spec, bad):
    model, rows = fitted(spec), X[:20].copy()
    rows[[3, 11], 7] = bad
    codes, valid = model.encode(rows)
    assert valid is not None
    assert np.flatnonzero(~valid).tolist() == [3, 11]
    np.testing.assert_array_equal(codes[valid], model.encode(np.delete(rows, [3, 11], axis=0))[0])
    assert np.isnan(rows[3, 7]) or np.isinf(rows[3, 7]), "the caller's rows stay as they are"
    outside = np.arange(20) != 5
    assert np.flatnonzero(~model.encode(rows, outside)[1]).tolist() == [3, 5, 11]
    assert outside.sum() == 19
    assert model.encode(X[:20])[1] is None
    np.testing.assert_array_equal(model.encode(X[:20], finite=True)[0], model.encode(X[:20])[0])


@pytest.mark.parametrize("spec", ["int8", "center | int8", "rotate", "normalize"])
def test_rows_that_are_not_finite_have_no_result(spec):
    model, rows = fitted(spec), X[:20].copy()
    rows[4] = np.nan
    for moved, valid in (model.transform(rows), model.transform_queries(rows)):
        assert np.flatnonzero(~valid).tolist() == [4]
        assert np.isfinite(moved).all()
