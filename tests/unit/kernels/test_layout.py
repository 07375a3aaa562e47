"""graph/layout.py: UMAP's weights and objective, the same bits for any number of threads, maps as good as its own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from clustering.config.sections import EmbedSection, ProjectSection
from clustering.encoders.loading import load_encoder
from clustering.kernels.graph import layout
from clustering.kernels.graph.layout import fit_curve, fuzzy_graph, lay_out
from clustering.sample import write_sample
from clustering.stages.project import umap_layout
from tests import oracles
from tests.planted import blobs

WIDTH = 15


def neighbor_table(vectors: NDArray[np.float32], width: int = WIDTH) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each row first among its own nearest."""
    distances, indices = NearestNeighbors(n_neighbors=width).fit(vectors).kneighbors()
    rows = np.arange(len(vectors))[:, None]
    return (
        np.concatenate([rows, indices[:, : width - 1]], axis=1),
        np.concatenate([np.zeros(rows.shape), distances[:, : width - 1]], axis=1).astype(np.float32),
    )


def two_axes(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    left, strength, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    return (left[:, :2] * strength[:2]).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n_texts=st.integers(8, 40), width=st.integers(2, 6), equal=st.booleans())
def test_the_weights_match_the_slow_reference(seed: int, n_texts: int, width: int, equal: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_texts, 3)).astype(np.float32)
    if equal:
        vectors[: n_texts // 2] = vectors[0]
    indices, distances = neighbor_table(vectors, width)
    indices[0, -1] = 0  # a list that is shorter
    distances[0, -1] = 0
    graph = fuzzy_graph(indices, distances)
    assert graph.dtype == np.float32
    assert_allclose(graph.toarray(), oracles.fuzzy_weights(indices, distances), atol=1e-4)


@pytest.mark.full  # umap-learn loads for seconds
def test_the_weights_are_those_of_umap_learn() -> None:
    pytest.importorskip("umap")
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist

    indices, distances = neighbor_table(blobs(seed=5, n_blobs=4, each=40).vectors)
    scale, nearest = smooth_knn_dist.py_func(distances, WIDTH)
    rows, cols, values, _ = compute_membership_strengths.py_func(indices, distances, scale, nearest)
    listed = csr_array((values, (rows, cols)), shape=(160, 160))
    theirs = listed + listed.T - listed * listed.T
    assert_allclose(fuzzy_graph(indices, distances).toarray(), theirs.toarray(), atol=1e-4)


@pytest.mark.parametrize(("min_dist", "a", "b"), [(0.1, 1.57694346, 0.89506088), (0.5, 0.58303, 1.33417)])
def test_the_curve_is_umap_learns(min_dist: float, a: float, b: float) -> None:
    assert_allclose(fit_curve(min_dist), (a, b), rtol=1e-4)


def test_an_epoch_moves_each_row_as_the_slow_reference() -> None:
    rng = np.random.default_rng(3)
    graph = fuzzy_graph(*neighbor_table(rng.normal(size=(60, 12)).astype(np.float32), 5))
    assert np.diff(graph.indptr).max() > 2 * graph.nnz // 60  # a hub
    start = rng.normal(size=(60, 2)).astype(np.float32)
    xy, weight, (a, b) = layout._spread(start, 7), graph.data / graph.data.max(), fit_curve(0.1)
    found = layout._moved(
        xy,
        graph.indptr.astype(np.int64),
        graph.indices,
        weight,
        np.float32(a),
        np.float32(b),
        np.float32(0.7),
        np.uint64(7),
    )
    expected = oracles.layout_epoch(graph, xy, a, b, speed=0.7, key=7)
    assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = blobs(seed=6, n_blobs=5, each=60).vectors
    graph, start = fuzzy_graph(*neighbor_table(vectors)), two_axes(vectors)
    maps = []
    for threads, rows in (("1", 1 << 12), ("1", 64), ("3", 17)):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setattr(layout, "THREAD_ROWS", rows)
        maps.append(lay_out(graph, start, epochs=30))
    assert_array_equal(maps[0], maps[1])
    assert_array_equal(maps[0], maps[2])
    assert not np.array_equal(maps[0], lay_out(graph, start, epochs=30, seed=1))


def test_separate_blobs_lie_apart_on_the_map() -> None:
    vectors, truth = blobs(seed=0, n_blobs=6, each=40, spread=0.05)
    xy = lay_out(fuzzy_graph(*neighbor_table(vectors)), two_axes(vectors))
    assert xy.dtype == np.float32
    assert purity(xy, truth) > 0.98


def test_a_hub_that_all_rows_name_stays_on_the_map() -> None:
    """umap-learn's step for each in-edge, all read at once, would throw it across the map."""
    rng = np.random.default_rng(8)
    indices, distances = neighbor_table(rng.normal(size=(600, 5)).astype(np.float32))
    indices[1:, -1] = 0
    xy = lay_out(fuzzy_graph(indices, distances), rng.normal(size=(600, 2)).astype(np.float32), epochs=100)
    assert np.isfinite(xy).all()
    others = np.abs(xy[1:] - np.median(xy, axis=0)).max()
    assert np.abs(xy[0] - np.median(xy, axis=0)).max() <= others


def test_rows_that_start_in_one_place_part() -> None:
    vectors, truth = blobs(seed=2, n_blobs=2, each=30, spread=0.05)
    xy = lay_out(fuzzy_graph(*neighbor_table(vectors)), np.zeros((60, 2), np.float32))
    assert len(np.unique(xy, axis=0)) == 60
    assert purity(xy, truth, 5) > 0.9


@pytest.mark.parametrize("n_texts", [2, 3, 6])
def test_few_rows_have_a_map(n_texts: int) -> None:
    vectors = blobs(seed=1, n_blobs=1, each=n_texts).vectors
    indices = np.array([np.roll(np.arange(n_texts), -row) for row in range(n_texts)])
    distances = np.linalg.norm(vectors[indices] - vectors[:, None], axis=2).astype(np.float32)
    xy = lay_out(fuzzy_graph(indices, distances), two_axes(vectors))
    assert xy.shape == (n_texts, 2)
    assert np.isfinite(xy).all()


def test_rows_without_any_neighbor_have_a_place() -> None:
    indices = np.repeat(np.arange(8)[:, None], 3, axis=1)
    graph = fuzzy_graph(indices, np.zeros((8, 3), np.float32))
    assert graph.nnz == 0
    assert np.isfinite(lay_out(graph, np.eye(8, 2, dtype=np.float32))).all()


# --- beside umap-learn ---


def mapped(xy: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = NearestNeighbors(n_neighbors=count).fit(xy).kneighbors(return_distance=False)
    return found


def purity(xy: NDArray[np.float32], truth: NDArray[np.int64], count: int = 10) -> float:
    """Share of the nearest on the map that have the row's own label."""
    return float((truth[mapped(xy, count)] == truth[:, None]).mean())


def kept(xy: NDArray[np.float32], indices: NDArray[np.int64]) -> float:
    """Share of the listed neighbors that are among twice as many nearest on the map."""
    near = mapped(xy, 2 * WIDTH)
    return float(np.mean([np.isin(indices[row, 1:], near[row]).mean() for row in range(len(xy))]))


def headlines(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Generated headlines by the small encoder, with their stories."""
    write_sample(folder / "sample.parquet", 1600, seed=3)
    table = pq.read_table(folder / "sample.parquet").to_pydict()
    titles, first = np.unique(table["title"], return_index=True)
    encoded = load_encoder(EmbedSection(encoder="static")).encode(titles.tolist())
    return encoded.vectors, np.array(table["story"])[first]


def uneven(_: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Groups of 5 to 400 rows in 40 dimensions, and noise all over, which has hubs."""
    rng = np.random.default_rng(4)
    sizes = np.geomspace(5, 400, 14).astype(int)
    points = [rng.normal(size=40) + rng.normal(0, 0.7, (size, 40)) for size in sizes]
    vectors = np.concatenate([*points, rng.normal(size=(200, 40))]).astype(np.float32)
    truth = np.concatenate([np.repeat(np.arange(14), sizes), np.full(200, 14)])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), truth


SETS: dict[str, Any] = {
    "headlines": headlines,
    "uneven": uneven,
    "blobs": lambda _: blobs(seed=9, n_blobs=30, each=45, noise=150, dim=12, spread=0.15),
}


@pytest.mark.full
@pytest.mark.parametrize("name", SETS)
def test_a_map_is_as_good_as_umap_learns(name: str, tmp_path: Path) -> None:
    vectors, truth = SETS[name](tmp_path)
    table, start = neighbor_table(vectors), two_axes(vectors)
    ours = lay_out(fuzzy_graph(*table), start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = umap_layout(*table, start, ProjectSection(method="umap", seed=0))
    assert kept(ours, table[0]) >= kept(theirs, table[0]) - 0.02
    assert purity(ours, truth) >= purity(theirs, truth) - 0.02
    faith = [trustworthiness(vectors, xy, n_neighbors=WIDTH) for xy in (ours, theirs)]
    assert faith[0] >= faith[1] - 0.01
    random = np.random.default_rng(0).normal(size=start.shape).astype(np.float32)
    assert kept(random, table[0]) < kept(theirs, table[0]) - 0.2  # the measure tells a map from none
