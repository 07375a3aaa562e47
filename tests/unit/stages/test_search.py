"""search.py: what a part of neighbors/ says of itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clustering import schema
from clustering.kernels.memory import GROUP_ROWS
from clustering.kernels.partitions import SAMPLE_TEXTS, count_partitions
from clustering.milvus.endpoint import Endpoint
from clustering.runs.directory import RunDir
from clustering.runs.index import Part
from clustering.runs.storage import write_table
from clustering.stages import search


class FixedNeighbors:
    """Finds one neighbor for even rows, two for odd ones."""

    def __init__(self, *_: object) -> None:
        self.k = 2

    def neighbors(self, rows: np.ndarray, vectors: np.ndarray, _: object) -> tuple[np.ndarray, ...]:
        counts = 1 + rows % 2
        return np.zeros(counts.sum(), np.int64), np.zeros(counts.sum(), np.float32), counts


def test_a_part_says_how_many_of_its_lists_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "NeighborQuery", FixedNeighbors)
    run = RunDir(tmp_path)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(7 * 4, np.float32)), 4)
    table = pa.table([range(7), vectors], schema=schema.vectors_schema(4))
    write_table(run / "vectors" / "part-000000.parquet", table)
    searcher = search.Searcher(run, Endpoint("http://m:1", "texts"), "L2", {}, 2, np.ones((1, 4), np.float32))
    with ThreadPoolExecutor(1) as pool:
        part = searcher.search("part-000000.parquet", pool, pool)
    assert part == Part("part-000000.parquet", 0, 7, part.bytes, {"queries": 7, "short": 4})


@pytest.mark.parametrize("n_texts", [8192, 100_003, 3_000_000, 100_000_000])
def test_the_centers_are_found_on_texts_from_everywhere_in_few_row_groups(n_texts: int) -> None:
    many = count_partitions(n_texts)
    rows = search.spread_rows(n_texts, many)
    assert rows.size == many * SAMPLE_TEXTS
    assert (np.diff(rows) > 0).all()
    assert np.unique(rows // GROUP_ROWS).size <= 2 * many
    assert rows[0] == 0
    assert rows[-1] == n_texts - 1
    assert np.diff(rows[::SAMPLE_TEXTS]).max() < 1.01 * n_texts / (many - 1)


@pytest.mark.parametrize(("with_vector", "partitions"), [(0, 1), (3, 1), (40, 1), (80, 2), (200, 4)])
def test_texts_without_a_vector_have_no_part_in_the_partitions(
    tmp_path: Path, with_vector: int, partitions: int
) -> None:
    run, n_texts = RunDir(tmp_path), 64 * 4
    rows = search.spread_rows(n_texts, 4)
    vectors = np.zeros((n_texts, 2), np.float32)
    vectors[np.resize(np.unique(rows), with_vector)] = np.random.default_rng(0).normal(size=(with_vector, 2))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 2)
    write_table(
        run / "vectors" / "part-000000.parquet", pa.table([range(n_texts), column], schema=schema.vectors_schema(2))
    )
    assert len(search.partition_centers(run, n_texts, 0, 64)) == partitions
