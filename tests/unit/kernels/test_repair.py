"""kernels/graph/repair.py: the certificate and the repair of forests of short lists, against the dense truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from clustering.kernels.graph.forest import FloatArray, Forest, IntArray, core_distances, spanning_forest
from clustering.kernels.graph.repair import OutsideSearch, prove_forest, repair_forest


def distances(points: NDArray[np.float64], floor: float = 1e-3) -> FloatArray:
    """All distances, infinite from a point to itself."""
    found = np.maximum(cdist(points, points), floor).astype(np.float32)
    np.fill_diagonal(found, np.inf)
    return found


def forest_of_lists(dense: FloatArray, k: int, min_samples: int) -> tuple[Forest, FloatArray, FloatArray]:
    """The forest of the k nearest, the core distances, and what is known of the edges that are not listed."""
    n_texts = len(dense)
    k = min(k, n_texts - 1)
    nearest = np.argsort(dense, axis=1, kind="stable")[:, :k]
    listed = np.take_along_axis(dense, nearest, axis=1)
    graph = csr_array((listed.ravel(), nearest.ravel(), np.arange(n_texts + 1) * k), shape=dense.shape)
    core = core_distances(graph, min_samples)
    bound = np.full(n_texts, np.inf, np.float32) if k == n_texts - 1 else listed[:, -1]
    return spanning_forest(graph, core, symmetric=False), core, bound


def reachability(dense: FloatArray, core: FloatArray) -> FloatArray:
    return np.maximum(dense, np.maximum(core[:, None], core[None, :]))


def tree_weights(reach: FloatArray) -> FloatArray:
    """Prim's algorithm, dense."""
    n_texts = len(reach)
    outside, best, found = np.ones(n_texts, bool), reach[0].copy(), []
    outside[0] = False
    for _ in range(n_texts - 1):
        at = int(np.where(outside, best, np.inf).argmin())
        found.append(best[at])
        outside[at] = False
        best = np.minimum(best, reach[at])
    return np.sort(np.array(found, np.float32))


def true_heights(reach: FloatArray) -> FloatArray:
    """For every pair, the height at which the exact tree joins it: the smallest longest step of any way."""
    way = reach.copy()
    for over in range(len(way)):
        way = np.minimum(way, np.maximum(way[:, [over]], way[[over], :]))
    return way


def search_of(reach: FloatArray, asked: list[int]) -> OutsideSearch:
    """Exact answers, counted."""

    def ask(rows: IntArray, piece: IntArray) -> tuple[IntArray, FloatArray]:
        asked.append(rows.size)
        outside = np.where(piece[rows][:, None] == piece[None, :], np.float32(np.inf), reach[rows])
        other = outside.argmin(axis=1)
        return other, outside[np.arange(rows.size), other]

    return ask


@pytest.mark.full
def test_the_certificate_is_never_wrong_in_ten_thousand_small_cases():
    rng = np.random.default_rng(0)
    proven = opened = 0
    for case in range(10_000):
        n_texts, k = int(rng.integers(2, 12)), int(rng.integers(1, 5))
        points = rng.normal(size=(3, 2))[rng.integers(0, 3, n_texts)] * 4
        points = points + rng.normal(size=(n_texts, 2))
        dense = distances(np.round(points, 1) if case % 3 == 0 else points)
        forest, core, bound = forest_of_lists(dense, k, int(rng.integers(1, k + 1)))
        proof = prove_forest(forest, bound)
        height = true_heights(reachability(dense, core))[forest.left, forest.right]
        assert (proof.lower_bound <= height).all(), case
        assert (height <= forest.distance).all(), case
        assert proof.certified + proof.unproven == len(forest)
        proven, opened = proven + proof.certified, opened + proof.unproven
    assert proven > 10_000
    assert opened > 100


def planted(seed: int, dim: int, kind: str) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(12, dim)) * 3
    points = centers[rng.integers(0, 12, 900)] + 0.4 * rng.normal(size=(900, dim))
    if kind == "ties":
        return np.round(points, 1)
    if kind == "copies":
        return np.concatenate([points, points[:60], points[:30]])
    if kind == "pieces":
        return np.concatenate([points, points[:200] + 500, points[:4] - 900])
    return np.concatenate([points, rng.uniform(-8, 8, size=(100, dim))])


@pytest.mark.parametrize("kind", ["noise", "ties", "copies", "pieces"])
@pytest.mark.parametrize(("seed", "dim"), [(0, 2), (1, 3), (2, 8), (3, 32), (4, 64)])
def test_a_repaired_forest_weighs_what_prim_finds(seed: int, dim: int, kind: str) -> None:
    dense = distances(planted(seed, dim, kind))
    forest, core, bound = forest_of_lists(dense, k=8, min_samples=5)
    reach = reachability(dense, core)
    asked: list[int] = []
    exact, proof = repair_forest(forest, bound, search_of(reach, asked), budget=10**9)
    assert_array_equal(exact.distance, tree_weights(reach))
    assert proof.unproven == 0
    assert proof.certified + proof.repaired == len(exact) == len(dense) - 1
    assert proof.queries == sum(asked)
    assert proof.bridges == len(exact) - len(forest)
    assert_array_equal(proof.lower_bound, exact.distance)


def test_complete_lists_need_no_questions() -> None:
    dense = distances(planted(0, 3, "noise")[:40])
    forest, _, bound = forest_of_lists(dense, k=39, min_samples=3)
    exact, proof = repair_forest(forest, bound, refuse, budget=100)
    assert_array_equal(exact.distance, forest.distance)
    assert (proof.certified, proof.repaired, proof.unproven, proof.queries) == (39, 0, 0, 0)


def refuse(rows: IntArray, piece: IntArray) -> tuple[IntArray, FloatArray]:
    raise AssertionError(f"{rows.size} needless questions")


@pytest.mark.parametrize("budget", [0, 7, 60, 300])
def test_a_budget_is_kept_and_what_stays_open_is_counted(budget: int) -> None:
    dense = distances(planted(1, 3, "pieces"))
    forest, core, bound = forest_of_lists(dense, k=6, min_samples=5)
    reach = reachability(dense, core)
    asked: list[int] = []
    exact, proof = repair_forest(forest, bound, search_of(reach, asked), budget)
    assert proof.queries == sum(asked) <= budget
    assert proof.certified + proof.repaired + proof.unproven == len(exact)
    assert proof.unproven > 0
    height = true_heights(reach)[exact.left, exact.right]
    assert (proof.lower_bound <= height).all()
    assert (height <= exact.distance).all()
    assert_array_equal((proof.lower_bound == exact.distance).sum(), proof.certified + proof.repaired)


def test_a_piece_without_an_answer_stays_apart() -> None:
    dense = distances(planted(2, 3, "pieces"))
    forest, core, bound = forest_of_lists(dense, k=8, min_samples=5)
    answer = search_of(reachability(dense, core), [])

    def near_only(rows: IntArray, piece: IntArray) -> tuple[IntArray, FloatArray]:
        other, reach = answer(rows, piece)
        return np.where(reach > 50, -1, other), reach

    exact, proof = repair_forest(forest, bound, near_only, budget=10**9)
    assert len(exact) == len(dense) - 2  # the four texts far out list others than themselves, the two hundred do not
    assert proof.unproven == 0


@pytest.mark.parametrize("n_texts", [0, 1, 2])
def test_few_texts_need_no_repair(n_texts: int) -> None:
    forest = Forest(np.arange(n_texts // 2), np.arange(n_texts // 2) + 1, np.full(n_texts // 2, 0.5, np.float32))
    exact, proof = repair_forest(forest, np.full(n_texts, np.inf, np.float32), refuse, budget=10)
    assert (len(exact), proof.unproven) == (n_texts // 2, 0)
