"""Cells against NumPy: assignment to the last row, balance, order, and what awkward data does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import anisotropic, oracle

from vecpipe.cells import CellModel, cell_model
from vecpipe.errors import CapabilityError, ModelFormatError, SpecError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.operators import cells
from vecpipe.operators.cells import Cells
from vecpipe.sketch import Sketch


def fitted(spec: str, X: np.ndarray) -> Model:
    sketch = Sketch(X.shape[1])
    sketch.update(X)
    return fit_sketch(sketch, spec)


def clustered(rows: int = 4_000, dim: int = 16, centres: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((centres, dim))
    return (middles[rng.integers(0, centres, rows)] + 0.4 * rng.standard_normal((rows, dim))).astype(np.float32)


def unit(X: np.ndarray) -> np.ndarray:
    return X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)


@oracle("cells", says="numpy argmax of cosines")
@pytest.mark.parametrize("spec", ["cells(30)", "normalize | cells(100)", "center | pca(8) | cells(90)"])
def test_a_cell_is_the_numpy_argmax_of_cosines(spec):
    X = clustered()
    model = fitted(spec, X)
    cells, valid = cell_model(model).assign(X)
    centroids = model.steps[-1].state["centroids"].astype(np.float64)
    cosines = unit(model.transform(X, stable=True)[0]) @ centroids.T
    assert valid.all()
    np.testing.assert_allclose(cosines[np.arange(len(X)), cells], cosines.max(axis=1), atol=1e-12)


def test_near_ties_go_to_the_same_cell_in_every_batch_and_thread():
    rng = np.random.default_rng(3)
    base = rng.standard_normal((40, 24)).astype(np.float32)
    model = fitted("cells(40)", base)
    centroids = model.steps[0].state["centroids"]
    pairs = rng.integers(0, 40, (3_000, 2))
    X = (centroids[pairs[:, 0]] + centroids[pairs[:, 1]]).astype(np.float32)
    X *= rng.choice([1e-3, 1.0, 1e3], (len(X), 1)).astype(np.float32)
    part = cell_model(model)
    whole = part.assign(X)[0]
    for size in (1, 7, 64, 1_000):
        starts = range(0, len(X), size)
        with ThreadPoolExecutor(3) as pool:
            parts = list(pool.map(lambda start, size=size: part.assign(X[start : start + size])[0], starts))
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(part.assign(np.ascontiguousarray(X[::-1]))[0][::-1], whole)


@pytest.mark.parametrize("scales", [[1e-3, 1.0, 1e3], [1e-25, 1.0, 1e25]], ids=["usual", "extreme"])
def test_cells_do_not_depend_on_what_the_processor_multiplies_fast(monkeypatch, scales):
    X = clustered(6_000, 96)
    step = fitted("cells(300)", X).steps[0]
    C = step.state["centroids"]
    X = np.concatenate([X, C[:150] + C[1:151], C[:150] + C[9:159]])
    X *= np.random.default_rng(4).choice(scales, (len(X), 1)).astype(np.float32)
    found = []
    for halves in (True, False):
        monkeypatch.setattr(cells, "bfloats_pay", lambda dim, halves=halves: halves)
        found.append(step.assign(X))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    cosines = unit(X) @ C.astype(np.float64).T
    np.testing.assert_allclose(cosines[np.arange(len(X)), found[0][0]], cosines.max(axis=1), atol=1e-12)


def test_an_exact_tie_goes_to_the_lower_cell():
    centroids = np.array([[0, 1], [1, 0], [0, -1]], np.float32)
    step = Cells(3).bind(2, {"centroids": centroids, "figures": np.array([0.0, 1.0])})
    assert step.assign(np.array([[1, 1], [1, -1], [-5, 0]], np.float32))[0].tolist() == [0, 1, 0]


def test_a_zero_vector_has_no_cell_and_a_zero_query_probes_none():
    X = anisotropic()
    X[4] = 0
    part = cell_model(fitted("cells(6)", X))
    assert np.flatnonzero(~part.assign(X)[1]).tolist() == [4]
    assert part.probe(X[3:5], 2)[1].tolist() == [True, False]


def test_probing_gives_the_nearest_cells_first():
    X = clustered()
    model = fitted("normalize | cells(50)", X)
    part = cell_model(model)
    cosines = unit(X[:20]) @ model.steps[1].state["centroids"].astype(np.float64).T
    probed, valid = part.probe(X[:20], 9)
    assert valid.all()
    np.testing.assert_array_equal(probed, np.argsort(-cosines, axis=1, kind="stable")[:, :9])
    np.testing.assert_array_equal(probed[:, 0], part.assign(X[:20])[0])
    assert part.probe(X[:2], 1_000)[0].shape == (2, 50)
    with pytest.raises(SpecError, match="nprobe is 0"):
        part.probe(X[:2], 0)


def test_cells_too_many_for_the_rows_stay_empty_and_are_never_probed():
    X = anisotropic(5)
    model = fitted("cells(64)", X)
    part = cell_model(model)
    assert part.step.used == 5
    assert sorted(part.assign(X)[0].tolist()) == [0, 1, 2, 3, 4]
    assert sorted(part.probe(X[:1], 64)[0][0].tolist()) == [0, 1, 2, 3, 4]


def test_rows_of_zeros_alone_give_a_model_without_a_cell():
    part = cell_model(fitted("cells(4)", np.zeros((9, 3), np.float32)))
    assert not part.assign(np.ones((2, 3), np.float32))[1].any()
    assert not part.probe(np.ones((2, 3), np.float32), 3)[1].any()


@pytest.mark.parametrize("count", [64, 65, 200, 400])
def test_every_cell_has_rows_and_none_is_huge(count):
    X = clustered(6_000, 12, 60)
    model = fitted(f"cells({count})", X)
    sizes = np.bincount(cell_model(model).assign(X)[0], minlength=count)
    assert (sizes > 0).mean() > 0.97
    assert sizes.max() < 8 * sizes.mean()
    step = model.steps[0]
    assert 0 < step.distance < 1
    assert 0.9 < step.imbalance < 3


def test_cells_with_numbers_beside_each_other_lie_near_each_other():
    model = fitted("cells(200)", clustered(6_000, 12, 60))
    centroids = model.steps[0].state["centroids"]
    beside = np.einsum("ij,ij->i", centroids[:-1], centroids[1:]).mean()
    assert beside > (centroids @ centroids.T).mean() + 0.3


def test_one_model_gives_cell_and_code_and_the_code_is_that_without_cells():
    X = clustered()
    both, alone = fitted("normalize | cells(20) | int8", X), fitted("normalize | int8", X)
    np.testing.assert_array_equal(both.encode(X)[0], alone.encode(X)[0])
    for metric in ("cosine", "ip", "l2"):
        scores = [model.score(model.prepare(X[:3], metric), model.encode(X)[0]) for model in (both, alone)]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
    again = Model.from_bytes(both.to_bytes())
    np.testing.assert_array_equal(cell_model(again).assign(X)[0], cell_model(both).assign(X)[0])


@pytest.mark.parametrize(("spec", "said"), [("normalize | int8", "no cells"), ("cells(3) | cells(4)", "several")])
def test_a_model_without_one_step_of_cells_is_refused(spec, said):
    with pytest.raises(CapabilityError, match=said):
        CellModel(fitted(spec, anisotropic()))


@pytest.mark.parametrize("value", [np.nan, 2.0, np.inf])
def test_centroids_of_another_length_are_refused(value):
    centroids = np.eye(3, dtype=np.float32)
    centroids[1, 1] = value
    with pytest.raises(ModelFormatError, match=r"neither 1 nor 0|NaN or infinity"):
        Cells(3).bind(3, {"centroids": centroids, "figures": np.array([0.0, 1.0])})
    holes = np.eye(3, dtype=np.float32)
    holes[1] = 0
    with pytest.raises(ModelFormatError, match="empty cell"):
        Cells(3).bind(3, {"centroids": holes, "figures": np.array([0.0, 1.0])})
