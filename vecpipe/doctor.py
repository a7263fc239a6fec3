"""What this installation can do, and why not where it cannot: the facts behind ``vecpipe doctor``."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

_PACKAGES = ("numpy", "pyarrow", "duckdb", "safetensors", "numkong", "threadpoolctl", "click", "rich")
_EXTRAS = ("lancedb", "pylance", "polars", "matplotlib", "scikit-learn", "faiss-cpu", "usearch", "sqlite-vec")


@dataclass(frozen=True)
class Finding:
    """One fact.

    Attributes
    ----------
    topic, found : str
        What was looked at, and what it is.
    good : bool
        Whether everything works that depends on it.
    advice : str
        What to do where it does not.
    """

    topic: str
    found: str
    good: bool = True
    advice: str = ""


def examine() -> list[Finding]:
    """Return what there is to know about this installation; looks at the process, changes nothing."""
    return [*_versions(), *_duckdb(), *_kernels(), *_extras()]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    from vecpipe.version import __version__

    yield Finding("vecpipe", __version__)
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in _PACKAGES:
        version = _version(package)
        yield Finding(package, version or "missing", version is not None, "" if version else f"pip install {package}")


def _duckdb() -> Iterator[Finding]:
    import duckdb

    from vecpipe.engines.duckdb.aggregates import SIGNATURES
    from vecpipe.engines.duckdb.connection import missing_natives
    from vecpipe.engines.duckdb.extension import EXTENSION
    from vecpipe.engines.duckdb.native.capi import exported

    there, wanted = exported()
    advice = "use the duckdb wheel from PyPI, version 2.0 or newer, on Linux or macOS"
    whole = there == wanted
    yield Finding("C API of DuckDB", f"{there} of {wanted} functions exported", whole, "" if whole else advice)
    names = sorted({signature.name for signature in SIGNATURES})
    con = duckdb.connect()
    try:
        why = missing_natives(con)
    finally:
        con.close()
    if why is None:
        yield Finding("aggregates", f"{len(names)} functions in every database opened after `import vecpipe`")
    else:
        yield Finding("aggregates", "not available", False, why)
    for error in EXTENSION.errors:
        yield Finding("aggregates, error", error, False, "please report it")


def _kernels() -> Iterator[Finding]:
    import numkong
    from threadpoolctl import threadpool_info

    yield Finding("processors", str(os.cpu_count() or 1))
    capabilities = [name for name, there in numkong.get_capabilities().items() if there]
    yield Finding("SIMD (numkong)", ", ".join(sorted(capabilities)) or "serial only")
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    for library in blas:
        architecture = f", {library['architecture']}" if library.get("architecture") else ""
        name = f"{library['internal_api']} {library['version'] or ''}".strip()
        yield Finding("BLAS", f"{name}{architecture}, {library['num_threads']} threads")
    if not blas:
        advice = "products run, but their threads cannot be held at one while DuckDB runs several"
        yield Finding("BLAS", "none that threadpoolctl knows", False, advice)


def _extras() -> Iterator[Finding]:
    for package in _EXTRAS:
        yield Finding(f"{package} (extra)", _version(package) or "not installed")
