"""kernels/topk.py: scores to distances, hit lists to neighbors, blocks to the k nearest of all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from clustering.kernels import topk
from clustering.kernels.topk import (
    TopK,
    dot_distance,
    nearest_others,
    score_distance,
    wilson_interval,  # fmt: skip
)
from tests import oracles
from tests.planted import blobs
from tests.strategies import cuts, distances, exact_vectors

METRICS = ["L2", "COSINE", "IP"]


def test_l2_scores_are_squared_distances() -> None:
    assert_array_equal(score_distance(np.array([4.0, 1.0, 0.25]), "L2"), np.array([2.0, 1.0, 0.5], np.float32))


@pytest.mark.parametrize("metric", ["COSINE", "IP"])
def test_similarities_become_distances(metric: str) -> None:
    assert_array_equal(score_distance(np.array([1.0, 0.25, -1.0]), metric), np.array([0.0, 0.75, 2.0], np.float32))


@pytest.mark.parametrize("metric", METRICS)
def test_rounding_never_makes_a_distance_negative(metric: str) -> None:
    scores = np.array([-1e-6 if metric == "L2" else 1.000001])
    assert score_distance(scores, metric).tolist() == [0.0]
    assert dot_distance(np.array([1.000001]), metric).tolist() == [0.0]


@pytest.mark.parametrize("metric", METRICS)
def test_scores_and_inner_products_give_the_same_distance(metric: str) -> None:
    vectors = blobs(seed=3, n_blobs=2, each=10).vectors.astype(np.float64)
    dots = vectors @ vectors.T
    scores = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2) if metric == "L2" else dots
    assert_allclose(dot_distance(dots, metric), score_distance(scores, metric), atol=1e-3)
    assert score_distance(scores, metric).dtype == dot_distance(dots, metric).dtype == np.float32


hits = st.lists(st.tuples(st.integers(0, 9), distances), max_size=10, unique_by=lambda hit: hit[0])


def flat(lists: list[list[tuple[int, float]]]) -> tuple[NDArray, NDArray, NDArray]:
    """Hit lists as they come from a search: ids, distances, and the length of each list."""
    ids = np.array([hit[0] for found in lists for hit in found], np.int64)
    lengths = np.array([hit[1] for found in lists for hit in found], np.float32)
    return ids, lengths, np.array([len(found) for found in lists], np.int64)


@given(st.lists(st.tuples(st.integers(0, 9), hits), max_size=5), st.integers(1, 12))
def test_a_text_leaves_its_own_hits_wherever_it_stands(queries: list, k: int) -> None:
    rows, lists = np.array([row for row, _ in queries], np.int64), [found for _, found in queries]
    near, away, counts = nearest_others(*flat(lists), rows, k)
    ends = np.cumsum(counts)
    for row, found, stop, count in zip(rows, lists, ends, counts, strict=True):
        expected = sorted((float(np.float32(length)), other) for other, length in found if other != row)[:k]
        mine = slice(stop - count, stop)
        assert list(zip(away[mine].tolist(), near[mine].tolist(), strict=True)) == expected
    assert len(near) == len(away) == counts.sum()


def test_a_text_that_the_index_missed_costs_its_farthest_hit() -> None:
    near, _, counts = nearest_others(*flat([[(4, 0.1), (2, 0.2), (9, 0.3)]]), np.array([7]), k=2)
    assert (near.tolist(), counts.tolist()) == ([4, 2], [2])


def test_a_copy_before_the_text_itself_stays() -> None:
    near, away, _ = nearest_others(*flat([[(4, 0.0), (7, 0.0), (2, 0.3)]]), np.array([7]), k=2)
    assert near.tolist() == [4, 2]
    assert away.tolist() == [0.0, np.float32(0.3)]


def test_a_query_without_hits_keeps_its_place() -> None:
    near, _, counts = nearest_others(*flat([[(1, 0.5)], [], [(0, 0.5), (2, 0.6)]]), np.array([0, 1, 2]), k=2)
    assert (near.tolist(), counts.tolist()) == ([1, 0], [1, 0, 1])


def blocked(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], blocks: list[slice], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    top, every = TopK(len(rows), k), np.arange(len(vectors))
    for block in blocks[::-1]:
        top.scan(vectors[rows], rows, every[block], vectors[block])
    return top.rows, top.dots


@given(exact_vectors(), st.data())
def test_blocks_find_what_a_full_sort_finds(vectors: NDArray[np.float32], data: st.DataObject) -> None:
    n_texts = len(vectors)
    rows = np.array(data.draw(st.lists(st.integers(0, n_texts - 1), min_size=1, max_size=5)))
    k = data.draw(st.integers(1, n_texts - 1))
    near, dots = blocked(vectors, rows, data.draw(cuts(n_texts)), k)
    exact = vectors @ vectors.T
    for place, row in enumerate(rows.tolist()):
        assert row not in near[place]
        assert len(set(near[place].tolist())) == k
        assert_array_equal(dots[place], exact[row, near[place]])
        assert_array_equal(dots[place], exact[row, oracles.nearest(exact[row].tolist(), row, k)])


@given(cuts(60), st.integers(1, 59))
def test_without_ties_the_blocks_find_the_very_same_rows(blocks: list[slice], k: int) -> None:
    vectors = blobs(seed=1, n_blobs=3, each=20).vectors
    near, _ = blocked(vectors, np.arange(60), blocks, k)
    dots = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    assert_array_equal(near, [oracles.nearest(dots[row].tolist(), row, k) for row in range(60)])


def test_equal_vectors_rank_by_row_whatever_the_blocks() -> None:
    vectors = np.zeros((9, 2), np.float32)
    vectors[:, 0] = [1, 1, 0, 1, 0, 1, 1, 0, 1]
    cut = [[slice(0, 9)], [slice(0, 4), slice(4, 9)], [slice(0, 1), slice(1, 9)]]
    assert [blocked(vectors, np.array([3]), blocks, k=3)[0].tolist() for blocks in cut] == [[[0, 1, 5]]] * 3


def test_of_equal_vectors_few_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    merge = TopK.merge
    monkeypatch.setattr(TopK, "merge", lambda self, *found: (taken.append(len(found[0])), merge(self, *found)))
    vectors = np.tile(np.eye(2, dtype=np.float32), (300, 1))
    near, _ = blocked(vectors, np.array([0, 5]), [slice(0, 200), slice(200, 400), slice(400, 600)], k=4)
    assert near.tolist() == [[2, 4, 6, 8], [1, 3, 7, 9]]
    assert max(taken) == 8, "k of each query"


def test_a_query_that_is_not_stored_keeps_every_row() -> None:
    top, axes = TopK(1, 5), np.eye(4, dtype=np.float32)
    top.scan(axes[[2]], np.array([-1]), np.arange(4), axes)
    assert top.rows.tolist() == [[2, 0, 1, 3, -1]]
    assert top.dots.tolist() == [[1, 0, 0, 0, -np.inf]]


@given(exact_vectors(), st.data())
def test_several_counts_of_some_blocks_each_merge_to_that_of_all(
    vectors: NDArray[np.float32], data: st.DataObject
) -> None:
    n_texts = len(vectors)
    every, k = np.arange(n_texts), data.draw(st.integers(1, n_texts - 1))
    expected = blocked(vectors, every, [slice(0, n_texts)], k)
    merged = TopK(n_texts, k)
    for block in data.draw(cuts(n_texts)):
        near, dots = blocked(vectors, every, [block], k)
        known = near >= 0
        merged.merge(np.nonzero(known)[0], near[known], dots[known])
    assert_array_equal(merged.rows, expected[0])
    assert_array_equal(merged.dots, expected[1])


def test_a_block_of_products_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "BLOCK_BYTES", 4 * 60 * 7)
    vectors = blobs(seed=1, n_blobs=3, each=20).vectors
    found = blocked(vectors, np.arange(60), [slice(0, 60)], 5)
    monkeypatch.undo()
    assert_array_equal(found[0], blocked(vectors, np.arange(60), [slice(0, 60)], 5)[0])


def test_the_wilson_interval_has_its_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for hits_, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
                                (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert wilson_interval(hits_ / n, n) == pytest.approx((low, high), abs=1e-4)


@given(st.floats(0, 1), st.integers(0, 10**6))
def test_the_wilson_interval_holds_its_mean_and_is_never_empty(mean: float, n: int) -> None:
    low, high = wilson_interval(mean, n)
    assert 0 <= low < high <= 1
    assert n == 0 or low - 1e-12 <= mean <= high + 1e-12


def test_the_wilson_interval_covers_the_truth_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    for true in (0.9, 0.99):
        means = rng.binomial(50, true, (200, 1000)).mean(axis=0) / 50  # of 200 rows with 50 neighbors each
        covered = [low <= true <= high for low, high in (wilson_interval(float(mean), 200) for mean in means)]
        assert np.mean(covered) >= 0.95
