"""vecpipe in Polars: the namespace ``.vec`` of expressions, frames and lazy frames.

``import vecpipe.polars`` registers it.
"""

import polars as pl

from vecpipe.engines.polars.expressions import VecExpr
from vecpipe.engines.polars.frames import VecFrame

__all__ = ["VecExpr", "VecFrame", "register"]


def register() -> None:
    """Register ``.vec`` on expressions, frames and lazy frames."""
    pl.api.register_expr_namespace("vec")(VecExpr)
    pl.api.register_dataframe_namespace("vec")(VecFrame)
    pl.api.register_lazyframe_namespace("vec")(VecFrame)
