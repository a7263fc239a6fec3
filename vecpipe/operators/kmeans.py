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
from vecpipe.operators.linear import principal_axes, random_generator

Indices = npt.NDArray[np.int64]

WORDS = 256
MAX_BITS = 8
_ROWS = 2_048
_SEED_ROWS, _SEED_POINTS = 2_048, 8
"""First words are drawn from so many points, or from so many a word where that is more."""
_DRAWS = 64
_FIRST_ROWS = 4_096
_NARROW = 32
_EARLY_ROUNDS, _LAST_ROUNDS = ((16, 6), (64, 2)), 2
"""Points a word and Lloyd's rounds over them; in the end, rounds over all points."""
_FIRST_AXES, _AXES_ROUNDS, _WIDE_ROWS, _WIDE_POINTS = 8, 3, 16_384, 16
"""Principal axes that wide points are first seen along, rounds before they are doubled; points, or points a word."""


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
    k = points.shape[1]
    # A point goes one dimension further, where it is 1 and a word minus half its squared length.
    turned = np.empty((k + 1, len(words)), dtype=np.float32)
    turned[:k], turned[k] = words.T, -0.5 * (words * words).sum(axis=1)
    out = np.empty(len(points), dtype=np.int64)
    further = np.ones((min(_ROWS, len(points)), k + 1), dtype=np.float32)
    buffer = np.empty((len(further), len(words)), dtype=np.float32)
    for start in range(0, len(points), _ROWS):
        block = points[start : start + _ROWS]
        further[: len(block), :k] = block
        closeness = np.matmul(further[: len(block)], turned, out=buffer[: len(block)])
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
    """Return ``count`` of the points, drawn by their squared distances to those before (k-means++).

    Some are drawn at once, an eighth of them at most, evenly over the distances (as in k-means||: Bahmani, Moseley,
    Vattani, Kumar, Vassilvitskii 2012). Where there are fewer distinct points than ``count``, the rest are copies.

    Parameters
    ----------
    points : (n, k) float32
    weights : (n,)
    """
    most = max(_SEED_ROWS, _SEED_POINTS * count)
    if len(points) > most:
        picked = np.sort(rng.permutation(len(points))[:most])
        points, weights = points[picked], weights[picked]
    squares = np.einsum("ij,ij->i", points, points, dtype=np.float64)
    words = np.empty((count, points.shape[1]), dtype=np.float32)
    gap, filled = np.ones(len(points)), 0
    while filled < count:
        share = np.cumsum(gap * weights)
        if share[-1] <= 0:
            words[filled:] = points[np.arange(filled, count) % len(points)]
            break
        draws = min(_DRAWS, max(1, count // 8), count - filled) if filled else 1
        places = (np.arange(draws) + rng.random()) / draws * share[-1]
        picks = np.unique(np.minimum(np.searchsorted(share, places, side="right"), len(points) - 1))
        drawn = points[picks]
        words[filled : filled + len(picks)] = drawn
        distance = (squares[:, None] - 2.0 * (points @ drawn.T) + squares[picks]).min(axis=1)
        gap = np.minimum(gap, np.maximum(distance, 0.0)) if filled else np.maximum(distance, 0.0)
        filled += len(picks)
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
    order = np.argsort(index.astype(np.uint16) if count <= 2**16 else index, kind="stable")  # 16 bits sort faster
    ordered, shares = points.take(order, axis=0), weights.astype(np.float32)[order]
    ends = np.cumsum(np.bincount(index, minlength=count))
    for at in np.unique(index):
        own = slice(ends[at - 1] if at else 0, ends[at])
        total[at] = shares[own] @ ordered[own]
    return total


def kmeans(points: Float32, weights: Float64, count: int, seed: int = 0) -> Float32:
    """Return ``(count, k) float32`` centroids: k-means++ seeding (Arthur, Vassilvitskii 2007), then Lloyd's rounds.

    The first rounds see few points or, where these are wide, few of their principal axes (progressive dimensions: Liu,
    Lu, Shao 2015): centroids travel far at first, and little once they have more to go by.
    """
    rng = random_generator(seed)
    order = rng.permutation(len(points))
    points, weights = points[order], weights[order]
    if points.shape[1] > _NARROW:
        rows = slice(max(_WIDE_ROWS, _WIDE_POINTS * count))
        words = _axis_by_axis(points[rows], weights[rows], count, rng)
    else:
        words = seed_words(points, weights, count, rng)
        for share, rounds in _EARLY_ROUNDS:
            rows = slice(max(_FIRST_ROWS, share * count))
            words = refine(points[rows], weights[rows], words, rounds, prior=0.0)
    return refine(points, weights, words, _LAST_ROUNDS, prior=0.0)


def _axis_by_axis(points: Float32, weights: Float64, count: int, rng: np.random.Generator) -> Float32:
    """Return words that settled along the first few principal axes, then along ever more of them."""
    few = points[:_FIRST_ROWS]
    _, axes = principal_axes(((few * weights[: len(few), None].astype(np.float32)).T @ few).astype(np.float64))
    turned = points @ axes.astype(np.float32)
    words, width = np.zeros((count, 0), dtype=np.float32), _FIRST_AXES
    while words.shape[1] < points.shape[1]:
        part = np.ascontiguousarray(turned[:, :width])
        if words.shape[1]:
            words = np.pad(words, ((0, 0), (0, part.shape[1] - words.shape[1])))
        else:
            words = seed_words(part, weights, count, rng)
        words = refine(part, weights, words, _AXES_ROUNDS, prior=0.0)
        width *= 2
    return words @ axes.T.astype(np.float32)


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
