"""vecpipe for LanceDB: ``import vecpipe.lancedb as vl``.

Everything lives in ``vecpipe.engines.lancedb``; this is the short name of it. LanceDB itself is imported when a
function that needs it is called. Where it has been imported already, its registry gets our embedding function at once.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from vecpipe.engines.lancedb.backfill import Backfilled
from vecpipe.engines.lancedb.catalog import list_models, load_model, save_model
from vecpipe.engines.lancedb.columns import add_column, drop, list_columns, refresh, rollback
from vecpipe.engines.lancedb.fits import Fit, check_searchable, fit_of
from vecpipe.engines.lancedb.indexes import create_index, train_index
from vecpipe.engines.lancedb.migrate import Migrated, finish_migration, migrate, undo_migration
from vecpipe.engines.lancedb.search import search, search_async
from vecpipe.search.ivf import Ivf
from vecpipe.search.querybank import QueryBank

if TYPE_CHECKING:
    from vecpipe.engines.lancedb.embedding import TransformedEmbeddings, keep_model, transformed
    from vecpipe.engines.lancedb.rerankers import ExactRerank, MaxSimRerank, QueryBankRerank

__all__ = [
    "Backfilled",
    "ExactRerank",
    "Fit",
    "Ivf",
    "MaxSimRerank",
    "Migrated",
    "QueryBank",
    "QueryBankRerank",
    "TransformedEmbeddings",
    "add_column",
    "check_searchable",
    "create_index",
    "drop",
    "finish_migration",
    "fit_of",
    "keep_model",
    "list_columns",
    "list_models",
    "load_model",
    "migrate",
    "refresh",
    "rollback",
    "save_model",
    "search",
    "search_async",
    "train_index",
    "transformed",
    "undo_migration",
]

_LATE = {
    "ExactRerank": "rerankers",
    "MaxSimRerank": "rerankers",
    "QueryBankRerank": "rerankers",
    "TransformedEmbeddings": "embedding",
    "keep_model": "embedding",
    "transformed": "embedding",
}
"""What derives from a class of LanceDB's, and so cannot be there before LanceDB is: by module."""


def __getattr__(name: str) -> Any:
    if name in _LATE:
        try:
            return getattr(importlib.import_module(f"vecpipe.engines.lancedb.{_LATE[name]}"), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "lancedb":
                raise
            raise ModuleNotFoundError(
                f"vecpipe.lancedb.{name} needs LanceDB: pip install 'vecpipe[lancedb]'", name="lancedb"
            ) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if sys.modules.get("lancedb") is not None:
    __getattr__("TransformedEmbeddings")  # tables made with it can be opened and added to from here on
