"""recall.py on Ray: the driver of a run stays light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clustering import schema
from clustering.runs import parts
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name
from clustering.runs.storage import write_table
from clustering.workers.recall import RecallSample

pytestmark = [pytest.mark.ray, pytest.mark.full]


def test_the_driver_reads_no_vectors_for_a_sample(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read by the driver")

    run, vectors = RunDir(tmp_path), np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    for part, rows in enumerate(np.array_split(np.arange(60), 3)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel()), 8)
        write_table(run / "vectors" / part_name(part), pa.table([rows, column], schema=schema.vectors_schema(8)))
    monkeypatch.setattr(parts, "read_table", refuse)
    sample = RecallSample(run, "L2", 5, 20, 60, seed=1)
    np.testing.assert_array_equal(sample.vectors, vectors[sample.rows])
