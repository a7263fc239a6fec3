"""DuckDB: the operators as SQL functions, models as rows of a table, search as table macros."""

from vecpipe.engines.duckdb.catalog import load_model, model_names, save_model
from vecpipe.engines.duckdb.connection import connect, register

__all__ = ["connect", "load_model", "model_names", "register", "save_model"]
