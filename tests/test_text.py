"""Hashed text: stable vectors of length one, the same wherever a text stands."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecpipe.errors import InputError
from vecpipe.text import hash_embed

TEXTS = [
    "Read a Parquet file into a table.",
    "Write a table to a Parquet file",
    "the quick brown fox",
    "",
    None,
    "   \n\t",
    "!!! ... ???",
    "the",
    "naïve café 東京 🦆",
    "x",
    "a_b_c 123",
    "word " * 500,
    "🦆" * 40,
]


def embed(texts: list[str | None], dim: int = 64) -> tuple[np.ndarray, np.ndarray]:
    values, valid = hash_embed(pa.array(texts, pa.string()), dim)
    return values, np.ones(len(texts), bool) if valid is None else valid


def test_vectors_are_float32_of_length_one_and_texts_without_words_have_none():
    values, valid = embed(TEXTS)
    assert values.dtype == np.float32
    assert values.shape == (len(TEXTS), 64)
    np.testing.assert_allclose(np.linalg.norm(values[valid], axis=1), 1, rtol=1e-5)
    assert not values[~valid].any()
    assert [TEXTS[i] for i in np.flatnonzero(~valid)][:4] == ["", None, "   \n\t", "!!! ... ???"]


def test_vectors_are_the_same_in_every_process_and_release():
    values, _ = embed(["Read a Parquet file into a table."], 16)
    digest = hashlib.sha256(np.round(values, 4).astype("<f4").tobytes()).hexdigest()
    assert digest == "d0db7dd253f3ccf2212eb9f99a0a24ac0ab1e7ccc263ae169720a560d2e0e923"


@pytest.mark.parametrize("size", [1, 3, 7])
def test_vectors_do_not_depend_on_the_batch_or_the_slice(size):
    whole, _ = embed(TEXTS)
    column = pa.array(TEXTS, pa.string())
    for start in range(0, len(TEXTS), size):
        values, _ = hash_embed(column.slice(start, size), 64)
        np.testing.assert_array_equal(values, whole[start : start + size])


def test_blocks_of_long_texts_are_the_same_as_one_at_a_time():
    texts = [f"text number {i} " * (1 + i % 400) for i in range(300)]
    whole, _ = embed(texts)
    for i in (0, 1, 150, 299):
        np.testing.assert_array_equal(embed([texts[i]])[0][0], whole[i])


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_text_column_gives_the_same(kind):
    expected, _ = embed(TEXTS)
    column = pa.array(TEXTS, pa.string())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    np.testing.assert_array_equal(hash_embed(column, 64)[0], expected)
    np.testing.assert_array_equal(hash_embed(pa.chunked_array([column[:4], column[4:]]), 64)[0], expected)


def test_no_texts_and_nulls_alone_are_fine():
    assert hash_embed(pa.array([], pa.string()), 8)[0].shape == (0, 8)
    values, valid = hash_embed(pa.nulls(3), 8)
    assert values.shape == (3, 8)
    assert not valid.any()
    _, valid = embed([None, None])
    assert not valid.any()


def test_case_and_blanks_do_not_matter_and_words_do():
    values, _ = embed(["Parquet  FILE", "parquet file", "file parquet", "duckdb"], 256)
    np.testing.assert_array_equal(values[0], values[1])
    assert values[1] @ values[2] > 0.6
    assert not np.array_equal(values[1], values[2])
    assert abs(values[1] @ values[3]) < 0.3


def test_texts_that_share_words_are_nearer_than_texts_that_do_not():
    values, _ = embed(["read a parquet file", "reading parquet files", "sort the list of numbers"], 512)
    assert values[0] @ values[1] > values[0] @ values[2] + 0.2


@given(st.lists(st.one_of(st.none(), st.text(max_size=30)), max_size=12), st.integers(8, 40))
def test_any_text_gives_a_vector_of_length_one_or_none(texts, dim):
    texts = [None if text is None else text.encode("utf8", "ignore").decode() for text in texts]
    values, valid = embed(texts, dim)
    lengths = np.linalg.norm(values, axis=1)
    np.testing.assert_allclose(lengths[valid], 1, rtol=1e-5)
    assert not lengths[~valid].any()
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(embed([text], dim)[0][0], values[i])


@pytest.mark.parametrize("dim", [7, 0, -1, 65_537])
def test_the_width_has_a_range(dim):
    with pytest.raises(InputError, match=f"d is {dim}; expected an integer from 8"):
        hash_embed(pa.array(["a"]), dim)


@pytest.mark.parametrize("column", [pa.array([1]), pa.array([b"a"]), pa.array([["a"]])])
def test_what_is_no_text_is_an_input_error(column):
    with pytest.raises(InputError, match="expected text"):
        hash_embed(column, 8)
