"""Applying a model to a whole table on disk: streaming, in bounded memory, resumable, whole or not at all."""

from vecpipe.etl.run import Applied, apply_model

__all__ = ["Applied", "apply_model"]
