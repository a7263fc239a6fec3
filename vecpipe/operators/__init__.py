"""The operators, one module a family; importing this package fills the registry."""

from vecpipe.operators import (
    cells,
    codecs,
    halves,
    leanvec,
    normalise,
    osq,
    product,
    reduce,
    residual,
    rotate,
    rotated,
    scalar,
    transform_code,
    whiten,
)
from vecpipe.operators.base import FAMILIES, Codec, Operator, State, operator_named, register, registry
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.parameters import Parameter, parameters

__all__ = [
    "FAMILIES",
    "Codec",
    "FitData",
    "Operator",
    "Parameter",
    "State",
    "cells",
    "codecs",
    "halves",
    "leanvec",
    "normalise",
    "operator_named",
    "osq",
    "parameters",
    "product",
    "reduce",
    "register",
    "registry",
    "residual",
    "rotate",
    "rotated",
    "scalar",
    "transform_code",
    "whiten",
]
