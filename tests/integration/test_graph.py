"""stages/graph.py on Ray: any number of blocks holds the graph of a single one, bit for bit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from clustering import schema
from clustering.config.sections import GraphSection
from clustering.errors import StageError
from clustering.kernels.graph.csr import min_distance
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import block_index, digest_texts, load_block, load_graph, load_radius
from clustering.runs.parts import part_name, part_names, read_columns, walk_neighbors
from clustering.runs.storage import read_table, write_table
from clustering.stages.graph import build_graph
from tests.planted import blobs, pair_distances, write_vectors

pytestmark = [pytest.mark.ray, pytest.mark.full]
PART, K = 100, 6


def searched(folder: Path, metric: str, n_texts: int = 500, without: tuple[int, ...] = (3, 4, 250)) -> RunDir:
    """Leave texts/, vectors/ and neighbors/ with the true K nearest; some rows have no vector."""
    run = RunDir(folder)
    vectors = (
        blobs(3, n_blobs=10, each=n_texts // 10, dim=6, spread=0.05).vectors if n_texts > 9 else np.eye(n_texts, 6)
    )
    vectors = vectors.astype(np.float32)
    distances = pair_distances(vectors).astype(np.float32)
    cell = np.argmax(np.abs(vectors), axis=1)
    lost = list(without)
    vectors[lost], cell[lost], distances[:, lost] = 0, -1, np.inf
    write_vectors(run / "vectors", vectors, PART)
    for name in part_names(run / "vectors"):  # as the stage embed notes them
        table = read_table(run / "vectors" / name)
        own = [str(row) for row in lost if row in table["row"].to_pylist()]
        write_table(run / "vectors" / name, table.replace_schema_metadata({"without_vector": " ".join(own)}))
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(K, n_texts - 1)]
    length = np.take_along_axis(distances, nearest, axis=1)
    length = length if metric == "L2" else length**2 / 2
    for part, first in enumerate(range(0, n_texts, PART)):
        rows = np.arange(first, min(first + PART, n_texts))
        texts = {"row": rows, "text": [f"text {row} ü" for row in rows], "copies": (rows % 3 + 1).astype(np.int32)}
        write_table(run / "texts" / part_name(part), pa.table(texts, schema=schema.TEXTS))
        if n_texts > 1:
            found = [[] if row in lost else nearest[row].tolist() for row in rows]
            away = [[] if row in lost else length[row].tolist() for row in rows]
            columns = dict(zip(schema.NEIGHBORS.names, [rows, found, away, cell[rows]], strict=True))
            table = pa.table({name: pa.array(values) for name, values in columns.items()}).cast(schema.NEIGHBORS)
            write_table(run / "neighbors" / part_name(part), table)
    return run


def slow_graph(run: RunDir, k: int, longest: float | None, metric: str, n_texts: int) -> csr_array:
    """The shorter direction of every edge of neighbors/."""
    edges: dict[tuple[int, int], np.float32] = {}
    for rows, _, others, distances in walk_neighbors(run, k, longest):
        for row, other, distance in zip(rows.tolist(), others.tolist(), distances, strict=True):
            length = max(distance, np.float32(min_distance(metric)))
            for pair in ((row, other), (other, row)):
                edges[pair] = min(edges.get(pair, length), length)
    pairs = sorted(edges)
    ends = np.array(pairs, np.int64).reshape(-1, 2).T
    return csr_array((np.array([edges[pair] for pair in pairs], np.float32), tuple(ends)), shape=(n_texts, n_texts))


def slow_radius(run: RunDir, k: int, longest: float | None, metric: str) -> np.ndarray:
    """The farthest entry of each list, infinite where nothing is missing or the row has no vector."""
    table = read_columns(run / "neighbors", schema.NEIGHBORS.names)
    n_others = sum(cell >= 0 for cell in table["cell"].to_pylist()) - 1
    found = []
    for distances, cell in zip(table["distances"].to_pylist(), table["cell"].to_pylist(), strict=True):
        radius = np.float32(max([*distances[:k], min_distance(metric)]))
        missing = cell >= 0 and len(distances[:k]) < n_others and (longest is None or radius <= np.float32(longest))
        found.append(radius if missing else np.float32(np.inf))
    return np.array(found, np.float32)


@pytest.mark.parametrize(("metric", "longest", "k"), [("L2", None, K), ("COSINE", 0.006, 5)])
def test_any_number_of_blocks_holds_the_same_graph(
    local_ray: None, tmp_path: Path, metric: str, longest: float | None, k: int
) -> None:
    run = searched(tmp_path, metric)
    section = GraphSection(max_distance=longest)
    graph, radius = slow_graph(run, k, longest, metric, 500), slow_radius(run, k, longest, metric)
    keys, copies = (
        digest_texts(read_columns(run / "texts", ["text"])["text"].to_pylist()),
        read_columns(run / "texts", ["copies"])["copies"],
    )
    lists = {row: [] for row in range(500)}
    for rows, _, others, distances in walk_neighbors(run, k, longest):
        for row, other, distance in zip(rows.tolist(), others.tolist(), distances.tolist(), strict=True):
            lists[row].append((other, distance))
    assert np.isinf(radius).sum() == 3 if longest is None else np.isinf(radius).sum() > 3
    for n_blocks in (1, 4, 16, 64):
        figures = build_graph(run, section, k, 500, metric, n_blocks)
        index = block_index(run)
        assert figures["blocks"] == len(index) == n_blocks
        assert figures["edges"] == graph.nnz // 2
        assert (figures["too_long"] > 0) == (longest is not None)
        assert_array_equal(load_radius(run), radius)
        found = load_graph(run)
        for name in ("indptr", "indices", "data"):
            assert_array_equal(getattr(found, name), getattr(graph, name))
        for number in range(n_blocks):
            block = load_block(run, number)
            assert (len(block), block.indices.size, block.list_indices.size) == (
                index.rows[number], index.edges[number], index.list_entries[number]
            )  # fmt: skip
            some = graph[block.rows]
            listed = {other for row in block.rows.tolist() for other, _ in lists[row]}
            for halo, named in ((index.halo, set(some.indices.tolist())), (index.list_halo, listed)):
                assert halo[number] == len(named - set(block.rows.tolist()))
            assert_array_equal(block.indptr, some.indptr)
            assert_array_equal(block.indices, some.indices)
            assert_array_equal(block.data, some.data)
            assert_array_equal(block.keys, keys[block.rows])
            assert_array_equal(block.copies, copies.to_numpy()[block.rows])
            for at, row in enumerate(block.rows.tolist()):
                own = slice(*block.list_indptr[at : at + 2])
                entries = zip(block.list_indices[own].tolist(), block.list_distances[own].tolist(), strict=True)
                assert list(entries) == lists[row]


@pytest.mark.parametrize("k", [K, 4])
def test_any_number_of_blocks_lengthens_the_same_entries_by_time(local_ray: None, tmp_path: Path, k: int) -> None:
    run = searched(tmp_path, "L2")
    days = np.arange(500) % 10 * 3.0 + np.arange(500) // 50 % 2  # texts of a blob are a day or many days apart
    first = datetime(2026, 3, 1, tzinfo=UTC)
    for name in part_names(run / "texts"):
        rows = read_table(run / "texts" / name, columns=["row"])["row"].to_pylist()
        # A later record of each text, and none for text 7.
        times = [None if row == 7 else first + timedelta(days[row]) for row in rows]
        later = [None if row == 7 else first + timedelta(900) for row in rows]
        members = pa.table({"text_id": [str(row) for row in rows] * 2, "row": rows * 2, "time": later + times})
        write_table(run / "members" / name, members.sort_by("row"))
    found = []
    for n_blocks in (1, 4, 16):
        figures = build_graph(run, GraphSection(), k, 500, "L2", n_blocks, 3.0)
        assert figures["time"]["days"] == 3
        graph, blocks = load_graph(run), [load_block(run, number) for number in range(n_blocks)]
        rows = np.concatenate([block.rows for block in blocks])
        lists = [
            list(zip(block.list_indices[a:b].tolist(), block.list_distances[a:b].tolist(), strict=True))
            for block in blocks
            for a, b in pairwise(block.list_indptr)
        ]
        found.append((graph, [lists[at] for at in np.argsort(rows)]))
    (graph, lists), share = found[0], figures["time"]["share"]
    for other_graph, other_lists in found[1:]:
        assert other_lists == lists
        assert_array_equal(other_graph.indices, graph.indices)
        assert_array_equal(other_graph.data, graph.data)
    radius = load_radius(run)
    for row, entries in enumerate(zip(*read_columns(run / "neighbors", ["neighbors", "distances"]), strict=True)):
        found_there, longer = list(zip(*(one.as_py() for one in entries), strict=True)), {}
        for other, distance in found_there:
            gap = 3 if 7 in (row, other) else abs(days[row] - days[other])
            cosine = (1 - distance**2 / 2) * (1 - share * (1 - np.exp(-gap / 3)))
            longer[other] = (2 - 2 * cosine) ** 0.5
        assert len(lists[row]) == min(k, len(longer))
        for other, distance in lists[row]:
            assert distance == pytest.approx(longer.pop(other), abs=1e-5)
        if lists[row]:  # what is left out is no shorter
            assert min(longer.values(), default=2) > lists[row][-1][1] - 1e-5
            assert radius[row] <= np.float32(min(found_there[-1][1], lists[row][-1][1]))
    assert "time" not in build_graph(run, GraphSection(), k, 500, "L2", 4)


@pytest.mark.parametrize("n_blocks", [1, 4])
def test_a_row_of_one_cell_lies_beside_those_of_the_same(local_ray: None, tmp_path: Path, n_blocks: int) -> None:
    run = searched(tmp_path, "L2")
    build_graph(run, GraphSection(), K, 500, "L2", n_blocks)
    cell = read_columns(run / "neighbors", ["cell"])["cell"].to_numpy()
    held = [cell[load_block(run, number).rows] for number in range(n_blocks)]
    assert all(one.max() <= other.min() for one, other in pairwise(held))
    assert max(map(len, held)) < 1.2 * min(map(len, held))


@pytest.mark.parametrize("n_blocks", [1, 4])
@pytest.mark.parametrize("n_texts", [1, 2])
def test_few_texts_make_a_graph(local_ray: None, tmp_path: Path, n_texts: int, n_blocks: int) -> None:
    run = searched(tmp_path, "L2", n_texts, ())
    figures = build_graph(run, GraphSection(), 1, n_texts, "L2", n_blocks)
    assert figures["edges"] == n_texts - 1
    assert (
        load_graph(run).toarray().tolist()
        == [[[0]], [[0, np.sqrt(np.float32(2))], [np.sqrt(np.float32(2)), 0]]][n_texts - 1]
    )
    assert np.isinf(load_radius(run)).all()


@pytest.mark.parametrize("n_blocks", [1, 4])
def test_neighbors_that_do_not_list_all_texts_are_named(local_ray: None, tmp_path: Path, n_blocks: int) -> None:
    run = searched(tmp_path, "L2")
    path = run / "neighbors" / part_name(2)
    whole = read_table(path)
    write_table(path, whole.slice(0, 60))
    lacks = "does not list the texts from row 260 on" if n_blocks == 1 else "lists 460 of 500 texts"
    with pytest.raises(StageError, match=rf"neighbors {lacks}\. covey run with run\.resume=false makes it anew$"):
        build_graph(run, GraphSection(), K, 500, "L2", n_blocks)
    Path(str(path)).unlink()
    with pytest.raises(StageError, match=r"neighbors lacks a part: .*/part-000002\.parquet.* covey run with"):
        build_graph(run, GraphSection(), K, 500, "L2", n_blocks)
    write_table(path, whole)
    assert build_graph(run, GraphSection(), K, 500, "L2", n_blocks)["blocks"] == n_blocks


def test_a_smaller_number_of_blocks_leaves_no_block_of_an_earlier_try(local_ray: None, tmp_path: Path) -> None:
    run = searched(tmp_path, "L2")
    for n_blocks in (4, 2):
        build_graph(run, GraphSection(), K, 500, "L2", n_blocks)
    assert sorted(path.name for path in (run / "graph").iterdir()) == ["block-00000", "block-00001", "blocks.json"]
