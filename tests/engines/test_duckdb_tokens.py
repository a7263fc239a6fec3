"""Codes of centroids as words: what vec_tokens gives, and what words two codes share."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

import vecpipe
from vecpipe.model import Model


def model_named(con: duckdb.DuckDBPyConnection, spec: str) -> Model:
    model = vecpipe.fit(con, "SELECT emb FROM docs", spec)
    vecpipe.save_model(con, "m", model)
    return model


def tokens_and_codes(con: duckdb.DuckDBPyConnection) -> tuple[list[list[str]], np.ndarray]:
    rows = con.execute("""
        SELECT vec_tokens('m', code), code FROM (SELECT id, vec_encode('m', emb) AS code FROM docs) ORDER BY id
    """).fetchall()
    return [row[0] for row in rows], np.array([np.frombuffer(row[1], np.uint8) for row in rows])


@pytest.mark.parametrize("spec", ["pq(5)", "center | pq(4)", "opq(3)", "rvq(2)"])
def test_tokens_are_the_bytes_of_a_code_with_their_places(docs, spec):
    model_named(docs, spec)
    tokens, codes = tokens_and_codes(docs)
    assert tokens == [[f"p{place}c{number}" for place, number in enumerate(code)] for code in codes.tolist()]


@pytest.mark.parametrize("spec", ["pq(5, bits=4)", "rvq(3, bits=4)", "pq(4, bits=4)"])
def test_tokens_of_4_bits_are_those_of_the_nibbles(docs, spec):
    model = model_named(docs, spec)
    tokens, codes = tokens_and_codes(docs)
    nibbles = np.stack([codes >> 4, codes & 15], axis=2).reshape(len(codes), -1)[:, : model.codec.m]
    assert tokens == [[f"p{place}c{number}" for place, number in enumerate(code)] for code in nibbles.tolist()]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_token_names_the_centroid_that_the_code_decodes_to(docs, bits):
    model = model_named(docs, f"pq(4, bits={bits})")
    tokens, codes = tokens_and_codes(docs)
    words = model.codec.state["words"]
    named = [[int(token.split("c")[1]) for token in row] for row in tokens]
    decoded = [np.concatenate([words[c, 3 * p : 3 * p + 3] for p, c in enumerate(row)]) for row in named]
    np.testing.assert_array_equal(decoded, model.decode(codes))


def test_codes_share_as_many_tokens_as_they_have_pieces_alike(docs):
    model_named(docs, "pq(6)")
    wrong = docs.execute("""
        WITH coded AS (SELECT id, vec_encode('m', emb) AS code FROM docs WHERE id < 60)
        SELECT count(*) FILTER (shared <> 6 - hamming), count(DISTINCT shared), max(shared)
        FROM (SELECT len(list_intersect(vec_tokens('m', a.code), vec_tokens('m', b.code))) AS shared,
                     len(list_filter(range(6), lambda i: hex(a.code)[2 * i + 1 : 2 * i + 2]
                                                         <> hex(b.code)[2 * i + 1 : 2 * i + 2])) AS hamming
              FROM coded AS a, coded AS b)
    """).fetchone()
    assert wrong[0] == 0
    assert wrong[1] > 2
    assert wrong[2] == 6


def test_null_gives_null_and_models_may_differ_by_row(docs):
    for name, spec in {"a": "pq(3)", "b": "pq(2)"}.items():
        vecpipe.save_model(docs, name, vecpipe.fit(docs, "SELECT emb FROM docs", spec))
    rows = docs.execute("""
        SELECT vec_tokens(name, CASE WHEN id <> 1 THEN vec_encode(name, emb) END), name
        FROM (SELECT id, emb, CASE WHEN id = 2 THEN NULL WHEN id % 2 = 0 THEN 'a' ELSE 'b' END AS name FROM docs)
        WHERE id < 6 ORDER BY id
    """).fetchall()
    assert [None if tokens is None else len(tokens) for tokens, _ in rows] == [3, None, None, 2, 3, 2]
    assert docs.execute("SELECT vec_tokens('a', NULL), vec_tokens(NULL, ''::BLOB)").fetchall() == [(None, None)]


def test_codes_without_centroids_are_refused(docs):
    model_named(docs, "center | int8")
    with pytest.raises(duckdb.Error, match=r"'center \| int8' writes no numbers of centroids"):
        tokens_and_codes(docs)


def test_a_code_of_another_length_is_refused(docs):
    model_named(docs, "pq(3)")
    with pytest.raises(duckdb.Error, match="vec_tokens: code: row 0 holds 2 bytes"):
        docs.execute("SELECT vec_tokens('m', 'ab'::BLOB)").fetchall()
