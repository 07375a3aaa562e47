"""A spanning forest and labels in; the cluster that each noise text meets first, and how strongly, out."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from clustering.kernels.graph.forest import FloatArray, IntArray, find_root, row_numbers


def assign_homes(left: IntArray, right: IntArray, distance: FloatArray, label: IntArray) -> tuple[IntArray, FloatArray]:
    """Give each noise text the cluster that it meets first along the ascending forest.

    left, right, distance : the forest, ascending; label : int64, shape (n_texts,), -1 is noise
    Returns: home int64 and height float32, shape (n_texts,): the height at which a noise text joined, 0 for members,
        infinite (home -1) in a piece without a cluster. When a joined group of noise meets a cluster, all of it joins.
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
    """``following``, from a root on: a linked list of the texts of its group of noise; ``last``, at a root: its end."""
    for edge in range(left.size):
        one, other = find_root(parent, left[edge]), find_root(parent, right[edge])
        if one == other:
            continue
        if label[one] >= 0 and label[other] >= 0:
            continue  # two clusters meet: neither takes the other's texts
        if label[one] < 0 and label[other] >= 0:
            one, other = other, one
        if label[one] >= 0:  # a cluster meets a group of noise
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
    """The middle of a forest's finite merges, by which ``home_strength`` measures; 1 without any. distance : float32"""
    held = distance[: np.searchsorted(distance, np.float32(np.inf))]  # they ascend
    middle = np.float32(np.median(held)) if held.size else np.float32(1)
    return middle or np.float32(1)


def home_strength(height: FloatArray, middle: np.float32) -> FloatArray:
    """1 for members; a text that joins at the median height of the forest has 1/2, one far out nearly 0.

    height : float32, at which each text joins, see ``assign_homes``
    """
    return (1 / (1 + height / middle)).astype(np.float32, copy=False)
