"""Codes in memory: the sketch of sign bits finds what a full scan finds, and is left out where it would not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed

import vecpipe
from vecpipe.metrics.retrieval import nearest
from vecpipe.query_products import BitRows
from vecpipe.search.resident import SKETCH_ROWS, CodeMatrix

ROWS = SKETCH_ROWS + 1_000


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", name="X")
def many_rows():
    return unit(anisotropic(ROWS, 48, seed=3))


def model_of(X, spec):
    return vecpipe.fit(pa.table({"v": fixed(X[:5_000])}), spec)


def matrix_of(X, spec, valid=None):
    model = model_of(X, spec)
    return CodeMatrix(model, model.encode(X)[0], valid)


def sketched(matrix):
    return matrix.nbytes > matrix.codes.nbytes


def places(found):
    return [each.places.tolist() for each in found]


def test_hamming_distances_are_those_of_numpy(X):
    bits = np.packbits(X[:300] > 0, axis=1)
    want = np.unpackbits(bits[:7, None] ^ bits[None], axis=2).sum(axis=2)
    np.testing.assert_array_equal(BitRows(bits).distances(bits[:7]), want)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize(
    "spec", ["normalize | int8", "float16", "center | pca(40) | float16", "center | rotate | float16"]
)
def test_the_sketch_passes_on_the_rows_that_a_full_scan_finds(X, spec, metric):
    matrix = matrix_of(X, spec)
    assert sketched(matrix)
    fast = matrix.top(X[:20], 10, metric)
    full = matrix.top(X[:20], 10, metric, shortlist=ROWS)
    found = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(places(fast), places(full), strict=True)])
    assert found >= 0.97
    for a, b in zip(fast, full, strict=True):
        _, here, there = np.intersect1d(a.places, b.places, return_indices=True)
        np.testing.assert_allclose(a.scores[here], b.scores[there], atol=2e-3)  # l2 is a square root near 0


def test_a_full_scan_of_float16_codes_is_exact_search(X):
    found = matrix_of(X, "float16").top(X[:5], 10, "ip", shortlist=ROWS)
    exact = nearest(X[:5].astype(np.float16).astype(np.float32), X.astype(np.float16).astype(np.float32), 10)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(places(found), exact.tolist(), strict=True)]) >= 9.9


@pytest.mark.parametrize("spec", ["float16", "center | binary", "leanvec(40) | float16", "rabitq"])
def test_no_sketch_where_it_would_not_rank_as_scores_do_or_saves_nothing(X, spec):
    stretched = X * np.linspace(1, 3, len(X), dtype=np.float32)[:, None] if spec == "float16" else X
    matrix = matrix_of(stretched, spec)
    assert not sketched(matrix)
    assert len(matrix.top(X[:1], 10)[0].places) == 10


def test_few_rows_are_all_scored(X):
    assert not sketched(matrix_of(X[: SKETCH_ROWS - 1], "float16"))


@pytest.mark.parametrize("rows", [500, ROWS])
def test_rows_outside_are_never_found_with_a_sketch_or_without(X, rows):
    X = X[:rows]
    valid = np.arange(rows) % 2 == 0
    allowed = np.arange(rows) % 3 == 0
    matrix = matrix_of(X, "normalize | int8", valid)
    found = matrix.top(X[:4], 60, allowed=allowed)
    assert all((each.places % 6 == 0).all() and len(each.places) == 60 for each in found)
    assert all(len(each.places) == 0 for each in matrix.top(X[:2], 5, allowed=~valid))
    few = np.zeros(rows, bool)
    few[[0, 3, 10]] = True
    assert sorted(matrix.top(X[:1], 5, allowed=few)[0].places.tolist()) == [0, 10]


def test_equal_codes_are_found_in_the_order_of_their_rows(X):
    again = np.concatenate([X[:1]] * 30 + [X])
    found = matrix_of(again, "normalize | int8").top(X[:1], 5)[0]
    assert found.places.tolist() == [0, 1, 2, 3, 4]


def test_a_query_without_direction_finds_nothing(X):
    matrix = matrix_of(X, "normalize | int8")
    assert sketched(matrix)
    assert len(matrix.top(np.zeros((1, 48), np.float32), 5)[0].places) == 0


def test_no_rows_give_no_rows():
    model = model_of(unit(anisotropic(200, 48)), "normalize | int8")
    matrix = CodeMatrix(model, np.zeros((0, 48), np.uint8))
    assert [len(each.places) for each in matrix.top(np.ones((3, 48), np.float32), 5)] == [0, 0, 0]
