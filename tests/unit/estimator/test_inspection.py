"""Trees, exemplars, memberships and measures: beside hdbscan's own code, on the vectors or on our tree."""

from __future__ import annotations

from typing import Any

import hdbscan
import numpy as np
import pytest
from hdbscan.prediction import all_points_membership_vectors, approximate_predict
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KDTree, NearestNeighbors

from clustering import GraphHDBSCAN
from tests.planted import blobs

SETTINGS = [(1, 5), (5, 10)]


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float64]:
    return blobs(3, noise=60).vectors.astype(np.float64)


def plain(vectors: Any, setting: tuple[int, int], **keys: Any) -> GraphHDBSCAN:
    return GraphHDBSCAN(*setting, weights="distance", selection="eom", n_neighbors=2 * setting[0], **keys).fit(vectors)


def exact(vectors: Any, setting: tuple[int, int]) -> Any:
    model = hdbscan.HDBSCAN(
        min_samples=setting[0], min_cluster_size=setting[1], approx_min_span_tree=False, gen_min_span_tree=True
    )
    return model.fit(vectors)


def on_our_tree(ours: Any, vectors: Any, setting: tuple[int, int]) -> tuple[Any, NDArray[np.int64]]:
    """A model of hdbscan with our tree and labels, and our label for each of its own."""
    theirs = hdbscan.HDBSCAN(min_samples=setting[0], min_cluster_size=setting[1], gen_min_span_tree=True)
    theirs.labels_, theirs._raw_data = ours.labels_, vectors
    theirs.condensed_tree_ = ours.condensed_tree_.to_numpy()
    theirs.minimum_spanning_tree_ = ours.minimum_spanning_tree_.to_numpy()
    theirs.generate_prediction_data()
    # For prediction it counts a row among its own neighbors, unlike in fit.
    theirs.prediction_data_.core_distances = KDTree(vectors).query(vectors, k=setting[0] + 1)[0][:, -1]
    return theirs, np.argsort(ours.condensed_tree_._select_clusters())


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_trees_are_hdbscans(vectors: Any, setting: tuple[int, int]) -> None:
    ours, theirs = plain(vectors, setting), exact(vectors, setting)
    assert ours.certified_ == 1
    lengths = theirs.minimum_spanning_tree_.to_numpy()[:, 2]
    found = ours.minimum_spanning_tree_.to_pandas()
    assert_allclose(np.sort(found["distance"]), np.sort(lengths), rtol=1e-6)
    assert (found[["from", "to"]].to_numpy() < len(vectors)).all()
    merges = ours.single_linkage_tree_.to_numpy()
    assert_allclose(merges[:, 2], np.sort(lengths), rtol=1e-6)
    assert_array_equal(np.sort(merges[:, :2].ravel()), np.arange(2 * len(vectors) - 2))
    assert merges[-1, 3] == len(vectors)
    steps = np.sort(lengths)
    clear = np.flatnonzero(np.diff(steps) > 1e-5)
    for at in clear[:: max(1, clear.size // 12)]:
        cut = (steps[at] + steps[at + 1]) / 2
        here, there = (one.single_linkage_tree_.get_clusters(cut, 4) for one in (ours, theirs))
        assert_array_equal(here < 0, there < 0)
        assert adjusted_rand_score(here, there) == 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_relative_validity_is_hdbscans(vectors: Any, setting: tuple[int, int]) -> None:
    ours = plain(vectors, setting)
    assert ours.relative_validity_ == pytest.approx(on_our_tree(ours, vectors, setting)[0].relative_validity_, rel=1e-9)
    if setting[0] == 1:  # no two edges have one length, so there is one tree
        assert ours.relative_validity_ == pytest.approx(exact(vectors, setting).relative_validity_, rel=1e-5)
    one = plain(np.concatenate([vectors[:40] / 50, vectors[40:60]]), setting, allow_single_cluster=True)
    two = on_our_tree(one, np.concatenate([vectors[:40] / 50, vectors[40:60]]), setting)[0]
    assert one.relative_validity_ == pytest.approx(two.relative_validity_, rel=1e-9)


@pytest.mark.parametrize("setting", SETTINGS)
def test_exemplars_are_hdbscans(vectors: Any, setting: tuple[int, int]) -> None:
    ours = plain(vectors, setting)
    theirs, order = on_our_tree(ours, vectors, setting)
    assert len(ours.exemplars_) == ours.labels_.max() + 1 > 3
    for label, expected in zip(order, theirs.exemplars_, strict=True):
        rows = ours.exemplar_rows_[label]
        assert set(ours.labels_[rows]) == {label}
        assert_array_equal(ours.exemplars_[label], vectors[rows])
        assert_array_equal(np.unique(ours.exemplars_[label], axis=0), np.unique(expected, axis=0))


@pytest.mark.parametrize("setting", SETTINGS)
def test_membership_vectors_are_hdbscans(vectors: Any, setting: tuple[int, int]) -> None:
    ours = plain(vectors, setting)
    theirs, order = on_our_tree(ours, vectors, setting)
    expected = all_points_membership_vectors(theirs)
    found = ours.membership_vectors(most=100)
    assert found.shape == (len(vectors), ours.labels_.max() + 1)
    dense, member = found.toarray()[:, order], ours.labels_ >= 0
    assert_allclose(dense, expected, rtol=1e-6, atol=1e-12)
    few = ours.membership_vectors(most=2)
    assert few.nnz == 2 * len(vectors)
    assert_array_equal(few.toarray().max(axis=1), found.toarray().max(axis=1))
    assert (few.toarray()[member].argmax(axis=1) == ours.labels_[member]).mean() > 0.95
    again = ours.membership_vectors(vectors[member], most=100)
    assert_allclose(again.sum(axis=1), found[np.flatnonzero(member)].sum(axis=1), atol=0.35)


@pytest.mark.parametrize("setting", SETTINGS)
def test_new_rows_are_predicted_as_by_hdbscan(vectors: Any, setting: tuple[int, int]) -> None:
    ours = plain(vectors, setting)
    theirs, order = on_our_tree(ours, vectors, setting)
    rng = np.random.default_rng(0)
    new = np.concatenate([vectors + rng.normal(0, spread, vectors.shape) for spread in (0.01, 0.05, 0.3)])
    labels, strengths = ours.approximate_predict(new)
    expected, probabilities = approximate_predict(theirs, new)
    assert_array_equal(labels, np.append(order, -1)[expected])
    assert_allclose(strengths, probabilities, rtol=1e-5)
    assert_array_equal(ours.predict(new), labels)
    assert 0.05 < (labels < 0).mean() < 0.95
    known = ours.approximate_predict(vectors)
    assert_array_equal(known[0], ours.labels_)
    assert_array_equal(known[1], ours.probabilities_)


def test_votes_are_the_memberships_of_diffused_weights(vectors: Any) -> None:
    ours = GraphHDBSCAN(n_neighbors=15).fit(np.concatenate([vectors, vectors[:9]]))
    of_fit = ours.membership_vectors()
    assert of_fit.shape == (len(vectors) + 9, ours.labels_.max() + 1)
    assert of_fit.nnz < 5 * len(vectors)
    assert_array_equal(of_fit.toarray()[len(vectors) :], of_fit.toarray()[:9])
    new = vectors + np.random.default_rng(0).normal(0, 0.05, vectors.shape)
    labels, strengths = ours.approximate_predict(new)
    dense = ours.membership_vectors(new).toarray()
    assert (dense.sum(axis=1) <= 1 + 1e-9).all()
    won = labels >= 0
    assert won.any()
    assert_array_equal(dense[won].argmax(axis=1), labels[won])
    assert_allclose(dense[won].max(axis=1), strengths[won], rtol=1e-5)
    far = ours.membership_vectors(vectors + 100)
    assert far.nnz == 0
    ids = np.argsort(np.linalg.norm(new[:, None] - vectors[None], axis=2), axis=1)[:, :15]
    away = np.linalg.norm(new[:, None] - vectors[ids], axis=2)
    assert_allclose(ours.membership_vectors(neighbors=(ids, away)).toarray(), dense, atol=1e-5)


def test_links_of_clusters_are_kept_or_lead_out(vectors: Any) -> None:
    ours = GraphHDBSCAN(n_neighbors=15).fit(vectors)
    near = NearestNeighbors(n_neighbors=10).fit(vectors).kneighbors(return_distance=False)
    for label, share in enumerate(ours.link_share_):
        column = ours.layers_[:, np.flatnonzero((ours.layers_ == label).any(axis=0))[0]]
        inside = column == label
        assert share == pytest.approx((column[near[inside][:, : inside.sum() - 1]] == label).mean())
    assert ours.link_share_.shape == ours.cluster_persistence_.shape
    assert ours.link_share_.max() > 0.9


def test_copies_are_rows_of_the_trees_and_weigh_in_the_measures(vectors: Any) -> None:
    alone = np.full((30, vectors.shape[1]), 9.0)
    many = np.concatenate([vectors, np.repeat(vectors[:5], 4, axis=0), alone])
    for copies in ("fold", "weigh"):
        ours = plain(many, (5, 10), copies=copies, min_distance=1e-3)
        merges = ours.single_linkage_tree_.to_numpy()
        assert merges.shape == (len(many) - 1, 4)
        assert merges[-1, 3] == len(many)
        assert (ours.minimum_spanning_tree_.to_numpy()[: 20 + 29, 2] == np.float32(1e-3)).all()
        assert len(set(ours.labels_[-30:])) == 1
        selected = ours.condensed_tree_._select_clusters()
        assert len(selected) == ours.labels_.max() + 1 - (copies == "fold")  # the 30 are no cluster of distinct rows
        assert len(ours.exemplars_) == ours.labels_.max() + 1
        assert_array_equal(ours.exemplars_[ours.labels_[-1]], alone[:1])
        shares = ours.membership_vectors(most=100).toarray()
        assert (shares[-30:].argmax(axis=1) == ours.labels_[-1]).all()
        assert -1 <= ours.relative_validity_ <= 1


def test_pieces_of_a_graph_meet_at_infinite_distance() -> None:
    ours = GraphHDBSCAN(1, 2, weights="distance", selection="eom").fit(
        neighbors=([[1], [0], [3], [2]], [[0.5], [0.5], [0.25], [0.25]])
    )
    merges = ours.single_linkage_tree_.to_numpy().tolist()
    assert merges == [[2, 3, 0.25, 2], [0, 1, 0.5, 2], [4, 5, np.inf, 4]]
    assert len(ours.minimum_spanning_tree_.to_numpy()) == 2
    assert [rows.tolist() for rows in ours.exemplar_rows_] == [[0, 1], [2, 3]]
    assert ours.relative_validity_ == pytest.approx((1 - 0.5) / 1 / 2 + (1 - 0.25) / 1 / 2)


def test_what_there_is_not_is_said_in_words(vectors: Any) -> None:
    with pytest.raises(NotFittedError, match="not fitted yet"):
        _ = GraphHDBSCAN().single_linkage_tree_
    ours = GraphHDBSCAN(n_neighbors=15).fit(vectors)
    with pytest.raises(AttributeError, match="that of plain HDBSCAN; give weights='distance'"):
        _ = ours.relative_validity_
    near = NearestNeighbors(n_neighbors=10).fit(vectors).kneighbors()
    graph = GraphHDBSCAN(weights="distance", selection="eom").fit(neighbors=near)
    with pytest.raises(AttributeError, match="fit had none; exemplar_rows_ has the rows"):
        _ = graph.exemplars_
    with pytest.raises(ValueError, match="need vectors; fit"):
        graph.membership_vectors()
    for most in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"most={most} is no number of entries; give a whole number from 1 on"):
            ours.membership_vectors(most=most)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", ["diffused", "distance"])
@pytest.mark.parametrize("n_rows", [1, 2, 40])
def test_rows_without_a_cluster_have_trees_and_empty_memberships(weights: str, n_rows: int) -> None:
    rows = np.random.default_rng(0).uniform(size=(n_rows, 3))
    selection = "modularity" if weights == "diffused" else "eom"
    ours = GraphHDBSCAN(min_cluster_size=30, weights=weights, selection=selection).fit(rows)
    assert set(ours.labels_) == {-1}
    assert ours.single_linkage_tree_.to_numpy().shape == (n_rows - 1, 4)
    assert len(ours.minimum_spanning_tree_.to_pandas()) == n_rows - 1
    assert len(ours.condensed_tree_.to_pandas()) == n_rows
    assert ours.exemplars_ == ours.exemplar_rows_ == ours.link_share_.tolist() == []
    assert ours.membership_vectors().shape == (n_rows, 0)
    assert ours.membership_vectors(rows + 0.01).shape == (n_rows, 0)
    assert ours.approximate_predict(rows + 0.01)[1].tolist() == [0] * n_rows
    if weights == "distance":
        assert ours.relative_validity_ == 0


def test_members_of_a_row_that_is_no_float_are_asked_for_as_predict_takes_them(vectors: Any) -> None:
    ours = plain(vectors, (5, 10))
    found = ours.membership_vectors(vectors[:5].tolist(), most=3)
    assert_array_equal(found.toarray(), ours.membership_vectors(vectors[:5], most=3).toarray())
    assert_allclose(found.toarray().max(axis=1), ours.membership_vectors(most=3).toarray()[:5].max(axis=1), atol=0.3)
