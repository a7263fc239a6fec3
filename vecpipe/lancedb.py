"""vecpipe for LanceDB: ``import vecpipe.lancedb as vl``.

Everything lives in ``vecpipe.engines.lancedb``; this is the short name of it. LanceDB itself is imported when a
function that needs it is called.
"""

from vecpipe.engines.lancedb.backfill import Backfilled
from vecpipe.engines.lancedb.catalog import list_models, load_model, save_model
from vecpipe.engines.lancedb.columns import add_column, drop, list_columns, refresh, rollback
from vecpipe.engines.lancedb.migrate import Migrated, finish_migration, migrate, undo_migration

__all__ = [
    "Backfilled",
    "Migrated",
    "add_column",
    "drop",
    "finish_migration",
    "list_columns",
    "list_models",
    "load_model",
    "migrate",
    "refresh",
    "rollback",
    "save_model",
    "undo_migration",
]
