"""The bytes of a sketch: what is written, and what is checked when bytes from elsewhere are read.

How a sketch comes to be and what it is good for is in ``sketch``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vecpipe import container
from vecpipe.errors import ModelFormatError
from vecpipe.moments import Moments
from vecpipe.rules import MAX_DIM
from vecpipe.sample import Sample, sample_capacity

MAX_WEIGHT = 1e120
"""Largest sum of weights: with the fourth powers of float32 lengths it stays within float64."""

_COUNTS = ("count", "nulls", "invalid", "zeros")
_SUMS = ("weight_sum", "norm_sum")


@dataclass(frozen=True)
class Stored:
    """What is stored of a sketch.

    Attributes
    ----------
    dim, count, nulls, invalid, zeros, weight_sum, norm_sum
        As in ``Sketch``.
    sample : Sample
    moments : Moments or None
        None where the sample holds every row.
    """

    dim: int
    count: int
    nulls: int
    invalid: int
    zeros: int
    weight_sum: float
    norm_sum: float
    sample: Sample
    moments: Moments | None

    def to_bytes(self) -> bytes:
        """Return the bytes (safetensors)."""
        sample, moments = self.sample, self.moments
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "hashes": sample.hashes,
            "rows": sample.rows,
            "counts": sample.counts,
            "weights": sample.weights,
        }
        if moments is not None:
            assert moments.third is not None
            assert moments.fourth is not None
            arrays |= {"mean": moments.mean, "scatter": moments.scatter, "third": moments.third}
            arrays["sums"] = np.array([moments.weight, moments.weight_squared, moments.fourth])
        return container.write("sketch", {name: getattr(self, name) for name in ("dim", *_COUNTS, *_SUMS)}, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> Stored:
        """Read and check what ``to_bytes`` wrote.

        Raises
        ------
        ModelFormatError
            The bytes are not a readable sketch, or not one that rows can have led to.
        """
        meta, arrays = container.read("sketch", data)
        dim, count = container.integer(meta, "dim", 1, MAX_DIM), container.integer(meta, "count", 0)
        m = len(arrays["hashes"]) if "hashes" in arrays else 0
        shapes = {
            "hashes": (np.uint64, (m,)),
            "rows": (np.float32, (m, dim)),
            "counts": (np.int64, (m,)),
            "weights": (np.float64, (m,)),
        }
        if "scatter" in arrays:
            shapes |= {"mean": (np.float64, (dim,)), "scatter": (np.float64, (dim, dim))}
            shapes |= {"third": (np.float64, (dim,)), "sums": (np.float64, (3,))}
        container.check_arrays(arrays, shapes, finite=("rows", "weights", "mean", "scatter", "third", "sums"))
        moments = None
        if "scatter" in arrays:
            weight, squared, fourth = (float(value) for value in arrays["sums"])
            moments = Moments(weight, squared, arrays["mean"], arrays["scatter"], arrays["third"], fourth)
        nulls, invalid, zeros = (container.integer(meta, name, 0) for name in _COUNTS[1:])
        weight_sum, norm_sum = (container.number(meta, name) for name in _SUMS)
        sample = Sample(arrays["hashes"], arrays["rows"], arrays["counts"], arrays["weights"])
        stored = Stored(dim, count, nulls, invalid, zeros, weight_sum, norm_sum, sample, moments)
        stored._check()
        return stored

    def _check(self) -> None:
        """Check that counts and weights can be those of rows, and that those of the sample are among them."""
        counts, weights, moments, capacity = (
            self.sample.counts,
            self.sample.weights,
            self.moments,
            sample_capacity(self.dim),
        )
        if len(counts) > capacity:
            raise ModelFormatError(f"sketch: a sample of {len(counts)} rows is larger than {capacity}")
        if moments is not None and len(counts) < capacity:
            raise ModelFormatError(f"sketch: its sample of a longer stream has {len(counts)} rows, not {capacity}")
        if (counts < 1).any() or (weights < 0).any():
            raise ModelFormatError("sketch: a row of the sample has a count below 1 or a weight below 0")
        if not 0 <= self.weight_sum <= MAX_WEIGHT or self.norm_sum < 0 or self.zeros > self.count:
            raise ModelFormatError("sketch: sums of weights or lengths, or the count of zero vectors, are out of range")
        with np.errstate(over="ignore"):
            rows, total = float(counts.sum(dtype=np.float64)), float(weights.sum())
        if not (rows == self.count if moments is None else rows <= self.count):
            raise ModelFormatError(f"sketch: its sample stands for {rows:.0f} rows, but it counts {self.count}")
        known = total
        if moments is not None:
            known = moments.weight
            if min(moments.weight_squared, moments.fourth or 0.0, float(np.diagonal(moments.scatter).min())) < 0:
                raise ModelFormatError("sketch: a sum of squares is below 0")
        if not np.isclose(known, self.weight_sum, rtol=1e-6, atol=0.0) or total > self.weight_sum * (1 + 1e-6):
            raise ModelFormatError(f"sketch: its rows weigh {max(known, total):g}, but it counts {self.weight_sum:g}")
