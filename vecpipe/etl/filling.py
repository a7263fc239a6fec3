"""Filling parts: blocks are computed over several threads and written in order, one part after another.

What a part is and where it is kept is in ``parts``; what is computed is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from vecpipe.etl.parts import Computed, DraftPart
from vecpipe.etl.tables import BLOCK_ROWS
from vecpipe.fitting.stream import Progress
from vecpipe.kernels import one_blas_thread
from vecpipe.ordered import in_order

_PART_BYTES = 64 << 20
_MAX_PART_ROWS = 65_536


def rows_of_part(row_bytes: int) -> int:
    """Return how many rows of a size make a part of about 64 MB, in whole blocks."""
    return min(max(_PART_BYTES // max(row_bytes, 1) // BLOCK_ROWS, 1) * BLOCK_ROWS, _MAX_PART_ROWS)


def fill_parts(
    calls: Iterator[Callable[[], Computed] | None],
    draft: Callable[[], DraftPart],
    finish: Callable[[DraftPart], None],
    *,
    threads: int,
    done: int,
    total: int,
    progress: Progress | None,
) -> int:
    """Compute blocks and write them to parts, and return the rows that are done then.

    Parameters
    ----------
    calls
        Each computes a block; None ends a part.
    draft, finish
        Make the part that the next block goes to; put a part that is full in its place.
    done, total
        Rows that were done before, and that there are: for ``progress``.
    """
    if progress is not None:
        progress(done, total)
    part: DraftPart | None = None
    try:
        with one_blas_thread(), ThreadPoolExecutor(threads, "vecpipe-fill") as pool:
            for block in in_order(pool, calls, 2 * threads):
                if part is None:
                    part = draft()
                if block is None:
                    finish(part)
                    part = None
                    continue
                part.write(block)
                done += block.live
                if progress is not None:
                    progress(done, total)
    finally:
        if part is not None:
            part.close()
    return done
