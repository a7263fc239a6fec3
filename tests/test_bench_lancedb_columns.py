"""The benchmark of LanceDB columns runs, on few rows."""

from __future__ import annotations

import io

from rich.console import Console

from vecpipe.bench.lancedb import run


def test_the_benchmark_measures_both_sides_and_says_how_many_rows_a_second():
    console = Console(file=io.StringIO(), width=200)
    (line,) = run(10_000, 16, "int4", 2, console)
    assert line.what == "add_column int4"
    assert line.ours > 0
    assert line.peer > 0
    assert "rows/s" in line.note
    assert "8 bytes a code" in line.note
    assert console.file.getvalue().count("IVF_PQ")  # type: ignore[attr-defined]
