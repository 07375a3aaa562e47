"""HDBSCAN of a graph of nearest neighbors, with the habits of scikit-learn; needs neither Ray nor Milvus."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClusterMixin

from clustering.kernels.csr import ascending_rows, directed_graph, first_bad, has_diagonal
from clustering.kernels.diffusion import MIN_LENGTH, Lists, diffuse, listed_cores
from clustering.kernels.forest import FloatArray, Forest, IntArray, core_distances, grow_pieces, spanning_forest
from clustering.kernels.grain import Grain, count_breaks, grain_of
from clustering.kernels.labels import Choice, label_texts
from clustering.kernels.repair import Ask, nearest_outside, prove_forest, repair_forest

OPEN = np.dtype([("left", np.int64), ("right", np.int64), ("least", np.float32), ("height", np.float32)])
BLOCK_BYTES = 128 << 20  # of distances at a time, where vectors are asked for what the lists lack


class GraphHDBSCAN(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Cluster rows by lists of their nearest neighbors or by a sparse graph of distances.

    Rows at distance 0 are copies: density and tree see one of them, sizes count all. Pieces of the graph that no edge
    joins never share a cluster.

    min_samples : the core distance of a row reaches to its min_samples-th other row; none: 1 with diffused weights,
        which means no core distance, else 5
    min_cluster_size : rows that a cluster has at least; none: 5, and 3 where many rows lie in small groups
    weights : "diffused", lengths of the edges after diffusion over the graph; or "distance", plain HDBSCAN
    selection : "modularity", the cut of the tree whose clusters keep their neighbors to themselves; "eom"; or "leaf"
    preset : of modularity: "events" for small stories, "topics" for few broad subjects
    granularity : of modularity: smaller is finer; none: 20000, and less where many rows lie in small groups
    epsilon, max_cluster_size : as in hdbscan, for "eom" and "leaf"; allow_single_cluster : the root may be a cluster
    layers : of modularity: at most so many layers from broad to fine, 1 to 6
    copies : "fold", or "weigh": density and tree see every copy, min_distance apart from the others
    min_distance : shorter distances, save 0, are lifted to this
    n_neighbors : for ``fit(X)``: every row of X is known to hold at least its n_neighbors nearest; none: not known, and
        nothing can be certified
    budget : rows for which ``vectors`` are searched at most, to settle what the graph leaves open
    seed : of the random sketches of diffusion

    After ``fit``, for every row: ``labels_`` int64, -1 is noise, clusters numbered by size; ``probabilities_`` and
    ``outlier_scores_`` float64, 0 to 1; ``home_`` int64, the cluster that a row of noise meets first, and
    ``home_strength_``, 1 for members and 1/2 for who joins at the median height of the tree; ``layers_`` int64, shape
    (n_rows, n_layers), the cluster in each of several nested layers, broadest first. ``layer_`` : which of them
    ``labels_`` is. For every cluster of any layer ``cluster_persistence_``, and ``layer_parents_``, the cluster around
    it in a broader layer, -1 for none. ``modularity_`` : of ``home_``, where it was the choice. With weights="distance"
    ``certified_`` : share of the merges that are proven to belong to the exact tree, given that the lists are exact;
    ``open_merges_`` : left, right (rows), least and height of the others; ``n_queries_`` : rows searched among the
    vectors.
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
        """Cluster the rows of a graph.

        X : sparse, shape (n_rows, n_rows), distances. Rows are read as neighbor lists, so an edge is stored in both
            directions, or each row holds its own nearest; plain HDBSCAN takes edges in one direction, too
        neighbors : instead of X, indices and distances, shape (n_rows, k), ascending; entries that name the row itself
            or -1 are passed over
        vectors : float, shape (n_rows, dim), of which the distances are the Euclidean ones; what the graph leaves open
            is then settled by exact search among them
        keys : uint64, shape (n_rows,), for diffused weights: what names a row in whatever order the rows come; none:
            its number. With keys that go with the rows, their order changes nothing but ties.
        Raises: ValueError for a distance that is negative, infinite or NaN, with its place, and for wrong shapes.
        """
        if (X is None) == (neighbors is None):
            raise ValueError("give either X, a sparse graph, or neighbors=(indices, distances)")
        self._check(vectors is not None)
        graph, bound = self._from_lists(*neighbors) if neighbors is not None else self._from_graph(X)
        n_rows = graph.shape[0]
        group, copies, graph, bound = _fold(graph, bound, self.min_distance)
        first = None if group is None else np.unique(group, return_index=True)[1]  # of each group of copies
        if self.copies == "weigh" and self.min_distance <= 0 and copies.size < n_rows:
            raise ValueError(
                f"copies='weigh' with {n_rows - copies.size} copies needs min_distance above 0, the distance between "
                f"copies; at 0 their density would be infinite"
            )
        choice = Choice(**{key.name: getattr(self, key.name) for key in fields(Choice)})
        diffused = self.weights == "diffused"
        lists = _lists(graph) if diffused or choice.neighbors else None
        grain = Grain() if lists is None else grain_of(count_breaks(lists, _own(lists)), len(lists))
        nearest = None if lists is None else lists.nearest(choice.neighbors)
        if diffused and lists is not None:
            of_rows = np.arange(n_rows) if keys is None else np.asarray(keys)
            if of_rows.shape != (n_rows,):
                raise ValueError(f"keys have shape {of_rows.shape}; expected ({n_rows},)")
            held = copies if self.copies == "weigh" else None
            forest, core = self._diffused(lists, grain, of_rows if first is None else of_rows[first], held)
            self.certified_: float | None = None
            self.open_merges_ = np.empty(0, OPEN)
            self.n_queries_ = 0
        else:
            points = None if vectors is None else np.asarray(vectors, np.float32)
            if points is not None and (points.ndim != 2 or len(points) != n_rows):
                raise ValueError(f"vectors have shape {points.shape}; expected ({n_rows}, dim)")
            forest, core = self._plain(graph, bound, copies, points, first)
        floor = max(self.min_distance, float(MIN_LENGTH)) if diffused else self.min_distance
        found = label_texts(forest, copies, core, choice, floor=floor, nearest=nearest, grain=grain)
        each = slice(None) if group is None else group
        self.labels_, self.probabilities_ = found.label[each], found.strength[each]
        self.outlier_scores_, self.layers_ = found.outlier_score[each], found.layers[each]
        self.home_, self.home_strength_ = found.home[each], found.home_strength[each]
        self.cluster_persistence_, self.layer_parents_, self.layer_ = found.persistence, found.parent, found.chosen
        self.modularity_ = found.modularity
        self.n_features_in_ = n_rows
        self._tree = found.tree
        return self

    def _check(self, vectors: bool) -> None:
        for name, known in (
            ("weights", ("diffused", "distance")), ("selection", ("modularity", "eom", "leaf")),
            ("preset", (None, "events", "topics")), ("copies", ("fold", "weigh")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, known))}")
        for name, least in (("min_samples", 1), ("min_cluster_size", 2), ("granularity", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} is below {least}; raise it")
        if not 1 <= self.layers <= 6:
            raise ValueError(f"layers={self.layers} is not from 1 to 6")
        if vectors and self.weights == "diffused":
            raise ValueError("vectors settle what a graph of distances leaves open; give weights='distance' with them")

    def _diffused(
        self, lists: Lists, grain: Grain, keys: NDArray[Any], copies: NDArray[np.int32] | None
    ) -> tuple[Forest, FloatArray]:
        length = diffuse(lists, self.seed, grain.averaged, keys.astype(np.uint64))
        graph = lists.graph(length, len(lists))
        rank = self.min_samples or 1
        core = listed_cores(graph, rank, copies) if rank > 1 else np.zeros(len(lists), np.float32)
        return spanning_forest(graph, core, symmetric=False), core

    def _plain(
        self,
        graph: csr_array,
        bound: FloatArray,
        copies: NDArray[np.int32],
        points: FloatArray | None,
        first: IntArray | None,
    ) -> tuple[Forest, FloatArray]:
        core = core_distances(graph, self.min_samples or 5, copies if self.copies == "weigh" else None)
        forest = spanning_forest(graph, core, symmetric=False)
        if points is None:
            proof = prove_forest(forest, bound)
        else:
            ask = _search(points if first is None else points[first], core, np.float32(self.min_distance))
            forest, proof = repair_forest(forest, bound, ask, self.budget)
        undecided = np.flatnonzero(proof.least != forest.distance)
        self.certified_ = 1 - undecided.size / len(forest) if len(forest) else 1.0
        self.open_merges_ = np.empty(undecided.size, OPEN)
        for side in ("left", "right"):
            rows = getattr(forest, side)[undecided]
            self.open_merges_[side] = rows if first is None else first[rows]
        self.open_merges_["least"], self.open_merges_["height"] = proof.least[undecided], forest.distance[undecided]
        self.n_queries_ = proof.queries
        return forest, core

    @property
    def condensed_tree_(self) -> Any:
        """hdbscan's CondensedTree over the distinct rows (copies count once): its plots and exports work."""
        from hdbscan.plots import CondensedTree

        return CondensedTree(self._tree.as_records(), self.labels_)

    def _from_graph(self, given: Any) -> tuple[csr_array, FloatArray]:
        if not hasattr(given, "tocsr") or given.shape[0] != given.shape[1]:
            raise ValueError(f"X is {type(given).__name__} of shape {np.shape(given)}; expected a square sparse graph")
        graph: Any = csr_array(given)
        if has_diagonal(graph):
            rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
            other = graph.indices != rows
            indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[other], minlength=graph.shape[0]))])
            graph = csr_array((graph.data[other], graph.indices[other], indptr), shape=graph.shape)
        graph = _checked(graph)
        bound = np.zeros(graph.shape[0], np.float32)
        if self.n_neighbors is not None:
            bound = core_distances(graph, self.n_neighbors)
            bound[np.diff(graph.indptr) >= bound.size - 1] = np.inf
        return graph, bound

    def _from_lists(self, indices: ArrayLike, distances: ArrayLike) -> tuple[csr_array, FloatArray]:
        ids, lengths = np.asarray(indices), np.asarray(distances, np.float32)
        if ids.ndim != 2 or ids.shape != lengths.shape:
            raise ValueError(f"neighbors have shapes {ids.shape} and {lengths.shape}; expected (n_rows, k) twice")
        n_rows = len(ids)
        if ids.size and ids.max() >= n_rows:
            raise ValueError(f"neighbors name row {ids.max()} of {n_rows}; rows run from 0 to n - 1")
        listed = (ids >= 0) & (ids != np.arange(n_rows)[:, None])
        counts = listed.sum(axis=1)
        bound = np.where(listed, lengths, np.float32(0)).max(axis=1, initial=0).astype(np.float32)
        bound[counts >= n_rows - 1] = np.inf
        indptr = np.concatenate([[0], np.cumsum(counts)])
        if listed.all():
            graph = csr_array((lengths.ravel(), ids.ravel(), indptr), shape=(n_rows, n_rows))
        else:
            graph = csr_array((lengths[listed], ids[listed], indptr), shape=(n_rows, n_rows))
        return _checked(graph), bound


def _lists(graph: csr_array) -> Lists:
    """The rows of a graph as neighbor lists, ascending by (distance, row)."""
    indices, distances = ascending_rows(graph)
    return Lists(0, graph.indptr.astype(np.int64), indices, distances)


def _own(lists: Lists) -> int:
    """How many entries nearly every list has: those beyond may have come from the lists of others."""
    lengths = np.diff(lists.indptr)
    return int(np.quantile(lengths[lengths > 0], 0.05)) if lists.indices.size else 1


def _checked(graph: csr_array) -> csr_array:
    """The graph, if all its distances are finite and not negative."""
    at = first_bad(graph.data)
    if at >= 0:
        bad = int((~((graph.data >= 0) & (graph.data < np.inf))).sum())
        row = int(np.searchsorted(graph.indptr, at, side="right")) - 1
        raise ValueError(
            f"{bad} of {graph.nnz} distances are negative, infinite or NaN; the first is {graph.data[at]}, from "
            f"row {row} to row {graph.indices[at]}"
        )
    return csr_array((graph.data.astype(np.float32, copy=False), graph.indices, graph.indptr), shape=graph.shape)


def _fold(
    graph: csr_array, bound: FloatArray, min_distance: float
) -> tuple[IntArray | None, NDArray[np.int32], csr_array, FloatArray]:
    """One row for all that lie at distance 0 of each other.

    Returns: the new row of each old one, none where all are as they were; how many each stands for; their graph; what
        is known of unlisted edges.
    """
    n_rows = graph.shape[0]
    none = not graph.nnz or graph.data.min() > 0
    if none and graph.data.min(initial=np.inf) >= min_distance:
        return None, np.ones(n_rows, np.int32), graph, bound
    rows = np.repeat(np.arange(n_rows), np.diff(graph.indptr))
    same = graph.data == 0
    piece = np.arange(n_rows)
    grow_pieces(rows[same], graph.indices[same].astype(np.int64), piece)
    _, group = np.unique(piece, return_inverse=True)
    copies = np.bincount(group).astype(np.int32)
    lists = directed_graph(group[rows], group[graph.indices], graph.data, copies.size, min_distance)
    known = np.zeros(copies.size, np.float32)
    np.maximum.at(known, group, bound)  # what no copy lists is as far as the farthest of their lists
    return group.astype(np.int64), copies, lists, np.maximum(known, np.float32(min_distance))


def _search(points: FloatArray, core: FloatArray, floor: np.float32) -> Ask:
    """Exact search for the nearest row of another piece by mutual reachability; equal ones: the smaller row."""
    squares = np.einsum("ij,ij->i", points, points)
    step = max(1, BLOCK_BYTES // (4 * max(len(points), 1)))

    def ask(rows: IntArray, piece: IntArray) -> tuple[IntArray, FloatArray]:
        other, reach = np.empty(rows.size, np.int64), np.empty(rows.size, np.float32)
        for at in range(0, rows.size, step):
            some = rows[at : at + step]
            squared = squares[some][:, None] + squares[None, :] - 2 * points[some] @ points.T
            lengths = np.maximum(np.sqrt(np.maximum(squared, 0)), floor)
            found = nearest_outside(lengths, core[some], core, piece[some], piece)
            other[at : at + step], reach[at : at + step] = found
        other[np.isinf(reach)] = -1
        return other, reach

    return ask
