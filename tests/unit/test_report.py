"""report.py: the table by row that every part of members/ takes from."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from clustering import report
from clustering.config import RunConfig
from clustering.rundir import RunDir


def test_takes_from_many_chunks_find_each_column_in_one() -> None:
    pieces = [pa.table({"label": [at], "layers": pa.array([[at, 9]], pa.list_(pa.int32()))}) for at in range(3)]
    table = report._in_one_chunk(pa.concat_tables(pieces))
    assert [column.num_chunks for column in table.columns] == [1, 1]
    assert table.take([2, 0]).to_pylist() == [{"label": 2, "layers": [2, 9]}, {"label": 0, "layers": [0, 9]}]
    assert table.schema.field("layers").type == pa.large_list(pa.int32())  # of usual ones, one chunk may be too small


def test_what_a_stage_warns_of_stands_in_log_and_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = RunDir(tmp_path)
    counts = {"records": 3, "texts": 3, "empty": 0, "dropped": 0, "repeated_ids": 0}
    run.stage("read", "mark", lambda: {**counts, "warnings": ["2 of 3 times cannot be read."]})
    run.update_manifest(versions={}, seed=0)
    assert report.collect_figures(run, RunConfig())["warnings"][0] == "2 of 3 times cannot be read."
    assert "read: 2 of 3 times cannot be read." in capfd.readouterr().err
