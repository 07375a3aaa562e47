"""graph.py: pieces are joined by the true shortest edges between them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from clustering import graph as graph_module
from clustering.graph import bridge_pieces
from clustering.kernels.csr import MIN_DISTANCE, edges_of, min_distance, undirected_graph
from tests import oracles
from tests.planted import blobs, neighbor_graph, pair_distances, write_vectors
from tests.strategies import exact_units


def groups(piece: NDArray[np.int32]) -> csr_array:
    """A graph that holds the rows of each piece together and nothing else."""
    ends = [pair for one in np.unique(piece) for pair in pairwise(np.flatnonzero(piece == one))]
    low, high = np.array([end[0] for end in ends], np.int64), np.array([end[1] for end in ends], np.int64)
    return undirected_graph(low, high, np.full(low.size, 0.001, np.float32), len(piece))


def added(before: csr_array, after: csr_array) -> dict[tuple[int, int], float]:
    old = set(zip(*(ends.tolist() for ends in edges_of(before)[:2]), strict=True))
    new = zip(*(column.tolist() for column in edges_of(after)), strict=True)
    return {(low, high): distance for low, high, distance in new if (low, high) not in old}


@pytest.mark.parametrize("metric", ["L2", "COSINE"])
@pytest.mark.parametrize("seed", range(4))
def test_pieces_are_joined_by_the_shortest_edges_between_them(seed: int, metric: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    vectors = blobs(seed, n_blobs=5, each=12, noise=5).vectors
    graph = groups(rng.integers(0, 9, len(vectors)).astype(np.int32))
    n_pieces, piece = connected_components(graph, directed=False)
    joined, bridges, left = bridge_pieces(graph, piece, write_vectors(tmp_path, vectors, part_rows=7), metric)

    exact = pair_distances(vectors)
    expected = oracles.bridges(exact, piece.tolist())
    new = added(graph, joined)
    assert set(new) == expected
    assert bridges == len(expected) == n_pieces - 1
    assert len(np.unique(left)) == 1
    unit = exact if metric == "L2" else exact**2 / 2
    assert_allclose([new[pair] for pair in sorted(new)], [unit[pair] for pair in sorted(new)], rtol=1e-4, atol=1e-6)


@given(exact_units(), st.data())
def test_equal_distances_are_joined_by_the_smallest_rows(
    tmp_path_factory: pytest.TempPathFactory, vectors: NDArray[np.float32], data: st.DataObject
) -> None:
    n_texts = len(vectors)
    graph = groups(np.array(data.draw(st.lists(st.integers(0, 4), min_size=n_texts, max_size=n_texts)), np.int32))
    _, piece = connected_components(graph, directed=False)
    folder = write_vectors(tmp_path_factory.mktemp("vectors"), vectors, part_rows=4)
    joined, bridges, _ = bridge_pieces(graph, piece, folder, "L2")
    distances = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[None], axis=2)
    expected = oracles.bridges(distances, piece.tolist())
    assert set(added(graph, joined)) == expected
    assert bridges == len(expected)


@pytest.mark.parametrize("longest", [0.05, 0.3, 0.6, 0.9])
def test_no_bridge_is_longer_than_allowed(longest: float, tmp_path: Path) -> None:
    vectors = blobs(seed=1, n_blobs=5, each=12, noise=5).vectors
    graph = groups(np.random.default_rng(0).integers(0, 20, len(vectors)).astype(np.int32))
    _, piece = connected_components(graph, directed=False)
    joined, bridges, left = bridge_pieces(graph, piece, write_vectors(tmp_path, vectors, part_rows=7), "L2", longest)
    expected = oracles.bridges(pair_distances(vectors), piece.tolist(), longest)
    assert set(added(graph, joined)) == expected
    assert bridges == len(expected)
    assert_array_equal(np.unique(left).size, connected_components(joined, directed=False)[0])


def test_the_graph_keeps_its_own_edges_and_stays_symmetric(tmp_path: Path) -> None:
    vectors = blobs(seed=3, n_blobs=4, each=15, spread=0.05).vectors
    graph = neighbor_graph(vectors, k=3)
    n_pieces, piece = connected_components(graph, directed=False)
    assert n_pieces > 3
    joined, bridges, _ = bridge_pieces(graph, piece, write_vectors(tmp_path, vectors, part_rows=7), "L2")
    old, new = graph.toarray(), joined.toarray()
    assert_array_equal(new[old > 0], old[old > 0])
    assert_array_equal(new, new.T)
    assert joined.nnz == graph.nnz + 2 * bridges
    assert connected_components(joined, directed=False)[0] == 1
    assert joined.data.dtype == np.float32


@pytest.mark.parametrize("metric", ["L2", "IP"])
def test_a_bridge_between_equal_vectors_has_the_shortest_length(metric: str, tmp_path: Path) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    graph = undirected_graph(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), 3)
    joined, _, _ = bridge_pieces(
        graph, np.arange(3, dtype=np.int32), write_vectors(tmp_path, vectors, part_rows=7), metric
    )
    assert added(graph, joined)[0, 1] == np.float32(min_distance(metric))
    assert min_distance("L2") == MIN_DISTANCE


def test_a_single_piece_is_left_as_it_is(tmp_path: Path) -> None:
    graph = neighbor_graph(blobs(seed=0, n_blobs=1, each=10).vectors)
    same, bridges, _ = bridge_pieces(graph, np.zeros(10, np.int32), tmp_path / "never read", "L2")
    assert same is graph
    assert bridges == 0


def test_too_many_texts_outside_the_largest_piece_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "BRIDGE_QUERIES", 2)
    vectors = blobs(seed=0, n_blobs=1, each=8).vectors
    piece = np.array([0, 0, 0, 0, 0, 1, 2, 3], np.int32)
    graph = groups(piece)
    same, bridges, left = bridge_pieces(graph, piece, write_vectors(tmp_path, vectors, part_rows=7), "L2")
    assert same.nnz == graph.nnz
    assert bridges == 0
    assert np.unique(left).size == 4


def test_blocks_of_queries_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = blobs(seed=5, n_blobs=4, each=10).vectors
    piece = np.random.default_rng(0).integers(0, 10, 40).astype(np.int32)
    graph = groups(piece)
    _, piece = connected_components(graph, directed=False)
    folder = write_vectors(tmp_path, vectors, part_rows=7)
    whole, _, _ = bridge_pieces(graph, piece, folder, "L2")
    monkeypatch.setattr(graph_module, "BLOCK", 3)
    blocked, _, _ = bridge_pieces(graph, piece, folder, "L2")
    assert added(graph, whole).keys() == added(graph, blocked).keys()
