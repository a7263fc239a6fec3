"""Rerankers in LanceDB's own search, against the formulae in NumPy."""

from __future__ import annotations

from itertools import pairwise

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed
from lancedb.index import FTS

import vecpipe.lancedb as vl
from vecpipe.errors import InputError, SpecError
from vecpipe.scoring import max_sim
from vecpipe.search.querybank import QueryBank


@pytest.fixture(scope="module", name="X")
def rows_of_docs():
    X = anisotropic(300, 16, seed=2)
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def docs(X, tmp_path_factory):
    db = lancedb.connect(tmp_path_factory.mktemp("db"))
    body = [f"{'even' if i % 2 == 0 else 'odd'} row" for i in range(len(X))]
    vectors = pa.array([None if i == 7 else row for i, row in enumerate(X.tolist())], fixed(X).type)
    columns = {"id": np.arange(len(X)), "small": fixed(X[:, :4].copy()), "emb": vectors, "body": body}
    table = db.create_table("docs", pa.table(columns), on_bad_vectors="null")
    table.create_index("body", config=FTS())
    return table


def search(docs, q, columns=("id", "emb")):
    return docs.search(q[:4], vector_column_name="small").select([*columns, "_distance"]).limit(300)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_candidates_of_a_small_column_are_ranked_by_the_raw_one(docs, X, metric):
    q = X[5] * 3
    found = search(docs, q).rerank(reranker=vl.ExactRerank(q, "emb", metric), query_string="-").to_arrow()
    exact = {"cosine": X @ X[5], "ip": X @ q, "l2": -np.linalg.norm(X - q, axis=1)}[metric]
    want = [i for i in np.argsort(-exact) if i != 7]
    assert found["id"].to_pylist()[:20] == want[:20]
    assert sorted(found["id"].to_pylist()) == sorted(want)
    np.testing.assert_allclose(found["_relevance_score"].to_numpy(), exact[found["id"].to_pylist()], atol=1e-5)


def test_words_and_vectors_are_ranked_by_the_raw_vectors(docs, X):
    query = docs.search(query_type="hybrid", vector_column_name="small").vector(X[5][:4]).text("even")
    found = query.rerank(reranker=vl.ExactRerank(X[5], "emb")).limit(5).to_arrow()
    scores = found["_relevance_score"].to_numpy()
    np.testing.assert_allclose(scores, (X @ X[5])[found["id"].to_pylist()], atol=1e-5)
    assert (np.diff(scores) <= 0).all()
    words = docs.search("even", query_type="fts").rerank(reranker=vl.ExactRerank(X[5], "emb")).limit(300).to_arrow()
    assert set(np.array(words["id"]) % 2) == {0}


def test_a_column_that_was_not_selected_is_an_error_that_says_so(docs, X):
    with pytest.raises(InputError, match=r"no column 'emb' to score; select it too"):
        search(docs, X[0], ["id"]).rerank(reranker=vl.ExactRerank(X[0], "emb"), query_string="-").to_arrow()


@pytest.mark.parametrize(
    ("q", "metric", "error", "words"),
    [(np.full(16, np.nan), "ip", InputError, "^q: "), (np.ones(16), "dot", SpecError, "metric is 'dot'")],
)
def test_what_is_no_query_or_metric_is_refused(q, metric, error, words):
    with pytest.raises(error, match=words):
        vl.ExactRerank(q, "emb", metric)


# A bank of queries


def naive(s, bank, X, beta):
    """The inverted softmax as the paper writes it."""
    return np.exp(beta * s) / np.exp(beta * (bank @ X.T).astype(np.float64)).sum(axis=0)


def test_normalised_scores_are_logs_of_the_inverted_softmax(X):
    bank, gallery = X[:50], X[50:]
    scores = gallery @ X[0]
    got = QueryBank(bank, "ip", 5.0).normalise(scores, gallery)
    np.testing.assert_allclose(got, np.log(naive(scores, bank, gallery, 5.0)), rtol=1e-4)


def test_large_scores_do_not_overflow(X):
    got = QueryBank(X[:5] * 1e4, "ip").normalise(X[50:] @ X[0] * np.float32(1e4), X[50:])
    assert np.isfinite(got).all()


def test_a_hub_steps_back_and_equal_denominators_change_nothing(X):
    hub = X[:50].mean(axis=0)
    hub *= 2 / np.linalg.norm(hub)
    query = X[50:100][(X[50:100] @ hub).argmax()]
    gallery = np.concatenate([[hub], X[100:]]).astype(np.float32)
    bank = QueryBank(X[:50], "ip")
    raw = gallery @ query
    assert raw.argmax() == 0
    assert bank.normalise(raw, gallery).argmax() != 0
    same = np.tile(X[200], (5, 1))
    scores = np.arange(5, dtype=np.float32)
    assert np.argsort(bank.normalise(scores, same)).tolist() == [0, 1, 2, 3, 4]


def test_rows_and_bank_queries_without_direction(X):
    zero = np.zeros((1, 16), np.float32)
    with_zero = QueryBank(np.concatenate([X[:5], zero]))
    np.testing.assert_allclose(with_zero.log_denominators(X[9:20]), QueryBank(X[:5]).log_denominators(X[9:20]))
    assert np.isnan(with_zero.log_denominators(zero)).all()
    with pytest.raises(InputError, match="at least one query"):
        QueryBank(X[:0])
    with pytest.raises(InputError, match="beta is 0"):
        QueryBank(X[:5], beta=0)


def test_lists_are_normalised_always_or_where_their_nearest_row_is_a_hub(docs, X):
    bank = QueryBank(X[100:150])
    kept = np.array([i for i in range(len(X)) if i != 7])
    raw = kept[np.argsort(-(X[kept] @ X[5]), kind="stable")].tolist()
    normal = kept[np.argsort(-naive(X[kept] @ X[5], X[100:150], X[kept], 20.0), kind="stable")].tolist()
    assert raw[:50] != normal[:50]

    def ranked(**options):
        reranker = vl.QueryBankRerank(X[5], "emb", bank, **options)
        return search(docs, X[5]).rerank(reranker=reranker, query_string="-").to_arrow()["id"].to_pylist()

    assert ranked()[:50] == normal[:50]
    assert ranked(hubs={5}, id="id")[:50] == normal[:50]
    assert ranked(hubs=set(), id="id")[:50] == raw[:50]
    with pytest.raises(InputError, match="no column 'key'"):
        ranked(hubs={5}, id="key")


# Sets of vectors


def test_max_sim_is_the_sum_of_best_matches(X):
    offsets = np.array([0, 3, 3, 10, 11])
    want = [(X[:4] @ X[a:b].T).max(axis=1).sum() if a < b else np.nan for a, b in pairwise(offsets)]
    np.testing.assert_allclose(max_sim(X[:4], X[:11], offsets), want, rtol=1e-5)
    assert max_sim(X[:4], X[:0], np.array([0, 0])).shape == (1,)
    assert max_sim(X[:4], X[:0], np.array([0])).shape == (0,)


def test_candidates_are_ranked_by_their_sets_of_vectors(X, tmp_path):
    sets = [X[i : i + 1 + i % 4].tolist() for i in range(100)]
    sets[3], sets[4] = None, []
    column = pa.array(sets, pa.list_(pa.list_(pa.float32(), 16)))
    table = lancedb.connect(tmp_path).create_table(
        "t", pa.table({"id": np.arange(100), "v": fixed(X[:100]), "s": column})
    )
    query = table.search(X[9], vector_column_name="v").limit(100)
    found = query.rerank(reranker=vl.MaxSimRerank(X[20:23], "s"), query_string="-").to_arrow()
    want = {i: (X[20:23] @ np.array(s, np.float32).T).max(axis=1).sum() for i, s in enumerate(sets) if s}
    assert sorted(found["id"].to_pylist()) == sorted(want)
    scores = found["_relevance_score"].to_numpy()
    np.testing.assert_allclose(scores, [want[i] for i in found["id"].to_pylist()], rtol=1e-5)
    assert (np.diff(scores) <= 0).all()
    with pytest.raises(InputError, match="v: expected lists of vectors"):
        query.rerank(reranker=vl.MaxSimRerank(X[20:23], "v"), query_string="-").to_arrow()
