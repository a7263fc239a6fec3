"""The folder of an unfinished backfill: Arrow files of finished ranges of rows, each bound to what it was made from.

The name of a part holds the fragment, a digest of the model and of the fragment's data files, and the physical rows.
A part of a fragment that has been rewritten meanwhile fits nothing any more and is thrown away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from vecpipe.engines.lancedb.fragments import Piece
from vecpipe.etl.parts import DraftPart, RunFolder, mapped, readable

_PART = re.compile(r"rows-(\d+)-([0-9a-f]{32})-(\d+)-(\d+)-(\d+)-(\d+)\.arrow\Z")


@dataclass(frozen=True)
class Range:
    """Physical rows of a fragment that make one part, from ``start`` up to ``stop``."""

    number: int
    digest: str
    start: int
    stop: int


@dataclass(frozen=True)
class Finished:
    """A part that is there: its file, how many of its rows are not deleted, and how many were invalid."""

    path: Path
    live: int
    invalid: int


class Checkpoint(RunFolder):
    """The folder of a backfill, locked for as long as it lasts; see ``RunFolder``."""

    def _load(self) -> None:
        self.parts: dict[Range, Finished] = {}
        for path in sorted(self.folder.iterdir()):
            match = _PART.match(path.name)
            if match:
                number, start, stop, live, invalid = (int(match[group]) for group in (1, 3, 4, 5, 6))
                if readable(path, stop - start):
                    self.parts[Range(number, match[2], start, stop)] = Finished(path, live, invalid)
                    continue
            if path.name not in ("lock", "manifest.json"):
                path.unlink()

    def ranges(self, piece: Piece) -> list[Range]:
        """Return the parts that a fragment is made of."""
        edges = [*range(0, piece.rows, self.part_rows), piece.rows]
        return [Range(piece.number, piece.digest, start, stop) for start, stop in pairwise(edges)]

    def keep_only(self, pieces: Iterable[Piece]) -> None:
        """Throw away parts of fragments that are none of these."""
        wanted = {found for piece in pieces for found in self.ranges(piece)}
        for found in [known for known in self.parts if known not in wanted]:
            self.parts.pop(found).path.unlink()

    def finish(self, draft: DraftPart, found: Range) -> None:
        """Move a draft into place as the part of a range."""
        name = f"rows-{found.number}-{found.digest}-{found.start}-{found.stop}-{draft.live}-{draft.invalid}.arrow"
        draft.move(self.folder / name)
        self.parts[found] = Finished(self.folder / name, draft.live, draft.invalid)

    def batches(self, piece: Piece) -> Iterator[Any]:
        """Yield the rows of a fragment in order, mapped into memory."""
        for found in self.ranges(piece):
            yield from mapped(self.parts[found].path)
