"""kernel_inputs.py: blocks of the graph are written and come back as they were, without being read whole."""

from __future__ import annotations

import mmap
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from clustering import schema
from clustering.errors import StageError
from clustering.kernels.graph.blocks import Block
from clustering.kernels.graph.group_sizes import GroupSizes
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import (
    BlockIndex,
    ListOptions,
    block_folder,
    block_index,
    load_block,
    load_block_array,
    load_graph,
    load_graph_block,
    load_group_sizes,
    load_radius,
    load_times,
    save_block,
    walk_pieces,
    write_block_index,
)
from clustering.runs.parts import part_name
from clustering.runs.storage import write_json, write_table
from tests.planted import blobs, leave_graph, neighbor_graph


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def two_rows() -> Block:
    """Rows 1 and 4 of a run of five, which list each other; row 4 lists row 0, too."""
    return Block(
        rows=np.array([1, 4]),
        indptr=np.array([0, 1, 3]),
        indices=np.array([4, 0, 1], np.int32),
        data=np.array([0.5, 0.7, 0.5], np.float32),
        radius=np.array([0.5, 0.7], np.float32),
        list_indptr=np.array([0, 1, 3]),
        list_indices=np.array([4, 1, 0], np.int32),
        list_distances=np.array([0.5, 0.5, 0.7], np.float32),
        keys=np.array([1 << 63, 5], np.uint64),
        copies=np.array([1, 3], np.int32),
    )


def test_a_block_comes_back_memory_mapped(run: RunDir) -> None:
    block = two_rows()
    save_block(run, 7, block)
    found = load_block(run, 7)
    assert len(found) == 2
    for name in (one.name for one in fields(Block)):
        array = getattr(found, name)
        assert_array_equal(array, getattr(block, name))
        assert_array_equal(load_block_array(run, 7, name), array)
        assert array.dtype == getattr(block, name).dtype
        while isinstance(array, np.ndarray):
            array = array.base
        assert isinstance(array, mmap.mmap), name


def test_a_block_that_is_not_whole_is_named(run: RunDir) -> None:
    save_block(run, 0, two_rows())
    Path(str(block_folder(run, 0) / "keys.npy")).unlink()
    with pytest.raises(StageError, match=r"graph holds no finished graph \(.*block-00000/keys\.npy is missing\)"):
        load_block(run, 0)


def test_the_index_tells_the_sizes_of_the_blocks(run: RunDir) -> None:
    for load in (block_index, load_graph, load_radius):
        with pytest.raises(StageError, match="graph holds no finished graph; covey recluster makes it"):
            load(run)
    index = BlockIndex(n_texts=5, rows=[2, 3], edges=[3, 3], list_entries=[3, 2], halo=[1, 1], list_halo=[0, 1])
    write_block_index(run, index)
    assert block_index(run) == index
    assert len(block_index(run)) == 2


def test_a_graph_of_one_block_is_not_copied(run: RunDir) -> None:
    graph = neighbor_graph(blobs(seed=0, n_blobs=2, each=10).vectors, k=3)
    leave_graph(run, graph)
    for given_as in (run, run.path, str(run.path)):
        found = load_graph(given_as)
        assert isinstance(found, csr_array)
        for name in ("data", "indices", "indptr"):
            assert_array_equal(getattr(found, name), getattr(graph, name))
        for name in ("data", "indices"):
            array = getattr(found, name)
            while isinstance(array, np.ndarray):
                array = array.base
            assert isinstance(array, mmap.mmap), name
        assert_array_equal(load_graph_block(given_as, 0).rows, np.arange(20))


@pytest.mark.parametrize("number", [-1, 1])
def test_a_block_that_is_not_there_is_named(run: RunDir, number: int) -> None:
    leave_graph(run, neighbor_graph(blobs(seed=0, n_blobs=1, each=5).vectors))
    with pytest.raises(StageError, match=rf"graph has no block {number}; its blocks are 0 to 0$"):
        load_graph_block(run, number)


def test_times_are_the_first_of_a_text_and_one_from_long_ago_makes_no_other_coarse(run: RunDir) -> None:
    minutes = np.arange(40) // 4 * 20  # four texts of a story at a time, which are neighbors
    times = [datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=int(minute)) for minute in minutes]
    times[39] = datetime(1, 1, 1, tzinfo=UTC)
    records = times + [at.replace(year=2027) for at in times]
    members = pa.table({"row": np.tile(np.arange(40), 2), "time": records}).sort_by("row")
    write_table(run / "members" / part_name(0), members)
    stories = [[row // 4 * 4 + other for other in range(4) if row // 4 * 4 + other != row] for row in range(40)]
    lists = {"row": np.arange(40), "neighbors": stories, "distances": [[0.5] * 3] * 40, "cell": np.zeros(40, np.int32)}
    write_table(run / "neighbors" / part_name(0), pa.table(lists).cast(schema.NEIGHBORS))
    times_of = load_times(run, ListOptions(3, None, "L2", 40, 0, 1.0))
    assert times_of is not None
    assert_allclose(np.diff(times_of.days[:39]) * 24 * 60, np.diff(minutes[:39]), atol=0.01)
    assert times_of.days[39] < -700_000
    assert times_of.scale.days == 1
    assert load_times(run, ListOptions(3, None, "L2", 40, 0)) is None


@pytest.mark.parametrize("scale", [1.0, "auto"])
def test_texts_without_times_keep_their_distances(scale: float | Literal["auto"], run: RunDir) -> None:
    times = pa.array([None] * 4, pa.timestamp("us", "UTC"))
    write_table(run / "members" / part_name(0), pa.table({"row": range(4), "time": times}))
    texts = {"row": range(4), "text": list("abcd"), "copies": [1] * 4}
    write_table(run / "texts" / part_name(0), pa.table(texts).cast(schema.TEXTS))
    lists = {"row": range(4), "neighbors": [[1, 2], [0, 2], [3, 0], [2, 1]], "distances": [[0.5, 0.75]] * 4,
             "cell": [0] * 4}  # fmt: skip
    write_table(run / "neighbors" / part_name(0), pa.table(lists).cast(schema.NEIGHBORS))
    options = ListOptions(2, 0.8, "L2", 4, 0, scale)
    ((piece, first, too_long),) = walk_pieces(run, [part_name(0)], options, load_times(run, options))
    assert (first, too_long) == (0, 0)
    assert_array_equal(piece.distances, [0.5, 0.75] * 4)


def test_sizes_of_groups_of_an_earlier_version_are_read(run: RunDir) -> None:
    write_json(run / "forest" / "grain.json", {"share": 0.25, "size": 4})
    assert load_group_sizes(run) == GroupSizes(0.25, 4)
