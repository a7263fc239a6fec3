"""The sketch: merging halves gives the whole, and nothing depends on order, batches or threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import anisotropic, fixed
from hypothesis import given
from hypothesis import strategies as st

from vecpipe import container
from vecpipe.blocks import Block
from vecpipe.columns.vectors import to_rows
from vecpipe.errors import FitError, InputError, ModelFormatError
from vecpipe.fitting.steps import fit_sketch, needs_sample
from vecpipe.moments import Moments
from vecpipe.sample import row_hashes, sample_capacity
from vecpipe.sketch import Sketch
from vecpipe.spec import parse


def sketch_of(*batches: np.ndarray, weights: list[np.ndarray] | None = None) -> Sketch:
    sketch = Sketch(batches[0].shape[1])
    for i, batch in enumerate(batches):
        sketch.update(batch, None if weights is None else weights[i])
    return sketch


def assert_same_sketch(a: Sketch, b: Sketch, exact: bool = True) -> None:
    assert (a.count, a.nulls, a.invalid, a.zeros) == (b.count, b.nulls, b.invalid, b.zeros)
    assert a.norm_sum == pytest.approx(b.norm_sum, rel=1e-9)
    ours, theirs = a.sample(), b.sample()
    np.testing.assert_array_equal(ours.hashes, theirs.hashes)
    np.testing.assert_array_equal(ours.rows, theirs.rows)
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    np.testing.assert_allclose(ours.weights, theirs.weights, rtol=1e-12)
    x, y = a.moments(), b.moments()
    # Third moments cancel where the data are symmetric: what is added up is their scale.
    scales = {"mean": np.abs(y.mean).max(), "scatter": np.abs(y.scatter).max()}
    scales["third"] = np.sqrt(y.fourth * np.trace(y.scatter))
    for name, scale in scales.items():
        np.testing.assert_allclose(getattr(x, name), getattr(y, name), rtol=0, atol=0 if exact else 1e-6 * scale)


# Hashes -----------------------------------------------------------------------------------------------------------


AWKWARD = {
    "signs": lambda rng: np.sign(rng.standard_normal((20_000, 32))),
    "signs of odd width": lambda rng: np.sign(rng.standard_normal((20_000, 31))),
    "zeros and ones": lambda rng: rng.random((20_000, 48)) < 0.3,
    "small integers": lambda rng: rng.integers(-3, 4, (20_000, 12)),
    "powers of two": lambda rng: 2.0 ** rng.integers(-3, 4, (20_000, 12)),
    "int8 levels": lambda rng: rng.integers(-128, 128, (20_000, 6)),
    "one hot": lambda rng: np.eye(500) * 3,
    "first dimension only": lambda rng: np.pad(np.arange(20_000)[:, None], ((0, 0), (0, 7))),
    "last dimension only": lambda rng: np.pad(np.arange(20_000)[:, None], ((0, 0), (7, 0))),
    "halves": lambda rng: rng.standard_normal((20_000, 8)).astype(np.float16),
}


@pytest.mark.parametrize("case", AWKWARD)
def test_different_rows_have_different_hashes_whatever_the_numbers_are(case):
    X = np.unique(AWKWARD[case](np.random.default_rng(0)).astype(np.float32), axis=0)
    assert len(np.unique(row_hashes(X))) == len(X)


@pytest.mark.parametrize("case", AWKWARD)
def test_moments_are_those_of_numpy_whatever_the_numbers_are(case):
    X = AWKWARD[case](np.random.default_rng(1)).astype(np.float32)[:3_000]
    moments = sketch_of(X).moments()
    wide = X.astype(np.float64)
    np.testing.assert_allclose(moments.mean, wide.mean(axis=0), atol=1e-9 * max(1, np.abs(wide).max()))
    np.testing.assert_allclose(moments.covariance, np.cov(wide.T, bias=True), atol=1e-9 * np.abs(wide).max() ** 2)


def test_equal_rows_have_equal_hashes_wherever_they_stand():
    X = anisotropic(50, 7)
    np.testing.assert_array_equal(row_hashes(X)[::-1], row_hashes(X[::-1]))
    np.testing.assert_array_equal(row_hashes(np.asfortranarray(X)), row_hashes(X))


def test_hashes_are_the_same_on_every_machine():
    first = row_hashes(np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(first, row_hashes(np.arange(6, dtype="<f4").reshape(2, 3)))


# Merging ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 5), st.booleans())
def test_merging_parts_is_the_whole_bit_for_bit(sizes, seed, weighted):
    rng = np.random.default_rng(seed)
    X = np.round(anisotropic(sum(sizes), 3, seed=seed), 1)
    weights = rng.integers(0, 4, len(X)).astype(np.float64) if weighted else None
    cuts = np.cumsum(sizes)[:-1]
    whole = sketch_of(X, weights=None if weights is None else [weights])
    parts = [Sketch(3) for _ in sizes]
    for i, rows in enumerate(np.split(np.arange(len(X)), cuts)):
        parts[i].update(X[rows], None if weights is None else weights[rows])
    merged = Sketch(3)
    for i in rng.permutation(len(parts)):
        merged.merge(Sketch.from_bytes(parts[i].to_bytes()))
    assert_same_sketch(merged, whole)
    if whole.weight_sum > 0:
        assert fit_sketch(merged, "standardize | int8").hash == fit_sketch(whole, "standardize | int8").hash


@pytest.fixture(scope="module")
def long_stream() -> np.ndarray:
    """More rows than the sample holds, a tenth of them twice."""
    X = anisotropic(80_000, 4, seed=2)
    return np.concatenate([X, X[:8_000]])


def test_beyond_the_sample_it_is_still_uniform_exact_in_counts_and_near_in_moments(long_stream):
    sketch = sketch_of(*np.array_split(long_stream, 7))
    assert not sketch.whole
    wide = long_stream.astype(np.float64)
    np.testing.assert_allclose(sketch.moments().mean, wide.mean(axis=0), rtol=1e-5)
    covariance = np.cov(wide.T, bias=True)
    np.testing.assert_allclose(sketch.moments().covariance, covariance, atol=1e-6 * np.abs(covariance).max())
    sample = sketch.sample()
    assert len(sample.rows) == sample_capacity(4)
    hashes, counts = np.unique(row_hashes(long_stream), return_counts=True)
    np.testing.assert_array_equal(sample.hashes, hashes[: len(sample.rows)])
    np.testing.assert_array_equal(sample.counts, counts[: len(sample.rows)])


@pytest.mark.parametrize("pieces", [1, 3, 40])
def test_beyond_the_sample_order_and_merges_change_moments_by_1e_6_and_the_sample_not_at_all(long_stream, pieces):
    whole = sketch_of(long_stream)
    order = np.random.default_rng(pieces).permutation(len(long_stream))
    parts = [sketch_of(*np.array_split(rows, 3)) for rows in np.array_split(long_stream[order], pieces)]
    merged = Sketch.from_bytes(parts[0].to_bytes())
    for part in parts[1:]:
        merged.merge(part)
    assert_same_sketch(merged, whole, exact=False)
    assert_same_sketch(Sketch.from_bytes(whole.to_bytes()), whole, exact=False)


def test_a_long_stream_in_small_batches_and_from_threads_is_the_same(long_stream):
    whole = sketch_of(long_stream)
    shared = Sketch(4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(shared.update, np.array_split(long_stream, 300)))
    assert_same_sketch(shared, whole, exact=False)


def test_few_distinct_rows_stay_whole_however_often_they_come():
    X = anisotropic(100, 4)
    sketch = Sketch(4)
    for _ in range(900):
        sketch.update(X)
    assert sketch.whole
    assert sketch.count == 90_000
    np.testing.assert_array_equal(sketch.sample().counts, 900)
    np.testing.assert_allclose(sketch.moments().mean, X.astype(np.float64).mean(axis=0), rtol=1e-12)


def test_a_mean_far_from_zero_does_not_cost_the_variance(long_stream):
    moved = long_stream + np.float32(500)
    sketch = sketch_of(*np.array_split(moved, 9))
    assert not sketch.whole
    covariance = np.cov(moved.astype(np.float64).T, bias=True)
    np.testing.assert_allclose(sketch.moments().covariance, covariance, atol=1e-5 * np.abs(covariance).max())


def test_weights_beyond_the_sample_are_those_of_numpy(long_stream):
    weights = np.random.default_rng(4).random(len(long_stream)) * 3
    sketch = sketch_of(*np.array_split(long_stream, 5), weights=list(np.array_split(weights, 5)))
    wide = long_stream.astype(np.float64)
    np.testing.assert_allclose(sketch.moments().mean, np.average(wide, axis=0, weights=weights), rtol=1e-4, atol=1e-5)
    covariance = np.cov(wide.T, aweights=weights, bias=True)
    np.testing.assert_allclose(sketch.moments().covariance, covariance, atol=1e-5 * np.abs(covariance).max())
    assert sketch.weight_sum == pytest.approx(weights.sum())


# Counting and refusing -----------------------------------------------------------------------------------------------


def test_rows_that_do_not_count_are_counted():
    values = [[1.0, 2.0], None, [0.0, 0.0], [float("nan"), 1.0], [1.0]]
    sketch = Sketch(2)
    sketch.add(to_rows(values, on_invalid="null"), np.array([1.0, 5.0, 1.0, 5.0, 5.0]))
    assert (sketch.count, sketch.nulls, sketch.invalid, sketch.zeros) == (2, 1, 2, 1)
    assert sketch.weight_sum == 2


def test_an_empty_sketch_goes_to_bytes_and_back_and_merges():
    empty = Sketch.from_bytes(Sketch(3).to_bytes())
    assert empty.count == 0
    full = sketch_of(anisotropic(10, 3))
    full.merge(empty)
    empty.merge(full)
    assert_same_sketch(empty, full)
    with pytest.raises(FitError, match="no rows to fit"):
        fit_sketch(Sketch(3), "center")


def test_other_widths_and_bad_weights_are_refused_and_change_nothing():
    sketch = sketch_of(anisotropic(10, 3))
    before = sketch.to_bytes()
    with pytest.raises(InputError, match="4 dimensions, but the fit began with 3"):
        sketch.update(anisotropic(10, 4))
    with pytest.raises(InputError, match="3 and 4"):
        sketch.merge(Sketch(4))
    for weights in ([1.0] * 9, [-1.0] * 10, [np.nan] * 10, [np.inf] * 10):
        with pytest.raises(InputError, match="weight"):
            sketch.update(anisotropic(10, 3), np.array(weights))
    assert sketch.to_bytes() == before


def test_weights_that_are_all_zero_leave_nothing_to_fit():
    with pytest.raises(FitError, match="all weights are zero"):
        fit_sketch(sketch_of(anisotropic(10, 3), weights=[np.zeros(10)]), "center")


def test_weights_whose_squares_overflow_are_refused_and_change_nothing():
    sketch = sketch_of(anisotropic(10, 3), weights=[np.full(10, 1e118)])
    before = sketch.to_bytes()
    assert np.isfinite(Sketch.from_bytes(before).moments().covariance).all()
    for weight in (1e119, 1e120, 1e200, 1e308):
        with pytest.raises(InputError, match="weights add up to"):
            sketch.update(anisotropic(10, 3), np.full(10, weight))
        with pytest.raises(InputError, match="weights add up to"):
            Sketch(3).update_block(Block.of(anisotropic(10, 3), np.full(10, 10 * weight)))
    with pytest.raises(InputError, match="weights add up to"):
        sketch.merge(sketch_of(anisotropic(10, 3), weights=[np.full(10, 9.5e118)]))
    assert sketch.to_bytes() == before


CHANGES = ["dim", "rows", "counts", "scatter", "extra", "too many", "count below", "infinite"]
CHANGES += ["weights below", "one weight below", "weights zero", "counts zero", "rows gone", "rows more", "weight more"]
CHANGES += ["weight below", "norm below", "zeros"]


@pytest.mark.parametrize("change", CHANGES)
def test_hostile_sketches_with_a_right_hash_are_refused(change):
    record, arrays = container.read("sketch", sketch_of(anisotropic(20, 3)).to_bytes())
    if change == "dim":
        record["dim"] = 1 << 40
    elif change == "rows":
        arrays["rows"] = np.zeros((20, 4), np.float32)
    elif change == "counts":
        arrays["counts"] = np.ones(20)
    elif change == "scatter":
        arrays["scatter"] = np.zeros((3, 3))
    elif change == "extra":
        arrays["more"] = np.zeros(3)
    elif change == "too many":
        rows = sample_capacity(3) + 1
        arrays |= {"hashes": np.arange(rows, dtype=np.uint64), "rows": np.zeros((rows, 3), np.float32)}
        arrays |= {"counts": np.ones(rows, np.int64), "weights": np.ones(rows)}
    elif change == "count below":
        record["count"] = -1
    elif change == "weights below":
        arrays["weights"] = -arrays["weights"]
    elif change == "one weight below":
        arrays["weights"] = np.r_[-1.0, 3.0, np.ones(18)]
    elif change == "weights zero":
        arrays["weights"] = np.zeros(20)
    elif change == "counts zero":
        arrays["counts"] = np.zeros(20, np.int64)
    elif change == "rows gone":
        arrays = {name: array[:0] for name, array in arrays.items()}
    elif change == "rows more":
        record["count"] = 21
    elif change == "weight more":
        record["weight_sum"] = 21.0
    elif change == "weight below":
        record["weight_sum"] = -20.0
    elif change == "norm below":
        record["norm_sum"] = -1.0
    elif change == "zeros":
        record["zeros"] = 21
    else:
        arrays["weights"] = np.full(20, np.inf)
    with pytest.raises(ModelFormatError):
        Sketch.from_bytes(container.write("sketch", record, arrays))


@pytest.mark.parametrize("change", ["sums", "scatter", "sample", "count", "weight"])
def test_hostile_sketches_of_long_streams_with_a_right_hash_are_refused(change, monkeypatch):
    monkeypatch.setattr("vecpipe.sample.SAMPLE_ROWS", 1_024)
    record, arrays = container.read("sketch", sketch_of(anisotropic(2_000, 3)).to_bytes())
    Sketch.from_bytes(container.write("sketch", record, arrays))
    if change == "sums":
        arrays["sums"] = arrays["sums"] * [1.0, 1.0, -1.0]
    elif change == "scatter":
        arrays["scatter"] = -arrays["scatter"]
    elif change == "sample":
        arrays |= {name: arrays[name][:9] for name in ("hashes", "rows", "counts", "weights")}
    elif change == "count":
        record["count"] = 9
    else:
        record["weight_sum"] = 1.0
    with pytest.raises(ModelFormatError):
        Sketch.from_bytes(container.write("sketch", record, arrays))


def test_what_a_sketch_keeps_is_its_own():
    X = anisotropic(30, 3)
    sketch = sketch_of(X)
    before = sketch.to_bytes()
    X[:] = 0
    assert sketch.to_bytes() == before


def test_numbers_whose_squares_overflow_are_still_counted():
    X = np.full((10, 3), 1e25, np.float32)
    X[::2] *= -1
    moments = sketch_of(X).moments()
    assert np.isfinite(moments.mean).all()
    assert np.isfinite(moments.covariance).all()
    np.testing.assert_allclose(np.diagonal(moments.covariance), 1e50, rtol=1e-5)


def test_rows_of_a_column_and_rows_of_a_matrix_are_the_same_rows():
    X = anisotropic(30, 3)
    by_column = Sketch(3)
    by_column.add(to_rows(fixed(X)))
    assert by_column.to_bytes() == sketch_of(X).to_bytes()


def test_moments_after_bytes_are_the_moments_before(long_stream):
    sketch = sketch_of(long_stream)
    again = Sketch.from_bytes(sketch.to_bytes())
    assert isinstance(again.moments(), Moments)
    np.testing.assert_allclose(again.moments().scatter, sketch.moments().scatter, rtol=1e-12)
    assert again.to_bytes() == Sketch.from_bytes(again.to_bytes()).to_bytes()


def test_a_sketch_for_moments_alone_gives_the_same_fit_and_lets_the_sample_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecpipe.sample._SLACK", 64)
    monkeypatch.setattr("vecpipe.sample.sample_capacity", lambda dim: 256)
    X = np.random.default_rng(3).standard_normal((30_000, 5)).astype(np.float32)
    kept, light = Sketch(5), Sketch(5, keep_sample=False)
    for sketch in (kept, light):
        for start in range(0, len(X), 5_000):
            sketch.update(X[start : start + 5_000])
    np.testing.assert_allclose(light.moments().scatter, kept.moments().scatter, rtol=1e-6, atol=1e-3)
    assert fit_sketch(light, "center | pca(2)").info == fit_sketch(kept, "center | pca(2)").info
    with pytest.raises(FitError, match="moments only"):
        light.sample()
    kept.merge(light)
    assert kept.count == 2 * len(X)
    assert not kept.whole


@pytest.mark.parametrize(
    ("spec", "needed"),
    [("pca(2)", False), ("center | pca(2) | float16", False), ("standardize | binary", False), ("int8", True),
     ("normalize | pca(2)", True), ("whiten", True), ("center | rotate(kind=itq) | binary", True)],
)  # fmt: skip
def test_only_specs_that_look_at_rows_need_the_sample(spec: str, needed: bool) -> None:
    assert needs_sample(parse(spec)) is needed


@pytest.mark.parametrize("keep_sample", [True, False])
def test_a_sample_smaller_than_a_block_still_gives_the_moments_of_all_rows(
    monkeypatch: pytest.MonkeyPatch, keep_sample: bool
) -> None:
    """Wide vectors have a small sample, and it overflows before moments would have begun for narrow ones."""
    monkeypatch.setattr("vecpipe.sample._SLACK", 16)
    monkeypatch.setattr("vecpipe.sample.sample_capacity", lambda dim: 100)
    X = np.random.default_rng(4).standard_normal((5_000, 3)).astype(np.float32)
    sketch = Sketch(3, keep_sample=keep_sample)
    for start in range(0, len(X), 700):
        sketch.update(X[start : start + 700])
    np.testing.assert_allclose(sketch.moments().covariance, np.cov(X.T, bias=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [3_000, 20_000])
@pytest.mark.parametrize("keep_sample", [True, False])
def test_callers_may_fill_their_arrays_again(rows: int, keep_sample: bool) -> None:
    rng = np.random.default_rng(5)
    X, weights = rng.standard_normal((rows, 4)).astype(np.float32), rng.uniform(0.5, 2.0, rows)
    sketch = Sketch(4, keep_sample=keep_sample)
    batch, heavy = np.empty((1_000, 4), np.float32), np.empty(1_000)
    for start in range(0, rows, 1_000):
        batch[:], heavy[:] = X[start : start + 1_000], weights[start : start + 1_000]
        sketch.update(batch, heavy)
    mean = np.average(X.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(sketch.moments().mean, mean, rtol=1e-5, atol=1e-6)
    expected = np.cov(X.T.astype(np.float64), aweights=weights, bias=True)
    np.testing.assert_allclose(sketch.moments().covariance, expected, rtol=1e-5, atol=1e-6)


def test_a_short_stream_for_moments_alone_is_whole_whatever_its_batches() -> None:
    X = np.random.default_rng(6).standard_normal((4_000, 5)).astype(np.float32)
    kept, light = Sketch(5), Sketch(5, keep_sample=False)
    kept.update(X)
    for start in range(3_500, -1, -500):
        light.update(X[start : start + 500])
    assert light.whole
    parts = [Sketch(5, keep_sample=False) for _ in range(2)]
    for part, rows in zip(parts, (X[:1_500], X[1_500:]), strict=True):
        part.update(rows)
    parts[0].merge(parts[1])
    for sketch in (light, parts[0]):
        assert sketch.count == len(X)
        assert (sketch.sample().hashes == kept.sample().hashes).all()
        assert (sketch.moments().scatter == kept.moments().scatter).all()
