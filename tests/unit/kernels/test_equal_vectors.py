"""equal_vectors.py: rows of equal vectors are found, also where no list joins them, and no tree parts them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from clustering.encoders.base import unit_rows
from clustering.kernels.graph.diffusion import MIN_LENGTH, NeighborLists, diffuse
from clustering.kernels.graph.equal_vectors import (
    APART,
    equal_edges,
    equal_pairs,
    find_tied_rows,
    join_equal_rows,
    tie_equal_rows,
)
from clustering.kernels.graph.forest import core_distances, join_components, spanning_forest
from clustering.kernels.hierarchy.labels import ClusterOptions, label_texts
from tests.planted import blobs, pair_distances

FLOOR = 1e-3
FLOORED = float(MIN_LENGTH)


def corpus(seed: int, equal: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Blobs, of three rows ``equal`` more rows each whose vectors differ by rounding; which rows have one vector."""
    rng = np.random.default_rng(seed)
    vectors = blobs(seed, n_blobs=5, each=25, noise=20, dim=16, spread=0.2).vectors
    copied = rng.choice(len(vectors), 3, replace=False).repeat(equal)
    rounded = unit_rows((vectors[copied] + rng.normal(0, 2e-8, (copied.size, 16))).astype(np.float32))
    piece = np.concatenate([np.arange(len(vectors)), copied])
    order = rng.permutation(len(piece))
    return np.concatenate([vectors, rounded])[order], piece[order]


def lists_of(vectors: NDArray[np.float32], piece: NDArray[np.int64], k: int, halves: bool) -> NeighborLists:
    """The k nearest; of equal ones the first, or, as an approximate search may give them, those of the same half."""
    distances = pair_distances(vectors).astype(np.float32)
    distances[piece[:, None] == piece] = 0
    order = np.arange(len(vectors))
    if halves:  # equal ones of the same parity come first
        distances[(distances == 0) & (order[:, None] % 2 != order % 2)] = 1e-5
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    found = np.maximum(np.take_along_axis(distances, nearest, axis=1), np.float32(FLOOR))
    indptr = np.arange(len(vectors) + 1, dtype=np.int64) * k
    return NeighborLists(indptr, nearest.ravel(), found.ravel())


def sets_of(group: Any) -> set[frozenset[int]]:
    group = np.asarray(group)
    return {frozenset(np.flatnonzero(group == one).tolist()) for one in np.unique(group)}


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("equal", [2, 6, 40])
def test_every_set_of_equal_vectors_is_found(equal: int, halves: bool) -> None:
    vectors, truth = corpus(equal, equal)
    lists = lists_of(vectors, truth, 12, halves)
    piece, full = join_equal_rows([equal_edges(lists, np.arange(len(lists)), FLOOR)], len(vectors))
    if equal < 12:
        assert full.size == 0  # no vector is looked at
    else:
        assert full.size == (6 if halves else 3)
    left, right = equal_pairs(vectors[full])
    join_components(full[left], full[right], piece)
    assert sets_of(piece) == sets_of(truth)


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_equal_pairs_are_those_of_all_pairs(seed: int, count: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit_rows(rng.normal(size=(distinct, 5)).astype(np.float32))[rng.integers(0, distinct, count)]
    vectors = unit_rows((vectors + rng.normal(0, 1e-7, vectors.shape)).astype(np.float32))
    piece, truth = np.arange(count), np.arange(count)
    left, right = equal_pairs(vectors)
    join_components(left, right, piece)
    one, other = np.nonzero(np.linalg.norm(vectors[:, None] - vectors[None], axis=2) <= APART)
    join_components(one, other, truth)
    assert_array_equal(piece, truth)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("equal", [2, 6, 40])
@pytest.mark.parametrize("weights", ["diffused", "distance"])
def test_equal_vectors_share_cluster_strength_and_home(weights: str, equal: int, halves: bool) -> None:
    parted = False
    for seed in range(8):
        vectors, piece = corpus(seed, equal)
        lists = lists_of(vectors, piece, 12, halves)
        n_texts, copies = len(vectors), np.ones(len(vectors), np.int32)
        copies[np.flatnonzero(piece == piece[0])] = 2
        diffused = weights == "diffused"
        length = diffuse(lists, 0) if diffused else lists.distances
        floor = FLOORED if diffused else FLOOR
        graph = lists.graph(length, n_texts)
        core = np.zeros(n_texts, np.float32) if diffused else core_distances(graph, 3)
        forest = spanning_forest(graph, core, symmetric=False)
        row = np.unique(piece, return_index=True, return_inverse=True)
        smallest = row[1][row[2]]
        whole = tie_equal_rows(forest, smallest, core, floor)
        assert_array_equal(find_tied_rows(whole, core, floor), smallest)
        assert_array_equal(find_tied_rows(forest, core, floor), np.arange(n_texts))
        assert (np.diff(whole.distance) >= 0).all()
        for options in (
            ClusterOptions(),
            ClusterOptions(preset="topics"),
            ClusterOptions(selection="eom"),
            ClusterOptions(selection="leaf"),
        ):
            nearest = lists.nearest(options.n_neighbors)
            before = label_texts(forest, copies, core, options, floor=floor, nearest=nearest)
            after = label_texts(whole, copies, core, options, floor=floor, nearest=nearest, equal_to=smallest)
            parted |= bool((before.label != before.label[smallest]).any())
            for one in fields(after):
                if one.name in ("label", "strength", "home", "home_strength", "outlier_score", "layers"):
                    values = getattr(after, one.name)
                    assert_array_equal(values, values[smallest], err_msg=f"{one.name} {options}")
            assert after.label.max() + 1 == after.n_clusters
    assert parted or equal < 40 or not halves  # the case is one that went wrong


def test_a_forest_without_equal_vectors_stays_as_it_is() -> None:
    vectors, piece = corpus(3, 0)
    lists = lists_of(vectors, piece, 12, False)
    core = np.zeros(len(vectors), np.float32)
    forest = spanning_forest(lists.graph(diffuse(lists, 0), len(vectors)), core, symmetric=False)
    assert tie_equal_rows(forest, np.arange(len(vectors)), core, FLOORED) is forest


def test_noise_that_has_one_vector_is_a_cluster_where_its_records_are_enough() -> None:
    rows = np.array([0, 1, 2, 3, 4, 5])
    none, core = np.empty(0, np.float32), np.zeros(6, np.float32)
    graph = NeighborLists(np.zeros(7, np.int64), rows[:0], none).graph(none, 6)
    forest = spanning_forest(graph, core, symmetric=False)
    forest = tie_equal_rows(forest, np.array([0, 0, 0, 3, 4, 5]), core, FLOORED)
    copies = np.array([2, 1, 2, 1, 1, 1], np.int32)
    nearest = np.full((6, 10), -1)
    found = label_texts(
        forest, copies, np.zeros(6, np.float32), ClusterOptions(), floor=FLOORED, nearest=nearest,
        equal_to=find_tied_rows(forest, np.zeros(6, np.float32), FLOORED),
    )  # fmt: skip
    assert found.label.tolist() == [0, 0, 0, -1, -1, -1]
    assert found.n_clusters == found.n_copies_clusters == 1
