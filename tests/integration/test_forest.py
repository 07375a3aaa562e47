"""forest.py and exact_search.py on Ray: shards give the same forest, and search over vectors/ makes it exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustering import schema
from clustering.config.sections import ClusterSection, GraphSection
from clustering.kernels.partitions import assign_partitions
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import load_forest, load_group_sizes
from clustering.runs.parts import load_assignment, part_name
from clustering.runs.storage import write_table
from clustering.stages.cluster import cluster_graph
from clustering.stages.forest import build_forest
from clustering.stages.graph import build_graph
from clustering.stages.search import partition_centers
from tests.planted import blobs, pair_distances, write_vectors

pytestmark = [pytest.mark.ray, pytest.mark.full]
PART = 512


def plain(**keys: Any) -> ClusterSection:
    return ClusterSection(**{"weights": "distance", "selection": "eom", **keys})


def searched(
    folder: Path, n_blobs: int, k: int, noise: int = 0, cell_texts: int = 64, equal: int = 0
) -> tuple[RunDir, np.ndarray]:
    """Leave vectors/, texts/ and neighbors/ with the true k nearest; the distances of all pairs.

    equal : further rows with the vector of row 0; each lists those of its own half first
    """
    run = RunDir(folder)
    vectors = blobs(3, n_blobs=n_blobs, each=50, noise=noise, dim=6, spread=0.05).vectors
    vectors = np.concatenate([vectors, np.repeat(vectors[:1], equal, axis=0)])
    n_texts = len(vectors)
    distances = pair_distances(vectors).astype(np.float32)
    alike, half = np.r_[0, n_texts - equal : n_texts], np.arange(equal + 1) % 2
    if equal:
        distances[np.ix_(alike, alike)] = np.where(half[:, None] == half, 0, np.float32(1e-5))
        np.fill_diagonal(distances, np.inf)
    write_vectors(run / "vectors", vectors, PART)
    cell = assign_partitions(vectors, partition_centers(run, n_texts, 0, cell_texts))
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    for part, first in enumerate(range(0, n_texts, PART)):
        rows = np.arange(first, min(first + PART, n_texts))
        lists = [nearest[rows].tolist(), np.take_along_axis(distances, nearest, axis=1)[rows].tolist()]
        columns = [pa.array(rows), *map(pa.array, lists), pa.array(cell[rows])]
        table = pa.table(dict(zip(schema.NEIGHBORS.names, columns, strict=True))).cast(schema.NEIGHBORS)
        write_table(run / "neighbors" / part_name(part), table)
        texts = {"row": rows, "text": [f"text {row}" for row in rows], "copies": np.ones(rows.size, np.int32)}
        write_table(run / "texts" / part_name(part), pa.table(texts, schema=schema.TEXTS))
    return run, distances


def exact_weights(distances: np.ndarray, min_samples: int) -> np.ndarray:
    """Prim's algorithm over all pairs."""
    core = np.sort(distances, axis=1)[:, min_samples - 1]
    reach = np.maximum(distances, np.maximum(core[:, None], core[None]))
    outside, best, found = np.ones(len(core), bool), reach[0].copy(), []
    outside[0] = False
    while outside.any():
        at = int(np.where(outside, best, np.inf).argmin())
        found.append(best[at])
        outside[at] = False
        best = np.minimum(best, reach[at])
    return np.sort(found)


def test_shards_give_the_forest_of_the_whole(local_ray: None, tmp_path: Path) -> None:
    run, _ = searched(tmp_path, n_blobs=40, k=8)
    n_texts, leave = 2000, GraphSection(bridge="none")
    build_graph(run, leave, 8, n_texts, "L2")
    build_forest(run, plain(), leave, 8, "L2", 0)
    whole, group_sizes = load_forest(run), load_group_sizes(run)
    build_forest(run, ClusterSection(), leave, 8, "L2", 0)
    assert load_group_sizes(run) == group_sizes  # whatever the weights
    for shards in (2, 7, 32):
        figures = build_forest(run, plain(), leave, 8, "L2", 0, shards)
        assert figures["shards"] == shards
        assert figures["merged_edges"] <= 1.3 * n_texts
        for name in ("left", "right", "distance"):
            assert_array_equal(getattr(load_forest(run), name), getattr(whole, name))


def test_shards_of_diffusion_give_the_labels_of_the_whole(local_ray: None, tmp_path: Path) -> None:
    run, _ = searched(tmp_path, n_blobs=40, k=8)
    build_graph(run, GraphSection(), 8, 2000, "L2")
    for min_samples, counts in ((None, (2, 4)), (3, (3,))):
        cfg = ClusterSection(min_samples=min_samples)
        build_forest(run, cfg, GraphSection(), 8, "L2", 0)
        whole, group_sizes = load_forest(run), load_group_sizes(run)
        cluster_graph(run, cfg, GraphSection(), 8, "L2")
        layers = load_assignment(run)["layers"]
        for shards in counts:
            figures = build_forest(run, cfg, GraphSection(), 8, "L2", 0, shards)
            assert figures["shards"] == shards
            assert load_group_sizes(run) == group_sizes
            for name in ("left", "right", "distance"):
                assert_array_equal(getattr(load_forest(run), name), getattr(whole, name))
        cluster_graph(run, cfg, GraphSection(), 8, "L2")
        assert load_assignment(run)["layers"].equals(layers)


@pytest.mark.parametrize("weights", ["diffused", "distance"])
def test_more_equal_vectors_than_a_list_holds_share_a_cluster(local_ray: None, tmp_path: Path, weights: str) -> None:
    run, distances = searched(tmp_path, n_blobs=20, k=8, equal=60)
    n_texts = len(distances)
    build_graph(run, GraphSection(), 8, n_texts, "L2")
    cfg = ClusterSection() if weights == "diffused" else plain()
    found = []
    for shards in (1, 2):
        build_forest(run, cfg, GraphSection(bridge="none"), 8, "L2", 0, shards)
        figures = cluster_graph(run, cfg, GraphSection(), 8, "L2")
        assignment = load_assignment(run)
        for name in ("label", "home", "strength", "home_strength"):
            assert len(set(assignment[name].to_numpy()[[0, *range(n_texts - 60, n_texts)]])) == 1, name
        assert assignment["label"].to_numpy()[0] >= 0
        assert figures["count"] >= 10
        found.append(assignment)
    assert found[0].equals(found[1])


@pytest.mark.parametrize("min_samples", [2, 5])
def test_search_over_the_vectors_makes_the_tree_exact(local_ray: None, tmp_path: Path, min_samples: int) -> None:
    run, distances = searched(tmp_path, n_blobs=20, k=5, noise=60)
    n_texts = len(distances)
    build_graph(run, GraphSection(), 5, n_texts, "L2")
    cfg = plain(min_samples=min_samples)
    listed = build_forest(run, cfg, GraphSection(bridge="none"), 5, "L2", 0)
    assert listed["pieces"] > 1
    assert listed["queries"] == 0
    assert listed["certified"] + listed["open"] == listed["edges"]
    found = build_forest(run, cfg, GraphSection(), 5, "L2", 0)
    assert found["open"] == 0
    assert found["pieces_left"] == 1
    assert found["bridges"] == listed["pieces"] - 1
    assert found["certified"] + found["repaired"] == found["edges"] == n_texts - 1
    assert_allclose(load_forest(run).distance, exact_weights(distances, min_samples), rtol=1e-5)


def test_the_budget_is_kept_and_what_stays_open_is_counted(local_ray: None, tmp_path: Path) -> None:
    run, distances = searched(tmp_path, n_blobs=20, k=5, noise=60)
    build_graph(run, GraphSection(), 5, len(distances), "L2")
    full = build_forest(run, plain(), GraphSection(), 5, "L2", 0)
    some = build_forest(run, plain(budget=full["queries"] // 2), GraphSection(), 5, "L2", 0)
    assert 0 < some["queries"] <= full["queries"] // 2
    assert some["open"] > 0 or some["pieces_left"] > 1
    assert some["certified"] + some["repaired"] + some["open"] == some["edges"]


def test_no_bridge_is_longer_than_allowed(local_ray: None, tmp_path: Path) -> None:
    run, distances = searched(tmp_path, n_blobs=20, k=5, noise=60)
    section = GraphSection(max_distance=0.35)
    build_graph(run, section, 5, len(distances), "L2")
    found = build_forest(run, plain(min_samples=1), section, 5, "L2", 0)
    exact = exact_weights(distances, 1)
    assert found["open"] == 0
    assert_allclose(load_forest(run).distance, exact[exact <= 0.35], rtol=1e-5)
    assert found["pieces_left"] == (exact > 0.35).sum() + 1
