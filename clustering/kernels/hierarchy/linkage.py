"""A spanning forest in, the single-linkage tree and how far its clusters are apart out."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from clustering.kernels.graph.forest import Forest, IntArray, find_root, row_numbers


def single_linkage(forest: Forest, n_rows: int) -> NDArray[np.float64]:
    """The merges of a forest, as scipy's linkage lists them; pieces that stay apart meet at infinite distance.

    Returns: float64, shape (n_rows - 1, 4): the two parts (rows, then n_rows + number of an earlier merge), the length
        at which they merge, and the rows of both.
    """
    merges = np.empty((max(n_rows - 1, 0), 4))
    _merge(forest.left, forest.right, forest.distance, row_numbers(n_rows), merges)
    return merges


@numba.njit(cache=True, nogil=True)
def _merge(left: Any, right: Any, distance: Any, tree: Any, merges: Any) -> None:
    n_rows = tree.size
    node, size = np.arange(n_rows), np.ones(n_rows, np.int64)  # of a root: its whole tree
    found = 0
    for step in range(left.size + n_rows):
        apart = step - left.size  # after the edges: each row with row 0
        one = find_root(tree, left[step] if apart < 0 else 0)
        other = find_root(tree, right[step] if apart < 0 else apart)
        if one == other:
            continue
        low, high = min(one, other), max(one, other)
        merges[found, 0], merges[found, 1] = min(node[low], node[high]), max(node[low], node[high])
        merges[found, 2] = distance[step] if apart < 0 else np.inf
        tree[high] = low
        size[low] += size[high]
        merges[found, 3] = size[low]
        node[low] = n_rows + found
        found += 1


def relative_validity(forest: Forest, label: IntArray, copies: NDArray[np.integer[Any]]) -> float:
    """How much longer the edges between clusters are than those within, as hdbscan approximates DBCV.

    Of each cluster: the shortest edge to another cluster less the longest edge within, by the longer of both.

    label : int64, shape (n_rows,), -1 is noise; copies : integers, shape (n_rows,), records of each row
    Returns: the mean by records, noise counts 0; -1 to 1. It compares settings on the same rows.
    Source: Moulavi et al. (2014); hdbscan's ``relative_validity_``.
    """
    count = int(label.max(initial=-1)) + 1
    if not count:
        return 0.0
    one, other, length = label[forest.left], label[forest.right], forest.distance.astype(np.float64)
    within, apart = np.zeros(count), np.full(count, np.inf)
    inside, between = (one == other) & (one >= 0), (one != other) & (one >= 0) & (other >= 0)
    np.maximum.at(within, one[inside], length[inside])
    for side in (one, other):
        np.minimum.at(apart, side[between], length[between])
    longest = float(length.max(initial=0))
    if count == 1:  # only noise is near
        longest = float(length[(one < 0) != (other < 0)].min(initial=longest))
    apart[np.isinf(apart)] = 2 * longest
    size = np.bincount(label[label >= 0], weights=copies[label >= 0], minlength=count)
    most = np.maximum(apart, within)
    share = np.divide(apart - within, most, out=np.zeros(count), where=most > 0)
    return float((size * share).sum() / copies.sum())
