"""Codecs against their formulae, their bounds and the libraries that define them alike."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic, oracle
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from test_oracles import fitted

from vecpipe.errors import InputError, ModelFormatError, SpecError
from vecpipe.model import Model
from vecpipe.operators import operator_named
from vecpipe.operators.kmeans import gaussian_distortion, gaussian_levels, kmeans
from vecpipe.operators.lut import ByteTables, look_up
from vecpipe.operators.packing import pack, packed_bytes, unpack, unpack_as

X = anisotropic(800, 12)


def decoded(spec: str, rows: np.ndarray = X) -> np.ndarray:
    model = fitted(spec, rows)
    return model.codec.decode(model.encode(rows)[0]).astype(np.float64)


# Packing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 5, 12, 64])
def test_packed_fields_come_back_and_take_no_more_bytes_than_said(bits, count):
    fields = np.random.default_rng(bits).integers(0, 2**bits, (50, count)).astype(np.uint8)
    codes = pack(fields, bits)
    assert codes.shape == (50, packed_bytes(count, bits))
    assert packed_bytes(64, bits) == 8 * bits
    np.testing.assert_array_equal(unpack(codes, count, bits), fields)
    for values in (np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)), np.random.default_rng(1).permutation(2**bits) - 128):
        signed = values.astype(np.int8)
        np.testing.assert_array_equal(unpack_as(signed, codes, count, bits), signed[fields])


def test_one_bit_fields_are_packed_as_numpy_packs_them():
    fields = np.random.default_rng(0).integers(0, 2, (20, 13)).astype(np.uint8)
    np.testing.assert_array_equal(pack(fields, 1), np.packbits(fields, axis=1))


@pytest.mark.parametrize("sizes", [[1, 1, 2], [3, 3, 5], [17, 2, 40], [8]])
@pytest.mark.parametrize("kind", [np.float32, np.int16, np.int8])
def test_byte_tables_gather_words_and_look_up_their_products(sizes, kind):
    rng = np.random.default_rng(0)
    words = (rng.standard_normal((256, sum(sizes))) * 20).astype(kind)
    codes = rng.integers(0, 256, (300, len(sizes))).astype(np.uint8)
    tables = ByteTables(words, sizes)
    ends = np.cumsum([0, *sizes])
    expected = np.concatenate([words[codes[:, b], ends[b] : ends[b + 1]] for b in range(len(sizes))], axis=1)
    np.testing.assert_array_equal(tables.gather(codes)[:, tables.columns], expected)
    Q = rng.standard_normal((3, sum(sizes))).astype(np.float32)
    np.testing.assert_allclose(
        look_up(tables.tables(Q), codes), Q @ expected.astype(np.float32).T, rtol=1e-3, atol=1e-2
    )


# Plain numbers ----------------------------------------------------------------------------------------------------


@oracle("bfloat16", says="error of at most half a step of the upper 16 bits of a float32")
def test_bfloat16_rounds_the_bits_of_a_float32_to_nearest_even():
    values = np.concatenate([X.ravel(), [0.0, -0.0, 1e-40, 3.4e38, -3.4e38, 1.00390625, 1.01171875]]).astype(np.float32)
    model = fitted("bfloat16", np.ones((1, len(values)), np.float32))
    found = model.decode(model.encode(values[None].repeat(2, axis=0))[0])[0].astype(np.float64)
    exact = values.astype(np.float64)
    floor = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    step = np.maximum(np.abs(floor), 2.0**-126) * 2.0**-7
    inside = np.abs(exact) < 3.38e38
    assert (np.abs(found - exact)[inside] <= step[inside] / 2 + 1e-45).all()
    assert np.isfinite(found).all()
    assert found[-2:].tolist() == [1.0, 1.015625]


@oracle("int4", says="numpy.clip(numpy.rint(...))")
def test_int4_is_rounding_to_sixteen_levels_of_the_quantile_range():
    model = fitted("int4(quantile=1)", X)
    low, high = X.min(axis=0), X.max(axis=0)
    step = (high - low).astype(np.float64) / 15
    levels = np.clip(np.rint((X - low) / step), 0, 15)
    np.testing.assert_allclose(model.codec.decode(model.encode(X)[0]), low + levels * step, atol=1e-5)
    assert (np.abs(decoded("int4(quantile=1)") - X) <= step / 2 + 1e-6).all()


@oracle("int4")
def test_a_narrower_range_has_a_smaller_step_and_clips():
    wide, narrow = fitted("int4(quantile=1)", X), fitted("int4(quantile=0.9)", X)
    assert (narrow.codec.state["step"] < wide.codec.state["step"]).all()
    assert narrow.codec.decode(narrow.encode(X * 100)[0]).max() <= X.max()


@oracle("lvq", says="the bounds s/2 and s / 2(2^R - 1) of the paper")
@pytest.mark.parametrize("bits", [1, 3, 4, 8])
@pytest.mark.parametrize("residual", [0, 1, 4, 8])
def test_lvq_keeps_the_bound_of_the_paper_with_the_stored_numbers(bits, residual):
    rows = np.concatenate([X, 1e-3 * X, X[:1] * 0, np.full((1, 12), 0.3, np.float32), 1000 * X[:5]])
    model = fitted(f"lvq({bits}, residual={residual})", rows)
    codes, _ = model.encode(rows)
    assert codes.shape[1] == 4 + packed_bytes(12, bits) + packed_bytes(12, residual)
    step = codes[:, 2:4].copy().view("<f2").astype(np.float64)
    bound = step / 2 if residual == 0 else step / (2 * (2**residual - 1))
    error = np.abs(model.codec.decode(codes).astype(np.float64) - rows)
    assert (error <= bound + 1e-6 * np.abs(rows).max(axis=1, keepdims=True)).all()
    spread = (rows.max(axis=1) - rows.min(axis=1)).astype(np.float64)
    assert (step[:, 0] <= spread / (2**bits - 1) * 1.01 + 4e-3 * np.abs(rows).max(axis=1) + 1e-7).all()


@oracle("lvq")
def test_a_two_level_code_begins_with_the_code_of_its_first_level():
    one, two = fitted("lvq(4)", X), fitted("lvq(4, residual=8)", X)
    np.testing.assert_array_equal(two.encode(X)[0][:, : one.bytes_per_vector], one.encode(X)[0])


def test_lvq_refuses_what_a_half_float_cannot_hold():
    with pytest.raises(InputError, match="65504"):
        fitted("lvq(4)", X).encode(X * 1e6)


@oracle("bebr", says="the recurrence in float64")
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_recurrent_sign_bits_are_a_uniform_quantiser_without_a_level_at_zero(bits):
    model = fitted(f"bebr(bits={bits})", X)
    scaled = X.astype(np.float64) / model.codec.state["scale"][0]
    value = np.where(scaled >= 0, 1.0, -1.0)
    for i in range(1, bits):
        value += 2.0**-i * np.where(scaled - value >= 0, 1.0, -1.0)
    found = model.codec.decode(model.encode(X)[0]) / model.codec.state["scale"][0]
    np.testing.assert_allclose(found, value, atol=1e-5)


@oracle("int8_outlier", says="without outliers the bytes of int8(scale=vector)")
def test_without_outliers_the_codes_are_those_of_int8_with_a_scale_a_vector():
    np.testing.assert_array_equal(
        fitted("int8_outlier(sigma=1000)", X).encode(X)[0], fitted("int8(scale=vector)", X).encode(X)[0]
    )


@oracle("int8_outlier", says="error of at most max|x| / 254 outside the outliers")
def test_an_outlier_dimension_does_not_coarsen_the_others():
    rows = X.copy()
    rows[:, 3] = 40 + X[:, 3]
    model = fitted("int8_outlier", rows)
    assert model.bytes_per_vector == 12 + 4 + 1
    error = np.abs(model.codec.decode(model.encode(rows)[0]) - rows)
    others = np.delete(np.arange(12), 3)
    assert (error[:, others] <= np.abs(rows[:, others]).max(axis=1, keepdims=True) / 254 * 1.001).all()
    assert (error[:, 3] <= 40 * 2.0**-10).all()


# Rotated grids ----------------------------------------------------------------------------------------------------


@oracle("rabitq", "eden", says="unbiased over seeds")
@pytest.mark.parametrize("spec", ["rabitq(bits=1", "rabitq(bits=4", "eden(bits=1", "eden(bits=3"])
def test_scores_are_unbiased_over_rotations(spec):
    rows, Q = anisotropic(6, 64, seed=3), anisotropic(2, 64, seed=4)
    true = Q.astype(np.float64) @ rows.T
    estimates = []
    for seed in range(120):
        model = fitted(f"{spec}, seed={seed})", rows)
        estimates.append(model.score(model.prepare(Q, "ip"), model.encode(rows)[0]))
    deviation = np.std(estimates, axis=0) / np.sqrt(len(estimates))
    assert (np.abs(np.mean(estimates, axis=0) - true) <= 4.5 * deviation + 1e-4 * np.abs(true).max()).all()


@oracle("eden")
@oracle("rabitq", says="the error bound of the paper")
@pytest.mark.parametrize("spec", ["rabitq", "rabitq(bits=3)", "rabitq(bits=8)", "eden(bits=2)", "eden(bits=5)"])
def test_errors_keep_the_stated_bound_and_lengths_are_known(spec):
    rows, Q = anisotropic(400, 128, seed=1), anisotropic(20, 128, seed=2)
    model = fitted(spec, rows)
    codes, _ = model.encode(rows)
    ready = model.prepare(Q, "ip")
    error = np.abs(model.score(ready, codes) - Q.astype(np.float64) @ rows.T)
    assert (error <= model.codec.error_bound(ready.prepared, codes)).mean() > 0.93
    assert (error <= model.codec.error_bound(ready.prepared, codes, 5.0) + 1e-3).all()
    np.testing.assert_allclose(model.codec.squared_norms(codes), (rows.astype(np.float64) ** 2).sum(1), rtol=2e-3)
    own = np.einsum("ij,ij->i", model.codec.decode(codes), rows)
    np.testing.assert_allclose(own, (rows**2).sum(1), rtol=1e-3)


@oracle("rabitq")
def test_the_scale_found_for_each_vector_is_as_good_as_a_search_over_all_scales():
    rows = anisotropic(100, 64, seed=5)
    model = fitted("rabitq(bits=3)", rows)
    _, cosine = model.codec._tail(model.encode(rows)[0])
    turned = rows @ model.codec._matrix
    best = np.zeros(len(rows))
    for scale in np.linspace(0.5, 60, 2000):
        grid = np.clip(np.floor(turned / np.linalg.norm(turned, axis=1, keepdims=True) * scale), -4, 3) + 0.5
        best = np.maximum(best, (grid * turned).sum(1) / np.linalg.norm(grid, axis=1) / np.linalg.norm(turned, axis=1))
    assert (cosine >= best - 0.006).all()
    assert np.mean(best - cosine) < 0.001


@oracle("eden", says="the distortion of Lloyd-Max")
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
def test_eden_loses_what_lloyd_max_loses_on_a_gaussian(bits):
    rows = anisotropic(300, 256, seed=6)
    model = fitted(f"eden(bits={bits})", rows)
    _, cosine = model.codec._tail(model.encode(rows)[0])
    assert abs((1 - cosine.astype(np.float64) ** 2).mean() / gaussian_distortion(bits) - 1) < 0.06


def test_the_lloyd_max_levels_are_those_of_the_tables():
    np.testing.assert_allclose(gaussian_levels(1), [-0.7979, 0.7979], atol=1e-3)
    np.testing.assert_allclose(gaussian_levels(2), [-1.510, -0.4528, 0.4528, 1.510], atol=2e-3)
    np.testing.assert_allclose(
        [gaussian_distortion(b) for b in (1, 2, 3, 4)], [0.3634, 0.1175, 0.03454, 0.009497], rtol=1e-3
    )


# Codebooks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [6, 80])
def test_kmeans_is_about_as_good_as_that_of_sklearn(dim):
    points = anisotropic(3000, dim, seed=2)
    words = kmeans(points, np.ones(len(points)), 32, seed=0)
    loss = cdist(points, words, "sqeuclidean").min(axis=1).sum()
    theirs = KMeans(32, n_init=1, random_state=0).fit(points).inertia_
    assert loss < 1.05 * theirs


def test_kmeans_weights_are_copies_of_points_and_few_points_are_their_own_words():
    points = anisotropic(40, 3)
    words = kmeans(points, np.ones(40), 64)
    assert ((points[:, None] - words[None]) ** 2).sum(-1).min(1).max() < 1e-10
    heavy = np.where(np.arange(40) == 7, 1e9, 1.0)
    assert (((kmeans(points, heavy, 4) - points[7]) ** 2).sum(1).min()) < 1e-6


@pytest.mark.parametrize("dim", [3, 40])
def test_kmeans_of_nearly_as_many_words_as_points_wastes_none_of_them(dim, monkeypatch):
    monkeypatch.setattr("vecpipe.operators.kmeans._WIDE_ROWS", 100)
    points = anisotropic(900, dim)
    words = kmeans(points, np.ones(900), 600)
    assert len(np.unique(cdist(points, words).argmin(axis=1))) == 600


@oracle("pq", says="numpy argmin over the centroids")
@pytest.mark.parametrize("spec", ["pq(4)", "pq(5)", "pq(5, bits=4)", "pq(3, bits=4)"])
def test_pq_codes_name_the_nearest_centroid_of_each_piece(spec):
    model = fitted(spec, X)
    words, near = model.codec.state["words"].astype(np.float64), model.codec.decode(model.encode(X)[0])
    for piece in model.codec._pieces(12):
        distances = ((X[:, None, piece] - words[None, :, piece]) ** 2).sum(-1)
        np.testing.assert_allclose(((near[:, piece] - X[:, piece]) ** 2).sum(1), distances.min(1), atol=1e-4)


@oracle("opq", says="the rotation times its transpose is the identity")
def test_opq_rotates_and_loses_less_than_pq():
    rows = anisotropic(1500, 16, seed=8)
    model = fitted("opq(4, bits=4)", rows)
    rotation = model.codec.state["rotation"].astype(np.float64)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-5)
    lost = {spec: ((decoded(spec, rows) - rows) ** 2).sum() for spec in ("pq(4, bits=4)", "opq(4, bits=4)")}
    assert lost["opq(4, bits=4)"] < 0.7 * lost["pq(4, bits=4)"]


@oracle("rvq", says="each stage lowers the error")
@oracle("rvq", says="numpy argmin over all sums of centroids")
def test_each_stage_of_rvq_lowers_the_error_and_codes_are_nearly_the_best_there_are():
    losses = [((decoded(f"rvq({m}, bits=4)") - X) ** 2).sum() for m in (1, 2, 3, 4)]
    assert (np.diff(losses) < 0).all()
    model = fitted("rvq(2, bits=4)", X)
    words = model.codec.state["words"].astype(np.float64)
    sums = (words[0][:, None] + words[1][None]).reshape(-1, 12)
    least = ((X[:, None] - sums[None]) ** 2).sum(-1).min(1)
    found = ((model.codec.decode(model.encode(X)[0]) - X) ** 2).sum(1)
    assert (found <= least + 1e-4).mean() > 0.85


@pytest.mark.parametrize("spec", ["pq(4, bits=5)", "pq(13)", "opq(13)", "lvq(9)", "rabitq(bits=9)", "eden(bits=6)"])
def test_what_a_codec_cannot_do_is_a_spec_error(spec):
    with pytest.raises(SpecError):
        fitted(spec, X)


# Bytes from a stranger ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["lvq(4)", "lvq(4, residual=4)", "rabitq(bits=3)", "eden", "int8_outlier", "pq(5, bits=4)"]
)
def test_any_bytes_decode_to_finite_vectors_and_score_as_decoded(spec):
    model = fitted(spec, X)
    codes = np.random.default_rng(0).integers(0, 256, (200, model.bytes_per_vector)).astype(np.uint8)
    vectors = model.codec.decode(codes)
    small = np.isfinite(vectors).all(axis=1) & (np.abs(vectors).max(axis=1) < 1e6)
    assert small.any()
    scores = model.score(model.prepare(X[:6], "ip"), codes[small])
    expected = X[:6].astype(np.float64) @ vectors[small].T
    assert (np.abs(scores - expected) <= 1e-3 * (1 + np.abs(vectors[small]).sum(1))).all()


@pytest.mark.parametrize(
    ("name", "given", "array", "value"),
    [
        ("bebr", {}, "scale", 0.0),
        ("int4", {}, "step", -1.0),
        ("rabitq", {}, "signs", 3),
        ("eden", {}, "signs", 0),
        ("int8_outlier", {}, "outlier", 1),
        ("pq", {"m": 3}, "words", np.nan),
    ],
)
def test_hostile_states_are_refused(name, given, array, value):
    step = operator_named(name)(**given)
    state = dict(step.fit(_data()))
    state[array] = np.full_like(state[array], value)
    with pytest.raises(ModelFormatError):
        step.bind(12, state)


def _data():
    from vecpipe.operators.fit_data import FitData

    return FitData(12, len(X), lambda: (X, np.ones(len(X))), None)


def test_models_of_codecs_survive_saving_with_their_codes():
    for spec in ("opq(4)", "rvq(2)", "rabitq(bits=4)", "int8_outlier(sigma=1.5)"):
        model = fitted(spec, X)
        again = Model.from_bytes(model.to_bytes())
        np.testing.assert_array_equal(again.encode(X)[0], model.encode(X)[0])
