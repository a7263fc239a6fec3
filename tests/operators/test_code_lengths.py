"""Lengths of what codes stand for: zero and short vectors, vectors off the origin, and of any size."""

from __future__ import annotations

import numpy as np
import pytest
from test_every_operator import fitted

from vecpipe.arrays import Float32, Float64
from vecpipe.scoring import Metric

CODECS = [
    "float16",
    "bfloat16",
    "int8",
    "int8(scale=vector)",
    "int8_outlier",
    "int4",
    "lvq(4)",
    "lvq(4, residual=4)",
    "bebr(bits=4)",
    "rabitq",
    "rabitq(bits=4)",
    "eden",
    "pq(6)",
    "opq(6)",
    "rvq(6)",
    "osq(12)",
    "transform_code(12)",
]
RNG = np.random.default_rng(9)
MIDDLE = 0.1 * RNG.standard_normal(64)
X = (0.1 * RNG.standard_normal((500, 64)) + MIDDLE).astype(np.float32)
X[7] = 0
X[10:30] *= np.float32(0.05)
Q = X[100:300]


def cosines(Q: Float32, X: Float32) -> Float64:
    q, x = Q.astype(np.float64), X.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (q / np.linalg.norm(q, axis=1)[:, None]) @ (x / np.linalg.norm(x, axis=1)[:, None]).T


@pytest.mark.parametrize("before", ["", "center | ", "center | rotate | ", "pca(40) | "])
@pytest.mark.parametrize("codec", CODECS)
def test_a_zero_vector_has_no_cosine_and_others_have_one_within_bounds(before: str, codec: str) -> None:
    model = fitted(before + codec, X)
    codes, valid = model.encode(X)
    scores = model.score(model.prepare(Q), codes)
    pairs = model.score_codes(codes, np.roll(codes, 1, axis=0))
    if valid is None:
        assert np.isnan(scores[:, 7]).all()
        assert np.isnan(pairs[[7, 8]]).all()
    else:
        assert np.flatnonzero(~valid).tolist() == [7]
    long = scores[:, 30:]
    assert np.isfinite(long).all()
    assert np.abs(long).max() <= (1.0 if "|" in before else 1.1)  # unbiased estimates may be above 1
    assert np.isfinite(pairs[31:]).all()


@pytest.mark.parametrize("codec", ["rabitq", "rabitq(bits=4)", "eden", "eden(bits=1)"])
def test_short_vectors_do_not_rank_first_because_their_length_is_unsure(codec: str) -> None:
    model = fitted("center | " + codec, X)
    scores = model.score(model.prepare(Q), model.encode(X)[0])
    first = np.nanargmax(scores, axis=1)
    assert np.isin(first, np.arange(30)).sum() <= 1
    # And those whose length is known are estimated as before: without bias, or nearly so.
    exact = cosines(Q, X)[:, 30:]
    assert 0.93 < (scores[:, 30:] * exact).sum() / (exact * exact).sum() < 1.05


@pytest.mark.parametrize("codec", ["float16", "int8", "lvq(8)", "rvq(6)"])
def test_lengths_near_the_origin_are_those_of_decoded_vectors(codec: str) -> None:
    rows = X.copy()
    rows[10:30] *= np.float32(0.02) / np.linalg.norm(rows[10:30], axis=1)[:, None]
    model = fitted("center | " + codec, rows)
    codes, _ = model.encode(rows)
    assert model.coding is not None
    want = (model.decode(codes).astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(model.coding.squared_norms(codes), want, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("power", [60, -48])
@pytest.mark.parametrize(
    "spec",
    [
        "int8",
        "int8(scale=vector)",
        "int4",
        "bfloat16",
        "int8_outlier",
        "rabitq",
        "rabitq(bits=4)",
        "eden",
        "bebr(bits=4)",
        "osq(12)",
        "center | int8",
        "center | rabitq(bits=4)",
        "pca(20) | int8",
    ],
)
def test_scores_of_codes_do_not_depend_on_the_unit_of_length(spec: str, power: int, metric: Metric) -> None:
    if metric == "ip" and power > 0:
        power = 40  # products of larger vectors are beyond float32 themselves
    if metric == "ip" and power < 0:
        power = -40
    unit = np.float32(2.0**power)
    plain, scaled = fitted(spec, X[30:]), fitted(spec, X[30:] * unit)
    one, other = plain.encode(X[30:])[0], scaled.encode(X[30:] * unit)[0]
    want = plain.score(plain.prepare(Q, metric), one)
    found = scaled.score(scaled.prepare(Q * unit, metric), other)
    gain = {"cosine": 1.0, "l2": 2.0**power, "ip": 4.0**power}[metric]
    size = np.abs(want).max()
    np.testing.assert_allclose(found / gain, want, atol=2e-3 * size)
    pairs = scaled.score_codes(other, np.roll(other, 1, axis=0), metric) / gain
    np.testing.assert_allclose(pairs, plain.score_codes(one, np.roll(one, 1, axis=0), metric), atol=2e-3 * size)


@pytest.mark.parametrize("spec", ["center | int8", "center | rotate | int8", "center | pq(8)", "pca(20) | int8"])
def test_distances_from_codes_hold_off_the_origin(spec: str) -> None:
    far = (X * 10 + 1000).astype(np.float32)
    model = fitted(spec, far)
    codes, _ = model.encode(far)
    queries = far[100:110]
    assert model.codec is not None
    assert model.coding is not None
    near = model.codec.decode(codes).astype(np.float64)
    moved = queries.astype(np.float64) - far.mean(axis=0, dtype=np.float64)
    placed = model.coding.place(queries).astype(np.float64)
    squares = ((placed[:, None] - near) ** 2).sum(axis=2)
    squares += np.maximum((moved**2).sum(axis=1) - (placed**2).sum(axis=1), 0)[:, None] if "pca" in spec else 0.0
    found = model.score(model.prepare(queries, "l2"), codes)
    np.testing.assert_allclose(found.astype(np.float64) ** 2, squares, atol=1e-4 * squares.max())
