"""kernels/graph/blocks.py: rows are cut into blocks of near ones, and the blocks hold what the whole graph holds."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from clustering.kernels.graph.blocks import (
    Block,
    Piece,
    cut_piece,
    join_blocks,
    join_pieces,
    list_radius,
    place_rows,
    slots_of,
)
from clustering.kernels.graph.csr import MIN_DISTANCE
from tests import oracles
from tests.planted import blobs, pair_distances
from tests.strategies import Edges, edge_lists

cells = st.lists(st.integers(-1, 4), min_size=1, max_size=40).map(lambda drawn: np.array(drawn, np.int16))


@given(cells, st.integers(1, 12), st.integers(1, 9))
def test_every_row_has_one_place_and_near_cells_stay_together(cell: NDArray[np.int16], n_blocks: int, k: int) -> None:
    places = place_rows(cell, n_blocks, k)
    rows = [places.rows_of(block) for block in range(places.n_blocks)]
    assert 1 <= places.n_blocks <= n_blocks
    assert min(map(len, rows)) >= 1
    assert max(map(len, rows)) == places.stride
    assert_array_equal(np.sort(np.concatenate(rows)), np.arange(cell.size))
    order = [sorted(zip(cell[one].tolist(), one.tolist(), strict=True)) for one in rows]
    assert [pair for one in order for pair in one] == sorted(zip(cell.tolist(), range(cell.size), strict=True))
    for block, one in enumerate(rows):
        assert_array_equal(one, np.sort(one))
        assert_array_equal(places.numbers[one], block * places.stride + np.arange(one.size))


def test_blocks_have_about_as_many_entries_each() -> None:
    cell = np.concatenate([np.full(500, -1), np.random.default_rng(0).integers(0, 50, 10_000)])
    places = place_rows(cell, 7, 20)
    entries = [20 * int((cell[places.rows_of(block)] >= 0).sum()) for block in range(7)]
    assert max(entries) <= 1.01 * min(entries) + 500


def piece_of(edges: Edges, first: int, stop: int) -> Piece:
    """The lists of some consecutive rows; entries in the order in which they were drawn."""
    of_rows = (edges.rows >= first) & (edges.rows < stop)
    rows = edges.rows[of_rows] - first
    order = np.argsort(rows, kind="stable")
    nothing = np.empty(0, np.int32)
    numbers = np.arange(first, stop)
    return Piece(
        np.bincount(rows, minlength=stop - first), edges.cols[of_rows][order].astype(np.int32),
        edges.distances[of_rows][order], numbers.astype(np.float32), numbers.astype(np.uint64) << np.uint64(40),
        numbers.astype(np.int32), nothing, nothing, np.empty(0, np.float32),
    )  # fmt: skip


def blocks_of(edges: Edges, cell: NDArray[np.int16], n_blocks: int, part: int) -> list[Block]:
    places = place_rows(cell, n_blocks, 3)
    firsts = range(0, edges.n_texts, part)
    cut = [cut_piece(piece_of(edges, at, min(at + part, edges.n_texts)), at, places) for at in firsts]
    numbers = range(places.n_blocks)
    return [join_pieces((one[block] for one in cut), places, block, MIN_DISTANCE) for block in numbers]


@given(edge_lists(), st.data())
def test_blocks_joined_again_are_the_graph_of_the_slow_reference(edges: Edges, data: st.DataObject) -> None:
    cell = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=edges.n_texts, max_size=edges.n_texts)), np.int16)
    blocks = blocks_of(edges, cell, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)))
    graph = join_blocks(blocks, edges.n_texts)
    assert_array_equal(graph.toarray(), oracles.undirected_graph(*edges, MIN_DISTANCE))
    (whole,) = blocks_of(edges, cell, 1, edges.n_texts)
    for name in ("indptr", "indices", "data"):
        assert_array_equal(getattr(graph, name), getattr(whole, name))
    for block in blocks:
        for name in ("radius", "keys", "copies"):
            assert_array_equal(getattr(block, name), getattr(whole, name)[block.rows])
        for start, stop in (("indptr", ("indices", "data")), ("list_indptr", ("list_indices", "list_distances"))):
            ends, own = getattr(whole, start), getattr(block, start)
            slots = slots_of(ends[block.rows], np.diff(ends)[block.rows])
            assert_array_equal(np.diff(own), np.diff(ends)[block.rows])
            for name in stop:
                assert_array_equal(getattr(block, name), getattr(whole, name)[slots])
        dtypes = {one.name: getattr(block, one.name).dtype for one in fields(Block)}
        assert dtypes == {
            "rows": np.int64, "indptr": np.int64, "indices": np.int32, "data": np.float32, "radius": np.float32,
            "list_indptr": np.int64, "list_indices": np.int32, "list_distances": np.float32, "keys": np.uint64,
            "copies": np.int32,
        }  # fmt: skip


@pytest.mark.parametrize("longest", [None, 0.4])
@pytest.mark.parametrize("k", [1, 3, 11])
def test_what_a_list_lacks_is_no_shorter_than_its_radius(k: int, longest: float | None) -> None:
    distances = pair_distances(blobs(0, n_blobs=2, each=6).vectors).astype(np.float32)
    nearest = np.argsort(distances, axis=1)[:, :k]
    listed = np.take_along_axis(distances, nearest, axis=1)
    radius = list_radius(np.full(12, k), listed.ravel(), 11, MIN_DISTANCE, longest)
    missing = distances.copy()
    np.put_along_axis(missing, nearest, np.float32(np.inf), axis=1)
    if longest is not None:
        missing[missing > longest] = np.inf
    assert (missing.min(axis=1) >= radius).all()
    if k < 11:
        within = np.isfinite(radius)
        assert within.any()
        assert_array_equal(radius[within], listed.max(axis=1)[within])
    else:
        assert np.isinf(radius).all()


def test_an_empty_list_proves_nothing() -> None:
    radius = list_radius(np.array([2, 0, 1, 0]), np.array([0.2, 0.3, 0.0003], np.float32), 3, MIN_DISTANCE)
    assert_allclose(radius, [0.3, 0.001, 0.001, 0.001])
