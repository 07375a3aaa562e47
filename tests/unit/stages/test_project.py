"""project.py: the map is laid out from the searched neighbors, which stay as they are."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import ProjectSection
from clustering.errors import StageError
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name
from clustering.runs.storage import write_table
from clustering.stages import project
from clustering.stages.project import (
    _neighbor_columns,
    _principal_components,
    draw_map,
    place_between,
    sample_neighbors,
    umap_layout,
)
from tests.planted import blobs, pair_distances, write_vectors

METHODS = [
    ProjectSection(n_neighbors=10),
    pytest.param(ProjectSection(method="umap", n_neighbors=10, seed=1), marks=pytest.mark.full),  # it compiles for long
]


def neighbor_table(vectors: NDArray[np.float32], width: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each text first among its own nearest, as UMAP wants it."""
    distances = pair_distances(vectors)
    np.fill_diagonal(distances, 0)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :width]
    return nearest, np.take_along_axis(distances, nearest, axis=1).astype(np.float32)


@pytest.mark.parametrize("cfg", METHODS, ids=["layout", "umap"])
def test_the_map_keeps_separate_blobs_apart_and_its_input_whole(cfg: ProjectSection) -> None:
    vectors, truth = blobs(seed=0, n_blobs=3, each=25, spread=0.05)
    indices, distances = neighbor_table(vectors, 10)
    given = indices.copy(), distances.copy()
    xy = draw_map(indices, distances, vectors[:, :2], cfg, seed=1)
    assert xy.shape == (75, 2)
    assert xy.dtype == np.float32
    assert np.isfinite(xy).all()
    nearest = neighbor_table(xy, 6)[0][:, 1:]
    assert (truth[nearest] == truth[:, None]).mean() > 0.95
    assert_array_equal(indices, given[0])
    assert_array_equal(distances, given[1])


@pytest.mark.parametrize("cfg", METHODS, ids=["layout", "umap"])
def test_the_same_seed_gives_the_same_map(cfg: ProjectSection) -> None:
    vectors = blobs(seed=1, n_blobs=2, each=20).vectors
    table = neighbor_table(vectors, 10)
    first, again = (draw_map(*table, vectors[:, :2], cfg, seed=1) for _ in range(2))
    assert_array_equal(first, again)


def test_the_run_s_seed_draws_the_map_unless_it_has_its_own() -> None:
    vectors = blobs(seed=1, n_blobs=2, each=20).vectors
    table = neighbor_table(vectors, 10)
    first, other, own = (
        draw_map(*table, vectors[:, :2], ProjectSection(seed=given), seed)
        for given, seed in ((None, 1), (None, 2), (1, 2))
    )
    assert not np.array_equal(first, other)
    assert_array_equal(first, own)


def test_umap_learn_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    vectors = blobs(seed=1, n_blobs=2, each=20).vectors
    with pytest.raises(StageError, match=r"project.method=umap needs umap-learn .*pip install umap-learn, or method="):
        umap_layout(*neighbor_table(vectors, 10), vectors[:, :2], ProjectSection(method="umap"))


@pytest.mark.parametrize("n_texts", [5, 6, 16])
@pytest.mark.parametrize("cfg", METHODS, ids=["layout", "umap"])
def test_few_texts_have_a_map_with_all_their_neighbors(n_texts: int, cfg: ProjectSection) -> None:
    vectors = blobs(seed=2, n_blobs=1, each=n_texts).vectors
    xy = draw_map(*neighbor_table(vectors, n_texts), vectors[:, :2], cfg, seed=1)
    assert xy.shape == (n_texts, 2)
    assert np.isfinite(xy).all()


def stored_neighbors(run: RunDir, lists: list[list[int]], part_rows: int = 2) -> None:
    for part, first in enumerate(range(0, len(lists), part_rows)):
        held = lists[first : first + part_rows]
        columns = {
            "row": np.arange(first, first + len(held)),
            "neighbors": pa.array(held, pa.list_(pa.int64())),
            "distances": pa.array(
                [[(place + 1) / 10 for place in range(len(near))] for near in held], pa.list_(pa.float32())
            ),
            "cell": np.zeros(len(held), np.int32),
        }
        write_table(run / "neighbors" / part_name(part), pa.table(columns, schema=schema.NEIGHBORS))


def test_a_text_leads_its_neighbors_and_fills_up_a_short_list(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    stored_neighbors(run, [[1, 2, 3], [0], [], [2, 0, 1]])
    indices, distances = _neighbor_columns(run, 4, 3)
    assert_array_equal(indices, [[0, 1, 2], [1, 0, 1], [2, 2, 2], [3, 2, 0]])
    assert_allclose(distances, [[0, 0.1, 0.2], [0, 0.1, 0], [0, 0, 0], [0, 0.1, 0.2]])


def test_the_start_is_the_first_two_principal_components(tmp_path: Path) -> None:
    vectors = blobs(seed=3, n_blobs=3, each=7).vectors
    write_vectors(tmp_path / "vectors", vectors, part_rows=8)
    found = _principal_components(RunDir(tmp_path), 21)
    left, strengths, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * strengths[:2]
    assert found.dtype == np.float32
    for axis in range(2):
        assert_allclose(np.abs(found[:, axis]), np.abs(expected[:, axis]), atol=1e-4)


def chain(n_texts: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts in a row, each with its k nearest, self first."""
    away = np.abs(np.arange(n_texts)[:, None] - np.arange(n_texts)[None, :]).astype(np.float32)
    indices = np.argsort(away, axis=1, kind="stable")[:, : k + 1]
    return indices, np.take_along_axis(away, indices, axis=1)


def test_a_sample_finds_its_neighbors_within_two_steps():
    indices, distances = chain(40, 4)
    chosen = np.arange(0, 40, 2)
    found, away = sample_neighbors(indices, distances, chosen, 3)
    assert found[:, 0].tolist() == list(range(20))
    for own in range(2, 18):
        assert set(found[own, 1:].tolist()) == {own - 1, own + 1}
        np.testing.assert_array_equal(away[own, 1:], [2, 2])


def test_a_sample_takes_its_nearest_within_two_steps_and_of_equal_ones_the_first_found():
    rng = np.random.default_rng(5)
    indices = np.array([np.roll(rng.permutation(60), 0)[:8] for _ in range(60)])
    indices[:, 0] = np.arange(60)
    distances = np.sort(rng.integers(0, 4, (60, 8)), axis=1).astype(np.float32)
    distances[:, 0] = 0
    chosen = np.sort(rng.choice(60, 40, replace=False))
    place = {int(row): at for at, row in enumerate(chosen)}
    found, away = sample_neighbors(indices, distances, chosen, 5)
    for own, row in enumerate(chosen):
        length: dict[int, float] = {}
        for middle, first in zip(indices[row], distances[row], strict=True):
            for other, second in zip(indices[middle], distances[middle], strict=True):
                if other in place and other != row:
                    length[place[other]] = min(length.get(place[other], np.inf), float(first + second))
        nearest = sorted(length, key=length.__getitem__)[:4]
        assert found[own].tolist() == [own, *nearest, *[own] * (4 - len(nearest))]
        assert away[own].tolist() == [0, *(length[other] for other in nearest), *[0] * (4 - len(nearest))]


def test_texts_outside_the_sample_lie_amid_their_neighbors():
    indices, distances = chain(41, 2)
    chosen = np.arange(0, 41, 4)
    layout = np.column_stack([chosen, np.zeros(chosen.size)]).astype(np.float32)
    xy = place_between(indices, distances, chosen, layout)
    np.testing.assert_array_equal(xy[chosen], layout)
    assert np.isfinite(xy).all()
    assert np.abs(xy[:, 0] - np.arange(41)).max() <= 2.5


def test_a_text_that_no_placed_neighbor_reaches_lies_at_the_middle():
    indices = np.array([[0, 1], [1, 0], [2, 2]])
    distances = np.array([[0, 1], [1, 0], [0, 0]], np.float32)
    xy = place_between(indices, distances, np.array([0]), np.array([[3.0, 4.0]], np.float32))
    np.testing.assert_array_equal(xy, [[3, 4], [3, 4], [3, 4]])


def test_blocks_place_texts_where_one_block_does_and_need_little_beside_the_table(monkeypatch):
    rng = np.random.default_rng(4)
    n_texts, width = 40_001, 21
    indices = np.clip(np.arange(n_texts)[:, None] + rng.integers(-60, 61, (n_texts, width)), 0, n_texts - 1)
    distances = rng.random((n_texts, width), np.float32)
    chosen = np.arange(0, n_texts, 900)  # the others are reached in several rounds
    layout = rng.normal(size=(chosen.size, 2)).astype(np.float32)
    tracemalloc.start()
    xy = place_between(indices, distances, chosen, layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < indices.nbytes + distances.nbytes
    monkeypatch.setattr(project, "BLOCK_ROWS", n_texts)
    assert_array_equal(place_between(indices, distances, chosen, layout), xy)
