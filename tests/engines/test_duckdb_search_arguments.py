"""Searches of tables whose columns are called like parts of the search, and with numbers that are none."""

from __future__ import annotations

import duckdb
import pytest

import vecpipe

Q = "[.1, .2, .3]::FLOAT[3]"
WAYS = {
    "exact": "vec_search('docs', {q}, rerank := 'emb', k := {k})",
    "ties": "vec_search('docs', {q}, rerank := 'emb', ties := 'id', k := {k})",
    "code": "vec_search('docs', {q}, code := 'code', model := 'm', rerank := 'emb', oversample := 100, k := {k})",
    "cells": "vec_search('docs', {q}, cell := 'cell', nprobe := 4, model := 'm', rerank := 'emb', k := {k})",
    "index": "vec_search('docs', {q}, index := 'i', nprobe := 4, oversample := 100, rerank := 'emb', k := {k})",
    "bits": "vec_search_bits('docs', {q}, 'bits', 'emb', 'b', k := {k}, oversample := 200)",
    "stages": "vec_search_stages('docs', {q}, ['bits', 'code', 'emb'], ['b', 'm'], k := {k}, oversample := [200, 100])",
    "stages in cells": "vec_search_stages('docs', {q}, ['bits', 'code', 'emb'], ['b', 'm', 'm'], cell := 'cell', "
    "nprobe := 4, k := {k}, oversample := [200, 100])",
}


@pytest.fixture(scope="module")
def con():
    con = vecpipe.connect()
    con.execute("""
        CREATE TABLE docs AS
        SELECT i AS id, [sin(i), cos(i), i / 100]::FLOAT[3] AS emb, 'x' AS "Score", 7 AS _vec_score, -i AS _vec_tie,
               -i AS _vec_coarse, -i AS _vec_row, -i AS _vec_c_id, 'é' AS scorə
        FROM range(500) AS r(i)
    """)
    con.execute("SELECT vec_fit_query('m', 'normalize | cells(4) | int8', 'SELECT emb FROM docs')")
    con.execute("SELECT vec_fit_query('b', 'normalize | binary', 'SELECT emb FROM docs')")
    con.execute("""
        CREATE TABLE coded AS
        SELECT *, vec_encode('m', emb) AS code, vec_cell('m', emb) AS cell, vec_encode('b', emb) AS bits FROM docs
    """)
    con.execute("DROP TABLE docs; ALTER TABLE coded RENAME TO docs")
    con.execute("SELECT vec_index('i', 'docs', 'm')")
    yield con
    con.close()


@pytest.mark.parametrize("way", WAYS)
def test_columns_may_be_called_like_parts_of_the_search(con, way):
    sql = f"SELECT id, array_cosine_similarity(emb, {Q}) FROM docs ORDER BY 2 DESC, id LIMIT 5"
    expected = [(i, pytest.approx(score, abs=1e-6)) for i, score in con.execute(sql).fetchall()]
    found = con.execute("FROM " + WAYS[way].format(q=Q, k=5))
    names = [column[0] for column in found.description]
    kept = ["id", "emb", "_vec_score", "_vec_tie", "_vec_coarse", "_vec_row", "_vec_c_id", "scorə"]
    assert names == [*kept, "code", "cell", "bits", "score"]
    rows = found.fetchall()
    assert [(row[0], row[-1]) for row in rows] == expected
    assert all(row[2] == 7 and row[6] == -row[0] for row in rows)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("k", ["NULL", "0", "-1", "2.5", "NULL::BIGINT"])
def test_k_is_a_whole_number_of_at_least_one(con, way, k):
    with pytest.raises(duckdb.Error, match=r"k is .*expected (a )?whole numbers? of at least 1"):
        con.execute("FROM " + WAYS[way].format(q=Q, k=k)).fetchall()


@pytest.mark.parametrize("way", WAYS)
def test_k_is_at_most_the_largest_limit(con, way):
    found = con.execute("FROM " + WAYS[way].format(q=Q, k=2**62)).fetchall()
    assert len(found) == 500
    for k in (2**62 + 1, 2**63 - 1, 10**30):
        with pytest.raises(duckdb.Error, match=f"k is {k}; expected at most {2**62}"):
            con.execute("FROM " + WAYS[way].format(q=Q, k=k)).fetchall()


@pytest.mark.parametrize("wrong", ["NULL", "'nan'::DOUBLE"])
def test_the_bound_of_a_range_is_a_number(con, wrong):
    call = f"vec_search_range('docs', {Q}, {wrong}, rerank := 'emb')"
    with pytest.raises(duckdb.Error, match=r"min_score is .*expected a number"):
        con.execute(f"FROM {call}").fetchall()
    call = f"vec_search_range('docs', {Q}, 0.9, rerank := 'emb', code := 'code', model := 'm', margin := {wrong})"
    with pytest.raises(duckdb.Error, match=r"margin is .*expected a number"):
        con.execute(f"FROM {call}").fetchall()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_more_queries_than_a_chunk_holds_find_what_a_join_finds(con, metric):
    con.execute(
        "CREATE OR REPLACE TEMP VIEW asked AS SELECT i AS id, [cos(i), i % 7, 1]::FLOAT[3] AS emb FROM range(2100) r(i)"
    )
    con.execute("CREATE OR REPLACE TEMP VIEW few AS SELECT id, emb FROM docs LIMIT 70")
    lateral = f"""
        SELECT a.id, f.id, f.score
        FROM asked AS a,
             LATERAL vec_search('few', a.emb, rerank := 'emb', ties := 'id', k := 2, metric := '{metric}') AS f
        ORDER BY 1, 3 DESC, 2
    """
    joined = f"vec_knn_join('asked', 'few', k := 2, metric := '{metric}')"
    join = f"SELECT query_id, id, score FROM {joined} ORDER BY 1, 3 DESC, 2"
    found = con.execute(lateral).fetchall()
    assert len(found) == 4200
    assert found == con.execute(join).fetchall()


def test_two_databases_with_a_model_of_one_name_do_not_share_its_queries():
    rows = "SELECT [cos(i), i % 7, 1, sin(i)]::FLOAT[4] AS emb FROM range(50) AS r(i)"
    found = []
    for spec in ("normalize | int8", "normalize | rotate(seed=7) | int8"):
        with vecpipe.connect(config={"threads": 1}) as con:
            con.execute(f"CREATE TABLE docs AS {rows}")
            con.execute(f"SELECT vec_fit_query('m', '{spec}', 'SELECT emb FROM docs')")
            asked = con.execute("SELECT vec_query('m', emb) FROM docs").fetchall()
            found.append(set(asked))
    assert [len(handles) for handles in found] == [50, 50]
    assert not found[0] & found[1]
