"""What a column's field metadata says of the model that writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vecpipe.model import Model

_MODEL, _VERSION, _HASH = "vecpipe:model", "vecpipe:version", "vecpipe:hash"
_SPEC, _SOURCE, _SOURCE_ID = "vecpipe:spec", "vecpipe:source", "vecpipe:source-id"


@dataclass(frozen=True)
class Mark:
    """The model that writes a column: its name and version in the catalog, its content hash, and what it reads.

    ``source_id`` is the id of the source's field, which stays the same when the source is renamed.
    """

    name: str
    version: int
    hash: str
    spec: str = ""
    source: str = ""
    source_id: int | None = None

    @staticmethod
    def of(name: str, version: int, model: Model, source: str, source_id: int) -> Mark:
        """Return the mark of a column that ``model`` writes from the column ``source``."""
        return Mark(name, version, model.hash, model.spec, source, source_id)

    def metadata(self) -> dict[str, str]:
        """Return the mark as field metadata."""
        return {
            _MODEL: self.name,
            _VERSION: str(self.version),
            _HASH: self.hash,
            _SPEC: self.spec,
            _SOURCE: self.source,
            _SOURCE_ID: "" if self.source_id is None else str(self.source_id),
            "lancedb:description": f"{self.spec} of {self.source}, by vecpipe model {self.name} version {self.version}",
        }


def mark_of(field: Any) -> Mark | None:
    """Return the mark of an Arrow field; None for a column that no model writes."""
    about = {key.decode(): value.decode(errors="replace") for key, value in (field.metadata or {}).items()}
    if not all(key in about for key in (_MODEL, _VERSION, _HASH)):
        return None
    number = about.get(_SOURCE_ID, "")
    source_id = int(number) if number.isdecimal() else None
    spec, source = about.get(_SPEC, ""), about.get(_SOURCE, "")
    return Mark(about[_MODEL], int(about[_VERSION]), about[_HASH], spec, source, source_id)


def no_marks() -> dict[str, None]:
    """Return the metadata that takes a mark away."""
    return dict.fromkeys((_MODEL, _VERSION, _HASH, _SPEC, _SOURCE, _SOURCE_ID))


def marked(schema: Any) -> list[str]:
    """Return the columns that a model writes."""
    return [field.name for field in schema if mark_of(field) is not None]
