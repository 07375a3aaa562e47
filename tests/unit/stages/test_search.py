"""search.py: what a part of neighbors/ says of itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clustering import schema
from clustering.milvus.endpoint import Endpoint
from clustering.runs.directory import RunDir
from clustering.runs.index import Part
from clustering.runs.storage import write_table
from clustering.stages import search


class FixedNeighbors:
    """Finds one neighbor for even rows, two for odd ones."""

    def __init__(self, *_: object) -> None:
        self.k = 2

    def batch(self, dim: int) -> int:
        return 3

    def nearest(self, rows: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, ...]:
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
