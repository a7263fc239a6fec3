"""The aggregate functions of the SQL surface: what each takes, and what it makes of a group.

They are registered when this module is imported, for every database that is opened afterwards. How chunks, states and
DuckDB's memory are handled is in ``native``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from vecpipe.arrays import Float64
from vecpipe.engines.duckdb.native.aggregate import Aggregate
from vecpipe.engines.duckdb.native.collect import Group, Part
from vecpipe.engines.duckdb.native.kinds import Gathered, Merged, Totals, moments_sketch
from vecpipe.engines.duckdb.native.memory import ANY, BIGINT, BLOB, DOUBLE, FLOAT, UUID, VARCHAR
from vecpipe.engines.duckdb.native.rows import HOLES, INFINITIES, NANS, NULLS, RAGGED
from vecpipe.errors import InputError
from vecpipe.fitting.steps import fit_sketch, needs_sample
from vecpipe.metrics import isotropy
from vecpipe.metrics.medoid import most_central
from vecpipe.metrics.profile import Profile
from vecpipe.operators import Operator
from vecpipe.sketch import Sketch
from vecpipe.spec import parse


def _sketch(group: Group) -> Sketch | None:
    """Return the sketch of a group, None without a vector; to be read only."""
    if not group.parts:
        return None
    if len(group.parts) > 1:
        widths = " and of ".join(map(str, sorted(group.parts)))
        raise InputError(f"vectors of {widths} dimensions in one group")
    (part,) = group.parts.values()
    nulls = int(group.counters[NULLS])
    sketch: Sketch = part.summary(Sketch, fresh=nulls > 0)
    sketch.nulls += nulls
    return sketch


def _sketch_bytes(group: Group) -> bytes | None:
    sketch = _sketch(group)
    return None if sketch is None else sketch.to_bytes()


@lru_cache(maxsize=256)
def _steps(spec: bytes) -> tuple[Operator, ...]:
    """Return the unfitted operators of a spec, parsed once for all groups: fitting binds copies of them."""
    return tuple(parse(spec.decode()))


def _fit_sketch_for(width: int, spec: bytes | None) -> Sketch:
    """Return the sketch that fitting this spec needs."""
    return Sketch(width, keep_sample=spec is None or needs_sample(_steps(spec)))


def _model(group: Group) -> bytes | None:
    sketch = _sketch(group)
    return None if sketch is None else fit_sketch(sketch, _steps(group.spec or b"")).to_bytes()


def _medoid(group: Group) -> Any:
    rows = [part.rows for part in group.parts.values() if part.rows is not None]
    if not rows:
        return None
    tags = rows[0].tags
    assert tags is not None
    best = most_central(rows[0].values)
    return tags[min(best, key=lambda i: _uuid_order(tags[i]) if tags.dtype.kind == "V" else tags[i])]


def _uuid_order(tag: Any) -> int:
    """Return what DuckDB orders a UUID by: it keeps one as a number of 128 bits, the first bit turned over."""
    return int.from_bytes(tag.tobytes(), "little", signed=True)


def _covariance(group: Group) -> tuple[Any, int] | None:
    """Return what the functions of ``metrics.isotropy`` take: a small matrix for few rows, else the moments."""
    if not group.parts:
        return None
    part: Part = next(iter(group.parts.values()))
    if not part.summaries and part.rows is not None and len(part.rows) < part.width:
        return isotropy.gram(part.rows.values), part.width
    return part.summary(Sketch).moments(), part.width


def _isoscore(group: Group) -> float | None:
    found = _covariance(group)
    return None if found is None else isotropy.isoscore(*found)


def _spectrum(group: Group) -> Float64 | None:
    found = _covariance(group)
    return None if found is None else isotropy.spectrum(*found)


def _describe(group: Group) -> bytes:
    """Return counts of the rows by what they are, and the profile of the valid ones, as JSON."""
    profiles: dict[int, Profile] = {width: part.summary(Profile) for width, part in group.parts.items()}
    sizes = {width: profile.sketch.count for width, profile in profiles.items()}
    width = max(sizes, key=lambda w: (sizes[w], w), default=None)
    left_out = group.counters
    valid = 0 if width is None else sizes[width]
    about: dict[str, Any] = {
        "rows": sum(sizes.values()) + int(left_out.sum()),
        "valid": valid,
        "null": int(left_out[NULLS]),
        "null_element": int(left_out[HOLES]),
        "nan": int(left_out[NANS]),
        "infinite": int(left_out[INFINITIES]),
        "ragged": sum(sizes.values()) - valid + int(left_out[RAGGED]),
        "dimension": width,
    }
    about |= Profile(1).numbers() if width is None else profiles[width].numbers()
    return json.dumps(about, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Signature:
    """One overload of an aggregate.

    Attributes
    ----------
    arguments, returns, help : str
        As the reference shows them.
    parameters : tuple of int
        Type ids of the parameters; ``ANY`` where the kind of aggregate checks the type itself.
    result : int
        Type id of the result, or of its elements where ``returns`` is a list.
    writer : str
        How results are written: a method of ``native.writing.Writer``.
    """

    arguments: str
    returns: str
    help: str
    parameters: tuple[int, ...]
    result: int
    writer: str
    aggregate: Aggregate

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.aggregate.name

    @property
    def is_list(self) -> bool:
        """Whether the result is a list."""
        return self.returns.endswith("[]")


_SUM = "Sum per dimension, added up in float64."
_MEAN = "Mean vector, weighted where weights are given."
_FIT = "Fit a spec: the model, as vecpipe.fit makes it from the same rows."
_SKETCH = "The mergeable summary that every fit starts from."


def _signatures() -> tuple[Signature, ...]:
    floats = ("FLOAT[]", FLOAT, "floats")
    blob = ("BLOB", BLOB, "bytes")

    def of(
        arguments: str, about: str, types: tuple[int, ...], result: tuple[str, int, str], kind: Aggregate
    ) -> Signature:
        returns, type_id, writer = result
        return Signature(arguments, returns, about, types, type_id, writer, kind)

    def medoid(sql: str, type_id: int, writer: str) -> Signature:
        kind = Gathered("vec_medoid", _medoid, vector=1, tag=writer)
        about = "The id of the row with the largest mean cosine to all rows of the group."
        return of("id, v", about, (type_id, ANY), (sql, type_id, writer), kind)

    fit = Gathered("vec_fit", _model, _fit_sketch_for, spec=1)
    weighted_fit = Gathered("vec_fit", _model, _fit_sketch_for, spec=1, weight=2)
    return (
        of("v, spec", _FIT, (ANY, VARCHAR), blob, fit),
        of("v, spec, weight", _FIT, (ANY, VARCHAR, DOUBLE), blob, weighted_fit),
        of("v", _SKETCH, (ANY,), blob, Gathered("vec_sketch", _sketch_bytes)),
        of("v, weight", _SKETCH, (ANY, DOUBLE), blob, Gathered("vec_sketch", _sketch_bytes, weight=1)),
        of("sketch", "The sketch of all rows of several sketches.", (BLOB,), blob, Merged("vec_merge", _sketch_bytes)),
        of("v", _MEAN, (ANY,), floats, Totals("vec_avg", np.add, mean=True)),
        of("v, weight", _MEAN, (ANY, DOUBLE), floats, Totals("vec_avg", np.add, mean=True, weight=1)),
        of("v", _SUM, (ANY,), floats, Totals("vec_sum", np.add)),
        of("v", "Minimum per dimension.", (ANY,), floats, Totals("vec_min", np.minimum)),
        of("v", "Maximum per dimension.", (ANY,), floats, Totals("vec_max", np.maximum)),
        medoid("BIGINT", BIGINT, "bigint"),
        medoid("VARCHAR", VARCHAR, "bytes"),
        medoid("UUID", UUID, "uuid"),
        of(
            "v",
            "IsoScore: 1 where all directions have the same variance, 0 where one has all of it.",
            (ANY,),
            ("DOUBLE", DOUBLE, "double"),
            Gathered("vec_isoscore", _isoscore, moments_sketch),
        ),
        of(
            "v",
            "Share of the variance along each principal axis, largest first.",
            (ANY,),
            ("DOUBLE[]", DOUBLE, "doubles"),
            Gathered("vec_spectrum", _spectrum, moments_sketch),
        ),
        of(
            "v",
            "JSON with counts of NULL, NaN, zero and ragged rows, and with lengths and spread of the valid ones.",
            (ANY,),
            ("VARCHAR", VARCHAR, "bytes"),
            Gathered("vec_describe", _describe, lambda width, _: Profile(width), lenient=True),
        ),
    )


SIGNATURES = _signatures()
