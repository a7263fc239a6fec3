"""k-means, and the Lloyd-Max tables of a Gaussian that codebooks of 256 words can start from.

Here live the scalar quantisers of a Gaussian, the product codebook made of them, seeding (k-means++) and Lloyd's
rounds. How axes are grouped and how bytes are laid out is the business of the codecs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from vecpipe.arrays import Float32, Float64
from vecpipe.operators.linear import random_generator

Indices = npt.NDArray[np.int64]

WORDS = 256
MAX_BITS = 8
_ROWS = 2048
_SEED_ROWS = 8_192
_NARROW = 32


@lru_cache(maxsize=1)
def _gaussian_tables() -> tuple[tuple[Float64, float], ...]:
    """Lloyd-Max levels and distortion of a unit Gaussian for 0..8 bits (Max 1960, Lloyd 1982)."""
    grid = np.linspace(-7.0, 7.0, 28001)
    mass = np.exp(-0.5 * grid * grid)
    mass /= mass.sum()
    below = np.concatenate([[0.0], np.cumsum(mass)])
    moment = np.concatenate([[0.0], np.cumsum(mass * grid)])
    # The density that minimises the error of many levels is the cube root of the data's (Bennett): a Gaussian of
    # deviation sqrt(3). Its quantiles are so near the optimum that Lloyd's steps settle in a few hundred rounds.
    wide = np.cumsum(np.exp(-grid * grid / 6.0))
    wide /= wide[-1]
    tables: list[tuple[Float64, float]] = [(np.zeros(1), 1.0)]
    for bits in range(1, MAX_BITS + 1):
        count = 2**bits
        levels = np.interp((np.arange(count) + 0.5) / count, wide, grid)
        for _ in range(400):
            edges = np.searchsorted(grid, (levels[1:] + levels[:-1]) / 2)
            cuts = np.concatenate([[0], edges, [len(grid)]])
            share = np.diff(below[cuts])
            levels = np.where(share > 0, np.diff(moment[cuts]) / np.maximum(share, 1e-300), levels)
        levels = (levels - levels[::-1]) / 2
        tables.append((levels, float(1.0 - np.sum(share * levels * levels))))
    return tuple(tables)


def gaussian_levels(bits: int) -> Float64:
    """Return the Lloyd-Max levels of a unit Gaussian, ascending, ``(2**bits,)``."""
    return _gaussian_tables()[bits][0]


def gaussian_distortion(bits: int) -> float:
    """Return the mean squared error of ``gaussian_levels(bits)`` on a unit Gaussian."""
    return _gaussian_tables()[bits][1]


def allocate_bits(variances: Float64, total: int) -> Indices:
    """Return whole bits per axis, given one at a time to the axis whose error falls most; at most 8 for one.

    Parameters
    ----------
    variances : (k,) weighted variances
    total
        Bits to spend; what the axes cannot take is left over.
    """
    bits = np.zeros(len(variances), dtype=np.int64)
    falls = np.array([gaussian_distortion(b) - gaussian_distortion(b + 1) for b in range(MAX_BITS)] + [-1.0])
    gains = variances * falls[0]
    for _ in range(min(total, MAX_BITS * len(variances))):
        axis = int(np.argmax(gains))
        bits[axis] += 1
        gains[axis] = variances[axis] * falls[bits[axis]] if bits[axis] < MAX_BITS else -1.0
    return bits


def product_codebook(variances: Float64) -> Float32:
    """Return the 256-word codebook of independent Gaussian axes: Lloyd-Max per axis, 8 bits shared greedily.

    Parameters
    ----------
    variances : (k,) weighted variance of each axis

    Returns
    -------
    (256, k) float32
        Axes that get no bit are zero.
    """
    words = np.zeros((1, 0))
    for variance, bits in zip(variances, allocate_bits(variances, MAX_BITS), strict=True):
        levels = gaussian_levels(int(bits)) * math.sqrt(float(variance))
        words = np.concatenate([np.repeat(words, len(levels), axis=0), np.tile(levels, len(words))[:, None]], axis=1)
    return words.astype(np.float32)


def assign(points: Float32, words: Float32) -> Indices:
    """Return the index of the nearest word for each point.

    For training only: float32 products may differ by batch shape. A codec that writes codes uses ``nearest``.
    """
    bias = (0.5 * (words * words).sum(axis=1)).astype(np.float32)
    turned = np.ascontiguousarray(words.T)
    out = np.empty(len(points), dtype=np.int64)
    buffer = np.empty((min(_ROWS, len(points)), len(words)), dtype=np.float32)
    for start in range(0, len(points), _ROWS):
        block = points[start : start + _ROWS]
        closeness = buffer[: len(block)]
        np.matmul(block, turned, out=closeness)
        closeness -= bias
        np.argmax(closeness, axis=1, out=out[start : start + len(block)])
    return out


def nearest(points: Float64, turned: Float64, half: Float64) -> Indices:
    """Return the index of the nearest word, in float64: the same for a row whatever the rows beside it.

    Parameters
    ----------
    points : (n, k) float64
    turned : (k, w) float64
        The words, one a column.
    half : (w,) float64
        Half the squared length of each word.
    """
    closeness = points @ turned
    closeness -= half
    # What differs by the shape of the batch is the last bit of a float64; float32 does not see it.
    return np.asarray(closeness.astype(np.float32).argmax(axis=1))


def seed_words(points: Float32, weights: Float64, count: int, rng: np.random.Generator) -> Float32:
    """Return ``count`` of the points, each drawn by its squared distance to those before (k-means++).

    Where there are fewer distinct points than that, the rest are copies.

    Parameters
    ----------
    points : (n, k) float32
    weights : (n,)
    """
    if len(points) > _SEED_ROWS:
        picked = np.sort(rng.permutation(len(points))[:_SEED_ROWS])
        points, weights = points[picked], weights[picked]
    squares = np.einsum("ij,ij->i", points, points, dtype=np.float64)
    words = np.empty((count, points.shape[1]), dtype=np.float32)
    draws = rng.random(count)
    gap = np.ones(len(points))
    for at in range(count):
        share = np.cumsum(gap * weights)
        pick = int(np.searchsorted(share, draws[at] * share[-1], side="right")) if share[-1] > 0 else at % len(points)
        words[at] = points[min(pick, len(points) - 1)]
        distance = squares - 2.0 * (points @ words[at]) + float(words[at].astype(np.float64) @ words[at])
        gap = np.maximum(distance, 0.0) if at == 0 else np.minimum(gap, np.maximum(distance, 0.0))
    return words


def refine(points: Float32, weights: Float64, start: Float32, rounds: int = 10, prior: float = 1.0) -> Float32:
    """Return the words after Lloyd's rounds from ``start``, each drawn to its starting place by ``prior`` points.

    Parameters
    ----------
    points : (n, k) float32
        Axes already scaled by the square root of their weight.
    weights : (n,)
        Weight of each point, mean 1.
    start : (w, k) float32
        First words.
    prior
        Imaginary points that sit on each word's start. They keep a codebook that has few real points a word from
        learning them by heart, and a word without points where it is.
    """

    def move(words: Float32, index: Indices) -> Float32:
        count = len(words)
        mass = np.bincount(index, weights=weights, minlength=count) + prior
        moved = (weighted_sums(points, weights, index, count) + prior * start) / np.maximum(mass, 1e-12)[:, None]
        return np.where((mass > 0)[:, None], moved, words).astype(np.float32)

    return settled(points, start.copy(), rounds, move)


def settled(points: Float32, words: Float32, rounds: int, move: Callable[[Float32, Indices], Float32]) -> Float32:
    """Return the words once no point changes to another, after at most so many rounds.

    Parameters
    ----------
    move
        Returns the words of the next round, given those of this one and the word nearest to each point.
    """
    before = None
    for _ in range(rounds):
        index = assign(points, words)
        if before is not None and np.array_equal(index, before):
            break
        before = index
        words = move(words, index)
    return words


def lloyd_levels(points: Float64, weights: Float64, start: Float64, rounds: int, prior: float) -> Float64:
    """Return the levels of one axis after Lloyd's rounds, ascending; parameters as in ``refine``, with k = 1.

    One sort, then each round costs the levels alone.
    """
    order = np.argsort(points, kind="stable")
    ordered, mass = points[order], weights[order]
    below = np.concatenate([[0.0], np.cumsum(mass)])
    moment = np.concatenate([[0.0], np.cumsum(mass * ordered)])
    levels = np.sort(start)
    for _ in range(rounds):
        cuts = np.concatenate([[0], np.searchsorted(ordered, (levels[1:] + levels[:-1]) / 2), [len(ordered)]])
        moved = (np.diff(moment[cuts]) + prior * start) / (np.diff(below[cuts]) + prior)
        moved.sort()
        if np.array_equal(moved, levels):
            break
        levels = moved
    return levels


def weighted_sums(points: Float32, weights: Float64, index: Indices, count: int) -> Float64:
    """Return the weighted sum of the points of each index, ``(count, k)``."""
    total = np.zeros((count, points.shape[1]))
    if points.shape[1] <= _NARROW:
        for axis in range(points.shape[1]):
            total[:, axis] = np.bincount(index, weights=weights * points[:, axis], minlength=count)
        return total
    order = np.argsort(index, kind="stable")
    present, starts = np.unique(index[order], return_index=True)
    total[present] = np.add.reduceat(points[order] * weights[order, None], starts, axis=0)
    return total


def kmeans(points: Float32, weights: Float64, count: int, seed: int = 0, rounds: int = 20) -> Float32:
    """Return ``(count, k) float32`` centroids: k-means++ seeding (Arthur, Vassilvitskii 2007), then Lloyd's rounds."""
    words = seed_words(points, weights, count, random_generator(seed))
    return refine(points, weights, words, rounds, prior=0.0)


def group_words(
    points: Float32, share: Float64, variances: Float64, sizes: Sequence[int], rounds: int, prior: float
) -> Float32:
    """Return 256 words for each group of neighbouring axes, side by side ``(256, k)``, learnt from Gaussian ones.

    Parameters
    ----------
    points : (n, k) float32
    share : (n,) weights
    variances : (k,)
    sizes
        Axes of each group.
    rounds, prior
        As in ``refine``.
    """
    words = np.zeros((WORDS, points.shape[1]), dtype=np.float32)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        first = product_codebook(variances[part])
        mine = np.ascontiguousarray(points[:, part])
        if size == 1:  # the same rounds, without a distance from each point to each word
            wide = mine[:, 0].astype(np.float64)
            words[:, part] = lloyd_levels(wide, share, first[:, 0].astype(np.float64), rounds, prior)[:, None]
        else:
            words[:, part] = refine(mine, share, first, rounds, prior)
        start = part.stop
    return words
