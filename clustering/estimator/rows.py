"""What ``fit`` is given in, the graph of the rows to be clustered out; rows at distance 0 are one group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from clustering.estimator import inputs, search
from clustering.estimator.parameters import Parameters
from clustering.kernels.graph.csr import ascending_rows, directed_graph
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.forest import FloatArray, IntArray, join_components


@dataclass(frozen=True)
class Rows:
    """The rows to be clustered, in groups of rows at distance 0 of each other.

    graph : float32 csr_array, shape (n_groups, n_groups)
    bound, radius : float32, shape (n_groups,), a lower bound on the unlisted edges of each group, and its longest entry
    group, first : int64, shape (n_rows,) and (n_groups,), the group of each row, and the first row of each group
    index, of_vector : finds the nearest distinct vectors, and the group of each; None if a graph was given
    """

    graph: csr_array
    bound: FloatArray
    radius: FloatArray
    group: IntArray
    first: IntArray
    index: search.VectorIndex | None = None
    of_vector: IntArray | None = None

    @property
    def copies(self) -> NDArray[np.int32]:
        """int32, shape (n_groups,): the rows of each group."""
        return np.bincount(self.group, minlength=self.first.size).astype(np.int32)

    @property
    def vectors(self) -> NDArray[Any] | None:
        """float, shape (n_groups, dim), the vector of the first row of each group; None if a graph was given."""
        if self.index is None or self.of_vector is None or len(self.index.points) == self.first.size:
            return None if self.index is None else self.index.points
        place: NDArray[Any] = np.unique(self.of_vector, return_index=True)[1]
        return self.index.points[place]  # type: ignore[no-any-return]


def take_rows(X: Any, neighbors: Any, own: Parameters) -> Rows:  # noqa: N803
    """Read X, vectors or a sparse graph, or neighbor lists; see ``GraphHDBSCAN.fit``."""
    if neighbors is not None:
        graph, bound = inputs.graph_of_lists(neighbors)
        return _fold(graph, bound, bound, own.min_distance)
    if issparse(X):
        graph, bound = inputs.graph_of_sparse(X, own.n_neighbors)
        return _fold(graph, bound, inputs.farthest_distances(graph), own.min_distance)
    inputs.check_is_not_distances(X)
    distinct, first = search.distinct_rows(X)
    index = search.VectorIndex(X[first], own.n_neighbors or search.NEIGHBORS, own.seed)
    graph, bound = inputs.graph_of_lists(index.own_neighbors())
    rows = _fold(graph, bound, bound, own.min_distance)
    of_row = rows.group[distinct]
    return Rows(rows.graph, rows.bound, rows.radius, of_row, first[rows.first], index, rows.group)


def _fold(graph: csr_array, bound: FloatArray, radius: FloatArray, min_distance: float) -> Rows:
    """Merge rows at distance 0 of each other into one."""
    n_rows = graph.shape[0]
    if graph.data.min(initial=np.inf) >= max(min_distance, np.finfo(np.float32).smallest_subnormal):
        each = np.arange(n_rows)
        return Rows(graph, bound, radius, each, each)
    rows = np.repeat(np.arange(n_rows), np.diff(graph.indptr))
    same = graph.data == 0
    component = np.arange(n_rows)
    join_components(rows[same], graph.indices[same].astype(np.int64), component)
    _, first, group = np.unique(component, return_index=True, return_inverse=True)
    group = group.reshape(-1).astype(np.int64)
    lists = directed_graph(group[rows], group[graph.indices], graph.data, first.size, min_distance)
    bounds, radii = np.full(first.size, min_distance, np.float32), np.zeros(first.size, np.float32)
    np.maximum.at(bounds, group, bound)  # an edge that no copy lists is no shorter than any of their bounds
    np.maximum.at(radii, group, radius)
    return Rows(lists, bounds, radii, group, first.astype(np.int64))


def sorted_lists(graph: csr_array) -> NeighborLists:
    """The rows of a graph as neighbor lists, ascending by (distance, row)."""
    indices, distances = ascending_rows(graph)
    return NeighborLists(graph.indptr.astype(np.int64), indices, distances)


def first_entries(lists: NeighborLists, count: int) -> tuple[IntArray, FloatArray]:
    """The first entries of each list: int64 and float32, shape (n_rows, count); -1 and infinite beyond its end."""
    slots = lists.indptr[:-1, None] + np.arange(count)
    listed = slots < lists.indptr[1:, None]
    ids, away = np.full(slots.shape, -1, np.int64), np.full(slots.shape, np.inf, np.float32)
    ids[listed], away[listed] = lists.indices[slots[listed]], lists.distances[slots[listed]]
    return ids, away


def own_entries(lists: NeighborLists) -> int:
    """Entries that nearly every list has; further ones may come from the lists of others."""
    lengths = np.diff(lists.indptr)
    return int(np.quantile(lengths[lengths > 0], 0.05)) if lists.indices.size else 1
