"""What an operator is, what it is fitted from, and the registry of all operators.

An operator sees float32 matrices and float64 statistics; it never sees Arrow, SQL or an engine. Its constructor's
parameters are dataclass fields made by ``param``; what ``fit`` learns is a flat dict of NumPy arrays.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from vecpipe import container, kernels
from vecpipe.arrays import MAX_DIM, Bytes, Float32, Float64, nonfinite_rows
from vecpipe.errors import CapabilityError, SpecError
from vecpipe.moments import Affine, Moments

State = dict[str, npt.NDArray[Any]]
Layout = dict[str, tuple[Any, tuple[int, ...]]]
FAMILIES = ("normalise", "whiten", "reduce", "rotate", "quantise")
MAX_MATRIX = 1 << 26
"""Largest matrix an operator may hold, in elements: a model from a stranger cannot ask for more."""
MAX_REBUILT = 1 << 25
"""Elements of all matrices of one model that are rebuilt at load from a state much smaller than they are."""


def param(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Iterable[str] = (),
) -> Any:
    """Declare a parameter of an operator: its default, its range or choices, and its help text."""
    metadata = {"doc": doc, "minimum": minimum, "maximum": maximum, "choices": tuple(choices)}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameter:
    """One declared parameter, as the spec language and the help see it."""

    name: str
    kinds: tuple[type, ...]
    default: Any
    doc: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def optional(self) -> bool:
        """Whether it may be left out as None."""
        return types.NoneType in self.kinds

    def check(self, value: Any, operator: str) -> Any:
        """Return the value in its declared type.

        Raises
        ------
        SpecError
            Wrong type, out of range or not among the choices; the message holds the rule.
        """
        where = f"{operator}: {self.name}"
        if value is None and self.optional:
            return None
        if isinstance(value, bool) and bool not in self.kinds:
            raise SpecError(f"{where} is {value}; expected {self.expected()}")
        if float in self.kinds and isinstance(value, int) and int not in self.kinds and bool not in self.kinds:
            value = float(value)
        if not isinstance(value, self.kinds):
            raise SpecError(f"{where} is {value!r}; expected {self.expected()}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            low = -np.inf if self.minimum is None else self.minimum
            high = np.inf if self.maximum is None else self.maximum
            if not (low <= value <= high and math.isfinite(value)):
                raise SpecError(f"{where} is {value}; expected {self.expected()}")
        if isinstance(value, str) and self.choices and value not in self.choices:
            near = difflib.get_close_matches(value, self.choices, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SpecError(f"{where} is {value!r}; expected {self.expected()}{hint}")
        return value

    def expected(self) -> str:
        """Return the rule in words: ``an integer from 1 to 65536``."""
        words = {int: "an integer", float: "a number", bool: "true or false"}
        parts = [words[kind] for kind in self.kinds if kind in words]
        if str in self.kinds:
            parts.append("one of " + ", ".join(self.choices) if self.choices else "a word")
        rule = " or ".join(parts)
        if self.minimum is not None and self.maximum is not None:
            return f"{rule} from {self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"{rule} of at least {self.minimum:g}"
        return rule


class FitData:
    """What an operator is fitted from: the rows as they enter its step, summarised.

    Parameters
    ----------
    dim, count
        Width of the vectors entering the step, and how many rows the fit saw.
    sample
        Returns sample rows ``(m, d) float32``, carried through the steps before, and their weights ``(m,)``;
        called only when an operator asks for rows.
    moments
        Returns the moments of all rows, where they are known; called only when an operator asks for them.
    queries
        The same for a sample of queries, where one was given.
    mean
        Returns the mean of all rows, where that is known without their moments.
    """

    def __init__(
        self,
        dim: int,
        count: int,
        sample: Callable[[], tuple[Float32, Float64]],
        moments: Callable[[], Moments] | None,
        queries: FitData | None = None,
        mean: Callable[[], Float64] | None = None,
    ) -> None:
        self.dim = dim
        self.count = count
        self.queries = queries
        self._sample = sample
        self._exact = moments
        self._mean = mean

    @cached_property
    def _rows_and_weights(self) -> tuple[Float32, Float64]:
        return self._sample()

    @property
    def rows(self) -> Float32:
        """Sample rows, ``(m, d) float32``."""
        return self._rows_and_weights[0]

    @property
    def weights(self) -> Float64:
        """Weight of each sample row, ``(m,)``: how often it occurred, where no weights were given."""
        return self._rows_and_weights[1]

    @cached_property
    def moments(self) -> Moments:
        """Moments of the rows: of all of them where that is known, else of the sample."""
        return self._exact() if self._exact is not None else Moments.of_rows(self.rows, self.weights)

    @cached_property
    def mean(self) -> Float64:
        """Mean of the rows, ``(d,)``; cheaper than the moments where nothing else of them is needed."""
        return self.moments.mean if self._mean is None else self._mean()

    @cached_property
    def full_moments(self) -> Moments:
        """Moments with the third and fourth order sums, from the sample where the exact ones have lost them."""
        return self.moments if self.moments.fourth is not None else Moments.of_rows(self.rows, self.weights)

    def after(self, step: Operator, *, of_queries: bool = False) -> FitData:
        """Return what the next operator is fitted from, once this bound step has been applied."""
        affine = step.query_affine() if of_queries else step.affine()

        def moved() -> Moments:
            assert affine is not None
            return self.moments.through(affine)

        def moved_mean() -> Float64:
            assert affine is not None
            return affine.of(self.mean)

        def carried() -> tuple[Float32, Float64]:
            rows = step.apply_query(self.rows) if of_queries else step.apply(self.rows)
            weights = self.weights
            lost = nonfinite_rows(rows) if step.undefines else np.zeros(0, np.int64)
            return (np.delete(rows, lost, axis=0), np.delete(weights, lost)) if lost.size else (rows, weights)

        moments = None if affine is None or self._exact is None else moved
        mean = None if affine is None or self._mean is None else moved_mean
        queries = None if self.queries is None else self.queries.after(step, of_queries=True)
        return FitData(step.output_dim(self.dim), self.count, carried, moments, queries, mean)

    def quantiles(self, levels: Iterable[float]) -> Float64:
        """Return weighted per-dimension quantiles of the sample, ``(len(levels), d)``.

        The q-quantile is the smallest value whose weight share is at least q (inverted distribution function).
        """
        wanted = np.asarray(list(levels), dtype=np.float64)
        result = np.empty((len(wanted), self.dim))
        for j in range(self.dim):
            order = np.argsort(self.rows[:, j], kind="stable")
            share = np.cumsum(self.weights[order])
            at = np.searchsorted(share, wanted * share[-1] * (1 - 1e-12))
            result[:, j] = self.rows[order[np.minimum(at, len(order) - 1)], j]
        return result


@dataclass(eq=False)
class Operator:
    """One step of a pipeline. Subclasses set the class attributes and override what they need.

    Attributes
    ----------
    name : str
        Name in specs; with ``stateless`` also the SQL function ``vec_<name>``.
    family : str
        One of ``FAMILIES``.
    source : str
        Paper or standard the formula comes from.
    oracle : str
        What the tests hold it against.
    stateless : bool
        Whether it learns nothing and has no random part.
    fits_from_moments : bool
        Whether ``fit``, where there is one, looks at the moments alone and not at rows.
    undefines : bool
        Whether a valid row can have no result (NaN): a zero vector has no direction.
    moves_only : bool
        Whether the step only moves or turns the vectors (or keeps a subspace): before a codec it is then part of the
        code and does not change what scores mean.
    makes_unit_length, keeps_unit_length : bool
        Whether every result has length one; whether rows of length one stay so.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    source: ClassVar[str] = ""
    oracle: ClassVar[str] = ""
    stateless: ClassVar[bool] = False
    undefines: ClassVar[bool] = False

    @property
    def carries_moments(self) -> bool:
        """Whether moments of the rows before give those after: the step is affine whatever it learns."""
        return False

    @property
    def fits_from_moments(self) -> bool:
        """Whether the fit needs no rows: there is none, or it looks at moments alone."""
        return type(self).fit is Operator.fit
    keeps_unit_length: ClassVar[bool] = False

    @property
    def moves_only(self) -> bool:
        """Whether the step only moves or turns the vectors."""
        return False

    @property
    def makes_unit_length(self) -> bool:
        """Whether every result has length one."""
        return False

    def __post_init__(self) -> None:
        self.dim = 0
        self.state: State = {}
        for parameter in parameters(type(self)):
            setattr(self, parameter.name, parameter.check(getattr(self, parameter.name), self.name))

    def output_dim(self, dim: int) -> int:
        """Return the width after this step.

        Raises
        ------
        SpecError
            The step cannot take vectors of that width.
        """
        return dim

    def rebuilt_elements(self, dim: int) -> int:
        """Return the size of the matrix that ``prepare_state`` makes from a state much smaller than it is."""
        return 0

    def fit(self, data: FitData) -> State:
        """Return what is learnt, a flat dict of arrays as ``layout`` declares them."""
        return {}

    def layout(self, dim: int) -> Layout:
        """Return dtype and shape of each array of the state for vectors of this width."""
        return {}

    def bind(self, dim: int, state: State) -> Self:
        """Return a copy ready to apply to vectors of this width.

        Raises
        ------
        ModelFormatError
            The state is not what ``layout`` declares.
        """
        self.output_dim(dim)
        container.check_arrays(state, self.layout(dim), where=self.name)
        bound = copy.copy(self)
        bound.dim, bound.state = dim, dict(state)
        bound.prepare_state()
        return bound

    def prepare_state(self) -> None:
        """Check values of a freshly bound state and derive from it what ``apply`` needs."""

    def affine(self) -> Affine | None:
        """Return the step as an affine map where it is one, so that neighbours fold into one product."""
        return None

    def apply(self, X: Float32, *, stable: bool = False) -> Float32:
        """Return ``(n, k) float32`` for ``(n, d) float32``; ``stable`` as in ``kernels.affine``."""
        step = self.affine()
        if step is None:
            raise CapabilityError(f"{self.name} does not return vectors")
        return kernels.affine(X, step.matrix, step.offset, stable=stable)

    def query_affine(self) -> Affine | None:
        """Return the affine map for queries: that of rows, unless the operator has two sides."""
        return self.affine()

    def apply_query(self, Q: Float32) -> Float32:
        """Return ``(m, k) float32`` for queries: what rows get, unless the operator has two sides."""
        return self.apply(Q)

    def invert(self, Y: Float32) -> Float32:
        """Return the vectors that ``apply`` maps nearest to these: the inverse, or the pseudo-inverse.

        Raises
        ------
        CapabilityError
            The step cannot be undone.
        """
        raise CapabilityError(f"{self.name} cannot be undone")


@dataclass(eq=False)
class Codec(Operator):
    """An operator whose output is a code: bytes of a fixed number a vector.

    Attributes
    ----------
    direction_only : bool
        Whether a zero vector has no code.
    lengthless : bool
        Whether codes hold directions without a length, so that steps before cannot be undone from them.
    noise : float
        Squared length of a decoded vector below which it cannot be told from zero.
    """

    family: ClassVar[str] = "quantise"
    direction_only: ClassVar[bool] = False
    lengthless: ClassVar[bool] = False

    @property
    def noise(self) -> float:
        """Squared length below which a decoded vector cannot be told from zero."""
        return 0.0

    def code_bytes(self, dim: int) -> int:
        """Return the length of a code, everything a vector needs included."""
        raise NotImplementedError

    def encode(self, X: Float32) -> Bytes:
        """Return ``(n, B) uint8`` codes."""
        raise NotImplementedError

    def decode(self, codes: Bytes) -> Float32:
        """Return the ``(n, d) float32`` vectors that the codes stand for."""
        raise NotImplementedError

    def prepare(self, Q: Float32) -> Any:
        """Return whatever ``score`` needs of ``(m, d) float32`` queries."""
        return Q

    def score(self, prepared: Any, codes: Bytes) -> Float32:
        """Return estimated inner products ``(m, n) float32`` of prepared queries with codes."""
        return kernels.inner_products(prepared, self.decode(codes))

    def squared_norms(self, codes: Bytes) -> Float32:
        """Return ``(n,)`` squared norms of the decoded vectors."""
        return kernels.squared_norms(self.decode(codes))


_REGISTRY: dict[str, type[Operator]] = {}
OperatorType = TypeVar("OperatorType", bound=type[Operator])


def register(cls: OperatorType) -> OperatorType:
    """Add an operator to the registry (a class decorator)."""
    if not cls.name or cls.family not in FAMILIES or not cls.source or not cls.oracle:
        raise TypeError(f"{cls.__name__} needs a name, a family of {FAMILIES}, a source and an oracle")
    if cls.name in _REGISTRY:
        raise TypeError(f"two operators are named {cls.name}")
    _REGISTRY[cls.name] = cls
    return cls


def registry() -> Mapping[str, type[Operator]]:
    """Return all operators by name, ordered by family and name."""
    order = sorted(_REGISTRY.values(), key=lambda cls: (FAMILIES.index(cls.family), cls.name))
    return types.MappingProxyType({cls.name: cls for cls in order})


def operator_named(name: str) -> type[Operator]:
    """Return the operator of that name.

    Raises
    ------
    SpecError
        There is none; the message offers the nearest names.
    """
    found = _REGISTRY.get(name)
    if found is None:
        near = difflib.get_close_matches(name, _REGISTRY, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(registry())}"
        raise SpecError(f"no operator is named {name!r}; {hint}")
    return found


def parameters(cls: type[Operator]) -> tuple[Parameter, ...]:
    """Return the declared parameters of an operator, in order."""
    return _parameters(cls)


def _cached(
    function: Callable[[type[Operator]], tuple[Parameter, ...]],
) -> Callable[..., tuple[Parameter, ...]]:
    memory: dict[type[Operator], tuple[Parameter, ...]] = {}

    def remembered(cls: type[Operator]) -> tuple[Parameter, ...]:
        if cls not in memory:
            memory[cls] = function(cls)
        return memory[cls]

    return remembered


@_cached
def _parameters(cls: type[Operator]) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(cls)
    found = []
    for item in dataclasses.fields(cls):
        if "doc" not in item.metadata:
            continue
        hint = hints[item.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        meta = item.metadata
        found.append(
            Parameter(item.name, kinds, item.default, meta["doc"], meta["minimum"], meta["maximum"], meta["choices"])
        )
    return tuple(found)


def check_widths(steps: Iterable[Operator], dim: int) -> None:
    """Check that vectors of this width can go through the steps, before anything is made.

    Raises
    ------
    SpecError
        A step cannot take the width it would get, or the steps ask for too much memory together.
    """
    rebuilt = 0
    for step in steps:
        rebuilt += step.rebuilt_elements(dim)
        dim = step.output_dim(dim)
    if rebuilt > MAX_REBUILT:
        raise SpecError(f"the steps of kind=hadamard make matrices of {rebuilt} elements, at most {MAX_REBUILT} fit")


def check_dim(name: str, k: int, dim: int, what: str = "dimensions") -> int:
    """Return k where it is at most dim.

    Raises
    ------
    SpecError
        It is more.
    """
    if k > dim:
        raise SpecError(f"{name}: cannot keep {k} {what} of vectors that have {dim}")
    return k


def check_matrix(name: str, rows: int, columns: int) -> None:
    """Refuse a matrix that no honest model needs.

    Raises
    ------
    SpecError
        More than ``MAX_MATRIX`` elements, or a side beyond ``MAX_DIM``.
    """
    if max(rows, columns) > MAX_DIM or rows * columns > MAX_MATRIX:
        raise SpecError(f"{name}: a matrix of {rows} x {columns} is larger than this operator supports")
