"""Vectors or neighbor lists in, clusters out: a scikit-learn estimator that needs neither Ray nor Milvus."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from clustering import estimator_input
from clustering.estimator_input import Parameters
from clustering.kernels.graph.csr import ascending_rows, directed_graph
from clustering.kernels.graph.diffusion import MIN_LENGTH, NeighborLists, diffuse, listed_core_distances
from clustering.kernels.graph.forest import Forest, core_distances, join_components, spanning_forest
from clustering.kernels.graph.group_sizes import GroupSizes, count_breaks, mean_squared_distance, measure_group_sizes
from clustering.kernels.graph.repair import OutsideSearch, nearest_outside, prove_forest, repair_forest
from clustering.kernels.hierarchy.labels import ClusterOptions, label_texts
from clustering.kernels.hierarchy.placement import ReachabilityAssigner, assign_by_vote
from clustering.kernels.topk import FloatArray, IntArray

OPEN = np.dtype([("left", np.int64), ("right", np.int64), ("least", np.float32), ("height", np.float32)])
BLOCK_BYTES = 128 << 20  # of distances at a time, when vectors are searched for unlisted edges
PREDICTED_ROWS = 8192  # new rows at a time


@dataclass(frozen=True)
class _Input:
    """The graph of the rows to be clustered, or of the distinct vectors among them.

    bound, radius : float32, shape (n_rows,), a lower bound on the unlisted edges of each row, and its longest entry
    distinct : the distinct vector of each row; points : the distinct vectors; both None if a graph was given
    """

    graph: csr_array
    bound: FloatArray
    radius: FloatArray
    distinct: IntArray | None = None
    points: NDArray[Any] | None = None


class GraphHDBSCAN(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Cluster vectors, lists of their nearest neighbors, or a sparse graph of distances.

    Rows at distance 0 are copies: density and tree count one of them, sizes count all. Rows in different components of
    the graph never share a cluster.

    min_samples : the core distance of a row is the distance to its min_samples-th other row; none: 1 with diffused
        weights, which means no core distance, else 5
    min_cluster_size : least rows of a cluster; none: 5, or 3 where many rows are in small groups
    weights : "diffused", lengths of the edges after diffusion over the graph; or "distance", plain HDBSCAN
    selection : "modularity", the cut of the tree with the largest modularity; "eom"; or "leaf"
    preset : for modularity: "events" for small stories, "topics" for few broad subjects
    granularity : for modularity: smaller is finer; none: 20000, or less where many rows are in small groups
    epsilon, max_cluster_size : as in hdbscan, for "eom" and "leaf"; allow_single_cluster : the root may be a cluster
    layers : for modularity: most layers from broad to fine, 1 to 6
    copies : "fold", or "weigh": density and tree count every copy, at min_distance from the others
    min_distance : shorter distances other than 0 are raised to this
    n_neighbors : nearest rows that are searched for vectors; none: 50. For a sparse graph: each row stores at least
        this many of its nearest; none: unknown, and nothing can be certified
    budget : most rows that are searched among ``vectors`` for edges that the graph does not list
    seed : of the random sketches of diffusion

    After ``fit``, for every row: ``labels_`` int64, -1 is noise, clusters numbered by size; ``probabilities_`` and
    ``outlier_scores_`` float64, 0 to 1; ``home_`` int64, the cluster that a noise row meets first, and
    ``home_strength_`` float32, 1 for members, 1/2 at the median height of the tree; ``layers_`` int64, shape
    (n_rows, n_layers), the cluster in each of several nested layers, broadest first. ``layer_`` : the layer that
    ``labels_`` is. For every cluster of any layer: ``cluster_persistence_`` float64, and ``layer_parents_`` int64, the
    cluster around it in a broader layer, -1 for none. ``modularity_`` : of ``home_``, None if it was not the selection.
    With weights="distance": ``certified_``, the share of merges that are proven to belong to the exact tree if the
    lists are exact; ``open_merges_``, left and right (rows), least possible height and height of the others;
    ``n_queries_``, rows searched among the vectors.
    Source: Campello, Moulavi and Sander (2013); McInnes, Healy and Astels (2017); docs/clustering.md.
    """

    def __init__(
        self,
        min_samples: int | None = None,
        min_cluster_size: int | None = None,
        *,
        weights: str = "diffused",
        selection: str = "modularity",
        preset: str | None = None,
        granularity: int | None = None,
        epsilon: float = 0.0,
        max_cluster_size: int = 0,
        allow_single_cluster: bool = False,
        copies: str = "fold",
        layers: int = 6,
        min_distance: float = 0.0,
        n_neighbors: int | None = None,
        budget: int = 100_000,
        seed: int = 0,
    ) -> None:
        self.min_samples = min_samples
        self.min_cluster_size = min_cluster_size
        self.weights = weights
        self.selection = selection
        self.preset = preset
        self.granularity = granularity
        self.epsilon = epsilon
        self.max_cluster_size = max_cluster_size
        self.allow_single_cluster = allow_single_cluster
        self.copies = copies
        self.layers = layers
        self.min_distance = min_distance
        self.n_neighbors = n_neighbors
        self.budget = budget
        self.seed = seed

    def fit(
        self,
        X: Any = None,  # noqa: N803 (scikit-learn's name)
        y: Any = None,
        *,
        neighbors: tuple[ArrayLike, ArrayLike] | None = None,
        vectors: ArrayLike | None = None,
        keys: ArrayLike | None = None,
    ) -> GraphHDBSCAN:
        """Cluster vectors, or the rows of a graph.

        X : dense, float, shape (n_rows, dim): vectors, whose n_neighbors nearest by Euclidean distance are searched,
            exactly up to 15 dimensions or 50,000 rows, else approximately; plain HDBSCAN also uses them as ``vectors``.
            Or sparse, shape (n_rows, n_rows): distances. Its rows are read as neighbor lists, so an edge is stored in
            both directions, or each row stores its own nearest; plain HDBSCAN also accepts edges in one direction
        neighbors : instead of X, (indices, distances), int and float, shape (n_rows, k), ascending; entries for the row
            itself or -1 are ignored, duplicates count once; (distances, indices) is recognized by the dtypes
        vectors : float, shape (n_rows, dim), whose Euclidean distances the graph has; unlisted edges are then found by
            exact search among them
        keys : uint64, shape (n_rows,), for diffused weights: an id of each row; none: its number, or a hash of its
            vector. With ids that belong to the rows, their order changes nothing but ties
        Raises: ValueError for a distance that is negative, infinite or NaN, with its position; for wrong shapes and
            types; and for a parameter out of its range.
        """
        if (X is None) == (neighbors is None):
            raise ValueError("give either X, vectors or a sparse graph, or neighbors=(indices, distances)")
        own = Parameters.from_estimator(self)
        if vectors is not None and own.weights == "diffused":
            raise ValueError("vectors settle what a graph of distances leaves open; give weights='distance' with them")
        if X is not None and not issparse(X):
            if vectors is not None:
                raise ValueError("X are vectors already; give vectors only with a graph")
            X = validate_data(self, X, dtype=(np.float64, np.float32))  # noqa: N806
            keys = estimator_input.row_keys(X) if keys is None else keys
            vectors = X if own.weights == "distance" else None
        taken = _taken(X, neighbors, own)
        n_rows = taken.graph.shape[0] if taken.distinct is None else taken.distinct.size
        self.n_features_in_ = n_rows if taken.points is None else taken.points.shape[1]
        inner, graph, bound, radius = _fold(taken, own.min_distance)
        group = inner if taken.distinct is None else taken.distinct if inner is None else inner[taken.distinct]
        copies = np.ones(n_rows, np.int32) if group is None else np.bincount(group).astype(np.int32)
        first = None if group is None else np.unique(group, return_index=True)[1]  # row of each group of copies
        if own.copies == "weigh" and own.min_distance <= 0 and copies.size < n_rows:
            raise ValueError(
                f"copies='weigh' with {n_rows - copies.size} copies needs min_distance above 0, the distance between "
                f"copies; at 0 their density would be infinite"
            )
        options = ClusterOptions(**{key.name: getattr(own, key.name) for key in fields(ClusterOptions)})
        diffused = own.weights == "diffused"
        if diffused:
            estimator_input.check_magnitude("distances", graph.data)
        lists = _lists(graph) if diffused or options.n_neighbors else None
        group_sizes = GroupSizes()
        if lists is not None and own.preset != "topics":
            unrelated = None if taken.points is None else mean_squared_distance(taken.points)
            group_sizes = measure_group_sizes(count_breaks(lists, unrelated, _own_entries(lists)), len(lists))
        nearest = None if lists is None else lists.nearest(options.n_neighbors)
        if diffused and lists is not None:
            forest, core = _diffused(lists, group_sizes, _group_keys(keys, n_rows, first), copies, own)
            self.certified_: float | None = None
            self.open_merges_ = np.empty(0, OPEN)
            self.n_queries_ = 0
        else:
            forest, core = self._plain(graph, bound, copies, _checked_vectors(vectors, n_rows), first, own)
        floor = max(own.min_distance, float(MIN_LENGTH)) if diffused else own.min_distance
        found = label_texts(forest, copies, core, options, floor=floor, nearest=nearest, group_sizes=group_sizes)
        each = slice(None) if group is None else group
        self.labels_, self.probabilities_ = found.label[each], found.strength[each]
        self.outlier_scores_, self.layers_ = found.outlier_score[each], found.layers[each]
        self.home_, self.home_strength_ = found.home[each], found.home_strength[each]
        self.cluster_persistence_, self.layer_parents_ = found.persistence, found.parent
        self.layer_, self.modularity_ = found.chosen_layer, found.modularity
        self._tree = found.tree
        # For predict: rows -> distinct vectors -> groups of copies, and the clusters of those groups.
        self._points, self._distinct, self._group = taken.points, taken.distinct, inner
        self._clusters = found.label, found.home
        self._radius, self._averaged = radius, group_sizes.n_averaged
        self._assigner = ReachabilityAssigner.from_forest(forest, core, found.label, found.home, own.min_samples or 5)
        return self

    def predict(self, X: Any = None, *, neighbors: tuple[ArrayLike, ArrayLike] | None = None) -> IntArray:  # noqa: N803
        """Assign new rows to clusters; the clusters stay as they are.

        With diffused weights the nearest rows vote, as many as diffusion averages over, weighted by distance. Only rows
        vote whose own lists would contain the new row; without any it is noise. With weights="distance" a new row joins
        the cluster that it meets no higher than the cluster's members meet each other. A row equal to one of ``fit``
        has its label.

        X : float, shape (n_new, dim), vectors, after ``fit`` with vectors
        neighbors : instead, (indices, distances) of the nearest rows of ``fit``, int and float, shape (n_new, k)
        Returns: int64, shape (n_new,), -1 is noise.
        Raises: NotFittedError; ValueError for both or neither argument, and for wrong shapes and types.
        """
        check_is_fitted(self, "labels_")
        if (X is None) == (neighbors is None):
            raise ValueError("give either X, vectors, or neighbors=(indices, distances)")
        if neighbors is not None:
            ids, away = estimator_input.neighbor_arrays(neighbors)
            rows = estimator_input.checked_rows(ids, self.labels_.size)
            if not (((away >= 0) & (away < np.inf)) | (rows < 0)).all():
                raise ValueError("distances of neighbors are negative, infinite or NaN; -1 in indices is no neighbor")
            if self._distinct is not None:
                rows = np.where(rows >= 0, self._distinct[rows], -1)
            order = np.argsort(np.where(rows >= 0, away, np.inf), axis=1, kind="stable")
            return self._labels(np.take_along_axis(rows, order, 1), np.take_along_axis(away, order, 1))
        if self._points is None:
            raise ValueError("the clusters are those of a graph, without vectors; give neighbors=(indices, distances)")
        new = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        k = Parameters.from_estimator(self).n_neighbors or estimator_input.NEIGHBORS
        blocks = [new[at : at + PREDICTED_ROWS] for at in range(0, len(new), PREDICTED_ROWS)]
        return np.concatenate([self._labels(*estimator_input.nearest_vectors(self._points, one, k)) for one in blocks])

    def _labels(self, rows: IntArray, away: FloatArray) -> IntArray:
        if self._group is not None:
            rows = np.where(rows >= 0, self._group[rows], -1)
        label, home = self._clusters
        if not rows.shape[1]:
            return np.full(len(rows), -1, np.int64)
        if self.weights == "diffused":
            found = assign_by_vote(rows, away, away <= self._radius[rows], self._averaged, label, home)
        else:
            found = self._assigner.assign(rows, away)
        known = (away[:, 0] == 0) & (rows[:, 0] >= 0)
        chosen: IntArray = np.where(known, label[rows[:, 0]], found["label"]).astype(np.int64)
        return chosen

    def _plain(
        self, graph: csr_array, bound: FloatArray, copies: NDArray[np.int32], points: FloatArray | None,
        first: IntArray | None, own: Parameters,
    ) -> tuple[Forest, FloatArray]:  # fmt: skip
        rank = min(own.min_samples or 5, max(int(copies.sum()), 1))
        core = core_distances(graph, rank, copies if own.copies == "weigh" else None)
        forest = spanning_forest(graph, core, symmetric=False)
        if points is None:
            proof = prove_forest(forest, bound)
        else:
            search = _outside_search(points if first is None else points[first], core, np.float32(own.min_distance))
            forest, proof = repair_forest(forest, bound, search, own.budget)
        unproven = np.flatnonzero(proof.lower_bound != forest.distance)
        self.certified_ = 1 - unproven.size / len(forest) if len(forest) else 1.0
        self.open_merges_ = np.empty(unproven.size, OPEN)
        for side in ("left", "right"):
            rows = getattr(forest, side)[unproven]
            self.open_merges_[side] = rows if first is None else first[rows]
        self.open_merges_["least"] = proof.lower_bound[unproven]
        self.open_merges_["height"] = forest.distance[unproven]
        self.n_queries_ = proof.queries
        return forest, core

    @property
    def condensed_tree_(self) -> Any:
        """hdbscan's CondensedTree over the distinct rows (copies count once), for its plots and exports."""
        from hdbscan.plots import CondensedTree

        return CondensedTree(self._tree.as_records(), self.labels_)


def _taken(X: Any, neighbors: Any, own: Parameters) -> _Input:  # noqa: N803
    if neighbors is not None:
        graph, bound = estimator_input.graph_of_lists(neighbors)
        return _Input(graph, bound, bound)
    if issparse(X):
        graph, bound = estimator_input.graph_of_sparse(X, own.n_neighbors)
        return _Input(graph, bound, estimator_input.farthest_distances(graph))
    estimator_input.check_is_not_distances(X)
    outer, first = estimator_input.distinct_rows(X)
    points = X[first]
    graph, bound = estimator_input.graph_of_lists(
        estimator_input.neighbors_of_vectors(points, own.n_neighbors or estimator_input.NEIGHBORS, own.seed)
    )
    return _Input(graph, bound, bound, outer, points)


def _group_keys(keys: ArrayLike | None, n_rows: int, first: IntArray | None) -> NDArray[np.uint64]:
    """The key of the first row of each group of copies."""
    of_rows = np.arange(n_rows) if keys is None else np.asarray(keys)
    if of_rows.shape != (n_rows,):
        raise ValueError(f"keys have shape {of_rows.shape}; expected ({n_rows},)")
    if of_rows.dtype.kind not in "iu" and of_rows.size:
        raise ValueError(f"keys are of type {of_rows.dtype}; expected whole numbers")
    return (of_rows if first is None else of_rows[first]).astype(np.uint64)


def _checked_vectors(vectors: ArrayLike | None, n_rows: int) -> FloatArray | None:
    if vectors is None:
        return None
    points = estimator_input.as_floats("vectors", vectors)
    if points.ndim != 2 or len(points) != n_rows:
        raise ValueError(f"vectors have shape {points.shape}; expected ({n_rows}, dim)")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"vectors hold an infinite number or NaN in {(~finite).sum()} rows, first in row {finite.argmin()}"
        )
    return points


def _diffused(
    lists: NeighborLists, group_sizes: GroupSizes, keys: NDArray[np.uint64], copies: NDArray[np.int32], own: Parameters
) -> tuple[Forest, FloatArray]:
    length = diffuse(lists, own.seed, group_sizes.n_averaged, keys)
    graph = lists.graph(length, len(lists))
    rank = min(own.min_samples or 1, max(int(copies.sum()), 1))
    held = copies if own.copies == "weigh" else None
    core = listed_core_distances(graph, rank, held) if rank > 1 else np.zeros(len(lists), np.float32)
    return spanning_forest(graph, core, symmetric=False), core


def _lists(graph: csr_array) -> NeighborLists:
    """The rows of a graph as neighbor lists, ascending by (distance, row)."""
    indices, distances = ascending_rows(graph)
    return NeighborLists(graph.indptr.astype(np.int64), indices, distances)


def _own_entries(lists: NeighborLists) -> int:
    """Entries that nearly every list has; further ones may come from the lists of others."""
    lengths = np.diff(lists.indptr)
    return int(np.quantile(lengths[lengths > 0], 0.05)) if lists.indices.size else 1


def _fold(taken: _Input, min_distance: float) -> tuple[IntArray | None, csr_array, FloatArray, FloatArray]:
    """Merge rows at distance 0 of each other into one.

    Returns: the new row of each old one, None if nothing changed; the graph, bound and radius of the new rows.
    """
    graph, n_rows = taken.graph, taken.graph.shape[0]
    none = not graph.nnz or graph.data.min() > 0
    if none and graph.data.min(initial=np.inf) >= min_distance:
        return None, graph, taken.bound, taken.radius
    rows = np.repeat(np.arange(n_rows), np.diff(graph.indptr))
    same = graph.data == 0
    component = np.arange(n_rows)
    join_components(rows[same], graph.indices[same].astype(np.int64), component)
    _, group = np.unique(component, return_inverse=True)
    count = int(group.max(initial=-1)) + 1
    lists = directed_graph(group[rows], group[graph.indices], graph.data, count, min_distance)
    bound, radius = np.full(count, min_distance, np.float32), np.zeros(count, np.float32)
    np.maximum.at(bound, group, taken.bound)  # an edge that no copy lists is no shorter than any of their bounds
    np.maximum.at(radius, group, taken.radius)
    return group.astype(np.int64), lists, bound, radius


def _outside_search(points: FloatArray, core: FloatArray, floor: np.float32) -> OutsideSearch:
    """Exact search for the nearest row of another group by mutual reachability; of equal ones the smaller row."""
    squares = np.einsum("ij,ij->i", points, points)
    step = max(1, BLOCK_BYTES // (4 * max(len(points), 1)))

    def search(rows: IntArray, group: IntArray) -> tuple[IntArray, FloatArray]:
        other, reach = np.empty(rows.size, np.int64), np.empty(rows.size, np.float32)
        for at in range(0, rows.size, step):
            some = rows[at : at + step]
            squared = squares[some][:, None] + squares[None, :] - 2 * points[some] @ points.T
            lengths = np.maximum(np.sqrt(np.maximum(squared, 0)), floor)
            found = nearest_outside(lengths, core[some], core, group[some], group)
            other[at : at + step], reach[at : at + step] = found
        other[np.isinf(reach)] = -1
        return other, reach

    return search
