"""The folder of an unfinished run: what it is a run of, and the parts that are finished.

Each part is an Arrow file of the rows of one range, moved into place whole. Whatever else is in the folder after a
crash is a draft and is thrown away.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from vecpipe.errors import InputError, ResumeError
from vecpipe.files import replacing, write_whole

try:
    import fcntl
except ImportError:  # Windows has no flock; two runs of the same target are then the user's to avoid
    fcntl = None  # type: ignore[assignment]

_PART = re.compile(r"part-(\d{6,})-(\d+)-(\d+)\.arrow\Z")
_MANIFEST = "manifest.json"
_OWN = re.compile(r"lock|manifest\.json|(?:part|rows)-[-0-9a-f]+\.arrow|draft\.arrow|.+\.draft")


@dataclass(frozen=True)
class Part:
    """A finished part: its number, its rows, and how many of them were invalid and became NULL."""

    path: Path
    number: int
    rows: int
    invalid: int


@dataclass(frozen=True)
class Computed:
    """Computed rows on their way into a part: how many were invalid, and how many are not deleted."""

    batch: Any
    invalid: int
    live: int


class RunFolder:
    """The folder of a run, locked for as long as the run lasts, with a manifest of what it is a run of.

    Parameters
    ----------
    folder
        Made where it is missing.
    run
        What this is a run of, as JSON values: ``model``, ``source``, ``options``, ``vecpipe``, ``part_rows``, and
        ``id``, which a resumed run takes over together with ``part_rows``.
    restart
        Throw away what an earlier run has left.

    Raises
    ------
    InputError
        It cannot be written, or holds files that no run has left: a run clears its folder and removes it in the end.
    ResumeError
        The folder holds an unfinished run of something else, or another process is at work in it.
    """

    def __init__(self, folder: Path, run: dict[str, Any], *, restart: bool = False) -> None:
        self.folder = folder
        try:
            folder.mkdir(exist_ok=True)
            _refuse_strangers(folder)
            self._lock = (folder / "lock").open("a")
        except OSError as error:
            raise InputError(f"{folder}: cannot be made or written ({error})") from error
        try:
            self._acquire()
            if restart:
                self._clear()
            before = self._manifest()
            if before is not None:
                refuse_other_run(folder, before, run)
                run = run | {key: before[key] for key in ("part_rows", "id") if key in before}
            else:
                self._clear()
            self.run = run
            self.part_rows = int(run["part_rows"])
            write_whole(folder / _MANIFEST, json.dumps(run, indent=2).encode())
            self._load()
        except OSError as error:
            self._lock.close()
            raise ResumeError(f"{folder}: cannot be prepared ({error})") from error
        except BaseException:
            self._lock.close()
            raise

    def _load(self) -> None:
        """Find what an earlier run has finished, and throw away the rest."""
        raise NotImplementedError

    def _acquire(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResumeError(f"{self.folder}: another process is writing this target") from error

    def _manifest(self) -> dict[str, Any] | None:
        path = self.folder / _MANIFEST
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
            if int(found["part_rows"]) < 1 or not all(key in found for key in ("model", "source", "options")):
                raise ValueError("incomplete")
        except (ValueError, KeyError, TypeError) as error:
            raise ResumeError(f"{path}: cannot be read ({error}); start over with restart") from error
        return found

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()

    def draft(self, schema: Any) -> DraftPart:
        """Return a part to write to."""
        return DraftPart(self.folder, schema)

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    def remove(self) -> None:
        """Throw the folder away."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()


class Workspace(RunFolder):
    """The folder ``TARGET.partial`` of a run whose parts follow each other, from the first row to the last."""

    def _load(self) -> None:
        self.parts = self._finished()

    def _finished(self) -> list[Part]:
        """Return the finished parts from the first on without a gap; throw away everything else."""
        found: dict[int, Part] = {}
        for path in sorted(self.folder.iterdir()):
            match = _PART.match(path.name)
            if match:
                number, rows, invalid = (int(text) for text in match.groups())
                if readable(path, rows):
                    found[number] = Part(path, number, rows, invalid)
                    continue
            if path.name not in ("lock", _MANIFEST):
                path.unlink()
        parts: list[Part] = []
        while len(parts) in found:
            parts.append(found.pop(len(parts)))
        for stray in found.values():
            stray.path.unlink()
        return parts

    def finish(self, draft: DraftPart) -> None:
        """Put a draft behind the parts that are there."""
        number = len(self.parts)
        path = self.folder / f"part-{number:06d}-{draft.rows}-{draft.invalid}.arrow"
        draft.move(path)
        self.parts.append(Part(path, number, draft.rows, draft.invalid))

    def batches(self) -> Iterator[Any]:
        """Yield the rows of all parts in order, mapped into memory."""
        for part in self.parts:
            yield from mapped(part.path)


class DraftPart:
    """A part being written; it counts once it has been moved into place."""

    def __init__(self, folder: Path, schema: Any) -> None:
        self._draft = folder / "draft.arrow"
        self._file = pa.OSFile(str(self._draft), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)
        self.rows = self.invalid = self.live = 0

    def write(self, block: Computed) -> None:
        """Add rows."""
        self._writer.write_batch(block.batch)
        self.rows += block.batch.num_rows
        self.invalid += block.invalid
        self.live += block.live

    def move(self, path: Path) -> None:
        """Flush the part to disk and move it into place."""
        self.close()
        with replacing(path) as draft:
            os.replace(self._draft, draft)

    def close(self) -> None:
        """Close the file; what it holds is a draft."""
        self._writer.close()
        self._file.close()


def mapped(path: Path) -> Iterator[Any]:
    """Yield the batches of a part, mapped into memory."""
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for position in range(reader.num_record_batches):
            yield reader.get_batch(position)


def _refuse_strangers(folder: Path) -> None:
    """Raise where a folder holds files that no run has left, and no manifest that says whose it is."""
    strangers = sorted(path.name for path in folder.iterdir() if not _OWN.fullmatch(path.name))
    if strangers and unfinished(folder) is None:
        raise InputError(
            f"{folder} holds {strangers[0]!r}, which is no unfinished work: a run clears its folder; "
            "give it one of its own, or move what is there"
        )


def unfinished(folder: Path) -> dict[str, Any] | None:
    """Return what a folder holds an unfinished run of; None where it is no folder of a run."""
    try:
        found = json.loads((folder / _MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"model", "source", "options", "part_rows"} <= found.keys() else None


def discard(folder: Path, output: str) -> None:
    """Throw away the unfinished run that writes the column ``output``, if a folder holds one."""
    found = unfinished(folder)
    if found is not None and found["options"].get("output") == output:
        shutil.rmtree(folder, ignore_errors=True)


def readable(path: Path, rows: int) -> bool:
    """Return whether a file is a whole Arrow file of so many rows."""
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            return rows == sum(int(reader.get_batch(i).num_rows) for i in range(reader.num_record_batches))
    except (pa.ArrowException, OSError):
        return False


def refuse_other_run(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise where an unfinished run is not a run of the same model, source and options.

    Raises
    ------
    ResumeError
        Says what differs, both values, and how to go on.
    """
    there, here = before["model"], now["model"]
    if there.get("hash") != here["hash"]:
        _refuse(
            folder,
            f"another model: there {there.get('hash')} ({there.get('spec')}), now {here['hash']} ({here['spec']})",
        )
    for key in sorted({*before["source"], *now["source"]}):
        if before["source"].get(key) != now["source"].get(key):
            old, new = before["source"].get(key), now["source"].get(key)
            _refuse(folder, f"another source: {key} {_times(old, new) if key == 'changed' else _change(old, new)}")
    for key in sorted({*before["options"], *now["options"]}):
        old, new = before["options"].get(key), now["options"].get(key)
        # Rows done so far broke no rule, so from here on invalid rows may as well become NULL.
        if old != new and not (key == "on_invalid" and old == "error"):
            _refuse(folder, f"other options: {key} {_change(old, new)}")
    if before.get("vecpipe") != now["vecpipe"]:
        _refuse(folder, f"another version of vecpipe: {_change(before.get('vecpipe'), now['vecpipe'])}")


def _change(old: Any, new: Any) -> str:
    return f"was {json.dumps(old)}, now {json.dumps(new)}"


def _times(old: Any, new: Any) -> str:
    """Return two times in nanoseconds as texts, to the second where that tells them apart."""
    if not isinstance(old, int) or not isinstance(new, int):
        return _change(old, new)
    precision = "seconds" if old // 10**9 != new // 10**9 else "microseconds"
    was, now = (datetime.fromtimestamp(ns / 1e9, UTC).isoformat(" ", precision) for ns in (old, new))
    return f"was {was}, now {now}"


def _refuse(folder: Path, difference: str) -> None:
    raise ResumeError(
        f"{folder} holds an unfinished run with {difference}. Run again as before to finish it, "
        "or start over with restart (--restart)"
    )
