"""FAISS factory strings to specs and back, where both mean the same transform and codec.

Only the strings are understood: FAISS itself is not needed. Inverted lists, graphs and refinement are search
structures, not codecs, and have no spec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vecpipe.errors import SpecError
from vecpipe.operators import Operator
from vecpipe.spec import format_spec, format_step, parse

_TRANSFORMS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"L2norm", lambda _: "normalize"),
    (r"PCA(W?)(R?)(\d+)", lambda m: f"pca({m[3]}{', whiten=true' if m[1] else ''})" + (" | rotate" if m[2] else "")),
    (r"RR", lambda _: "rotate"),
    (r"HR", lambda _: "rotate(kind=hadamard)"),
    (r"ITQ(\d+)", lambda m: f"center | normalize | pca({m[1]}, center=false) | rotate(kind=itq)"),
)
_CODECS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"SQ8", lambda _: "int8"),
    (r"SQ4", lambda _: "int4(quantile=1)"),
    (r"SQfp16", lambda _: "float16"),
    (r"SQbf16", lambda _: "bfloat16"),
    (r"LSH", lambda _: "binary"),
    (r"LSHr", lambda _: "rotate | binary"),
    (r"PQ(\d+)(?:x(4|8))?(?:np|fs|fsr)?", lambda m: f"pq({m[1]}{_bits(m[2])})"),
    (r"RQ(\d+)x(4|8)", lambda m: f"rvq({m[1]}{_bits(m[2])})"),
)
_EXAMPLES = (
    "PCA64, PCAW64, RR, HR, ITQ64, L2norm, then Flat, SQ8, SQ4, SQfp16, SQbf16, LSH, PQ48x8, OPQ48,PQ48x8, RQ8x8, "
    "RR,RaBitQ4, RR,EDEN4"
)


def _bits(text: str | None) -> str:
    return ", bits=4" if text == "4" else ""


def from_faiss(text: str, dim: int | None = None) -> str:
    """Return the spec that means what a FAISS factory string means.

    Parameters
    ----------
    text
        For example ``"OPQ48,PQ48x8"`` or ``"PCA64,SQ8"``.
    dim
        Width of the vectors, where the string names it: ``"RR384,RaBitQ4"``.

    Raises
    ------
    SpecError
        The string, or a part of it, has no equivalent.

    Examples
    --------
    >>> from_faiss("OPQ48,PQ48x8")
    'opq(48)'
    >>> from_faiss("PCA64,SQ8")
    'pca(64) | int8'
    """
    parts = [_without_width(part.strip(), dim) for part in text.split(",")]
    steps: list[str] = []
    while parts:
        part = parts.pop(0)
        after = parts[0] if parts else ""
        rotated = re.fullmatch(r"(RaBitQ|EDEN)([1-9])?", after)
        opq, pq = re.fullmatch(r"OPQ(\d+)", part), re.fullmatch(r"PQ(\d+)(?:x(4|8))?(?:np|fs|fsr)?", after)
        if part in ("RR", "HR") and rotated:
            steps.append(_rotated(rotated[1], int(rotated[2] or 1)))
            parts.pop(0)
        elif opq and pq and opq[1] == pq[1]:
            steps.append(f"opq({pq[1]}{_bits(pq[2])})")
            parts.pop(0)
        elif part == "Flat" and steps and not parts:
            break
        else:
            steps.append(_step(part, last=not parts))
    return format_spec(parse(" | ".join(steps)))


def _without_width(part: str, dim: int | None) -> str:
    """Return RR or HR for a rotation that keeps the width."""
    match = re.fullmatch(r"(RR|HR)(\d+)", part)
    return match[1] if match and dim is not None and int(match[2]) == dim else part


def _rotated(name: str, bits: int) -> str:
    if name == "RaBitQ":
        return "center | rabitq" + (f"(bits={bits})" if bits > 1 else "")
    return "eden" + (f"(bits={bits})" if bits != 4 else "")


def _step(part: str, *, last: bool) -> str:
    for pattern, made in (*_TRANSFORMS, *(_CODECS if last else ())):
        match = re.fullmatch(pattern, part)
        if match:
            return made(match)
    hint = ""
    if re.fullmatch(r"(RR|HR)\d+", part):
        hint = "; pass dim= where it keeps the width, or use project(k)"
    elif re.fullmatch(r"(RaBitQ|EDEN)[1-9]?", part):
        hint = "; here it rotates first: write RR before it"
    raise SpecError(f"FAISS's {part!r} has no equivalent here{hint}; understood are {_EXAMPLES}")


def to_faiss(spec: str | Sequence[Operator]) -> str:
    """Return the FAISS factory string that means what a spec means.

    Raises
    ------
    SpecError
        The spec is wrong, or a step of it has no equivalent.

    Examples
    --------
    >>> to_faiss("opq(48)")
    'OPQ48,PQ48x8'
    >>> to_faiss("pca(64) | rotate | int8")
    'PCAR64,SQ8'
    """
    steps = [format_step(step) for step in (parse(spec) if isinstance(spec, str) else spec)]
    text = " | ".join(steps)
    parts: list[str] = []
    while text:
        for pattern, made in _BACK:
            match = re.match(pattern + r"(?: \| |$)", text)
            if match:
                parts.append(made(match))
                text = text[match.end() :]
                break
        else:
            raise SpecError(f"{text.split(' | ')[0]!r} has no equivalent in FAISS; understood are {_EXAMPLES}")
    last = parts[-1].split(",")[-1]
    coded = re.fullmatch(r"(RaBitQ|EDEN)\d?", last) or any(re.fullmatch(pattern, last) for pattern, _ in _CODECS)
    return ",".join(parts if coded else [*parts, "Flat"])


_BACK: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"center \| normalize \| pca\((\d+), center=false\) \| rotate\(kind=itq\)", lambda m: f"ITQ{m[1]}"),
    (r"center \| rabitq(?:\(bits=(\d)\))?", lambda m: f"RR,RaBitQ{m[1] or ''}"),
    (r"eden(?:\(bits=(\d)\))?", lambda m: f"RR,EDEN{m[1] or 4}"),
    (r"pca\((\d+)(, whiten=true)?\)( \| rotate)?", lambda m: f"PCA{'W' if m[2] else ''}{'R' if m[3] else ''}{m[1]}"),
    (r"normalize", lambda _: "L2norm"),
    (r"rotate \| binary", lambda _: "LSHr"),
    (r"rotate", lambda _: "RR"),
    (r"rotate\(kind=hadamard\)", lambda _: "HR"),
    (r"int8", lambda _: "SQ8"),
    (r"int4\(quantile=1\)", lambda _: "SQ4"),
    (r"float16", lambda _: "SQfp16"),
    (r"bfloat16", lambda _: "SQbf16"),
    (r"binary", lambda _: "LSH"),
    (r"pq\((\d+)(?:, bits=(4))?\)", lambda m: f"PQ{m[1]}x{m[2] or 8}"),
    (r"opq\((\d+)(?:, bits=(4))?\)", lambda m: f"OPQ{m[1]},PQ{m[1]}x{m[2] or 8}"),
    (r"rvq\((\d+)(?:, bits=(4))?\)", lambda m: f"RQ{m[1]}x{m[2] or 8}"),
)
