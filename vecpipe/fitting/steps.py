"""From a sketch to a model: one step after another is fitted from the rows as they enter it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vecpipe import kernels
from vecpipe.arrays import Float32
from vecpipe.errors import FitError, InputError, ModelFormatError
from vecpipe.fitting.guard import GUARD_ROWS, neighbours_kept, warn_if_whitening_hurts, whitens
from vecpipe.model import Model
from vecpipe.operators import Codec, FitData, Operator
from vecpipe.operators.base import State, check_widths
from vecpipe.sketch import Sketch
from vecpipe.spec import format_spec, parse
from vecpipe.stored_model import FitInfo

_LENGTHS = (1e-15, 3e18)
"""Mean lengths of vectors that codecs are fitted to."""


def fit_sketch(sketch: Sketch, spec: str | Sequence[Operator], queries: Sketch | None = None) -> Model:
    """Fit a spec from a sketch of the rows and, for operators that ask for one, a sketch of sample queries.

    Leading affine steps are fitted from the exact moments, carried through each step analytically; from the first
    step that is not affine, from the sample carried through the steps before it.

    Raises
    ------
    SpecError
        The spec is wrong, or does not fit the width of the vectors.
    FitError
        There are no rows, or they do not suffice for a step.
    """
    steps = parse(spec) if isinstance(spec, str) else list(spec)
    if sketch.count == 0:
        raise FitError(
            f"no rows to fit {format_spec(steps)!r} from ({sketch.nulls} NULL, {sketch.invalid} invalid rows)"
        )
    check_widths(steps, sketch.dim)
    if queries is not None and queries.dim != sketch.dim:
        raise InputError(f"queries have {queries.dim} dimensions, but the rows have {sketch.dim}")
    data = _fit_data(sketch, None if queries is None else _fit_data(queries, None))
    bound: list[Operator] = []
    with kernels.one_blas_thread():  # several threads round otherwise, and the model would depend on their number
        for step in steps:
            if isinstance(step, Codec):
                _check_lengths(sketch, bound, step)
            ready = step.bind(data.dim, _learnt(step, data))
            bound.append(ready)
            if not isinstance(ready, Codec):
                data = data.after(ready)
        kept = None
        if any(map(whitens, bound)):
            kept = neighbours_kept(sketch.sample().rows[:GUARD_ROWS], bound)
    if kept is not None:
        warn_if_whitening_hurts(kept)
    info = FitInfo(sketch.count, sketch.nulls, sketch.invalid, sketch.zeros, kept)
    return Model(bound, sketch.dim, info)


def _check_lengths(sketch: Sketch, before: Sequence[Operator], codec: Codec) -> None:
    """Refuse vectors whose squared lengths float32 cannot hold: no score of their codes would mean anything."""
    mean = sketch.norm_sum / sketch.weight_sum
    if all(step.moves_only for step in before) and mean and not _LENGTHS[0] <= mean <= _LENGTHS[1]:
        raise FitError(
            f"{codec.name}: the vectors are {mean:.1e} long on average, but scores of codes take their squares in "
            f"float32; expected lengths from {_LENGTHS[0]:.0e} to {_LENGTHS[1]:.0e}: scale them or put normalize first"
        )


def _learnt(step: Operator, data: FitData) -> State:
    """Return what a step learns.

    Raises
    ------
    FitError
        Numbers so large or so small that what is computed of them overflows, or leaves nothing to divide by.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            state = step.fit(data)
    except (np.linalg.LinAlgError, ZeroDivisionError, ModelFormatError) as error:
        raise _beyond(step) from error
    if not all(np.isfinite(array).all() for array in state.values()):
        raise _beyond(step)
    return state


def _beyond(step: Operator) -> FitError:
    return FitError(
        f"{step.name} cannot be fitted: what it computes of these rows leaves the range of float numbers; "
        "are they all zero, or vectors or weights extremely large or small? Then divide them by a constant"
    )


def needs_sample(steps: Sequence[Operator]) -> bool:
    """Return whether fitting these steps looks at rows once there are too many to keep them all.

    Exact moments carry through affine steps alone; behind any other step a fit needs the sample.
    """
    exact = True
    for step in steps:
        learns = type(step).fit is not Operator.fit
        if learns and not (exact and step.from_moments):
            return True
        exact = exact and step.from_moments
    return False


def _fit_data(sketch: Sketch, queries: FitData | None) -> FitData:
    if sketch.weight_sum <= 0.0:
        raise FitError("all weights are zero, there is nothing to fit")

    def sample() -> tuple[Float32, npt.NDArray[np.float64]]:
        kept = sketch.sample()
        if not kept.weights.any():
            raise FitError(
                "all rows of the sample weigh nothing, there is nothing to fit from; give fewer rows weight 0"
            )
        return kept.rows, kept.weights

    return FitData(sketch.dim, sketch.count, sample, sketch.moments, queries, sketch.mean)
