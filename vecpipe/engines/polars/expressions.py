"""The namespace ``.vec`` of expressions: models, and every stateless operator by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import polars as pl

from vecpipe.engines.polars import columns
from vecpipe.engines.polars.columns import ModelLike
from vecpipe.errors import SpecError
from vecpipe.model import Model
from vecpipe.operators import Codec, Operator, parameters, registry
from vecpipe.rules import MAX_DIM, OnInvalid
from vecpipe.scoring import metric_named
from vecpipe.stored_model import FitInfo


class VecExpr:
    """``pl.col("emb").vec``: embedding transforms of a column of vectors.

    Vectors are an Array or a List of numbers; NULL gives NULL, and a row that breaks a rule is an error naming column,
    row and rule. Every method works row by row: in eager frames, in lazy ones and in the streaming engine, with the
    results of the SQL functions of the same name. A model is a ``Model``, its bytes, or the path of a saved one.
    """

    def __init__(self, expr: pl.Expr) -> None:
        self._expr = expr

    def transform(self, model: ModelLike, *, queries: bool = False, on_invalid: OnInvalid = "error") -> pl.Expr:
        """Return the vectors after the model's steps (those before its codec), ``Array(Float32, k)``.

        Parameters
        ----------
        queries
            Take the query side, for a model with two sides.
        on_invalid
            What a ragged, NaN or infinite row does: ``"error"`` stops, ``"null"`` gives NULL.
        """
        found, mode = columns.model_from(model), _on_invalid(on_invalid)
        return self._map(
            lambda series: columns.transform(found, series, mode, queries=queries),
            pl.Array(pl.Float32, found.output_dim),
        )

    def encode(self, model: ModelLike, *, on_invalid: OnInvalid = "error") -> pl.Expr:
        """Return the codes of the vectors, ``Binary``; ``on_invalid`` as in ``transform``."""
        found, mode = columns.model_from(model), _on_invalid(on_invalid)
        return self._map(lambda series: columns.encode(found, series, mode), pl.Binary())

    def decode(self, model: ModelLike) -> pl.Expr:
        """Return the vectors that codes stand for, ``Array(Float32, d)``; without a codec the model's inverse."""
        found = columns.model_from(model)
        return self._map(lambda series: columns.decode(found, series), pl.Array(pl.Float32, found.dim))

    def score(self, q: Any, model: ModelLike | None = None, *, metric: str = "cosine") -> pl.Expr:
        """Return the score of each row for one query vector, ``Float32``, larger is closer.

        Parameters
        ----------
        q : (d,) numbers
            The query, as raw as the vectors a model was fitted on.
        model
            The model that wrote the codes (or transformed the vectors) of this column; None for raw vectors.
        metric
            ``cosine`` (NULL for a zero vector), ``ip`` (inner product) or ``l2`` (minus the distance).
        """
        found = None if model is None else columns.model_from(model)
        query = columns.one_query(q, None if found is None else found.dim)
        return self._map(columns.score(found, query, metric_named(metric)), pl.Float32())

    def is_valid(self) -> pl.Expr:
        """Return whether every element of a vector is a finite number."""
        return self._map(columns.is_valid, pl.Boolean())

    def _map(self, function: Callable[[pl.Series], pl.Series], kind: Any) -> pl.Expr:
        return self._expr.map_batches(function, return_dtype=kind, is_elementwise=True)


def _on_invalid(value: str) -> OnInvalid:
    if value == "error":
        return "error"
    if value == "null":
        return "null"
    raise SpecError(f"on_invalid is {value!r}; expected 'error' or 'null'")


def _add_stateless_operators() -> None:
    for name, cls in registry().items():
        if cls.stateless:
            if hasattr(VecExpr, name):
                raise TypeError(f"the operator {name} has the name of a method of .vec")
            setattr(VecExpr, name, _method(cls))


def _method(cls: type[Operator]) -> Callable[..., pl.Expr]:
    """Return the method of a stateless operator, with its parameters and its help."""
    declared = parameters(cls)
    empty = inspect.Parameter.empty
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    arguments = [inspect.Parameter("self", kind)] + [
        inspect.Parameter(p.name, kind, default=empty if p.required else p.default) for p in declared
    ]

    def method(self: VecExpr, *values: Any, **named: Any) -> pl.Expr:
        try:
            given = dict(signature.bind(self, *values, **named).arguments)
        except TypeError as error:
            raise SpecError(
                f"{cls.name}: {error}; it takes {', '.join(p.name for p in declared) or 'nothing'}"
            ) from None
        del given["self"]
        step = cls(**given)
        return self._map(lambda series: _apply(step, series), _result_type(step))

    signature = inspect.Signature(arguments, return_annotation=pl.Expr)
    method.__name__, method.__qualname__ = cls.name, f"VecExpr.{cls.name}"
    method.__doc__ = inspect.getdoc(cls)
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


def _apply(step: Operator, series: pl.Series) -> pl.Series:
    width = columns.width_of(series)
    if width is None and not isinstance(series.dtype, pl.Array):
        kind = _result_type(step) or pl.List(pl.Float32)
        return pl.Series(series.name, [None] * len(series), dtype=kind)
    width = width or series.dtype.size
    model = Model([step.bind(width, {})], width, FitInfo())
    if model.codec is not None:
        return columns.encode(model, series, "error")
    result = columns.transform(model, series, "error")
    kind = _result_type(step) or (None if isinstance(series.dtype, pl.Array) else pl.List(pl.Float32))
    return result if kind is None else result.cast(kind)


def _result_type(step: Operator) -> Any:
    """Return the type of a stateless operator's result; None where it is that of the input, with float32 inside.

    Polars wants to know before it knows the width of a List.
    """
    if isinstance(step, Codec):
        return pl.Binary()
    wide, less = step.output_dim(MAX_DIM), step.output_dim(MAX_DIM - 1)
    if wide == less:
        return pl.Array(pl.Float32, wide)
    return None if (wide, less) == (MAX_DIM, MAX_DIM - 1) else pl.List(pl.Float32)


_add_stateless_operators()
