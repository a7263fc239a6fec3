"""Models as bytes: damaged bytes are refused, and hostile content with a right hash is harmless."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from conftest import anisotropic
from hypothesis import given, settings
from hypothesis import strategies as st

from vecpipe import container
from vecpipe.errors import ModelFormatError, VecpipeError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.sketch import Sketch

X = anisotropic(100, 8)


def fitted(spec: str) -> Model:
    sketch = Sketch(8)
    sketch.update(X)
    return fit_sketch(sketch, spec)


MODELS = {
    spec: fitted(spec).to_bytes() for spec in ["center | pca(4) | int8", "rotate(kind=hadamard) | binary", "whiten"]
}
SKETCH = Sketch(8)
SKETCH.update(X)


def refused_or_same(damaged: bytes, original: bytes) -> None:
    try:
        model = Model.from_bytes(damaged)
    except ModelFormatError:
        return
    assert model.hash == Model.from_bytes(original).hash
    np.testing.assert_array_equal(model.transform(X)[0], Model.from_bytes(original).transform(X)[0])


@settings(max_examples=250)
@given(
    st.sampled_from(sorted(MODELS)), st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3)
)
def test_flipped_bytes_are_refused_or_change_nothing(spec, flips):
    data = bytearray(MODELS[spec])
    for where, change in flips:
        data[min(int(where * len(data)), len(data) - 1)] ^= change
    refused_or_same(bytes(data), MODELS[spec])


@settings(max_examples=150)
@given(st.sampled_from(sorted(MODELS)), st.integers(0, 1200), st.integers(0, 7))
def test_flipped_bits_of_the_header_are_refused_or_change_nothing(spec, where, bit):
    data = bytearray(MODELS[spec])
    data[where % len(data)] ^= 1 << bit
    refused_or_same(bytes(data), MODELS[spec])


@given(st.sampled_from(sorted(MODELS)), st.floats(0, 1, exclude_max=True))
def test_cut_bytes_are_refused(spec, share):
    data = MODELS[spec]
    with pytest.raises(ModelFormatError):
        Model.from_bytes(data[: int(share * len(data))])


@given(st.sampled_from(sorted(MODELS)), st.binary(min_size=1, max_size=50), st.booleans())
def test_extended_bytes_are_refused(spec, more, before):
    data = MODELS[spec]
    with pytest.raises(ModelFormatError):
        Model.from_bytes(more + data if before else data + more)


@given(st.floats(0, 1), st.integers(1, 255))
def test_flipped_bytes_of_a_sketch_are_refused(where, change):
    original = SKETCH.to_bytes()
    data = bytearray(original)
    data[min(int(where * len(data)), len(data) - 1)] ^= change
    try:
        sketch = Sketch.from_bytes(bytes(data))
    except ModelFormatError:
        return
    assert sketch.to_bytes() == original


# Hostile content with a right hash ----------------------------------------------------------------------------------

RECORD, ARRAYS = container.read("model", fitted("center | pca(4) | int8").to_bytes())


def forged(record: dict[str, object] | None = None, arrays: dict[str, np.ndarray] | None = None) -> bytes:
    """A model with these entries in place of honest ones (None takes one away), and a hash that agrees."""
    content, state = RECORD | (record or {}), ARRAYS | (arrays or {})
    return container.write(
        "model",
        {key: value for key, value in content.items() if value is not None},
        {key: value for key, value in state.items() if value is not None},
    )


def bare(spec: str, dim: object, **arrays: np.ndarray) -> bytes:
    named = {key.replace("_", ".", 1).lstrip("s"): value for key, value in arrays.items()}
    return container.write("model", RECORD | {"spec": spec, "dim": dim}, named)


f32, f64, i8 = np.float32, np.float64, np.int8
HOSTILE = {
    "no spec": forged({"spec": None}),
    "spec is a number": forged({"spec": 3}),
    "spec is empty": forged({"spec": ""}),
    "spec is unknown": forged({"spec": "evil"}),
    "spec is very long": forged({"spec": "center | " * 10_000 + "center"}),
    "another spec of fewer steps": forged({"spec": "pca(4)"}),
    "another spec of more steps": forged({"spec": "center | pca(4) | center | int8"}),
    "another width inside": forged({"spec": "center | pca(5) | int8"}),
    "no dim": forged({"dim": None}),
    "dim 0": forged({"dim": 0}),
    "dim below 0": forged({"dim": -8}),
    "dim is true": forged({"dim": True}),
    "dim is text": forged({"dim": "8"}),
    "dim is 8.0": forged({"dim": 8.0}),
    "dim is huge": forged({"dim": 1 << 62}),
    "dim beyond 64 bits": forged({"dim": 1 << 80}),
    "dim is another": forged({"dim": 9}),
    "rows below 0": forged({"rows": -1}),
    "rows are missing": forged({"rows": None}),
    "rows beyond 64 bits": forged({"rows": 1 << 70}),
    "output is another": forged({"output": "FLOAT[3]"}),
    "bytes are others": forged({"bytes": 1}),
    "an array is missing": forged(arrays={"0.mean": None}),
    "an array too many": forged(arrays={"0.more": np.zeros(8)}),
    "an array of no step": forged(arrays={"3.mean": np.zeros(8)}),
    "an array of a step far away": forged(arrays={"99999999999999999999.mean": np.zeros(8)}),
    "an array of step minus one": forged(arrays={"-1.mean": np.zeros(8)}),
    "an array without a step": forged(arrays={"mean": np.zeros(8)}),
    "an array of step ²": forged(arrays={"².mean": np.zeros(8)}),
    "an array of step ٠": forged(arrays={"٠.mean": np.zeros(8), "0.mean": None}),
    "an array of step 00": forged(arrays={"00.mean": np.zeros(8), "0.mean": None}),
    "mean as float32": forged(arrays={"0.mean": np.zeros(8, f32)}),
    "mean as integers": forged(arrays={"0.mean": np.zeros(8, np.int64)}),
    "mean of two axes": forged(arrays={"0.mean": np.zeros((8, 1))}),
    "mean without axes": forged(arrays={"0.mean": np.zeros(())}),
    "mean too short": forged(arrays={"0.mean": np.zeros(7)}),
    "mean of NaN": forged(arrays={"0.mean": np.full(8, np.nan)}),
    "mean of infinity": forged(arrays={"0.mean": np.full(8, np.inf)}),
    "components turned": forged(arrays={"1.components": np.zeros((4, 8), f32)}),
    "step below 0": forged(arrays={"2.step": np.full(4, -1, f32)}),
    "step of NaN": forged(arrays={"2.step": np.full(4, np.nan, f32)}),
    "low of infinity": forged(arrays={"2.low": np.full(4, -np.inf, f32)}),
    "a huge projection": bare("project(65536)", 65_536),
    "a huge hadamard projection": bare("project(60000, kind=hadamard)", 65_536, s0_signs=np.ones(65_536, i8)),
    "a hadamard projection of many": bare(
        "project(1024, kind=hadamard)",
        65_536,
        s0_signs=np.ones(65_536, i8),
        s0_outputs=np.zeros(1024, np.int32),
    ),
    "a cosine projection of many": bare("project(1024, kind=dct)", 65_536),
    "hadamard outputs below 0": bare(
        "project(2, kind=hadamard)", 8, s0_signs=np.ones(8, i8), s0_outputs=np.array([-1, 0], np.int32)
    ),
    "hadamard outputs too far": bare(
        "project(2, kind=hadamard)", 8, s0_signs=np.ones(8, i8), s0_outputs=np.array([0, 8], np.int32)
    ),
    "hadamard signs of 0": bare("rotate(kind=hadamard)", 8, s0_signs=np.zeros((4, 8), i8)),
    "hadamard signs of -128": bare("rotate(kind=hadamard)", 8, s0_signs=np.full((4, 8), -128, i8)),
    "a huge hadamard rotation": bare("rotate(kind=hadamard)", 8_192, s0_signs=np.ones((4, 8_192), i8)),
    "many hadamard rotations": bare(
        " | ".join(["rotate(kind=hadamard)"] * 64),
        2_048,
        **{f"s{i}_signs": np.ones((4, 2_048), i8) for i in range(64)},
    ),
    "a huge rotation": bare("rotate", 65_536),
    "a huge whitening": bare("whiten", 65_536),
    "a huge pca": bare("pca(65536)", 65_536),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_content_with_a_right_hash_is_refused(case):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFormatError):
        Model.from_bytes(HOSTILE[case])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} KB for {len(HOSTILE[case])} bytes"


@pytest.mark.parametrize(
    "arrays",
    [
        {"0.mean": np.full(8, 1e300)},
        {"1.components": np.full((8, 4), 3e38, f32)},
        {"1.spectrum": np.full(8, -1.0)},
        {"2.low": np.full(4, 3e38, f32)},
        {"2.low": np.full(4, -3e38, f32), "2.step": np.full(4, 3e38, f32)},
        {"2.step": np.full(4, 1e-45, f32)},
        {"2.step": np.zeros(4, f32)},
    ],
    ids=lambda arrays: " ".join(arrays),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_absurd_numbers_with_a_right_hash_crash_nothing(arrays):
    model = Model.from_bytes(forged(arrays=arrays))
    try:
        codes, _ = model.encode(X)
        assert codes.shape == (100, 4)
        model.score(model.prepare(X[:2]), codes)
        model.decode(codes)
    except VecpipeError:
        return


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(st.binary(min_size=12, max_size=12))
def test_codes_from_a_stranger_decode_to_something_or_are_refused(code):
    model = fitted("int8(scale=vector)")
    codes = np.frombuffer(code, np.uint8).reshape(1, 12)
    decoded = model.decode(codes)
    assert decoded.shape == (1, 8)
    model.score(model.prepare(X[:1]), codes)


def test_the_hash_is_of_the_content_and_nothing_else():
    a, b = fitted("pca(4)"), fitted("pca( k = 4 )")
    assert a.hash == b.hash
    assert len(a.hash) == 64
    assert fitted("pca(5)").hash != a.hash
    assert repr(a).startswith("Model('pca(4)', dim=8, output=FLOAT[4], hash=")


def test_reading_back_costs_no_trust_in_the_callers_buffer():
    data = bytearray(MODELS["whiten"])
    model = Model.from_bytes(data)
    expected = model.transform(X)[0].copy()
    data[:] = b"\0" * len(data)
    np.testing.assert_array_equal(model.transform(X)[0], expected)
    assert Model.from_bytes(model.to_bytes()).hash == model.hash
