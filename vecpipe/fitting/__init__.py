"""Fitting: from a stream of rows to a sketch (``stream``), from a sketch to a model (``steps``)."""
