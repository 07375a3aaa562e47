"""forest.py and exact_search.py on Ray: shards give the same forest, and search over vectors/ makes it exact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import ClusterSection, GraphSection
from clustering.kernels.graph import diffusion
from clustering.kernels.graph.csr import MIN_DISTANCE, min_distance
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.equal_vectors import equal_edges, join_equal_rows, tie_equal_rows
from clustering.kernels.graph.forest import Forest, core_distances, spanning_forest
from clustering.kernels.graph.group_sizes import GroupSizes, count_breaks, measure_group_sizes
from clustering.kernels.partitions import assign_partitions
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import digest_texts, load_copies, load_forest, load_graph, load_group_sizes
from clustering.runs.parts import load_assignment, part_name, read_columns, walk_neighbors
from clustering.runs.storage import load_array, read_table, write_table
from clustering.stages.cluster import cluster_graph
from clustering.stages.forest import build_forest, unrelated_distance
from clustering.stages.graph import build_graph
from clustering.stages.search import partition_centers
from clustering.workers.graph.forest import load_shard
from tests.planted import blobs, pair_distances, undirected_graph, write_vectors

pytestmark = [pytest.mark.ray, pytest.mark.full]
PART, K, SEED = 512, 8, 5


def plain(**keys: Any) -> ClusterSection:
    return ClusterSection(**{"weights": "distance", "selection": "eom", **keys})


def searched(
    folder: Path, n_blobs: int, k: int, noise: int = 0, cell_texts: int = 64, equal: int = 0, metric: str = "L2",
    without: int = 0, copies: int = 1,
) -> tuple[RunDir, np.ndarray]:  # fmt: skip
    """Leave vectors/, texts/ and neighbors/ with the true k nearest; the distances of all pairs.

    equal : further rows with the vector of row 0; each lists those of its own half first
    without : rows, spread over all, that have no vector; copies : records of a text, at most
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
    lost = np.linspace(7, n_texts - 9, without).astype(int)
    stored = vectors.copy()
    stored[lost], distances[:, lost] = 0, np.inf
    write_vectors(run / "vectors", stored, PART)
    cell = assign_partitions(vectors, partition_centers(run, n_texts, 0, cell_texts))
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    lengths = np.take_along_axis(distances, nearest, axis=1)
    lengths = lengths if metric == "L2" else lengths**2 / 2
    cell[lost] = -1
    for part, first in enumerate(range(0, n_texts, PART)):
        rows = np.arange(first, min(first + PART, n_texts))
        lists = [[[] if row in lost else one[row].tolist() for row in rows] for one in (nearest, lengths)]
        columns = [pa.array(rows), *map(pa.array, lists), pa.array(cell[rows])]
        table = pa.table(dict(zip(schema.NEIGHBORS.names, columns, strict=True))).cast(schema.NEIGHBORS)
        write_table(run / "neighbors" / part_name(part), table)
        texts = {"row": rows, "text": [f"text {row}" for row in rows], "copies": (rows % copies + 1).astype(np.int32)}
        write_table(run / "texts" / part_name(part), pa.table(texts, schema=schema.TEXTS))
        noted = {"without_vector": " ".join(str(row) for row in lost if row in rows)}  # as the stage embed notes them
        held = read_table(run / "vectors" / part_name(part))
        write_table(run / "vectors" / part_name(part), held.replace_schema_metadata(noted))
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


@dataclass(frozen=True)
class Plain:
    """What the kernels give on all lists at once, in this process."""

    forest: Forest
    core: NDArray[np.float32]
    group_sizes: GroupSizes

    @classmethod
    def of(cls, run: RunDir, cfg: ClusterSection, metric: str, n_texts: int) -> Plain:
        rows, _, others, distances = (np.concatenate(one) for one in zip(*walk_neighbors(run, K), strict=True))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_texts))])
        euclidean = distances if metric == "L2" else np.sqrt(2 * distances)
        lists = NeighborLists(indptr, others.astype(np.int32), np.maximum(euclidean, np.float32(MIN_DISTANCE)))
        group_sizes = measure_group_sizes(count_breaks(lists, unrelated_distance(run)), n_texts)
        copies = load_copies(run) if cfg.copies == "weigh" else None
        if cfg.weights == "distance":
            graph = undirected_graph(rows, others, distances, n_texts, min_distance(metric))
            core = core_distances(graph, cfg.core_rank, copies)
            forest, floor = spanning_forest(graph, core), min_distance(metric)
        else:
            keys = digest_texts(read_columns(run / "texts", ["text"])["text"].to_pylist())
            graph = lists.graph(diffusion.diffuse(lists, SEED, group_sizes.n_averaged, keys), n_texts)
            core, floor = np.zeros(n_texts, np.float32), float(diffusion.MIN_LENGTH)
            if cfg.core_rank > 1:
                core = diffusion.listed_core_distances(graph, cfg.core_rank, copies)
            forest = spanning_forest(graph, core, symmetric=False)
        smallest, _ = join_equal_rows([equal_edges(lists, np.arange(n_texts), MIN_DISTANCE)], n_texts)
        return cls(tie_equal_rows(forest, smallest, core, floor), core, group_sizes)


def assert_same(run: RunDir, expected: Plain) -> None:
    found = load_forest(run)
    for name in ("left", "right", "distance"):
        assert_array_equal(getattr(found, name), getattr(expected.forest, name))
    assert_array_equal(load_array(run / "forest" / "core.npy"), expected.core)
    assert load_group_sizes(run) == expected.group_sizes


@pytest.mark.parametrize(
    ("cfg", "metric", "numbers"),
    [
        (ClusterSection(), "COSINE", (1, 4, 16, 64)),
        (ClusterSection(min_samples=3, copies="weigh"), "L2", (1, 4)),
        (plain(min_samples=4, copies="weigh"), "COSINE", (1, 4, 16)),
        (plain(min_samples=4, copies="fold"), "L2", (1, 4)),
    ],
    ids=["diffused", "diffused-core", "distance-copies", "distance"],
)
def test_any_number_of_blocks_gives_the_forest_of_the_kernels_on_the_whole(
    local_ray: None, tmp_path: Path, cfg: ClusterSection, metric: str, numbers: tuple[int, ...]
) -> None:
    run, _ = searched(tmp_path, n_blobs=16, k=K, noise=200, metric=metric, without=5, copies=3)
    n_texts, section = 1000, GraphSection(bridge="none")
    expected = Plain.of(run, cfg, metric, n_texts)
    assert len(expected.forest) > n_texts // 2
    assert (expected.core > 0).any() == (cfg.core_rank > 1 or cfg.weights == "distance")
    for blocks in numbers:
        build_graph(run, section, K, n_texts, metric, blocks)
        figures = build_forest(run, cfg, section, metric, SEED)
        assert_same(run, expected)
        assert figures["shards"] == blocks
        assert figures["isolated"] == 0
        assert figures["pieces"] == n_texts - 5 - len(expected.forest)
        assert (figures["halo_share"] > 0) == (blocks > 1)


@pytest.mark.parametrize("diffused", [True, False])
def test_a_shard_holds_its_rows_and_exactly_the_others_that_its_edges_name(
    local_ray: None, tmp_path: Path, diffused: bool
) -> None:
    run, _ = searched(tmp_path, n_blobs=24, k=K)
    build_graph(run, GraphSection(), K, 1200, "L2", 6)
    graph = load_graph(run)
    named = [set(graph.indices[slice(*graph.indptr[row : row + 2])].tolist()) for row in range(1200)]
    if diffused:
        named = [set[int]() for _ in range(1200)]
        for rows, _, others, _ in walk_neighbors(run, K):
            for row, other in zip(rows.tolist(), others.tolist(), strict=True):
                named[row].add(other)
    seen: list[int] = []
    for number in range(6):
        shard = load_shard(run, "L2", 2.0, diffused, number)
        own = set(shard.rows.tolist())
        assert set(shard.halo.tolist()) == set().union(*(named[row] for row in own)) - own
        arrays = [
            value for one in (shard, shard.edges) for value in vars(one).values() if isinstance(value, np.ndarray)
        ]
        per_row = [array for array in arrays if len(array) != shard.edges.indices.size]
        assert max(map(len, per_row)) <= shard.rows.size + max(shard.halo.size, 1) < 1200
        seen += shard.rows.tolist()
    assert sorted(seen) == list(range(1200))


@pytest.mark.parametrize("weights", ["diffused", "distance"])
def test_more_equal_vectors_than_a_list_holds_share_a_cluster(local_ray: None, tmp_path: Path, weights: str) -> None:
    run, distances = searched(tmp_path, n_blobs=20, k=8, equal=60)
    n_texts = len(distances)
    cfg = ClusterSection() if weights == "diffused" else plain()
    found = []
    for blocks in (1, 2):
        build_graph(run, GraphSection(), 8, n_texts, "L2", blocks)
        build_forest(run, cfg, GraphSection(bridge="none"), "L2", 0)
        figures = cluster_graph(run, cfg, 8, "L2")
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
    listed = build_forest(run, cfg, GraphSection(bridge="none"), "L2", 0)
    assert listed["pieces"] > 1
    assert listed["queries"] == 0
    assert listed["certified"] + listed["open"] == listed["edges"]
    found = build_forest(run, cfg, GraphSection(), "L2", 0)
    assert found["open"] == 0
    assert found["pieces_left"] == 1
    assert found["bridges"] == listed["pieces"] - 1
    assert found["certified"] + found["repaired"] == found["edges"] == n_texts - 1
    assert_allclose(load_forest(run).distance, exact_weights(distances, min_samples), rtol=1e-5)


def test_the_budget_is_kept_and_what_stays_open_is_counted(local_ray: None, tmp_path: Path) -> None:
    run, distances = searched(tmp_path, n_blobs=20, k=5, noise=60)
    build_graph(run, GraphSection(), 5, len(distances), "L2")
    full = build_forest(run, plain(), GraphSection(), "L2", 0)
    some = build_forest(run, plain(budget=full["queries"] // 2), GraphSection(), "L2", 0)
    assert 0 < some["queries"] <= full["queries"] // 2
    assert some["open"] > 0 or some["pieces_left"] > 1
    assert some["certified"] + some["repaired"] + some["open"] == some["edges"]


def test_no_bridge_is_longer_than_allowed(local_ray: None, tmp_path: Path) -> None:
    run, distances = searched(tmp_path, n_blobs=20, k=5, noise=60)
    section = GraphSection(max_distance=0.35)
    build_graph(run, section, 5, len(distances), "L2")
    found = build_forest(run, plain(min_samples=1), section, "L2", 0)
    exact = exact_weights(distances, 1)
    assert found["open"] == 0
    assert_allclose(load_forest(run).distance, exact[exact <= 0.35], rtol=1e-5)
    assert found["pieces_left"] == (exact > 0.35).sum() + 1
