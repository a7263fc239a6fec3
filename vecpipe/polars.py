"""Importing this module gives Polars expressions and frames the namespace ``.vec``; it needs the extra ``polars``."""

try:
    from vecpipe.engines.polars import VecExpr, VecFrame, register
except ModuleNotFoundError as error:
    if error.name != "polars":
        raise
    raise ModuleNotFoundError(
        "vecpipe.polars needs Polars: pip install 'vecpipe[polars]'", name="polars", path=error.path
    ) from error

__all__ = ["VecExpr", "VecFrame"]

register()
