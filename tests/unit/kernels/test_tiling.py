"""tiling.py: what evenly spread points and links at random are told apart from groups by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from clustering import GraphHDBSCAN
from clustering.encoders.base import unit_rows
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.hierarchy.tiling import (
    LINKS,
    NO_GROUPS,
    UNIT,
    count_links,
    count_steps,
    links_within,
    share_of_tiling,
    tile_cut,
)  # fmt: skip
from tests.planted import blobs

Lists = tuple[NDArray[np.int64], NDArray[np.float32]]


def nearest_lists(vectors: NDArray[Any], k: int = LINKS) -> Lists:
    distances, indices = NearestNeighbors(n_neighbors=k).fit(vectors).kneighbors()
    return indices, distances.astype(np.float32)


def tiling(lists: Lists, **words: Any) -> float:
    found = GraphHDBSCAN(**words).fit(neighbors=lists).tiling_
    assert found is not None
    return found


def evenly(dim: int, n_points: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random((n_points, dim))


@pytest.mark.parametrize("dim", [2, 3, 16, 256])
def test_evenly_spread_points_are_a_tiling(dim: int) -> None:
    assert NO_GROUPS + 0.03 < tiling(nearest_lists(evenly(dim))) < 1


def test_points_on_a_sphere_and_a_single_cloud_are_a_tiling() -> None:
    cloud = np.random.default_rng(0).normal(size=(1000, 9))
    assert tiling(nearest_lists(unit_rows(cloud))) > NO_GROUPS
    assert tiling(nearest_lists(cloud)) > NO_GROUPS


def test_presets_tell_it_too() -> None:
    groups = nearest_lists(blobs(0, 20, 40, dim=16, spread=0.15).vectors)
    assert tiling(nearest_lists(evenly(16)), preset="events") > NO_GROUPS
    assert max(tiling(groups, preset="events"), tiling(groups, preset="topics")) < NO_GROUPS / 2


@pytest.mark.parametrize(("dim", "spread"), [(3, 0.03), (8, 0.1), (64, 0.1), (256, 0.05)])
@pytest.mark.parametrize("noise", [0, 100])
def test_groups_are_no_tiling(dim: int, spread: float, noise: int) -> None:
    assert tiling(nearest_lists(blobs(1, 20, 45, noise, dim, spread).vectors)) < NO_GROUPS - 0.2


def test_stories_of_a_handful_are_no_tiling() -> None:
    """Most of a text's first 30 neighbors lie outside a story of four, however clear it is."""
    assert tiling(nearest_lists(blobs(1, 150, 4, dim=32, spread=0.05).vectors)) < NO_GROUPS / 2


def test_links_at_random_are_a_tiling_whatever_the_distances() -> None:
    indices, distances = nearest_lists(blobs(1, 20, 45, dim=16).vectors)
    mixed = np.random.default_rng(0).permutation(indices.ravel()).reshape(indices.shape)  # as often listed as before
    assert tiling((mixed, distances)) > NO_GROUPS
    assert tiling((mixed, np.ones_like(distances))) > NO_GROUPS


def test_without_modularity_and_without_clusters_there_is_no_figure() -> None:
    lists = nearest_lists(evenly(3, 60), 20)
    assert GraphHDBSCAN(weights="distance", selection="eom").fit(neighbors=lists).tiling_ is None
    assert GraphHDBSCAN(min_cluster_size=50).fit(neighbors=lists).tiling_ is None
    some, none = np.ones(2, np.int64), np.zeros(2, np.int64)
    assert share_of_tiling(np.array([9, 9]), none, some) is None
    assert share_of_tiling(np.array([9, 9]), some, none) is None
    assert share_of_tiling(np.array([9, 9]), some, some) is not None


@pytest.mark.parametrize("dim", [2, 5, 20])
def test_steps_tell_the_dimension(dim: int) -> None:
    indices, distances = nearest_lists(evenly(dim, 1500), 15)
    count, total = count_steps(NeighborLists(np.arange(1501) * 15, indices.ravel(), distances.ravel()))
    assert count == 1500 * 14
    assert count * UNIT / total == pytest.approx(dim, rel={2: 0.06, 5: 0.12, 20: 0.4}[dim])


def test_steps_of_parts_add_up_and_later_entries_do_not_count() -> None:
    distances = np.array([1, 2, 4, 1, 1, 3, 3, 3, 5], np.float32)
    lists = NeighborLists(np.array([0, 3, 5, 9]), np.zeros(9, np.int64), distances)
    expected = int(3 * np.log(2) * UNIT) + int(3 * np.log(5 / 3) * UNIT)
    assert count_steps(lists).tolist() == [2 + 1 + 3, expected]
    assert count_steps(lists, 3).tolist() == [2 + 1 + 2, int(3 * np.log(2) * UNIT)]
    parts = [
        NeighborLists(lists.indptr[:3], lists.indices[:5], distances[:5]),
        NeighborLists(np.array([0, 4]), lists.indices[5:], distances[5:]),
    ]
    assert sum(count_steps(one) for one in parts).tolist() == count_steps(lists).tolist()


@pytest.mark.parametrize(("dim", "size"), [(2, 40), (2, 400), (5, 60), (12, 8)])
def test_the_links_that_leave_a_ball_are_those_of_a_trial(dim: int, size: int) -> None:
    rng = np.random.default_rng(dim)

    def ball(radius: float) -> NDArray[np.float64]:
        return unit_rows(rng.normal(size=(200_000, dim))) * radius * rng.random((200_000, 1)) ** (1 / dim)

    outside = np.linalg.norm(ball(1) + ball((10 / size) ** (1 / dim)), axis=1) > 1
    assert tile_cut(size, dim, 10) == pytest.approx(outside.mean(), abs=0.01)


def test_tiles_cut_the_more_links_the_smaller_they_are_and_the_more_dimensions() -> None:
    assert tile_cut(20, 3, 10) > tile_cut(200, 3, 10) > tile_cut(2000, 3, 10) > 0
    assert tile_cut(50, 1000, 10) > tile_cut(50, 16, 10) > tile_cut(50, 2, 10)
    assert tile_cut(50, 1000, 10) == pytest.approx(1, abs=0.01)


def test_clusters_count_by_the_links_of_their_texts() -> None:
    sizes, steps = np.array([100, 20, 20, 4, 1]), np.array([500, 100 * UNIT])  # 5 dimensions
    assert links_within(sizes).tolist() == [30, 19, 19, 3, 0]
    weights = [100 * 30, 40 * 19, 4 * 3]
    tiles = np.average([tile_cut(100, 5, 30), tile_cut(20, 5, 19), tile_cut(4, 5, 3)], weights=weights)
    assert share_of_tiling(sizes, np.array([300, 1400]), steps) == pytest.approx(300 / 1400 / tiles)


@pytest.mark.parametrize("n_blocks", [1, 4])
def test_links_between_clusters_are_counted_over_any_blocks(n_blocks: int) -> None:
    rng = np.random.default_rng(n_blocks)
    links = np.where(rng.random((90, LINKS)) < 0.8, rng.integers(0, 90, (90, LINKS)), -1)
    home, expected = rng.choice([-1, 0, 1, 2], 90, p=[0.1, 0.7, 0.15, 0.05]), np.zeros(2, int)
    sizes = np.bincount(home[home >= 0])
    for row, others in enumerate(links):
        for other in others[: max(sizes[home[row]] - 1, 0) if home[row] >= 0 else 0]:
            expected += other >= 0 and home[row] != home[other], other >= 0
    found = np.zeros(2, int)
    for own in np.array_split(rng.permutation(90), n_blocks):
        found += count_links(own, links[own], home, links_within(sizes))
    assert_array_equal(found, expected)
