"""A spanning forest and the number of copies of each text in; labels, strengths and homes of the texts out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clustering.kernels.forest import FloatArray, Forest, IntArray
from clustering.kernels.growth import grow_homes, home_strength, median_height
from clustering.kernels.tree import CondensedTree, cluster_forest, finish_labels


@dataclass(frozen=True)
class Labels:
    """What clustering says of every distinct text.

    label : int64, -1 is noise; clusters are numbered by records, then by smallest row
    strength, outlier_score : float64, 0 to 1; persistence : float64, shape (n_clusters,)
    home : int64, the cluster that a noise text meets first; home_strength : float32, 1 for members
    tree : over the nodes of the forest; alone : clusters that are the copies of one text
    """

    label: IntArray
    strength: NDArray[np.float64]
    outlier_score: NDArray[np.float64]
    persistence: NDArray[np.float64]
    home: IntArray
    home_strength: FloatArray
    tree: CondensedTree
    alone: int


def label_texts(
    forest: Forest,
    copies: NDArray[np.int32],
    core: FloatArray,
    *,
    weigh: bool,
    floor: float,
    min_cluster_size: int,
    selection: str = "eom",
    epsilon: float = 0.0,
    max_cluster_size: int = 0,
    allow_single_cluster: bool = False,
) -> Labels:
    """Cluster the texts of a forest.

    copies : int32, shape (n_texts,), records a text; core : float32, shape (n_texts,), core distances
    weigh : every record is a node of the tree, else every distinct text; floor : the shortest distance
    The other parameters as in hdbscan.
    """
    n_texts = copies.size
    nodes = unfold_copies(forest, copies, core, floor) if weigh else forest
    found = cluster_forest(
        nodes, int(copies.sum()) if weigh else n_texts, min_cluster_size=min_cluster_size, selection=selection,
        epsilon=epsilon, max_cluster_size=max_cluster_size, allow_single_cluster=allow_single_cluster,
    )  # fmt: skip
    label, strength, persistence = finish_labels(found, copies, min_cluster_size)
    home, height = grow_homes(forest.left, forest.right, forest.distance, label)
    return Labels(
        label=label,
        strength=strength,
        outlier_score=found.outlier_score[:n_texts],
        persistence=persistence,
        home=home,
        home_strength=home_strength(height, median_height(forest.distance)),
        tree=found.tree,
        alone=len(persistence) - len(found.persistence),
    )


def unfold_copies(forest: Forest, copies: NDArray[np.int32], core: FloatArray, floor: float) -> Forest:
    """Give every further copy of a text a node of its own, tied to the text at the text's core distance.

    copies : int32, shape (n_texts,), nodes a text; core : float32, shape (n_texts,); floor : the shortest distance
    Returns: a forest over sum(copies) nodes whose first n_texts are the texts; the same forest when all are 1.
    """
    extra = copies.astype(np.int64) - 1
    if not extra.any():
        return forest
    owner = np.repeat(np.arange(copies.size, dtype=np.int64), extra)
    copy = copies.size + np.arange(owner.size, dtype=np.int64)
    left, right = np.concatenate([forest.left, owner]), np.concatenate([forest.right, copy])
    # A text without any edge has no core distance, yet its copies belong together: far out, but not at infinity.
    reach = np.minimum(np.maximum(core[owner], np.float32(floor)), np.float32(1e6))
    distance = np.concatenate([forest.distance, reach])
    order = np.lexsort((right, left, distance))
    return Forest(left[order], right[order], distance[order])
