"""kernels/memory.py: what each stage will need, from counts alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from clustering.kernels.memory import StageBytes, forest_bytes, stage_bytes


def plan(n_texts: int) -> dict[str, StageBytes]:
    return {line.stage: line for line in stage_bytes(n_texts, 2 * n_texts, 256, 50, 60.0, 1 << 20)}


def test_every_stage_has_its_line_in_order() -> None:
    stages = ["read", "embed", "store", "search", "graph", "forest", "cluster", "describe", "project", "plot", "report"]
    assert list(plan(1000)) == stages


def test_nothing_grows_faster_than_the_texts() -> None:
    empty, small, large = plan(0), plan(1_000_000), plan(10_000_000)
    for stage, line in large.items():
        base = empty[stage].memory_bytes  # what a process holds before it has read a row
        assert 0 < base < 1 << 30
        assert line.memory_bytes - base <= 10 * (small[stage].memory_bytes - base) + 10
        assert line.disk_bytes <= 10 * small[stage].disk_bytes + 10


def test_the_picture_takes_no_more_for_texts_beyond_those_it_draws() -> None:
    small, middle, large = (plan(n_texts)["plot"].memory_bytes for n_texts in (1_000_000, 2_000_000, 3_000_000))
    assert large - middle < middle - small


def test_the_vectors_are_never_in_one_process() -> None:
    vectors = 10_000_000 * 1024 * 4
    lines = stage_bytes(10_000_000, 10_000_000, 1024, 15, 60.0, 1 << 30)
    by_name = {line.stage: line for line in lines}
    for stage in ("embed", "store", "search"):
        assert by_name[stage].memory_bytes < vectors / 10
    assert by_name["embed"].disk_bytes == pytest.approx(vectors)


@pytest.mark.parametrize("k", [20, 50])
def test_a_shard_of_the_forest_falls_with_their_number_and_the_last_merge_stays_small(k: int) -> None:
    n_texts = 100_000_000
    sizes = [forest_bytes(n_texts // blocks, n_texts // blocks, n_texts // blocks * k) for blocks in (4, 16, 64)]
    assert all(3 < larger / smaller < 4 for larger, smaller in pairwise(sizes))
    line = {line.stage: line for line in stage_bytes(n_texts, n_texts, 256, k, 60.0, 1 << 20, n_blocks=64)}["forest"]
    assert sizes[-1] <= line.memory_bytes < 16 << 30
