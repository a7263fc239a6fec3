"""The operators, one module a family; importing this package fills the registry."""

from vecpipe.operators import codecs, normalise, reduce, rotate, whiten
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
    "normalise",
    "operator_named",
    "parameters",
    "reduce",
    "register",
    "registry",
    "rotate",
    "whiten",
]
