"""Bits for the axes of a code by reverse water-filling, and axes for its bytes so that each carries eight."""

from __future__ import annotations

import numpy as np

from vecpipe.arrays import Float64
from vecpipe.operators.lut import padded_width

MAX_GROUP = 16
"""Axes that share a byte at most."""


def water_fill(variances: Float64, total: float) -> Float64:
    """Return bits an axis by reverse water-filling, none above 8: a Gaussian's error has the same slope everywhere."""
    logs = np.log2(np.maximum(variances, 1e-300))
    low, high = float(logs.min()) - 80.0, float(logs.max())
    for _ in range(100):
        level = (low + high) / 2
        if float(np.clip(0.5 * (logs - level), 0.0, 8.0).sum()) > total:
            low = level
        else:
            high = level
    return np.clip(0.5 * (logs - high), 0.0, 8.0)


def group_axes(variances: Float64, count: int) -> list[list[int]]:
    """Share the axes out among at most ``count`` bytes so that the water-filled bits of each come near 8.

    The axis with most bits left goes to the byte with least (longest processing time first); bytes are ordered by
    padded width, widest first, so that decoded words stay aligned.
    """
    bits = water_fill(variances, 8.0 * count)
    groups: list[list[int]] = [[] for _ in range(count)]
    load = np.zeros(count)
    for axis in np.argsort(-bits, kind="stable"):
        if bits[axis] <= 0.02 and groups[0]:
            break
        byte = int(np.argmin(load))
        if not np.isfinite(load[byte]):
            break
        groups[byte].append(int(axis))
        load[byte] = load[byte] + bits[axis] if len(groups[byte]) < MAX_GROUP else np.inf
    filled = [group for group in groups if group]
    return sorted(filled, key=lambda group: -padded_width(len(group)))
