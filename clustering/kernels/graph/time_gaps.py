"""Neighbor lists and the times of their texts in; lists in which texts far apart in time are far, out.

News of one story comes within days. Where near texts are also near in time, a link between texts that are far apart in
time more likely joins two stories in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from clustering.kernels.sort import sort_pairs
from clustering.kernels.topk import FloatArray, IntArray

LEAST, MOST = 0.1, 0.5  # difference of the gaps from which on time counts, and of the cosine that time takes at most
GIVEN = 0.3  # of the cosine that time takes at least where the scale is given
HOUR = 1 / 24  # days; no scale is shorter: within an hour, the order of a feed says little
SHIFTS = 3  # other texts that each text of a sample is paired with


@dataclass(frozen=True)
class TimeScale:
    """How much a link between two texts weakens with the time between them.

    days : two texts so far apart lose 63 % of the share, much farther ones all of it
    share : of the cosine of two texts that time takes at most, 0 to 1; 0 where times tell nothing
    difference : largest difference of the distributions of gaps, between near texts and between any, 0 to 1
    """

    days: float
    share: float
    difference: float


def measure_time_scale(near: FloatArray, sampled: FloatArray, given: float | None = None, seed: int = 0) -> TimeScale:
    """The scale that separates the gaps between near texts from those between any two.

    It is the gap at which the two distributions differ most: below it, a gap is more likely between near texts. Time
    counts where they differ by 0.1, and by twice what chance makes of a small sample, and where the scale is given.
    Where fewer than two texts have a time, there is no gap, and time never counts.

    near : days between sampled texts and their nearest neighbors, float32, shape (n_pairs,)
    sampled : times of the sampled texts in days, float32, shape (n_texts,); NaN in either is left out
    given : the scale in days
    Source: the two-sample statistic of Kolmogorov and Smirnov.
    """
    near, times = np.sort(near[~np.isnan(near)]), sampled[~np.isnan(sampled)]
    gap, difference = 0.0, 0.0
    if times.size > SHIFTS and near.size:
        mixed = np.random.default_rng(seed).permutation(times)
        any_two = np.sort(np.abs(np.concatenate([mixed - np.roll(mixed, shift) for shift in range(1, SHIFTS + 1)])))
        gaps = np.unique(near)
        of_near, of_any = (np.searchsorted(one, gaps, "right") / one.size for one in (near, any_two))
        widest = int((of_near - of_any).argmax())
        gap, difference = float(gaps[widest]), max(float((of_near - of_any)[widest]), 0.0)
    if given is not None:
        return TimeScale(given, min(max(difference, GIVEN), MOST) if times.size > 1 else 0.0, difference)
    steps = np.diff(np.unique(times))
    step = float(steps.min()) if steps.size else 0.0
    fewest = max(min(times.size, near.size), 1)
    by_chance = 2 * (1 / max(times.size, 1) + 1 / fewest) ** 0.5
    counts = difference >= max(LEAST, by_chance)
    return TimeScale(max(gap, HOUR, step), min(difference, MOST) if counts else 0.0, difference)


def lengthen_by_time(
    listed: IntArray, others: NDArray[Any], distances: FloatArray, first: int, days: FloatArray, scale: TimeScale,
    metric: str, floor: float,
) -> None:  # fmt: skip
    """Lengthen the entries of neighbor lists by the time between their texts, and sort each list anew, in place.

    Two texts that are ``gap`` days apart keep 1 - share (1 - exp(-gap / days)) of their cosine. A text without a time
    is as far from all others as the scale. Texts with equal vectors stay at one place, whatever their times.

    listed : int64, shape (n_rows,), entries of each list
    others, distances : int32 or int64, and float32, shape (n_entries,), overwritten; a list ascends by (distance, row)
    metric : of the distances between unit vectors: L2 is Euclidean, COSINE and IP are 1 - cosine
    first : the row of the first list
    days : float32, shape (n_texts,), the time of each text, from any day on; NaN for none
    floor : the distance of equal vectors
    """
    ends = np.concatenate([[0], np.cumsum(listed)])
    _lengthen(ends, others, distances, first, days, scale.days, scale.share, metric == "L2", floor)


@numba.njit(cache=True, nogil=True)
def _lengthen(
    ends: Any, others: Any, distances: Any, first: int, days: Any, scale: float, share: float, euclidean: bool,
    floor: float,
) -> None:  # fmt: skip
    for row in range(ends.size - 1):
        start, stop = ends[row], ends[row + 1]
        for slot in range(start, stop):
            distance = np.float64(distances[slot])
            gap = abs(np.float64(days[first + row]) - np.float64(days[others[slot]]))
            nearness = np.exp(-1.0) if np.isnan(gap) else np.exp(-gap / scale)
            cosine = 1 - (distance * distance / 2 if euclidean else distance)
            if distance > floor and cosine > 0:
                cosine *= 1 - share * (1 - nearness)
                distances[slot] = np.sqrt(2 - 2 * cosine) if euclidean else 1 - cosine
        sort_pairs(distances[start:stop], others[start:stop])
