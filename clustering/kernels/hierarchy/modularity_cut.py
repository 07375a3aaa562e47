"""A condensed tree and neighbor lists in; the clusters that keep their neighbors to themselves, out.

The quality graph joins each row to its first neighbors, weighed by how many neighbors both share. A set of rows is good
when more of that weight stays inside than chance would leave there: its modularity. Of all ways to cut the tree into
clusters, one pass from the leaves up finds the best. Weights are whole numbers, so that sums have no order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from clustering.kernels.graph.forest import Forest, IntArray
from clustering.kernels.hierarchy.condensed_tree import CondensedTree
from clustering.kernels.hierarchy.homes import assign_homes
from clustering.kernels.threads import run_in_ranges

WEIGHT = 1 << 16  # of an edge whose ends share all neighbors


@dataclass(frozen=True)
class Quality:
    """The quality graph over the territories of a condensed tree's leaves.

    nearest : int32 or int64, shape (n_rows, q), first neighbors of each row, -1 where a list is shorter
    weight : int32 or int64, shape (n_rows, q), of the edge to each
    leaf : int64, shape (n_rows,), the leaf whose territory a row lies in, -1 for none
    inside, volume : int64, shape (n_clusters,), see ``_sum``
    """

    nearest: NDArray[Any]
    weight: NDArray[Any]
    leaf: IntArray
    inside: IntArray
    volume: IntArray


def measure_quality(
    forest: Forest,
    tree: CondensedTree,
    leaves: NDArray[np.bool_],
    nearest: NDArray[Any],
    *,
    shared: bool = True,
    copies: NDArray[Any] | None = None,
) -> Quality:
    """Let each leaf of the tree grow into a territory, and sum up the quality graph over the tree.

    leaves : bool, shape (n_clusters,); nearest : shape (n_rows, q), first neighbors of each row, -1 where a list is
        shorter; the tree may have further nodes
    shared : weigh edges by Jaccard's index of both ends' lists, each row in its own; else all the same
    copies : int32, shape (n_rows,), records of a row, as whose each of its edges counts; none: 1
    """
    leaf, _ = assign_homes(
        forest.left,
        forest.right,
        forest.distance,
        np.where(leaves[tree.cluster] & (tree.departure > 0), tree.cluster, -1).astype(np.int64),
    )
    leaf = leaf[: len(nearest)]
    weight: NDArray[Any] = _shared_weights(nearest) if shared else np.where(nearest >= 0, np.int32(WEIGHT), np.int32(0))
    if copies is not None:
        weight = weight.astype(np.int64) * copies[:, None]
    inside, volume = np.zeros(tree.parent.size, np.int64), np.zeros(tree.parent.size, np.int64)
    _sum(nearest, weight, leaf, tree.parent, tree.size, inside, volume)
    return Quality(nearest, weight, leaf, inside, volume)


def cut_tree(tree: CondensedTree, quality: Quality, gamma: float, root_too: bool = False) -> IntArray:
    """The cut of the tree whose clusters, with all rows in their territories, have the largest modularity.

    gamma : resolution; larger is finer, and the clusters at a larger gamma lie within those at a smaller one
    root_too : the root may be a cluster
    Returns: int64, shape (n_clusters,), a number for each cluster that is chosen or below one, else -1.
    Source: Reichardt and Bornholdt (2006) for gamma; Guigues, Cocquerez and Le Men (2006) for the nesting.
    """
    number: IntArray = _best_cut(tree.parent, quality.inside, quality.volume, gamma, root_too)
    return number


def common_labels(tree: CondensedTree, leaves: NDArray[np.bool_], leaf_label: IntArray) -> IntArray:
    """For each cluster of the tree the label that all leaves below it have, else -1.

    leaf_label : int64, shape (n_clusters,), the label of a leaf; anything for other clusters
    """
    found: IntArray = _common(tree.parent, leaves, leaf_label)
    return found


def unit_graph(quality: Quality, unit: IntArray) -> csr_array:
    """Summed weights between and within sets of rows, symmetric; weight within counts twice.

    unit : int64, shape (n_rows,), the set of each row, 0 to n - 1; -1 for none
    Returns: int64 csr_array, shape (n_units, n_units).
    """
    n_units = int(unit.max(initial=-1)) + 1
    total = csr_array((n_units, n_units), dtype=np.int64)
    step = max((1 << 19) // max(quality.nearest.shape[1], 1), -(-len(unit) // 16), 1)
    for at in range(0, len(unit), step):  # a share of the edges at a time
        other = quality.nearest[at : at + step]
        mine = np.repeat(unit[at : at + step], other.shape[1])
        theirs = np.where(other >= 0, unit[other], -1).ravel()
        there = (mine >= 0) & (theirs >= 0)
        weight = quality.weight[at : at + step].ravel()[there].astype(np.int64)
        total = total + csr_array(coo_array((weight, (mine[there], theirs[there])), shape=total.shape))
    return csr_array(total + total.T)


def merge_by_louvain(graph: csr_array, gamma: float) -> IntArray:
    """Join units by local moving as long as modularity grows: Louvain's method.

    graph : from ``unit_graph``. Returns: int64, shape (n_units,), the group of each unit, 0 to n_groups - 1.
    Source: Blondel, Guillaume, Lambiotte and Lefebvre (2008).
    """
    # Heavy units first: an order that the numbering of rows does not change, but for units of the same weight.
    order = np.lexsort((-graph.diagonal(), -graph.sum(axis=1)))
    graph = csr_array(graph[order][:, order])
    group = np.arange(graph.shape[0])
    while True:
        volume = np.asarray(graph.sum(axis=1))
        moved = _ranked(_move(graph.indptr, graph.indices, graph.data, volume, gamma))
        group = moved[group]
        if moved.max(initial=-1) + 1 == graph.shape[0]:
            break
        graph = contract_graph(graph, moved)
    found = np.empty(group.size, np.int64)
    found[order] = group
    return found


def contract_graph(graph: csr_array, group: IntArray) -> csr_array:
    """The graph of groups of units. group : int64, shape (n_units,), 0 to n_groups - 1"""
    ends, count = coo_array(graph), int(group.max(initial=-1)) + 1
    return csr_array(coo_array((ends.data, (group[ends.row], group[ends.col])), shape=(count, count)))


def modularity(graph: csr_array, gamma: float) -> float:
    """Of the units of ``unit_graph`` as clusters."""
    total = max(float(graph.sum()), 1.0)
    share = np.asarray(graph.sum(axis=1)) / total
    return float(graph.diagonal().sum() / total - gamma * (share**2).sum())


def _ranked(group: IntArray) -> IntArray:
    """Number groups by their first member."""
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    rank = np.empty(first.size, np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[inverse.reshape(-1)]


@numba.njit(cache=True, nogil=True)
def _share(start: int, nearest: Any, lists: Any, weight: Any) -> None:
    width = lists.shape[1]
    for row in range(len(nearest)):
        for place in range(nearest.shape[1]):
            other = nearest[row, place]
            if other < 0:
                continue
            one, two, both = 0, 0, 0
            while one < width and lists[start + row, one] < 0:
                one += 1
            while two < width and lists[other, two] < 0:
                two += 1
            held = 2 * width - one - two
            while one < width and two < width:
                a, b = lists[start + row, one], lists[other, two]
                both += a == b
                one += a <= b
                two += b <= a
            weight[row, place] = (both * WEIGHT) // (held - both)


def _shared_weights(nearest: NDArray[Any]) -> NDArray[np.int32]:
    lists = np.concatenate([np.arange(len(nearest), dtype=nearest.dtype)[:, None], nearest], axis=1)
    lists.sort(axis=1)
    weight = np.zeros(nearest.shape, np.int32)
    run_in_ranges(len(nearest), lambda a, b: _share(a, nearest[a:b], lists, weight[a:b]))
    return weight


@numba.njit(cache=True, nogil=True)
def _sum(nearest: Any, weight: Any, leaf: Any, parent: Any, size: Any, inside: Any, volume: Any) -> None:
    """Add to ``inside`` twice each edge's weight, at the lowest cluster that holds both ends; to ``volume`` the weight
    at each end, at its leaf."""
    n_clusters = parent.size
    heavy = np.full(n_clusters, -1, np.int32)  # the largest child
    head = np.arange(n_clusters).astype(np.int32)  # the top of a chain of largest children
    for one in range(1, n_clusters):
        mine = parent[one]
        if heavy[mine] < 0 or size[one] > size[heavy[mine]]:
            heavy[mine] = one
    for one in range(1, n_clusters):
        if heavy[parent[one]] == one:
            head[one] = head[parent[one]]
    for row in range(len(nearest)):
        mine = leaf[row]
        if mine < 0:
            continue
        for place in range(nearest.shape[1]):
            other = nearest[row, place]
            if other < 0 or leaf[other] < 0:
                continue
            theirs, both = leaf[other], np.int64(weight[row, place])
            volume[mine] += both
            volume[theirs] += both
            one, two = mine, theirs
            while head[one] != head[two]:  # parents have smaller numbers, so the larger head is the deeper
                if head[one] > head[two]:
                    one = parent[head[one]]
                else:
                    two = parent[head[two]]
            inside[min(one, two)] += 2 * both


@numba.njit(cache=True, nogil=True)
def _best_cut(parent: Any, inside: Any, volume: Any, gamma: float, root_too: bool) -> Any:
    n_clusters = parent.size
    within, weight = inside.copy(), volume.copy()
    below, leaf = np.zeros(n_clusters), np.ones(n_clusters, np.bool_)
    chosen = np.zeros(n_clusters, np.bool_)
    for one in range(1, n_clusters):
        leaf[parent[one]] = False
    total = np.float64(max(volume.sum(), 1))
    for one in range(n_clusters - 1, -1, -1):  # children before parents
        share = weight[one] / total
        own = within[one] / total - gamma * share * share
        if (one or root_too) and (leaf[one] or own >= below[one]):
            chosen[one] = True
            below[one] = own
        if one:
            mine = parent[one]
            below[mine] += below[one]
            within[mine] += within[one]
            weight[mine] += weight[one]
    number = np.full(n_clusters, -1, np.int64)
    count = 0
    for one in range(n_clusters):
        if one and number[parent[one]] >= 0:
            number[one] = number[parent[one]]
        elif chosen[one]:
            number[one] = count
            count += 1
    return number


@numba.njit(cache=True, nogil=True)
def _common(parent: Any, leaf: Any, group: Any) -> Any:
    found = np.full(parent.size, -2, np.int64)  # -2: no leaf seen yet; -1: leaves of several groups
    for one in range(parent.size - 1, -1, -1):
        if leaf[one]:
            found[one] = group[one]
        mine = parent[one]
        if one and found[mine] == -2:
            found[mine] = found[one]
        elif one and found[mine] != found[one]:
            found[mine] = -1
    return np.maximum(found, -1)


@numba.njit(cache=True, nogil=True)
def _move(indptr: Any, indices: Any, data: Any, volume: Any, gamma: float) -> Any:
    """Move each node to the neighboring group with the largest gain, until none moves; ties to the group seen first."""
    n_nodes = volume.size
    group = np.arange(n_nodes)
    weight = volume.astype(np.float64)  # of a group
    total = max(weight.sum(), 1.0)
    links = np.zeros(n_nodes)  # of the node at hand to each group
    seen = np.empty(n_nodes, np.int64)
    moved, passes = True, 0
    while moved and passes < 100:  # rounding could move one back and forth
        moved, passes = False, passes + 1
        for node in range(n_nodes):
            mine, own = group[node], np.float64(volume[node])
            count = 0
            for slot in range(indptr[node], indptr[node + 1]):
                other = group[indices[slot]]
                if indices[slot] == node:
                    continue
                if links[other] == 0:
                    seen[count] = other
                    count += 1
                links[other] += data[slot]
            weight[mine] -= own
            best, gain = mine, links[mine] - gamma * own * weight[mine] / total
            for place in range(count):
                other = seen[place]
                this = links[other] - gamma * own * weight[other] / total
                if this > gain:
                    best, gain = other, this
                links[other] = 0
            links[mine] = 0
            weight[best] += own
            if best != mine:
                group[node] = best
                moved = True
    return group
