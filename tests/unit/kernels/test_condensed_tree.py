"""condensed_tree.py: hierarchy and selection against hdbscan's on the same tree; deep, wide and empty forests."""

from __future__ import annotations

import numpy as np
import pytest
from hdbscan._hdbscan_linkage import label as single_linkage
from hdbscan._hdbscan_tree import outlier_scores
from hdbscan.hdbscan_ import _tree_to_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from clustering.kernels.graph.forest import Forest, core_distances, spanning_forest
from clustering.kernels.hierarchy.condensed_tree import cluster_forest, condense
from clustering.kernels.hierarchy.homes import assign_homes
from tests.planted import neighbor_graph


def chain(distance: NDArray[np.float32]) -> Forest:
    """Each text joins the one before."""
    left = np.arange(distance.size)
    order = np.argsort(distance, kind="stable")
    return Forest(left[order], left[order] + 1, distance[order].astype(np.float32))


def in_order(label: NDArray[np.int64]) -> list[int]:
    """The same labels, numbered by first appearance."""
    names: dict[int, int] = {-1: -1}
    return [names.setdefault(int(one), len(names) - 1) for one in label]


def hdbscan_says(forest: Forest, min_cluster_size: int, **options: object) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Labels, strengths, outlier scores and the persistence of the clusters that have texts."""
    edges = np.column_stack([forest.left, forest.right, forest.distance.astype(np.float64)])
    label, strength, persistence, tree, _ = _tree_to_labels(
        None, single_linkage(edges), min_cluster_size, options["selection"], options["allow_single_cluster"], False,
        options["epsilon"], 0.0, options["max_cluster_size"],
    )  # fmt: skip
    held = np.unique(label[label >= 0]).astype(int)
    return label, strength, outlier_scores(tree), np.asarray(persistence)[held]


@settings(max_examples=400)
@given(
    st.integers(0, 2**32 - 1), st.integers(2, 90), st.integers(1, 7), st.integers(1, 5), st.integers(2, 9),
    st.booleans(),
    st.fixed_dictionaries(
        {
            "selection": st.sampled_from(["eom", "leaf"]),
            "epsilon": st.sampled_from([0.0, 0.3, 1.0]),
            "max_cluster_size": st.sampled_from([0, 20]),
            "allow_single_cluster": st.booleans(),
        }
    ),
)  # fmt: skip
def test_a_tree_gives_what_hdbscan_gives(seed, n_texts, n_groups, min_samples, min_cluster_size, rounded, options):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_groups, 3))[rng.integers(0, n_groups, n_texts)] * 3 + 0.3 * rng.normal(
        size=(n_texts, 3)
    )
    graph = neighbor_graph((np.round(points, 1) if rounded else points).astype(np.float32))
    forest = spanning_forest(graph, core_distances(graph, min_samples))
    label, strength, score, persistence = hdbscan_says(forest, min_cluster_size, **options)
    ours = cluster_forest(forest, n_texts, min_cluster_size=min_cluster_size, **options)
    assert in_order(ours.label) == in_order(label)
    assert_allclose(ours.strength, strength)
    assert_allclose(ours.outlier_score, score)
    assert_allclose(np.sort(ours.persistence), np.sort(persistence))


def test_the_records_of_a_tree_hold_every_text_and_cluster_once():
    rng = np.random.default_rng(3)
    graph = neighbor_graph(rng.normal(size=(300, 4)).astype(np.float32))
    forest = spanning_forest(graph, core_distances(graph, 3))
    tree = condense(forest, 300, 5)
    records = tree.as_records()
    assert sorted(records["child"]) == [*range(300), *range(301, 300 + len(tree.parent))]
    assert (records["parent"][300:] < records["child"][300:]).all()
    assert records["child_size"][records["parent"] == 300].sum() == 300
    assert np.isfinite(records["lambda_val"]).all()


@pytest.mark.parametrize("selection", ["eom", "leaf"])
def test_a_tree_a_million_merges_deep(selection):
    n_texts = 1_000_000
    forest = chain(np.linspace(0.1, 1, n_texts - 1, dtype=np.float32))
    found = cluster_forest(forest, n_texts, min_cluster_size=5, selection=selection)
    assert (found.label == -1).all()  # every split leaves one text alone
    assert len(found.tree.parent) == 1
    home, _ = assign_homes(forest.left, forest.right, forest.distance, np.r_[0, np.full(n_texts - 1, -1)])
    assert (home == 0).all()


@pytest.mark.parametrize("selection", ["eom", "leaf"])
def test_a_hundred_thousand_pieces_are_as_many_clusters(selection):
    n_pieces, each = 100_000, 5
    left = np.arange(n_pieces * each).reshape(n_pieces, each)[:, :-1].ravel()
    forest = Forest(left, left + 1, np.full(left.size, 0.5, np.float32))
    found = cluster_forest(forest, n_pieces * each, min_cluster_size=5, selection=selection)
    assert_array_equal(np.unique(found.label, return_counts=True)[1], np.full(n_pieces, each))


@pytest.mark.parametrize("n_texts", [2, 3, 1000])
def test_a_star_of_equal_distances_is_noise_or_the_one_cluster_allowed(n_texts):
    rays = np.arange(1, n_texts)
    forest = Forest(np.zeros_like(rays), rays, np.full(rays.size, 0.5, np.float32))
    assert (cluster_forest(forest, n_texts, min_cluster_size=2).label == -1).all()
    alone = cluster_forest(forest, n_texts, min_cluster_size=2, allow_single_cluster=True)
    assert (alone.label == 0).all()
    assert (alone.strength == 1).all()


@pytest.mark.parametrize("n_texts", [0, 1])
def test_none_and_one_text_have_no_cluster(n_texts):
    none = Forest(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    found = cluster_forest(none, n_texts, min_cluster_size=2, allow_single_cluster=True)
    assert found.label.tolist() == [-1] * n_texts
    assert found.persistence.size == 0


def test_a_cluster_of_one_text_is_refused():
    with pytest.raises(ValueError, match="min_cluster_size=1; a cluster has 2 texts at least"):
        cluster_forest(chain(np.array([0.5])), 2, min_cluster_size=1)
