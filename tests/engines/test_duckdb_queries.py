"""Two-sided models in SQL: a sample of queries for the fit, and the query side of a model by name."""

from __future__ import annotations

import tracemalloc

import duckdb
import numpy as np
import pytest
from conftest import anisotropic, vectors

import vecpipe
from vecpipe.engines.duckdb import handles
from vecpipe.model import Model
from vecpipe.settings import ByteLimit

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


@pytest.mark.parametrize("end", [";", " -- all of them", " /* all; of them */ ; -- and no more"])
def test_a_query_may_end_in_a_semicolon_or_a_comment(docs, end):
    docs.execute("SELECT vec_fit_query('w', 'center', $1, $1)", [f"SELECT emb, id AS weight FROM docs{end}"]).fetchall()
    weighted = vecpipe.fit(docs, "SELECT emb, id AS weight FROM docs", "center", weight="weight")
    assert stored(docs, "w").hash == weighted.hash


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT emb FROM docs; DROP TABLE docs",
        "SELECT emb FROM docs); DROP TABLE docs; SELECT (1",
        "DROP TABLE docs",
        "UPDATE docs SET id = 1 RETURNING emb",
        " -- nothing",
    ],
)
@pytest.mark.parametrize("arguments", ["$1", "'SELECT emb FROM docs', $1"])
def test_what_is_not_one_select_is_refused_and_not_run(docs, sql, arguments):
    before = docs.execute("SELECT sum(id), count(emb) FROM docs").fetchall()
    with pytest.raises(duckdb.Error, match=r"vec_fit_query.*(one SELECT|syntax error)"):
        docs.execute(f"SELECT vec_fit_query('m', 'leanvec(4)', {arguments})", [sql]).fetchall()
    assert docs.execute("SELECT sum(id), count(emb) FROM docs").fetchall() == before
    assert docs.execute("SELECT count(*) FROM vecpipe.models").fetchall() == [(0,)]


def test_queries_count_with_the_bytes_they_take(docs, monkeypatch):
    model = vecpipe.fit(docs, "SELECT emb FROM docs", "center | int8")
    many = anisotropic(2_000, 64, seed=3)
    room = 4 * many.nbytes
    monkeypatch.setattr(handles, "_QUERIES", handles._Shelf("q", ByteLimit("VECPIPE_NOT_SET", 2_000 * (64 * 4 + 640))))
    made = [handles.keep_query(None, many[i : i + 1], "cosine") for i in range(2_000)]
    assert all(np.array_equal(handles.query_of(handle).raw[0], q) for handle, q in zip(made, many, strict=True))
    assert handles.query_of(made[0]).raw.base is None
    tracemalloc.start()
    shelf = handles._Shelf("q", ByteLimit("VECPIPE_NOT_SET", room))
    monkeypatch.setattr(handles, "_QUERIES", shelf)
    for i in range(1_000):
        handles.keep_query(model, many[i : i + 1, :12], "cosine")
        handles.keep_query(None, many[i : i + 1], "cosine")
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.5 * shelf._size < held < 2 * shelf._size


def test_a_join_with_more_queries_than_memory_holds_says_what_to_do(docs, monkeypatch):
    monkeypatch.setattr(handles, "_QUERIES", handles._Shelf("q", ByteLimit("VECPIPE_NOT_SET", 20_000)))
    asked = "WITH asked AS MATERIALIZED (SELECT emb, vec_query(NULL, emb) AS query FROM docs)"
    sql = f"{asked} SELECT sum(vec_exact(emb, query)) FROM asked"
    with pytest.raises(duckdb.Error, match=r"VECPIPE_QUERY_CACHE_BYTES to more, or join with vec_knn_join"):
        docs.execute(sql).fetchall()


@pytest.mark.parametrize("given", ["target", "budget"])
def test_advice_about_what_is_no_number_is_refused(docs, given):
    with pytest.raises(duckdb.Error, match=f"vec_advise: {given} is 'x'; expected a number"):
        docs.execute(f"FROM vec_advise('docs', 'emb', {given} := 'x')").fetchall()
