"""Neighbor lists in; how finely a collection wants to be cut, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from clustering.kernels.graph.diffusion import AVERAGED, MIN_SCALE, NeighborLists
from clustering.kernels.graph.forest import IntArray
from clustering.kernels.threads import RANGE, run_in_ranges

RANKS = 30  # of the neighbors among which a list may break off
CLEAR = 8  # times the list's mean step, by which a break is clear
FEW, MANY = 0.2, 0.45  # shares of broken lists at which small groups begin to count, and count alone
GRANULARITY = 20_000  # texts for which a resolution of 1 was found right, on sets of 6,000 to 127,000 texts
APART = 5  # a small group is told apart as in a collection of so many like it
MIN_CLUSTER_SIZE, FEWEST = 5, 3  # texts of a cluster at least; where groups are small


@dataclass(frozen=True)
class GroupSizes:
    """Whether many texts lie in groups that are smaller than their neighbor lists, such as events of a handful.

    share : of the lists that break off clearly; size : texts of the groups that they belong to, at the median
    """

    share: float = 0.0
    size: int = 0

    @property
    def small_weight(self) -> float:
        """How far small groups set the resolution, 0 to 1."""
        return min(max((self.share - FEW) / (MANY - FEW), 0.0), 1.0)

    @property
    def n_averaged(self) -> int:
        """Neighbors that diffusion averages over: where small groups count alone, as many as one has texts."""
        few = min(max(self.size, 4), AVERAGED)
        return round(float(AVERAGED ** (1 - self.small_weight) * few**self.small_weight))

    @property
    def min_cluster_size(self) -> int:
        return MIN_CLUSTER_SIZE if self.small_weight < 0.5 else FEWEST

    def gamma(self, n_texts: int, granularity: int | None = None) -> float:
        """The resolution of modularity: max(1, n_texts / granularity), by default more where groups are small."""
        usual = max(1.0, n_texts / (granularity or GRANULARITY))
        if granularity is not None or self.small_weight == 0:
            return usual
        return float(usual ** (1 - self.small_weight) * max(usual, n_texts / (APART * self.size)) ** self.small_weight)


def measure_group_sizes(breaks: IntArray, n_texts: int) -> GroupSizes:
    """breaks : int64, shape (31,), from ``count_breaks``, summed over all lists"""
    broken = int(breaks.sum())
    if not broken:
        return GroupSizes()
    return GroupSizes(broken / n_texts, int(np.searchsorted(np.cumsum(breaks), broken / 2)) + 1)


def count_breaks(lists: NeighborLists, most: int | None = None) -> IntArray:
    """In how many lists the distances break off clearly after so many neighbors, as those of a small group do.

    With distances d_r at ranks r, the steps r ln(d_r+1 / d_r) are alike where texts lie evenly around a row, whatever
    the dimension. A break is the widest step, if it is 8 times as wide as the others are on average.
    most : entries that count, the row's own nearest: more may have come from the lists of others, and thin out
    Returns: int64, shape (31,); ranks 0 and 1 are never a break.
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
