"""map_sample.py: the lists of a sample, and places of the texts outside it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from clustering.kernels.graph import map_sample
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.map_sample import (
    join_lists,
    place_between,
    sample_neighbors,
    sampled_entries,
    take_lists,
)


def chain(n_texts: int, k: int) -> NeighborLists:
    """Texts in a row, each with its k nearest others."""
    away = np.abs(np.arange(n_texts)[:, None] - np.arange(n_texts)[None, :]).astype(np.float32)
    indices = np.argsort(away, axis=1, kind="stable")[:, 1 : k + 1]
    return lists_of(indices, np.take_along_axis(away, indices, axis=1))


def lists_of(indices: NDArray[np.int64], distances: NDArray[np.float32]) -> NeighborLists:
    k = indices.shape[1]
    return NeighborLists(np.arange(0, indices.size + 1, k), indices.ravel(), distances.ravel())


def position_of(chosen: NDArray[np.int64], n_texts: int) -> NDArray[np.int32]:
    position = np.full(n_texts, -1, np.int32)
    position[chosen] = np.arange(chosen.size)
    return position


def test_a_sample_finds_its_neighbors_within_two_steps() -> None:
    lists, chosen = chain(40, 4), np.arange(0, 40, 2)
    position = position_of(chosen, 40)
    rows, own = take_lists(np.arange(40), lists, position >= 0)
    found, away = sample_neighbors(rows, own, position, sampled_entries(lists, position), 20, 3)
    assert found[:, 0].tolist() == list(range(20))
    for at in range(2, 18):
        assert set(found[at, 1:].tolist()) == {at - 1, at + 1}
        assert_array_equal(away[at, 1:], [2, 2])


def test_parts_of_lists_join_to_the_whole() -> None:
    lists = chain(41, 3)
    parts = [take_lists(np.arange(41), lists, np.arange(41) // 9 == part)[1] for part in range(5)]
    joined = join_lists(parts)
    for name in ("indptr", "indices", "distances"):
        assert_array_equal(getattr(joined, name), getattr(lists, name))


def test_texts_outside_the_sample_lie_amid_their_neighbors() -> None:
    lists, chosen = chain(41, 2), np.arange(0, 41, 2)
    xy = np.zeros((41, 2), np.float32)
    xy[chosen, 0] = chosen
    placed = position_of(chosen, 41) >= 0
    rows, waiting = take_lists(np.arange(placed.size), lists, ~placed)
    reached, means = place_between(rows, waiting, 3, placed, xy)
    assert reached.all()
    assert_array_equal(means, np.column_stack([rows, np.zeros(rows.size)]))


def test_a_text_without_a_placed_neighbor_waits() -> None:
    lists = NeighborLists(np.array([0, 1, 2, 2]), np.array([1, 0]), np.ones(2, np.float32))
    rows, waiting = take_lists(np.arange(3), lists, np.array([False, True, True]))
    placed, xy = np.array([True, False, False]), np.full((3, 2), 7, np.float32)
    reached, means = place_between(rows, waiting, 2, placed, xy)
    assert_array_equal(reached, [True, False])
    assert_array_equal(means, [[7, 7]])


def test_blocks_place_texts_where_one_block_does_and_need_little_beside_the_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(4)
    n_texts, k = 40_001, 20
    indices = np.clip(np.arange(n_texts)[:, None] + rng.integers(-60, 61, (n_texts, k)), 0, n_texts - 1)
    lists = lists_of(indices, rng.random((n_texts, k), np.float32))
    placed = np.zeros(n_texts, np.bool_)
    placed[::9] = True
    xy = rng.normal(size=(n_texts, 2)).astype(np.float32)
    rows, waiting = take_lists(np.arange(placed.size), lists, ~placed)
    tracemalloc.start()
    found = place_between(rows, waiting, k + 1, placed, xy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < lists.indices.nbytes + lists.distances.nbytes
    monkeypatch.setattr(map_sample, "BLOCK_ROWS", n_texts)
    for one, other in zip(place_between(rows, waiting, k + 1, placed, xy), found, strict=True):
        assert_array_equal(one, other)
