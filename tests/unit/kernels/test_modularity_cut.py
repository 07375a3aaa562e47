"""Clusters by modularity on diffused distances: beside a slow reference, and whatever changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score

from clustering import GraphHDBSCAN
from clustering.encoders.base import unit_rows
from clustering.estimator.rows import own_entries
from clustering.kernels import threads
from clustering.kernels.graph import diffusion
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.forest import spanning_forest
from clustering.kernels.graph.group_sizes import GroupSizes, count_breaks, measure_group_sizes
from clustering.kernels.graph.halo import number_locally
from clustering.kernels.hierarchy import modularity_cut
from clustering.kernels.hierarchy.condensed_tree import condense, leaf_clusters
from clustering.kernels.hierarchy.homes import home_strength, median_height
from clustering.kernels.hierarchy.labels import ClusterOptions, label_texts
from tests import oracles
from tests.planted import blobs, pair_distances

K = 12


def nearest_lists(vectors: NDArray[Any], k: int = K) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    distances = pair_distances(vectors).astype(np.float32)
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return indices, np.take_along_axis(distances, indices, axis=1)


def as_lists(indices: NDArray[np.int64], distances: NDArray[np.float32]) -> NeighborLists:
    indptr = np.arange(len(indices) + 1, dtype=np.int64) * indices.shape[1]
    return NeighborLists(indptr, indices.ravel(), distances.ravel())


def planted(seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    n_blobs, dim = int(rng.integers(2, 7)), int(rng.integers(2, 9))
    return blobs(
        seed, n_blobs=n_blobs, each=int(rng.integers(8, 20)), noise=int(rng.integers(0, 25)), dim=dim,
        spread=float(rng.uniform(0.05, 0.4)),
    ).vectors  # fmt: skip


def partition(label: Any) -> set[frozenset[int]]:
    label = np.asarray(label)
    return {frozenset(np.flatnonzero(label == one).tolist()) for one in np.unique(label[label >= 0])}


def slow(indices: NDArray[np.int64], distances: NDArray[np.float32], preset: str | None, gamma: float) -> Any:
    """label, home and the groups of leaves of the reference, and its tree."""
    n_rows = len(indices)
    lists = [list(zip(ids, away, strict=True)) for ids, away in zip(indices.tolist(), distances.tolist(), strict=True)]
    forest = oracles.kruskal(n_rows, oracles.diffused(lists, seed=0))
    root = oracles.condensed(range(n_rows), forest, smallest=5)
    leaves = [node for node in root.leaves() if node is not root]
    number = {leaf: place for place, leaf in enumerate(leaves)}
    start = [-1] * n_rows
    for leaf, place in number.items():
        for row in leaf.own:
            start[row] = place
    territory, _ = oracles.homes(forest, start)
    near = indices if preset == "topics" else indices[:, : 7 if preset == "events" else 10]
    measure = oracles.Modularity(oracles.quality_edges(near.tolist(), shared=preset != "topics"), territory, gamma)
    if preset == "topics":
        found = oracles.louvain(measure, len(leaves))
        group = {leaf: found[place] for leaf, place in number.items()}
    else:
        _, chosen = oracles.best_cut(root, number, measure)
        group = {leaf: place for place, node in enumerate(chosen) for leaf in node.leaves()}
    label = oracles.row_labels(root, group, n_rows)
    home = [group[leaves[one]] if one >= 0 else -1 for one in territory]
    return label, home


@pytest.mark.parametrize("preset", [None, "events", "topics"])
@pytest.mark.parametrize("seed", range(20))
def test_labels_and_homes_are_those_of_the_slow_reference(seed: int, preset: str | None) -> None:
    indices, distances = nearest_lists(planted(seed))
    ours = GraphHDBSCAN(min_cluster_size=5, preset=preset, granularity=20_000).fit(neighbors=(indices, distances))
    label, home = slow(indices, distances, preset, gamma=1.0)
    assert partition(ours.labels_) == partition(label)
    assert partition(ours.home_) == partition(home)
    assert_array_equal(ours.labels_ < 0, np.array(label) < 0)
    assert_array_equal(ours.home_[ours.labels_ >= 0], ours.labels_[ours.labels_ >= 0])


@pytest.mark.parametrize("seed", range(20))
def test_layers_are_cuts_that_the_reference_makes_too(seed: int) -> None:
    """Finer layers are cuts at a larger gamma; broader ones are merges of the layer before, by Louvain's method."""
    indices, distances = nearest_lists(planted(seed))
    lists = as_lists(indices, distances)
    graph = csr_array((diffusion.diffuse(lists, 0), lists.indices, lists.indptr), shape=(len(lists), len(lists)))
    forest = spanning_forest(graph, np.zeros(len(lists), np.float32), symmetric=False)
    found = label_texts(
        forest, np.ones(len(lists), np.int32), np.zeros(len(lists), np.float32),
        ClusterOptions(granularity=20_000, min_cluster_size=3), floor=0, nearest=indices[:, :10],
    )  # fmt: skip
    assert_array_equal(found.layers[:, found.chosen_layer], found.label)
    edges = list(zip(*(column.tolist() for column in (forest.left, forest.right, forest.distance)), strict=True))
    root = oracles.condensed(range(len(lists)), edges, 3)
    leaves = [node for node in root.leaves() if node is not root]
    number = {leaf: place for place, leaf in enumerate(leaves)}
    start = np.full(len(lists), -1)
    for leaf, place in number.items():
        start[list(leaf.own)] = place
    territory, _ = oracles.homes(edges, start.tolist())
    quality = oracles.quality_edges(indices[:, :10].tolist())
    for layer in range(found.chosen_layer, found.layers.shape[1]):
        _, chosen = oracles.best_cut(root, number, oracles.Modularity(quality, territory, found.gammas[layer]))
        group = {leaf: place for place, node in enumerate(chosen) for leaf in node.leaves()}
        assert partition(found.layers[:, layer]) == partition(oracles.row_labels(root, group, len(lists)))
        if layer == found.chosen_layer:
            base = group
    for layer in range(found.chosen_layer - 1, -1, -1):
        unit = [base[leaves[one]] if one >= 0 else -1 for one in territory]
        merged = oracles.louvain(oracles.Modularity(quality, unit, found.gammas[layer]), len(set(base.values())))
        base = {leaf: merged[one] for leaf, one in base.items()}
        assert partition(found.layers[:, layer]) == partition(oracles.row_labels(root, base, len(lists)))


def test_layers_nest_and_parents_name_the_cluster_around() -> None:
    themes = np.repeat(blobs(1, n_blobs=10, each=6, dim=8, spread=0.15).vectors, 40, axis=0)
    vectors = themes + np.random.default_rng(1).normal(0, 0.1, themes.shape)
    found = GraphHDBSCAN(min_cluster_size=5).fit(neighbors=nearest_lists(vectors, 15))
    layers, parent = found.layers_, found.layer_parents_
    assert layers.shape[1] >= 3
    counts = [np.unique(column[column >= 0]).size for column in layers.T]
    assert all(2 * broad <= fine for broad, fine in pairwise(counts))
    for fine, broad in zip(layers.T[1:], layers.T, strict=False):
        inside = fine >= 0
        assert (broad[inside] >= 0).all()
        pairs = np.unique(np.stack([fine[inside], broad[inside]]), axis=1)
        assert np.unique(pairs[0]).size == pairs.shape[1]  # every finer cluster lies in one broader one
        assert all(one == two or parent[one] == two for one, two in pairs.T)
    used = np.unique(layers[layers >= 0])
    assert_array_equal(used, np.arange(parent.size))
    assert found.cluster_persistence_.size == parent.size
    assert_array_equal(layers[:, found.layer_], found.labels_)
    assert set(np.unique(found.labels_[found.labels_ >= 0])) == set(range(found.labels_.max() + 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, "events", "topics"]))
def test_the_order_of_rows_changes_only_numbers(seed: int, preset: str | None) -> None:
    indices, distances = nearest_lists(planted(seed))
    order = np.random.default_rng(seed).permutation(len(indices))
    place = np.argsort(order)
    model = GraphHDBSCAN(preset=preset)
    here, homes = model.fit(neighbors=(indices, distances)).labels_, model.home_
    layers = model.layers_[:, : model.layer_ + 1]  # finer ones may hang on edges of the same length
    there = model.fit(neighbors=(place[indices[order]], distances[order]), keys=order).labels_[place]
    assert partition(here) == partition(there)
    assert partition(homes) == partition(model.home_[place])
    others = model.layers_[place][:, : model.layer_ + 1]
    assert [partition(column) for column in layers.T] == [partition(column) for column in others.T]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["diffused", "distance"]))
def test_the_order_of_neighbors_changes_nothing(seed: int, weights: str) -> None:
    indices, distances = nearest_lists(planted(seed))
    order = np.argsort(np.random.default_rng(seed).random(indices.shape), axis=1)
    shuffled = (np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1))
    one = GraphHDBSCAN(weights=weights).fit(neighbors=(indices, distances))
    other = GraphHDBSCAN(weights=weights).fit(neighbors=shuffled)
    assert_array_equal(one.layers_, other.layers_)
    assert_array_equal(one.home_, other.home_)
    assert_array_equal(one.probabilities_, other.probabilities_)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 32), st.integers(1, 4))
def test_shards_and_threads_change_not_a_bit(seed: int, n_shards: int, n_threads: int) -> None:
    lists = as_lists(*nearest_lists(planted(seed)))
    whole = diffusion.diffuse(lists, seed)
    owner = np.random.default_rng(seed).integers(0, n_shards, len(lists))
    shards, named = [], []
    for number in range(n_shards):
        rows = np.flatnonzero(owner == number)
        slots = np.concatenate([np.empty(0, int), *(np.arange(*lists.indptr[row : row + 2]) for row in rows)])
        local, halo = number_locally(rows, lists.indices[slots])
        indptr = np.concatenate([[0], np.cumsum(np.diff(lists.indptr)[rows])])
        shards.append((NeighborLists(indptr, local, lists.distances[slots]), rows, slots))
        named.append(np.concatenate([rows, halo]))

    def joined(values: Any, made: Callable[..., Any]) -> Any:
        """An array of all rows from those that the shards make of theirs."""
        for at, (shard, rows, _) in enumerate(shards):
            values[rows] = made(at, shard)
        return values

    n_rows = len(lists)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "RANGE", 7)
        patch.setenv("OMP_NUM_THREADS", str(n_threads))
        scale = joined(np.empty(n_rows, np.float32), lambda _, shard: diffusion.local_scales(shard))
        pulls = [diffusion.affinities(shard, scale[named[at]]) for at, (shard, _, _) in enumerate(shards)]
        sketch = diffusion.draw_sketch(np.arange(n_rows, dtype=np.uint64), seed)
        for _ in range(diffusion.ROUNDS):
            last = sketch
            sketch = joined(
                np.empty_like(last),
                lambda at, shard: diffusion.average_sketches(shard, pulls[at], last[named[at]]),  # noqa: B023
            )
        for at, (shard, _, slots) in enumerate(shards):
            assert_array_equal(diffusion.edge_lengths(shard, sketch[named[at]]), whole[slots])
        assert_array_equal(sum(count_breaks(shard) for shard, _, _ in shards), count_breaks(lists))


def test_edges_have_one_length_in_both_directions() -> None:
    lists = as_lists(*nearest_lists(planted(3)))
    length = diffusion.diffuse(lists, 0)
    rows = np.repeat(np.arange(len(lists)), K)
    known = {(row, other): one for row, other, one in zip(rows, lists.indices, length, strict=True)}
    both = [(one, known[other, row]) for (row, other), one in known.items() if (other, row) in known]
    assert len(both) > K
    assert all(one == other for one, other in both)
    assert ((length >= 1e-6) & (length <= 2)).all()


@pytest.mark.parametrize("seed", range(4))
def test_sketches_of_16_bits_lose_next_to_nothing(seed: int) -> None:
    indices, distances = nearest_lists(planted(seed))
    lists = [list(zip(ids, away, strict=True)) for ids, away in zip(indices.tolist(), distances.tolist(), strict=True)]
    exact = oracles.diffused(lists, 0, whole=False)
    length = diffusion.diffuse(as_lists(indices, distances), 0).reshape(indices.shape)
    for row, (others, own) in enumerate(zip(indices.tolist(), length.tolist(), strict=True)):
        assert own == pytest.approx([exact[row, other] for other in others], abs=3e-4)


@pytest.mark.parametrize(("themes", "broader"), [([9, 8, 8, 8], 2), ([14, 6, 6, 6], 1)])
def test_no_broader_layer_holds_a_quarter_of_the_texts_in_one_cluster(themes: list[int], broader: int) -> None:
    """Events in themes of so many: the largest cluster of a second broader layer has 24 % of the texts, or 38 %."""
    rng = np.random.default_rng(4)
    events = np.repeat(rng.normal(size=(len(themes), 16)), themes, axis=0)
    events = np.repeat(events + rng.normal(0, 0.35, events.shape), 7, axis=0)
    lists = nearest_lists((events + rng.normal(0, 0.15, events.shape)).astype(np.float32), 30)
    found = GraphHDBSCAN(granularity=len(events) // 20, min_cluster_size=5).fit(neighbors=lists)
    assert found.layer_ == broader
    shares = [np.bincount(layer[layer >= 0]).max() / len(events) for layer in found.layers_.T]
    assert max(shares) <= 0.25
    assert max(shares) > 0.15


def test_fewer_layers_on_request() -> None:
    themes = np.repeat(blobs(1, n_blobs=10, each=6, dim=8, spread=0.15).vectors, 40, axis=0)
    lists = nearest_lists(themes + np.random.default_rng(1).normal(0, 0.1, themes.shape), 15)
    found = {most: GraphHDBSCAN(layers=most).fit(neighbors=lists) for most in (1, 2, 6)}
    assert [found[most].layers_.shape[1] for most in (1, 2)] == [1, 2]
    assert found[6].layers_.shape[1] > 2
    for one in found.values():
        assert_array_equal(one.layers_[:, one.layer_], one.labels_)
        assert_array_equal(one.labels_, found[6].labels_)


def test_diffusion_draws_groups_together() -> None:
    corpus = blobs(5, n_blobs=5, each=40, spread=0.2)
    indices, distances = nearest_lists(corpus.vectors)
    same = (corpus.truth[indices] == corpus.truth[:, None]).ravel()
    length = diffusion.diffuse(as_lists(indices, distances), 0)
    before = np.median(distances.ravel()[~same]) / np.median(distances.ravel()[same])
    after = np.median(length[~same]) / np.median(length[same])
    assert after > 2 * before


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_found_with_little_noise(seed: int) -> None:
    corpus = blobs(seed, n_blobs=8, each=60, spread=0.12, noise=40)
    ours = GraphHDBSCAN().fit(neighbors=nearest_lists(corpus.vectors, 30))
    inside = corpus.truth >= 0
    assert adjusted_rand_score(corpus.truth[inside], ours.home_[inside]) > 0.9
    assert (ours.labels_ < 0).mean() < 0.2
    assert ((ours.probabilities_ >= 0) & (ours.probabilities_ <= 1)).all()
    assert (ours.probabilities_[ours.labels_ < 0] == 0).all()
    assert ours.modularity_ > 0.5


def test_stories_of_a_handful_are_told_apart() -> None:
    corpus = blobs(2, n_blobs=120, each=4, dim=24, spread=0.05)
    lists = nearest_lists(corpus.vectors, 40)
    group_sizes = measure_group_sizes(count_breaks(as_lists(*lists)), len(corpus.truth))
    assert group_sizes.small_weight == 1
    assert 3 <= group_sizes.size <= 5
    fitted = GraphHDBSCAN().fit(neighbors=lists)
    fixed = GraphHDBSCAN(min_cluster_size=5, granularity=20_000).fit(neighbors=lists)
    assert adjusted_rand_score(corpus.truth, fitted.home_) > 0.9
    assert adjusted_rand_score(corpus.truth, fixed.home_) < 0.7


def test_even_points_show_no_groups() -> None:
    vectors = blobs(0, n_blobs=1, each=2, noise=800, dim=6).vectors
    assert measure_group_sizes(count_breaks(as_lists(*nearest_lists(vectors, 40))), len(vectors)).small_weight == 0
    assert measure_group_sizes(np.zeros((2, 15), np.int64), 10) == GroupSizes(0.0, 0)


def families(seed: int, n_stories: int, each: int, copies: int, dim: int = 64) -> tuple[NDArray[Any], NDArray[Any]]:
    """Unit vectors of stories, each of some headlines with a few near-duplicates; and each one's story."""
    rng = np.random.default_rng(seed)
    story = rng.normal(size=(n_stories, dim)).repeat(each, axis=0)
    headline = (story + 0.7 * rng.normal(size=story.shape)).repeat(copies, axis=0)
    vectors = headline + 0.1 * rng.normal(size=headline.shape)
    return unit_rows(vectors), np.arange(n_stories).repeat(each * copies)


def test_near_duplicates_within_stories_do_not_refine_the_clusters() -> None:
    """Lists break off behind the copies of a headline by several outlets, but the story goes on there."""
    vectors, story = families(0, n_stories=12, each=12, copies=4)
    lists = nearest_lists(vectors, 40)
    found = measure_group_sizes(count_breaks(as_lists(*lists)), len(vectors))
    assert found.families > 0.5
    assert found.small_weight == 0
    assert adjusted_rand_score(story, GraphHDBSCAN().fit(neighbors=lists).home_) > 0.9
    alone, _ = families(0, n_stories=144, each=1, copies=4)  # the same families, each a story of its own
    assert measure_group_sizes(count_breaks(as_lists(*nearest_lists(alone, 40))), len(alone)).small_weight == 1


@pytest.mark.parametrize("k", [15, 20, 30, 50])
def test_longer_lists_change_no_granularity(k: int) -> None:
    vectors = blobs(2, n_blobs=120, each=4, dim=24, spread=0.05).vectors
    breaks = count_breaks(as_lists(*nearest_lists(vectors, 60)), unrelated=60.0)
    assert_array_equal(count_breaks(as_lists(*nearest_lists(vectors, k)), unrelated=60.0), breaks)


def even_list(length: int, at: int, jump: float) -> NeighborLists:
    """One list with equal steps, but for the one behind rank ``at``, which is ``jump`` times as wide as the others."""
    ranks = np.arange(1, length)
    steps = np.full(length - 1, 0.02)
    steps[at - 1] *= jump
    distances = 0.2 * np.exp(np.concatenate([[0], np.cumsum(steps / ranks)]))
    return NeighborLists(np.array([0, length]), np.arange(1, length + 1), distances.astype(np.float32))


def test_a_break_is_five_times_as_wide_as_the_other_steps() -> None:
    assert count_breaks(even_list(15, 6, 4.8), unrelated=0.05).sum() == 0
    breaks = count_breaks(even_list(15, 6, 5.2), unrelated=0.05)
    assert breaks[:, 6].sum() == breaks.sum() == 1
    assert count_breaks(even_list(20, 16, 20), unrelated=0.05).sum() == 0  # behind the entries that are read


def test_a_break_is_far_from_half_way_to_unrelated_texts_on() -> None:
    """Group at squared distance 1, what follows at 4: half-way where unrelated texts are at 7."""
    lists = NeighborLists(np.array([0, 9]), np.arange(1, 10), np.r_[[1.0] * 4, [2.0] * 5].astype(np.float32))
    assert count_breaks(lists, unrelated=6.9)[:, 4].tolist() == [0, 1]
    assert count_breaks(lists, unrelated=7.1)[:, 4].tolist() == [1, 0]


def test_shares_of_broken_lists_weigh_small_groups() -> None:
    assert [GroupSizes(share, 4).small_weight for share in (0.06, 0.18, 0.9)] == [0, 1, 1]
    assert GroupSizes(0.12, 4).small_weight == pytest.approx(0.5)
    assert GroupSizes(0.11, 4).min_cluster_size == 5
    assert GroupSizes(0.13, 4).min_cluster_size == 3
    assert (GroupSizes(0.2, 9).n_averaged, GroupSizes(0.2, 3).n_averaged, GroupSizes(0.01, 4).n_averaged) == (9, 4, 15)


def test_the_resolution_is_bounded() -> None:
    assert GroupSizes(0.5, 4).gamma(2000) == pytest.approx(2000 / 20)
    assert GroupSizes(0.5, 4).gamma(10_000) == 256  # not 500
    assert GroupSizes(0.5, 4).gamma(1_000_000) == 256 * 50
    assert GroupSizes(0.5, 4).gamma(1000, granularity=100) == 10


def test_granularity_is_finer_when_smaller() -> None:
    corpus = blobs(4, n_blobs=30, each=20, dim=6, spread=0.2)
    lists = nearest_lists(corpus.vectors, 30)
    counts = [GraphHDBSCAN(granularity=size).fit(neighbors=lists).labels_.max() for size in (20_000, 100, 20)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_copies_weigh_in_the_cut_and_are_one_cluster_alone() -> None:
    vectors = blobs(6, n_blobs=3, each=30, dim=5, spread=0.1).vectors
    far = np.concatenate([vectors, np.tile([[0, 0, 0, 0, 30.0]], (30, 1))])
    distances = np.linalg.norm(far[:, None] - far[None], axis=2).astype(np.float32)
    np.fill_diagonal(distances, np.inf)
    indices = np.argsort(distances, axis=1, kind="stable")[:, :45]
    lists = indices, np.take_along_axis(distances, indices, 1)
    plain = GraphHDBSCAN().fit(neighbors=nearest_lists(vectors, 15))
    for copies in ("fold", "weigh"):
        ours = GraphHDBSCAN(copies=copies, min_distance=1e-3).fit(neighbors=lists)
        assert len(set(ours.labels_[90:])) == 1
        assert (ours.labels_ == ours.labels_[90]).sum() == 30
    assert plain.labels_.max() >= 2


@pytest.mark.parametrize("n_rows", [0, 1, 2, 7])
def test_few_rows_are_noise(n_rows: int) -> None:
    indices = np.array([[other for other in range(n_rows) if other != row] for row in range(n_rows)], np.int64)
    indices = indices.reshape(n_rows, max(n_rows - 1, 0))
    ours = GraphHDBSCAN().fit(neighbors=(indices, np.ones(indices.shape)))
    assert ours.labels_.tolist() == ours.home_.tolist() == [-1] * n_rows
    assert ours.layers_.shape == (n_rows, 1)


def test_one_zero_distance_changes_no_group_sizes() -> None:
    vectors = blobs(0, n_blobs=30, each=20, dim=8, spread=0.2, noise=400).vectors
    indices, distances = nearest_lists(vectors, 15)
    plain = GraphHDBSCAN().fit(neighbors=(indices, distances))
    near = distances.copy()
    near[0, 0] = 0
    folded = GraphHDBSCAN().fit(neighbors=(indices, near))
    assert adjusted_rand_score(plain.home_, folded.home_) > 0.9
    rows = np.repeat(np.arange(len(vectors)), 15)
    graph = csr_array((distances.ravel(), (rows, indices.ravel())), shape=(len(vectors), len(vectors)))
    symmetric = GraphHDBSCAN().fit(graph.maximum(graph.T))
    assert adjusted_rand_score(plain.home_, symmetric.home_) > 0.9
    assert abs(len(set(plain.labels_)) - len(set(symmetric.labels_))) <= 0.2 * len(set(plain.labels_))


def test_rows_without_edges_are_none_of_a_single_cluster() -> None:
    indices, distances = nearest_lists(blobs(0, n_blobs=1, each=9, dim=3, spread=0.01).vectors, 6)
    apart = np.concatenate([indices, np.full((3, 6), -1)]), np.concatenate([distances, np.zeros((3, 6))])
    alone = GraphHDBSCAN(min_cluster_size=5, allow_single_cluster=True).fit(neighbors=apart)
    assert alone.labels_.tolist() == alone.home_.tolist() == [0] * 9 + [-1] * 3


def test_copies_that_lie_in_a_broader_cluster_name_it_as_parent() -> None:
    rng = np.random.default_rng(3)
    themes = np.repeat(blobs(1, n_blobs=10, each=6, dim=8, spread=0.15).vectors, 40, axis=0)
    vectors = themes + rng.normal(0, 0.1, themes.shape)
    lists = nearest_lists(vectors, 15)
    plain = GraphHDBSCAN(min_cluster_size=5).fit(neighbors=lists)
    noise = np.flatnonzero((plain.labels_ < 0) & (plain.layers_[:, 0] >= 0))
    assert plain.layer_ > 0
    assert noise.size
    copies = np.ones(len(vectors), np.int32)
    copies[noise[0]] = 9
    listed = as_lists(*lists)
    graph = csr_array((diffusion.diffuse(listed, 0), listed.indices, listed.indptr), shape=(len(vectors),) * 2)
    forest = spanning_forest(graph, np.zeros(len(vectors), np.float32), symmetric=False)
    found = label_texts(
        forest, copies, np.zeros(len(vectors), np.float32), ClusterOptions(min_cluster_size=5), floor=0,
        nearest=np.ascontiguousarray(lists[0][:, :10]),
        group_sizes=measure_group_sizes(count_breaks(listed), len(vectors)),
    )  # fmt: skip
    mine = found.label[noise[0]]
    assert mine >= 0
    assert found.n_copies_clusters == 1
    assert found.parent[mine] == found.layers[noise[0], found.chosen_layer - 1]


def test_one_cluster_is_allowed_on_request() -> None:
    lists = nearest_lists(blobs(0, n_blobs=1, each=9, dim=3, spread=0.01).vectors, 6)  # too few for two
    assert GraphHDBSCAN(min_cluster_size=5).fit(neighbors=lists).labels_.tolist() == [-1] * 9
    alone = GraphHDBSCAN(min_cluster_size=5, allow_single_cluster=True).fit(neighbors=lists)
    assert alone.labels_.tolist() == alone.home_.tolist() == [0] * 9


def test_rows_without_neighbors_and_short_lists_are_borne() -> None:
    indices, distances = nearest_lists(planted(2))
    indices[5] = -1
    indices = np.where(indices == 5, -1, indices)
    indices[7, 2:] = -1
    ours = GraphHDBSCAN().fit(neighbors=(indices, distances))
    assert ours.labels_[5] == ours.home_[5] == -1
    assert (ours.layers_[5] == -1).all()


def test_the_cut_has_the_modularity_that_is_told() -> None:
    indices, distances = nearest_lists(planted(9))
    ours = GraphHDBSCAN(min_cluster_size=5, granularity=20_000).fit(neighbors=(indices, distances))
    edges = oracles.quality_edges(indices[:, :10].tolist())
    measure = oracles.Modularity(edges, ours.home_.tolist(), 1.0)
    assert ours.modularity_ == pytest.approx(sum(measure.of([one]) for one in np.unique(ours.home_)), abs=1e-4)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_cuts_at_larger_gammas_lie_within_those_at_smaller(seed: int) -> None:
    indices, distances = nearest_lists(planted(seed))
    lists = as_lists(indices, distances)
    graph = csr_array((diffusion.diffuse(lists, 0), lists.indices, lists.indptr), shape=(len(lists), len(lists)))
    forest = spanning_forest(graph, np.zeros(len(lists), np.float32), symmetric=False)
    tree = condense(forest, len(lists), 3)
    leaves = leaf_clusters(tree)
    quality = modularity_cut.measure_quality(
        forest, tree, leaves, modularity_cut.QualityBlock.of(indices[:, :10]), len(lists)
    )
    before = None
    for gamma in (0.25, 0.5, 1, 2, 4, 8):
        number = modularity_cut.cut_tree(tree, quality, gamma)[leaves]
        if before is not None and number.size:
            pairs = np.unique(np.stack([number, before]), axis=1)
            assert np.unique(number).size == pairs.shape[1]
        before = number


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"selection": "best"}, "selection='best' is not known; give one of 'modularity', 'eom', 'leaf'"),
        ({"preset": "news"}, "preset='news' is not known; give one of None, 'events', 'topics'"),
        ({"weights": "snn"}, "weights='snn' is not known; give one of"),
        ({"copies": "drop"}, "copies='drop' is not known; give one of"),
        ({"layers": 9}, "layers=9 is above its range; give a whole number from 1 to 6"),
        ({"granularity": 0}, "granularity=0 is below its range; give a whole number from 1 on"),
        ({"min_samples": 0}, "min_samples=0 is below its range; give a whole number from 1 on"),
    ],
)
def test_wrong_words_are_refused(words: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GraphHDBSCAN(**words).fit(neighbors=([[1], [0]], [[1.0], [1.0]]))


def test_keys_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keys have shape \(3,\); expected \(2,\)"):
        GraphHDBSCAN().fit(neighbors=([[1], [0]], [[1.0], [1.0]]), keys=[1, 2, 3])


def test_vectors_belong_to_plain_distances() -> None:
    with pytest.raises(ValueError, match="give weights='distance' with them"):
        GraphHDBSCAN().fit(neighbors=([[1], [0]], [[1.0], [1.0]]), vectors=np.ones((2, 2)))


def test_the_preset_topics_takes_nothing_from_small_groups() -> None:
    """Neither a fine resolution nor smaller clusters, nor fewer neighbors in the diffusion."""
    corpus = blobs(2, n_blobs=120, each=4, dim=24, spread=0.05)
    lists = nearest_lists(corpus.vectors, 40)
    assert measure_group_sizes(count_breaks(as_lists(*lists)), 480).small_weight == 1
    found = GraphHDBSCAN(preset="topics").fit(neighbors=lists)
    usual = GraphHDBSCAN(preset="topics", granularity=20_000, min_cluster_size=5).fit(neighbors=lists)
    assert_array_equal(found.labels_, usual.labels_)
    assert found.labels_.max() + 1 < 30
    listed = as_lists(*lists)
    graph = listed.graph(diffusion.diffuse(listed, 0, 15), 480)
    forest = spanning_forest(graph, np.zeros(480, np.float32), symmetric=False)
    assert_array_equal(np.sort(found._fitted.found.tree.departure), np.sort(condense(forest, 480, 5).departure))


class Blocks:
    """A quality graph in blocks, each with its own rows and those that they list."""

    def __init__(self, nearest: NDArray[Any], owner: NDArray[Any], shared: bool, copies: NDArray[Any] | None) -> None:
        self.blocks = []
        for own in (np.flatnonzero(owner == number) for number in np.unique(owner)):
            listed = nearest[own]
            rows = np.concatenate([own, np.setdiff1d(listed[listed >= 0], own)])
            local = np.full(len(nearest) + 1, -1)
            local[rows] = np.arange(rows.size)
            mine = None if copies is None else copies[own]
            self.blocks.append(modularity_cut.QualityBlock.of(local[listed], shared, mine, rows, nearest[rows]))

    def sum_over(self, leaf: Any, parent: Any, size: Any) -> Any:
        inside, volume = zip(*(block.sum_over(leaf, parent, size) for block in self.blocks), strict=True)
        return sum(inside), sum(volume)

    def between(self, unit: Any, n_units: int) -> Any:
        return sum((block.between(unit, n_units) for block in self.blocks), csr_array((n_units, n_units), dtype=int))


@pytest.mark.parametrize("n_blocks", [1, 3, 40])
@pytest.mark.parametrize("preset", [None, "topics"])
@pytest.mark.parametrize("weigh", [False, True])
def test_blocks_of_the_quality_graph_give_the_labels_of_the_whole(
    n_blocks: int, preset: str | None, weigh: bool
) -> None:
    rng = np.random.default_rng(n_blocks)
    indices, distances = nearest_lists(blobs(5, n_blobs=8, each=25, noise=40, spread=0.3).vectors)
    nearest = np.where(rng.random((len(indices), 10)) < 0.9, indices[:, :10], -1)  # some lists are shorter
    nearest.sort(axis=1)
    nearest = nearest[:, ::-1].copy()
    graph = csr_array((distances.ravel(), indices.ravel(), np.arange(len(indices) + 1) * K))
    core = np.zeros(len(indices), np.float32)
    forest = spanning_forest(graph, core, symmetric=False)
    copies = rng.integers(1, 4, len(indices)).astype(np.int32)
    options = ClusterOptions(preset=preset, copies="weigh" if weigh else "fold", granularity=40, min_cluster_size=4)
    whole = label_texts(forest, copies, core, options, floor=1e-3, nearest=nearest)
    blocks = Blocks(nearest, rng.integers(0, n_blocks, len(indices)), preset is None, copies if weigh else None)
    found = label_texts(forest, copies, core, options, floor=1e-3, nearest=blocks)
    assert whole.n_clusters > 3
    for name in ("label", "home", "layers", "strength", "parent"):
        assert_array_equal(getattr(found, name), getattr(whole, name))
    assert found.modularity == whole.modularity


def test_members_of_few_lists_of_others_do_not_count_as_own_entries() -> None:
    """A symmetric graph holds entries of others' lists; nearly every row has as many as the shortest twentieth."""
    lengths = np.r_[[4] * 3, [6] * 3, [15] * 94]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    lists = NeighborLists(indptr, np.zeros(indptr[-1], np.int32), np.ones(indptr[-1], np.float32))
    assert own_entries(lists) == 6  # 4 at 2 %, 15 at 7 %


def test_half_of_the_strength_is_left_at_the_median_height() -> None:
    height = np.array([0, 1, 2, 6, np.inf], np.float32)
    assert home_strength(height, np.float32(2)).tolist() == pytest.approx([1, 2 / 3, 0.5, 0.25, 0])
    assert median_height(np.array([1, 2, 4, np.inf], np.float32)) == 2
