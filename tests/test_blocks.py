"""Blocks: their sums against float64, where they lie and in rooms of their own."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import anisotropic

from vecpipe.blocks import Block, block_rows
from vecpipe.errors import RowError
from vecpipe.moments import MomentSum
from vecpipe.sample import row_hashes
from vecpipe.sketch import Sketch


def in_a_room(block: Block) -> Block:
    room = Block.empty(len(block) + 3, block.rows.shape[1], None if block.weights is None else np.empty(len(block) + 3))
    room.put(slice(2, len(block) + 2), block)
    return room.take(slice(2, len(block) + 2))


@pytest.mark.parametrize("dim", [1, 2, 7, 96])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("place", [lambda block: block, in_a_room, lambda block: in_a_room(block).copy()])
def test_sums_are_those_of_float64(dim, weighted, place):
    X = anisotropic(2_500, dim)
    weights = np.random.default_rng(3).uniform(0, 2, len(X)) if weighted else None
    block = place(Block.of(X, weights))
    sums, w, wide = (
        block.sums(block.wide_squares()),
        np.ones(len(X)) if weights is None else weights,
        X.astype(np.float64),
    )
    squares = (wide**2).sum(axis=1)
    close = {"rtol": 1e-5, "atol": 1e-5 * float(squares.sum() * np.sqrt(squares.max()))}
    np.testing.assert_allclose(sums.product, (w[:, None] * wide).T @ wide, **close)
    np.testing.assert_allclose(sums.total, w @ wide, **close)
    np.testing.assert_allclose(sums.third, (w * squares) @ wide, **close)
    assert sums.weight == pytest.approx(w.sum())
    assert sums.weight_squared == pytest.approx(w @ w)
    assert sums.square == pytest.approx(w @ squares, rel=1e-5)
    assert sums.fourth == pytest.approx(w @ squares**2, rel=1e-5)
    np.testing.assert_array_equal(block.hashes(), row_hashes(X))


@pytest.mark.parametrize("place", [lambda block: block, in_a_room])
@pytest.mark.parametrize("size", [1e13, 1e18, 1e19, 1e30])
def test_values_whose_squares_or_cubes_overflow_count_in_full(place, size):
    X = anisotropic(300, 5) * np.float32(size)
    block = place(Block.of(X, None))
    np.testing.assert_allclose(block.wide_squares(), (X.astype(np.float64) ** 2).sum(axis=1), rtol=1e-5)
    moments = MomentSum(5)
    moments.add_block(block.sums(block.wide_squares()), block.rows, None)
    found = moments.moments()
    centred = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    norms = (centred**2).sum(axis=1)
    third = norms @ centred
    np.testing.assert_allclose(found.scatter, centred.T @ centred, rtol=1e-4, atol=1e-5 * norms.sum())
    np.testing.assert_allclose(found.third, third, rtol=1e-3, atol=1e-5 * float(norms @ np.sqrt(norms)))
    assert found.fourth == pytest.approx(norms @ norms, rel=1e-4)


@pytest.mark.parametrize("place", [lambda block: block, in_a_room])
@pytest.mark.parametrize("size", [1e-17, 1e-20, 5e-22, 1e-30, 1e-38])
def test_values_whose_squares_underflow_are_no_zeros(place, size):
    X = anisotropic(300, 5) * np.float32(size)
    X[7] = 0
    squares = place(Block.of(X, None)).wide_squares()
    np.testing.assert_allclose(squares, (X.astype(np.float64) ** 2).sum(axis=1), rtol=1e-5)
    sketch = Sketch(5)
    sketch.update(X)
    assert sketch.zeros == 1
    assert sketch.norm_sum == pytest.approx(np.linalg.norm(X.astype(np.float64), axis=1).sum(), rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad):
    X = anisotropic(100, 4)
    X[17] = 1e30  # squares overflow, the row is fine
    X[42, 3] = bad
    with pytest.raises(RowError, match="row 42") as caught:
        Block.of(X, None)
    assert caught.value.row == 42


def test_rows_are_put_with_ones_where_others_have_weights():
    room = Block.empty(5, 3, np.zeros(5))
    room.put(slice(0, 2), Block.of(anisotropic(2, 3), None))
    room.put(slice(2, 5), Block.of(anisotropic(3, 3), np.array([2.0, 3.0, 4.0])))
    assert room.weights.tolist() == [1, 1, 2, 3, 4]
    assert room.room[:, 3].tolist() == [1] * 5


def test_blocks_of_wide_rows_are_smaller():
    assert block_rows(384) == 8_192
    assert block_rows(65_536) == 256
