"""vecpipe for DuckDB: ``import vecpipe.duckdb``.

What ``vecpipe`` itself offers for DuckDB, and LanceDB tables in DuckDB. LanceDB is imported when a function needs it.
"""

from vecpipe.engines.duckdb.catalog import load_model, model_names, save_model
from vecpipe.engines.duckdb.connection import connect, register
from vecpipe.engines.duckdb.lance import attach_lance, write_lance

__all__ = ["attach_lance", "connect", "load_model", "model_names", "register", "save_model", "write_lance"]
