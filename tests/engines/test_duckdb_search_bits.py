"""vec_search_bits: shortlists by differing sign bits, held against counting them in NumPy."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from conftest import anisotropic

import vecpipe

Q = anisotropic(1, 12, seed=5)[0]
SIGNS = "center | rotate | binary"


@pytest.fixture
def signed(docs: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """docs with sign bits as BIT and as BLOB, and a model that writes none."""
    for name, spec in (("signs", SIGNS), ("codes", "normalize | int8")):
        vecpipe.save_model(docs, name, vecpipe.fit(docs, "SELECT emb FROM docs", spec))
    docs.execute("ALTER TABLE docs ADD COLUMN bits BIT").execute("ALTER TABLE docs ADD COLUMN packed BLOB")
    docs.execute("UPDATE docs SET bits = vec_encode('signs', emb)::BIT, packed = vec_encode('signs', emb)")
    return docs


def search(con: duckdb.DuckDBPyConnection, more: str, q: object = Q, source: str = "docs") -> list[tuple]:
    given = {"q": None if q is None else np.asarray(q).tolist()}
    sql = f"SELECT id, score FROM vec_search_bits('{source}', $q::FLOAT[12], model := 'signs', rerank := 'emb', {more})"
    return con.execute(sql, given).fetchall()


def shortlist(con: duckdb.DuckDBPyConnection, X: np.ndarray, count: int) -> tuple[set[int], set[int]]:
    """Return the rows that differ in fewer bits than the last of ``count`` rows, and those that tie with it."""
    model = vecpipe.load_model(con, "signs")
    codes, valid = model.encode(X)
    mine = model.encode(Q[None])[0][0]
    differ = np.bitwise_count(codes ^ mine).sum(axis=1).astype(np.int64)
    differ[~(np.ones(len(X), bool) if valid is None else valid)] = 1_000
    last = np.sort(differ)[count - 1]
    return set(np.flatnonzero(differ < last).tolist()), set(np.flatnonzero(differ == last).tolist())


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("column", ["bits", "packed"])
def test_enough_oversampling_is_exact_search(signed, column, metric):
    found = search(signed, f"bits := '{column}', k := 10, oversample := 60, metric := '{metric}'")
    sql = f"SELECT id, score FROM vec_search('docs', $q, rerank := 'emb', k := 10, metric := '{metric}')"
    exact = signed.execute(sql, {"q": Q.tolist()}).fetchall()
    assert [row for row, _ in found] == [row for row, _ in exact]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in exact], rtol=1e-6)


@pytest.mark.parametrize("column", ["bits", "packed"])
def test_the_rows_of_fewest_differing_bits_are_scored(signed, X, column):
    surely, perhaps = shortlist(signed, X, 40)
    found = {row for row, _ in search(signed, f"bits := '{column}', k := 40, oversample := 1")}
    assert surely <= found <= surely | perhaps
    assert len(found) == 40
    scores = [score for _, score in search(signed, f"bits := '{column}', k := 40, oversample := 1")]
    assert scores == sorted(scores, reverse=True)


def test_the_query_may_be_bytes(signed):
    sql = "SELECT id FROM vec_search_bits('docs', $q::BLOB, model := 'signs', bits := 'bits', rerank := 'emb')"
    as_bytes = signed.execute(sql, {"q": Q.astype("<f4").tobytes()}).fetchall()
    assert as_bytes == [(row,) for row, _ in search(signed, "bits := 'bits'")]


def test_rows_and_queries_without_bits_are_not_found(signed, X):
    signed.execute("UPDATE docs SET bits = NULL WHERE id < 400")
    rows = [row for row, _ in search(signed, "bits := 'bits', k := 1000")]
    assert rows
    assert min(rows) >= 400
    assert search(signed, "bits := 'bits'", np.zeros(12)) == []
    assert search(signed, "bits := 'bits'", None) == []
    signed.execute("DELETE FROM docs")
    assert search(signed, "bits := 'bits'") == []


def test_filters_and_a_column_called_score(signed):
    signed.execute("CREATE VIEW odd AS SELECT *, 'x' AS score FROM docs WHERE id % 2 = 1")
    found = search(signed, "bits := 'bits', k := 5, oversample := 100", source="odd")
    assert [row % 2 for row, _ in found] == [1] * 5
    assert all(isinstance(score, float) for _, score in found)
    sql = """WITH few AS (SELECT * FROM docs WHERE id IN (3, 5))
             SELECT id FROM vec_search_bits('few', $q, model := 'signs', bits := 'bits', rerank := 'emb')"""
    assert sorted(signed.execute(sql, {"q": Q.tolist()}).fetchall()) == [(3,), (5,)]


def test_each_query_of_a_lateral_join_finds_its_own(signed):
    sql = """SELECT a.id, s.id FROM (SELECT id, emb FROM docs WHERE id IN (3, 50, 77)) a,
             LATERAL vec_search_bits('docs', a.emb, model := 'signs', bits := 'bits', rerank := 'emb', k := 1) s"""
    assert sorted(signed.execute(sql).fetchall()) == [(3, 3), (50, 50), (77, 77)]


def test_what_cannot_be_searched_is_named(signed):
    sql = "FROM vec_search_bits('docs', $q, model := 'codes', bits := 'bits', rerank := 'emb')"
    with pytest.raises(duckdb.Error, match=r"int8' does not write sign bits; fit a spec that ends in binary"):
        signed.execute(sql, {"q": Q.tolist()}).fetchall()
    signed.execute("ALTER TABLE docs ADD COLUMN other BIT")
    signed.execute("UPDATE docs SET other = '101'::BIT")
    with pytest.raises(duckdb.Error, match=r"other: a row holds 3 bits, but the codes of model 'signs' have 16"):
        search(signed, "bits := 'other'")
    signed.begin()
    vecpipe.save_model(signed, "signs", vecpipe.fit(signed, "SELECT emb FROM docs", "rotate | binary"))
    with pytest.raises(duckdb.Error, match="COMMIT before searching"):
        search(signed, "bits := 'bits'")
    signed.rollback()


def test_the_shortlist_is_counted_by_duckdb_itself(signed, monkeypatch):
    """The bits of the query are made while the statement is planned, not for every chunk of the table."""
    signed.execute("CREATE TABLE many AS SELECT * FROM docs, range(20)")
    calls = []
    made = vecpipe.Model.query_bits
    monkeypatch.setattr(vecpipe.Model, "query_bits", lambda *given: calls.append(1) or made(*given))
    sql = "SELECT id FROM vec_search_bits('many', $q::BLOB, model := 'signs', bits := 'bits', rerank := 'emb', k := 2)"
    assert len(signed.execute(sql, {"q": Q.astype("<f4").tobytes()}).fetchall()) == 2
    assert len(calls) == 1


def test_recall_of_bits_is_measured(signed):
    sql = """SELECT recall FROM vec_recall('docs', 'docs', 'emb', model := 'signs', bits := 'bits', rerank := 'emb',
                                           oversample := {}, sample := 20)"""
    few, many = (signed.execute(sql.format(o)).fetchall()[0][0] for o in (1, 60))
    assert few < many == 1.0
