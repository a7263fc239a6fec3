"""The static extension: what brings native functions into every database that is opened after this import.

A module of its own, which nothing that it registers knows: callbacks live on at exit with all that they can reach, and
duckdb's module complains where that is itself.
"""

from __future__ import annotations

from vecpipe.engines.duckdb import index_functions, planning
from vecpipe.engines.duckdb.aggregates import SIGNATURES
from vecpipe.engines.duckdb.native.callbacks import Registrar
from vecpipe.engines.duckdb.native.capi import install
from vecpipe.engines.duckdb.native.scalars import DatabaseFunction, FloatFunction, ScalarRegistrar, together
from vecpipe.engines.duckdb.scores import SCORES
from vecpipe.version import __version__

_SCALARS: tuple[FloatFunction | DatabaseFunction, ...] = (*SCORES, *planning.NATIVE, *index_functions.NATIVE)
EXTENSION = install(together(Registrar(SIGNATURES), ScalarRegistrar(_SCALARS)), __version__)
