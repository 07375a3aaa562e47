"""A spanning forest and the records of each text in, labels, strengths, homes and layers of the texts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering.kernels.graph.forest import FloatArray, Forest, IntArray
from clustering.kernels.graph.group_sizes import FEWEST, MIN_CLUSTER_SIZE, GroupSizes
from clustering.kernels.hierarchy import modularity_cut
from clustering.kernels.hierarchy.condensed_tree import (
    Clusters,
    CondensedTree,
    cluster_forest,
    clusters_from_labels,
    condense,
    finish_labels,
    leaf_clusters,
    renumber_clusters,
)
from clustering.kernels.hierarchy.homes import assign_homes, home_strength, median_height

PRESETS = {"events": 7, "topics": 50}  # neighbors in the quality graph
NEIGHBORS = 10  # without a preset
APART = 2  # a finer layer has at least this many times the clusters
BROADER = 2  # most layers above the chosen one
DOUBLINGS = 16  # of the resolution, among which layers are searched
LUMP = 0.25  # a layer is useless if one cluster has this share of the texts


@dataclass(frozen=True)
class ClusterOptions:
    """How clusters are selected from the tree; the fields are those of the configuration section ``cluster``."""

    selection: str = "modularity"
    preset: str | None = None
    granularity: int | None = None
    min_cluster_size: int | None = None
    epsilon: float = 0.0
    max_cluster_size: int = 0
    allow_single_cluster: bool = False
    copies: str = "fold"
    layers: int = 6

    @property
    def n_neighbors(self) -> int:
        """First neighbors of each text that label_texts needs."""
        return 0 if self.selection != "modularity" else PRESETS.get(self.preset or "", NEIGHBORS)

    @property
    def shares_neighbors(self) -> bool:
        """Whether edges of the quality graph weigh by the neighbors that both ends have in common."""
        return self.preset != "topics"

    def smallest_cluster(self, group_sizes: GroupSizes) -> int:
        """The least texts of a cluster."""
        if self.min_cluster_size is not None:
            return self.min_cluster_size
        if self.selection != "modularity" or self.preset == "topics":
            return MIN_CLUSTER_SIZE
        return FEWEST if self.preset == "events" else group_sizes.min_cluster_size

    def gamma(self, group_sizes: GroupSizes, n_nodes: int) -> float:
        """The resolution of modularity. Topics are broad even where the groups within them are small."""
        return (GroupSizes() if self.preset == "topics" else group_sizes).gamma(n_nodes, self.granularity)

    def decides_resolution(self, group_sizes: GroupSizes) -> str:
        """What the resolution follows, for the report: "granularity" (as given), "small groups", or "usual"."""
        if self.granularity is not None:
            return "granularity"
        return "usual" if self.preset == "topics" or group_sizes.small_weight == 0 else "small groups"


@dataclass(frozen=True)
class Labels:
    """The clusters of every distinct text.

    label : int64, shape (n_texts,), -1 is noise; clusters are numbered by records, then by smallest row
    strength, outlier_score : float64, shape (n_texts,), 0 to 1
    home, home_strength : int64 and float32, shape (n_texts,), the cluster that a noise text meets first; members: 1
    layers : int64, shape (n_texts, n_layers), the cluster in each layer, broadest first; one column is ``label``. A
        cluster of several layers has one number; clusters of other layers are numbered after those of ``label``
    parent, persistence : int64 and float64, shape (n_all_clusters,), for each cluster of any layer the one around it
        in a broader layer, -1 for none, and 0 to 1
    n_clusters : clusters in ``label``; chosen_layer : which layer that is; n_copies_clusters : clusters that are the
        copies of one text
    gammas : the resolution of each layer; modularity : of ``home``, None if it was not the selection
    tree : over the nodes of the forest
    """

    label: IntArray
    strength: NDArray[np.float64]
    outlier_score: NDArray[np.float64]
    home: IntArray
    home_strength: FloatArray
    layers: IntArray
    parent: IntArray
    persistence: NDArray[np.float64]
    n_clusters: int
    chosen_layer: int
    n_copies_clusters: int
    gammas: list[float]
    modularity: float | None
    tree: CondensedTree


def label_texts(
    forest: Forest,
    copies: NDArray[np.int32],
    core: FloatArray,
    options: ClusterOptions,
    *,
    floor: float,
    nearest: NDArray[Any] | modularity_cut.QualityGraph | None = None,
    equal_to: IntArray | None = None,
    group_sizes: GroupSizes = GroupSizes(),  # noqa: B008 (frozen)
) -> Labels:
    """Cluster the texts of a forest.

    copies, core : int32 and float32, shape (n_texts,), records of each text, and core distances
    floor : the shortest distance
    nearest : int32 or int64, shape (n_texts, options.n_neighbors), -1 where a list is shorter, or the quality graph of
        such lists; for modularity only
    equal_to : int64, shape (n_texts,), the smallest row of the texts with an equal vector; none: all differ
    Raises: ValueError for modularity without ``nearest``, an unknown selection, or a min_cluster_size below 2.
    """
    n_texts = copies.size
    weigh = options.copies == "weigh"
    nodes = unfold_copies(forest, copies, core, floor) if weigh else forest
    n_nodes = int(copies.sum()) if weigh else n_texts
    smallest = options.smallest_cluster(group_sizes)
    layers: _Layers | None = None
    if options.selection == "modularity":
        tree = condense(nodes, n_nodes, smallest)
        gamma = options.gamma(group_sizes, n_nodes)
        if nearest is None:
            raise ValueError("selection='modularity' needs the first neighbors of each row")
        if isinstance(nearest, np.ndarray):
            nearest = modularity_cut.QualityBlock.of(nearest, options.shares_neighbors, copies if weigh else None)
        layers = _Layers(nodes, tree, options, nearest, n_texts, gamma)
        found = layers.clusters(layers.maps[layers.chosen])
    else:
        found = cluster_forest(
            nodes, n_nodes, min_cluster_size=smallest, selection=options.selection, epsilon=options.epsilon,
            max_cluster_size=options.max_cluster_size, allow_single_cluster=options.allow_single_cluster,
        )  # fmt: skip
    label, strength, persistence = finish_labels(found, copies, smallest, equal_to)
    home, height = assign_homes(forest.left, forest.right, forest.distance, label)
    count = len(persistence)
    table, parent = label[:, None], np.full(count, -1, np.int64)
    if layers is not None:
        table, parent, persistence = layers.numbered(found, label, persistence, copies)
    return Labels(
        label=label,
        strength=strength,
        outlier_score=found.outlier_score[:n_texts],
        home=home,
        home_strength=home_strength(height, median_height(forest.distance)),
        layers=table,
        parent=parent,
        persistence=persistence,
        n_clusters=count,
        chosen_layer=layers.chosen if layers else 0,
        n_copies_clusters=count - len(found.persistence),
        gammas=layers.gammas if layers else [],
        modularity=layers.modularity if layers else None,
        tree=found.tree,
    )


class _Layers:
    """Nested partitions of the leaves of a tree: broad themes, the chosen clusters, and the clusters within them."""

    def __init__(
        self, forest: Forest, tree: CondensedTree, options: ClusterOptions, graph: modularity_cut.QualityGraph,
        n_texts: int, gamma: float,
    ) -> None:  # fmt: skip
        self.tree = tree
        alone = options.allow_single_cluster and tree.n_components == 1 and tree.cluster.size > 1
        self.leaves = leaf_clusters(tree, alone and tree.parent.size == 1)
        quality = modularity_cut.measure_quality(forest, tree, self.leaves, graph, n_texts)
        if options.preset == "topics":
            leaf_number = np.cumsum(self.leaves) - 1
            units = modularity_cut.unit_graph(quality, np.where(quality.leaf >= 0, leaf_number[quality.leaf], -1))
            group = modularity_cut.merge_by_louvain(units, gamma)
            chosen = np.where(self.leaves, group[leaf_number] if group.size else -1, -1)
            units = modularity_cut.contract_graph(units, group)
        else:
            chosen = modularity_cut.cut_tree(tree, quality, gamma, alone)
            units = modularity_cut.unit_graph(quality, np.where(quality.leaf >= 0, chosen[quality.leaf], -1))
        self.modularity = modularity_cut.modularity(units, gamma)
        self.maps, self.gammas = [chosen], [gamma]
        texts = np.bincount(quality.leaf[quality.leaf >= 0], minlength=tree.parent.size)
        self._add_broader(units, gamma, texts, min(BROADER + 1, options.layers))
        self.chosen = len(self.maps) - 1
        self._add_finer(quality, gamma, options.layers)

    def _add_broader(self, graph: csr_array, gamma: float, texts: IntArray, most: int) -> None:
        """Merge the clusters of the last layer at ever lower resolution until at most half of them are left."""
        for doubling in range(1, DOUBLINGS):
            if len(self.maps) >= most or graph.shape[0] < 2 * APART:
                break
            group = modularity_cut.merge_by_louvain(graph, gamma / 2**doubling)
            count = int(group.max()) + 1
            if count * APART > graph.shape[0]:
                continue
            last = self.maps[0]
            broader = np.where(last >= 0, group[last], -1)
            held = np.bincount(broader[self.leaves], weights=texts[self.leaves], minlength=count)
            if count < 2 or held.max() > LUMP * texts.sum():
                break
            self.maps.insert(0, broader)
            self.gammas.insert(0, gamma / 2**doubling)
            graph = modularity_cut.contract_graph(graph, group)

    def _add_finer(self, quality: modularity_cut.Quality, gamma: float, most: int) -> None:
        """Cut the tree at ever higher resolution, within the last layer, until there are twice as many clusters."""
        for doubling in range(1, DOUBLINGS):
            if len(self.maps) >= most:
                break
            last, finer = self.maps[-1], modularity_cut.cut_tree(self.tree, quality, gamma * 2**doubling)
            pairs = last[self.leaves] * (int(finer.max(initial=-1)) + 1) + finer[self.leaves]
            within = np.full(last.size, -1, np.int64)
            _, within[self.leaves] = np.unique(pairs, return_inverse=True)
            if within.max(initial=-1) + 1 >= max(APART * (last.max(initial=-1) + 1), APART):
                self.maps.append(within)
                self.gammas.append(gamma * 2**doubling)

    def clusters(self, leaf_label: IntArray) -> Clusters:
        return clusters_from_labels(self.tree, modularity_cut.common_labels(self.tree, self.leaves, leaf_label))

    def numbered(
        self, found: Clusters, label: IntArray, persistence: NDArray[np.float64], copies: NDArray[np.int32]
    ) -> tuple[IntArray, IntArray, NDArray[np.float64]]:
        """Number the clusters of all layers: those of ``label`` as they are, the others after them, layer by layer.

        found : the clusters of the chosen layer
        label, persistence : the same in their final order, int64, shape (n_texts,), and float64, shape (n_labels,)
        copies : int32, shape (n_texts,), records of each text
        Returns: layers, parent and persistence as in ``Labels``.
        """
        numbers, columns = {self.chosen: _renamed(found.label, label)}, {self.chosen: label}
        alone = (found.label[: label.size] < 0) & (label >= 0)
        persistences, total = [persistence], len(persistence)
        below = [(layer, layer - 1) for layer in range(self.chosen + 1, len(self.maps))]
        above = [(layer, layer + 1) for layer in range(self.chosen - 1, -1, -1)]
        for layer, beside in below + above:
            mine, theirs = self._pairs(layer, beside)
            broad = theirs if layer > beside else mine
            same = np.bincount(broad)[broad] == 1  # a cluster of the broader layer that is also one of the finer
            found = self.clusters(self.maps[layer])
            number = np.full(found.persistence.size, -1, np.int64)
            number[mine[same]] = numbers[beside][theirs[same]]
            new = np.flatnonzero(number < 0)
            ordered, _ = renumber_clusters(found.label[: label.size], copies, found.persistence)
            rank = _renamed(found.label, ordered, found.persistence.size)
            new = new[np.argsort(rank[new], kind="stable")]
            number[new] = total + np.arange(new.size)
            persistences.append(found.persistence[new])
            total += new.size
            column = np.append(number, -1)[found.label[: label.size]]
            columns[layer] = np.where(alone & (column < 0), label, column)
            numbers[layer] = number
        parent = np.full(total, -1, np.int64)
        for layer in range(1, len(self.maps)):
            mine, theirs = self._pairs(layer, layer - 1)
            inner, around = numbers[layer][mine], numbers[layer - 1][theirs]
            parent[inner[inner != around]] = around[inner != around]
            rows = alone & (columns[layer] == label) & (columns[layer - 1] != label)  # copies within a broader cluster
            parent[label[rows]] = columns[layer - 1][rows]
        table = np.stack([columns[layer] for layer in range(len(self.maps))], axis=1)
        return table, parent, np.concatenate(persistences)

    def _pairs(self, layer: int, beside: int) -> NDArray[Any]:
        """The pairs of clusters of two layers that share leaves, each once."""
        return np.unique(np.stack([self.maps[layer][self.leaves], self.maps[beside][self.leaves]]), axis=1)


def _renamed(old: IntArray, new: IntArray, n_old: int | None = None) -> IntArray:
    """The new number of each old label, from rows that have both; n_rows for a label of no row."""
    name = np.full(int(old.max(initial=-1)) + 1 if n_old is None else n_old, new.size, np.int64)
    inside = old[: new.size] >= 0
    name[old[: new.size][inside]] = new[inside]
    return name


def unfold_copies(forest: Forest, copies: NDArray[np.int32], core: FloatArray, floor: float) -> Forest:
    """Make a node of every further copy of a text, with an edge to the text at the text's core distance.

    copies, core : int32 and float32, shape (n_texts,), nodes of each text, and core distances
    floor : the shortest distance
    Returns: a forest over sum(copies) nodes, the texts first; the same forest if all copies are 1.
    """
    extra = copies.astype(np.int64) - 1
    if not extra.any():
        return forest
    owner = np.repeat(np.arange(copies.size, dtype=np.int64), extra)
    copy = copies.size + np.arange(owner.size, dtype=np.int64)
    left, right = np.concatenate([forest.left, owner]), np.concatenate([forest.right, copy])
    # A text without any edge has no core distance, but its copies belong together: far out, not at infinity.
    reach = np.minimum(np.maximum(core[owner], np.float32(floor)), np.float32(1e6))
    distance = np.concatenate([forest.distance, reach])
    order = np.lexsort((right, left, distance))
    return Forest(left[order], right[order], distance[order])
