"""Rotated codecs: the rotation of rows by whole numbers, lengths at the ends of float32, bytes whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest

from vecpipe.errors import InputError
from vecpipe.operators.base import Codec
from vecpipe.operators.linear import WholeRotation, random_generator, rotate_by_signs, rotation_signs
from vecpipe.operators.rotated import Eden, RaBitQ


def rows(count: int, dim: int) -> np.ndarray:
    return random_generator(dim).standard_normal((count, dim), dtype=np.float32) ** 3


def bound(codec: Codec, dim: int) -> Codec:
    return codec.bind(dim, {"signs": rotation_signs(dim, codec.seed)})


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 17, 384, 512, 768])
def test_rows_rotate_by_whole_numbers_as_they_do_by_additions(dim: int) -> None:
    signs = rotation_signs(dim, 3)
    rotation = WholeRotation(signs)
    unit = rows(20, dim) / np.linalg.norm(rows(20, dim), axis=1, keepdims=True)
    turned = (unit * rotation.length).astype(np.float32)
    rotation(turned)
    expected = rotate_by_signs(unit.astype(np.float64), signs)
    np.testing.assert_allclose(turned / rotation.length, expected, atol=1e-5 / np.sqrt(dim) + 5e-6)


@pytest.mark.parametrize("kind", ["ones", "spike", "signs"])
def test_the_sums_of_a_rotation_stay_where_float32_counts_by_ones(kind: str) -> None:
    dim = 512
    signs = rotation_signs(dim, 0)
    row = {"ones": np.ones(dim), "spike": np.eye(1, dim)[0], "signs": signs[0]}[kind].astype(np.float64)
    rotation = WholeRotation(signs)
    row *= rotation.length / np.linalg.norm(row)
    turned = row[None].astype(np.float32)
    rotation(turned)
    assert np.abs(turned).max() * np.sqrt(dim) < 2**24
    np.testing.assert_allclose(np.linalg.norm(turned), rotation.length, rtol=1e-4)


@pytest.mark.parametrize("codec", [RaBitQ(1), RaBitQ(4), RaBitQ(7), Eden(1), Eden(4), Eden(5)], ids=repr)
def test_rotated_codes_do_not_depend_on_the_batch(codec: Codec) -> None:
    X = rows(600, 200)
    ready = bound(codec, 200)
    whole = ready.encode(X)
    for size in (1, 7, 255, 257):
        parts = [ready.encode(X[start : start + size]) for start in range(0, 300, size)]
        np.testing.assert_array_equal(np.concatenate(parts)[:300], whole[:300])


@pytest.mark.parametrize("codec", [RaBitQ(4), Eden(4)], ids=repr)
@pytest.mark.parametrize("power", [-90, -40, 40, 100])
def test_levels_are_those_of_the_direction_however_long_the_vector(codec: Codec, power: int) -> None:
    X = rows(50, 96)
    ready = bound(codec, 96)
    near, far = ready.encode(X), ready.encode(np.ldexp(X, power))
    # Rows whose squares leave float32 are stretched by float64: a rounding elsewhere may move a level or two.
    assert (near[:, :-6] != far[:, :-6]).mean() < 0.01
    np.testing.assert_allclose(np.ldexp(ready.decode(far), -power), ready.decode(near), atol=0.3)


@pytest.mark.parametrize("codec", [RaBitQ(1), RaBitQ(4), Eden(4)], ids=repr)
def test_a_vector_that_float32_does_not_hold_turned_is_refused(codec: Codec) -> None:
    X = rows(300, 96)
    X[270] = 3e38
    with pytest.raises(InputError, match=r"row 270 is .* long"):
        bound(codec, 96).encode(X)


def test_eden_takes_the_nearest_level() -> None:
    codec = bound(Eden(4), 64)
    X = rows(100, 64)
    turned = rotate_by_signs(X.astype(np.float64), codec.state["signs"])
    turned *= np.sqrt(64) / np.linalg.norm(X, axis=1, keepdims=True)
    levels = codec._levels.astype(np.float64) * codec._unit
    chosen = codec._body(codec.encode(X)).astype(np.float64) * codec._unit
    best = np.abs(turned[:, :, None] - levels).min(axis=2)
    np.testing.assert_allclose(np.abs(turned - chosen), best, atol=1e-4)


@pytest.mark.parametrize("codec", [RaBitQ(1), RaBitQ(4), Eden(4)], ids=repr)
def test_products_of_levels_are_those_of_the_decoded_vectors(codec: Codec) -> None:
    ready = bound(codec, 200)
    a, b = ready.encode(rows(600, 200)[:300]), ready.encode(rows(600, 200)[300:])
    products, left, right = ready.pair_products(a, b)
    decoded = np.einsum("ij,ij->i", ready.decode(a).astype(np.float64), ready.decode(b).astype(np.float64))
    np.testing.assert_allclose(products, decoded, rtol=1e-4, atol=1e-3 * np.abs(decoded).max())
    np.testing.assert_allclose(left, ready.squared_norms(a), rtol=1e-6)
    np.testing.assert_allclose(right, ready.squared_norms(b), rtol=1e-6)
