"""vecpipe for LanceDB: ``import vecpipe.lancedb as vl``.

Everything lives in ``vecpipe.engines.lancedb``; this is the short name of it. LanceDB itself is imported when a
function that needs it is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vecpipe.engines.lancedb.backfill import Backfilled
from vecpipe.engines.lancedb.catalog import list_models, load_model, save_model
from vecpipe.engines.lancedb.columns import add_column, drop, list_columns, refresh, rollback
from vecpipe.engines.lancedb.fits import Fit, check_searchable, fit_of
from vecpipe.engines.lancedb.migrate import Migrated, finish_migration, migrate, undo_migration
from vecpipe.engines.lancedb.search import search, search_async
from vecpipe.search.querybank import QueryBank

if TYPE_CHECKING:
    from vecpipe.engines.lancedb.rerankers import ExactRerank, MaxSimRerank, QueryBankRerank

__all__ = [
    "Backfilled",
    "ExactRerank",
    "Fit",
    "MaxSimRerank",
    "Migrated",
    "QueryBank",
    "QueryBankRerank",
    "add_column",
    "check_searchable",
    "drop",
    "finish_migration",
    "fit_of",
    "list_columns",
    "list_models",
    "load_model",
    "migrate",
    "refresh",
    "rollback",
    "save_model",
    "search",
    "search_async",
    "undo_migration",
]

_SUBCLASSES = {"ExactRerank": "rerankers", "MaxSimRerank": "rerankers", "QueryBankRerank": "rerankers"}
"""What derives from a class of LanceDB's, and so cannot be there before LanceDB is: by module."""


def __getattr__(name: str) -> Any:
    if name in _SUBCLASSES:
        return getattr(importlib.import_module(f"vecpipe.engines.lancedb.{_SUBCLASSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
