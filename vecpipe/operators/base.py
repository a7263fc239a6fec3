"""What an operator is, and the registry of all operators.

An operator sees float32 matrices and float64 statistics; it never sees Arrow, SQL or an engine. Its constructor's
parameters are declared with ``parameters.param``; what ``fit`` learns is a flat dict of NumPy arrays.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from vecpipe import container, kernels
from vecpipe.arrays import Bytes, Float32, Float64
from vecpipe.errors import CapabilityError, SpecError
from vecpipe.moments import Affine
from vecpipe.operators.fit_data import FitData
from vecpipe.operators.parameters import parameters
from vecpipe.rules import MAX_DIM

State = dict[str, npt.NDArray[Any]]
Layout = dict[str, tuple[Any, tuple[int, ...]]]
FAMILIES = ("normalise", "whiten", "reduce", "rotate", "cells", "quantise")
MAX_MATRIX = 1 << 26
"""Largest matrix an operator may hold, in elements: a model from a stranger cannot ask for more."""
MAX_REBUILT = 1 << 25
"""Elements of all matrices of one model that are rebuilt at load from a state much smaller than they are."""


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
    from_moments : bool
        Whether the step is affine and its fit looks at the moments alone, never at rows.
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
    from_moments: ClassVar[bool] = False
    undefines: ClassVar[bool] = False

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
        bound = replace(self)  # without what was derived from another state
        bound.dim, bound.state = dim, dict(state)
        bound.prepare_state()
        return bound

    def about(self) -> dict[str, Any]:
        """Return what the bound step has to say of itself beyond its spec, as plain values."""
        return {}

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
    knows_lengths : bool
        Whether ``squared_norms`` gives the lengths of what was encoded: decoded vectors are longer, by an error at
        right angles, and their products unbiased.
    sign_bits : bool
        Whether codes are bits of which few differ where vectors are close.
    noise : float
        Squared length of a decoded vector below which it cannot be told from zero.
    """

    family: ClassVar[str] = "quantise"
    direction_only: ClassVar[bool] = False
    lengthless: ClassVar[bool] = False
    knows_lengths: ClassVar[bool] = False
    sign_bits: ClassVar[bool] = False

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

    def cosine_squares(self, codes: Bytes) -> Float64 | float:
        """Return the squared lengths ``(n,)`` that make cosines of products; one number where it is that of all."""
        return self.wide_squared_norms(codes)

    def wide_squared_norms(self, codes: Bytes) -> Float64:
        """Return ``(n,)`` squared norms of any size: those beyond the range of float32 come from decoded vectors."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            squares = self.squared_norms(codes).astype(np.float64)
        far = kernels.beyond_float32(squares)
        if far.size:
            wide = self.decode(codes[far]).astype(np.float64)
            squares[far] = np.einsum("ij,ij->i", wide, wide)
        return squares

    def error_shares(self, codes: Bytes) -> Float64:
        """Return the squared errors of decoded vectors over the squared lengths ``(n,)`` that codes know."""
        return np.zeros(len(codes))

    def pair_products(self, a: Bytes, b: Bytes) -> tuple[Float64, Float64, Float64]:
        """Return inner products, row by row, of the vectors that codes ``(n, B)`` of two columns stand for.

        Returns
        -------
        Three arrays ``(n,)``: products, squared lengths on the left, squared lengths on the right.
        """
        left, right = self.decode(a), self.decode(b)
        return kernels.row_products(left, right), kernels.row_products(left, left), kernels.row_products(right, right)

    def pair_distances(self, a: Bytes, b: Bytes) -> Float64:
        """Return ``(n,)`` Euclidean distances, row by row, of the vectors that codes of two columns stand for."""
        return kernels.row_distances(self.decode(a), self.decode(b))


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
        raise SpecError(
            f"the steps make matrices of {rebuilt} elements beside what they learn, at most {MAX_REBUILT} fit; "
            "keep fewer dimensions, or have fewer such steps"
        )


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
