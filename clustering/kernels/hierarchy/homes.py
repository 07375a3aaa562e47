"""A spanning forest and labels in, the home of each noise text and its strength out.

The home of a noise text is the cluster that it joins first when the edges of the forest are added by length.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from clustering.kernels.graph.forest import FloatArray, IntArray, find_root, row_numbers


def assign_homes(left: IntArray, right: IntArray, distance: FloatArray, label: IntArray) -> tuple[IntArray, FloatArray]:
    """Assign each noise text to the cluster that it meets first as edges of the forest are added by length.

    Noise texts that have met each other join a cluster together. Two clusters that meet keep their texts.

    left, right, distance : int64, int64 and float32, shape (n_edges,), the forest, ascending
    label : int64, shape (n_texts,), -1 is noise
    Returns: home int64 and height float32, shape (n_texts,), the length of the edge that joined a noise text: 0 for
        members, infinite with home -1 in a component without a cluster.
    """
    parent = row_numbers(label.size)
    home, height = label.copy(), np.zeros(label.size, np.float32)
    height[label < 0] = np.inf
    _grow(left, right, distance, label, parent, parent.copy(), np.full_like(parent, -1), home, height)
    return home, height


@numba.njit(cache=True, nogil=True)
def _grow(
    left: Any, right: Any, distance: Any, label: Any, parent: Any, last: Any, following: Any, home: Any, height: Any
) -> None:
    """From a root on, ``following`` is a linked list of the texts of its noise group; ``last`` of a root is its end."""
    for edge in range(left.size):
        one, other = find_root(parent, left[edge]), find_root(parent, right[edge])
        if one == other:
            continue
        if label[one] >= 0 and label[other] >= 0:
            continue  # two clusters meet
        if label[one] < 0 and label[other] >= 0:
            one, other = other, one
        if label[one] >= 0:  # a cluster meets a noise group
            text = other
            while text >= 0:
                home[text] = label[one]
                height[text] = distance[edge]
                text = following[text]
        else:
            following[last[one]] = other
            last[one] = last[other]
        parent[other] = one


def median_height(distance: FloatArray) -> np.float32:
    """The median length of a forest's finite edges, the unit of ``home_strength``; 1 if there are none or it is 0.

    distance : float32, shape (n_edges,), ascending
    """
    finite = distance[: np.searchsorted(distance, np.float32(np.inf))]
    median = np.float32(np.median(finite)) if finite.size else np.float32(1)
    return median or np.float32(1)


def home_strength(height: FloatArray, median: np.float32) -> FloatArray:
    """How near each text is to its home: 1 for members, 1/2 at the median height of the forest, near 0 far out.

    height : float32, shape (n_texts,), from ``assign_homes``; median : from ``median_height``
    Returns: float32, shape (n_texts,), 0 to 1.
    """
    return (1 / (1 + height / median)).astype(np.float32, copy=False)
