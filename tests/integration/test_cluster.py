"""stages/cluster.py on Ray: any number of blocks gives the labels of a single one, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from clustering.config.sections import ClusterSection, GraphSection
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.hierarchy.modularity_cut import QualityBlock
from clustering.kernels.hierarchy.tiling import LINKS, count_links, count_steps, links_within
from clustering.runs.kernel_inputs import load_block
from clustering.runs.parts import load_assignment
from clustering.runs.storage import read_table
from clustering.stages.cluster import cluster_graph
from clustering.stages.forest import build_forest
from clustering.stages.graph import build_graph
from clustering.workers.graph.quality import open_quality_graph
from tests.integration.test_forest import searched

pytestmark = [pytest.mark.ray, pytest.mark.full]
K = 8


@pytest.mark.parametrize(
    ("preset", "copies", "numbers"),
    [(None, "fold", (1, 4, 64)), (None, "weigh", (1, 16)), ("topics", "fold", (1, 16)), ("topics", "weigh", (1, 4))],
)
def test_any_number_of_blocks_gives_the_same_labels(
    local_ray: None, tmp_path: Path, preset: str | None, copies: str, numbers: tuple[int, ...]
) -> None:
    run, _ = searched(tmp_path, n_blobs=40, k=K)
    cfg = ClusterSection(preset=preset, copies=copies)
    found = []
    for blocks in numbers:
        build_graph(run, GraphSection(), K, 2000, "L2", blocks)
        build_forest(run, cfg, GraphSection(), "L2", 0)
        figures = cluster_graph(run, cfg, K, "L2")
        layers = (run / "layers.json").read_text(encoding="utf-8")
        found.append((figures, load_assignment(run), read_table(run / "tree.parquet"), layers))
    assert found[0][0]["count"] > 5
    assert all(one == found[0] for one in found[1:])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("blocks", [1, 5])
def test_the_sums_of_shards_are_those_of_a_single_table(
    local_ray: None, tmp_path: Path, shared: bool, blocks: int
) -> None:
    run, _ = searched(tmp_path, n_blobs=40, k=K)
    n_texts, rng = 2000, np.random.default_rng(0)
    build_graph(run, GraphSection(), K, n_texts, "L2", blocks)
    nearest, copies = np.full((n_texts, 5), -1, np.int32), np.empty(n_texts, np.int32)
    for block in (load_block(run, number) for number in range(blocks)):
        copies[block.rows] = block.copies
        for row, start, stop in zip(block.rows, block.list_indptr, block.list_indptr[1:], strict=False):
            first = block.list_indices[start : min(stop, start + 5)]
            nearest[row, : first.size] = first
    whole = QualityBlock.of(nearest, shared, copies)
    parent = np.array([0, 0, 0, 1, 1, 2, 2], np.int32)  # a root, two clusters, and the two leaves of each
    size, leaf = np.array([4, 2, 2, 1, 1, 1, 1]), rng.integers(2, 7, n_texts)
    leaf[leaf == 2] = -1
    with open_quality_graph(run, 5, shared=shared, weigh=True) as quality:
        for found, expected in zip(
            quality.sum_over(leaf, parent, size), whole.sum_over(leaf, parent, size), strict=True
        ):
            assert_array_equal(found, expected)
        unit = rng.integers(-1, 6, n_texts)
        most = links_within(np.bincount(unit[unit >= 0]))
        links, steps = quality.count_links(unit, most)
        between, expected = quality.between(unit, 6), csr_array(whole.between(unit, 6))
    loaded = [load_block(run, number) for number in range(blocks)]
    lists = [NeighborLists(one.list_indptr, one.list_indices, one.list_distances) for one in loaded]
    of_blocks = [count_links(one.rows, own.nearest(LINKS), unit, most) for one, own in zip(loaded, lists, strict=True)]
    assert_array_equal(links, sum(of_blocks))
    assert 0 < links[0] < links[1] < n_texts * LINKS
    assert_array_equal(steps, sum(map(count_steps, lists)))
    assert expected.sum() > 0
    assert_array_equal(between.toarray(), expected.toarray())
