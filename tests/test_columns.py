"""Columns to matrices: every layout gives the same matrix, every bad row an error that names it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed
from hypothesis import given
from hypothesis import strategies as st

import vecpipe
from vecpipe.columns.codes import from_codes
from vecpipe.columns.results import to_codes, to_vectors
from vecpipe.columns.vectors import to_rows
from vecpipe.errors import InputError, SpecError
from vecpipe.rules import nonfinite_rows

X = anisotropic(40, 5).astype(np.float16).astype(np.float32)
LISTS = X.tolist()


def layouts() -> dict[str, object]:
    f32 = pa.list_(pa.float32())
    return {
        "fixed": fixed(X),
        "fixed16": fixed(X.astype(np.float16)),
        "fixed64": fixed(X.astype(np.float64)),
        "list": pa.array(LISTS, f32),
        "list16": pa.array(LISTS, pa.list_(pa.float16())),
        "list64": pa.array(LISTS),
        "large": pa.array(LISTS, pa.large_list(pa.float32())),
        "view": pa.array(LISTS, pa.list_view(pa.float32())),
        "view, back to front": pa.array(LISTS[::-1], pa.large_list_view(pa.float32())).take(np.arange(40)[::-1]),
        "sliced view": pa.array([None, *LISTS, None], pa.list_view(pa.float32())).slice(1, 40),
        "sliced fixed": pa.concat_arrays([fixed(X[:3]), fixed(X), fixed(X[:2])]).slice(3, 40),
        "sliced list": pa.concat_arrays([pa.array(LISTS[:3], f32), pa.array(LISTS, f32)]).slice(3),
        "chunked": pa.chunked_array([fixed(X[:7]), fixed(X[7:])]),
        "one chunk": pa.chunked_array([fixed(X)]),
        "dictionary": pa.DictionaryArray.from_arrays(pa.array(range(40)), fixed(X)),
        "lists of Python": LISTS,
        "arrays of NumPy": list(X),
        "matrix": X,
        "matrix64": X.astype(np.float64),
        "matrix by columns": np.asfortranarray(X),
        "matrix big endian": X.astype(">f4"),
    }


@pytest.mark.parametrize("layout", layouts())
def test_every_layout_gives_the_same_matrix(layout):
    rows = to_rows(layouts()[layout])
    np.testing.assert_array_equal(rows.values, X)
    assert rows.values.dtype == np.float32
    assert rows.values.flags.c_contiguous
    assert rows.valid is None
    assert (rows.nulls, rows.invalid) == (0, 0)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int64(), pa.decimal128(6, 1)])
def test_integers_and_decimals_are_numbers(kind):
    values = [[1, 2], [3, 4]]
    np.testing.assert_array_equal(to_rows(pa.array(values, pa.list_(kind))).values, values)


def test_a_fixed_column_of_float32_is_not_copied():
    column = fixed(X)
    assert np.shares_memory(to_rows(column).values, column.values.to_numpy())
    assert np.shares_memory(to_rows(column.slice(5, 9)).values, column.values.to_numpy())


def null_layouts() -> list[object]:
    values = [None if i % 4 == 1 else row for i, row in enumerate(LISTS)]
    kinds = [pa.list_(pa.float32(), 5), pa.list_(pa.float32()), pa.large_list(pa.float64())]
    return [pa.array(values, kind) for kind in kinds] + [values, pa.array(values, kinds[0]).slice(0, 40)]


@pytest.mark.parametrize("column", null_layouts(), ids=range(5))
def test_null_rows_are_masked_and_zero_and_the_others_stay_where_they_are(column):
    rows = to_rows(column)
    expected = np.array([i % 4 != 1 for i in range(40)])
    np.testing.assert_array_equal(rows.valid, expected)
    np.testing.assert_array_equal(rows.values[expected], X[expected])
    assert not rows.values[~expected].any()
    assert rows.nulls == 10
    np.testing.assert_array_equal(rows.kept(), X[expected])


def test_what_lies_under_a_null_is_not_looked_at():
    data = X.copy()
    data[3] = np.nan
    mask = np.ones(40, bool)
    mask[3] = False
    rows = to_rows(fixed(data, mask))
    assert not rows.values[3].any()
    assert rows.nulls == 1


@pytest.mark.parametrize("column", [pa.nulls(3), pa.array([None] * 3, pa.list_(pa.float32())), [None, None, None]])
def test_a_column_of_nulls_has_any_width(column):
    assert to_rows(column, dim=9).values.shape == (3, 9)
    assert to_rows(column).nulls == 3


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 5), pa.list_(pa.float32()), pa.null()])
def test_no_rows_are_fine(kind):
    assert len(to_rows(pa.array([], kind))) == 0
    assert to_rows(pa.array([], kind), dim=5).values.shape == (0, 5)


BAD = {
    "ragged": ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0]], "3 dimensions, expected 2"),
    "empty row": ([[1.0, 2.0], [3.0, 4.0], []], "no dimensions"),
    "NaN": ([[1.0, 2.0], [1.0, 2.0], [1.0, float("nan")]], "NaN"),
    "infinity": ([[1.0, 2.0], [3.0, 4.0], [float("-inf"), 2.0]], "infinite"),
    "both infinities": ([[1.0, 2.0], [3.0, 4.0], [float("-inf"), float("inf")]], "infinite"),
    "beyond float32": ([[1.0, 2.0], [3.0, 4.0], [1e39, 2.0]], "float32"),
    "NULL element": ([[1.0, 2.0], [3.0, 4.0], [None, 2.0]], "NULL element"),
}


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.float64(), 2)])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_an_error_that_names_column_row_and_rule(case, kind):
    values, rule = BAD[case]
    if pa.types.is_fixed_size_list(kind) and any(len(value) != 2 for value in values):
        pytest.skip("such a column cannot be ragged")
    with pytest.raises(InputError, match=rf"emb: row 102.*{rule}"):
        to_rows(pa.array(values, kind), column="emb", first_row=100)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.float64(), 2)])
@pytest.mark.parametrize("with_null", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_bad_rows_can_be_turned_to_null_and_are_counted(case, with_null, kind):
    values, _ = BAD[case]
    if pa.types.is_fixed_size_list(kind) and any(len(value) != 2 for value in values):
        pytest.skip("such a column cannot be ragged")
    values = [*values, None] if with_null else values
    rows = to_rows(pa.array(values, kind), on_invalid="null")
    assert rows.valid.tolist() == [True, True, False] + [False] * with_null
    np.testing.assert_array_equal(rows.kept(), [values[0], values[1]])
    assert (rows.nulls, rows.invalid) == (int(with_null), 1)
    assert np.isfinite(rows.values).all()


def test_bad_rows_of_all_kinds_at_once():
    values = [[1.0, 2.0], [np.nan, 1.0], [1.0], None, [None, 1.0], [3.0, 4.0], [], [np.inf, 1.0]]
    rows = to_rows(pa.array(values, pa.list_(pa.float32())), on_invalid="null")
    assert rows.valid.tolist() == [True, False, False, False, False, True, False, False]
    assert (rows.nulls, rows.invalid) == (1, 5)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]])
def test_the_width_is_that_of_most_rows_whichever_comes_first(order):
    values = [[], [1.0, 2.0, 3.0], [1.0, 2.0], [3.0, 4.0]]
    rows = to_rows(pa.array([values[i] for i in order], pa.list_(pa.float32())), on_invalid="null")
    assert rows.dim == 2
    assert rows.invalid == 2


def test_a_wrong_width_is_an_error_that_names_both():
    with pytest.raises(InputError, match=r"emb.*5 dimensions, expected 7"):
        to_rows(fixed(X), column="emb", dim=7)
    with pytest.raises(InputError, match="5 dimensions, expected 7"):
        to_rows(X, dim=7)
    with pytest.raises(InputError, match="row 0 has 5 dimensions, expected 7"):
        to_rows(LISTS, dim=7)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a"]),
        pa.array([1.0]),
        pa.array([["a"]]),
        pa.array([[True]]),
        pa.array([[[1.0]]]),
        np.zeros(3),
        np.zeros((2, 2, 2)),
        np.array([["a"]]),
        np.array([[1 + 2j]]),
        np.zeros((2, 0)),
        [[1.0, "a"]],
        [1.0, [2.0]],
        object(),
        "text",
        None,
        3,
    ],
    ids=lambda column: f"{type(column).__name__} {getattr(column, 'type', column)}".split(" at 0x")[0],
)
def test_what_is_no_column_of_vectors_is_an_input_error(column):
    with pytest.raises(InputError, match="emb"):
        to_rows(column, column="emb")


@pytest.mark.parametrize("odd", ["nul", "NULL", "", None, True])
def test_what_a_bad_row_does_is_error_or_null_and_nothing_else(odd):
    for column in (
        [[1.0, 2.0], [np.nan, 1.0]],
        np.ones((3, 2), np.float32),
        pa.array([[1.0]], pa.list_(pa.float32(), 1)),
    ):
        with pytest.raises(SpecError, match=r"on_invalid is .*; expected 'error' or 'null'"):
            to_rows(column, on_invalid=odd)
    with pytest.raises(SpecError, match="on_invalid is"):
        vecpipe.fit(np.ones((3, 2), np.float32), "center", on_invalid=odd)


def test_more_dimensions_than_supported_are_refused():
    with pytest.raises(InputError, match="at most 65536"):
        to_rows(np.zeros((1, 65_537), np.float32))


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=20))
def test_exactly_the_rows_that_are_not_finite_are_found(values):
    matrix = np.array(values, np.float32)
    expected = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    np.testing.assert_array_equal(nonfinite_rows(matrix), expected)
    rows = to_rows(matrix, on_invalid="null")
    assert rows.invalid == len(expected)


element = st.one_of(st.none(), st.floats(-10, 10, width=16))
row = st.one_of(st.none(), st.lists(element, max_size=4))


@given(st.lists(row, max_size=12), st.integers(0, 3))
def test_lists_and_slices_of_lists_are_read_by_the_same_rules(values, skip):
    column = pa.array([[9.0]] * skip + values, pa.list_(pa.float32())).slice(skip)
    rows = to_rows(column, dim=2, on_invalid="null")
    good = [value is not None and len(value) == 2 and None not in value for value in values]
    assert len(rows) == len(values)
    assert (np.ones(len(rows), bool) if rows.valid is None else rows.valid).tolist() == good
    assert rows.nulls == sum(value is None for value in values)
    assert rows.nulls + rows.invalid + sum(good) == len(values)
    assert rows.kept().tolist() == [value for value, ok in zip(values, good, strict=True) if ok]


@pytest.mark.parametrize("as_fixed", [False, True])
def test_vectors_go_out_as_they_came_in(as_fixed):
    mask = np.arange(40) % 3 > 0
    column = to_vectors(X, mask, fixed=as_fixed)
    column.validate(full=True)
    rows = to_rows(column)
    np.testing.assert_array_equal(rows.valid, mask)
    np.testing.assert_array_equal(rows.kept(), X[mask])
    assert to_vectors(X[:0], fixed=as_fixed).to_pylist() == []


@pytest.mark.parametrize("as_fixed", [False, True])
@pytest.mark.parametrize("kind", [None, pa.binary(), pa.large_binary(), pa.binary_view()])
def test_codes_go_out_as_they_came_in(as_fixed, kind):
    codes = np.random.default_rng(0).integers(0, 256, (40, 6), dtype=np.uint8)
    mask = np.arange(40) % 3 > 0
    for valid in (None, mask):
        column = to_codes(codes, valid, fixed=as_fixed)
        column.validate(full=True)
        column = column if kind is None else column.cast(pa.binary()).cast(kind)
        for start in (0, 7):
            back, found = from_codes(column.slice(start), 6)
            live = slice(None) if valid is None else valid[start:]
            np.testing.assert_array_equal(back[live], codes[start:][live])
            assert (found is None) == (valid is None)


@pytest.mark.parametrize("column", [pa.array([b"abcd", b"abc"]), pa.array([b"abcd", None, b"abc"])])
def test_codes_of_another_length_name_the_row(column):
    with pytest.raises(InputError, match=rf"code: row {len(column) - 1} holds 3 bytes.*have 4"):
        from_codes(column, 4)


@pytest.mark.parametrize("column", [pa.array(["abcd"]), pa.array([1]), np.zeros((2, 4), np.int8), [[1, 2]], ["a", 1]])
def test_what_is_no_column_of_codes_is_an_input_error(column):
    with pytest.raises(InputError, match="code"):
        from_codes(column, 4)
