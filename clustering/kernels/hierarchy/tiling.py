"""The links of texts and their clusters in, how far the clusters are from a mere tiling out.

Evenly spread points fall into clusters, too: tiles, whose borders cut links. How many depends on the sizes of the
tiles, and on the dimension, which the neighbor lists tell. Groups cut far fewer.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from clustering.kernels.graph.diffusion import MIN_SCALE, NeighborLists
from clustering.kernels.graph.forest import IntArray
from clustering.kernels.graph.group_sizes import ENTRIES
from clustering.kernels.threads import RANGE, run_in_ranges

LINKS = 30  # first neighbors of each row that are looked at
NO_GROUPS = 0.66  # of the links that tiles would cut, from which on clusters are a tiling
UNIT = 1 << 16  # a step in integers, whose sums no order changes
DIMENSIONS = 1.1, 1000.0  # least and most that are told apart
RADII = (np.arange(32) + 0.5) / 32  # shares of a ball's volume


def count_steps(lists: NeighborLists, most: int | None = None) -> IntArray:
    """Count the steps r ln(d_r+1 / d_r) between the distances d at ranks r, and sum them. Their mean is 1 / dimension.

    most : as in ``count_breaks``
    Returns: int64, shape (2,), how many, and their sum in units of 1 / UNIT.
    Source: Hill (1975); Levina and Bickel (2004), averaged as by MacKay and Ghahramani (2005).
    """
    longest = ENTRIES if most is None else min(most, ENTRIES)
    sums = np.zeros((-(-len(lists) // RANGE), 2), np.int64)
    run_in_ranges(
        len(lists), lambda a, b: _add_steps(lists.indptr[a : b + 1], lists.distances, longest, sums[a // RANGE])
    )
    total: IntArray = sums.sum(axis=0)
    return total


@numba.njit(cache=True, nogil=True)
def _add_steps(indptr: Any, distances: Any, longest: int, sums: Any) -> None:
    least = np.float64(MIN_SCALE)
    for row in range(indptr.size - 1):
        start, stop = indptr[row], min(indptr[row + 1], indptr[row] + longest)
        if stop - start < 2:
            continue
        last, total = np.log(max(np.float64(distances[stop - 1]), least)), 0.0
        for slot in range(start, stop - 1):
            total += last - np.log(max(np.float64(distances[slot]), least))
        sums[0] += stop - start - 1
        sums[1] += np.int64(total * UNIT)


def links_within(sizes: IntArray) -> IntArray:
    """How many links of each row count: LINKS, but no more than the other rows of its cluster; so int64, as ``sizes``.

    sizes : int64, shape (n_clusters,), rows of each cluster
    """
    return np.clip(sizes - 1, 0, LINKS)


def count_links(rows: IntArray, links: NDArray[Any], home: NDArray[Any], most: NDArray[Any]) -> IntArray:
    """Count the links that leave their cluster, and all that count.

    rows : int64, shape (n_own,); links : int, shape (n_own, LINKS), their first neighbors, -1 where a list is shorter
    home : int, shape (n_rows,), the cluster of each row, -1 for none; most : from ``links_within``
    Returns: int64, shape (2,).
    """
    own, counts = home[rows], np.zeros(2, np.int64)
    own_most = np.append(most, 0)[own]
    for rank, other in enumerate(links.T):
        counted = (other >= 0) & (rank < own_most)
        counts += np.count_nonzero(counted & (home[other] != own)), np.count_nonzero(counted)
    return counts


def share_of_tiling(sizes: IntArray, links: IntArray, steps: IntArray) -> float | None:
    """The links that leave their cluster, as a share of those that would if evenly spread points were cut into tiles.

    sizes : as in ``links_within``; links, steps : from ``count_links`` and ``count_steps``, of Euclidean distances
    Returns: about 1 for evenly spread points or links at random, near 0 for groups; None without links or steps.
    """
    if not links[1] or not steps[0]:
        return None
    dimension = float(np.clip(steps[0] * UNIT / max(steps[1], 1), *DIMENSIONS))
    size, times = np.unique(sizes[sizes > 1], return_counts=True)
    most = links_within(size)
    tiles = [tile_cut(one, dimension, count) for one, count in zip(size.tolist(), most.tolist(), strict=True)]
    return float(links[0] / links[1] / np.average(tiles, weights=size * times * most))


def tiling_of(lists: NeighborLists, home: IntArray, entries: int) -> float | None:
    """``share_of_tiling`` of all rows. home : int64, shape (n_rows,), -1 for none; entries : as in ``count_breaks``"""
    sizes = np.bincount(home[home >= 0], minlength=1)
    links = count_links(np.arange(len(lists)), lists.nearest(LINKS), home, links_within(sizes))
    return share_of_tiling(sizes, links, count_steps(lists, entries))


def tile_cut(size: float, dimension: float, n_neighbors: int) -> float:
    """The share of links that leave a ball of evenly spread points.

    A point lies anywhere in the ball, its neighbor anywhere in a smaller ball around it: the neighbor is outside the
    ball when the angle at the point is small enough. size : points in the ball
    """
    own = RADII[:, None] ** (1 / dimension)
    other = (n_neighbors / size * RADII[None]) ** (1 / dimension)
    cosine = np.clip((1 - own**2 - other**2) / (2 * own * other), -1, 1)  # beyond it the neighbor is outside
    beyond = betainc((dimension - 1) / 2, 0.5, 1 - cosine**2) / 2
    return float(np.where(cosine > 0, beyond, 1 - beyond).mean())
