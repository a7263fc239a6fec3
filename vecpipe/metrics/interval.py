"""How sure a measured recall is."""

from __future__ import annotations

import numpy as np

from vecpipe.arrays import Float64

_Z = 1.959963984540054


def wilson(shares: Float64, trials: int) -> tuple[float, float]:
    """Return a 95 % interval of the mean of shares, each of so many trials that belong together (Wilson 1927).

    The trials of one query succeed and fail together, so that their number overstates what is known. Wilson's interval
    is taken with the effective number of trials, ``p (1 - p)`` over the squared standard error of the mean of the
    shares; where the shares do not vary, each of them counts as one trial.

    Parameters
    ----------
    shares : (m,)
        Of each query the share of successes, 0 to 1.
    trials
        How many trials a share is of.
    """
    count = len(shares)
    if count == 0:
        return 0.0, 1.0
    p = float(shares.mean())
    error = float(shares.var(ddof=1)) / count if count > 1 else 0.0
    effective = p * (1.0 - p) / error if error > 0 else float(count)
    n = min(max(effective, 1.0), float(count * trials))
    centre = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z / (1 + _Z * _Z / n) * float(np.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n)))
    return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))
