"""A spanning forest in, the condensed tree, the selected clusters, and label, strength and score of every text out.

Every pass runs over arrays, from the root down or from the leaves up, without recursion; time and memory are linear in
the number of texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from clustering.kernels.graph.forest import Forest, find_root

TREE_DTYPE = np.dtype(
    [("parent", np.intp), ("child", np.intp), ("lambda_val", np.float64), ("child_size", np.intp)]
)  # as in hdbscan


@dataclass(frozen=True)
class CondensedTree:
    """The hierarchy of clusters of at least min_cluster_size texts; lambda is 1 / distance, 0 at infinite distance.

    parent : int32, shape (n_clusters,), a smaller number than the cluster's own; cluster 0 is the root, its own parent
    birth, size : float64 and int64, shape (n_clusters,), lambda at which a cluster leaves its parent, and its texts
    cluster, departure : int32 and float64, shape (n_texts,), the last cluster of a text, and lambda at which it leaves
    n_components : components of the forest that are large enough for a cluster; 1 if the forest is connected
    """

    parent: NDArray[np.int32]
    birth: NDArray[np.float64]
    size: NDArray[np.int64]
    cluster: NDArray[np.int32]
    departure: NDArray[np.float64]
    n_components: int

    def as_records(self) -> NDArray[Any]:
        """The tree as hdbscan stores it: one record for each text, and for each cluster but the root.

        Returns: TREE_DTYPE (integers and a float64), shape (n_texts + n_clusters - 1,); clusters count from n_texts.
        """
        n_texts = self.cluster.size
        records = np.empty(n_texts + self.parent.size - 1, TREE_DTYPE)
        texts, clusters = records[:n_texts], records[n_texts:]
        texts["parent"], texts["child"] = self.cluster + np.intp(n_texts), np.arange(n_texts)
        texts["lambda_val"], texts["child_size"] = self.departure, 1
        clusters["parent"], clusters["child"] = self.parent[1:] + np.intp(n_texts), np.arange(1, self.parent.size)
        clusters["child"] += n_texts
        clusters["lambda_val"], clusters["child_size"] = self.birth[1:], self.size[1:]
        return records


@dataclass(frozen=True)
class Clusters:
    """The clusters of a condensed tree; labels are not yet in their final order.

    label : int64, shape (n_texts,), -1 is noise
    strength, outlier_score : float64, shape (n_texts,), 0 to 1
    persistence : float64, shape (n_labels,), 0 to 1
    """

    label: NDArray[np.int64]
    strength: NDArray[np.float64]
    outlier_score: NDArray[np.float64]
    persistence: NDArray[np.float64]
    tree: CondensedTree


def cluster_forest(
    forest: Forest,
    n_texts: int,
    *,
    min_cluster_size: int,
    selection: str = "eom",
    epsilon: float = 0.0,
    max_cluster_size: int = 0,
    allow_single_cluster: bool = False,
) -> Clusters:
    """Condense the hierarchy of the forest and select clusters as hdbscan does.

    Components of the forest meet at lambda 0, and no cluster holds texts of two components.

    min_cluster_size : least texts of a cluster; selection : "eom" (excess of mass) or "leaf"
    epsilon : distance; clusters that leave their parent at a shorter one are merged
    max_cluster_size : in texts, for "eom"; 0 is no limit; allow_single_cluster : the root may be a cluster
    Raises: ValueError for another selection, and for a min_cluster_size below 2.
    Source: McInnes, Healy and Astels (2017), hdbscan; outlier scores GLOSH, Campello et al. (2015).
    """
    tree = condense(forest, n_texts, min_cluster_size)
    alone = allow_single_cluster and tree.n_components == 1 and n_texts > 1
    stability, last, deepest = _stabilities(tree.parent, tree.birth, tree.size, tree.cluster, tree.departure)
    if selection == "eom":
        selected = _excess_of_mass(tree.parent, tree.size, stability, max_cluster_size, alone)
    elif selection == "leaf":
        selected = leaf_clusters(tree)
    else:
        raise ValueError(f"selection={selection!r} is neither 'eom' nor 'leaf'")
    if epsilon > 0 and not selected[0]:
        selected = _merge_near(tree.parent, tree.birth, selected, epsilon, alone)
    edge = 1 / epsilon if epsilon > 0 else last[0]
    label, strength, score = _label_texts(tree.parent, tree.cluster, tree.departure, selected, last, deepest, edge)
    persistence = _persistence(tree, label, stability[selected])
    kept = np.bincount(label[label >= 0], minlength=persistence.size) > 0  # epsilon may leave the root without texts
    number = np.cumsum(kept) - 1
    label[label >= 0] = number[label[label >= 0]]
    return Clusters(label, strength, score, persistence[kept], tree)


def clusters_from_labels(tree: CondensedTree, node_label: NDArray[np.int64]) -> Clusters:
    """Turn a label for every cluster of a condensed tree into labels, strengths and scores of the texts.

    Strength is 1 - d / D: d is the distance at which a text leaves the tree, D that at which its label's cluster does.

    node_label : int64, shape (n_clusters,), 0 to n_labels - 1; -1 where texts that leave the tree are noise
    """
    stability, _, deepest = _stabilities(tree.parent, tree.birth, tree.size, tree.cluster, tree.departure)
    label = np.where(tree.departure > 0, node_label[tree.cluster], -1)  # components too small for a cluster leave at 0
    around = _tops(tree.parent, node_label)
    height = np.divide(1, tree.departure, out=np.full(label.size, np.inf), where=tree.departure > 0)
    end = np.divide(1, tree.birth, out=np.full(node_label.size, np.inf), where=tree.birth > 0)
    end[np.isinf(end)] = height.max(where=np.isfinite(height), initial=0)  # whole components
    inside = label >= 0
    strength = np.zeros(label.size)
    depth = height[inside] / np.maximum(end[around[tree.cluster[inside]]], np.finfo(float).tiny)
    strength[inside] = np.clip(1 - depth, 0, 1)
    reach = deepest[tree.cluster]
    score = np.divide(reach - tree.departure, reach, out=np.zeros(label.size), where=reach > 0)
    top = np.flatnonzero(around == np.arange(around.size))
    n_labels = int(node_label.max(initial=-1)) + 1
    total = np.bincount(node_label[top], weights=stability[top], minlength=n_labels).astype(np.float64)
    return Clusters(label, strength, score, _persistence(tree, label, total), tree)


def _persistence(tree: CondensedTree, label: NDArray[np.int64], stability: NDArray[np.float64]) -> Any:
    """Excess of mass of each label's cluster for each text, in units of the largest lambda."""
    size = np.bincount(label[label >= 0], minlength=stability.size)
    scale = size * tree.departure.max(initial=0.0)
    return np.divide(stability, scale, out=np.ones(stability.size), where=scale > 0)


def last_lambdas(tree: CondensedTree) -> NDArray[np.float64]:
    """The largest lambda at which a text or a child leaves each cluster: float64, shape (n_clusters,)."""
    return _stabilities(tree.parent, tree.birth, tree.size, tree.cluster, tree.departure)[1]  # type: ignore[no-any-return]


def leaf_clusters(tree: CondensedTree, root_too: bool = False) -> NDArray[np.bool_]:
    """bool, shape (n_clusters,): the clusters without child clusters; the root only with ``root_too``."""
    leaf = np.ones(tree.parent.size, np.bool_)
    leaf[tree.parent[1:]] = False
    leaf[0] &= root_too
    return leaf


def finish_labels(
    clusters: Clusters, copies: NDArray[np.int32], min_cluster_size: int, equal_to: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Put labels in their final order, and make a cluster of each noise text with at least min_cluster_size records.

    copies : int32, shape (n_texts,), records of each text; further entries of ``clusters`` are copies and left out
    equal_to : int64, shape (n_texts,), the smallest row of the texts with an equal vector, which count as one text
    Returns: label int64 and strength float64, shape (n_texts,); persistence float64, shape (n_labels,).
    """
    label, strength = clusters.label[: copies.size].copy(), clusters.strength[: copies.size].copy()
    records = copies if equal_to is None else np.bincount(equal_to, copies, copies.size)[equal_to]
    alone = np.flatnonzero((label < 0) & (records >= min_cluster_size))
    _, number = np.unique(alone if equal_to is None else equal_to[alone], return_inverse=True)
    label[alone] = len(clusters.persistence) + number
    strength[alone] = 1
    extra = np.zeros(int(number.max(initial=-1)) + 1)
    label, persistence = renumber_clusters(label, copies, np.concatenate([clusters.persistence, extra]))
    return label, strength, persistence


def renumber_clusters(
    label: NDArray[np.int64], copies: NDArray[np.int32], persistence: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Number clusters by records, largest first, then by smallest row, so that equal results have equal numbers.

    label : int64, shape (n_texts,), -1 is noise; copies : int32, shape (n_texts,), records of each text
    persistence : float64, shape (n_labels,). Returns: label and persistence likewise.
    """
    n_clusters = persistence.size
    inside = np.flatnonzero(label >= 0)
    size = np.bincount(label[inside], weights=copies[inside], minlength=n_clusters)
    first = np.full(n_clusters, label.size, np.int64)
    np.minimum.at(first, label[inside], inside)
    order = np.lexsort((first, -size))
    number = np.empty(n_clusters, np.int64)
    number[order] = np.arange(n_clusters)
    renumbered = label.copy()
    renumbered[inside] = number[label[inside]]
    return renumbered, persistence[order]


def condense(forest: Forest, n_texts: int, min_cluster_size: int) -> CondensedTree:
    """Build the condensed tree: a split makes two clusters if both sides have at least min_cluster_size texts.

    A forest of several components has a root above them; if only one is large enough, that one is the root.

    forest : over n_texts rows
    Raises: ValueError for a min_cluster_size below 2.
    """
    if min_cluster_size < 2:
        raise ValueError(f"min_cluster_size={min_cluster_size}; a cluster has 2 texts at least")
    most = 2 * (n_texts // min_cluster_size) + 2
    node = np.int32 if n_texts < 2**30 else np.int64  # merges are numbered after the texts
    parent, birth, size = np.zeros(most, np.int32), np.zeros(most), np.zeros(most, np.int64)
    cluster, departure = np.zeros(n_texts, np.int32), np.zeros(n_texts)
    nodes = np.arange(n_texts, dtype=node)
    n_clusters, n_components = _condense(
        forest.left, forest.right, forest.distance, min_cluster_size, nodes, parent, birth, size, cluster, departure
    )
    parent, birth, size = parent[:n_clusters].copy(), birth[:n_clusters].copy(), size[:n_clusters].copy()
    return CondensedTree(parent, birth, size, cluster, departure, n_components)


@numba.njit(cache=True, nogil=True)
def _tops(parent: Any, node_label: Any) -> Any:
    """For each labelled cluster the highest ancestor with its label and no other label between; -1 without a label."""
    around = np.full(parent.size, -1, np.int64)
    for one in range(parent.size):
        if node_label[one] >= 0:
            same = one > 0 and node_label[parent[one]] == node_label[one]
            around[one] = around[parent[one]] if same else one
    return around


@numba.njit(cache=True, nogil=True)
def _condense(
    left: Any, right: Any, distance: Any, smallest: int, tree: Any,
    parent: Any, birth: Any, size: Any, cluster: Any, departure: Any,
) -> Any:  # fmt: skip
    n_texts, n_edges = cluster.size, left.size
    # Merges as nodes: texts are 0 to n_texts - 1, and edge e makes node n_texts + e.
    top = tree.copy()  # of a root: the node of its whole tree
    first, second = np.empty(n_edges, tree.dtype), np.empty(n_edges, tree.dtype)
    held = np.ones(n_texts + n_edges, tree.dtype)
    for edge in range(n_edges):
        one, other = find_root(tree, left[edge]), find_root(tree, right[edge])
        first[edge], second[edge] = top[one], top[other]
        held[n_texts + edge] = held[top[one]] + held[top[other]]
        tree[max(one, other)] = min(one, other)
        top[min(one, other)] = n_texts + edge
    # Components. ``home``: the cluster of a node's texts; ``gone``: the lambda at which they left it, -1 if not yet.
    home = np.zeros(n_texts + n_edges, np.int32)
    gone = np.zeros(n_texts + n_edges)
    large, components = 0, 0
    for row in range(n_texts):
        if tree[row] == row:
            components += 1
            large += held[top[row]] >= smallest
    n_clusters = 1
    size[0] = n_texts
    for row in range(n_texts):
        if tree[row] != row:
            continue
        node = top[row]
        if components == 1 or (held[node] >= smallest and large == 1):
            gone[node] = -1
        elif held[node] >= smallest:
            home[node], gone[node] = n_clusters, -1
            size[n_clusters] = held[node]
            n_clusters += 1
    for edge in range(n_edges - 1, -1, -1):
        node = n_texts + edge
        mine = home[node]
        one, other = first[edge], second[edge]
        if gone[node] >= 0:
            for child in (one, other):
                home[child], gone[child] = mine, gone[node]
            continue
        leave = 1 / np.float64(distance[edge])
        both = held[one] >= smallest and held[other] >= smallest
        for child in (one, other):
            if both:
                home[child], gone[child] = n_clusters, -1
                parent[n_clusters], birth[n_clusters], size[n_clusters] = mine, leave, held[child]
                n_clusters += 1
            elif held[child] >= smallest:
                home[child], gone[child] = mine, -1
            else:
                home[child], gone[child] = mine, leave
    for row in range(n_texts):
        cluster[row], departure[row] = home[row], max(gone[row], 0.0)
    return n_clusters, large if components > 1 else 1


@numba.njit(cache=True, nogil=True)
def _stabilities(parent: Any, birth: Any, size: Any, cluster: Any, departure: Any) -> Any:
    """Of each cluster: excess of mass, the last lambda at which anything leaves it, and the last in its subtree."""
    n_clusters = parent.size
    stability, last = np.zeros(n_clusters), np.zeros(n_clusters)
    for text in range(cluster.size):
        mine = cluster[text]
        stability[mine] += departure[text] - birth[mine]
        last[mine] = max(last[mine], departure[text])
    for child in range(1, n_clusters):
        mine = parent[child]
        stability[mine] += (birth[child] - birth[mine]) * size[child]
        last[mine] = max(last[mine], birth[child])
    deepest = last.copy()
    for child in range(n_clusters - 1, 0, -1):
        deepest[parent[child]] = max(deepest[parent[child]], deepest[child])
    return stability, last, deepest


@numba.njit(cache=True, nogil=True)
def _excess_of_mass(parent: Any, size: Any, stability: Any, largest: int, root_too: bool) -> Any:
    """Select clusters that are as stable as the best selection below them; ``stability`` becomes the selection's."""
    n_clusters = parent.size
    selected = np.ones(n_clusters, np.bool_)
    below = np.zeros(n_clusters)
    in_clusters = 0
    for cluster in range(1, n_clusters):
        in_clusters += size[cluster] if parent[cluster] == 0 else 0
    for cluster in range(n_clusters - 1, -1, -1):
        texts = size[cluster] if cluster else in_clusters
        if (cluster == 0 and not root_too) or below[cluster] > stability[cluster] or (largest and texts > largest):
            selected[cluster] = False
            stability[cluster] = below[cluster]
        if cluster:
            below[parent[cluster]] += stability[cluster]
    inside = selected.copy()  # selected, or below a selected cluster
    for cluster in range(1, n_clusters):
        if inside[parent[cluster]]:
            selected[cluster] = False
            inside[cluster] = True
    return selected


@numba.njit(cache=True, nogil=True)
def _merge_near(parent: Any, birth: Any, selected: Any, epsilon: float, root_too: bool) -> Any:
    """Replace each selected cluster that leaves its parent within epsilon by the first ancestor that does not."""
    n_clusters = parent.size
    above = np.zeros(n_clusters, np.int32)
    chosen = np.zeros(n_clusters, np.bool_)
    for cluster in range(1, n_clusters):
        mine = parent[cluster]
        if mine == 0:
            above[cluster] = 0 if root_too else cluster
        elif birth[mine] * epsilon < 1:
            above[cluster] = mine
        else:
            above[cluster] = above[mine]
        if selected[cluster]:
            chosen[above[cluster] if birth[cluster] * epsilon > 1 else cluster] = True
    return chosen  # a cluster that leaves its parent exactly at epsilon stays, even within another


@numba.njit(cache=True, nogil=True)
def _label_texts(parent: Any, cluster: Any, departure: Any, selected: Any, last: Any, deepest: Any, edge: float) -> Any:
    """Label, strength and outlier score of every text. edge : least lambda in a root that is the only cluster."""
    n_texts, n_clusters = cluster.size, parent.size
    number = np.full(n_clusters, -1, np.int64)  # of the selected ancestor
    around = np.zeros(n_clusters, np.int32)
    count = 0
    for one in range(n_clusters):
        if selected[one]:
            number[one], around[one] = count, one
            count += 1
        elif one:
            number[one], around[one] = number[parent[one]], around[parent[one]]
    label, strength, score = np.full(n_texts, -1, np.int64), np.zeros(n_texts), np.zeros(n_texts)
    for text in range(n_texts):
        mine = cluster[text]
        if deepest[mine] > 0:
            score[text] = (deepest[mine] - departure[text]) / deepest[mine]
        if number[mine] < 0 or (around[mine] == 0 and (count > 1 or departure[text] < edge)):
            continue
        label[text] = number[mine]
        highest = last[around[mine]]
        strength[text] = min(departure[text], highest) / highest if highest > 0 else 1.0
    return label, strength, score
