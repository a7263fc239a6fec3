"""Models: a spec fitted to vectors, applied to vectors, codes and queries.

How one is fitted is in ``fitting``, its bytes are in ``stored_model``. Nothing here knows Arrow columns or an engine:
matrices and masks go in, matrices and masks come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vecpipe import container
from vecpipe.arrays import Bytes, Float32, Mask
from vecpipe.chain import Chain, as_matrix, without_lost
from vecpipe.columns.codes import from_codes
from vecpipe.errors import CapabilityError, InputError, ModelFormatError
from vecpipe.files import write_whole
from vecpipe.moments import Affine
from vecpipe.operators import Codec, Operator
from vecpipe.scoring import Coding, Metric, Queries, exact_scores, metric_named, row_scores
from vecpipe.spec import format_spec
from vecpipe.stored_model import WHITENING, FitInfo, StoredModel


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
        self.widths = [dim]
        for step in self._moves:
            self.widths.append(step.output_dim(self.widths[-1]))
        self.output_dim = self.widths[-1]
        self._chain = Chain(self._moves)
        self.coding: Coding | None = Coding(self._moves, self.codec) if self.codec else None
        before = self.coding.before if self.coding else self._moves
        self._before_code = Chain(before, of_queries=True)

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
        return without_lost(*self._chain.run(self._vectors(X), valid, stable=stable))

    def transform_queries(self, Q: Float32, valid: Mask | None = None) -> tuple[Float32, Mask | None]:
        """Apply the query side of the steps: what ``transform`` does, but for operators with two sides."""
        return without_lost(*self._query_chain.run(self._vectors(Q), valid))

    @cached_property
    def _query_chain(self) -> Chain:
        return Chain(self._moves, of_queries=True)

    def _vectors(self, X: Any) -> Float32:
        return as_matrix(X, self.dim, "this model was fitted on")

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
        Y = as_matrix(Y, self.output_dim, "this model returns")
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
        X = self._vectors(X)
        if not finite:
            X, valid = without_lost(X, valid)
        if codec.direction_only:
            nowhere: Mask = np.asarray(~X.any(axis=1))
            if nowhere.any():
                valid = ~nowhere if valid is None else valid & ~nowhere
        moved, valid = self._chain.run(X, valid, stable=True)
        if self._moves:
            moved, valid = without_lost(moved, valid)
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
        moved, valid = self._before_code.run(self._vectors(Q), None)
        if self._moves:
            moved, valid = without_lost(moved, valid)
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
            vectors = as_matrix(items, self.output_dim, "this model returns")
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
            left, right = (as_matrix(side, self.output_dim, "this model returns") for side in (a, b))
            return row_scores(left, right, metric)
        codes_a, codes_b = (from_codes(np.asarray(side), self.bytes_per_vector)[0] for side in (a, b))
        return self.coding.score_pairs(codes_a, codes_b, metric)

    # Bytes -----------------------------------------------------------------------------------------------

    @cached_property
    def _bytes(self) -> bytes:
        return StoredModel(self.steps, self.dim, self.info, self.output_type, self.bytes_per_vector).to_bytes()

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
        stored = StoredModel.from_bytes(data)
        model = Model(stored.steps, stored.dim, stored.info)
        stored.check(model.output_type, model.bytes_per_vector)
        model.__dict__["_bytes"] = bytes(data)
        return model

    def save(self, path: str | Path) -> None:
        """Write the model's bytes to a file, whole or not at all.

        Raises
        ------
        InputError
            The file cannot be written.
        """
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
            about |= dict(zip(WHITENING, self.info.whitening, strict=True))
        for step in self.steps:
            about |= step.about()
        return about
