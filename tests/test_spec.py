"""The spec language: what it reads it prints back, and junk is never anything but a SpecError."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecpipe.errors import SpecError
from vecpipe.operators import Codec, Operator, registry
from vecpipe.operators.parameters import parameters
from vecpipe.spec import MAX_SPEC, MAX_STEPS, format_spec, format_step, parse, signature


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("pca(16)", "pca(16)"),
        ("  center|pca( k = 16 )|int8  ", "center | pca(16) | int8"),
        ("pca(16, true)", "pca(16, whiten=true)"),
        ("pca(k:=16, whiten := true)", "pca(16, whiten=true)"),
        ("pca(16, whiten=false)", "pca(16)"),
        ("normalize(l2)", "normalize"),
        ("normalize()", "normalize"),
        ("whiten(shrink=ledoit_wolf)", "whiten(shrink=ledoit_wolf)"),
        ("whiten(shrink=1)", "whiten(shrink=1)"),
        ("whiten(eps=1e-9)", "whiten"),
        ("power(.5)", "power(0.5)"),
        ("power(5e-1)", "power(0.5)"),
        ("power(2.)", "power(2)"),
        ("rotate(\n seed = 7\n)", "rotate(seed=7)"),
    ],
)
def test_specs_print_in_one_form(text, printed):
    assert format_spec(parse(text)) == printed


LONG = "whiten(kind=zca,shrink=0.123456789012345,eps=0.00123456789123)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("pcaa(3)", "did you mean pca"),
        ("zzz", "there are"),
        ("PCA(3)", "no operator"),
        ("pca", "k is missing"),
        ("pca()", "k is missing"),
        ("pca(0)", "k is 0; expected an integer from 1 to 65536"),
        ("pca(-1)", "k is -1"),
        ("pca(65537)", "k is 65537"),
        ("pca(1.5)", "expected an integer"),
        ("pca(true)", "expected an integer"),
        ("pca(none)", "expected an integer"),
        ("pca(many)", "expected an integer"),
        ("pca(3, 4)", "whiten is 4; expected true or false"),
        ("pca(3, k=3)", "k is given twice"),
        ("pca(3, false, true, 1)", "too many parameters"),
        ("pca(whiten=true, 3)", "whiten is given twice"),
        ("pca(3, whitening=true)", "did you mean whiten"),
        ("pca(3,)", "cannot read"),
        ("pca(3", "cannot read"),
        ("pca 3", "cannot read"),
        ("pca((3))", "cannot read"),
        ("center | | pca(3)", "cannot read"),
        ("center |", "cannot read"),
        ("int8 | center", "must be the last step, but center follows"),
        ("normalize(kind=layr)", "expected one of l2, rms, layer; did you mean"),
        ("normalize(kind='l2')", "cannot read the value"),
        ("whiten(shrink=2)", "shrink is 2"),
        ("whiten(shrink=ledoit)", "did you mean ledoit_wolf"),
        ("whiten(kind=phi_s, power=0.5)", "power and remove apply to"),
        ("normalize(eps=1e999)", "eps is inf"),
        ("rotate(seed=99999999999999999999)", "seed"),
        ("pca(3); DROP TABLE docs", "cannot read"),
        ("x" * (MAX_SPEC + 1), "at most 4096 characters"),
        (" | ".join(["center"] * (MAX_STEPS + 1)), "at most 64 steps"),
        ("|".join([LONG] * MAX_STEPS), "at most 4096 characters, this one has 4285 once it is formatted"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(text, message):
    with pytest.raises(SpecError, match=message):
        parse(text)


@pytest.mark.parametrize("thing", [None, 3, b"pca(3)", ["center"], object()])
def test_what_is_no_text_is_a_spec_error(thing):
    with pytest.raises(SpecError, match="a spec is text"):
        parse(thing)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_parameters_are_finite_in_python_too(value):
    for make in (lambda: registry()["normalize"](eps=value), lambda: registry()["power"](p=value)):
        with pytest.raises(SpecError):
            make()


ALPHABET = "pcaint8whitenormlz|(),=:.0123456789 -+e_\n\t'\"\\;xK\x00é１"


@given(st.one_of(st.text(max_size=60), st.text(ALPHABET, max_size=60)))
def test_junk_is_a_spec_error_or_prints_back(text):
    try:
        steps = parse(text)
    except SpecError:
        return
    assert format_spec(parse(format_spec(steps))) == format_spec(steps)


@given(st.sampled_from(sorted(registry())), st.text(ALPHABET, max_size=25))
def test_junk_between_brackets_is_a_spec_error_or_prints_back(name, inside):
    try:
        steps = parse(f"{name}({inside})")
    except SpecError:
        return
    assert format_spec(parse(format_spec(steps))) == format_spec(steps)


def operators() -> st.SearchStrategy[Operator]:
    """Any operator with any parameters that it accepts."""

    @st.composite
    def draw(pick: st.DrawFn) -> Operator | None:
        cls = registry()[pick(st.sampled_from(sorted(registry())))]
        given_values = {}
        for p in parameters(cls):
            options: list[st.SearchStrategy[object]] = [] if p.required else [st.just(p.default)]
            low = 0 if p.minimum is None else p.minimum
            high = 10_000 if p.maximum is None else p.maximum
            if int in p.kinds:
                options.append(st.integers(int(low), int(high)))
            if float in p.kinds:
                options.append(st.floats(low, high, allow_nan=False, allow_infinity=False))
            if bool in p.kinds:
                options.append(st.booleans())
            if p.choices:
                options.append(st.sampled_from(p.choices))
            given_values[p.name] = pick(st.one_of(options))
        try:
            return cls(**given_values)
        except SpecError:
            return None

    return draw().filter(lambda step: step is not None)


@given(st.lists(operators(), min_size=1, max_size=5))
def test_any_pipeline_prints_to_a_spec_that_reads_as_the_same_pipeline(steps):
    steps = [step for step in steps[:-1] if not isinstance(step, Codec)] + steps[-1:]
    again = parse(format_spec(steps))
    assert [type(step) for step in again] == [type(step) for step in steps]
    for a, b in zip(again, steps, strict=True):
        for p in parameters(type(a)):
            assert getattr(a, p.name) == getattr(b, p.name)
            assert type(getattr(a, p.name)) is type(getattr(b, p.name))


def test_blanks_do_not_make_reading_slow():
    with pytest.raises(SpecError):
        parse("pca(" + " " * 4_000 + "=)")
    with pytest.raises(SpecError):
        parse("pca(a" + " b" * 1_900 + "=)")


@pytest.mark.parametrize("name", sorted(registry()))
def test_signatures_name_every_parameter(name):
    text = signature(registry()[name])
    assert text.startswith(name)
    for p in parameters(registry()[name]):
        assert p.name in text
    if all(not p.required for p in parameters(registry()[name])):
        assert format_step(registry()[name]()) == name
