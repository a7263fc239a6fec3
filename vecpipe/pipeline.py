"""Models: a spec fitted to vectors, applied to vectors, codes and queries.

A pipeline is the list of operators a spec parses to; ``fit_sketch`` turns it and a sketch into a ``Model``. Nothing
here knows Arrow columns or an engine: matrices and masks go in, matrices and masks come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecpipe import container, kernels
from vecpipe.arrays import MAX_DIM, Bytes, Float32, Mask, from_codes, nonfinite_rows
from vecpipe.errors import CapabilityError, FitError, InputError, ModelFormatError, SpecError
from vecpipe.guard import GUARD_ROWS, neighbours_kept, warn_if_whitening_hurts, whitens
from vecpipe.moments import Affine
from vecpipe.operators import Codec, FitData, Operator
from vecpipe.operators.base import State, check_widths
from vecpipe.scoring import Coding, Metric, Queries, exact_scores, metric_named, row_scores
from vecpipe.sketch import Sketch
from vecpipe.spec import format_spec, parse
from vecpipe.version import __version__

_LENGTHS = (1e-15, 3e18)
"""Mean lengths of vectors that codecs are fitted to."""
_WHITENING = ("whitening_recall_before", "whitening_recall_after")


@dataclass(frozen=True)
class FitInfo:
    """What the fit saw: rows that counted, NULL rows, invalid rows left out, zero vectors.

    ``whitening`` is recall@10 before and after a whitening step, on the sample, where there is such a step.
    """

    rows: int = 0
    nulls: int = 0
    invalid: int = 0
    zeros: int = 0
    whitening: tuple[float, float] | None = None


class Model:
    """A fitted pipeline. Immutable; two models with the same ``hash`` do the same.

    Parameters
    ----------
    steps
        Operators, bound to their state, each to the width the one before leaves.
    dim
        Width of the input vectors.
    info
        What the fit saw.
    """

    def __init__(self, steps: Sequence[Operator], dim: int, info: FitInfo) -> None:
        self.steps = tuple(steps)
        self.dim = dim
        self.info = info
        self.spec = format_spec(self.steps)
        last = self.steps[-1]
        self.codec: Codec | None = last if isinstance(last, Codec) else None
        self._moves = self.steps[:-1] if self.codec else self.steps
        width = dim
        self.widths = [width]
        for step in self._moves:
            width = step.output_dim(width)
            self.widths.append(width)
        self.output_dim = width
        self._chain = _fold([(step, step.affine()) for step in self._moves])
        self.coding: Coding | None = Coding(self._moves, self.codec) if self.codec else None
        before = self.coding.before if self.coding else self._moves
        self._query_chain = _fold([(step, step.query_affine()) for step in before])

    def __repr__(self) -> str:
        return f"Model({self.spec!r}, dim={self.dim}, output={self.output_type}, hash={self.hash[:12]})"

    @property
    def output_type(self) -> str:
        """``BLOB`` for a model that writes codes, else ``FLOAT[k]``."""
        return "BLOB" if self.codec else f"FLOAT[{self.output_dim}]"

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that one result takes."""
        return self.codec.code_bytes(self.output_dim) if self.codec else 4 * self.output_dim

    # Rows ------------------------------------------------------------------------------------------------

    def transform(self, X: Float32, valid: Mask | None = None, *, stable: bool = False) -> tuple[Float32, Mask | None]:
        """Apply the steps (those before the codec, where there is one).

        Parameters
        ----------
        X : (n, d) float32
        valid : (n,) bool or None
            Rows outside are not looked at and stay outside.
        stable
            Make the result independent of the batch to the last bit; costs float64 products.

        Returns
        -------
        (n, k) float32 and the rows that have a result
            A row has none where it has no direction, or where it leaves the range of float32.

        Raises
        ------
        InputError
            The vectors are not of the width the model was fitted on.
        """
        moved, valid = self._run(self._chain, X, valid, stable=stable)
        return (moved, valid) if self._moves else _drop(moved, valid)

    def transform_queries(self, Q: Float32, valid: Mask | None = None) -> tuple[Float32, Mask | None]:
        """Apply the query side of the steps: what ``transform`` does, but for operators with two sides."""
        chain = _fold([(step, step.query_affine()) for step in self._moves])
        moved, valid = self._run(chain, Q, valid, queries=True)
        return (moved, valid) if self._moves else _drop(moved, valid)

    def _run(
        self,
        chain: Sequence[Operator | Affine],
        X: Float32,
        valid: Mask | None,
        *,
        stable: bool = False,
        queries: bool = False,
    ) -> tuple[Float32, Mask | None]:
        X = _matrix(X, self.dim, "this model was fitted on")
        with np.errstate(over="ignore", invalid="ignore"):  # what leaves float32 is marked, not warned of
            for step in chain:
                if isinstance(step, Affine):
                    X = kernels.affine(X, step.matrix, step.offset, stable=stable)
                else:
                    X = step.apply_query(X) if queries else step.apply(X, stable=stable)
                    if step.undefines:
                        X, valid = _drop(X, valid)
        if self._moves:
            X, valid = _drop(X, valid)
        return X, valid

    def affine(self) -> Affine | None:
        """Return the model as one affine map, or None where a step is not affine or writes codes."""
        maps = [step.affine() for step in self.steps]
        whole = maps[0]
        for found in maps[1:]:
            whole = None if whole is None or found is None else whole.then(found)
        return None if self.codec else whole

    def inverse(self, Y: Float32) -> Float32:
        """Return the ``(n, d)`` vectors nearest to what the steps map to ``(n, k)``.

        Raises
        ------
        CapabilityError
            A step cannot be undone.
        """
        Y = _matrix(Y, self.output_dim, "this model returns")
        for step in reversed(self._moves):
            Y = step.invert(Y)
        return Y

    def encode(self, X: Float32, valid: Mask | None = None, *, finite: bool = False) -> tuple[Bytes, Mask | None]:
        """Return codes ``(n, B) uint8`` and the rows that have one.

        The code of a vector depends on the model and the vector alone: not on the batch, the threads or the order.

        Parameters
        ----------
        X : (n, d) float32
        valid : (n,) bool or None
            Rows outside are not looked at and stay outside.
        finite
            Whether the rows are known to be finite, as those of ``to_rows`` are; otherwise they are looked at, and
            those with NaN or an infinite value have no code.

        Raises
        ------
        CapabilityError
            The model has no codec.
        InputError
            Wrong width, or a value the codec cannot hold.
        """
        codec = self._need_codec("encode")
        X = _matrix(X, self.dim, "this model was fitted on")
        if not finite:
            X, valid = _drop(X, valid)
        if codec.direction_only:
            nowhere: Mask = np.asarray(~X.any(axis=1))
            if nowhere.any():
                valid = ~nowhere if valid is None else valid & ~nowhere
        moved, valid = self._run(self._chain, X, valid, stable=True)
        if not len(moved):
            return np.zeros((0, self.bytes_per_vector), np.uint8), valid
        return codec.encode(moved), valid

    def decode(self, codes: Bytes) -> Float32:
        """Return the ``(n, d) float32`` vectors that codes stand for, in the space of the input.

        Raises
        ------
        CapabilityError
            The model has no codec, or a step cannot be undone.
        InputError
            Codes of another length than this model writes.
        """
        codec = self._need_codec("decode")
        return self.inverse(codec.decode(from_codes(np.asarray(codes), self.bytes_per_vector)[0]))

    def _need_codec(self, verb: str) -> Codec:
        if self.codec is None:
            raise CapabilityError(
                f"cannot {verb}: {self.spec!r} returns vectors, not codes; add a codec such as int8 to the spec"
            )
        return self.codec

    # Queries ---------------------------------------------------------------------------------------------

    def prepare(self, Q: Float32, metric: Metric = "cosine") -> Queries:
        """Carry ``(m, d) float32`` queries through the model, once for any number of codes.

        Raises
        ------
        InputError
            Wrong width.
        SpecError
            There is no such metric.
        """
        metric = metric_named(metric)
        moved, valid = self._run(self._query_chain, Q, None, queries=True)
        if valid is not None:
            moved = np.where(valid[:, None], moved, np.float32(np.nan))
        if self.coding is not None:
            return self.coding.prepare(moved, metric)
        return Queries(moved, moved, np.zeros(len(moved), np.float32), metric)

    def score(self, queries: Queries, items: Bytes | Float32) -> Float32:
        """Return ``(m, n) float32`` scores, larger is closer; NaN where cosine has no answer.

        Parameters
        ----------
        queries
            From ``prepare``; their metric decides: cosine, ip (inner product) or l2 (minus the distance), in the
            space after the last step that changes the geometry (see ``vecpipe.scoring``).
        items : (n, B) uint8 codes, or (n, k) float32 transformed vectors for a model without codec
        """
        if self.coding is None:
            vectors = _matrix(items, self.output_dim, "this model returns")
            return exact_scores(queries.moved, vectors, queries.metric)
        codes, _ = from_codes(np.asarray(items), self.bytes_per_vector)
        return self.coding.score(queries, codes)

    def query_bits(self, queries: Queries) -> tuple[Bytes, Mask]:
        """Return the sign bits of prepared queries, to be held against codes by the number of bits that differ.

        Returns
        -------
        Bits ``(m, B) uint8``, and which of the queries have some, ``(m,) bool``.

        Raises
        ------
        CapabilityError
            The codes of this model are not sign bits.
        """
        if self.codec is None or not self.codec.sign_bits:
            raise CapabilityError(f"{self.spec!r} does not write sign bits; fit a spec that ends in binary")
        known: Mask = np.asarray(~np.isnan(queries.moved).any(axis=1) & queries.moved.any(axis=1))
        return self.codec.encode(np.nan_to_num(queries.moved)), known

    def score_codes(self, a: Bytes | Float32, b: Bytes | Float32, metric: Metric = "cosine") -> Float32:
        """Return ``(n,) float32`` scores of the vectors that two columns of codes stand for, row by row.

        Larger is closer; NaN where cosine has no answer. Unlike ``score``, which takes queries as they are, both sides
        carry the error of their codes.

        Parameters
        ----------
        a, b : (n, B) uint8 codes, or (n, k) float32 transformed vectors for a model without codec
        metric
            cosine, ip (inner product) or l2 (minus the distance), in the space that ``score`` speaks of.

        Raises
        ------
        InputError
            Codes of another length than this model writes, or columns of different lengths.
        SpecError
            There is no such metric.
        """
        metric = metric_named(metric)
        if len(a) != len(b):
            raise InputError(f"cannot score {len(a)} codes with {len(b)}: expected one for one")
        if self.coding is None:
            left, right = (_matrix(side, self.output_dim, "this model returns") for side in (a, b))
            return row_scores(left, right, metric)
        codes_a, codes_b = (from_codes(np.asarray(side), self.bytes_per_vector)[0] for side in (a, b))
        return self.coding.score_pairs(codes_a, codes_b, metric)

    # Bytes -----------------------------------------------------------------------------------------------

    @cached_property
    def _bytes(self) -> bytes:
        record = {
            "spec": self.spec,
            "dim": self.dim,
            "output": self.output_type,
            "bytes": self.bytes_per_vector,
            "rows": self.info.rows,
            "nulls": self.info.nulls,
            "invalid": self.info.invalid,
            "zeros": self.info.zeros,
            "library": __version__,
        }
        if self.info.whitening is not None:
            record |= dict(zip(_WHITENING, self.info.whitening, strict=True))
        arrays = {
            f"{position}.{name}": array
            for position, step in enumerate(self.steps)
            for name, array in step.state.items()
        }
        return container.write("model", record, arrays)

    def to_bytes(self) -> bytes:
        """Return the model as bytes (safetensors): the BLOB of the catalog and the file of an export."""
        return self._bytes

    @cached_property
    def hash(self) -> str:
        """Content hash, 64 hexadecimal digits."""
        return container.content_hash(self._bytes)

    @staticmethod
    def from_bytes(data: bytes) -> Model:
        """Read a model.

        Raises
        ------
        ModelFormatError
            The bytes are not a readable model; the message says why.
        """
        record, arrays = container.read("model", data)
        dim = container.integer(record, "dim", 1, MAX_DIM)
        try:
            steps = parse(container.text(record, "spec"))
            check_widths(steps, dim)
            states: dict[str, dict[str, npt.NDArray[Any]]] = {str(position): {} for position in range(len(steps))}
            for key, array in arrays.items():
                position, _, name = key.partition(".")
                if position not in states:
                    raise ModelFormatError(f"model: array {key!r} belongs to no step")
                states[position][name] = array
            bound, width = [], dim
            for step, state in zip(steps, states.values(), strict=True):
                bound.append(step.bind(width, state))
                width = step.output_dim(width)
        except SpecError as error:
            raise ModelFormatError(f"model: {error}") from error
        counts = {name: container.integer(record, name, 0) for name in ("rows", "nulls", "invalid", "zeros")}
        measured = _WHITENING[0] in record
        kept = (container.number(record, _WHITENING[0]), container.number(record, _WHITENING[1])) if measured else None
        model = Model(bound, dim, FitInfo(**counts, whitening=kept))
        for name, value in (("output", model.output_type), ("bytes", model.bytes_per_vector)):
            if record.get(name) != value:
                raise ModelFormatError(f"model: {name} is {record.get(name)!r}, but its spec makes it {value!r}")
        model.__dict__["_bytes"] = bytes(data)
        return model

    def save(self, path: str | Path) -> None:
        """Write the model's bytes to a file, whole or not at all.

        Raises
        ------
        InputError
            The file cannot be written.
        """
        from vecpipe.etl.files import write_whole  # vecpipe.etl imports this module

        try:
            write_whole(Path(path), self._bytes)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error

    @staticmethod
    def load(path: str | Path) -> Model:
        """Read a model file.

        Raises
        ------
        InputError
            The file cannot be read.
        ModelFormatError
            It is no model; the message says why.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        try:
            return Model.from_bytes(data)
        except ModelFormatError as error:
            raise ModelFormatError(f"{path}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Return what the model is, as plain values: spec, shapes, bytes, what the fit saw, variance kept."""
        about: dict[str, Any] = {
            "spec": self.spec,
            "hash": self.hash,
            "input_dim": self.dim,
            "output_type": self.output_type,
            "bytes_per_vector": self.bytes_per_vector,
            "ratio": round(4 * self.dim / self.bytes_per_vector, 2),
            "fitted_rows": self.info.rows,
            "null_rows": self.info.nulls,
            "invalid_rows": self.info.invalid,
            "zero_rows": self.info.zeros,
            "model_bytes": len(self.to_bytes()),
        }
        if self.info.whitening is not None:
            about |= dict(zip(_WHITENING, self.info.whitening, strict=True))
        for step in self.steps:
            spectrum = step.state.get("spectrum")
            if spectrum is not None and step.name == "pca":
                total = float(spectrum.sum())
                kept = float(spectrum[: step.output_dim(step.dim)].sum())
                about["variance_kept"] = round(kept / total, 6) if total > 0 else 1.0
        return about


def _matrix(X: Any, dim: int, who: str) -> Float32:
    """Return ``(n, dim) float32`` of any matrix of numbers."""
    found = np.asarray(X)
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise InputError(f"expected a matrix of numbers (rows, dimensions), got {found.dtype} of shape {found.shape}")
    if found.shape[1] != dim:
        raise InputError(f"vectors have {found.shape[1]} dimensions, but {who} {dim}")
    return np.ascontiguousarray(found, dtype=np.float32)  # sums along a row depend on how it lies in memory


def _drop(X: Float32, valid: Mask | None) -> tuple[Float32, Mask | None]:
    """Turn rows without a finite result into rows that do not count, holding zeros."""
    lost = nonfinite_rows(X)
    if lost.size:
        valid = np.ones(len(X), dtype=bool) if valid is None else valid.copy()
        valid[lost] = False
        X = X.copy()
        X[lost] = 0
    return X, valid


def _fold(steps: Sequence[tuple[Operator, Affine | None]]) -> list[Operator | Affine]:
    """Fold neighbouring affine steps into one product wherever a product is needed anyway."""
    chain: list[Operator | Affine] = []
    group: list[tuple[Operator, Affine]] = []

    def close() -> None:
        if all(found.diagonal for _, found in group):
            chain.extend(step for step, _ in group)
        else:
            whole = group[0][1]
            for _, found in group[1:]:
                whole = whole.then(found)
            chain.append(whole)
        group.clear()

    for step, found in steps:
        if found is None:
            close()
            chain.append(step)
        else:
            group.append((step, found))
    close()
    return chain


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
