"""Operators against scikit-learn, SciPy, NumPy and the definitions that other libraries use."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic, oracle
from scipy.fft import dct
from scipy.linalg import hadamard
from scipy.spatial.distance import pdist
from scipy.stats import zscore
from sklearn.covariance import LedoitWolf, ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler, normalize

from vecpipe.errors import SpecError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.sketch import Sketch


def fitted(spec: str, X: np.ndarray, weights: np.ndarray | None = None) -> Model:
    sketch = Sketch(X.shape[1])
    sketch.update(X.astype(np.float32), weights)
    return fit_sketch(sketch, spec)


def apply(spec: str, X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    return fitted(spec, X, weights).transform(X.astype(np.float32))[0].astype(np.float64)


def up_to_sign(found: np.ndarray, expected: np.ndarray, atol: float = 1e-4) -> None:
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=atol * np.abs(expected).max())


X = anisotropic(800, 12)


# Normalise --------------------------------------------------------------------------------------------------------


@oracle("normalize", says="sklearn.preprocessing.normalize")
def test_l2_is_that_of_sklearn():
    np.testing.assert_allclose(apply("normalize", X), normalize(X.astype(np.float64)), atol=1e-7)


@oracle("normalize", says="scipy.stats.zscore of a row")
def test_layer_is_the_zscore_of_a_row():
    np.testing.assert_allclose(apply("normalize(kind=layer)", X), zscore(X.astype(np.float64), axis=1), atol=1e-6)


@oracle("normalize")
def test_layer_ignores_scale_and_shift():
    moved = fitted("normalize(kind=layer)", X).transform(3 * X + 5)[0]
    np.testing.assert_allclose(moved, apply("normalize(kind=layer)", X), atol=1e-5)


@oracle("normalize")
@pytest.mark.parametrize("eps", [0.0, 0.25])
def test_rms_and_layer_are_the_formulae_with_eps_under_the_root(eps):
    wide = X.astype(np.float64)
    rms = wide / np.sqrt((wide**2).mean(1, keepdims=True) + eps)
    np.testing.assert_allclose(apply(f"normalize(kind=rms, eps={eps})", X), rms, atol=1e-6)
    centred = wide - wide.mean(1, keepdims=True)
    layer = centred / np.sqrt(wide.var(1, keepdims=True) + eps)
    np.testing.assert_allclose(apply(f"normalize(kind=layer, eps={eps})", X), layer, atol=1e-6)


@oracle("normalize")
def test_constant_rows_become_zeros_under_layer_and_zero_rows_have_no_l2():
    rows = np.array([[0.1] * 7, [1e6] * 7, [1e-20] * 7, [0.0] * 7], np.float32)
    values, valid = fitted("normalize(kind=layer)", rows).transform(rows)
    assert valid is None
    assert not values.any()
    _, valid = fitted("normalize", rows).transform(rows)
    assert valid is not None
    assert valid.tolist() == [True, True, True, False]


@oracle("power", says="sign(x) |x|^p in NumPy")
@pytest.mark.parametrize("p", [0.25, 0.5, 1.0, 3.0])
def test_power_is_the_signed_formula(p):
    wide = X.astype(np.float64)
    np.testing.assert_allclose(apply(f"power({p})", X), np.sign(wide) * np.abs(wide) ** p, rtol=1e-6)


# Centre, standardise, whiten --------------------------------------------------------------------------------------


@oracle("center", says="sklearn.preprocessing.StandardScaler(with_std=False)")
def test_center_is_that_of_sklearn():
    expected = StandardScaler(with_std=False).fit_transform(X.astype(np.float64))
    np.testing.assert_allclose(apply("center", X), expected, atol=1e-5)


@oracle("standardize", says="sklearn.preprocessing.StandardScaler")
def test_standardize_is_that_of_sklearn_with_a_constant_dimension():
    data = X.copy()
    data[:, 4] = 7.25
    np.testing.assert_allclose(
        apply("standardize", data), StandardScaler().fit_transform(data.astype(np.float64)), atol=1e-4
    )


@oracle("standardize")
def test_standardize_survives_a_mean_far_from_zero():
    data = X + np.float32(1000)
    expected = StandardScaler().fit_transform(data.astype(np.float64))
    np.testing.assert_allclose(apply("standardize", data), expected, atol=2e-3)


@oracle("whiten", says="covariance = identity")
@pytest.mark.parametrize("kind", ["pca", "zca", "cholesky"])
def test_whitened_rows_have_mean_zero_and_the_identity_as_covariance(kind):
    Y = apply(f"whiten(kind={kind})", X)
    np.testing.assert_allclose(Y.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(Y.T, bias=True), np.eye(12), atol=1e-3)


@oracle("whiten", says="sklearn.decomposition.PCA(whiten=True)")
def test_pca_whitening_is_that_of_sklearn_up_to_sign():
    expected = PCA(whiten=True).fit_transform(X.astype(np.float64)) * np.sqrt(len(X) / (len(X) - 1))
    up_to_sign(apply("whiten", X), expected, atol=3e-4)


@oracle("whiten")
def test_zca_is_the_inverse_root_of_the_covariance():
    wide = X.astype(np.float64)
    values, axes = np.linalg.eigh(np.cov(wide.T, bias=True))
    expected = (wide - wide.mean(0)) @ (axes / np.sqrt(values)) @ axes.T
    np.testing.assert_allclose(apply("whiten(kind=zca)", X), expected, atol=1e-3)


@oracle("whiten")
def test_partial_whitening_leaves_the_variance_to_the_power_that_is_left():
    Y = apply("whiten(power=0.5)", X)
    values = np.linalg.eigvalsh(np.cov(X.astype(np.float64).T, bias=True))[::-1]
    np.testing.assert_allclose(Y.var(axis=0), values**0.5, rtol=1e-3)
    up_to_sign(apply("whiten(power=0)", X), PCA().fit_transform(X.astype(np.float64)))


@oracle("whiten")
@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_removing_the_top_components_is_all_but_the_top(kind):
    wide = X.astype(np.float64)
    top = PCA(2).fit(wide).components_
    Y = apply(f"whiten(kind={kind}, remove=2, power=0)", X)
    expected = (wide - wide.mean(0)) @ (np.eye(12) - top.T @ top)
    np.testing.assert_allclose(pdist(Y), pdist(expected), atol=1e-3)
    if kind == "zca":
        np.testing.assert_allclose(Y, expected, atol=1e-4)
    assert Y.shape[1] == (10 if kind == "pca" else 12)


@oracle("whiten")
@pytest.mark.parametrize("dim", [2, 3, 4, 5, 7, 8, 12, 16, 20, 24, 50])
def test_phi_s_has_unit_variances_and_keeps_the_proportions_of_distances(dim):
    data = anisotropic(500, dim)
    Y = apply("whiten(kind=phi_s)", data)
    np.testing.assert_allclose(Y.var(axis=0), 1, atol=1e-4)
    scale = np.sqrt(data.astype(np.float64).var(axis=0).mean())
    np.testing.assert_allclose(pdist(Y[:100]) * scale, pdist(data[:100].astype(np.float64)), rtol=1e-4)


@oracle("whiten", says="sklearn.covariance.ledoit_wolf")
@pytest.mark.parametrize("rows", [30, 200, 800])
def test_ledoit_wolf_is_that_of_sklearn(rows):
    data = X[:rows].astype(np.float64)
    covariance, shrinkage = ledoit_wolf(data)
    model = fitted("whiten(kind=zca, shrink=ledoit_wolf)", data)
    assert model.steps[0].state["shrinkage"][0] == pytest.approx(shrinkage, rel=1e-4)
    values = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(model.steps[0].state["spectrum"], values, rtol=1e-4)
    assert LedoitWolf().fit(data).shrinkage_ == pytest.approx(shrinkage)


@oracle("whiten")
def test_shrinking_by_a_number_mixes_in_the_mean_variance():
    wide = X.astype(np.float64)
    covariance = np.cov(wide.T, bias=True)
    mixed = 0.7 * covariance + 0.3 * np.trace(covariance) / 12 * np.eye(12)
    values, axes = np.linalg.eigh(mixed)
    expected = (wide - wide.mean(0)) @ (axes / np.sqrt(values)) @ axes.T
    np.testing.assert_allclose(apply("whiten(kind=zca, shrink=0.3)", X), expected, atol=1e-4)


@oracle("whiten", "center", "standardize", "pca")
@pytest.mark.parametrize(
    "spec",
    ["center", "standardize", "pca(4)", "whiten(kind=zca)", "whiten(kind=zca, shrink=0.2)", "int8(quantile=0.9)"],
)
def test_weights_do_what_repeating_the_rows_does(spec):
    counts = np.random.default_rng(0).integers(0, 5, len(X))
    weighted, repeated = fitted(spec, X, counts.astype(np.float64)), fitted(spec, np.repeat(X, counts, axis=0))
    for name, array in repeated.steps[0].state.items():
        scale = np.abs(array).max()
        np.testing.assert_allclose(weighted.steps[0].state[name], array, atol=1e-5 * scale, err_msg=name)


@oracle("whiten")
def test_weighted_whitening_is_the_weighted_covariance_of_numpy():
    weights = np.random.default_rng(1).random(len(X)) ** 3
    wide, model = X.astype(np.float64), fitted("whiten", X, weights)
    Y = model.transform(X)[0]
    np.testing.assert_allclose(np.average(Y, axis=0, weights=weights), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(Y.T, aweights=weights, bias=True), np.eye(12), atol=1e-3)
    np.testing.assert_allclose(model.steps[0].state["mean"], np.average(wide, axis=0, weights=weights), rtol=1e-9)


# Reduce -----------------------------------------------------------------------------------------------------------


@oracle("pca", says="sklearn.decomposition.PCA")
def test_pca_is_that_of_sklearn_up_to_sign():
    peer = PCA(6).fit(X.astype(np.float64))
    model = fitted("pca(6)", X)
    up_to_sign(model.transform(X)[0], peer.transform(X.astype(np.float64)))
    kept = model.describe()["variance_kept"]
    assert kept == pytest.approx(peer.explained_variance_ratio_.sum(), abs=1e-5)


@oracle("pca")
def test_pca_whitening_of_components_is_that_of_sklearn():
    expected = PCA(6, whiten=True).fit_transform(X.astype(np.float64)) * np.sqrt(len(X) / (len(X) - 1))
    up_to_sign(apply("pca(6, whiten=true)", X), expected)


@oracle("pca")
def test_pca_without_centring_takes_the_singular_vectors():
    _, _, rows = np.linalg.svd(X.astype(np.float64), full_matrices=False)
    up_to_sign(apply("pca(6, center=false)", X), X.astype(np.float64) @ rows[:6].T)


@oracle("pca")
def test_pca_of_more_dimensions_than_rows_is_that_of_sklearn():
    data = anisotropic(20, 40)
    up_to_sign(apply("pca(8)", data), PCA(8).fit_transform(data.astype(np.float64)))


@oracle("truncate", says="NumPy slice")
def test_truncate_is_a_slice():
    np.testing.assert_array_equal(apply("truncate(5)", X), X[:, :5])


@oracle("project", says="sklearn.random_projection")
@pytest.mark.parametrize(("kind", "density"), [("gaussian", 1.0), ("sparse", 1 / 3), ("very_sparse", 1 / 8)])
def test_random_matrices_are_distributed_as_those_of_sklearn(kind, density):
    from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

    data = np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32)
    matrix = fitted(f"project(400, kind={kind})", data).steps[0].state["matrix"]
    if kind == "gaussian":
        peer = GaussianRandomProjection(400, random_state=0).fit(data).components_
    else:
        peer = SparseRandomProjection(400, density=density, random_state=0).fit(data).components_.toarray()
        np.testing.assert_allclose(np.unique(np.abs(matrix)), np.unique(np.abs(peer)), rtol=1e-5)
    assert (matrix != 0).mean() == pytest.approx((peer != 0).mean(), abs=0.02)
    assert matrix.mean() == pytest.approx(0, abs=2e-3)
    assert matrix.std() == pytest.approx(peer.std(), rel=0.03)


@oracle("project")
@pytest.mark.parametrize("kind", ["gaussian", "sparse", "very_sparse", "hadamard"])
def test_random_projections_keep_distances_on_the_whole(kind):
    data = np.random.default_rng(2).standard_normal((60, 512)).astype(np.float32)
    ratio = pdist(apply(f"project(256, kind={kind})", data)) / pdist(data)
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    assert np.abs(ratio - 1).max() < 0.35


@oracle("project")
def test_the_hadamard_projection_is_signs_times_rows_of_a_hadamard_matrix():
    model = fitted("project(9, kind=hadamard)", X)
    state = model.steps[0].state
    padded = np.pad(X.astype(np.float64) * state["signs"], ((0, 0), (0, 4)))
    expected = padded @ hadamard(16)[:, state["outputs"]] / np.sqrt(9)
    np.testing.assert_allclose(model.transform(X)[0], expected, atol=1e-4)


@oracle("project", says="numpy.fft.rfft")
def test_fft_keeps_amplitudes():
    expected = np.abs(np.fft.rfft(X.astype(np.float64), axis=1))[:, :5] / np.sqrt(12)
    np.testing.assert_allclose(apply("project(5, kind=fft)", X), expected, atol=1e-5)


@oracle("project", says="scipy.fft.dct")
@pytest.mark.parametrize("dim", [1, 2, 12, 31, 768])
def test_dct_keeps_the_first_coefficients_of_scipy(dim):
    data = anisotropic(40, dim)
    k = (dim + 1) // 2
    expected = dct(data.astype(np.float64), norm="ortho")[:, :k]
    np.testing.assert_allclose(apply(f"project({k}, kind=dct)", data), expected, atol=1e-6 * np.abs(data).sum(1).max())


@oracle("project")
@pytest.mark.parametrize("dim", [1, 2, 3, 12, 31, 768])
def test_fft_complex_keeps_real_and_imaginary_parts_of_the_lowest_frequencies(dim):
    data = anisotropic(40, dim)
    spectrum = np.fft.rfft(data.astype(np.float64), norm="ortho")
    spectrum[:, 1 : (dim + 1) // 2] *= np.sqrt(2)  # these stand for two frequencies, the first and an even last for one
    parts = np.stack([spectrum.real, spectrum.imag], axis=2).reshape(40, -1)
    expected = np.delete(parts, 1, axis=1)  # the imaginary part of frequency 0
    for k in {1, (dim + 1) // 2, dim}:
        found = apply(f"project({k}, kind=fft_complex)", data)
        np.testing.assert_allclose(found, expected[:, :k], atol=1e-6 * np.abs(data).sum(1).max())


@oracle("project")
@pytest.mark.parametrize("kind", ["dct", "fft_complex"])
@pytest.mark.parametrize("dim", [1, 2, 3, 12, 31, 768])
def test_all_frequencies_keep_inner_products_and_fewer_rows_of_them_come_back_by_the_transpose(kind, dim):
    whole = fitted(f"project({dim}, kind={kind})", anisotropic(40, dim))
    matrix = whole.steps[0].affine().matrix
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(dim), atol=1e-12)
    k = (dim + 1) // 2
    part = fitted(f"project({k}, kind={kind})", anisotropic(40, dim))
    Y = anisotropic(5, k)
    expected = Y @ matrix[:, :k].T
    np.testing.assert_allclose(part.inverse(Y), expected, atol=1e-5 * np.abs(expected).max())


@oracle("project")
@pytest.mark.parametrize("kind", ["dct", "fft_complex"])
def test_scores_of_codes_behind_all_frequencies_are_those_of_the_rows(kind):
    model = fitted(f"center | project(12, kind={kind}) | int8", X)
    scores = model.score(model.prepare(X[:5]), model.encode(X)[0])
    units = normalize(X.astype(np.float64))
    np.testing.assert_allclose(scores, units[:5] @ units.T, atol=0.02)


def test_frequencies_beyond_those_there_are_are_refused():
    for kind in ("dct", "fft_complex"):
        with pytest.raises(SpecError, match="cannot keep 13 coefficients of vectors that have 12"):
            fitted(f"project(13, kind={kind})", X)


@oracle("rotate", says="distances are kept")
@oracle("rotate", says="the matrix times its transpose is the identity")
@pytest.mark.parametrize("dim", [1, 2, 3, 12, 16, 31])
@pytest.mark.parametrize("kind", ["random", "hadamard"])
def test_rotations_keep_every_distance_and_are_orthogonal(kind, dim):
    data = anisotropic(50, dim)
    model = fitted(f"rotate(kind={kind}, seed=4)", data)
    matrix = model.steps[0].affine().matrix
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=1e-6)
    np.testing.assert_allclose(pdist(model.transform(data)[0]), pdist(data), atol=1e-4)


# Codecs: the definitions are those of sentence-transformers' quantize_embeddings -----------------------------------


@oracle("float16", says="numpy.float16")
def test_float16_is_numpy_half():
    codes, _ = fitted("float16", X).encode(X)
    np.testing.assert_array_equal(codes.view("<f2"), X.astype(np.float16))
    np.testing.assert_array_equal(fitted("float16", X).decode(codes), X.astype(np.float16).astype(np.float32))


@oracle("int8", says="the formula of sentence_transformers.quantize_embeddings")
def test_int8_ranges_and_levels_are_those_of_sentence_transformers_up_to_its_truncation():
    starts, stops = X.min(axis=0), X.max(axis=0)
    steps = (stops - starts) / 255
    theirs = ((X - starts) / steps - 128).astype(np.int8).astype(int)
    model = fitted("int8", X)
    np.testing.assert_allclose(model.steps[0].state["low"], starts, rtol=1e-6)
    np.testing.assert_allclose(model.steps[0].state["step"], steps, rtol=1e-6)
    ours = model.encode(X)[0].view(np.int8).astype(int)
    exact = (X.astype(np.float64) - starts) / steps - 128
    # They cut towards zero where we round to the nearest level: at most one level apart, and ours is never further.
    assert np.abs(ours - theirs).max() <= 1
    assert (np.abs(ours - exact) <= np.abs(theirs - exact) + 1e-4).all()
    np.testing.assert_array_equal(ours, np.clip(np.rint(exact), -128, 127))


@oracle("int8", says="error of at most half a step")
def test_int8_is_wrong_by_at_most_half_a_step_inside_the_range():
    model = fitted("int8", X)
    error = np.abs(model.decode(model.encode(X)[0]).astype(np.float64) - X)
    assert (error <= 0.5 * model.steps[0].state["step"] * (1 + 1e-3)).all()


@oracle("int8")
def test_int8_clips_what_lies_outside_the_range():
    model = fitted("int8", X)
    far, _ = model.encode(np.array([[1e9] * 12, [-1e9] * 12], np.float32))
    assert (far.view(np.int8) == [[127] * 12, [-128] * 12]).all()


@oracle("int8")
def test_int8_quantiles_are_those_of_numpy():
    model = fitted("int8(quantile=0.9)", X)
    low, high = np.quantile(X.astype(np.float64), [0.05, 0.95], axis=0, method="inverted_cdf")
    np.testing.assert_allclose(model.steps[0].state["low"], low, rtol=1e-6)
    np.testing.assert_allclose(model.steps[0].state["step"], (high - low) / 255, rtol=1e-5)


@oracle("int8")
def test_int8_per_vector_is_absmax_quantisation():
    scale = np.abs(X).max(axis=1, keepdims=True) / np.float32(127)
    codes, _ = fitted("int8(scale=vector)", X).encode(X)
    np.testing.assert_array_equal(codes[:, :-4].view(np.int8), np.rint(X / scale))
    np.testing.assert_array_equal(np.ascontiguousarray(codes[:, -4:]).view("<f4"), scale)


@oracle("binary", says="numpy.packbits, as in sentence_transformers.quantize_embeddings")
@pytest.mark.parametrize("dim", [1, 7, 8, 12, 64])
def test_binary_codes_are_those_of_sentence_transformers(dim):
    data = anisotropic(100, dim)
    data[data == data.min()] = 0
    ubinary = np.packbits(data > 0).reshape(len(data), -1) if dim % 8 == 0 else np.packbits(data > 0, axis=1)
    binary = (ubinary - 128).view(np.int8)
    codes, _ = fitted("binary", data).encode(data)
    np.testing.assert_array_equal(codes, ubinary)
    np.testing.assert_array_equal((codes ^ 128).view(np.int8), binary)


@oracle("binary", says="rank by numpy's Hamming distance")
def test_binary_scores_rank_as_hamming_distance_does_for_sign_queries():
    model = fitted("binary", X)
    codes, _ = model.encode(X)
    q = np.where(X[:1] > 0, 1, -1).astype(np.float32)
    scores = model.score(model.prepare(q, "cosine"), codes)[0]
    distances = np.unpackbits(codes ^ codes[0], axis=1).sum(axis=1)
    np.testing.assert_allclose(scores, 1 - 2 * distances / 12, atol=1e-4)
