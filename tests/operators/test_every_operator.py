"""Properties that every operator must have, run over the whole registry."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pytest
from conftest import anisotropic, fixed

from vecpipe.columns.vectors import to_rows
from vecpipe.errors import CapabilityError, FitError, InputError, SpecError, VecpipeError
from vecpipe.fitting.steps import fit_sketch
from vecpipe.model import Model
from vecpipe.operators import Codec, registry
from vecpipe.operators.parameters import parameters
from vecpipe.sketch import Sketch
from vecpipe.spec import format_spec, parse

SPECS = {
    "normalize": ["normalize", "normalize(kind=rms)", "normalize(kind=rms, eps=0.01)", "normalize(kind=layer)"],
    "power": ["power(0.5)", "power(2)"],
    "center": ["center"],
    "standardize": ["standardize"],
    "whiten": [
        "whiten",
        "whiten(kind=zca)",
        "whiten(kind=cholesky)",
        "whiten(kind=phi_s)",
        "whiten(shrink=0.1)",
        "whiten(kind=zca, shrink=ledoit_wolf)",
        "whiten(power=0.5)",
        "whiten(power=auto)",
        "whiten(remove=2)",
        "whiten(kind=zca, remove=2, eps=0.001)",
    ],
    "truncate": ["truncate(5)"],
    "select": ["select(5)", "select(5, by=moment)"],
    "leanvec": [
        "leanvec(5)",
        "leanvec(5, mode=pca)",
        "leanvec(5, mode=sphering)",
        "leanvec(5, mode=eig, shrink=0.5)",
        "leanvec(5, mode=fw)",
    ],
    "pca": ["pca(5)", "pca(5, whiten=true)", "pca(5, center=false)", "pca(12)"],
    "project": [
        "project(7)",
        "project(7, kind=sparse, seed=3)",
        "project(7, kind=very_sparse)",
        "project(9, kind=hadamard)",
        "project(20)",
        "project(5, kind=fft)",
        "project(8, kind=fft_complex)",
        "project(12, kind=fft_complex)",
        "project(5, kind=dct)",
        "project(12, kind=dct)",
        "center | project(5, kind=dct) | int8",
    ],
    "rotate": ["rotate", "rotate(seed=5)", "rotate(kind=hadamard)", "rotate(kind=itq)"],
    "cells": ["cells(7)", "cells(9, seed=3)", "normalize | cells(100)", "normalize | cells(5) | int8"],
    "float16": ["float16", "normalize | float16"],
    "transform_code": ["transform_code(6)", "transform_code(10)", "center | transform_code(4)"],
    "osq": ["osq(5)", "center | osq(8)"],
    "int8": ["int8", "int8(scale=vector)", "int8(quantile=0.98)", "normalize | int8", "center | pca(8) | int8"],
    "bfloat16": ["bfloat16"],
    "int4": ["int4", "center | int4(quantile=1)"],
    "lvq": ["lvq(4)", "lvq(8, residual=3)"],
    "bebr": ["bebr", "bebr(bits=8)"],
    "int8_outlier": ["int8_outlier", "int8_outlier(sigma=1.5)"],
    "rabitq": ["rabitq", "rabitq(bits=4, seed=2)", "center | rabitq(bits=8)"],
    "eden": ["eden", "eden(bits=1, seed=1)"],
    "pq": ["pq(5)", "pq(5, bits=4, seed=1)"],
    "opq": ["opq(5)", "opq(5, bits=4, seed=1)"],
    "rvq": ["rvq(5)", "rvq(5, bits=4, seed=1)"],
    "binary": ["binary", "center | rotate | binary", "normalize | binary", "rotate(kind=hadamard) | binary"],
}
"""Specs that cover each operator: every kind and every parameter away from its default."""

ROUGH = {
    "binary": 0.6,
    "bebr": 0.8,
    "rabitq": 0.7,
    "transform_code": 0.9,
    "osq": 0.9,
    "eden": 0.7,
    "pq": 0.9,
    "opq": 0.9,
    "rvq": 0.9,
    "lvq": 0.99,
    "int4": 0.99,
}
"""Codecs coarser than a byte a dimension, with the least cosine between a row and what its code stands for."""
OWN_LENGTHS = {"rabitq", "eden"}
"""Codecs that know the lengths of the rows beside those of the decoded vectors."""

T = TypeVar("T")
METRICS = ("cosine", "ip", "l2")


def is_code(spec: str) -> bool:
    return isinstance(parse(spec)[-1], Codec)


ALL = [spec for specs in SPECS.values() for spec in specs]
CODES = [spec for spec in ALL if is_code(spec)]
CHAINS = ["center | pca(8) | rotate | int8", "normalize | whiten | truncate(6)", "standardize | power(0.5) | pca(4)"]
INVERTIBLE = {
    "center": 1e-5,
    "standardize": 1e-5,
    "whiten": 1e-3,
    "whiten(kind=zca)": 1e-3,
    "whiten(kind=cholesky)": 1e-3,
    "whiten(kind=phi_s)": 1e-5,
    "whiten(shrink=0.1)": 1e-4,
    "whiten(power=0.5)": 1e-4,
    "pca(12)": 1e-5,
    "rotate": 1e-5,
    "rotate(seed=5)": 1e-5,
    "rotate(kind=hadamard)": 1e-5,
    "rotate(kind=itq)": 1e-5,
    "power(0.5)": 1e-4,
    "power(2)": 1e-4,
    "cells(7)": 0.0,
    "project(20)": 1e-4,
    "project(12, kind=fft_complex)": 1e-5,
    "project(12, kind=dct)": 1e-5,
}
"""Specs that lose nothing, with the error relative to the largest entry that float32 leaves."""


def fitted(spec: str, X: np.ndarray, **kwargs: object) -> Model:
    sketch = Sketch(X.shape[1])
    sketch.update(X, **kwargs)
    return fit_sketch(sketch, spec)


def result(model: Model, X: np.ndarray) -> np.ndarray:
    """Codes, or vectors with NaN where there is no result."""
    if model.codec:
        codes, valid = model.encode(X)
        return codes if valid is None else np.where(valid[:, None], codes, np.uint8(0))
    Y, valid = model.transform(X)
    return Y if valid is None else np.where(valid[:, None], Y, np.float32(np.nan))


def assert_same(a: np.ndarray, b: np.ndarray, added: np.ndarray | float = 0.0) -> None:
    """Codes to the byte; vectors to 1e-6 of the row's length, or of what was added up to it where that is more."""
    if a.dtype == np.uint8:
        np.testing.assert_array_equal(a, b)
        return
    assert (np.isnan(a) == np.isnan(b)).all()
    scale = np.maximum(np.linalg.norm(np.nan_to_num(a), axis=1), added)[:, None]
    assert np.nan_to_num(np.abs(a - b) / np.maximum(scale, 1e-30)).max(initial=0.0) <= 1e-6


def attempt(call: Callable[[], T], refusal: type[VecpipeError], reason: str) -> T | None:
    """What a call returns, or None where it refuses for this reason."""
    try:
        return call()
    except refusal as error:
        if reason not in str(error):
            raise
        return None


def magnitude(model: Model, X: np.ndarray) -> np.ndarray | float:
    """What a whitening adds up for a row, ``|x| |A|``: float32 rounds relative to that, not to the little left."""
    step = model.steps[0].affine()
    if step is None or step.diagonal or model.steps[0].name != "whiten":
        return 0.0
    return (np.abs(X) @ np.abs(step.matrix)).max(axis=1)


def awkward(dim: int = 12) -> np.ndarray:
    """Rows with zeros, duplicates, tiny and large values among ordinary ones."""
    X = anisotropic(300, dim, seed=7)
    X[10] = 0
    X[20:25] = X[19]
    X[30] *= 1e-6
    X[31] *= 30
    return X


# The registry ---------------------------------------------------------------------------------------------------


def test_every_registered_operator_is_covered_by_specs():
    assert set(SPECS) == set(registry())


def test_the_specs_set_every_parameter_and_use_every_choice():
    for name, specs in SPECS.items():
        steps = [step for spec in specs for step in parse(spec) if step.name == name]
        for parameter in parameters(registry()[name]):
            values = {getattr(step, parameter.name) for step in steps}
            assert set(parameter.choices) <= values, (name, parameter.name)
            if not parameter.choices:
                assert any(value != parameter.default for value in values), (name, parameter.name)


@pytest.mark.parametrize("name", sorted(registry()))
def test_every_operator_says_what_it_is_and_where_it_comes_from(name):
    cls = registry()[name]
    assert len((cls.__doc__ or "").strip()) > 30
    assert cls.source
    assert cls.oracle
    for parameter in parameters(cls):
        assert parameter.doc, f"{name}: {parameter.name} has no help"


def compares(function: ast.FunctionDef, helpers: dict[str, ast.FunctionDef]) -> bool:
    """Whether a test asserts something, itself or in a helper of its module."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.startswith("assert_") or (name in helpers and compares(helpers.pop(name), helpers)):
                return True
    return False


def claims_of_tests() -> dict[tuple[str, str], set[str]]:
    """What the tests marked ``@oracle(operators, says=)`` say, by operator, and what their modules import."""
    claims: dict[tuple[str, str], set[str]] = {}
    for path in sorted(Path(__file__).parents[1].rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        imports = {
            name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [x.name for x in node.names])
        }
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for name, function in functions.items():
            for mark in function.decorator_list:
                if not (isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "oracle"):
                    continue
                said = [ast.literal_eval(keyword.value) for keyword in mark.keywords if keyword.arg == "says"]
                for operator in map(ast.literal_eval, mark.args):
                    assert operator in registry(), f"{path.name}: {name} is marked for {operator}, which does not exist"
                    if said and name.startswith("test_") and compares(function, dict(functions)):
                        claims[operator, said[0]] = imports
    return claims


def test_what_operators_say_they_are_checked_against_is_what_tests_say():
    tested = claims_of_tests()
    said = {(name, claim) for name, cls in registry().items() for claim in cls.oracle.split("; ")}
    assert said == set(tested), "operators and tests differ"
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    installed = {re.split(r"[<>=~ \[]", line)[0] for line in extras["optional-dependencies"]["dev"]}
    for (name, claim), imports in tested.items():
        for peer, package in {"sklearn": "scikit-learn", "scipy": "scikit-learn", "faiss": "faiss-cpu"}.items():
            if re.search(rf"\b{peer}\b", claim.lower()):
                assert peer in imports, f"{name} says {claim!r}, but its test does not import {peer}"
                assert package in installed, f"{name} says {claim!r}, but the dev extra does not install {package}"


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_a_spec_prints_back_to_itself(spec):
    assert format_spec(parse(spec)) == spec
    assert fitted(spec, anisotropic()).spec == spec


# What a result may depend on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ALL + CHAINS)
@pytest.mark.parametrize("size", [1, 7, 2048])
def test_results_do_not_depend_on_the_batch(spec, size):
    X = awkward()
    model = fitted(spec, X)
    parts = [result(model, X[start : start + size]) for start in range(0, len(X), size)]
    assert_same(result(model, X), np.concatenate(parts), magnitude(model, X))


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_results_do_not_depend_on_row_order_or_memory_layout(spec):
    X = awkward()
    model = fitted(spec, X)
    order = np.random.default_rng(3).permutation(len(X))
    assert_same(result(model, X)[order], result(model, X[order]), magnitude(model, X[order]))
    wide = np.zeros((len(X), X.shape[1] + 3), np.float32)
    wide[:, 1:-2] = X
    assert_same(result(model, X), result(model, wide[:, 1:-2]), magnitude(model, X))
    assert_same(result(model, X), result(model, np.asfortranarray(X)), magnitude(model, X))


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_results_do_not_depend_on_threads(spec):
    X = awkward()
    model = fitted(spec, X)
    whole = result(model, X)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda start: result(model, X[start : start + 37]), range(0, len(X), 37)))
    assert_same(whole, np.concatenate(parts), magnitude(model, X))


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_applying_leaves_the_input_alone(spec):
    X = awkward()
    before = X.copy()
    model = fitted(spec, X)
    result(model, X)
    model.score(model.prepare(X[:2]), model.encode(X)[0] if model.codec else model.transform(X)[0])
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_the_model_does_not_depend_on_row_order_batches_or_merges(spec):
    X = awkward()
    whole = fitted(spec, X)
    order = np.random.default_rng(5).permutation(len(X))
    assert fitted(spec, X[order]).hash == whole.hash
    parts = [Sketch(12) for _ in range(3)]
    for part, rows in zip(parts, np.array_split(X[order], [50, 51]), strict=True):
        for row in np.array_split(rows, 4):
            part.update(row)
    parts[1].merge(Sketch.from_bytes(parts[2].to_bytes()))
    parts[0].merge(parts[1])
    assert fit_sketch(parts[0], spec).hash == whole.hash


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_saving_and_loading_gives_the_same_model(spec):
    X = awkward()
    model = fitted(spec, X)
    again = Model.from_bytes(model.to_bytes())
    assert again.hash == model.hash
    # What was read keeps the bytes it came in: only a model made of its parts is written anew.
    rebuilt = Model(again.steps, again.dim, again.info)
    assert rebuilt.to_bytes() == model.to_bytes()
    assert rebuilt.hash == model.hash
    assert again.describe() == model.describe()
    np.testing.assert_array_equal(result(again, X), result(model, X))


# Data that is not nice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_rows_outside_the_mask_stay_outside(spec):
    X = awkward()
    model = fitted(spec, X)
    mask = np.ones(len(X), bool)
    mask[::5] = False
    _, valid = model.encode(X, mask) if model.codec else model.transform(X, mask)
    assert valid is not None
    assert not valid[::5].any()


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_no_rows_give_no_rows(spec):
    model = fitted(spec, awkward())
    none = np.zeros((0, 12), np.float32)
    if model.codec:
        codes, _ = model.encode(none)
        assert codes.shape == (0, model.bytes_per_vector)
        assert model.decode(codes).shape == (0, 12)
    else:
        codes, _ = model.transform(none)
        assert codes.shape == (0, model.output_dim)
    assert model.score(model.prepare(awkward()[:2]), codes).shape == (2, 0)


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_results_are_finite_or_marked(spec):
    X = awkward()
    model = fitted(spec, X)
    values, valid = model.encode(X) if model.codec else model.transform(X)
    if model.codec:
        values = model.codec.decode(values)
    assert np.isfinite(values).all()
    assert valid is None or (valid == X.any(axis=1)).all()


def rows_of_size(size: float) -> np.ndarray:
    X = anisotropic(300, 12, seed=7).astype(np.float64)
    return (X / np.linalg.norm(X, axis=1, keepdims=True) * size).astype(np.float32)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_weights_that_are_all_zero_are_refused(spec):
    with pytest.raises(FitError, match="weights are zero"):
        fitted(spec, anisotropic(), weights=np.zeros(600))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_zero_vectors_alone_fit_or_say_why_not(spec):
    X = np.zeros((40, 12), np.float32)
    model = attempt(lambda: fitted(spec, X), FitError, "zero" if "whiten" not in spec or "|" in spec else "not vary")
    if model is None:
        return
    assert model.info.zeros == 40
    values, valid = model.encode(X) if model.codec else model.transform(X)
    values = model.codec.decode(values) if model.codec else values
    live = np.ones(40, bool) if valid is None else valid
    np.testing.assert_allclose(values[live], 0, atol=1e-6)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("size", [1e13, 1e18, 1e19, 1e-30])
@pytest.mark.parametrize("spec", [spec for spec in ALL + CHAINS if "eps=0.01" not in spec])
def test_large_and_tiny_numbers_give_right_results_or_an_error_that_says_why_not(spec, size):
    X = rows_of_size(size)
    reason = "squares leave" if size == 1e18 else "long on average"
    model = fitted(spec, X) if size == 1e13 else attempt(lambda: fitted(spec, X), FitError, reason)
    if model is None:
        assert is_code(spec)
        assert size != 1e18 or "opq" in spec
        return
    assert model.info.zeros == 0
    for step in model.steps:
        assert all(np.isfinite(array).all() for array in step.state.values() if array.dtype.kind == "f")
    found = attempt(lambda: model.encode(X) if model.codec else model.transform(X), InputError, "65504")
    if found is None:
        return
    items, valid = found
    assert valid is None or valid.all()
    expected = in_float64(model, X)[0] if model.codec is None else model.transform(X)[0].astype(np.float64)
    vectors = items.astype(np.float64) if model.codec is None else model.codec.decode(items).astype(np.float64)
    if model.codec is None:
        scale = np.maximum(np.abs(expected).max(axis=1), magnitude(model, X.astype(np.float64)))[:, None]
        assert (np.abs(vectors - expected) <= 1e-5 * scale + 1e-37).all()
    else:
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
        assert np.median((vectors * expected).sum(axis=1) / lengths) > ROUGH.get(model.codec.name, 0.999)
    if model.codec is None:
        Q = anisotropic(3, 12, seed=9) * np.float32(size)
        moved = model.transform_queries(Q)[0]
        scores = model.score(model.prepare(Q, "cosine"), items)
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(scores, formula("cosine", moved, vectors), atol=1e-4)


def in_float64(model: Model, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the steps make of rows near the end of float32, the rows that must leave its range, those that may."""
    limit = float(np.finfo(np.float32).max)
    Y, must, may = X.astype(np.float64), np.zeros(len(X), bool), np.zeros(len(X), bool)
    for step in model.steps:
        found = step.affine()
        if found is None:  # taken where there is room: these steps are homogeneous
            degree = {"normalize": 0.0, "power": getattr(step, "p", 1.0)}.get(step.name, 1.0)
            power = int(np.frexp(np.abs(Y).max())[1])
            Y = step.apply(np.ldexp(Y, -power).astype(np.float32)).astype(np.float64) * 2.0 ** (power * degree)
        else:
            matrix = np.diag(found.matrix) if found.diagonal else found.matrix
            kept = Y[:, : len(matrix)]
            may |= (np.abs(kept) @ np.abs(matrix) + np.abs(found.offset)).max(axis=1) > limit * 0.999
            Y = kept @ matrix + found.offset
        must |= np.abs(Y).max(axis=1) > limit * 1.001
        may |= np.abs(Y).max(axis=1) > limit * 0.999
    return Y, must, may


@pytest.mark.parametrize("spec", [s for s in ALL + CHAINS if not is_code(s) and "eps=0.01" not in s])
def test_rows_that_leave_the_range_of_float32_are_marked_and_others_are_right(spec):
    model = fitted(spec, awkward())
    signs = np.where(np.random.default_rng(0).random((40, 12)) < 0.5, -1.0, 1.0)
    signs[0] = 1
    X = np.concatenate([3e38 * signs, 3e37 * signs, 1e36 * signs]).astype(np.float32)
    values, valid = model.transform(X)
    marked = np.zeros(len(X), bool) if valid is None else ~valid
    expected, must, may = in_float64(model, X)
    assert marked[must].all()
    assert not marked[~may].any()
    scale = np.maximum(np.abs(expected).max(axis=1), magnitude(model, X.astype(np.float64)))[:, None]
    scale = np.maximum(scale, 1e-30)
    np.testing.assert_allclose((values / scale)[~marked], (expected / scale)[~marked], atol=1e-5)


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_one_row_fits_or_says_why_not(spec):
    X = anisotropic(1)
    model = attempt(lambda: fitted(spec, X), FitError, "whiten")
    if model is None:
        return
    assert model.info.rows == 1
    assert len(result(model, X)) == 1


@pytest.mark.parametrize("spec", ALL)
def test_rows_that_are_all_the_same_fit_or_say_why_not(spec):
    X = np.repeat(anisotropic(1), 50, axis=0)
    model = attempt(lambda: fitted(spec, X), FitError, "whiten")
    if model is None:
        return
    values = result(model, X)
    assert_same(values, np.repeat(values[:1], 50, axis=0))


@pytest.mark.parametrize("spec", ALL)
def test_one_dimension_fits_or_says_why_not(spec):
    X = anisotropic(200, 1)
    spec = re.sub(r"\((5|7|8|9|12|20)", "(1", spec)
    model = attempt(lambda: fitted(spec, X), SpecError, "remove")
    if model is None:
        return
    assert len(result(model, X)) == 200


@pytest.mark.parametrize("spec", ALL)
def test_constant_dimensions_do_no_harm(spec):
    X = anisotropic()
    X[:, [0, 5, 11]] = [3.0, 0.0, -1.0]
    model = attempt(lambda: fitted(spec, X), FitError, "cholesky")
    if model is None:
        return
    values, valid = model.encode(X) if model.codec else model.transform(X)
    assert valid is None or valid.all()
    if model.codec is None:
        assert np.isfinite(values).all()


@pytest.mark.parametrize("spec", ALL)
def test_wrong_width_is_an_error_that_names_both_widths(spec):
    model = fitted(spec, anisotropic())
    with pytest.raises(InputError, match=r"11 dimensions.*12"):
        model.transform(np.zeros((2, 11), np.float32))


@pytest.mark.parametrize("kind", [np.float16, np.float64])
@pytest.mark.parametrize("spec", ALL)
def test_other_float_types_and_lists_give_what_float32_gives(spec, kind):
    X = awkward().clip(-1e4, 1e4).astype(np.float16).astype(np.float32)
    model = fitted(spec, X)
    expected = result(model, X)
    lists = pa.array(X.tolist(), pa.list_(pa.from_numpy_dtype(kind)))
    for column in (fixed(X.astype(kind)), lists, lists.cast(pa.large_list(pa.from_numpy_dtype(kind)))):
        np.testing.assert_array_equal(result(model, to_rows(column).values), expected)


# Back again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "tolerance"), INVERTIBLE.items())
def test_the_inverse_undoes_what_loses_nothing(spec, tolerance):
    X = anisotropic()
    model = fitted(spec, X)
    back = model.inverse(model.transform(X)[0])
    assert np.abs(back - X).max() <= tolerance * np.abs(X).max()


@pytest.mark.parametrize("spec", [spec for spec in ALL if spec not in CODES and "eps=0.01" not in spec])
def test_the_inverse_is_a_right_inverse_or_a_clear_refusal(spec):
    X = anisotropic()
    model = fitted(spec, X)
    Y, _ = model.transform(X)
    back = attempt(lambda: model.inverse(Y), CapabilityError, "cannot be undone")
    if back is None:
        return
    assert back.shape == X.shape
    np.testing.assert_allclose(model.transform(back)[0], Y, atol=1e-3 * np.abs(Y).max())


@pytest.mark.parametrize("spec", CODES)
def test_codes_have_the_promised_size_and_decode_near_to_what_was_encoded(spec):
    X = anisotropic()
    model = fitted(spec, X)
    codes, valid = model.encode(X)
    assert valid is None
    assert codes.shape == (len(X), model.bytes_per_vector)
    assert codes.dtype == np.uint8
    moved, _ = model.transform(X)
    near = model.codec.decode(codes)
    assert near.shape == moved.shape
    cosines = (near * moved).sum(1) / np.linalg.norm(near, axis=1) / np.linalg.norm(moved, axis=1)
    assert np.median(cosines) > ROUGH.get(model.codec.name, 0.999)
    assert model.decode(codes).shape == X.shape


@pytest.mark.parametrize("spec", [spec for spec in CODES if re.search("float16|int4|int8|bebr|binary", spec)])
def test_encoding_decoded_vectors_gives_the_same_codes(spec):
    model = fitted(spec, anisotropic())
    codes, _ = model.encode(anisotropic())
    again = model.codec.encode(model.codec.decode(codes))
    differing = (again.view(np.int8).astype(int) - codes.view(np.int8).astype(int)) if "int8" in spec else again ^ codes
    if "vector" in spec or "outlier" in spec:
        differing = differing[:, :12]
    assert not differing.any()


@pytest.mark.parametrize("spec", [spec for spec in ALL if spec not in CODES])
def test_without_a_codec_there_are_no_codes(spec):
    model = fitted(spec, anisotropic())
    with pytest.raises(CapabilityError, match="add a codec"):
        model.encode(anisotropic())
    with pytest.raises(CapabilityError, match="cannot decode"):
        model.decode(np.zeros((1, 4), np.uint8))


# Scores ---------------------------------------------------------------------------------------------------------


def formula(metric: str, Q: np.ndarray, V: np.ndarray, squares: np.ndarray | None = None) -> np.ndarray:
    Q, V = Q.astype(np.float64), V.astype(np.float64)
    squares = (V**2).sum(1) if squares is None else squares.astype(np.float64)
    if metric == "ip":
        return Q @ V.T
    if metric == "l2":
        return -np.sqrt(np.maximum((Q**2).sum(1)[:, None] - 2 * Q @ V.T + squares, 0))
    return Q @ V.T / np.outer(np.linalg.norm(Q, axis=1), np.sqrt(squares))


def scored_space(model: Model, Q: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries and decoded items in the space that scores speak of: behind it steps only move or turn the vectors."""
    if model.codec is None:
        return model.transform_queries(Q)[0], items
    steps = list(model.steps[:-1])
    vectors = model.codec.decode(items)
    while steps and steps[-1].moves_only and not model.codec.lengthless:
        vectors = steps.pop().invert(vectors)
    for step in steps:
        Q = step.apply_query(Q)
    return Q, vectors


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_scores_are_the_formula_on_decoded_vectors(spec, metric):
    X, Q = anisotropic(), anisotropic(5, seed=9)
    model = fitted(spec, X)
    items = model.encode(X)[0] if model.codec else model.transform(X)[0]
    moved, vectors, coding = *scored_space(model, Q, items), model.coding
    scores = model.score(model.prepare(Q, metric), items)
    assert scores.dtype == np.float32
    squares = coding.squared_norms(items) if coding and model.codec.name in OWN_LENGTHS else None
    if metric == "cosine" and "normalize | " in spec and model.codec:
        # Rows had length one before they were encoded, and that is taken as known.
        expected = formula("ip", moved, vectors) / np.linalg.norm(moved, axis=1)[:, None]
    else:
        expected = formula(metric, moved, vectors, squares)
    scale = np.abs(expected).max()
    # A distance is a difference of squares: near zero its error is the root of theirs.
    tolerance = 3e-3 if metric == "l2" else 1e-4
    np.testing.assert_allclose(scores, expected, atol=tolerance * scale)


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_scores_do_not_depend_on_how_many_are_asked_for_at_once(spec):
    X, Q = anisotropic(), anisotropic(5, seed=9)
    model = fitted(spec, X)
    items = model.encode(X)[0] if model.codec else model.transform(X)[0]
    whole = model.score(model.prepare(Q), items)
    one = np.concatenate([model.score(model.prepare(Q[i : i + 1]), items) for i in range(5)])
    parts = np.concatenate([model.score(model.prepare(Q), items[s : s + 7]) for s in range(0, len(items), 7)], axis=1)
    np.testing.assert_allclose(one, whole, atol=2e-6)
    np.testing.assert_allclose(parts, whole, atol=2e-6)


@pytest.mark.parametrize(
    "spec", ["float16", "int8", "int8(scale=vector)", "binary", "normalize | int8", "rotate | int8"]
)
def test_a_zero_vector_never_ranks_under_cosine(spec):
    X = anisotropic()
    X[17] = 0
    model = fitted(spec, X)
    codes, valid = model.encode(X)
    for q in (X[3], -X[3], X.mean(axis=0)):
        scores = model.score(model.prepare(q[None]), codes)[0]
        scores = scores if valid is None else np.where(valid, scores, np.nan)
        assert np.isnan(scores[17])
        assert np.isfinite(np.delete(scores, 17)).all()


@pytest.mark.parametrize(
    "spec", ["float16", "int8", "int8(scale=vector)", "binary", "normalize", "pca(5, center=false)"]
)
def test_a_zero_query_scores_nothing_under_cosine(spec):
    X = anisotropic()
    model = fitted(spec, X)
    items = model.encode(X)[0] if model.codec else model.transform(X)[0]
    assert np.isnan(model.score(model.prepare(np.zeros((1, 12), np.float32)), items)).all()


# Folding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        "center | pca(5)",
        "standardize | whiten | rotate",
        "pca(8) | truncate(4) | center",
        "truncate(7) | whiten(kind=zca) | standardize",
        "rotate(kind=hadamard) | project(5) | normalize | center | pca(3)",
        "truncate(6) | center",
    ],
)
@pytest.mark.parametrize("stable", [False, True])
def test_folded_affine_steps_do_what_the_steps_do(spec, stable):
    X = anisotropic()
    model = fitted(spec, X)
    Y = X
    for step in model.steps:
        Y = step.apply(Y)
    np.testing.assert_allclose(model.transform(X, stable=stable)[0], Y, atol=1e-4 * np.abs(Y).max())


def test_truncating_wide_vectors_makes_no_matrix():
    dim = 60_000
    model = fit_sketch_of_zeros(dim, f"truncate({dim - 1})")
    Y, _ = model.transform(np.ones((2, dim), np.float32))
    assert Y.shape == (2, dim - 1)


def fit_sketch_of_zeros(dim: int, spec: str) -> Model:
    from vecpipe.stored_model import FitInfo

    return Model([parse(spec)[0].bind(dim, {})], dim, FitInfo())


# The public methods take what users have ---------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["pca(5)", "normalize", "int8", "binary", "float16"])
def test_models_take_float64_and_integers_and_refuse_other_shapes(spec):
    X = np.rint(anisotropic() * 10) + 0.0  # no minus zero: integers have none
    model = fitted(spec, X.astype(np.float32))
    for kind in (np.float64, np.int16):
        np.testing.assert_array_equal(result(model, X.astype(kind)), result(model, X.astype(np.float32)))
    for wrong in (X[0].astype(np.float32), np.array([["a"] * 12])):
        with pytest.raises(VecpipeError):
            result(model, wrong)


@pytest.mark.parametrize("spec", CODES)
def test_codes_of_another_width_are_refused(spec):
    model = fitted(spec, anisotropic())
    wrong = np.zeros((3, model.bytes_per_vector + 1), np.uint8)
    with pytest.raises(InputError, match="bytes"):
        model.decode(wrong)
    with pytest.raises(InputError, match="bytes"):
        model.score(model.prepare(anisotropic()[:1]), wrong)


@pytest.mark.parametrize("spec", ALL + CHAINS)
def test_a_model_is_the_same_after_use(spec):
    X = anisotropic()
    model = fitted(spec, X)
    before = [{name: array.copy() for name, array in step.state.items()} for step in model.steps]
    first = result(model, X)
    items = model.encode(X)[0] if model.codec else model.transform(X)[0]
    for metric in METRICS:
        model.score(model.prepare(X[:3], metric), items)
        model.score_codes(items, items[::-1].copy(), metric)
    model.transform_queries(X)
    with suppress(CapabilityError):
        _ = model.decode(items) if model.codec else model.inverse(items)
    for step, state in zip(model.steps, before, strict=True):
        assert step.state.keys() == state.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(step.state[name], array, err_msg=f"{step.name}: {name}")
    np.testing.assert_array_equal(result(model, X), first)
