"""The picture of ``vecpipe bench search``: what a query costs over the rows of a table, and over k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vecpipe.arrays import Float32
from vecpipe.bench.pictures import figure_class, save
from vecpipe.bench.search_ways import BITS, CELLS, CODES, EXACT, INDEX, VECTORS, Searched, measured
from vecpipe.bench.settings import Setting

Curves = Mapping[int, Sequence[Setting]]
_SIZES = (1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
_COUNTS = (1, 3, 10, 30, 100)
_MARKERS = {EXACT: "x", VECTORS: "+", CODES: "s", BITS: "d", CELLS: "^", INDEX: "o"}


def over_rows(X: Float32, Q: Float32, k: int, target: float, known: Sequence[Setting]) -> dict[int, list[Setting]]:
    """Measure the first rows of the vectors at several sizes; ``known`` is what was measured of all of them."""
    curves: dict[int, list[Setting]] = {}
    for size in (size for size in _SIZES if size < len(X)):
        table = Searched(X[:size])
        curves[size] = measured(table.ladders(k), X[:size], Q, target)
        table.close()
    curves[len(X)] = [setting for setting in known if setting.group in _MARKERS]
    return curves


def over_k(table: Searched, X: Float32, Q: Float32, target: float) -> dict[int, list[Setting]]:
    """Measure a table for several k."""
    return {k: measured(table.ladders(k), X, Q, target) for k in _COUNTS}


def draw(rows: Curves, counts: Curves, target: float, path: Path) -> None:
    """Draw median milliseconds over rows and over k; what misses the recall is drawn hollow.

    Raises
    ------
    VecpipeError
        matplotlib is not installed.
    InputError
        The picture cannot be written, or the suffix is not one of a picture.
    """
    figure = figure_class()(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, curves, label in ((left, rows, "rows, k = 10"), (right, counts, f"k, {max(rows):,} rows")):
        for group, marker in _MARKERS.items():
            places = [(x, each) for x, settings in sorted(curves.items()) for each in settings if each.group == group]
            (line,) = axes.plot([x for x, _ in places], [each.median for _, each in places], label=group)
            for reached in (True, False):
                some = [(x, each.median) for x, each in places if (each.recall >= target) == reached]
                face = line.get_color() if reached else "none"
                axes.plot(
                    [x for x, _ in some], [y for _, y in some], marker, color=line.get_color(), markerfacecolor=face
                )
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.grid(alpha=0.3)
    left.set_ylabel(f"median ms of a query, recall@k >= {target}")
    left.legend()
    save(figure, path)
