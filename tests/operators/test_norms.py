"""Squared lengths of codes, over every codec: those of the decoded vectors, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic
from test_every_operator import CODES, OWN_LENGTHS, fitted

from vecpipe.errors import FitError, InputError
from vecpipe.kernels import bfloat_squares, digit_products, digit_sums, half_squares
from vecpipe.operators.norms import TOLERANCE, WordNorms
from vecpipe.pipeline import Model
from vecpipe.spec import parse

WIDE = [
    "transform_code(24)",
    "transform_code(7)",
    "transform_code(90)",
    "osq(24)",
    "opq(12)",
    "rvq(3)",
    "rvq(13)",
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
    X = anisotropic(400, dim)
    rng = np.random.default_rng(5)
    if kind == "skewed":
        X = X * np.exp(2 * rng.standard_normal((len(X), 1))) + 3
    if kind == "huge":
        X = X * np.float32(1e3)
    if kind == "tiny":
        X = X * np.float32(1e-12)
    if kind == "nearly zero":
        X[::7] *= np.float32(1e-6)
    return np.ascontiguousarray(X, dtype=np.float32)


KINDS = ["random", "skewed", "huge", "tiny", "nearly zero"]
PLAIN = [spec for spec in CODES if parse(spec)[-1].name not in OWN_LENGTHS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", PLAIN)
def test_norms_are_those_of_the_decoded_vectors(spec, kind):
    X = data(kind, 12)
    model = fitted(spec, X)
    assert model.codec is not None
    codes, _ = model.encode(X)
    largest = squares_of_decoded(model, codes).max()
    # Sums of numbers with signs lose, near zero, what float32 cannot hold of the large ones.
    assert_norms(model, codes, atol=2e-6 * largest)


@pytest.mark.parametrize("kind", KINDS)
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
