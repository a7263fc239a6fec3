"""Two-sided models in SQL: a sample of queries for the fit, and the query side of a model by name."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from conftest import anisotropic, vectors

import vecpipe
from vecpipe.pipeline import Model

FIT = "SELECT vec_fit_query('m', 'leanvec(4)', 'SELECT emb FROM docs', 'SELECT emb FROM docs WHERE id % 3 = 0')"


def stored(con: duckdb.DuckDBPyConnection, name: str) -> Model:
    row = con.execute("SELECT model FROM vecpipe.models WHERE name = $1 ORDER BY version DESC", [name]).fetchall()[0]
    return Model.from_bytes(row[0])


def test_a_fourth_argument_gives_the_fit_a_sample_of_queries(docs):
    docs.execute(FIT).fetchall()
    docs.execute("SELECT vec_fit_query('plain', 'leanvec(4)', 'SELECT emb FROM docs', NULL)").fetchall()
    expected = vecpipe.fit(docs, "SELECT emb FROM docs", "leanvec(4)", queries="SELECT emb FROM docs WHERE id % 3 = 0")
    assert stored(docs, "m").hash == expected.hash
    assert stored(docs, "plain").hash == vecpipe.fit(docs, "SELECT emb FROM docs", "leanvec(4)").hash


def test_a_name_with_query_behind_it_transforms_as_queries_are(docs):
    docs.execute(FIT).fetchall()
    model, X = stored(docs, "m"), anisotropic()
    rows = vectors(docs.execute("SELECT vec_transform('m', emb) FROM docs ORDER BY id"))
    asked = vectors(docs.execute("SELECT vec_transform('m.query', emb) FROM docs ORDER BY id"))
    np.testing.assert_allclose(rows, model.transform(X)[0], atol=1e-5)
    np.testing.assert_allclose(asked, model.transform_queries(X)[0], atol=1e-5)
    assert np.abs(rows - asked).max() > 0.01


def test_a_model_of_that_very_name_wins(docs):
    docs.execute(FIT).fetchall()
    docs.execute("SELECT vec_fit_query('m.query', 'truncate(2)', 'SELECT emb FROM docs')").fetchall()
    assert vectors(docs.execute("SELECT vec_transform('m.query', emb) FROM docs")).shape[1] == 2


def test_the_query_side_of_no_model_is_an_error_that_names_what_there_is(docs):
    docs.execute(FIT).fetchall()
    with pytest.raises(duckdb.Error, match=r"no model is named 'x.query'; there are: m"):
        docs.execute("SELECT vec_transform('x.query', emb) FROM docs")


def test_a_search_uses_the_query_side(docs):
    docs.execute(
        "SELECT vec_fit_query('c', 'leanvec(6) | int8', 'SELECT emb FROM docs', 'SELECT emb FROM docs')"
    ).fetchall()
    docs.execute("CREATE TABLE coded AS SELECT id, vec_encode('c', emb) AS code FROM docs")
    q = anisotropic(1, seed=5)
    found = docs.execute(
        "SELECT id FROM vec_search('coded', $1::FLOAT[12], model := 'c', code := 'code', metric := 'ip', k := 5)",
        [q[0].tolist()],
    ).fetchall()
    model = stored(docs, "c")
    scores = model.score(model.prepare(q, "ip"), model.encode(anisotropic())[0])[0]
    assert {i for (i,) in found} == set(np.argsort(-scores)[:5].tolist())
