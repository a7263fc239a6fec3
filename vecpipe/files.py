"""Files that appear whole or not at all: written beside their place, flushed to disk, then moved."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """Give a temporary path to write to; on success its file takes the place of ``path`` in one step.

    Parameters
    ----------
    path
        What the file is called once it is whole.
    beside
        Folder of the temporary file, on the same file system; the folder of ``path`` by default.
    """
    # A name of its own: others may be at work on the same file, and the last of them to finish has its way.
    draft = (path.parent if beside is None else beside) / f"{path.name}.{secrets.token_hex(4)}.draft"
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is never seen half-written."""
    with replacing(path) as draft:
        draft.write_bytes(data)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
