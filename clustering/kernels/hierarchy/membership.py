"""A condensed tree or neighbors, and labels in; how much each row belongs to each cluster, and the typical rows out."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.kernels.graph.forest import FloatArray, IntArray
from clustering.kernels.hierarchy.condensed_tree import CondensedTree, last_lambdas, leaf_clusters
from clustering.kernels.hierarchy.modularity_cut import common_labels

LINKS = 10  # nearest neighbors of a row that count as its links
NEAR_ZERO = 1e-8  # as in hdbscan
CHUNK = 1 << 18  # rows whose links are counted at a time


def labels_of_nodes(tree: CondensedTree, label: IntArray) -> IntArray:
    """The label of each cluster of the tree: int64, shape (n_clusters,), -1 where its leaves have several, or none.

    label : int64, shape (n_rows,), of the tree's first rows; -1 for those that are no members by the tree
    """
    leaves = leaf_clusters(tree, root_too=True)
    found = np.full(tree.parent.size, -1, np.int64)
    np.maximum.at(found, tree.cluster[: label.size], label)
    return common_labels(tree, leaves, found)


def typical_rows(tree: CondensedTree, label: IntArray) -> tuple[IntArray, IntArray]:
    """The rows that stay longest in each leaf of the tree, as hdbscan's exemplars.

    label : as ``labels_of_nodes``
    Returns: rows and their labels, int64, shape (n_typical,), ascending by (label, row).
    """
    leaves, last, node = leaf_clusters(tree, root_too=True), last_lambdas(tree), labels_of_nodes(tree, label)
    cluster = tree.cluster[: label.size]
    stays = leaves[cluster] & (tree.departure[: label.size] == last[cluster]) & (node[cluster] >= 0)
    rows = np.flatnonzero(stays & (label >= 0))
    return rows[np.argsort(node[cluster[rows]], kind="stable")], np.sort(node[cluster[rows]])


def kept_links(nearest: NDArray[Any], layers: NDArray[Any], n_clusters: int) -> NDArray[np.float64]:
    """The share of the links of each cluster's rows that lead to rows of the same cluster.

    A row has links to its nearest rows, as many as its cluster has other rows at most.
    nearest : int32 or int64, shape (n_rows, n_links), the nearest other rows of each row, -1 for none
    layers : int32 or int64, shape (n_rows, n_layers), the cluster in each layer, -1 for none
    Returns: float64, shape (n_clusters,), 0 to 1; 0 for a cluster without links.
    """
    sizes = [np.bincount(label[label >= 0], minlength=n_clusters) for label in layers.T]
    most = links_of(np.max(sizes, axis=0, initial=0))
    kept, links = count_kept_links(np.arange(len(nearest)), nearest, layers, most)
    share = np.zeros(n_clusters)
    np.divide(kept, links, out=share, where=links > 0)
    return share


def links_of(sizes: NDArray[Any]) -> IntArray:
    """How many links a row of each cluster has at most. sizes : int, shape (n_clusters,), rows of each"""
    return np.clip(np.asarray(sizes, np.int64) - 1, 0, LINKS)


def count_kept_links(rows: IntArray, nearest: NDArray[Any], layers: NDArray[Any], most: IntArray) -> IntArray:
    """Count the links of each cluster's rows that stay in it, and all of them.

    rows : int64, shape (n_own,); nearest : as in ``kept_links``, of these rows, which names any row
    layers : as in ``kept_links``, of all rows; a cluster of several layers counts in each
    most : from ``links_of``
    Returns: int64, shape (2, n_clusters).
    """
    counts = np.zeros((2, most.size), np.int64)
    rank = np.arange(nearest.shape[1])
    for first in range(0, len(rows), CHUNK):
        some, others = rows[first : first + CHUNK], nearest[first : first + CHUNK]
        for label in layers.T:
            own = label[some]
            inside = own >= 0
            listed = (others >= 0) & (rank < np.append(most, 0)[own][:, None])
            kept = ((label[others] == own[:, None]) & listed).sum(axis=1)
            for number, links in enumerate((kept, listed.sum(axis=1))):
                found = np.bincount(own[inside], weights=links[inside], minlength=most.size)
                counts[number] += found.astype(np.int64)
    return counts


def tree_memberships(
    tree: CondensedTree, near: NDArray[np.float64], cluster: IntArray, leaving: NDArray[np.float64],
    node_label: IntArray,
) -> NDArray[np.float64]:  # fmt: skip
    """How much rows belong to each cluster, by nearness to its typical rows and by where they part in the tree.

    near : float64, shape (n_rows, n_labels), the distance to the nearest typical row of each label
    cluster, leaving : int64 and float64, shape (n_rows,), the last cluster of each row and when it leaves it
    node_label : int64, shape (n_clusters,), from ``labels_of_nodes``
    Returns: float64, shape (n_rows, n_labels), rows sum to 1 at most.
    Source: hdbscan's ``all_points_membership_vectors``.
    """
    tops = np.full(near.shape[1], -1, np.int64)
    inside = np.flatnonzero(node_label >= 0)[::-1]
    tops[node_label[inside]] = inside  # the smallest number is the highest
    known = np.flatnonzero(tops >= 0)
    known = known[np.argsort(tops[known])]  # of equally high ones the first in the tree counts
    nodes, which = np.unique(cluster, return_inverse=True)
    parting = _partings(tree.parent, tree.birth, nodes, tops[known])[which.reshape(-1)]
    height = np.where(parting < 0, leaving[:, None], parting)
    last = last_lambdas(tree)
    with np.errstate(divide="ignore"):
        closeness = np.where(near[:, known] > 0, 1 / near[:, known], np.finfo(float).max / max(known.size, 1))
        score = np.exp(-((last[cluster] + NEAR_ZERO)[:, None] / height))
    closeness /= closeness.sum(axis=1, keepdims=True)
    score = np.exp(score - score.max(axis=1, keepdims=True, initial=0))
    share = closeness * score / score.sum(axis=1, keepdims=True)
    share /= share.sum(axis=1, keepdims=True)
    highest = height.argmax(axis=1) if known.size else np.zeros(len(near), np.int64)
    full = np.zeros(near.shape)
    if known.size:
        most = np.maximum(last[tops[known][highest]], leaving)
        some = np.divide(height.max(axis=1), most, out=np.zeros(most.size), where=most > 0)
        full[:, known] = share * some[:, None]
    whole = (near == 0) & (tops < 0)  # copies that are a cluster by themselves are in no cluster of the tree
    full[whole.any(axis=1)] = 0
    full[whole] = 1
    return full


@numba.njit(cache=True, nogil=True)
def _partings(parent: Any, birth: Any, nodes: Any, tops: Any) -> Any:
    """The lambda at which each node and each top part; -1 where one is within the other."""
    parting = np.full((nodes.size, tops.size), -1.0)
    for row in range(nodes.size):
        for column in range(tops.size):
            left, right, last = nodes[row], tops[column], 0
            moved_left, moved_right = False, False
            while left != right:
                if left > right:
                    last, left, moved_left = left, parent[left], True
                else:
                    last, right, moved_right = right, parent[right], True
            if moved_left and moved_right:
                parting[row, column] = birth[last]
    return parting


def strongest(share: NDArray[np.float64], most: int) -> csr_array:
    """The largest ``most`` entries of each row that are above 0; share : float64, shape (n_rows, n_labels)"""
    n_rows, count = share.shape
    if count > most:
        columns = np.sort(np.argpartition(-share, most - 1, axis=1)[:, :most], axis=1)
    else:
        columns = np.broadcast_to(np.arange(count), (n_rows, count))
    values = np.take_along_axis(share, columns, axis=1)
    kept = values > 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return csr_array((values[kept], columns[kept], indptr), shape=share.shape)


def vote_memberships(label: NDArray[Any], weight: FloatArray, n_labels: int) -> csr_array:
    """The share of the votes of each row that every cluster has; the rest of 1 is noise's.

    label, weight : int64 and float, shape (n_rows, n_votes), -1 is noise, which votes as well
    Returns: float64 csr_array, shape (n_rows, n_labels); rows without votes are empty.
    """
    total = weight.sum(axis=1, keepdims=True, dtype=np.float64)
    share = np.divide(weight, total, out=np.zeros(weight.shape), where=total > 0)
    rows, place = np.nonzero((label >= 0) & (share > 0))
    found = csr_array((share[rows, place], (rows, label[rows, place])), shape=(len(label), n_labels))
    found.sum_duplicates()
    return found
