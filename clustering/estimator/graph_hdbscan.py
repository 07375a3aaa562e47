"""Vectors or neighbor lists in, clusters out: a scikit-learn estimator that needs neither Ray nor Milvus."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from clustering.estimator import inputs
from clustering.estimator.inspection import Fitted, Inspection
from clustering.estimator.parameters import Parameters
from clustering.estimator.plain import OPEN, checked_vectors, open_merges, plain_forest
from clustering.estimator.rows import own_entries, sorted_lists, take_rows
from clustering.estimator.search import row_keys
from clustering.kernels.graph.diffusion import MIN_LENGTH, NeighborLists, diffuse, listed_core_distances
from clustering.kernels.graph.forest import FloatArray, Forest, IntArray, spanning_forest
from clustering.kernels.graph.group_sizes import GroupSizes, count_breaks, mean_squared_distance, measure_group_sizes
from clustering.kernels.hierarchy.labels import ClusterOptions, label_texts
from clustering.kernels.hierarchy.placement import assign_by_vote
from clustering.kernels.hierarchy.tiling import tiling_of


class GraphHDBSCAN(Inspection, ClusterMixin, BaseEstimator):  # type: ignore[misc]
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
    ``tiling_`` : the links that leave their ``home_``, as a share of those if evenly spread points were cut into tiles
    of these sizes: from 0.66 on there are no clear groups; None as above, and without clusters.
    With weights="distance": ``certified_``, the share of merges that are proven to belong to the exact tree if the
    lists are exact; ``open_merges_``, left and right (rows), least possible height and height of the others;
    ``n_queries_``, rows searched among the vectors. Made on demand: ``condensed_tree_``, ``single_linkage_tree_``,
    ``minimum_spanning_tree_``, ``exemplars_``, ``exemplar_rows_``, ``link_share_``, ``relative_validity_`` and
    ``membership_vectors()``.
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
            keys = row_keys(X) if keys is None else keys
        elif hasattr(self, "feature_names_in_"):  # of an earlier fit
            del self.feature_names_in_
        rows = take_rows(X, neighbors, own)
        n_rows, copies = rows.group.size, rows.copies
        self.n_features_in_ = n_rows if rows.index is None else rows.index.points.shape[1]
        if own.copies == "weigh" and own.min_distance <= 0 and copies.size < n_rows:
            raise ValueError(
                f"copies='weigh' with {n_rows - copies.size} copies needs min_distance above 0, the distance between "
                f"copies; at 0 their density would be infinite"
            )
        points = rows.vectors if vectors is None else checked_vectors(vectors, n_rows)[rows.first]
        options = ClusterOptions(**{key.name: getattr(own, key.name) for key in fields(ClusterOptions)})
        diffused = own.weights == "diffused"
        if diffused:
            inputs.check_magnitude("distances", rows.graph.data)
        lists = sorted_lists(rows.graph) if diffused or options.n_neighbors else None
        group_sizes = GroupSizes()
        if lists is not None and own.preset != "topics":
            unrelated = None if rows.index is None else mean_squared_distance(rows.index.points)
            group_sizes = measure_group_sizes(count_breaks(lists, unrelated, own_entries(lists)), len(lists))
        nearest = None if lists is None else lists.nearest(options.n_neighbors)
        self.certified_: float | None = None
        self.open_merges_, self.n_queries_ = np.empty(0, OPEN), 0
        if diffused and lists is not None:
            forest, core = _diffused(lists, group_sizes, _group_keys(keys, n_rows, rows.first), copies, own)
        else:
            forest, core, proof = plain_forest(rows.graph, rows.bound, copies, points, own)
            self.open_merges_, self.n_queries_ = open_merges(forest, proof, rows.first), proof.queries
            self.certified_ = 1 - self.open_merges_.size / len(forest) if len(forest) else 1.0
        floor = max(own.min_distance, float(MIN_LENGTH)) if diffused else own.min_distance
        found = label_texts(forest, copies, core, options, floor=floor, nearest=nearest, group_sizes=group_sizes)
        self.labels_, self.probabilities_ = found.label[rows.group], found.strength[rows.group]
        self.outlier_scores_, self.layers_ = found.outlier_score[rows.group], found.layers[rows.group]
        self.home_, self.home_strength_ = found.home[rows.group], found.home_strength[rows.group]
        self.cluster_persistence_, self.layer_parents_ = found.persistence, found.parent
        self.layer_, self.modularity_ = found.chosen_layer, found.modularity
        self.tiling_: float | None = None
        if found.modularity is not None and lists is not None:
            self.tiling_ = tiling_of(lists, found.home, own_entries(lists))
        self._fitted = Fitted(rows, forest, core, found, points, group_sizes.n_averaged, own)
        return self

    def fit_predict(
        self,
        X: Any = None,  # noqa: N803
        y: Any = None,
        *,
        neighbors: tuple[ArrayLike, ArrayLike] | None = None,
        vectors: ArrayLike | None = None,
        keys: ArrayLike | None = None,
    ) -> IntArray:
        """Cluster as ``fit`` does. Returns: ``labels_``, int64, shape (n_rows,), -1 is noise."""
        return self.fit(X, y, neighbors=neighbors, vectors=vectors, keys=keys).labels_

    def predict(self, X: Any = None, *, neighbors: tuple[ArrayLike, ArrayLike] | None = None) -> IntArray:  # noqa: N803
        """The labels of ``approximate_predict``, int64, shape (n_new,), -1 is noise."""
        return self.approximate_predict(X, neighbors=neighbors)[0]

    def approximate_predict(
        self,
        X: Any = None,  # noqa: N803
        *,
        neighbors: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> tuple[IntArray, NDArray[np.float64]]:
        """Assign new rows to clusters, and say how strongly they belong to them; the clusters stay as they are.

        With diffused weights the nearest rows vote, as many as diffusion averages over, weighted by distance. Only rows
        vote whose own lists would contain the new row; without any it is noise. With weights="distance" a new row hangs
        on the row that is nearest by mutual reachability, as in hdbscan. A row equal to one of ``fit`` has its label
        and strength. It takes about as long as the search for as many rows in ``fit``.

        X : float, shape (n_new, dim), vectors, after ``fit`` with vectors
        neighbors : instead, (indices, distances) of the nearest rows of ``fit``, int and float, shape (n_new, k); of
            copies, and of a row that stands twice, the nearest counts
        Returns: labels int64, -1 is noise, and strengths float64, 0 to 1, shape (n_new,).
        Raises: NotFittedError; ValueError for both or neither argument, and for wrong shapes and types.
        """
        check_is_fitted(self, "labels_")
        ids, away = self._nearest(X, neighbors)
        fitted = self._fitted
        if not ids.shape[1]:
            return np.full(len(ids), -1, np.int64), np.zeros(len(ids))
        if fitted.own.weights == "diffused":
            near = away <= fitted.rows.radius[ids]
            found = assign_by_vote(ids, away, near, fitted.n_averaged, fitted.found.label, fitted.found.home)
        else:
            found = fitted.assigner.assign(ids, away)
        known = (away[:, 0] == 0) & (ids[:, 0] >= 0)
        label: IntArray = np.where(known, fitted.found.label[ids[:, 0]], found["label"]).astype(np.int64)
        return label, np.where(known, fitted.found.strength[ids[:, 0]], found["strength"]).astype(np.float64)

    def _nearest(self, X: Any, neighbors: Any) -> tuple[IntArray, FloatArray]:  # noqa: N803
        """The nearest groups of ``fit``, each once: int64 and float32, shape (n_new, k), nearest first, -1 for none."""
        if (X is None) == (neighbors is None):
            raise ValueError("give either X, vectors, or neighbors=(indices, distances)")
        rows = self._fitted.rows
        if neighbors is None:
            if rows.index is None or rows.of_vector is None:
                raise ValueError(
                    "the clusters are those of a graph, without vectors; give neighbors=(indices, distances)"
                )
            new = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
            voters = self._fitted.n_averaged if self._fitted.own.weights == "diffused" else rows.index.k
            ids, away = rows.index.nearest(new, voters)
            return inputs.nearest_once(np.where(ids >= 0, rows.of_vector[ids], -1), away)
        ids, away = inputs.neighbor_arrays(neighbors)
        ids = inputs.checked_rows(ids, rows.group.size)
        if not (((away >= 0) & (away < np.inf)) | (ids < 0)).all():
            raise ValueError("distances of neighbors are negative, infinite or NaN; -1 in indices is no neighbor")
        ids = np.where(ids >= 0, rows.group[ids], -1) if ids.size else ids
        return inputs.nearest_once(ids, away)


def _group_keys(keys: ArrayLike | None, n_rows: int, first: IntArray) -> NDArray[np.uint64]:
    """The key of the first row of each group of copies."""
    of_rows = np.arange(n_rows) if keys is None else np.asarray(keys)
    if of_rows.shape != (n_rows,):
        raise ValueError(f"keys have shape {of_rows.shape}; expected ({n_rows},), one for each row")
    if of_rows.dtype.kind not in "iu" and of_rows.size:
        raise ValueError(f"keys are of type {of_rows.dtype}; expected whole numbers")
    return of_rows[first].astype(np.uint64)


def _diffused(
    lists: NeighborLists, group_sizes: GroupSizes, keys: NDArray[np.uint64], copies: NDArray[np.int32], own: Parameters
) -> tuple[Forest, FloatArray]:
    length = diffuse(lists, own.seed, group_sizes.n_averaged, keys)
    graph = lists.graph(length, len(lists))
    rank = min(own.min_samples or 1, max(int(copies.sum()), 1))
    held = copies if own.copies == "weigh" else None
    core = listed_core_distances(graph, rank, held) if rank > 1 else np.zeros(len(lists), np.float32)
    return spanning_forest(graph, core, symmetric=False), core
