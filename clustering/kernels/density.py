"""A distance graph in, the forest of mutual reachability, and each noise text's nearest cluster out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree

from clustering.kernels.csr import edges_of, narrow, symmetric_csr

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Forest:
    """Edges of a minimum spanning forest, ascending by (distance, left, right); left < right."""

    left: IntArray
    right: IntArray
    distance: FloatArray


def core_distances(graph: csr_array, min_samples: int, weights: NDArray[np.int32] | None = None) -> FloatArray:
    """Distance of every text to its min_samples-th other text; to its farthest stored one where there are fewer.

    graph : symmetric float32 csr_array, shape (n_texts, n_texts), empty diagonal
    weights : int32, shape (n_texts,), records a text; then the smallest radius that holds min_samples other records,
        the text's own further records among them at distance 0
    Returns: float32, shape (n_texts,); infinite for a text without edges.
    """
    core: FloatArray = _core_distances(
        graph.indptr.astype(np.int64, copy=False), np.asarray(graph.data, np.float32), graph.indices, min_samples,
        np.empty(0, np.int32) if weights is None else weights,
    )  # fmt: skip
    return core


@numba.njit(cache=True)
def _core_distances(indptr: Any, data: Any, indices: Any, min_samples: int, weights: Any) -> Any:
    n_texts = indptr.size - 1
    core = np.full(n_texts, np.inf, np.float32)
    for row in range(n_texts):
        distances = data[indptr[row] : indptr[row + 1]]
        if weights.size == 0:
            if distances.size:
                core[row] = np.partition(distances, min(min_samples, distances.size) - 1)[
                    min(min_samples, distances.size) - 1
                ]
            continue
        held = weights[row] - 1
        if held >= min_samples:
            core[row] = 0
            continue
        order = np.argsort(distances)
        for place in order:
            held += weights[indices[indptr[row] + place]]
            core[row] = distances[place]
            if held >= min_samples:
                break
    return core


def spanning_forest(graph: csr_array, core: FloatArray) -> Forest:
    """The minimum spanning forest of mutual reachability max(core_i, core_j, d_ij) over the graph's edges.

    Source: Campello, Moulavi and Sander (2013); forest by scipy's Kruskal.
    """
    low, high, distance = edges_of(graph)
    reach = np.maximum(distance, np.maximum(core[low], core[high]))
    tree = minimum_spanning_tree(narrow(symmetric_csr(low, high, reach, graph.shape[0]))).tocoo()
    left, right = np.minimum(tree.coords[0], tree.coords[1]), np.maximum(tree.coords[0], tree.coords[1])
    length = tree.data.astype(np.float32)
    order = np.lexsort((right, left, length))
    return Forest(left[order].astype(np.int64), right[order].astype(np.int64), length[order])


@numba.njit(cache=True)
def _find(parent: Any, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@numba.njit(cache=True)
def grow_pieces(left: Any, right: Any, piece: Any) -> None:
    """Overwrite ``piece`` (0..n-1 at first) with the smallest row of each row's connected piece."""
    for edge in range(left.size):
        one, other = _find(piece, left[edge]), _find(piece, right[edge])
        piece[max(one, other)] = min(one, other)
    for row in range(piece.size):
        piece[row] = _find(piece, row)


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
        one, other = _find(parent, left[edge]), _find(parent, right[edge])
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
