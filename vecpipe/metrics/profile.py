"""A first look at a column of vectors: how many, how long, how spread."""

from __future__ import annotations

from typing import Any

import numpy as np

from vecpipe.blocks import Block
from vecpipe.metrics.isotropy import effective_rank, isoscore, mean_cosine, spectrum
from vecpipe.metrics.medoid import unit_scales
from vecpipe.sketch import Sketch


class Profile:
    """A sketch, the range of the lengths, and the sum of the directions; mergeable.

    Attributes
    ----------
    sketch : Sketch
    shortest, longest : float
        Range of the rows' lengths.
    direction : (d,) float64
        Sum of the rows, each scaled to length one.
    """

    def __init__(self, dim: int) -> None:
        self.sketch = Sketch(dim)
        self.shortest, self.longest = np.inf, 0.0
        self.direction = np.zeros(dim)

    def update_block(self, block: Block) -> None:
        """Add a block of rows."""
        self.sketch.update_block(block)
        X = block.rows
        scale = unit_scales(X)
        with np.errstate(divide="ignore"):
            lengths = np.where(scale > 0, 1.0 / scale, 0.0)
        self.shortest = min(self.shortest, float(lengths.min(initial=np.inf)))
        self.longest = max(self.longest, float(lengths.max(initial=0.0)))
        self.direction += scale @ X

    def merge(self, other: Profile) -> None:
        """Take in another profile."""
        self.sketch.merge(other.sketch)
        self.shortest = min(self.shortest, other.shortest)
        self.longest = max(self.longest, other.longest)
        self.direction += other.direction

    def numbers(self) -> dict[str, Any]:
        """Return zero rows, lengths, mean cosine, effective rank and IsoScore; None where one is undefined."""
        sketch = self.sketch
        if not sketch.count:
            names = ("norm_min", "norm_mean", "norm_max", "mean_cosine", "effective_rank", "isoscore")
            return {"zero": 0, **dict.fromkeys(names)}
        moments = sketch.moments()
        shares = spectrum(moments, sketch.dim)
        return {
            "zero": sketch.zeros,
            "norm_min": self.shortest,
            "norm_mean": sketch.norm_sum / sketch.weight_sum,
            "norm_max": self.longest,
            "mean_cosine": mean_cosine(self.direction, sketch.count - sketch.zeros),
            "effective_rank": None if shares is None else effective_rank(shares),
            "isoscore": isoscore(moments, sketch.dim),
        }
