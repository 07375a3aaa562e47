"""The clusterer: plain HDBSCAN beside hdbscan on the vectors; copies, pieces, wrong input, scikit-learn's habits."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import hdbscan
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors, kneighbors_graph

from clustering import GraphHDBSCAN
from tests.planted import blobs


def plain(*sizes: int, **keys: Any) -> GraphHDBSCAN:
    return GraphHDBSCAN(*sizes, **{"weights": "distance", "selection": "eom", **keys})


def lists(vectors: NDArray[Any], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and distances of the k nearest, the row itself first."""
    distances, indices = NearestNeighbors(n_neighbors=k + 1).fit(vectors).kneighbors(vectors)
    return indices, distances


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float64]:
    return blobs(3, noise=60).vectors.astype(np.float64)


@pytest.mark.parametrize("selection", ["eom", "leaf"])
@pytest.mark.parametrize(("min_samples", "min_cluster_size"), [(1, 5), (5, 10), (15, 15)])
def test_repaired_lists_give_the_clusters_of_hdbscan(vectors, min_samples, min_cluster_size, selection):
    ours = plain(min_samples, min_cluster_size, selection=selection)
    ours.fit(neighbors=lists(vectors, 15), vectors=vectors)
    exact = hdbscan.HDBSCAN(
        min_samples=min_samples, min_cluster_size=min_cluster_size, cluster_selection_method=selection,
        approx_min_span_tree=False,
    ).fit(vectors)  # fmt: skip
    assert ours.certified_ == 1
    assert len(ours.open_merges_) == 0
    assert adjusted_rand_score(exact.labels_, ours.labels_) >= 0.99
    assert ((ours.labels_ >= 0) == (exact.labels_ >= 0)).mean() >= 0.99


def test_what_is_certified_far_from_the_origin_is_exact(vectors):
    """As map coordinates may be: the products of such numbers hold nothing of the distances between them."""
    far = vectors + 1e4
    indices, distances = lists(vectors, 6)
    ours, near = plain(5, 8), plain(5, 8)
    ours.fit(neighbors=(indices, distances), vectors=far)
    near.fit(neighbors=(indices, distances), vectors=vectors)
    assert near.certified_ == ours.certified_ == 1
    assert adjusted_rand_score(ours.labels_, near.labels_) == 1


def test_lists_and_graphs_say_the_same(vectors):
    indices, distances = lists(vectors, 12)
    n_rows = len(vectors)
    rows = np.repeat(np.arange(n_rows), 12)
    graph = csr_array((distances[:, 1:].ravel(), (rows, indices[:, 1:].ravel())), shape=(n_rows, n_rows))
    by_lists = plain(5, 8).fit(neighbors=(indices, distances))
    by_graph = plain(5, 8, n_neighbors=12).fit(graph)
    by_symmetric = plain(5, 8, n_neighbors=12).fit(graph.maximum(graph.T))
    for other in (by_graph, by_symmetric):
        assert_array_equal(other.labels_, by_lists.labels_)
        assert_allclose(other.probabilities_, by_lists.probabilities_)
        assert other.certified_ == by_lists.certified_
    assert 0.8 < by_lists.certified_ < 1
    rows, others, least, height = (by_lists.open_merges_[name] for name in ("left", "right", "least", "height"))
    assert max(rows.max(), others.max()) < n_rows
    assert (least < height).all()
    assert plain(5, 8).fit(graph).certified_ == 0  # how many neighbors a row holds is not known


def test_copies_change_no_cluster_and_count_in_sizes(vectors):
    alone = plain(5, 10).fit(neighbors=lists(vectors, 40))
    n_clusters = alone.labels_.max() + 1
    chosen = np.array([np.flatnonzero(alone.labels_ == label)[0] for label in range(n_clusters)])
    ours = plain(5, 10).fit(neighbors=lists(np.concatenate([vectors, np.repeat(vectors[chosen], 30, axis=0)]), 60))
    assert adjusted_rand_score(alone.labels_, ours.labels_[: len(vectors)]) == 1
    assert_array_equal(ours.labels_[len(vectors) :], np.repeat(ours.labels_[chosen], 30))
    sizes = np.bincount(ours.labels_[ours.labels_ >= 0])
    assert sorted(sizes) == sorted(np.bincount(alone.labels_[alone.labels_ >= 0]) + 30)
    assert (np.diff(sizes) <= 0).all()  # clusters are numbered by rows, copies among them


def test_many_copies_of_a_row_of_noise_are_a_cluster_of_their_own(vectors):
    alone = plain(5, 10).fit(neighbors=lists(vectors, 40))
    noise = np.flatnonzero(alone.labels_ < 0)[0]
    ours = plain(5, 10).fit(neighbors=lists(np.concatenate([vectors, vectors[[noise] * 30]]), 60))
    of_them = np.r_[noise, len(vectors) : len(vectors) + 30]
    assert_array_equal(np.flatnonzero(ours.labels_ == ours.labels_[noise]), of_them)
    assert ours.labels_[noise] >= 0


def test_copies_far_from_everything_are_one_cluster(vectors):
    far = np.concatenate([vectors, np.full((30, vectors.shape[1]), 50.0)])
    ours = plain(5, 10).fit(neighbors=lists(far, 40))
    assert len(set(ours.labels_[-30:])) == 1
    assert ours.labels_[-1] >= 0
    assert (ours.labels_ == ours.labels_[-1]).sum() == 30


def test_pieces_never_share_a_cluster_and_the_budget_is_kept(vectors):
    apart = np.concatenate([vectors, vectors + 100])
    ours = plain(5, 10, allow_single_cluster=True).fit(neighbors=lists(apart, 15))
    left, right = set(ours.labels_[: len(vectors)]), set(ours.labels_[len(vectors) :])
    assert left & right <= {-1}
    some = plain(5, 10, budget=50).fit(neighbors=lists(apart, 15), vectors=apart)
    assert some.n_queries_ <= 50


def test_every_row_of_noise_finds_a_home(vectors):
    ours = plain(5, 10).fit(neighbors=lists(vectors, 15), vectors=vectors)
    assert (ours.labels_ < 0).any()
    assert (ours.home_ >= 0).all()
    assert_array_equal(ours.home_[ours.labels_ >= 0], ours.labels_[ours.labels_ >= 0])
    assert_array_equal(ours.home_strength_ == 1, ours.labels_ >= 0)
    assert ((ours.home_strength_ > 0) & (ours.home_strength_ <= 1)).all()


def test_the_condensed_tree_is_hdbscans(vectors):
    ours = plain(5, 10).fit(neighbors=lists(vectors, 15), vectors=vectors)
    frame = ours.condensed_tree_.to_pandas()
    assert set(frame.columns) == {"parent", "child", "lambda_val", "child_size"}
    assert (frame["child_size"] == 1).sum() == len(vectors)
    assert len(ours.condensed_tree_._select_clusters()) == ours.labels_.max() + 1
    assert ours.condensed_tree_.get_plot_data()["cluster_bounds"]


@pytest.mark.parametrize("value", [np.nan, -0.5, np.inf])
def test_a_wrong_distance_is_refused_with_its_place(value):
    indices, distances = np.array([[1, 2], [0, 2], [0, 1]]), np.ones((3, 2))
    distances[1, 1] = value
    with pytest.raises(ValueError, match=f"the first is {np.float32(value)}, from row 1 to row 2"):
        plain().fit(neighbors=(indices, distances))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="give either X"):
        plain().fit()
    with pytest.raises(ValueError, match="expected a square sparse graph"):
        plain().fit(csr_array((3, 4)))
    with pytest.raises(ValueError, match="neighbors name row 7 of 2; rows run from 0 to n - 1"):
        plain().fit(neighbors=([[1], [7]], [[1.0], [1.0]]))
    with pytest.raises(ValueError, match=r"vectors have shape \(3, 2\); expected \(2, dim\)"):
        plain().fit(neighbors=([[1], [0]], [[1.0], [1.0]]), vectors=np.ones((3, 2)))


@pytest.mark.parametrize("n_rows", [0, 1, 2])
def test_few_rows_are_noise(n_rows):
    ours = plain().fit(csr_array((n_rows, n_rows), dtype=np.float32))
    assert ours.labels_.tolist() == ours.home_.tolist() == [-1] * n_rows


def test_rows_without_neighbors_are_noise(vectors):
    indices, distances = lists(vectors, 10)
    indices[5] = -1
    ours = plain(3, 5).fit(neighbors=(np.where(indices == 5, -1, indices), distances))
    assert ours.labels_[5] == ours.home_[5] == -1


def test_parameters_are_scikit_learns(vectors):
    ours = plain(3, min_cluster_size=7, selection="leaf")
    again = clone(ours)
    assert again.get_params() == ours.get_params()
    neighbors = lists(vectors, 10)
    assert_array_equal(again.fit(neighbors=neighbors).labels_, ours.fit(neighbors=neighbors).labels_)
    indices, distances = neighbors
    graph = csr_array((distances.ravel(), (np.repeat(np.arange(len(vectors)), 11), indices.ravel())))
    assert_array_equal(clone(ours).fit_predict(graph), ours.labels_)  # stored zeros on the diagonal are passed over


def test_it_needs_neither_ray_nor_milvus():
    code = (
        "import sys; sys.modules.update(ray=None, pymilvus=None, grpc=None); from clustering import GraphHDBSCAN;"
        "print(GraphHDBSCAN(1, 2).fit(neighbors=([[1], [0]], [[0.5], [0.5]])).labels_.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[-1, -1]"


def test_names_of_columns_are_those_of_the_last_fit(vectors):
    table = pd.DataFrame(vectors, columns=[f"c{at}" for at in range(vectors.shape[1])])
    model = GraphHDBSCAN().fit(table)
    assert len(model.feature_names_in_) == vectors.shape[1]
    model.fit(kneighbors_graph(vectors, 15, mode="distance"))
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == len(vectors)


def test_copies_that_weigh_are_so_many_rows_beside_a_new_one() -> None:
    """Each counted once for the new row's density, so that no new row was dense enough for a cluster."""
    rng = np.random.default_rng(0)
    vectors = np.vstack([rng.normal(center, 0.05, (4, 3)) for center in (0, 3, 6)])
    new = np.vstack([rng.normal(center, 0.05, (5, 3)) for center in (0, 3, 6)])
    repeated = np.repeat(vectors, 10, axis=0)
    weigh = plain(8, 10, copies="weigh", min_distance=0.01).fit(repeated)
    apart = repeated + rng.normal(0, 0.001, repeated.shape)
    theirs = hdbscan.HDBSCAN(min_samples=8, min_cluster_size=10, prediction_data=True).fit(apart)
    number = dict(zip(theirs.labels_.tolist(), weigh.labels_.tolist(), strict=True)) | {-1: -1}
    expected = [number[one] for one in hdbscan.approximate_predict(theirs, new)[0].tolist()]
    assert weigh.predict(new).tolist() == expected
    assert 3 < sum(label >= 0 for label in expected) < 12
