"""The kinds of NumPy arrays that are passed around, and the vectors of one column: no Arrow here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Vectors of one column.

    Attributes
    ----------
    values : (n, d) float32
        One vector a row; rows outside ``valid`` hold zeros.
    valid : (n,) bool or None
        None when every row counts.
    nulls, invalid : int
        How many rows were NULL, and how many broke a rule and were turned to NULL.
    """

    values: Float32
    valid: Mask | None = None
    nulls: int = 0
    invalid: int = 0

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.values.shape[1])

    def kept(self) -> Float32:
        """Return the rows that count, in order."""
        return self.values if self.valid is None else self.values[self.valid]
