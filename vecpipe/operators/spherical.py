"""Spherical k-means over many centroids in bounded time: groups of centroids first, centroids within groups then.

Rows and centroids have length one, and closeness is their inner product. Here live the rounds, the sharing out of
centroids over groups and their order; what a cell is for is the business of ``cells``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vecpipe.arrays import Float32, Float64
from vecpipe.operators.kmeans import Indices, assign, seed_words, settled, weighted_sums

FLAT = 64
"""Up to so many centroids are found at once, without groups."""
_ROUNDS = 8
_POLISHING = 8
_NEIGHBOURS = 16
_POOR = 0.3
_RICH = 1.7


@dataclass(frozen=True)
class Groups:
    """Groups of rows, and the groups near each.

    Attributes
    ----------
    rows : list of (n_g,) int64
        Rows of each group.
    near : (g, t) int64
        The groups nearest to each, itself first.
    """

    rows: list[Indices]
    near: Indices


def unit_rows(X: Float32) -> tuple[Float32, Indices]:
    """Return the rows that have a direction, scaled to length one, and their places."""
    lengths = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
    kept = np.flatnonzero(lengths > 0)
    return np.asarray(X[kept] / lengths[kept, None], dtype=np.float32), kept


def spherical_kmeans(rows: Float32, weights: Float64, count: int, rng: np.random.Generator) -> Float32:
    """Return at most ``count`` centroids of length one, near ones beside each other, none much richer than others.

    Parameters
    ----------
    rows : (n, d) float32
        Of length one.
    weights : (n,)

    Returns
    -------
    (k, d) float32
        k is less than ``count`` only where there are fewer rows.
    """
    if count >= len(rows):
        return rows[chain(rows)]
    if count <= FLAT:
        centroids = _clustered(rows, weights, count, rng)
        everything = Groups([np.arange(len(rows))], np.zeros((1, 1), np.int64))
        centroids = _polished(rows, weights, centroids, np.zeros(count, np.int64), everything)
        return centroids[chain(centroids)]
    coarse = _clustered(rows, weights, round(math.sqrt(count)), rng)
    coarse = coarse[chain(coarse)]
    owner = assign(rows, coarse)
    members = [np.flatnonzero(owner == group) for group in range(len(coarse))]
    shares = _shared_out(
        np.bincount(owner, weights, len(coarse)).astype(np.float64), np.array([len(own) for own in members]), count
    )
    parts = [
        _clustered(rows[own], weights[own], int(share), rng)
        for own, share in zip(members, shares, strict=True)
        if share
    ]
    near = np.argsort(-(coarse @ coarse.T), axis=1, kind="stable")[:, :_NEIGHBOURS]
    near[:, 0] = np.arange(len(coarse))
    centroids = _polished(
        rows, weights, np.concatenate(parts), np.repeat(np.arange(len(coarse)), shares), Groups(members, near)
    )
    home = assign(centroids, coarse)
    order = [np.flatnonzero(home == group) for group in range(len(coarse))]
    return np.concatenate([centroids[own][chain(centroids[own])] for own in order if len(own)])


def chain(centroids: Float32) -> Indices:
    """Return an order in which each centroid is followed by the nearest one left, beginning at one far out."""
    closeness = centroids @ centroids.T
    at = int(np.argmin(closeness.sum(axis=1)))
    order = np.empty(len(centroids), dtype=np.int64)
    left = np.ones(len(centroids), dtype=bool)
    for place in range(len(centroids)):
        order[place], left[at] = at, False
        at = int(np.argmax(np.where(left, closeness[at], -np.inf)))
    return order


def _clustered(rows: Float32, weights: Float64, count: int, rng: np.random.Generator) -> Float32:
    """Return centroids that began as random rows and have settled."""

    def move(centroids: Float32, index: Indices) -> Float32:
        return _moved(rows, weights, centroids, index)

    return settled(rows, seed_words(rows, weights, count, rng), _ROUNDS, move)


def _moved(rows: Float32, weights: Float64, centroids: Float32, index: Indices) -> Float32:
    """Return the directions of the sums of each centroid's rows; a centroid without any stays."""
    total = weighted_sums(rows, weights, index, len(centroids))
    lengths = np.sqrt(np.einsum("ij,ij->i", total, total))[:, None]
    there = lengths > 0
    return np.where(there, total / np.where(there, lengths, 1.0), centroids).astype(np.float32)


def _shared_out(mass: Float64, most: Indices, count: int) -> Indices:
    """Return whole numbers that sum to ``count``, as the masses are to each other, none above ``most``."""
    shares = np.zeros(len(mass), dtype=np.int64)
    left = count
    while left:
        room = np.where(shares < most, mass, 0.0)
        ideal = room / room.sum() * left if room.sum() > 0 else (shares < most).astype(np.float64)
        more = np.minimum(np.floor(ideal).astype(np.int64), most - shares)
        if not more.any():
            best = np.argsort(-np.where(shares < most, ideal, -1.0), kind="stable")
            best = best[: min(left, int((shares < most).sum()))]
            more[best] = 1
        shares += more
        left -= int(more.sum())
    return shares


def _polished(rows: Float32, weights: Float64, centroids: Float32, home: Indices, groups: Groups) -> Float32:
    """Let rows choose among the centroids of all groups near theirs, and poor centroids share with rich ones."""
    mean = weights.sum() / len(centroids)
    for last in (*[False] * (_POLISHING - 1), True):
        index = _among_near(rows, centroids, home, groups)
        centroids = _moved(rows, weights, centroids, index)
        if not last:
            centroids, home = _evened(rows, weights, centroids, home, index, mean)
    return centroids


def _among_near(rows: Float32, centroids: Float32, home: Indices, groups: Groups) -> Indices:
    index = np.zeros(len(rows), dtype=np.int64)
    for own, near in zip(groups.rows, groups.near, strict=True):
        candidates = np.flatnonzero(np.isin(home, near))
        index[own] = candidates[assign(rows[own], centroids[candidates])]
    return index


def _evened(
    rows: Float32, weights: Float64, centroids: Float32, home: Indices, index: Indices, mean: float
) -> tuple[Float32, Indices]:
    """Move the poorest centroids into the richest cells, each of which is then halved."""
    mass = np.bincount(index, weights, len(centroids))
    poor = np.flatnonzero(mass < _POOR * mean)
    rich = np.flatnonzero(mass > _RICH * mean)
    pairs = min(len(poor), len(rich))
    poor = poor[np.argsort(mass[poor], kind="stable")[:pairs]]
    rich = rich[np.argsort(-mass[rich], kind="stable")[:pairs]]
    centroids, home = centroids.copy(), home.copy()
    for empty, full in zip(poor, rich, strict=True):
        own = np.flatnonzero(index == full)
        points = rows[own]
        far = points[int(np.argmin(points @ centroids[full]))]
        side = points @ (far - centroids[full])
        half = (side > np.median(side)).astype(np.int64)
        centroids[[full, empty]] = _moved(points, weights[own], centroids[[full, empty]], half)
        home[empty] = home[full]
    return centroids, home
