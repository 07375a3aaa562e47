"""A spanning forest and labels in; the cluster that each noise text meets first, and how strongly, out."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from clustering.kernels.forest import FloatArray, find


@numba.njit(cache=True)
def grow_homes(left: Any, right: Any, distance: Any, label: Any) -> Any:
    """Give each noise text the cluster that it meets first along the ascending forest.

    left, right, distance : the forest, ascending; label : int64, shape (n_texts,), -1 is noise
    Returns: home int64 and height float32, shape (n_texts,): the height at which a noise text joined, 0 for members,
        infinite (home -1) in a piece without a cluster. When a joined group of noise meets a cluster, all of it joins.
    """
    n_texts = label.size
    parent = np.arange(n_texts)
    home = label.copy()  # at a root: the group's cluster
    following = np.full(n_texts, -1, np.int64)  # linked list of a noise group's texts
    last = np.arange(n_texts)
    placed = label.copy()
    height = np.where(label >= 0, np.float32(0), np.float32(np.inf)).astype(np.float32)
    for edge in range(left.size):
        one, other = find(parent, left[edge]), find(parent, right[edge])
        if one == other:
            continue
        if home[one] >= 0 and home[other] >= 0:
            continue  # two clusters meet: neither takes the other's texts
        if home[one] < 0 and home[other] >= 0:
            one, other = other, one
        if home[one] >= 0:  # a cluster meets a group of noise
            text = other
            while text >= 0:
                placed[text] = home[one]
                height[text] = distance[edge]
                text = following[text]
        else:
            following[last[one]] = other
            last[one] = last[other]
        parent[other] = one
    return placed, height


def median_height(distance: FloatArray) -> np.float32:
    """The middle of a forest's merges, by which ``home_strength`` measures; 1 without merges. distance : float32"""
    return np.float32(np.median(distance)) if distance.size else np.float32(1)


def home_strength(height: FloatArray, middle: np.float32) -> FloatArray:
    """1 for members; a text that joins at the median height of the forest has 1/2, one far out nearly 0.

    height : float32, at which each text joins, see ``grow_homes``
    """
    return (1 / (1 + height / middle)).astype(np.float32, copy=False)
