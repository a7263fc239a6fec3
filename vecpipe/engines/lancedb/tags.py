"""Two tags a column: the version of the table before the last run that wrote it, and the one after.

Tagged versions survive ``cleanup_old_versions``, so that going back is always possible.
"""

from __future__ import annotations

from typing import Any


def before(column: str) -> str:
    """Return the tag of the version before the last run."""
    return f"vecpipe.{_clean(column)}.before"


def after(column: str) -> str:
    """Return the tag of the version the last run has made."""
    return f"vecpipe.{_clean(column)}.after"


def _clean(column: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else f"_{ord(letter):x}" for letter in column)


def versions(table: Any) -> dict[str, int]:
    """Return the versions of all tags of a table."""
    return {name: int(tag["version"]) for name, tag in table.tags.list().items()}


def begin(table: Any, column: str) -> None:
    """Tag the newest version as the one to go back to, unless an unfinished run of the column has done so."""
    known = versions(table)
    start, end = known.get(before(column)), known.get(after(column))
    if start is not None and (end is None or end <= start):
        return
    table.checkout_latest()
    _put(table, known, before(column), int(table.version))


def end(table: Any, column: str) -> None:
    """Tag the newest version as what the run has made, if a run has begun."""
    known = versions(table)
    start, last = known.get(before(column)), known.get(after(column))
    if start is not None and (last is None or last <= start):
        _put(table, known, after(column), int(table.version))


def others_since(dataset: Any, column: str, version: int) -> list[str]:
    """Return what was done to the rows, or to other columns, since a version, as words for a message.

    A compaction changes no row, and additions and fills of the column itself are its runs.
    """
    found = []
    for later in range(version + 1, int(dataset.version) + 1):
        transaction = dataset.read_transaction(later)
        kind = "Unknown" if transaction is None else type(transaction.operation).__name__
        if kind not in _HARMLESS:
            found.append(f"{kind} (version {later})")
    names = set(dataset.schema.names) ^ set(dataset.checkout_version(version).schema.names)
    found += [f"column {name!r}" for name in sorted(names - {column})]
    return found


_HARMLESS = {"Merge", "DataReplacement", "UpdateConfig", "Project", "Rewrite"}


def remove(table: Any, column: str) -> None:
    """Remove both tags."""
    known = versions(table)
    for name in (before(column), after(column)):
        if name in known:
            table.tags.delete(name)


def _put(table: Any, known: dict[str, int], name: str, version: int) -> None:
    if name in known:
        table.tags.update(name, version)
    else:
        table.tags.create(name, version)
