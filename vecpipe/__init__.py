"""Embedding transforms as ordinary SQL: fit, compress, store and search vectors inside DuckDB and LanceDB."""

from vecpipe.engines.duckdb import connect, load_model, register, save_model
from vecpipe.errors import (
    AggregatesUnavailableWarning,
    CapabilityError,
    EngineError,
    FitError,
    InputError,
    ModelFormatError,
    ModelNotFoundError,
    RecallError,
    ResumeError,
    RowError,
    SpecError,
    VecpipeError,
    WhiteningWarning,
)
from vecpipe.faiss_strings import from_faiss, to_faiss
from vecpipe.fitting.steps import fit_sketch
from vecpipe.fitting.stream import fit
from vecpipe.model import Model
from vecpipe.sketch import Sketch
from vecpipe.version import __version__

__all__ = [
    "AggregatesUnavailableWarning",
    "CapabilityError",
    "EngineError",
    "FitError",
    "InputError",
    "Model",
    "ModelFormatError",
    "ModelNotFoundError",
    "RecallError",
    "ResumeError",
    "RowError",
    "Sketch",
    "SpecError",
    "VecpipeError",
    "WhiteningWarning",
    "__version__",
    "connect",
    "fit",
    "fit_sketch",
    "from_faiss",
    "load_model",
    "register",
    "save_model",
    "to_faiss",
]
