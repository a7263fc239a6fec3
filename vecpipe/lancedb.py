"""vecpipe for LanceDB: ``import vecpipe.lancedb as vl``.

Everything lives in ``vecpipe.engines.lancedb``; this is the short name of it. LanceDB itself is imported when a
function that needs it is called.
"""

from vecpipe.engines.lancedb.catalog import list_models, load_model, save_model

__all__ = ["list_models", "load_model", "save_model"]
