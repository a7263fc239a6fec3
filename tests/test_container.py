"""The byte format: what is written is read back, and no other bytes are anything but a ModelFormatError."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecpipe import container
from vecpipe.errors import ModelFormatError

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.zeros((0, 4), np.float64),
    "c": np.array([1, -1], np.int8),
    "d": np.array(3, np.uint64),
}
DATA = container.write("thing", {"x": 1, "text": "é", "list": [1, None]}, ARRAYS)


def header_of(data: bytes) -> dict[str, object]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size])


def with_header(header: object, rest: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def test_what_is_written_is_read_back():
    record, arrays = container.read("thing", DATA)
    assert record == {"x": 1, "text": "é", "list": [1, None]}
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_the_same_content_gives_the_same_bytes_whatever_the_order_or_layout():
    turned = {name: np.asfortranarray(ARRAYS[name]) for name in reversed(list(ARRAYS))}
    assert container.write("thing", {"list": [1, None], "text": "é", "x": 1}, turned) == DATA


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_is_read(kind):
    assert container.read("thing", kind(DATA))[0]["x"] == 1


@pytest.mark.parametrize("thing", [None, "text", 3, [1, 2]])
def test_what_is_no_bytes_is_a_model_format_error(thing):
    with pytest.raises(ModelFormatError, match="expected bytes"):
        container.read("thing", thing)


def test_another_kind_is_named():
    with pytest.raises(ModelFormatError, match="expected a model, but these bytes hold a 'thing'"):
        container.read("model", DATA)


def test_a_newer_format_says_to_upgrade():
    header = header_of(DATA)
    head = json.loads(header["__metadata__"]["vecpipe"]) | {"format": 99}
    header["__metadata__"]["vecpipe"] = json.dumps(head)
    with pytest.raises(ModelFormatError, match=r"version 99.*upgrade"):
        container.read("thing", with_header(header))


@given(st.binary(max_size=300))
def test_random_bytes_are_a_model_format_error(data):
    with pytest.raises(ModelFormatError):
        container.read("thing", data)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=40))
def test_a_lying_header_length_is_a_model_format_error(size, rest):
    with pytest.raises(ModelFormatError):
        container.read("thing", size.to_bytes(8, "little") + rest)


json_value = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@given(json_value)
def test_any_json_header_is_a_model_format_error(header):
    with pytest.raises(ModelFormatError):
        container.read("thing", with_header(header))
    with pytest.raises(ModelFormatError):
        container.read("thing", with_header({"__metadata__": {"vecpipe": json.dumps(header)}}))


@given(json_value)
def test_any_head_is_a_model_format_error(value):
    head = {"hash": "x", "kind": "thing", "format": 1, "record": value}
    with pytest.raises(ModelFormatError):
        container.read("thing", with_header({"__metadata__": {"vecpipe": json.dumps(head)}}))


@pytest.mark.parametrize("depth", [1_000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_deep_json_is_a_model_format_error(depth, brackets):
    opening, closing = brackets[:-1], brackets[-1]
    deep = opening * depth + "1" + closing * depth
    head = f'{{"hash":"x","kind":"thing","format":1,"record":{deep}}}'
    for header in (deep.encode(), json.dumps({"__metadata__": {"vecpipe": head}}).encode()):
        with pytest.raises(ModelFormatError):
            container.read("thing", with_header(header))


def test_a_number_of_many_digits_is_a_model_format_error():
    head = '{"hash":"x","kind":"thing","format":1,"record":{"dim":' + "9" * 10_000 + "}}"
    with pytest.raises(ModelFormatError):
        container.read("thing", with_header({"__metadata__": {"vecpipe": head}}))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 60]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "X", "shape": [1], "data_offsets": [0, 4]},
    ],
    ids=str,
)
def test_arrays_that_lie_about_their_size_or_type_are_refused(entry):
    head = {"hash": "x", "kind": "thing", "format": 1, "record": {}}
    header = {"__metadata__": {"vecpipe": json.dumps(head)}, "a": entry}
    with pytest.raises(ModelFormatError):
        container.read("thing", with_header(header, b"\0" * 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_records_hold_finite_numbers_only(value):
    with pytest.raises(ValueError, match="JSON"):
        container.write("thing", {"x": value}, {})
    with pytest.raises(ModelFormatError, match="finite"):
        container.number({"x": value}, "x")


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 11, [1]])
def test_integers_of_a_record_are_checked(value):
    with pytest.raises(ModelFormatError, match=r"x is .*expected an integer from 0 to 10"):
        container.integer({"x": value}, "x", 0, 10)
