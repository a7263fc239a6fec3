"""What a column's field metadata says of the model that writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vecpipe.pipeline import Model

_MODEL, _VERSION, _HASH = "vecpipe:model", "vecpipe:version", "vecpipe:hash"
_SPEC, _SOURCE = "vecpipe:spec", "vecpipe:source"


@dataclass(frozen=True)
class Mark:
    """The model that writes a column: its name and version in the catalog, its content hash, and what it reads."""

    name: str
    version: int
    hash: str
    spec: str = ""
    source: str = ""

    @staticmethod
    def of(name: str, version: int, model: Model, source: str) -> Mark:
        """Return the mark of a column that ``model`` writes from the column ``source``."""
        return Mark(name, version, model.hash, model.spec, source)

    def metadata(self) -> dict[str, str]:
        """Return the mark as field metadata."""
        return {
            _MODEL: self.name,
            _VERSION: str(self.version),
            _HASH: self.hash,
            _SPEC: self.spec,
            _SOURCE: self.source,
            "lancedb:description": f"{self.spec} of {self.source}, by vecpipe model {self.name} version {self.version}",
        }


def mark_of(field: Any) -> Mark | None:
    """Return the mark of an Arrow field; None for a column that no model writes."""
    about = {key.decode(): value.decode(errors="replace") for key, value in (field.metadata or {}).items()}
    if not all(key in about for key in (_MODEL, _VERSION, _HASH)):
        return None
    return Mark(about[_MODEL], int(about[_VERSION]), about[_HASH], about.get(_SPEC, ""), about.get(_SOURCE, ""))


def marked(schema: Any) -> list[str]:
    """Return the columns that a model writes."""
    return [field.name for field in schema if mark_of(field) is not None]
