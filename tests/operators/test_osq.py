"""OSQ: the budget is spent, no bound is above the exact distance, and pruning by bounds loses no neighbour."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic, oracle
from hypothesis import given
from hypothesis import strategies as st

from vecpipe.errors import ModelFormatError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.metrics.retrieval import nearest, recall_at, top_places
from vecpipe.model import Model
from vecpipe.operators.kmeans import gaussian_levels, lloyd_levels, refine
from vecpipe.operators.osq import OSQ
from vecpipe.sketch import Sketch


def fit(X: np.ndarray, spec: str) -> Model:
    sketch = Sketch(X.shape[1])
    sketch.update(X)
    return fit_sketch(sketch, spec)


def codec(model: Model) -> OSQ:
    assert isinstance(model.codec, OSQ)
    return model.codec


@oracle("osq", says="no bound is above the exact distance")
@given(size=st.integers(1, 12), seed=st.integers(0, 1_000), scale=st.sampled_from([1e-3, 1.0, 50.0]))
def test_no_bound_is_above_the_exact_distance(size, seed, scale):
    X = anisotropic(200, 12, seed) * np.float32(scale)
    Q = np.concatenate([X[:3], anisotropic(3, 12, seed + 1) * np.float32(scale), 5 * X[:1]])
    model = fit(X, f"osq({size})")
    # Rows the fit has not seen have bounds too.
    rows = np.concatenate([X, 3 * anisotropic(100, 12, seed + 2) * np.float32(scale)])
    bounds = codec(model).distance_bounds(Q, model.encode(rows)[0])
    exact = np.linalg.norm(Q[:, None].astype(np.float64) - rows, axis=2)
    assert (bounds <= exact + 1e-5 * np.abs(rows).max()).all()
    assert (bounds[np.arange(3), np.arange(3)] <= 1e-5 * np.abs(rows).max()).all()


@oracle("osq")
def test_pruning_by_bounds_gives_exactly_the_nearest_rows_and_looks_at_few():
    X, Q = anisotropic(3_000, 16), anisotropic(20, 16, seed=3)
    model = fit(X, "osq(12)")
    bounds = codec(model).distance_bounds(Q, model.encode(X)[0])
    exact = np.linalg.norm(Q[:, None].astype(np.float64) - X, axis=2)
    looked = 0
    for q in range(len(Q)):
        best = np.full(5, np.inf)
        for row in np.argsort(bounds[q], kind="stable"):
            if bounds[q, row] > best[-1]:
                break
            looked += 1
            best = np.sort(np.append(best, exact[q, row]))[:5]
        np.testing.assert_array_equal(best, np.sort(exact[q])[:5])
    assert looked < 0.1 * len(Q) * len(X)


@oracle("osq", says="the nearest level of each axis")
def test_each_coordinate_gets_the_nearest_level_of_its_axis():
    X = anisotropic(400)
    model = fit(X, "osq(6)")
    state = codec(model).state
    z = (X - state["mean"]) @ state["axes"]
    near = (model.decode(model.encode(X)[0]) - state["mean"]) @ state["axes"]
    start = 0
    for axis, bits in enumerate(state["bits"]):
        levels = state["levels"][start : start + 2**bits]
        start += 2**bits
        distance = np.abs(z[:, axis, None] - levels).min(axis=1)
        np.testing.assert_allclose(np.abs(z[:, axis] - near[:, axis]), distance, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 12, 40])
def test_the_budget_is_spent_on_whole_bits_where_the_variance_is(size):
    X = anisotropic()
    model = fit(X, f"osq({size})")
    bits = codec(model).state["bits"]
    assert bits.sum() == min(8 * size, 8 * 12)
    assert (np.diff(bits) <= 0).all()
    assert model.encode(X)[0].shape == (len(X), size)
    assert model.bytes_per_vector == size


def test_more_bytes_find_more_neighbours_up_to_all():
    X, Q = anisotropic(2_000, 24), anisotropic(50, 24, seed=1)
    wanted = nearest(Q, X, 10)
    found = []
    for size in (3, 9, 18):
        model = fit(X, f"osq({size})")
        scores = model.score(model.prepare(Q, "ip"), model.encode(X)[0])
        found.append(recall_at(top_places(scores, 10), wanted, 10))
    assert found == sorted(found)
    assert found[-1] > 0.95


def test_levels_of_one_axis_are_those_of_the_general_rounds():
    rng = np.random.default_rng(0)
    points, weights = rng.standard_normal(2_000), rng.random(2_000) + 0.5
    start = gaussian_levels(3)
    found = lloyd_levels(points, weights, start, 10, 0.25)
    general = refine(points[:, None].astype(np.float32), weights, start[:, None].astype(np.float32), 10, 0.25)
    np.testing.assert_allclose(found, general[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    "X",
    [np.ones((5, 4), np.float32), np.arange(1, 8, dtype=np.float32)[:, None], np.repeat(anisotropic(3, 6), 50, axis=0)],
    ids=["constant", "d=1", "duplicates"],
)
def test_degenerate_rows_encode_and_decode(X):
    model = Model.from_bytes(fit(X, "osq(9)").to_bytes())
    codes, valid = model.encode(X)
    assert valid is None
    np.testing.assert_allclose(model.decode(codes), X, atol=0.05 * np.abs(X).max())


@pytest.mark.parametrize("name", ["axes", "bits", "levels"])
def test_arrays_that_do_not_belong_together_are_refused(name):
    model = fit(anisotropic(), "osq(9)")
    state = dict(codec(model).state)
    state[name] = state[name][..., :-1] if name == "axes" else -state[name]
    with pytest.raises(ModelFormatError, match="osq"):
        codec(model).bind(12, state)
