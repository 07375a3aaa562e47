"""Neighbor lists in, the typical size of small groups and the granularity that suits it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from clustering.kernels.graph.diffusion import AVERAGED, MIN_SCALE, NeighborLists
from clustering.kernels.graph.forest import FloatArray, IntArray
from clustering.kernels.threads import RANGE, run_in_ranges

ENTRIES = 15  # first entries of a list among which a break is looked for; longer lists change nothing
CLEAR = 5  # a break is this many times as wide as the mean step of the list
FAR = 0.5  # a group stands alone if texts beyond the break are less than so near as its own, on the way from unrelated
UNRELATED = 1.9  # mean squared distance of two texts by unit vectors, where it is not measured: a mean cosine of 0.05
FEW, MANY = 0.06, 0.18  # shares of broken lists from which small groups count, and count alone
GRANULARITY = 20_000  # texts for which a resolution of 1 is right, measured on sets of 6,000 to 127,000 texts
APART = 5  # a small group is resolved as in a collection of this many such groups
FINEST = 256  # times the usual resolution, at most
MIN_CLUSTER_SIZE, FEWEST = 5, 3  # least texts of a cluster, usually and where groups are small


@dataclass(frozen=True)
class GroupSizes:
    """How many texts are in groups smaller than their neighbor lists, such as news events with a handful of texts.

    share : share of lists that break off and lead to nothing near, 0 to 1; size : median texts of their groups
    families : share of lists that break off as well, but what follows is near: as in near-duplicates within a story
    """

    share: float = 0.0
    size: int = 0
    families: float = 0.0

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
        fine = min(max(usual, n_texts / (APART * self.size)), FINEST * usual)
        return float(usual ** (1 - self.small_weight) * fine**self.small_weight)


def measure_group_sizes(breaks: IntArray, n_texts: int) -> GroupSizes:
    """Estimate the group sizes of a collection. breaks : int64, shape (2, 15), from ``count_breaks``, of all lists"""
    near, far = breaks.sum(axis=1).tolist()
    families = near / max(n_texts, 1)
    if not far:
        return GroupSizes(families=families)
    return GroupSizes(far / n_texts, int(np.searchsorted(np.cumsum(breaks[1]), far / 2)) + 1, families)


def mean_squared_distance(vectors: FloatArray) -> float:
    """The mean squared Euclidean distance of all pairs of vectors; 2 for fewer than two vectors or only equal ones."""
    count = len(vectors)
    mean = vectors.mean(axis=0, dtype=np.float64) if count else 0
    spread = float((vectors.astype(np.float64) ** 2).sum() - count * np.sum(mean**2))
    return 2 * spread / (count - 1) if count > 1 and spread > 1e-9 * count else 2.0


def count_breaks(lists: NeighborLists, unrelated: float | None = None, most: int | None = None) -> IntArray:
    """Count the lists whose distances jump after each rank, as they do after the last member of a small group.

    With distances d_r at ranks r, the steps r ln(d_r+1 / d_r) have one mean where texts lie evenly around a row, in any
    dimension. A break is the widest step, if it is 5 times as wide as the mean of the others. It is *far* if the mean
    squared distance of as many texts beyond it is nearer to that of unrelated texts than to that of the group. The
    others are breaks of families, such as the copies of a headline by several outlets, within a larger group.

    unrelated : mean squared distance of two texts of the collection; none: 1.9, or the longest listed one if that shows
        that the vectors have other lengths than 1
    most : entries of a list that are read, its own nearest: later ones may come from the lists of others and be sparse
    Returns: int64, shape (2, 15), lists that break after each rank, near and far; 0 for ranks 0 and 1.
    Source: spacings of a Poisson process, as in Hill (1975).
    """
    if unrelated is None:
        longest = float(lists.distances.max(initial=0)) ** 2
        unrelated = longest if longest > 4 else UNRELATED
    counts = np.zeros((-(-len(lists) // RANGE), 2, ENTRIES), np.int64)
    longest = ENTRIES if most is None else min(most, ENTRIES)
    run_in_ranges(
        len(lists),
        lambda a, b: _breaks(lists.indptr[a : b + 1], lists.distances, longest, unrelated, counts[a // RANGE]),
    )
    total: IntArray = counts.sum(axis=0)
    return total


@numba.njit(cache=True, nogil=True)
def _breaks(indptr: Any, distances: Any, longest: int, unrelated: float, counts: Any) -> None:
    least = np.float64(MIN_SCALE)
    for row in range(indptr.size - 1):
        start, stop = indptr[row], min(indptr[row + 1], indptr[row] + longest)
        steps, widest, at, total = stop - start - 1, 0.0, 0, 0.0
        for rank in range(1, steps + 1):
            near = max(np.float64(distances[start + rank - 1]), least)
            far = max(np.float64(distances[start + rank]), least)
            step = rank * np.log(far / near)
            total += step
            if rank >= 2 and step > widest:
                widest, at = step, rank
        if steps > 2 and widest > CLEAR * (total - widest) / (steps - 1):
            within, beyond, count = 0.0, 0.0, 0
            for slot in range(start, min(start + 2 * at, stop)):
                square = np.float64(distances[slot]) ** 2
                if slot < start + at:
                    within += square
                else:
                    beyond += square
                    count += 1
            is_far = unrelated - beyond / count < FAR * (unrelated - within / at)
            counts[int(is_far), at] += 1
