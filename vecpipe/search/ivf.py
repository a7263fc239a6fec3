"""Centroids and codebooks of an inverted file with product quantisation, trained once and kept as data.

An engine that takes them builds its index in seconds, and the same index again: what takes the time, and what differs
from one build to the next, is the training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vecpipe import container, kernels
from vecpipe.arrays import Float32
from vecpipe.errors import FitError, InputError, ModelFormatError
from vecpipe.operators.kmeans import WORDS, assign, kmeans
from vecpipe.rules import MAX_DIM
from vecpipe.scoring import METRICS, Metric, metric_named

_KIND = "ivf"
MAX_PARTITIONS = 65_536


@dataclass(frozen=True)
class Ivf:
    """An inverted file's centroids and, for product quantisation, the codebook of what is left of each vector.

    Attributes
    ----------
    metric
        cosine (vectors are brought to length one first), ip or l2.
    centroids : (p, d) float32
    codebook : (m, 256, d / m) float32 or None
        Words for each piece of a vector less its centroid.
    seed : int
    """

    metric: Metric
    centroids: Float32
    codebook: Float32 | None = None
    seed: int = field(default=0)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.centroids.shape[1])

    @cached_property
    def _bytes(self) -> bytes:
        arrays = {"centroids": self.centroids}
        if self.codebook is not None:
            arrays["codebook"] = self.codebook
        return container.write(_KIND, {"metric": self.metric, "seed": self.seed}, arrays)

    def to_bytes(self) -> bytes:
        """Return the bytes (safetensors) that ``from_bytes`` reads."""
        return self._bytes

    @cached_property
    def hash(self) -> str:
        """Content hash, 64 hexadecimal digits: what builds the same index has the same."""
        return container.content_hash(self._bytes)

    @staticmethod
    def from_bytes(data: bytes) -> Ivf:
        """Read what ``to_bytes`` wrote.

        Raises
        ------
        ModelFormatError
            Other bytes; the message says why.
        """
        record, arrays = container.read(_KIND, data)
        metric = container.text(record, "metric")
        centroids, codebook = arrays.get("centroids"), arrays.get("codebook")
        if metric not in METRICS or centroids is None or centroids.ndim != 2 or centroids.dtype != np.float32:
            raise ModelFormatError("ivf: expected a metric and centroids (p, d) float32")
        p, d = centroids.shape
        if not (0 < p <= MAX_PARTITIONS and 0 < d <= MAX_DIM):
            raise ModelFormatError(f"ivf: {p} centroids of {d} dimensions are out of range")
        if codebook is not None:
            shaped = codebook.ndim == 3 and codebook.dtype == np.float32 and codebook.shape[1] == WORDS
            if not shaped or codebook.shape[0] * codebook.shape[2] != d:
                raise ModelFormatError(f"ivf: a codebook of shape {codebook.shape} does not fit {d} dimensions")
        return Ivf(metric, centroids, codebook, container.integer(record, "seed", 0))


def train(
    X: Float32, *, partitions: int, subvectors: int | None = None, metric: Metric = "cosine", seed: int = 0
) -> Ivf:
    """Train centroids and, where pieces are asked for, a codebook of their residuals.

    Parameters
    ----------
    X : (n, d) float32
        A sample of the rows; rows of length zero say nothing where the metric is cosine, and are left out.
    partitions
        Number of centroids.
    subvectors
        Pieces of a vector that get a word each; they must divide the dimensions. None for no codebook.
    metric
        cosine, ip or l2.
    seed
        Of the first centroids and words; the same rows and seed give the same bytes.

    Raises
    ------
    InputError, SpecError
        A parameter out of range, or another metric.
    FitError
        Fewer rows than centroids.
    """
    d = X.shape[1]
    metric = metric_named(metric)
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise InputError(f"partitions is {partitions}; expected 1 to {MAX_PARTITIONS}")
    if subvectors is not None and (subvectors < 1 or d % subvectors):
        raise InputError(f"subvectors is {subvectors}; expected a number that divides the {d} dimensions")
    if metric == "cosine":
        lengths = np.sqrt(kernels.squared_norms(X))
        X = np.asarray(X[lengths > 0] / lengths[lengths > 0, None], dtype=np.float32)
    needed = partitions if subvectors is None else max(partitions, WORDS)
    if len(X) < needed:
        raise FitError(f"{len(X)} rows do not suffice to train {needed} centroids or words")
    with kernels.one_blas_thread():  # several threads round otherwise, and the index would depend on their number
        centroids = kmeans(X, np.ones(len(X)), partitions, seed)
        if subvectors is None:
            return Ivf(metric, centroids, None, seed)
        left = X - centroids[assign(X, centroids)]
        width = d // subvectors
        pieces = (np.ascontiguousarray(left[:, at : at + width]) for at in range(0, d, width))
        codebook = np.stack([kmeans(piece, np.ones(len(X)), WORDS, seed) for piece in pieces])
    return Ivf(metric, centroids, codebook, seed)
