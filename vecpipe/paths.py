"""Paths of files and folders: what they stand for, before anything in them is opened as rows."""

from __future__ import annotations

import glob
from pathlib import Path

import pyarrow.dataset as ds

from vecpipe.errors import InputError

ARROW_SUFFIXES = (".arrow", ".ipc", ".feather")


def parquet_files(path: Path) -> list[str] | None:
    """Return the Parquet files of a folder, or of the files and folders that a pattern stands for; None for neither.

    Raises
    ------
    InputError
        There is none in a folder.
    """
    places = [path] if path.is_dir() else [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]
    if not places:
        return None
    files: list[str] = []
    for place in places:
        files += ds.dataset(place, format="parquet").files if place.is_dir() else [str(place)]
    if not files:
        raise InputError(f"{path}: there are no Parquet files in it")
    return list(dict.fromkeys(files))


def check_name(path: Path) -> None:
    """Refuse a path that Arrow and DuckDB cannot be told.

    Raises
    ------
    InputError
        It is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise InputError(
            f"{shown}: the name is not UTF-8, and nothing can open it; rename it, or link to it"
        ) from error


def holds_duckdb(path: Path) -> bool:
    """Whether a file is a DuckDB database, by its first bytes.

    Raises
    ------
    InputError
        It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(12)[8:] == b"DUCK"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
