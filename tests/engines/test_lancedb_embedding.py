"""The embedding function that puts another one's vectors through a model: ingest, text queries, other processes."""

from __future__ import annotations

import subprocess
import sys

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed
from lancedb.embeddings import EmbeddingFunction, EmbeddingFunctionConfig, register

import vecpipe
import vecpipe.lancedb as vl
from vecpipe.engines.lancedb import embedding
from vecpipe.errors import CapabilityError, InputError, ModelNotFoundError
from vecpipe.text import hash_embed

WORDS = ["a red fox runs", "the blue sea is deep", "green grass grows", "red wine and green cheese", "deep blue night"]


def words_of(texts, dim=32):
    return hash_embed(pa.array(texts), dim)[0]


@register("hashed-words")
class HashedWords(EmbeddingFunction):
    """Vectors of texts that need no download."""

    dim: int = 32

    def ndims(self):
        return self.dim

    def compute_source_embeddings(self, texts, *args, **kwargs):
        return list(words_of(self.sanitize_input(texts), self.dim))

    def compute_query_embeddings(self, query, *args, **kwargs):
        return self.compute_source_embeddings(query)


@pytest.fixture
def db(tmp_path):
    return lancedb.connect(tmp_path / "db")


@pytest.fixture
def model():
    X = words_of(WORDS)
    return vecpipe.fit(pa.table({"v": fixed(X)}), "center | pca(4)")


def table_of(db, function, source="body", kind=None):
    fields = [("id", pa.int64()), (source, kind or pa.string()), ("z", pa.list_(pa.float32(), function.ndims()))]
    config = EmbeddingFunctionConfig(source_column=source, vector_column="z", function=function)
    return db.create_table("t", schema=pa.schema(fields), embedding_functions=[config])


@pytest.fixture
def texts(db, model):
    table = table_of(db, vl.transformed(db, model, "hashed-words", dim=32))
    table.add([{"id": i, "body": text} for i, text in enumerate(WORDS)])
    return table


def matrix(table):
    return np.array(table.to_arrow()["z"].to_pylist(), np.float32)


def test_ingest_and_text_queries_go_through_the_model(texts, model):
    X = words_of(WORDS)
    np.testing.assert_allclose(matrix(texts), model.transform(X)[0], atol=1e-6)
    own = texts.search("deep blue sea").select(["id"]).limit(5).to_arrow()["id"].to_pylist()
    q = model.transform_queries(words_of(["deep blue sea"]))[0][0]
    assert own == np.argsort(np.linalg.norm(matrix(texts) - q, axis=1)).tolist()
    ours = vl.search(texts, "deep blue sea", metric="l2", k=5)["id"].to_pylist()
    assert ours == own


def test_a_vector_that_would_go_round_the_function_is_caught_or_transformed(texts):
    raw = words_of(["deep blue sea"])[0]
    assert vl.search(texts, raw, metric="l2").equals(vl.search(texts, "deep blue sea", metric="l2"))
    with pytest.raises(InputError, match="takes 32; the model is applied here"):
        vl.search(texts, np.ones(4, np.float32))


def test_a_table_opened_again_finds_function_and_model_in_the_database(texts, db, monkeypatch):
    monkeypatch.setattr(embedding, "_MODELS", {})
    again = lancedb.connect(db.uri).open_table("t")
    again.add([{"id": 9, "body": "deep blue sea"}])
    assert again.search("deep blue sea").limit(1).to_arrow()["id"].to_pylist() == [9]


def test_a_new_version_of_the_model_does_not_change_a_table(texts, db, model, monkeypatch):
    function = texts.embedding_functions["z"].function
    other = vecpipe.fit(pa.table({"v": fixed(anisotropic(50, 32))}), "center | pca(4)")
    vl.save_model(db, function.name, other)
    monkeypatch.setattr(embedding, "_MODELS", {})
    assert db.open_table("t").embedding_functions["z"].function.fitted().hash == model.hash


def test_a_model_that_is_gone_is_an_error_that_says_what_to_do(texts, db, model, monkeypatch):
    monkeypatch.setattr(embedding, "_MODELS", {})
    db.drop_table("vecpipe_models")
    with pytest.raises(ModelNotFoundError):
        db.open_table("t").embedding_functions["z"].function.fitted()
    name = texts.embedding_functions["z"].function.name
    vl.save_model(db, name, vecpipe.fit(pa.table({"v": fixed(anisotropic(50, 32))}), "pca(4)"))
    with pytest.raises(ModelNotFoundError, match=r"call vecpipe\.lancedb\.keep_model"):
        db.open_table("t").embedding_functions["z"].function.fitted()
    vl.keep_model(model)
    assert db.open_table("t").embedding_functions["z"].function.ndims() == 4


def test_vectors_can_be_the_source_and_null_stays_null(db):
    X = anisotropic(100, 16)
    model = vecpipe.fit(pa.table({"v": fixed(X)}), "normalize | pca(4)")
    table = table_of(db, vl.transformed(db, model), "raw", pa.list_(pa.float32(), 16))
    X[5] = 0
    table.add(pa.table({"id": np.arange(100), "raw": fixed(X, np.arange(100) != 7)}), on_bad_vectors="null")
    found = table.to_arrow()["z"].to_pylist()
    assert [i for i, row in enumerate(found) if row is None] == [5, 7]
    np.testing.assert_allclose([row for row in found if row], model.transform(np.delete(X, [5, 7], 0))[0], atol=1e-6)
    with pytest.raises(CapabilityError, match="wraps no other one"):
        vl.search(table, "words")


def test_what_does_not_fit_is_refused_when_the_function_is_made(db, model):
    coded = vecpipe.fit(pa.table({"v": fixed(anisotropic(50, 32))}), "int8")
    with pytest.raises(CapabilityError, match="writes codes"):
        vl.transformed(db, coded, "hashed-words")
    with pytest.raises(InputError, match="no embedding function 'nothing'; there are"):
        vl.transformed(db, model, "nothing")
    with pytest.raises(InputError, match=r"'hashed-words' returns 8 dimensions, but .* takes 32"):
        vl.transformed(db, model, "hashed-words", dim=8)
    with pytest.raises(ModelNotFoundError, match="nobody"):
        vl.transformed(db, "nobody", "hashed-words")


def test_text_for_a_column_without_a_function_is_refused(db, model):
    table = db.create_table("plain", pa.table({"id": [1], "vector": fixed(anisotropic(1, 32))}))
    vl.add_column(table, "small", model)
    with pytest.raises(InputError, match="q is text, but no embedding function of vecpipe fills column 'small'"):
        vl.search(table, "words")


def test_importing_vecpipe_lancedb_does_not_import_lancedb():
    code = "import sys, vecpipe.lancedb; print(sorted({'lancedb', 'lance'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vl.nothing  # noqa: B018


def test_importing_it_after_lancedb_is_enough_to_add_to_a_table_made_with_it(db, model):
    function = vl.transformed(db, model)
    config = EmbeddingFunctionConfig(source_column="raw", vector_column="vector", function=function)
    schema = pa.schema(
        [("raw", pa.list_(pa.float32(), model.dim)), ("vector", pa.list_(pa.float32(), model.output_dim))]
    )
    db.create_table("raw", schema=schema, embedding_functions=[config])
    code = (
        "import sys, lancedb, vecpipe.lancedb\n"
        f"table = lancedb.connect(sys.argv[1]).open_table('raw'); table.add([{{'raw': [1.0] * {model.dim}}}])\n"
        "print(len(table.to_arrow()['vector'][0]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(db.uri)], capture_output=True, text=True)
    assert done.stdout.strip() == str(model.output_dim), done.stderr


def test_without_lancedb_the_message_says_what_to_install():
    code = (
        "import sys; sys.modules['lancedb'] = None; import vecpipe.lancedb as vl\n"
        "try: vl.ExactRerank\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "vecpipe.lancedb.ExactRerank needs LanceDB: pip install 'vecpipe[lancedb]'"


@pytest.mark.parametrize("name", vl.__all__)
def test_every_public_name_is_there_and_explained(name):
    assert getattr(vl, name).__doc__
