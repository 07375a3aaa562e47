"""A condensed tree and neighbor lists in, the cut of the tree with the largest modularity out.

The quality graph joins each row to its first neighbors, weighted by the share of neighbors that both have in common.
Modularity is the share of that weight inside clusters, less what chance would put there; one pass from the leaves up
finds the best cut. Weights are integers, so sums do not depend on their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from clustering.kernels.copies import number_by_first
from clustering.kernels.graph.forest import Forest, IntArray
from clustering.kernels.hierarchy.condensed_tree import CondensedTree
from clustering.kernels.hierarchy.homes import assign_homes
from clustering.kernels.threads import run_in_ranges

WEIGHT = 1 << 16  # of an edge whose ends have all neighbors in common


@dataclass(frozen=True)
class QualityBlock:
    """The edges of the quality graph that some rows list. Rows have local numbers, the block's own rows first.

    rows : int64, shape (n_local,), the row of each local number; none: numbers are rows
    nearest : int32 or int64, shape (n_own, q), local numbers of each row's first neighbors, -1 where a list is shorter
    weight : int32 or int64, shape (n_own, q), of the edge to each
    """

    rows: IntArray | None
    nearest: NDArray[Any]
    weight: NDArray[Any]

    @classmethod
    def of(
        cls, nearest: NDArray[Any], shared: bool = True, copies: NDArray[np.int32] | None = None,
        rows: IntArray | None = None, lists: NDArray[Any] | None = None,
    ) -> QualityBlock:  # fmt: skip
        """Weigh the edges of a block; ``nearest`` and ``rows`` as above.

        shared : weigh edges by the Jaccard index of both ends' lists, each with its own row; else all alike
        copies : int32, shape (n_own,), records of each row, a factor of its edges' weights; none: 1
        lists : int32 or int64, shape (n_local, q), first neighbors of all local rows by row; none: ``nearest``
        """
        weight: NDArray[Any] = np.where(nearest >= 0, np.int32(WEIGHT), np.int32(0))
        if shared:
            lists = nearest if lists is None else lists
            weight = _shared_weights(nearest, lists, np.arange(len(lists)) if rows is None else rows)
        return cls(rows, nearest, weight if copies is None else weight.astype(np.int64) * copies[:, None])

    def local(self, values: NDArray[Any]) -> IntArray:
        """The values of the block's local rows as int64. values : int, shape (n_rows,), of all rows"""
        return (values if self.rows is None else values[self.rows]).astype(np.int64, copy=False)

    def sum_over(self, leaf: IntArray, parent: NDArray[np.int32], size: IntArray) -> tuple[IntArray, IntArray]:
        """``inside`` and ``volume`` as in ``Quality``, of the block's edges alone; leaf : of all rows"""
        inside, volume = np.zeros(parent.size, np.int64), np.zeros(parent.size, np.int64)
        _sum(self.nearest, self.weight, self.local(leaf), parent, size, inside, volume)
        return inside, volume

    def between(self, unit: IntArray, n_units: int) -> csr_array:
        """The weights that the block's edges add between and within units, counted once; unit : of all rows"""
        unit = self.local(unit)
        total = csr_array((n_units, n_units), dtype=np.int64)
        step = max((1 << 19) // max(self.nearest.shape[1], 1), -(-len(self.nearest) // 16), 1)
        for at in range(0, len(self.nearest), step):  # some edges at a time
            other = self.nearest[at : at + step]
            mine = np.repeat(unit[at : at + len(other)], other.shape[1])
            theirs = np.where(other >= 0, unit[other], -1).ravel()
            both = (mine >= 0) & (theirs >= 0)
            weight = self.weight[at : at + step].ravel()[both].astype(np.int64)
            total = total + csr_array(coo_array((weight, (mine[both], theirs[both])), shape=total.shape))
        return total


class QualityGraph(Protocol):
    """A quality graph of any number of blocks. A single ``QualityBlock`` of all rows is one."""

    def sum_over(self, leaf: IntArray, parent: NDArray[np.int32], size: IntArray) -> tuple[IntArray, IntArray]: ...

    def between(self, unit: IntArray, n_units: int) -> csr_array: ...


@dataclass(frozen=True)
class Quality:
    """The quality graph over the territories of a condensed tree's leaves.

    leaf : int64, shape (n_rows,), the leaf in whose territory a row is, -1 for none
    inside, volume : int64, shape (n_clusters,), see ``_sum``
    """

    graph: QualityGraph
    leaf: IntArray
    inside: IntArray
    volume: IntArray


def measure_quality(
    forest: Forest, tree: CondensedTree, leaves: NDArray[np.bool_], graph: QualityGraph, n_rows: int
) -> Quality:
    """Assign each row to the leaf that it meets first, and sum the quality graph over the tree.

    leaves : bool, shape (n_clusters,)
    n_rows : rows of the quality graph; the tree may have further nodes
    """
    own_leaf = np.where(leaves[tree.cluster] & (tree.departure > 0), tree.cluster, -1).astype(np.int64)
    leaf = assign_homes(forest.left, forest.right, forest.distance, own_leaf)[0][:n_rows]
    return Quality(graph, leaf, *graph.sum_over(leaf, tree.parent, tree.size))


def cut_tree(tree: CondensedTree, quality: Quality, gamma: float, root_too: bool = False) -> IntArray:
    """Find the cut of the tree whose clusters, with all rows in their territories, have the largest modularity.

    gamma : resolution; larger is finer, and clusters at a larger gamma are within those at a smaller one
    root_too : the root may be a cluster
    Returns: int64, shape (n_clusters,), a number for each chosen cluster and all below it, else -1.
    Source: Reichardt and Bornholdt (2006) for gamma; Guigues, Cocquerez and Le Men (2006) for the nesting.
    """
    number: IntArray = _best_cut(tree.parent, quality.inside, quality.volume, gamma, root_too)
    return number


def common_labels(tree: CondensedTree, leaves: NDArray[np.bool_], leaf_label: IntArray) -> IntArray:
    """The label that all leaves below each cluster of the tree have in common, else -1.

    leaves : bool, shape (n_clusters,); leaf_label : int64, shape (n_clusters,), read for leaves only
    Returns: int64, shape (n_clusters,).
    """
    label: IntArray = _common(tree.parent, leaves, leaf_label)
    return label


def unit_graph(quality: Quality, unit: IntArray) -> csr_array:
    """Sum the weights of the quality graph between and within sets of rows, its units.

    unit : int64, shape (n_rows,), the set of each row, 0 to n_units - 1; -1 for none
    Returns: int64 csr_array, shape (n_units, n_units), symmetric; weight within a unit counts twice.
    """
    total = quality.graph.between(unit, int(unit.max(initial=-1)) + 1)
    return csr_array(total + total.T)


def merge_by_louvain(graph: csr_array, gamma: float) -> IntArray:
    """Merge units by Louvain's method: local moves as long as modularity grows.

    graph : int64 csr_array, shape (n_units, n_units), from ``unit_graph``
    Returns: int64, shape (n_units,), the group of each unit, 0 to n_groups - 1.
    Source: Blondel, Guillaume, Lambiotte and Lefebvre (2008).
    """
    # Heavy units first, so that the order does not depend on row numbers, except among equal weights.
    order = np.lexsort((-graph.diagonal(), -graph.sum(axis=1)))
    graph = csr_array(graph[order][:, order])
    group = np.arange(graph.shape[0])
    while True:
        volume = np.asarray(graph.sum(axis=1))
        moved, _ = number_by_first(_move(graph.indptr, graph.indices, graph.data, volume, gamma))
        group = moved[group]
        if moved.max(initial=-1) + 1 == graph.shape[0]:
            break
        graph = contract_graph(graph, moved)
    unordered = np.empty(group.size, np.int64)
    unordered[order] = group
    return unordered


def contract_graph(graph: csr_array, group: IntArray) -> csr_array:
    """The graph of groups of units.

    graph : int64 csr_array, shape (n_units, n_units); group : int64, shape (n_units,), 0 to n_groups - 1
    Returns: int64 csr_array, shape (n_groups, n_groups).
    """
    ends, count = coo_array(graph), int(group.max(initial=-1)) + 1
    return csr_array(coo_array((ends.data, (group[ends.row], group[ends.col])), shape=(count, count)))


def modularity(graph: csr_array, gamma: float) -> float:
    """Modularity of the units as clusters, at most 1. graph : int64 csr_array, shape (n_units, n_units)"""
    total = max(float(graph.sum()), 1.0)
    share = np.asarray(graph.sum(axis=1)) / total
    return float(graph.diagonal().sum() / total - gamma * (share**2).sum())


@numba.njit(cache=True, nogil=True)
def _share(start: int, nearest: Any, lists: Any, weight: Any) -> None:
    width = lists.shape[1]
    for row in range(len(nearest)):
        for rank in range(nearest.shape[1]):
            other = nearest[row, rank]
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
            weight[row, rank] = (both * WEIGHT) // (held - both)


def _shared_weights(nearest: NDArray[Any], lists: NDArray[Any], rows: IntArray) -> NDArray[np.int32]:
    """The Jaccard index of both ends' lists, in units of WEIGHT; arguments as in ``QualityBlock.of``."""
    held = np.concatenate([rows.astype(lists.dtype)[:, None], lists], axis=1)
    held.sort(axis=1)
    weight = np.zeros(nearest.shape, np.int32)
    run_in_ranges(len(nearest), lambda a, b: _share(a, nearest[a:b], held, weight[a:b]))
    return weight


@numba.njit(cache=True, nogil=True)
def _sum(nearest: Any, weight: Any, leaf: Any, parent: Any, size: Any, inside: Any, volume: Any) -> None:
    """Add each edge's weight twice to ``inside`` at the lowest cluster of both ends, and to ``volume`` at each leaf."""
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
        for rank in range(nearest.shape[1]):
            other = nearest[row, rank]
            if other < 0 or leaf[other] < 0:
                continue
            theirs, both = leaf[other], np.int64(weight[row, rank])
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
    label = np.full(parent.size, -2, np.int64)  # -2: no leaf seen yet; -1: leaves with several labels
    for one in range(parent.size - 1, -1, -1):
        if leaf[one]:
            label[one] = group[one]
        mine = parent[one]
        if one and label[mine] == -2:
            label[mine] = label[one]
        elif one and label[mine] != label[one]:
            label[mine] = -1
    return np.maximum(label, -1)


@numba.njit(cache=True, nogil=True)
def _move(indptr: Any, indices: Any, data: Any, volume: Any, gamma: float) -> Any:
    """Move each node to the neighboring group with the largest gain until none moves; of equal gains the first."""
    n_nodes = volume.size
    group = np.arange(n_nodes)
    weight = volume.astype(np.float64)  # of a group
    total = max(weight.sum(), 1.0)
    links = np.zeros(n_nodes)  # of the current node to each group
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
            for index in range(count):
                other = seen[index]
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
