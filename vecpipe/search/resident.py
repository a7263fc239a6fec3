"""Codes of one column held in memory as a matrix, scanned for the rows nearest to a query.

A scan of many codes looks at a sketch first, one sign bit a dimension, and scores the codes of the nearest rows
there alone. The sketch is made from the codes, whatever the codec, so it costs no column and no second fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vecpipe import kernels
from vecpipe.arrays import Bytes, Float32, Mask
from vecpipe.metrics.retrieval import top_places
from vecpipe.model import Model
from vecpipe.operators import Operator
from vecpipe.query_products import BitRows
from vecpipe.scoring import Metric, Queries

SKETCH_ROWS = 32_768
"""Fewer rows than this are all scored: their codes are read as fast as a sketch would be."""
SHORTLIST = 2_048
"""Rows that the sketch passes on, at least."""
_SHORTLIST_SHARE = 64
_MIN_BITS, _MAX_BITS = 256, 1_024
_EVEN = 0.05
_BLOCK = 8_192
_QUERIES = 64

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """The rows nearest to one query, best first.

    Attributes
    ----------
    places : (r,) int64
        Rows of the matrix.
    scores : (r,) float32
        Larger is closer; never NaN.
    """

    places: Places
    scores: Float32


class CodeMatrix:
    """Codes of a model, ready to be searched.

    Parameters
    ----------
    model
        The model that wrote the codes.
    codes : (n, B) uint8
    valid : (n,) bool or None
        Rows outside (NULL) are never found.
    sketch
        False where searches will name few rows each: no sign bits are made.
    """

    def __init__(self, model: Model, codes: Bytes, valid: Mask | None = None, *, sketch: bool = True) -> None:
        self.model = model
        self.codes = codes
        self.valid = valid
        self._signs = _Signs.of(model, codes, valid) if sketch else None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes held, the sketch included."""
        return self.codes.nbytes + (0 if self._signs is None else self._signs.nbytes)

    def top(
        self, Q: Float32, count: int, metric: Metric = "cosine", *, allowed: Mask | None = None, shortlist: int = 0
    ) -> list[Found]:
        """Return the ``count`` rows of the best scores for each query, fewer where there are fewer rows.

        Parameters
        ----------
        Q : (m, d) float32
            Queries as they come, not transformed.
        count
            Rows a query.
        allowed : (n,) bool or None
            Rows outside are never found.
        shortlist
            Rows a query whose codes are scored, where sign bits are looked at first; 0 takes the larger of
            ``SHORTLIST``, 4 times ``count`` and a 64th of the rows.
        """
        live = self.valid if allowed is None else allowed if self.valid is None else allowed & self.valid
        among = None if live is None else np.flatnonzero(live)
        rows = len(self) if among is None else len(among)
        shortlist = shortlist or max(SHORTLIST, 4 * count, rows // _SHORTLIST_SHARE)
        if self._signs is None or rows <= max(shortlist, count):
            blocks = (self.model.prepare(Q[at : at + _QUERIES], metric) for at in range(0, len(Q), _QUERIES))
            return [found for queries in blocks for found in self._scan(queries, count, among)]
        found = []
        for at in range(len(Q)):
            queries = self.model.prepare(Q[at : at + 1], metric)
            near = self._signs.nearest(queries.moved, max(shortlist, count), live)
            found += self._scan(queries, count, near)
        return found

    def top_among(self, q: Float32, places: Places, count: int, metric: Metric = "cosine") -> Found:
        """Return the best ``count`` of some rows for one query ``(d,)``."""
        return self._scan(self.model.prepare(q[None], metric), count, places)[0]

    def _scan(self, queries: Queries, count: int, among: Places | None) -> list[Found]:
        """Score the codes of some rows (None for all), a block of rows at a time."""
        found = []
        n = len(self) if among is None else len(among)
        scores = np.empty((len(queries.moved), n), dtype=np.float32)
        for start in range(0, n, _BLOCK):
            stop = min(start + _BLOCK, n)
            codes = self.codes[start:stop] if among is None else self.codes[among[start:stop]]
            scores[:, start:stop] = self.model.score(queries, codes)
        for row in scores:
            best = top_places(row[None], count)[0]
            best = best[~np.isnan(row[best])]
            found.append(Found(best if among is None else among[best], row[best]))
        return found


class _Signs:
    """Sign bits of rows that are all of about one length, which their distances to a query then rank.

    The rows are moved to their mean and turned at random, so that every bit says about as much.
    """

    def __init__(self, model: Model, mean: Float32, turn: Float32, length: float, bits: Bytes) -> None:
        self._model = model
        self._mean = mean
        self._turn = turn
        self._length = length
        self._rows = BitRows(bits)
        self.nbytes = bits.nbytes

    @staticmethod
    def of(model: Model, codes: Bytes, valid: Mask | None) -> _Signs | None:
        """Return the sketch, or None where sign bits would not rank as the scores do, or would save nothing."""
        rows = len(codes) if valid is None else int(valid.sum())
        coding, codec = model.coding, model.codec
        if (
            rows < SKETCH_ROWS
            or coding is None
            or codec is None
            or codec.lengthless
            or any(map(_two_sided, model.steps))
        ):
            return None
        bits = min(max(_MIN_BITS, -(-model.output_dim // 64) * 64), _MAX_BITS)
        if bits // 8 >= codes.shape[1]:
            return None
        total, squares = np.zeros(model.output_dim), np.zeros(len(codes))
        for start in range(0, len(codes), _BLOCK):
            block = codes[start : start + _BLOCK]
            squares[start : start + _BLOCK] = coding.squared_norms(block)
            total += (codec.decode(block) if valid is None else codec.decode(block)[valid[start : start + _BLOCK]]).sum(
                axis=0, dtype=np.float64
            )
        lengths = np.sqrt(squares if valid is None else squares[valid])
        length = float(np.mean(lengths, dtype=np.float64))
        if length <= 0 or float(lengths.std(dtype=np.float64)) > _EVEN * length:
            return None
        mean = (total / rows).astype(np.float32)
        turn = _random_turn(model.output_dim, bits)
        packed = np.empty((len(codes), bits // 8), dtype=np.uint8)
        for start in range(0, len(codes), _BLOCK):
            packed[start : start + _BLOCK] = _bits(codec.decode(codes[start : start + _BLOCK]), mean, turn)
        return _Signs(model, mean, turn, length, packed)

    def nearest(self, moved: Float32, count: int, live: Mask | None) -> Places:
        """Return at least ``count`` rows of the smallest distances, those that tie with the last included.

        Parameters
        ----------
        moved : (1, k) float32
            The query in the space that scores speak of.
        """
        coding = self._model.coding
        assert coding is not None
        size = float(np.sqrt(kernels.squared_norms(moved)[0]))
        if not size > 0:
            return np.zeros(0, dtype=np.int64)
        place = coding.place(moved * np.float32(self._length / size))
        distances = self._rows.distances(_bits(place, self._mean, self._turn))[0]
        counts = np.bincount(distances if live is None else distances[live])
        limit = int(np.searchsorted(counts.cumsum(), count))
        near = distances <= limit
        return np.flatnonzero(near if live is None else near & live)


def _bits(Y: Float32, mean: Float32, turn: Float32) -> Bytes:
    return np.packbits(kernels.inner_products(Y - mean, turn) > 0, axis=1)


def _random_turn(dim: int, bits: int) -> Float32:
    """Return ``(bits, dim) float32`` directions, orthogonal as far as there are dimensions for it."""
    rng = np.random.default_rng(20_090_601)
    blocks = [np.linalg.qr(rng.standard_normal((dim, dim)))[0] for _ in range(-(-bits // dim))]
    return np.ascontiguousarray(np.concatenate(blocks)[:bits], dtype=np.float32)


def _two_sided(step: Operator) -> bool:
    kind = type(step)
    return kind.query_affine is not Operator.query_affine or kind.apply_query is not Operator.apply_query
