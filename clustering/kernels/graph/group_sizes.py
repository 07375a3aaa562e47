"""Neighbor lists in, the typical size of small groups and the granularity that suits it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from clustering.kernels.graph.diffusion import AVERAGED, MIN_SCALE, NeighborLists
from clustering.kernels.graph.forest import IntArray
from clustering.kernels.threads import RANGE, run_in_ranges

RANKS = 30  # neighbors among which a break is looked for
CLEAR = 8  # a break is this many times as wide as the mean step of the list
FEW, MANY = 0.2, 0.45  # shares of broken lists from which small groups count, and count alone
GRANULARITY = 20_000  # texts for which a resolution of 1 is right, measured on sets of 6,000 to 127,000 texts
APART = 5  # a small group is resolved as in a collection of this many such groups
MIN_CLUSTER_SIZE, FEWEST = 5, 3  # least texts of a cluster, usually and where groups are small


@dataclass(frozen=True)
class GroupSizes:
    """How many texts are in groups smaller than their neighbor lists, such as news events with a handful of texts.

    share : share of lists with a clear break, 0 to 1; size : median texts of the groups that these lists belong to
    """

    share: float = 0.0
    size: int = 0

    @property
    def small_weight(self) -> float:
        """The weight of small groups in the resolution, 0 to 1."""
        return min(max((self.share - FEW) / (MANY - FEW), 0.0), 1.0)

    @property
    def n_averaged(self) -> int:
        """Neighbors that diffusion averages over: the texts of a small group where those count alone, else more."""
        few = min(max(self.size, 4), AVERAGED)
        return round(float(AVERAGED ** (1 - self.small_weight) * few**self.small_weight))

    @property
    def min_cluster_size(self) -> int:
        return MIN_CLUSTER_SIZE if self.small_weight < 0.5 else FEWEST

    def gamma(self, n_texts: int, granularity: int | None = None) -> float:
        """The resolution of modularity: max(1, n_texts / granularity); by default higher where groups are small."""
        usual = max(1.0, n_texts / (granularity or GRANULARITY))
        if granularity is not None or self.small_weight == 0:
            return usual
        return float(usual ** (1 - self.small_weight) * max(usual, n_texts / (APART * self.size)) ** self.small_weight)


def measure_group_sizes(breaks: IntArray, n_texts: int) -> GroupSizes:
    """Estimate the group sizes of a collection. breaks : int64, shape (31,), from ``count_breaks``, of all its lists"""
    broken = int(breaks.sum())
    if not broken:
        return GroupSizes()
    return GroupSizes(broken / n_texts, int(np.searchsorted(np.cumsum(breaks), broken / 2)) + 1)


def count_breaks(lists: NeighborLists, most: int | None = None) -> IntArray:
    """Count the lists whose distances jump after each rank, as they do after the last member of a small group.

    With distances d_r at ranks r, the steps r ln(d_r+1 / d_r) have one mean where texts lie evenly around a row, in any
    dimension. A break is the widest step, if it is 8 times as wide as the mean of the others.

    most : entries of a list that are read, its own nearest: later ones may come from the lists of others and be sparse
    Returns: int64, shape (31,), lists that break after each rank; 0 for ranks 0 and 1.
    Source: spacings of a Poisson process, as in Hill (1975).
    """
    counts = np.zeros((-(-len(lists) // RANGE), RANKS + 1), np.int64)
    longest = max(lists.indices.size, 1) if most is None else most
    run_in_ranges(
        len(lists), lambda a, b: _breaks(lists.indptr[a : b + 1], lists.distances, longest, counts[a // RANGE])
    )
    total: IntArray = counts.sum(axis=0)
    return total


@numba.njit(cache=True, nogil=True)
def _breaks(indptr: Any, distances: Any, longest: int, counts: Any) -> None:
    least = np.float64(MIN_SCALE)
    for row in range(indptr.size - 1):
        start, stop = indptr[row], min(indptr[row + 1], indptr[row] + longest)
        steps, widest, at, total = stop - start - 1, 0.0, 0, 0.0
        for rank in range(1, steps + 1):
            near = max(np.float64(distances[start + rank - 1]), least)
            far = max(np.float64(distances[start + rank]), least)
            step = rank * np.log(far / near)
            total += step
            if 2 <= rank <= RANKS and step > widest:
                widest, at = step, rank
        if steps > 2 and widest > CLEAR * (total - widest) / (steps - 1):
            counts[at] += 1
