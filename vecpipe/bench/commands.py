"""The command group ``vecpipe bench``."""

from __future__ import annotations

import click
from rich.console import Console


@click.group()
def bench() -> None:
    """Measure speed against the peers: medians of several runs, ratios within one run."""


@bench.command()
@click.option("--rows", default=500_000, show_default=True, type=click.IntRange(10_000), help="Rows of the table.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(8, 4_096), help="Width of the vectors.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1, 100), help="Runs of each measurement.")
def apply(rows: int, dim: int, runs: int) -> None:
    """Apply, encode, fit and search against NumPy and DuckDB's own functions."""
    from vecpipe.bench.apply import run

    run(rows, dim, runs, Console())
