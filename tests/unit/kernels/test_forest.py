"""graph/forest.py and hierarchy/homes.py: core distances, the forest of mutual reachability, and homes for noise."""

from __future__ import annotations

from functools import partial, reduce
from random import Random

import hdbscan
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree

from clustering.kernels.graph import forest
from clustering.kernels.graph.forest import (
    SMALL_BAND,
    Forest,
    core_distances,
    join_components,
    merge_forests,
    spanning_forest,
)
from clustering.kernels.hierarchy.homes import assign_homes
from tests import oracles
from tests.planted import blobs, edges_of, neighbor_graph, undirected_graph
from tests.strategies import full_graphs, graphs


def dense(graph: csr_array) -> oracles.Dense:
    """Infinity where there is no edge."""
    values = graph.toarray()
    return np.where(values == 0, np.float32(np.inf), values)


def edges(forest: Forest) -> list[oracles.Edge]:
    return list(zip(forest.left.tolist(), forest.right.tolist(), forest.distance.tolist(), strict=True))


@given(graphs(), st.integers(1, 6))
def test_core_distances_match_the_slow_reference(graph: csr_array, min_samples: int) -> None:
    core = core_distances(graph, min_samples)
    assert core.dtype == np.float32
    assert core.tolist() == oracles.core_distances(dense(graph), min_samples)


@given(graphs(), st.integers(1, 6), st.data())
def test_weighted_core_distances_match_the_slow_reference(
    graph: csr_array, min_samples: int, data: st.DataObject
) -> None:
    n_texts = graph.shape[0]
    weights = data.draw(st.lists(st.integers(1, 4), min_size=n_texts, max_size=n_texts))
    core = core_distances(graph, min_samples, np.array(weights, np.int32))
    assert core.tolist() == oracles.core_distances(dense(graph), min_samples, weights)


@given(graphs(), st.integers(1, 6))
def test_weights_of_one_change_nothing(graph: csr_array, min_samples: int) -> None:
    ones = np.ones(graph.shape[0], np.int32)
    assert_array_equal(core_distances(graph, min_samples, ones), core_distances(graph, min_samples))


def test_the_text_itself_is_none_of_its_samples() -> None:
    graph = undirected_graph(np.array([0, 0]), np.array([1, 2]), np.array([0.25, 0.5], np.float32), 3)
    assert core_distances(graph, 1)[0] == 0.25
    assert core_distances(graph, 2)[0] == 0.5


@given(graphs() | full_graphs(), st.integers(1, 6))
def test_the_forest_weighs_what_prim_finds(graph: csr_array, min_samples: int) -> None:
    core = core_distances(graph, min_samples)
    forest = spanning_forest(graph, core)
    reach = oracles.mutual_reachability(dense(graph), core.tolist())
    assert forest.distance.tolist() == oracles.spanning_weights(reach)


@given(graphs(), st.integers(1, 6))
def test_the_forest_is_sorted_spans_each_piece_and_takes_its_weights_from_the_graph(
    graph: csr_array, min_samples: int
) -> None:
    n_texts, core = graph.shape[0], core_distances(graph, min_samples)
    forest = spanning_forest(graph, core)
    assert (forest.left.dtype, forest.right.dtype, forest.distance.dtype) == (np.int64, np.int64, np.float32)
    assert (forest.left < forest.right).all()
    assert_array_equal(np.lexsort((forest.right, forest.left, forest.distance)), np.arange(forest.left.size))
    reach = oracles.mutual_reachability(dense(graph), core.tolist())
    assert_array_equal(forest.distance, reach[forest.left, forest.right])
    low, high, _ = edges_of(graph)
    of_graph = oracles.pieces(n_texts, zip(low.tolist(), high.tolist(), strict=True))
    assert oracles.pieces(n_texts, [edge[:2] for edge in edges(forest)]) == of_graph
    assert forest.left.size == n_texts - len(set(of_graph))


@given(graphs() | full_graphs(), st.integers(1, 6), st.integers(1, 32), st.randoms())
def test_parts_of_a_graph_give_the_forest_of_the_whole(
    graph: csr_array, min_samples: int, n_parts: int, random: Random
) -> None:
    n_texts, core = graph.shape[0], core_distances(graph, min_samples)
    whole = spanning_forest(graph, core)
    rows = list(range(n_texts))
    random.shuffle(rows)
    shares = [np.array(rows[at::n_parts], np.int64) for at in range(n_parts)]
    forests = [spanning_forest(graph, core, rows=share) for share in shares]
    assert edges(reduce(partial(merge_forests, n_texts=n_texts), forests)) == edges(whole)
    assert edges(spanning_forest(graph, core, symmetric=False)) == edges(whole)  # each edge read twice


def test_more_edges_than_a_band_holds_are_taken_in_several() -> None:
    graph = neighbor_graph(np.random.default_rng(0).normal(size=(700, 8)).astype(np.float32))
    core = core_distances(graph, 5)
    low, high, distance = edges_of(graph)
    assert low.size > 3 * SMALL_BAND
    reach = np.maximum(distance, np.maximum(core[low], core[high]))
    expected = minimum_spanning_tree(csr_array((reach, (low, high)), shape=graph.shape)).data
    assert_array_equal(spanning_forest(graph, core).distance, np.sort(expected))


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_and_bands_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = neighbor_graph(np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32), k=9)
    whole = spanning_forest(graph, core_distances(graph, 3))
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setattr(forest, "SMALL_BAND", 20)
    some = np.random.default_rng(2).permutation(300)
    parts = [spanning_forest(graph, core_distances(graph, 3), rows=np.sort(rows)) for rows in np.split(some, [90, 170])]
    for found in (spanning_forest(graph, core_distances(graph, 3)), reduce(partial(merge_forests, n_texts=300), parts)):
        for name in ("left", "right", "distance"):
            assert_array_equal(getattr(found, name), getattr(whole, name))


@pytest.mark.parametrize("min_samples", [1, 3, 5, 10])
def test_the_forest_of_all_neighbors_is_the_tree_of_hdbscan(min_samples: int) -> None:
    vectors = blobs(seed=min_samples, noise=20).vectors
    graph = neighbor_graph(vectors)
    exact = hdbscan.HDBSCAN(min_samples=min_samples, gen_min_span_tree=True, approx_min_span_tree=False)
    exact.fit(vectors.astype(np.float64))
    ours = spanning_forest(graph, core_distances(graph, min_samples)).distance
    assert_allclose(ours, np.sort(exact._min_spanning_tree[:, 2]), rtol=1e-5)


@given(graphs(most_edges=12))
def test_pieces_are_named_by_their_smallest_row(graph: csr_array) -> None:
    n_texts = graph.shape[0]
    low, high, _ = edges_of(graph)
    piece = np.arange(n_texts)
    join_components(low, high, piece)
    assert piece.tolist() == oracles.pieces(n_texts, zip(low.tolist(), high.tolist(), strict=True))


@given(graphs(most_texts=14, most_edges=30), st.data())
def test_homes_match_the_slow_reference(graph: csr_array, data: st.DataObject) -> None:
    n_texts = graph.shape[0]
    label = data.draw(st.lists(st.integers(-1, 2), min_size=n_texts, max_size=n_texts))
    forest = spanning_forest(graph, core_distances(graph, 1))
    home, height = assign_homes(forest.left, forest.right, forest.distance, np.array(label))
    assert (home.tolist(), height.tolist()) == oracles.homes(edges(forest), label)


@given(graphs(most_texts=14, most_edges=30), st.data())
def test_a_noise_text_joins_at_the_lowest_way_to_any_member(graph: csr_array, data: st.DataObject) -> None:
    n_texts = graph.shape[0]
    label = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=n_texts, max_size=n_texts)))
    forest = spanning_forest(graph, core_distances(graph, 1))
    home, height = assign_homes(forest.left, forest.right, forest.distance, label)
    way = oracles.lowest_ways(n_texts, edges(forest))
    assert_array_equal(height, way[:, label >= 0].min(axis=1, initial=np.inf))
    assert_array_equal(home >= 0, np.isfinite(height))
    assert_array_equal(home[label >= 0], label[label >= 0])


def test_noise_that_has_met_other_noise_joins_together() -> None:
    # 0 -.1- 1 -.2- 2 -.3- member 3
    left, right, distance = np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0.1, 0.2, 0.3], np.float32)
    home, height = assign_homes(left, right, distance, np.array([-1, -1, -1, 4]))
    assert home.tolist() == [4, 4, 4, 4]
    assert height.tolist() == [np.float32(0.3)] * 3 + [0]


def test_a_piece_without_a_cluster_has_no_home() -> None:
    home, height = assign_homes(np.array([0]), np.array([1]), np.array([0.5], np.float32), np.array([-1, -1, 0]))
    assert home.tolist() == [-1, -1, 0]
    assert height.tolist() == [np.inf, np.inf, 0]
