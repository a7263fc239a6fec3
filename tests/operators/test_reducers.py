"""Two-sided projections, fitted rotations, dimension selection, tempered whitening and its guard."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import anisotropic, oracle, table_of
from test_oracles import fitted

import vecpipe
from vecpipe.errors import WhiteningWarning
from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.operators.whiten import tempered_power
from vecpipe.sketch import Sketch

X = anisotropic(900, 12)
Q = (anisotropic(400, 12, seed=1) @ np.diag(np.linspace(3, 0.1, 12))).astype(np.float32)


def two_sided(spec: str, X: np.ndarray = X, Q: np.ndarray = Q) -> Model:
    rows, queries = Sketch(12), Sketch(12)
    rows.update(X)
    queries.update(Q)
    return fit_sketch(rows, spec, queries)


def root(matrix: np.ndarray) -> np.ndarray:
    values, axes = np.linalg.eigh(matrix)
    return (axes * np.sqrt(np.maximum(values, 0))) @ axes.T


def loss(model: Model) -> float:
    return float(((model.score(model.prepare(Q, "ip"), model.transform(X)[0]) - Q.astype(float) @ X.T) ** 2).sum())


def loss_of_axes(axes: np.ndarray) -> float:
    return float(((Q @ axes @ (X @ axes).T - Q.astype(float) @ X.T) ** 2).sum())


@oracle("leanvec", says="singular values of K_q^1/2 K_x^1/2 beyond the k-th")
@pytest.mark.parametrize("k", [1, 4, 9])
def test_sphering_reaches_the_least_loss_of_any_maps_of_rank_k(k):
    model = two_sided(f"leanvec({k}, shrink=0)")
    singular = np.linalg.svd(root(Q.astype(float).T @ Q) @ root(X.astype(float).T @ X), compute_uv=False)
    assert abs(loss(model) / (singular[k:] ** 2).sum() - 1) < 1e-3


@oracle("leanvec")
def test_the_order_of_losses_is_sphering_then_eig_then_pca():
    losses = [loss(two_sided(f"leanvec(4, mode={mode}, shrink=0)")) for mode in ("sphering", "eig", "pca")]
    assert losses[0] <= losses[1] <= losses[2]
    assert losses[0] < 0.9 * losses[2]


@oracle("leanvec")
@pytest.mark.parametrize("k", [1, 4, 9])
def test_eig_takes_the_mix_of_moments_whose_axes_lose_least(k):
    rows, asked = (Y.astype(float).T @ Y for Y in (X, Q))
    losses = []
    for share in np.linspace(0, 1, 21):
        mix = (1 - share) * asked / np.trace(asked) + share * rows / np.trace(rows)
        losses.append(loss_of_axes(np.linalg.eigh(mix)[1][:, ::-1][:, :k]))
    assert loss(two_sided(f"leanvec({k}, mode=eig, shrink=0)")) == pytest.approx(min(losses), rel=1e-3)


@oracle("leanvec")
@pytest.mark.parametrize("k", [1, 4, 9])
def test_frank_wolfe_lies_between_the_least_loss_and_that_of_pca_where_it_starts(k):
    model = two_sided(f"leanvec({k}, mode=fw, shrink=0)")
    bound, start = (loss(two_sided(f"leanvec({k}, mode={mode}, shrink=0)")) for mode in ("sphering", "pca"))
    random = loss_of_axes(np.linalg.qr(np.random.default_rng(0).standard_normal((12, k)))[0])
    assert bound <= loss(model) < 0.5 * start
    assert loss(model) < 0.3 * random
    for side in ("forward", "asking"):
        assert np.linalg.norm(model.steps[0].state[side], 2) <= 1 + 1e-6
    assert two_sided(f"leanvec({k}, mode=fw, shrink=0)").hash == model.hash


@oracle("leanvec")
def test_frank_wolfe_is_pca_where_that_is_best():
    total = float(((Q.astype(float) @ X.T) ** 2).sum())
    assert loss(two_sided("leanvec(12, mode=fw)")) < 1e-6 * total
    assert loss(two_sided("leanvec(11, mode=fw, shrink=0)")) <= loss(two_sided("leanvec(11, mode=pca)"))
    model, plain = fitted("leanvec(5, mode=fw)", X), fitted("leanvec(5, mode=pca)", X)
    np.testing.assert_array_equal(model.transform(X)[0], plain.transform(X)[0])


def test_frank_wolfe_follows_no_slope_that_is_rounding(monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("there is no slope at the maps of pca where the rows stand in for the queries")

    monkeypatch.setattr(np.linalg, "svd", refused)
    for k in (1, 5, 12):
        fitted(f"leanvec({k}, mode=fw)", X)


@oracle("leanvec", says="PCA of the uncentred rows")
def test_without_queries_both_sides_are_the_uncentred_principal_axes():
    model, plain = fitted("leanvec(5)", X), fitted("pca(5, center=false)", X)
    np.testing.assert_allclose(model.transform(X)[0], plain.transform(X)[0], atol=1e-4)
    np.testing.assert_array_equal(model.transform_queries(X)[0], model.transform(X)[0])


@oracle("leanvec")
def test_all_dimensions_lose_nothing_and_codes_are_scored_from_the_query_side():
    assert loss(two_sided("leanvec(12)")) < 1e-6 * float(((Q.astype(float) @ X.T) ** 2).sum())
    model = two_sided("leanvec(8) | int8")
    scores = model.score(model.prepare(Q, "ip"), model.encode(X)[0])
    true = Q.astype(float) @ X.T
    assert np.abs(scores - true).max() < 0.05 * np.abs(true).max()
    decoded = Q.astype(float) @ model.decode(model.encode(X)[0]).T
    np.testing.assert_allclose(scores, decoded, atol=1e-4 * np.abs(true).max())


def test_queries_are_a_source_of_their_own():
    model = vecpipe.fit(table_of(X), "leanvec(4)", queries=table_of(Q), column="emb")
    assert model.hash == two_sided("leanvec(4)").hash
    assert model.hash != fitted("leanvec(4)", X).hash


@oracle("select", says="numpy.argsort of numpy.var")
def test_select_keeps_the_dimensions_of_largest_variance_in_order():
    kept = np.sort(np.argsort(-X.astype(float).var(axis=0), kind="stable")[:5])
    np.testing.assert_array_equal(fitted("select(5)", X).transform(X)[0], X[:, kept])
    kept = np.sort(np.argsort(-(X.astype(float) ** 2).mean(axis=0), kind="stable")[:5])
    np.testing.assert_array_equal(fitted("select(5, by=moment)", X).transform(X)[0], X[:, kept])


@oracle("rotate")
def test_itq_is_a_rotation_whose_signs_lie_nearer_than_those_of_a_random_one():
    def distance(spec: str) -> float:
        Y = fitted(spec, X).transform(X)[0].astype(float)
        return float(((np.sign(Y) * np.abs(Y).mean() - Y) ** 2).sum())

    rotation = fitted("rotate(kind=itq)", X).steps[0].state["matrix"].astype(float)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(12), atol=1e-5)
    whitened = "whiten | "
    assert distance(whitened + "rotate(kind=itq)") < distance(whitened + "rotate")


@oracle("whiten")
def test_tempering_is_full_for_a_flat_spectrum_and_keeps_half_the_variance_in_the_strong_directions():
    assert tempered_power(np.ones(40)) == 1.0
    values = np.concatenate([np.full(4, 10.0), np.full(60, 0.05)])
    power = tempered_power(values)
    strong = int(np.ceil(values.sum() ** 2 / (values**2).sum()))
    tempered = values ** (1 - power)
    assert 0 < power < 1
    assert abs(tempered[:strong].sum() / tempered.sum() - 0.5) < 1e-6
    model = fitted("whiten(power=auto)", X)
    spectrum = model.steps[0].state["spectrum"]
    found = model.transform(X)[0].var(axis=0)
    np.testing.assert_allclose(found, spectrum ** (1 - tempered_power(spectrum)), rtol=2e-3)


@pytest.mark.parametrize("spec", ["whiten", "normalize | whiten | int8", "pca(12, whiten=true)"])
def test_a_fit_that_whitens_records_the_neighbours_kept_and_warns_when_many_are_lost(spec):
    scaled = (X * np.where(np.arange(12) < 6, 1.0, 1e-3)).astype(np.float32)
    with pytest.warns(WhiteningWarning, match="neighbours"):
        model = fitted(spec, scaled)
    before, after = model.info.whitening
    assert after < before - 0.25
    again = Model.from_bytes(model.to_bytes())
    assert again.info == model.info
    assert again.describe()["whitening_recall_after"] == after


def test_a_harmless_whitening_is_silent_and_other_models_record_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fitted("whiten", np.random.default_rng(0).standard_normal((800, 12)))
        assert model.info.whitening[1] > 0.75
        assert fitted("center | pca(5)", X).info.whitening is None
