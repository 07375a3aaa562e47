"""project.py: the map is laid out from the searched neighbors, which stay as they are."""

from __future__ import annotations

import sys
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
from clustering.runs.parts import group_parts, part_name, part_names, read_columns
from clustering.runs.storage import write_table
from clustering.stages import project
from clustering.stages.project import (
    _neighbor_columns,
    _principal_components,
    _project,
    draw_map,
    principal_axes,
    spaced_rows,
    umap_layout,
)
from clustering.workers.tasks import HERE, limited_threads
from tests import oracles
from tests.planted import blobs, pair_distances, write_vectors

METHODS = [
    ProjectSection(n_neighbors=10),
    pytest.param(ProjectSection(method="umap", n_neighbors=10, seed=1), marks=pytest.mark.nightly),  # compiles long
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


Lists = list[list[tuple[int, np.float32]]]


def stored_neighbors(run: RunDir, lists: Lists, part_rows: int) -> None:
    for part, first in enumerate(range(0, len(lists), part_rows)):
        held = lists[first : first + part_rows]
        columns = {
            "row": np.arange(first, first + len(held)),
            "neighbors": pa.array([[other for other, _ in near] for near in held], pa.list_(pa.int64())),
            "distances": pa.array([[away for _, away in near] for near in held], pa.list_(pa.float32())),
            "cell": np.zeros(len(held), np.int32),
        }
        write_table(run / "neighbors" / part_name(part), pa.table(columns, schema=schema.NEIGHBORS))


def test_a_text_leads_its_neighbors_and_fills_up_a_short_list(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    near = [[1, 2, 3], [0], [], [2, 0, 1]]
    stored_neighbors(run, [[(other, np.float32((at + 1) / 10)) for at, other in enumerate(one)] for one in near], 2)
    indices, distances = _neighbor_columns(run, 4, 3)
    assert_array_equal(indices, [[0, 1, 2], [1, 0, 1], [2, 2, 2], [3, 2, 0]])
    assert_allclose(distances, [[0, 0.1, 0.2], [0, 0.1, 0], [0, 0, 0], [0, 0.1, 0.2]])


def test_the_start_is_the_first_two_principal_components(tmp_path: Path) -> None:
    vectors = blobs(seed=3, n_blobs=3, each=7).vectors
    write_vectors(tmp_path / "vectors", vectors, part_rows=8)
    run = RunDir(tmp_path)
    found = _principal_components(run, group_parts(run / "vectors", 21, 1), None, HERE)
    left, strengths, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * strengths[:2]
    assert found.dtype == np.float32
    for axis in range(2):
        assert_allclose(np.abs(found[:, axis]), np.abs(expected[:, axis]), atol=1e-4)


def test_the_axes_are_the_same_to_the_bit_on_any_number_of_cores() -> None:
    vectors = blobs(seed=3, n_blobs=30, each=30, dim=256).vectors
    found = []
    for threads in (1, 2, 3):
        with limited_threads(threads):
            found.append(np.vstack(principal_axes([vectors[:500], vectors[500:]])))
    assert_array_equal(found[1], found[0])
    assert_array_equal(found[2], found[0])


def test_the_axes_of_many_vectors_are_those_of_blocks_all_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "AXES_ROWS", 16)
    monkeypatch.setattr(project, "AXES_BLOCK", 4)
    vectors = blobs(seed=3, n_blobs=3, each=14).vectors
    rows = spaced_rows(42).ravel()
    assert_array_equal(rows, [0, 1, 2, 3, 12, 13, 14, 15, 24, 25, 26, 27, 36, 37, 38, 39])
    axes, shift = principal_axes([vectors[rows]])
    chosen = np.array([1, 2, 17, 41])
    found = []
    for part_rows in (5, 42):
        run = RunDir(tmp_path / str(part_rows))
        write_vectors(run / "vectors", vectors, part_rows)
        groups = group_parts(run / "vectors", 10, 99)
        found += [_principal_components(run, groups, None, HERE), _principal_components(run, groups, chosen, HERE)]
    assert_allclose(found[0], vectors @ axes - shift, atol=1e-6)
    assert_array_equal(found[1], found[0][chosen])
    assert_array_equal(found[2], found[0])
    assert_array_equal(found[3], found[1])


def ragged_lists(n_texts: int, most: int, seed: int) -> tuple[NDArray[np.float32], Lists]:
    """Vectors, and lists of near texts with equal distances among them; some texts have none."""
    rng = np.random.default_rng(seed)
    vectors, _ = blobs(seed, n_blobs=4, each=n_texts // 4)
    lists: Lists = []
    for row in range(len(vectors)):
        others = np.unique(np.clip(row + rng.integers(-12, 13, rng.integers(0, most + 1)), 0, len(vectors) - 1))
        others = rng.permutation(others[others != row])
        away = np.sort(rng.integers(0, 9, others.size) / np.float32(8)).astype(np.float32)
        lists.append([(int(other), distance) for other, distance in zip(others, away, strict=True)])
    return vectors, lists


@pytest.mark.parametrize("sample", [100, 150, 390])
def test_a_sample_and_the_texts_amid_it_lie_where_a_slow_reference_puts_them(tmp_path: Path, sample: int) -> None:
    """For any size of parts, and any share of a task."""
    vectors, lists = ragged_lists(400, 14, seed=sample)
    cfg, n_texts = ProjectSection(n_neighbors=8, sample=sample), len(vectors)
    chosen = np.sort(np.random.default_rng(3).choice(n_texts, sample, replace=False))
    axes, shift = principal_axes([vectors])
    start = (np.einsum("rd,dc->rc", vectors, axes) - shift)[chosen]
    layout = draw_map(*oracles.map_of_sample(lists, chosen, 8), start, cfg, 3)
    expected = oracles.places_amid_neighbors(lists, chosen, layout)
    for part_rows in (37, 400):
        run = RunDir(tmp_path / str(part_rows))
        write_vectors(run / "vectors", vectors, part_rows)
        stored_neighbors(run, lists, part_rows)
        for task_texts in (1, 100, 400):
            figures = _project(run, cfg, n_texts, 3, task_texts, HERE)
            assert figures == {"method": "layout", "n_neighbors": 8, "laid_out": sample}
            coords = read_columns(run / "coords", ["row", "x", "y"])
            assert part_names(run / "coords") == part_names(run / "vectors")
            assert_array_equal(coords["row"], np.arange(n_texts))
            assert_array_equal(np.column_stack([coords["x"], coords["y"]]), expected)


def test_above_its_limit_a_map_is_that_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "MAP_TEXTS", 120)
    vectors, lists = ragged_lists(200, 14, seed=1)
    run = RunDir(tmp_path)
    write_vectors(run / "vectors", vectors, 50)
    stored_neighbors(run, lists, 50)
    found = []
    for sample in (None, 120, 199, 500):
        assert _project(run, ProjectSection(sample=sample), 200, 3)["laid_out"] == min(sample or 120, 200)
        found.append(read_columns(run / "coords", ["x", "y"]))
    assert found[0] == found[1]
    assert found[0] != found[2]
