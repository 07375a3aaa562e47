"""kernels/memory.py: what each stage will need, from counts alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from clustering.kernels.memory import (
    PROCESS_BYTES,
    SHOWN_CELL_BYTES,
    ShardBytes,
    StageBytes,
    count_blocks,
    forest_bytes,
    forest_shard,
    graph_bytes,
    halo_rows,
    process_bytes,
    quality_shard,
    server_bytes,
    stage_bytes,
)


def plan(n_texts: int) -> dict[str, StageBytes]:
    return {line.stage: line for line in stage_bytes(n_texts, 2 * n_texts, 256, 50, 60.0, 1 << 20)}


def test_every_stage_has_its_line_in_order() -> None:
    stages = ["read", "embed", "store", "search", "graph", "forest", "cluster", "describe", "project", "plot", "report"]
    assert list(plan(1000)) == stages


def test_records_that_are_rows_of_the_tree_count() -> None:
    def cluster(unfolded: int) -> StageBytes:
        lines = stage_bytes(5_000_000, 100_000_000, 256, 50, 60.0, 1, unfolded=unfolded)
        return next(line for line in lines if line.stage == "cluster")

    fold, weigh = cluster(0), cluster(95_000_000)
    assert 80 < (weigh.memory_bytes - fold.memory_bytes) / 95_000_000 < 100
    assert weigh.disk_bytes - fold.disk_bytes == 32 * 95_000_000


def test_nothing_grows_faster_than_the_texts() -> None:
    empty, small, large = plan(0), plan(1_000_000), plan(10_000_000)
    for stage, line in large.items():
        base = empty[stage].memory_bytes  # what a process holds before it has read a row
        assert 0 < base < 1 << 30
        assert line.memory_bytes - base <= 10 * (small[stage].memory_bytes - base) + 10
        assert line.disk_bytes <= 10 * small[stage].disk_bytes + 10


def test_the_picture_takes_no_more_for_texts_beyond_those_it_draws() -> None:
    small, middle, large = (plan(n_texts)["plot"].memory_bytes for n_texts in (100_000, 200_000, 300_000))
    assert large - middle < middle - small


def test_the_map_holds_the_kept_columns_of_the_records_that_it_shows() -> None:
    def plot(n_records: int, columns: int) -> int:
        lines = stage_bytes(1000, n_records, 256, 50, 60.0, 1 << 20, drawn=1000, kept_columns=columns)
        return {line.stage: line.memory_bytes for line in lines}["plot"]

    assert plot(1500, 3) - plot(1500, 0) == 1500 * 3 * SHOWN_CELL_BYTES
    assert plot(9000, 3) == plot(2000, 3) > plot(1000, 3)


def test_the_vectors_are_never_in_one_process() -> None:
    vectors = 10_000_000 * 1024 * 4
    lines = stage_bytes(10_000_000, 10_000_000, 1024, 15, 60.0, 1 << 30)
    by_name = {line.stage: line for line in lines}
    for stage in ("embed", "store", "search"):
        assert by_name[stage].memory_bytes < vectors / 10
    assert by_name["embed"].disk_bytes == pytest.approx(vectors)


def test_an_actor_with_a_gpu_holds_a_row_group_of_each_part_that_it_works_on() -> None:
    def embed(n_texts: int, parts_at_once: int) -> int:
        lines = stage_bytes(n_texts, n_texts, 1024, 50, 70.0, 1 << 30, parts_at_once=parts_at_once)
        return next(line.memory_bytes for line in lines if line.stage == "embed")

    group = embed(8192, 1) - embed(0, 1)
    assert embed(10_000_000, 6) - embed(0, 6) == 6 * group
    assert embed(8192, 6) == embed(8192, 1)  # there is only one


@pytest.mark.parametrize("k", [20, 50])
def test_a_shard_of_the_forest_falls_with_their_number_and_the_last_merge_stays_small(k: int) -> None:
    n_texts = 100_000_000
    sizes = [forest_bytes(n_texts // blocks, n_texts // blocks, n_texts // blocks * k) for blocks in (4, 16, 64)]
    assert all(3 < larger / smaller < 4 for larger, smaller in pairwise(sizes))
    line = {line.stage: line for line in stage_bytes(n_texts, n_texts, 256, k, 60.0, 1 << 20, n_blocks=64)}["forest"]
    assert sizes[-1] <= line.memory_bytes < 16 << 30


def test_a_process_holds_all_its_shards_and_works_on_one() -> None:
    assert process_bytes([ShardBytes(10, 7), ShardBytes(20, 9), ShardBytes(30, 8)]) == PROCESS_BYTES + 60 + 9


def test_the_halo_of_a_shard_takes_memory() -> None:
    for shard in (forest_shard, quality_shard):
        small, large = shard(1000, 1000, 15), shard(1000, 8000, 15)
        assert large.held - small.held >= 7000 * 8
        assert large.working > small.working
    assert forest_bytes(1000, 8000, 20_000) - forest_bytes(1000, 1000, 20_000) >= 7000 * 256  # of the sketches


@pytest.mark.parametrize(("n_blocks", "mebibytes"), [(1, 971), (4, 457), (16, 362), (64, 348)])
def test_the_graph_takes_what_was_measured(n_blocks: int, mebibytes: int) -> None:
    """By ``python -m benchmarks.graph_blocks``, at a million texts with 20 neighbors each."""
    assert graph_bytes(1_000_000, 20_000_000, n_blocks) / 2**20 == pytest.approx(mebibytes, rel=0.2)


def test_a_halo_grows_with_its_block_until_it_is_all_the_rest() -> None:
    assert [halo_rows(1_000_000, own) for own in (1_000_000, 500_000, 10_000)] == [0, 500_000, 80_000]
    assert halo_rows(1_000_000, 10_000, share=0.5) == 5000


@pytest.mark.parametrize(("n_texts", "mebibytes"), [(200_000, 1585), (1_000_000, 3580)])
def test_a_server_takes_what_was_measured(n_texts: int, mebibytes: int) -> None:
    """Version 2.3.5, HNSW with M=16, 256 dimensions: docs/operations.md, benchmarks/results/server-1m.json."""
    assert server_bytes(n_texts, 4, 256, 32) / 2**20 == pytest.approx(mebibytes, rel=0.1)


def test_a_small_graph_is_one_block_and_a_large_one_fits_its_nodes() -> None:
    assert count_blocks(200_000, 20, 3, 64 << 30) == 1
    assert count_blocks(1_000_000, 20, 3, 64 << 30) == 3
    assert count_blocks(100_000_000, 50, 10, 1 << 40) == 38  # of 2^27 entries each
    assert count_blocks(100_000_000, 50, 100, 64 << 30) == 100
    n_blocks = count_blocks(100_000_000, 50, 10, 8 << 30)
    own = 100_000_000 // n_blocks
    assert 38 < n_blocks < 200
    assert graph_bytes(100_000_000, 5_000_000_000, n_blocks) <= 4 << 30
    assert forest_bytes(own, halo_rows(100_000_000, own), 50 * own) <= 4 << 30
    assert count_blocks(100_000_000, 50, 10, 1 << 30) == 512  # no number of blocks would fit


@pytest.mark.parametrize("n_nodes", [0, 10])
def test_nodes_of_which_nothing_is_known_are_small(n_nodes: int) -> None:
    n_blocks = count_blocks(100_000_000, 10, n_nodes, 0)
    own = 100_000_000 // n_blocks
    assert n_blocks == count_blocks(100_000_000, 10, n_nodes, 16 << 30)
    assert n_blocks > max(n_nodes, count_blocks(100_000_000, 10, n_nodes, 1 << 40))
    assert forest_bytes(own, halo_rows(100_000_000, own), 10 * own) <= 8 << 30
