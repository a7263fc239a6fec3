"""Scores of code with code, over every codec: against the vectors that the codes stand for, in float64."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from conftest import anisotropic
from test_every_operator import CODES, METRICS, OWN_LENGTHS, fitted

import vecpipe
from vecpipe.errors import InputError
from vecpipe.model import Model
from vecpipe.spec import parse

X = anisotropic(300)
A, B = np.arange(300), np.roll(np.arange(300), 7)


def stood_for(model: Model, codes: np.ndarray) -> np.ndarray:
    """The decoded vectors in the space that scores speak of."""
    assert model.codec is not None
    assert model.coding is not None
    Y = model.codec.decode(codes)
    for step in reversed(model.steps[len(model.coding.before) : -1]):
        Y = step.invert(Y)
    return Y.astype(np.float64)


def formula(
    U: np.ndarray, V: np.ndarray, metric: str, lengths: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Scores of rows, with lengths that are known to be others than those of the rows."""
    products = (U * V).sum(axis=1)
    u, v = lengths or (np.linalg.norm(U, axis=1), np.linalg.norm(V, axis=1))
    if metric == "l2":
        return -np.sqrt(np.maximum(u**2 + v**2 - 2 * products, 0))
    return products if metric == "ip" else np.clip(products / u / v, -1, 1)


@pytest.mark.parametrize("spec", CODES)
@pytest.mark.parametrize("metric", METRICS)
def test_scores_of_pairs_are_those_of_the_decoded_vectors(spec, metric):
    model = fitted(spec, X)
    codes, _ = model.encode(X)
    found = model.score_codes(codes[A], codes[B], metric)
    V = stood_for(model, codes)
    own = None
    if parse(spec)[-1].name in OWN_LENGTHS:
        assert model.coding is not None
        lengths = np.sqrt(model.coding.codec.squared_norms(codes).astype(np.float64))
        if metric == "l2":  # of what is coded, behind the steps that move
            V = model.coding.codec.decode(codes).astype(np.float64)
        else:
            lengths = np.sqrt(model.coding.squared_norms(codes).astype(np.float64))
        own = (lengths[A], lengths[B])
    expected = formula(V[A], V[B], metric, own)
    tolerance = 2e-4 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("spec", ["rabitq", "eden(bits=1)", "eden(bits=2)"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_lengths_that_codes_know_bring_scores_nearer_to_those_of_the_rows(spec, metric):
    wide = anisotropic(300, 256)
    model = fitted(spec, wide)
    codes, _ = model.encode(wide)
    exact = formula(wide[A].astype(np.float64), wide[B].astype(np.float64), metric)
    V = stood_for(model, codes)
    of_decoded = np.abs(formula(V[A], V[B], metric) - exact).mean()
    assert np.abs(model.score_codes(codes[A], codes[B], metric) - exact).mean() < 0.8 * of_decoded


@pytest.mark.parametrize("spec", CODES)
def test_a_code_is_nearest_to_itself_and_sides_may_be_swapped(spec):
    model = fitted(spec, X)
    codes, _ = model.encode(X)
    np.testing.assert_allclose(model.score_codes(codes, codes), 1.0, atol=1e-5)
    scale = np.linalg.norm(X, axis=1).max()
    np.testing.assert_allclose(model.score_codes(codes, codes, "l2"), 0.0, atol=1e-3 * scale)
    for metric in METRICS:
        there, back = model.score_codes(codes[A], codes[B], metric), model.score_codes(codes[B], codes[A], metric)
        np.testing.assert_allclose(there, back, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [1, 7, 8, 13, 64])
def test_sign_bits_are_counted_and_bits_beyond_the_last_dimension_do_not_count(dim):
    model = fitted("binary", anisotropic(50, dim))
    assert model.codec is not None
    rng = np.random.default_rng(dim)
    a, b = rng.integers(0, 256, (2, 40, model.bytes_per_vector), dtype=np.uint8)
    U, V = (model.codec.decode(codes).astype(np.float64) for codes in (a, b))
    for metric in METRICS:
        np.testing.assert_allclose(model.score_codes(a, b, metric), formula(U, V, metric), atol=1e-6)


def test_a_model_without_codec_scores_its_vectors():
    model = fitted("center | pca(5)", X)
    Y, _ = model.transform(X)
    for metric in METRICS:
        found = model.score_codes(Y[A], Y[B], metric)
        np.testing.assert_allclose(found, formula(Y[A].astype(float), Y[B].astype(float), metric), atol=1e-5)


def test_vectors_that_cannot_be_told_from_zero_have_no_cosine():
    model = fitted("int8", X)
    codes, _ = model.encode(np.concatenate([X[:1], np.zeros((1, 12), np.float32)]))
    scores = model.score_codes(codes[[0, 0, 1]], codes[[0, 1, 1]])
    assert scores[0] == pytest.approx(1.0)
    assert np.isnan(scores[1:]).all()


@pytest.mark.parametrize("behind", ["", "center | ", "pca(4) | "])
@pytest.mark.parametrize("codec", ["pq(1, bits=4)", "rvq(1, bits=4)", "pq(1)", "bebr(1)"])
def test_rows_of_length_one_have_a_cosine_though_a_zero_vector_would_have_their_code(behind, codec):
    model = fitted(f"normalize | {behind}{codec}", X)
    codes, _ = model.encode(X)
    assert not np.isnan(model.score(model.prepare(X[:1], "cosine"), codes)).any()
    decoded = stood_for(model, codes)
    found = model.score_codes(codes, np.repeat(codes[:1], len(codes), axis=0), "cosine")
    np.testing.assert_allclose(found, formula(decoded, decoded[:1], "cosine"), atol=1e-4)
    assert not np.isnan(model.score_codes(codes, codes, "cosine")).any()


def test_columns_of_different_lengths_and_wrong_codes_are_refused():
    model = fitted("int8", X)
    codes, _ = model.encode(X)
    with pytest.raises(InputError, match="cannot score 3 codes with 4"):
        model.score_codes(codes[:3], codes[:4])
    with pytest.raises(InputError):
        model.score_codes(codes[:3, :5], codes[:3, :5])


# In SQL ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def coded(docs: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    for name, spec in (("m", "int8"), ("bits", "center | rotate | binary"), ("pca", "center | pca(4)")):
        vecpipe.save_model(docs, name, vecpipe.fit(docs, "SELECT emb FROM docs", spec))
    docs.execute(
        "CREATE TABLE codes AS SELECT id, vec_encode('m', emb) AS m, vec_encode('bits', emb) AS bits FROM docs"
    )
    return docs


@pytest.mark.parametrize("name", ["m", "bits"])
@pytest.mark.parametrize("metric", METRICS)
def test_sql_scores_are_those_of_the_model(coded, name, metric):
    rows = coded.execute(
        f"""SELECT a.{name}, b.{name}, vec_score_codes('{name}', a.{name}, b.{name}, metric := '{metric}')
            FROM codes AS a JOIN codes AS b ON b.id = (a.id * 7) % 600"""
    ).fetchall()
    sides = [np.array([list(row[side]) for row in rows], np.uint8) for side in (0, 1)]
    model = vecpipe.load_model(coded, name)
    np.testing.assert_allclose([row[2] for row in rows], model.score_codes(*sides, metric), rtol=1e-6)


def test_sql_scores_take_one_model_a_row_nulls_and_vectors(coded):
    rows = coded.execute(
        """SELECT a.id, vec_score_codes(CASE WHEN a.id % 2 = 0 THEN 'm' ELSE 'bits' END,
                                        CASE WHEN a.id % 2 = 0 THEN a.m WHEN a.id % 3 > 0 THEN a.bits END,
                                        CASE WHEN a.id % 2 = 0 THEN b.m ELSE b.bits END)
           FROM codes AS a, codes AS b WHERE b.id = 5 ORDER BY a.id"""
    ).fetchall()
    expected = coded.execute(
        """SELECT a.id, CASE WHEN a.id % 2 = 0 THEN vec_score_codes('m', a.m, b.m)
                             WHEN a.id % 3 > 0 THEN vec_score_codes('bits', a.bits, b.bits) END
           FROM codes AS a, codes AS b WHERE b.id = 5 ORDER BY a.id"""
    ).fetchall()
    assert rows == expected
    assert sum(score is None for _, score in rows) == 100
    ((score,),) = coded.execute(
        """SELECT vec_score_codes('pca', vec_transform('pca', a.emb), vec_transform('pca', b.emb), metric := 'ip')
           FROM docs AS a, docs AS b WHERE a.id = 1 AND b.id = 2"""
    ).fetchall()
    pair = coded.execute("SELECT vec_transform('pca', emb) FROM docs WHERE id IN (1, 2)").fetchall()
    assert score == pytest.approx(float(np.dot(pair[0][0], pair[1][0])), rel=1e-5)
    assert coded.execute("SELECT vec_score_codes('m', NULL, NULL)").fetchall() == [(None,)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("vec_score_codes('m', m, bits)", "vec_score_codes: b: row 0 holds 2 bytes, but this model's codes have 12"),
        ("vec_score_codes('m', m, m, metric := 'dot')", "metric is 'dot'; expected one of cosine, ip, l2"),
        ("vec_score_codes('none', m, m)", "no model is named 'none'"),
        ("vec_score_codes('m', m, id)", "expected codes (BLOB)"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(coded, call, message):
    with pytest.raises(duckdb.Error) as caught:
        coded.execute(f"SELECT {call} FROM codes").fetchall()
    assert message in str(caught.value)
