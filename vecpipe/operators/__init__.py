"""The operators, one module a family; importing this package fills the registry."""

from vecpipe.operators import (
    codecs,
    leanvec,
    normalise,
    product,
    reduce,
    rotate,
    rotated,
    scalar,
    transform_code,
    whiten,
)
from vecpipe.operators.base import (
    FAMILIES,
    Codec,
    FitData,
    Operator,
    Parameter,
    State,
    operator_named,
    parameters,
    register,
    registry,
)

__all__ = [
    "FAMILIES",
    "Codec",
    "FitData",
    "Operator",
    "Parameter",
    "State",
    "codecs",
    "leanvec",
    "normalise",
    "operator_named",
    "parameters",
    "product",
    "reduce",
    "register",
    "registry",
    "rotate",
    "rotated",
    "scalar",
    "transform_code",
    "whiten",
]
