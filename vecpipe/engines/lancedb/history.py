"""Where a run began: the version of the table before it, in the metadata of the column, so that it can be gone back to.

No tags: LanceDB's ``optimize`` refuses to clean up any version while one that is old enough has a tag.
"""

from __future__ import annotations

from typing import Any

_BEFORE, _RUN = "vecpipe:before", "vecpipe:run"
_HARMLESS = {"Merge", "DataReplacement", "UpdateConfig", "Project", "Rewrite"}


def begun(version: int, run: str) -> dict[str, str]:
    """Return the metadata of a column that says from which version on which run has written it."""
    return {_BEFORE: str(version), _RUN: run}


def begin(table: Any, dataset: Any, column: str, run: str) -> None:
    """Say that a run begins at the newest version of the table, unless it has begun and is being resumed."""
    about = dataset.schema.field(column).metadata or {}
    if about.get(_RUN.encode()) != run.encode():
        table.update_field_metadata({"path": column, "metadata": begun(int(dataset.version), run)})


def start_of(dataset: Any, column: str) -> int | None:
    """Return the version before the last run that wrote a column; None where none has, or it is not known any more."""
    if column not in dataset.schema.names:
        return None
    found = (dataset.schema.field(column).metadata or {}).get(_BEFORE.encode(), b"").decode()
    return int(found) if found.isdecimal() else None


def forgotten() -> dict[str, None]:
    """Return the metadata that takes the start of the last run away."""
    return {_BEFORE: None, _RUN: None}


def others_since(dataset: Any, column: str, version: int) -> list[str]:
    """Return what was done to the rows, or to other columns, since a version, as words for a message.

    A compaction changes no row, and additions and fills of the column itself are its runs.
    """
    found = []
    for later in range(version + 1, int(dataset.version) + 1):
        kind = _kind(dataset, later)
        if kind not in _HARMLESS:
            found.append(f"{kind} (version {later})")
    names = set(dataset.schema.names) ^ set(dataset.checkout_version(version).schema.names)
    found += [f"column {name!r}" for name in sorted(names - {column})]
    return found


def _kind(dataset: Any, version: int) -> str:
    """Return what a commit did, by the name that pylance has for it."""
    try:
        transaction = dataset.read_transaction(version)
    except TypeError as error:
        if "RewrittenIndex" not in str(error):
            raise
        return "Rewrite"  # of a table with an index: pylance 14 cannot read what it was
    kind = "Unknown" if transaction is None else type(transaction.operation).__name__
    if kind == "BaseOperation" and _rows(dataset, version) == _rows(dataset, version - 1):
        return "Rewrite"  # it has no name for numbers kept free for the fragments of a compaction
    return kind


def _rows(dataset: Any, version: int) -> list[str]:
    return [str(fragment.metadata) for fragment in dataset.checkout_version(version).get_fragments()]
