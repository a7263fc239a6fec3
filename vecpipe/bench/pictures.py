"""Pictures of benchmarks, drawn with matplotlib where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vecpipe.errors import InputError, VecpipeError


def figure_class() -> Any:
    """Return matplotlib's class of figures.

    Raises
    ------
    VecpipeError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VecpipeError("the picture needs matplotlib: pip install 'vecpipe[report]'") from error
    return Figure


def save(figure: Any, path: Path) -> None:
    """Write a figure; the suffix of the path decides the format.

    Raises
    ------
    InputError
        The picture cannot be written, or the suffix is not one of a picture.
    """
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the picture cannot be written ({error})") from error
