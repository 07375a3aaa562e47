"""What users give GraphHDBSCAN, in every form that other libraries give it."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import bsr_array, coo_array, csc_array, csr_array, csr_matrix
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from clustering import GraphHDBSCAN
from clustering.estimator import search
from tests.planted import blobs

K = 15


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float64]:
    return blobs(3, noise=60).vectors.astype(np.float64)


@pytest.fixture(scope="module")
def lists(vectors: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    distances, indices = NearestNeighbors(n_neighbors=K + 1).fit(vectors).kneighbors(vectors)
    return indices, distances


@pytest.fixture(scope="module")
def labels(lists: Any) -> NDArray[np.int64]:
    found: NDArray[np.int64] = GraphHDBSCAN().fit(neighbors=lists).labels_
    assert found.max() > 3
    return found


# --- lists ---


def test_lists_are_taken_as_other_libraries_give_them(lists: Any, labels: NDArray[np.int64]) -> None:
    indices, distances = lists
    padded = np.full((len(indices), 2), -1)
    for given_so in (
        (distances, indices),  # scikit-learn, Faiss
        (indices, distances, object()),  # umap.umap_.nearest_neighbors
        [indices.astype(np.uint32), distances.astype(np.float32)],
        (indices.astype(np.int16), distances),
        (np.hstack([indices, padded]), np.hstack([distances, padded + np.nan])),
        (np.hstack([padded, indices]), np.hstack([padded + np.inf, distances])),
        (indices.tolist(), distances.tolist()),
    ):
        assert_array_equal(GraphHDBSCAN().fit(neighbors=given_so).labels_, labels)


@pytest.mark.parametrize("weights", ["diffused", "distance"])
def test_a_neighbor_that_is_listed_twice_counts_once(lists: Any, weights: str) -> None:
    indices, distances = lists
    model = GraphHDBSCAN(weights=weights, min_samples=None if weights == "diffused" else 4)
    once = model.fit(neighbors=lists)
    labels, strengths, certified = once.labels_, once.probabilities_, once.certified_
    again = [1, 1, 2, 3, 4, 4, 4]
    twice = (np.hstack([indices, indices[:, again]]), np.hstack([distances, distances[:, again] * 1.5]))
    n_rows, width = twice[0].shape
    rows, flat = np.arange(n_rows).repeat(width), (twice[1].ravel(), twice[0].ravel())
    for found in (
        model.fit(neighbors=twice),
        clone(model).set_params(n_neighbors=K).fit(csr_array((*flat, np.arange(n_rows + 1) * width), (n_rows, n_rows))),
        clone(model).set_params(n_neighbors=K).fit(coo_array((flat[0], (rows, flat[1])), (n_rows, n_rows))),
    ):
        assert_array_equal(found.labels_, labels)
        assert_array_equal(found.probabilities_, strengths)
        assert found.certified_ == certified


@pytest.mark.parametrize(
    ("neighbors", "says"),
    [
        (None, "give either X, vectors or a sparse graph, or neighbors"),
        ({}, "neighbors are a dict; expected"),
        (([[1], [0]],), "neighbors are a tuple of 1; expected"),
        (np.ones((2, 3, 4)), "neighbors are a ndarray; expected"),
        (([[1.0], [0.0]], [[1.0], [1.0]]), "hold row numbers of type float64; give"),
        (([[True], [False]], [[1.0], [1.0]]), "hold row numbers of type bool"),
        (([["1"], ["0"]], [[1.0], [1.0]]), "hold row numbers of type <U1"),
        (([[1], [0]], [["a"], ["b"]]), "distances of neighbors are of type <U1; expected numbers"),
        (([[1], [0]], [[1j], [1.0]]), "distances of neighbors are of type complex128; expected numbers"),
        (
            ([[1], [0, 1]], [[1.0], [1.0, 2.0]]),
            "indices of neighbors are lists of several lengths; fill them up with -1",
        ),
        (([1, 0], [1.0, 1.0]), r"neighbors have shapes \(2,\) and \(2,\); expected"),
        (([[1, 0], [0, 1]], [[1.0], [1.0]]), r"neighbors have shapes \(2, 2\) and \(2, 1\); expected"),
        (([[2], [0]], [[1.0], [1.0]]), "neighbors name row 2 of 2; rows run from 0 to n - 1"),
        (([[-2], [0]], [[1.0], [1.0]]), "neighbors name row -2 of 2"),
        ((np.array([[2**32 - 1], [0]], np.uint32), [[1.0], [1.0]]), "neighbors name row 4294967295 of 2"),
        (
            ([[1], [0]], [[1.0], [1e300]]),
            "distances are negative, infinite or NaN; the first is inf, from row 1",
        ),
        (
            ([[1], [0]], [[-1.0], [1.0]]),
            "1 of 2 distances are negative, infinite or NaN; the first is -1.0",
        ),
    ],
    ids=str,
)
def test_lists_that_are_none_are_refused(neighbors: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GraphHDBSCAN().fit(neighbors=neighbors)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 0), (1, 1), (4, 0)])
def test_few_rows_and_empty_lists_are_noise(shape: tuple[int, int]) -> None:
    found = GraphHDBSCAN().fit(neighbors=(np.zeros(shape, int), np.zeros(shape)))
    assert found.labels_.tolist() == [-1] * shape[0]
    assert found.predict(neighbors=(np.zeros((2, 0), int), np.zeros((2, 0)))).tolist() == [-1, -1]


# --- sparse graphs ---


def test_every_sparse_format_and_precision_says_the_same(lists: Any, labels: NDArray[np.int64]) -> None:
    indices, distances = lists
    n_rows = len(indices)
    graph = csr_array((distances.ravel(), (np.arange(n_rows).repeat(K + 1), indices.ravel())), (n_rows, n_rows))
    short = graph.data.astype(np.float16)
    columns = graph.tocsc()
    for other in (
        graph, csr_matrix(graph), columns, graph.tocoo(), graph.tolil(), graph.todok(),
        bsr_array(graph, blocksize=(4, 4)),
        csr_array((short, graph.indices, graph.indptr), graph.shape),
        csc_array((columns.data.astype(np.float16), columns.indices, columns.indptr), graph.shape),
    ):  # fmt: skip
        assert_array_equal(GraphHDBSCAN().fit(other).labels_, labels)
    assert graph.data.dtype == np.float64  # and is the user's as it was
    assert graph.nnz == n_rows * (K + 1)


def broken(part: str, place: int, value: int) -> csr_array:
    graph = csr_array(([1.0, 1.0, 1.0], [1, 2, 0], [0, 1, 2, 3]), (3, 3))
    getattr(graph, part)[place] = value
    return graph


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (csr_array((3, 4)), r"X is csr_array of shape \(3, 4\); expected a square sparse graph"),
        (csr_array(np.eye(3, dtype=bool)), "X holds bool; expected distances"),
        (csr_array(np.ones((3, 3)) * 1j), "X holds complex128; expected distances"),
        (broken("indices", 1, 9), "X is no sound sparse graph: indices must be < 3"),
        (broken("indices", 1, -1), "X is no sound sparse graph: indices must be >= 0"),
        (broken("indptr", 1, 3), "X is no sound sparse graph: indptr must be a non-decreasing sequence"),
    ],
    ids=["shape", "bool", "complex", "above", "below", "pointers"],
)
def test_graphs_that_are_none_are_refused(graph: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GraphHDBSCAN().fit(graph)


# --- parameters ---


@pytest.mark.parametrize(
    "parameters",
    [
        {"min_samples": 0.01 * 700}, {"min_cluster_size": 12.0}, {"min_samples": np.int32(3)},
        {"layers": np.float32(3)},
        {"budget": 1e5}, {"granularity": 10**12}, {"min_samples": 10**12}, {"min_cluster_size": 10**12},
        {"allow_single_cluster": np.True_}, {"min_distance": np.float32(0.5)}, {"seed": np.uint64(7)},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_any_type_are_taken_and_left_as_they_are(lists: Any, parameters: dict[str, Any]) -> None:
    ((name, value),) = parameters.items()
    for weights in ("diffused", "distance"):
        model = GraphHDBSCAN(**parameters, weights=weights).fit(neighbors=lists)
        assert getattr(model, name) is value
        plain = round(value) if not isinstance(value, (bool, np.bool_)) and name != "min_distance" else value
        assert_array_equal(clone(model).set_params(**{name: plain}).fit(neighbors=lists).labels_, model.labels_)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (
            {"min_samples": 2.4},
            "min_samples=2.4 is no .* give a whole number from 1 on, or None; 2 and 3 are near",
        ),
        ({"min_samples": float("nan")}, "min_samples=nan is no whole number"),
        ({"min_samples": True}, "min_samples=True is no whole number"),
        ({"min_samples": 0}, "min_samples=0 is below its range; give a whole number from 1 on, or None"),
        ({"min_samples": 10**30}, "min_samples=10+ is more than 64 bits hold; lower it"),
        ({"min_cluster_size": "5"}, "min_cluster_size='5' is no whole number"),
        ({"min_cluster_size": 1.0}, "min_cluster_size=1 is below its range; give a whole number from 2 on"),
        ({"layers": 7}, "layers=7 is above its range; give a whole number from 1 to 6$"),
        ({"layers": None}, "layers=None is no whole number; give a whole number from 1 to 6$"),
        ({"n_neighbors": 0}, "n_neighbors=0 is below its range; give"),
        ({"max_cluster_size": -1}, "max_cluster_size=-1 is below its range; give a whole number from 0 on$"),
        ({"seed": None}, "seed=None is no whole number"),
        ({"epsilon": -0.1}, "epsilon=-0.1 is no distance; give a finite number from 0 on"),
        ({"epsilon": float("inf")}, "epsilon=inf is no distance; give"),
        ({"min_distance": "0"}, "min_distance='0' is no distance; give"),
        ({"allow_single_cluster": 1}, "allow_single_cluster=1; give True or False"),
        ({"weights": None}, "weights=None is not known; give one of 'diffused', 'distance'$"),
        ({"selection": ["eom"]}, r"selection=\['eom'\] is not known; give one of"),
        ({"copies": b"fold"}, "copies=b'fold' is not known; give one of"),
        ({"preset": np.array(["topics"])}, "preset=array.* is not known; give one of"),
        ({"weights": "difused"}, r"weights='difused' is not known; give one of .* \('diffused' is near\)"),
        ({"preset": "topics", "selection": "eom"}, "preset='topics' has no meaning with selection='eom'; leave it out"),
        ({"epsilon": 0.1}, "epsilon=0.1 has no meaning with .*; leave it out, or give selection='eom' or selection="),
        ({"max_cluster_size": 9, "selection": "leaf"}, "has no meaning with selection='leaf'; .* give selection='eom'"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_named_with_its_value(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GraphHDBSCAN(**parameters).fit(neighbors=([[1], [0]], [[1.0], [1.0]]))


def test_every_parameter_is_checked() -> None:
    for name in GraphHDBSCAN().get_params():
        with pytest.raises(ValueError, match=f"^{name}="):
            GraphHDBSCAN(**{name: object()}).fit(neighbors=([[1], [0]], [[1.0], [1.0]]))


# --- vectors ---


def test_vectors_are_searched_as_lists_would_be(vectors: Any, lists: Any) -> None:
    ours = GraphHDBSCAN(n_neighbors=K).fit(vectors)
    by_lists = GraphHDBSCAN().fit(neighbors=lists, keys=search.row_keys(vectors))
    assert_array_equal(ours.labels_, by_lists.labels_)
    assert ours.n_features_in_ == vectors.shape[1]
    assert_array_equal(GraphHDBSCAN(n_neighbors=K).fit_predict(vectors.tolist()), ours.labels_)


def test_plain_hdbscan_of_vectors_is_exact(vectors: Any) -> None:
    hdbscan = pytest.importorskip("hdbscan")
    ours = GraphHDBSCAN(5, 10, weights="distance", selection="eom", n_neighbors=K).fit(vectors)
    exact = hdbscan.HDBSCAN(min_samples=5, min_cluster_size=10, approx_min_span_tree=False).fit(vectors)
    assert ours.certified_ == 1
    assert adjusted_rand_score(exact.labels_, ours.labels_) >= 0.99


def test_equal_vectors_have_one_label_and_the_order_of_rows_changes_nothing(vectors: Any) -> None:
    many = np.concatenate([vectors, np.repeat(vectors[:3], 70, axis=0), vectors[10:40]])
    ours = GraphHDBSCAN().fit(many)
    assert_array_equal(ours.labels_[len(vectors) :], ours.labels_[[*np.arange(3).repeat(70), *range(10, 40)]])
    order = np.random.default_rng(1).permutation(len(many))
    shuffled = GraphHDBSCAN().fit(many[order])
    assert adjusted_rand_score(ours.labels_[order], shuffled.labels_) == 1
    assert_array_equal(ours.labels_[order] < 0, shuffled.labels_ < 0)


def test_many_rows_of_many_dimensions_are_searched_approximately(monkeypatch: Any) -> None:
    corpus = blobs(2, n_blobs=5, each=60, dim=20, spread=0.05)
    exact = GraphHDBSCAN(n_neighbors=20).fit(corpus.vectors)
    monkeypatch.setattr(search, "EXACT_ROWS", 100)
    asked: list[int] = []

    class Descent:  # the real one compiles for most of a minute, and is below
        def __init__(self, points: NDArray[Any], n_neighbors: int, **keys: Any) -> None:
            asked.append(n_neighbors)
            distances, indices = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(points)
            indices[0, -1], distances[0, -1] = -1, np.inf
            self.neighbor_graph = indices, distances
            self.points = points

        def query(self, new: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
            asked.append(k)
            distances, indices = NearestNeighbors(n_neighbors=k + 1).fit(self.points).kneighbors(new)
            return indices[:, 1:], distances[:, 1:]  # it misses what it was made of, as an approximate search may

    monkeypatch.setitem(__import__("sys").modules, "pynndescent", type("module", (), {"NNDescent": Descent}))
    found = GraphHDBSCAN(n_neighbors=20).fit(corpus.vectors)
    assert asked == [21]
    assert adjusted_rand_score(exact.labels_, found.labels_) == 1
    assert_array_equal(found.predict(corpus.vectors), found.labels_)
    assert asked == [21, 15]  # as many as vote


@pytest.mark.nightly  # pynndescent is compiled first, for minutes
def test_pynndescent_gives_the_lists_of_many_rows_and_new_rows_cost_no_more(monkeypatch: Any) -> None:
    corpus = blobs(2, n_blobs=40, each=100, dim=20, spread=0.05)
    exact = GraphHDBSCAN(n_neighbors=20).fit(corpus.vectors)
    monkeypatch.setattr(search, "EXACT_ROWS", 100)
    found = GraphHDBSCAN(n_neighbors=20).fit(corpus.vectors)
    assert adjusted_rand_score(exact.labels_, found.labels_) > 0.95
    new = corpus.vectors + np.float32(1e-3)
    found.predict(new[:50])  # compiles
    start = time.perf_counter()
    index = search.VectorIndex(corpus.vectors, 20, 0)
    searched = time.perf_counter() - start
    start = time.perf_counter()
    labels = found.predict(new)
    assert time.perf_counter() - start < 3 * searched + 0.5
    assert index.approximate
    assert adjusted_rand_score(exact.predict(new), labels) > 0.95
    assert_array_equal(pickle.loads(pickle.dumps(found)).predict(corpus.vectors), found.labels_)


@pytest.mark.parametrize("dim", [3, 15, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predict_takes_as_long_as_the_search(dim: int, dtype: Any) -> None:
    """Of 4,000 new rows; numbers of another type than those of fit made it many times as long."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(40, dim))
    points = (np.repeat(middles, 100, axis=0) + rng.normal(0, 0.1, (4000, dim))).astype(np.float32)
    model = GraphHDBSCAN(n_neighbors=20).fit(points)
    index, new = search.VectorIndex(points, 20, 0), points.astype(dtype) + dtype(1e-3)
    searched, took = [], []
    for _ in range(3):
        start = time.perf_counter()
        index.own_neighbors()
        searched.append(time.perf_counter() - start)
        start = time.perf_counter()
        labels = model.predict(new)
        took.append(time.perf_counter() - start)
    assert (labels >= 0).mean() > 0.5
    assert min(took) < 4 * min(searched) + 0.3


@pytest.mark.parametrize(
    ("X", "says"),
    [
        (np.array([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]]), "as a matrix of all distances is; give it as a sparse graph"),
        (np.full((4, 2), np.nan), "Input X contains NaN"),
        (np.full((4, 2), np.inf), "Input X contains infinity"),
        (np.ones(5), "Expected 2D array, got 1D array"),
        (np.ones((2, 2, 2)), "dim 3"),
        (np.empty((0, 3)), "0 sample"),
        (np.array([["a", "b"]]), "could not convert string to float"),
    ],
    ids=lambda one: str(one)[:20],
)
def test_vectors_that_are_none_are_refused(X: Any, says: str) -> None:  # noqa: N803
    with pytest.raises(ValueError, match=says):
        GraphHDBSCAN().fit(X)


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_few_vectors_are_noise(n_rows: int) -> None:
    rows = np.arange(n_rows * 2.0).reshape(n_rows, 2)
    assert GraphHDBSCAN().fit(rows).labels_.tolist() == [-1] * n_rows
    assert GraphHDBSCAN().fit(rows).predict(rows).tolist() == [-1] * n_rows


def test_vectors_that_are_all_equal_are_one_cluster() -> None:
    assert GraphHDBSCAN().fit(np.ones((30, 4))).labels_.tolist() == [0] * 30


# --- predict ---


@pytest.mark.parametrize("parameters", [{}, {"weights": "distance", "selection": "eom"}], ids=["default", "plain"])
def test_rows_that_were_there_keep_their_labels_and_new_ones_join_near_ones(
    vectors: Any, lists: Any, parameters: dict[str, Any]
) -> None:
    model = GraphHDBSCAN(**parameters, n_neighbors=K).fit(np.concatenate([vectors, vectors[:20]]))
    labels = model.labels_[: len(vectors)]
    assert_array_equal(model.predict(vectors), labels)
    indices, distances = lists
    assert_array_equal(model.predict(neighbors=(distances, indices)), labels)
    member = labels >= 0
    new = model.predict(vectors + 1e-4)
    assert (new == labels)[member].mean() > 0.9
    assert set(new[member]) - {-1} == set(labels[member])
    assert set(model.predict(vectors + 1e4)) == {-1}
    by_lists = GraphHDBSCAN(**parameters).fit(neighbors=lists)
    assert_array_equal(by_lists.predict(neighbors=lists), by_lists.labels_)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(vectors), labels)


@pytest.mark.parametrize("parameters", [
    {}, {"copies": "weigh", "min_distance": 0.01}, {"weights": "distance", "selection": "eom"},
    {"weights": "distance", "selection": "eom", "copies": "weigh", "min_distance": 0.01},
])  # fmt: skip
def test_copies_in_lists_of_new_rows_count_as_they_do_among_vectors(parameters: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    sides = rng.normal(0, 0.25, (120, 2)) + np.repeat([[0.0, 0.0], [3.0, 0.0]], 60, axis=0)
    rows = np.concatenate([sides, np.repeat([[1.2, 0.0]], 50, axis=0)])  # many copies between two groups
    new = np.column_stack([np.linspace(1.3, 2.9, 17), np.zeros(17)])
    model = GraphHDBSCAN(**parameters, n_neighbors=50).fit(rows)
    away, ids = NearestNeighbors(n_neighbors=len(rows)).fit(rows).kneighbors(new)
    lists = np.concatenate([ids, ids[:, ::-1]], axis=1), np.concatenate([away, away[:, ::-1] + 1], axis=1)
    by_vectors, by_lists = model.approximate_predict(new), model.approximate_predict(neighbors=lists)
    assert len(set(by_vectors[0])) > 1
    assert_array_equal(by_lists[0], by_vectors[0])
    assert_allclose(by_lists[1], by_vectors[1], atol=1e-5)
    if "weights" not in parameters:
        shares = model.membership_vectors(neighbors=lists).toarray()
        assert_allclose(shares, model.membership_vectors(new).toarray(), atol=1e-5)


def test_predict_refuses_what_does_not_fit(vectors: Any, lists: Any) -> None:
    with pytest.raises(NotFittedError, match="not fitted yet"):
        GraphHDBSCAN().predict(vectors)
    model = GraphHDBSCAN().fit(vectors)
    with pytest.raises(ValueError, match="X has 3 features, but GraphHDBSCAN is expecting 8"):
        model.predict(vectors[:, :3])
    with pytest.raises(ValueError, match="give either X, vectors, or neighbors"):
        model.predict()
    with pytest.raises(ValueError, match="neighbors name row 240 of 240"):
        model.predict(neighbors=([[240]], [[1.0]]))
    with pytest.raises(ValueError, match="distances of neighbors are negative, infinite or NaN"):
        model.predict(neighbors=([[0]], [[np.nan]]))
    with pytest.raises(ValueError, match="those of a graph, without vectors; give neighbors"):
        GraphHDBSCAN().fit(neighbors=lists).predict(vectors)


@pytest.mark.parametrize("scale", [1e19, 1e30, 1e200])
def test_numbers_whose_squares_no_float_holds_are_refused(scale: float, vectors: Any, lists: Any) -> None:
    """Of vectors all became noise or numpy's own error, of distances other clusters."""
    with pytest.raises(ValueError, match=r"numbers of X reach to .*, beyond 1e\+18; divide them all by one number"):
        GraphHDBSCAN().fit(vectors * scale)
    if scale < 1e38:
        with pytest.raises(ValueError, match=r"distances reach to .*, beyond 1e\+18"):
            GraphHDBSCAN().fit(neighbors=(lists[0], lists[1] * scale))
        GraphHDBSCAN(weights="distance", selection="eom").fit(neighbors=(lists[0], lists[1] * scale))


def test_large_numbers_give_the_same_clusters(lists: Any, labels: Any) -> None:
    assert_array_equal(GraphHDBSCAN().fit(neighbors=(lists[0], lists[1] * 2.0**50)).labels_, labels)


@pytest.mark.parametrize(
    "approximate",
    [False, pytest.param(True, marks=pytest.mark.nightly)],  # pynndescent is compiled first, for minutes
)
def test_rows_far_from_the_origin_have_the_neighbors_that_they_have_near_it(
    approximate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns such as epoch seconds: near rows seemed to be one, and clusters fell together."""
    monkeypatch.setattr(search, "EXACT_ROWS", 100 if approximate else 10_000)
    rng = np.random.default_rng(2)
    near = np.repeat(rng.normal(0, 40, (8, 20)), 60, axis=0) + rng.normal(size=(480, 20))
    far = near + 1e9
    assert adjusted_rand_score(*(GraphHDBSCAN().fit_predict(points) for points in (near, far))) > 0.99
    found = [search.VectorIndex(points, 10, 0).nearest(points[:50], 5)[0] for points in (near, far)]
    assert (found[0] == found[1]).mean() > 0.98
    assert search.far_offset(near) is None
