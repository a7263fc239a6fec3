"""Squared lengths of codes, over every codec: those of the decoded vectors, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic
from test_every_operator import CODES, OWN_LENGTHS, fitted

from vecpipe.kernels import bfloat_squares, digit_sums, half_squares, row_products
from vecpipe.model import Model
from vecpipe.operators.norms import TOLERANCE, WordNorms
from vecpipe.spec import parse

WIDE = [
    "transform_code(24)",
    "transform_code(16)",
    "transform_code(90)",
    "osq(24)",
    "opq(12)",
    "rvq(3)",
    "rvq(5, bits=4)",
    "int8_outlier(sigma=1.5)",
    "lvq(3, residual=8)",
    "lvq(8, residual=8)",
    "rabitq(bits=8)",
    "eden(bits=5)",
    "bebr(bits=8)",
    "int4",
]


def squares_of_decoded(model: Model, codes: np.ndarray) -> np.ndarray:
    assert model.codec is not None
    return np.asarray((model.codec.decode(codes).astype(np.float64) ** 2).sum(axis=1))


def assert_norms(model: Model, codes: np.ndarray, rtol: float = 1e-5, atol: float = 0.0) -> None:
    assert model.codec is not None
    found = model.codec.squared_norms(codes)
    assert found.dtype == np.float32
    assert found.shape == (len(codes),)
    np.testing.assert_allclose(found, squares_of_decoded(model, codes), rtol=rtol, atol=atol)


def data(kind: str, dim: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    X = anisotropic(400, dim)
    if dim > 12:  # directions of all sizes, as many as dimensions
        mix = rng.standard_normal((dim, dim)) * (np.arange(1, dim + 1) ** -0.5)[:, None]
        X = (rng.standard_normal((400, dim)) @ mix + 0.5 * rng.standard_normal(dim)).astype(np.float32)
    if kind == "skewed":
        X = X * np.exp(2 * rng.standard_normal((len(X), 1))) + 3
    if kind == "huge":
        X = X * np.float32(1e3)
    if kind == "tiny":
        X = X * np.float32(1e-12)
    if kind == "nearly zero":
        X[::7] *= np.float32(1e-6)
    return np.ascontiguousarray(X, dtype=np.float32)


PLAIN = [spec for spec in CODES if parse(spec)[-1].name not in OWN_LENGTHS]


@pytest.mark.parametrize("kind", ["skewed", "tiny", "nearly zero"])
@pytest.mark.parametrize("spec", PLAIN)
def test_norms_are_those_of_the_decoded_vectors(spec, kind):
    X = data(kind, 12)
    model = fitted(spec, X)
    assert model.codec is not None
    codes, _ = model.encode(X)
    largest = squares_of_decoded(model, codes).max()
    # Sums of numbers with signs lose, near zero, what float32 cannot hold of the large ones.
    assert_norms(model, codes, atol=2e-6 * largest)


@pytest.mark.parametrize("kind", ["random", "skewed", "huge", "nearly zero"])
@pytest.mark.parametrize("spec", [spec for spec in WIDE if parse(spec)[-1].name not in OWN_LENGTHS])
def test_norms_of_wider_vectors_and_of_random_codes(spec, kind):
    X = data(kind, 96)
    model = fitted(spec, X)
    codes, _ = model.encode(X)
    rtol = 4e-3 if spec.startswith("transform_code") else 1e-4 if spec.startswith("lvq") else 1e-5
    largest = squares_of_decoded(model, codes).max()
    assert_norms(model, codes, rtol, 2e-6 * largest)
    if not spec.startswith(("lvq", "int8_outlier")):  # those hold floats, which random bytes make anything
        drawn = np.random.default_rng(0).integers(0, 256, codes.shape, dtype=np.uint8)
        assert_norms(model, drawn, rtol, 2e-6 * squares_of_decoded(model, drawn).max())


@pytest.mark.parametrize("spec", ["rabitq", "rabitq(bits=3)", "rabitq(bits=8)", "eden(bits=1)", "eden(bits=5)"])
def test_norms_that_codes_know_are_those_of_the_rows(spec):
    X = data("random", 96)
    model = fitted(spec, X)
    assert model.codec is not None
    codes, _ = model.encode(X)
    # Decoded vectors are longer than the rows by one over the cosine, which the last two bytes hold.
    cosines = codes[:, -2:].copy().view("<u2")[:, 0] / 65535
    expected = squares_of_decoded(model, codes) * cosines**2
    np.testing.assert_allclose(model.codec.squared_norms(codes), expected, rtol=1e-5)
    np.testing.assert_allclose(expected, (X.astype(np.float64) ** 2).sum(axis=1), rtol=1e-3)


@pytest.mark.parametrize("spec", [*CODES, *WIDE])
def test_norms_depend_neither_on_the_batch_nor_on_the_order_of_rows(spec):
    X = data("random", 96 if spec in WIDE else 12)
    model = fitted(spec, X)
    assert model.codec is not None
    codes, _ = model.encode(X)
    whole = model.codec.squared_norms(codes)
    parts = np.concatenate([model.codec.squared_norms(codes[start : start + 37]) for start in range(0, len(codes), 37)])
    np.testing.assert_allclose(parts, whole, rtol=2e-6)
    order = np.random.default_rng(0).permutation(len(codes))
    np.testing.assert_allclose(model.codec.squared_norms(codes[order]), whole[order], rtol=2e-6)
    np.testing.assert_allclose(model.codec.squared_norms(np.asfortranarray(codes)), whole, rtol=2e-6)
    assert model.codec.squared_norms(codes[:0]).shape == (0,)


def test_words_of_many_stages_are_added_up(monkeypatch):
    X = data("random", 96)
    model = fitted("rvq(3)", X)
    codes, _ = model.encode(X)
    monkeypatch.setattr("vecpipe.operators.residual._MOST_PAIRED", 2)
    assert_norms(model, codes)


# transform_code -------------------------------------------------------------------------------------------------------


def tables_of(model: Model) -> WordNorms | None:
    state = model.codec.state
    return WordNorms.build(state["words"], state["sizes"].astype(np.int64), state["backward"], state["mean"])


@pytest.mark.parametrize("spec", ["transform_code(16)", "transform_code(24)", "transform_code(90)"])
@pytest.mark.parametrize("kind", ["random", "skewed", "huge", "tiny"])
def test_tables_of_words_leave_out_what_they_say(spec, kind):
    model = fitted(spec, data(kind, 96))
    tables = tables_of(model)
    assert tables is not None
    assert tables.error <= TOLERANCE
    state = model.codec.state
    words = np.random.default_rng(1).integers(0, 256, (3_000, len(state["sizes"])), dtype=np.uint8)
    ends = np.cumsum(state["sizes"])
    byte = np.repeat(np.arange(len(ends)), state["sizes"])
    near = state["words"][words[:, byte], np.arange(len(byte))].astype(np.float64)
    expected = ((near @ state["backward"].astype(np.float64) + state["mean"]) ** 2).sum(axis=1)
    found, unsure = tables.squared_norms(words, None)
    assert unsure.mean() < 0.2
    missed = np.sqrt(np.mean((found - expected) ** 2)) / expected.mean()
    assert missed < 1.5 * tables.error + 1e-7


def test_tables_of_words_count_many_bytes_and_one_exactly():
    rng = np.random.default_rng(2)
    for count in (1, 2, 300, 500):
        words = rng.integers(-30_000, 30_000, (256, count)).astype(np.int16)
        backward = np.eye(count, 4_096, dtype=np.float32)
        tables = WordNorms.build(words, np.ones(count, np.int64), backward, np.zeros(4_096, np.float32))
        assert tables is not None
        codes = rng.integers(0, 256, (50, count), dtype=np.uint8)
        expected = (words[codes, np.arange(count)].astype(np.float64) ** 2).sum(axis=1)
        np.testing.assert_allclose(tables.squared_norms(codes, None)[0], expected, rtol=1e-3 if count > 300 else 1e-5)


def test_axes_far_from_right_angles_are_decoded():
    X = data("random", 96)
    model = fitted("transform_code(24)", X)
    codec, state = model.codec, dict(model.codec.state)
    state["backward"] = np.random.default_rng(3).standard_normal(state["backward"].shape).astype(np.float32)
    strange = codec.bind(96, state)
    assert WordNorms.build(state["words"], state["sizes"].astype(np.int64), state["backward"], state["mean"]) is None
    codes, _ = model.encode(X)
    expected = (strange.decode(codes).astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(strange.squared_norms(codes), expected, rtol=1e-5)


@pytest.mark.parametrize(("spec", "name"), [("opq(12)", "rotation"), ("osq(24)", "axes")])
def test_axes_of_a_stranger_that_stretch_are_decoded(spec, name):
    X = data("random", 96)
    model = fitted(spec, X)
    state = dict(model.codec.state)
    state[name] = (state[name] * np.linspace(0.5, 2.0, state[name].shape[1])).astype(np.float32)
    strange = model.codec.bind(96, state)
    codes, _ = model.encode(X)
    expected = (strange.decode(codes).astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(strange.squared_norms(codes), expected, rtol=1e-5)


@pytest.mark.parametrize("spec", ["transform_code(24)", "center | transform_code(24)", "center | int8", "rvq(3)"])
def test_cosines_of_uncentred_vectors_are_those_of_the_decoded_ones(spec):
    X = data("random", 96)
    X += 3 * X[:1]
    model = fitted(spec, X)
    codes, _ = model.encode(X)
    V = model.codec.decode(codes)
    for step in reversed(model.steps[:-1]):
        V = step.invert(V)
    V, Q = V.astype(np.float64), X[:5].astype(np.float64)
    expected = (Q @ V.T) / np.outer(np.linalg.norm(Q, axis=1), np.linalg.norm(V, axis=1))
    np.testing.assert_allclose(model.score(model.prepare(X[:5]), codes), expected, atol=1e-3)


# Kernels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3, 31, 64, 385, 40_000])
def test_whole_number_sums_of_rows_are_exact(dim):
    rng = np.random.default_rng(dim)
    A, B = rng.integers(-128, 128, (2, 9, dim + 5)).astype(np.int8)
    A[0] = B[0] = -128
    for a, b in ((A, B), (A[:, :dim], B[:, 5:]), (A[:0], B[:0])):
        assert (row_products(a, b) == (a.astype(np.int64) * b).sum(axis=1)).all()
        assert (digit_sums(a) == a.sum(axis=1, dtype=np.int64)).all()


def test_squares_of_halves_hold_from_the_least_to_the_largest():
    H = np.random.default_rng(0).standard_normal((6, 77)).astype(np.float16)
    H[0], H[1], H[2] = 65504, 6e-8, 0
    np.testing.assert_allclose(half_squares(H), (H.astype(np.float64) ** 2).sum(axis=1), rtol=1e-6)
    X = np.random.default_rng(1).standard_normal((6, 77)).astype(np.float32)
    X[0], X[1], X[2] = 1e18, 1e-14, 0
    model = fitted("bfloat16", X)
    codes, _ = model.encode(X)
    assert_norms(model, codes)
    tiny, _ = model.encode(np.full((1, 77), 1e-18, np.float32))
    assert_norms(model, tiny)
    assert half_squares(H[:0]).shape == bfloat_squares(np.zeros((0, 3), np.uint16)).shape == (0,)
