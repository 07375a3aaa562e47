"""kernels/graph/csr.py: one symmetric distance graph out of directed neighbor edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from clustering.kernels.graph.csr import MIN_DISTANCE, check_lists, directed_graph, min_distance
from tests import oracles
from tests.planted import edges_of, undirected_graph
from tests.strategies import Edges, edge_lists, graphs


def graph_of(*edges: tuple[int, int, float], n_texts: int) -> csr_array:
    rows, cols, distances = zip(*edges, strict=True)
    return undirected_graph(np.array(rows), np.array(cols), np.array(distances, np.float32), n_texts)


@given(edge_lists())
def test_graph_matches_the_slow_reference(edges: Edges) -> None:
    assert_array_equal(undirected_graph(*edges).toarray(), oracles.undirected_graph(*edges, MIN_DISTANCE))


@given(edge_lists())
def test_graph_is_symmetric_without_diagonal_and_sorted(edges: Edges) -> None:
    graph = undirected_graph(*edges)
    assert graph.shape == (edges.n_texts, edges.n_texts)
    assert (graph.data.dtype, graph.indices.dtype, graph.indptr.dtype) == (np.float32, np.int64, np.int64)
    assert_array_equal(graph.toarray(), graph.T.toarray())
    assert not graph.diagonal().any()
    for row in range(edges.n_texts):
        assert (np.diff(graph.indices[graph.indptr[row] : graph.indptr[row + 1]]) > 0).all()


@given(edge_lists(), st.randoms(use_true_random=False))
def test_graph_does_not_depend_on_the_order_or_direction_of_edges(edges: Edges, rng: st.DataObject) -> None:
    order = np.arange(edges.rows.size)
    rng.shuffle(order)
    turned = order % 2 == 0
    rows = np.where(turned, edges.cols[order], edges.rows[order])
    cols = np.where(turned, edges.rows[order], edges.cols[order])
    shuffled = undirected_graph(rows, cols, edges.distances[order], edges.n_texts)
    assert_array_equal(shuffled.toarray(), undirected_graph(*edges).toarray())


@given(edge_lists())
def test_no_edge_is_shorter_than_the_floor_or_lost_to_it(edges: Edges) -> None:
    graph = undirected_graph(*edges)
    assert graph.nnz == 0 or graph.data.min() >= np.float32(MIN_DISTANCE)
    named = {frozenset(pair) for pair in zip(edges.rows.tolist(), edges.cols.tolist(), strict=True)}
    assert graph.nnz == 2 * sum(len(pair) == 2 for pair in named)


@given(graphs())
def test_edges_of_a_graph_make_the_same_graph_again(graph: csr_array) -> None:
    low, high, distance = edges_of(graph)
    assert (low < high).all()
    assert_array_equal(np.lexsort((high, low)), np.arange(low.size))
    again = undirected_graph(low, high, distance, graph.shape[0], 0.0)
    for name in ("indptr", "indices", "data"):
        assert_array_equal(getattr(again, name), getattr(graph, name))


@given(edge_lists())
def test_lists_keep_the_shortest_of_doubled_entries_in_one_direction(edges: Edges) -> None:
    lists = directed_graph(*edges, floor=0.2)
    shortest: dict[tuple[int, int], np.float32] = {}
    for row, col, distance in zip(edges.rows.tolist(), edges.cols.tolist(), edges.distances, strict=True):
        if row != col:
            held = max(distance, np.float32(0.2))
            shortest[row, col] = min(shortest.get((row, col), held), held)
    rows = np.repeat(np.arange(edges.n_texts), np.diff(lists.indptr)).tolist()
    assert dict(zip(zip(rows, lists.indices.tolist(), strict=True), lists.data, strict=True)) == shortest


def test_of_twin_edges_the_shorter_stays() -> None:
    graph = graph_of((0, 1, 0.5), (1, 0, 0.25), n_texts=2)
    assert_array_equal(graph.toarray(), [[0, 0.25], [0.25, 0]])


def test_texts_with_equal_vectors_stay_linked() -> None:
    graph = graph_of((0, 1, 0.0), n_texts=2)
    narrow = csr_array((graph.data, graph.indices.astype(np.int32), graph.indptr.astype(np.int32)), shape=graph.shape)
    assert minimum_spanning_tree(narrow).nnz == 1  # older scipy takes no others
    assert connected_components(graph, directed=False)[0] == 1


def test_the_floor_is_the_same_angle_in_every_metric() -> None:
    for metric in ("COSINE", "IP"):
        assert np.sqrt(2 * min_distance(metric)) == pytest.approx(min_distance("L2"))
    assert min_distance("L2") == MIN_DISTANCE


def test_a_floor_of_its_own_is_kept() -> None:
    graph = undirected_graph(np.array([0]), np.array([1]), np.zeros(1, np.float32), 2, floor=min_distance("COSINE"))
    assert graph.data.tolist() == [np.float32(min_distance("COSINE"))] * 2


@pytest.mark.parametrize("n_texts", [0, 1, 5])
def test_a_graph_may_have_no_edges(n_texts: int) -> None:
    graph = undirected_graph(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), n_texts)
    assert graph.shape == (n_texts, n_texts)
    assert graph.nnz == 0


@pytest.mark.parametrize("distance", [-0.5, -np.inf, np.inf, np.nan])
def test_a_distance_that_is_none_is_refused_with_its_edge(distance: float) -> None:
    with pytest.raises(ValueError, match=rf"1 of 2 distances .* the first is {distance} on edge 1-2\. Check that the"):
        graph_of((0, 1, 0.5), (1, 2, distance), n_texts=3)


@pytest.mark.parametrize("edge", [(1, 3), (0, -1)])
def test_an_end_outside_the_graph_is_refused_with_its_edge(edge: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"edge {edge[0]}-{edge[1]} leaves the graph of 3 texts; rows run from 0"):
        graph_of((0, 1, 0.5), (*edge, 0.5), n_texts=3)


def test_row_numbers_beyond_32_bits_stay_whole() -> None:
    with pytest.raises(ValueError, match=r"edge 2147483653-2147483654 leaves the graph of 2147483654 texts"):
        check_lists(2**31 + 4, np.array([1, 2]), np.array([7, 8, 2**31 + 6]), np.ones(3, np.float32), 2**31 + 6)


def test_a_distance_that_is_none_is_found_in_its_list() -> None:
    distances = np.array([0.1, np.nan, 0.3], np.float32)
    with pytest.raises(ValueError, match=r"1 of 3 distances .* the first is nan on edge 12-8\."):
        check_lists(10, np.array([1, 0, 2]), np.array([7, 8, 9]), distances, 20)
