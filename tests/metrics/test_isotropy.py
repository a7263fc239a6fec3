"""Isotropy, spectrum, effective rank and medoids against their published definitions."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from vecpipe.blocks import Block
from vecpipe.metrics.isotropy import effective_rank, gram, isoscore, mean_cosine, spectrum
from vecpipe.metrics.medoid import most_central
from vecpipe.metrics.profile import Profile
from vecpipe.moments import Moments


def published_isoscore(X):
    """Algorithm 1 of Rudman et al. 2022, step by step."""
    n = X.shape[1]
    variances = np.cov(PCA().fit_transform(X).T, bias=True).diagonal()
    scaled = np.sqrt(n) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(scaled - np.ones(n)) / np.sqrt(2 * (n - np.sqrt(n)))
    fraction = (n - defect**2 * (n - np.sqrt(n))) ** 2 / n**2
    return (n * fraction - 1) / (n - 1)


@pytest.mark.parametrize("dim", [2, 5, 12])
def test_isoscore_is_the_published_one(dim):
    X = anisotropic(400, dim).astype(np.float64)
    assert isoscore(Moments.of_rows(X), dim) == pytest.approx(published_isoscore(X), rel=1e-9)


def test_isoscore_is_one_for_a_ball_and_zero_for_a_line():
    ball = np.vstack([np.eye(6), -np.eye(6)])
    assert isoscore(Moments.of_rows(ball), 6) == pytest.approx(1.0)
    assert isoscore(Moments.of_rows(np.outer(np.arange(9.0), np.ones(6))), 6) == pytest.approx(0.0, abs=1e-12)
    assert isoscore(Moments.of_rows(np.ones((3, 6))), 6) is None
    assert isoscore(Moments.of_rows(np.arange(4.0)[:, None]), 1) is None


def test_spectrum_is_the_explained_variance_ratio_of_sklearn():
    X = anisotropic(300, 8).astype(np.float64)
    found = spectrum(Moments.of_rows(X), 8)
    np.testing.assert_allclose(found, PCA().fit(X).explained_variance_ratio_, rtol=1e-8)
    assert spectrum(Moments.of_rows(np.ones((3, 6))), 6) is None


@given(rows=st.integers(2, 20))
def test_few_rows_need_no_covariance(rows):
    X = anisotropic(rows, 12)
    moments = Moments.of_rows(X)
    assert isoscore(gram(X), 12) == pytest.approx(isoscore(moments, 12), rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(spectrum(gram(X), 12), spectrum(moments, 12), atol=1e-9)


def test_effective_rank_counts_equal_directions():
    assert effective_rank(np.array([0.25, 0.25, 0.25, 0.25, 0.0])) == pytest.approx(4.0)
    assert effective_rank(np.array([1.0, 0.0])) == pytest.approx(1.0)


def test_mean_cosine_is_the_mean_over_all_pairs():
    X = anisotropic(40, 6).astype(np.float64)
    U = X / np.linalg.norm(X, axis=1)[:, None]
    pairs = (U @ U.T)[~np.eye(40, dtype=bool)]
    assert mean_cosine(U.sum(0), 40) == pytest.approx(pairs.mean())
    assert mean_cosine(U[0], 1) is None


def test_the_medoid_has_the_largest_mean_cosine_and_ties_are_all_named():
    X = anisotropic(50, 5)
    U = X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=1)[:, None]
    assert most_central(X) == [int(np.argmax(U @ U.sum(0)))]
    assert most_central(np.array([[1, 0], [0, 0], [1, 0]], np.float32)) == [0, 2]
    assert most_central(np.zeros((2, 3), np.float32)) == [0, 1]


def test_profiles_merge_to_the_profile_of_the_whole():
    X = anisotropic(500, 6)
    X[3] = 0
    whole, parts = Profile(6), Profile(6)
    whole.update_block(Block.of(X, None))
    for part in np.array_split(X, 4):
        piece = Profile(6)
        piece.update_block(Block.of(part, None))
        parts.merge(piece)
    ours, theirs = whole.numbers(), parts.numbers()
    assert ours == pytest.approx(theirs, rel=1e-9)
    lengths = np.linalg.norm(X.astype(np.float64), axis=1)
    assert (ours["zero"], ours["norm_min"]) == (1, 0.0)
    assert ours["norm_max"] == pytest.approx(lengths.max(), rel=1e-6)
    assert ours["norm_mean"] == pytest.approx(lengths.mean(), rel=1e-6)
