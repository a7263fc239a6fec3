"""The transform codec: its budget, its scores, its bit allocation, its recall beside plain scalar codes."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic, embeddings, oracle

from vecpipe.errors import ModelFormatError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.metrics.retrieval import nearest, recall_at, top_places
from vecpipe.model import Model
from vecpipe.operators.base import Codec
from vecpipe.operators.water_filling import group_axes, water_fill
from vecpipe.sketch import Sketch


def fit(X: np.ndarray, spec: str, queries: np.ndarray | None = None) -> Model:
    sketch = Sketch(X.shape[1])
    sketch.update(X)
    asked = None
    if queries is not None:
        asked = Sketch(X.shape[1])
        asked.update(queries)
    return fit_sketch(sketch, spec, asked)


def recall(model: Model, X: np.ndarray, Q: np.ndarray) -> float:
    codes, _ = model.encode(X)
    found = top_places(model.score(model.prepare(Q, "ip"), codes), 10)
    return recall_at(found, nearest(Q, X, 10), 10)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 12, 48, 96])
def test_codes_take_the_bytes_asked_for(size: int) -> None:
    X = embeddings(400)
    codes, valid = fit(X, f"transform_code({size})").encode(X)
    assert codes.shape == (400, size)
    assert valid is None


def test_more_bytes_find_more_and_beat_signs_and_scalars_of_the_same_size() -> None:
    X, Q = embeddings(3_000), embeddings(100, seed=1)
    recalls = [recall(fit(X, f"transform_code({size})"), X, Q) for size in (6, 12, 24, 48)]
    assert recalls == sorted(recalls)
    assert recalls[0] > recall(fit(X, "rotate | binary"), X, Q)
    assert recalls[2] > recall(fit(X, "int4"), X, Q)


@oracle("transform_code", says="scores equal inner products with the decoded vectors")
def test_scores_of_few_and_of_many_queries_are_products_with_the_decoded_vectors() -> None:
    X, Q = embeddings(500), embeddings(9, seed=1)
    model = fit(X, "transform_code(12)")
    codes, _ = model.encode(X)
    expected = Q @ model.decode(codes).T
    for count in (1, 3, 9):
        np.testing.assert_allclose(model.score(model.prepare(Q[:count], "ip"), codes), expected[:count], atol=2e-4)


def test_decoded_vectors_are_as_long_as_the_vectors() -> None:
    X = embeddings(2_000) * np.linspace(0.5, 2, 2_000, dtype=np.float32)[:, None]
    model = fit(X, "transform_code(10)")
    lengths = np.linalg.norm(model.decode(model.encode(X)[0]), axis=1)
    np.testing.assert_allclose(np.median(lengths / np.linalg.norm(X, axis=1)), 1, atol=1e-3)
    assert np.mean(np.abs(lengths / np.linalg.norm(X, axis=1) - 1) < 0.01) > 0.9


def test_after_queries_the_scale_makes_products_right_on_average() -> None:
    X = embeddings(2_000)
    model = fit(X, "transform_code(10)", embeddings(500, seed=1))
    mean = X.mean(axis=0)
    centred, decoded = X - mean, model.decode(model.encode(X)[0]) - mean
    assert abs((centred * decoded).sum() / (centred * centred).sum() - 1) < 0.05


def unit(X: np.ndarray) -> np.ndarray:
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def cosines(model: Model, Q: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return model.score(model.prepare(Q, "cosine"), codes)


@pytest.mark.parametrize("length", [1.0, 7.5])
def test_vectors_of_one_length_are_decoded_to_it_and_need_no_other_for_cosines(length: float) -> None:
    X, Q = unit(embeddings(2_000)) * np.float32(length), unit(embeddings(50, seed=1))
    model = Model.from_bytes(fit(X, "transform_code(12)").to_bytes())
    codes, _ = model.encode(X)
    assert isinstance(model.codec, Codec)
    squares = model.codec.cosine_squares(codes)
    assert np.mean(squares == model.codec.state["length"][0] ** 2) > 0.99
    np.testing.assert_allclose(np.sqrt(squares), np.linalg.norm(model.decode(codes), axis=1), rtol=2e-3)
    assert isinstance(model.codec.cosine_squares(codes[squares == np.median(squares)]), float)
    products = model.score(model.prepare(Q, "ip"), codes)
    np.testing.assert_allclose(cosines(model, Q, codes), products / np.sqrt(squares), atol=1e-4)
    np.testing.assert_allclose(cosines(model, Q, codes), Q @ unit(model.decode(codes)).T, atol=2e-3)


def test_rows_of_other_lengths_are_told_apart_and_score_alike() -> None:
    X, Q = unit(embeddings(2_000)), unit(embeddings(50, seed=1))
    model = fit(X, "transform_code(12)")
    for factor in (1.0, 1.002, 1.3, 5.0):
        factors = np.where(np.arange(200) % 3 == 0, factor, 1.0).astype(np.float32)[:, None]
        codes, _ = model.encode(X[:200] * factors)
        found = cosines(model, Q, codes)
        np.testing.assert_allclose(found, Q @ unit(model.decode(codes)).T, atol=2e-3)
        for count in (1, 2, 3, 199):  # a batch without such rows, and with some
            np.testing.assert_allclose(cosines(model, Q, codes[1 : 1 + count]), found[:, 1 : 1 + count], atol=1e-6)


def test_neighbours_that_lie_close_together_are_found() -> None:
    rng = np.random.default_rng(1)
    spectrum = 1 / np.sqrt(1 + np.arange(96))
    centres = rng.standard_normal((30, 96)) * spectrum
    at = rng.integers(0, 30, 3_100)
    X = unit(centres[at] + 0.15 * rng.standard_normal((3_100, 96)) * spectrum + 0.05).astype(np.float32)
    X, Q = X[:3_000], X[3_000:]
    model = fit(X, "transform_code(96)")
    codes, _ = model.encode(X)
    for metric in ("cosine", "ip", "l2"):
        found = top_places(model.score(model.prepare(Q, metric), codes), 10)
        assert recall_at(found, nearest(Q, X, 10), 10) > 0.93


def test_a_length_is_the_nearer_of_two_that_a_scale_can_give() -> None:
    X = np.arange(1, 8, dtype=np.float32)[:, None]
    model = fit(X, "transform_code(9)")
    np.testing.assert_allclose(model.decode(model.encode(X)[0]), X, atol=0.05)


def test_a_length_that_some_rows_lack_is_not_known() -> None:
    X = unit(embeddings(2_000))
    X[::50] *= 1.01
    model = fit(X, "transform_code(12)")
    codes, _ = model.encode(X)
    np.testing.assert_allclose(cosines(model, X[:9], codes), unit(X[:9]) @ unit(model.decode(codes)).T, atol=1e-3)


def test_queries_that_live_in_few_directions_get_the_bits_there() -> None:
    rng = np.random.default_rng(5)
    X = rng.standard_normal((4_000, 24)).astype(np.float32)
    Q = np.zeros((2_000, 24), np.float32)
    Q[:, :6] = rng.standard_normal((2_000, 6))
    seen, asked = Q[:1_000], Q[1_000:]
    blind = recall(fit(X, "transform_code(9)"), X, asked)
    assert recall(fit(X, "transform_code(9)", seen), X, asked) > blind + 0.05


def test_codes_are_those_of_each_row_alone() -> None:
    X = embeddings(300)
    model = fit(X, "transform_code(20)")
    whole, _ = model.encode(X)
    np.testing.assert_array_equal(whole, np.concatenate([model.encode(X[i : i + 1])[0] for i in range(300)]))


@pytest.mark.parametrize(
    "X",
    [
        np.ones((5, 4), np.float32),
        np.arange(7, dtype=np.float32)[:, None],
        np.repeat(embeddings(3, 6), 50, axis=0),
        embeddings(1, 6),
    ],
    ids=["constant", "d=1", "duplicates", "one row"],
)
def test_degenerate_rows_encode_and_decode(X: np.ndarray) -> None:
    model = Model.from_bytes(fit(X, "transform_code(9)").to_bytes())
    codes, valid = model.encode(X)
    live = X.any(axis=1)
    assert (valid is None) == bool(live.all())
    np.testing.assert_allclose(model.decode(codes)[live], X[live], atol=0.05 * np.abs(X).max())


def test_water_filling_spends_the_budget_and_no_axis_takes_more_than_a_byte() -> None:
    variances = np.arange(1, 65.0) ** -1.5
    bits = water_fill(variances, 96.0)
    assert bits.sum() == pytest.approx(96, abs=1e-6)
    assert (np.diff(bits) <= 1e-9).all()
    groups = group_axes(variances, 12)
    assert len(groups) == 12
    assert len({axis for group in groups for axis in group}) == sum(map(len, groups))


@pytest.mark.parametrize("name", ["step", "unit", "words", "sizes", "scales", "basis"])
def test_arrays_that_do_not_belong_together_are_refused(name: str) -> None:
    X = anisotropic()
    model = fit(X, "transform_code(9)")
    codec = model.codec
    assert isinstance(codec, Codec)
    state = dict(codec.state)
    array = state[name].copy()
    state[name] = array[..., :-1] if name in ("words", "basis", "unit") else -array if name != "scales" else array + 100
    with pytest.raises(ModelFormatError, match="transform_code"):
        codec.bind(X.shape[1], state)


@pytest.mark.parametrize("length", [-1.0, np.nan, np.inf, 1e300])
def test_lengths_that_no_fit_writes_are_refused(length: float) -> None:
    X = anisotropic()
    codec = fit(X, "transform_code(9)").codec
    assert isinstance(codec, Codec)
    with pytest.raises(ModelFormatError, match="transform_code"):
        codec.bind(X.shape[1], {**codec.state, "length": np.array([length])})
