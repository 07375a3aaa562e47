"""embed.py: vectors that came with the texts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clustering import schema
from clustering.embed import adopt_vectors
from clustering.rundir import RunDir, parts, write_table

NAMES = ["part-000000.parquet", "part-000001.parquet"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Two parts of given/, the first of which is in vectors/ already."""
    run = RunDir(tmp_path)
    for name in NAMES:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(6, np.float32)), 3)
        write_table(run / "given" / name, pa.table([[0, 1], vectors], schema=schema.vectors_schema(3)))
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / NAMES[0]).write_bytes((tmp_path / "given" / NAMES[0]).read_bytes())
    return run


def test_parts_that_lack_are_linked_and_the_others_kept(run: RunDir, tmp_path: Path) -> None:
    kept = (tmp_path / "vectors" / NAMES[0]).stat()
    assert adopt_vectors(run) == {"dim": 3, "tokens": 0, "cut": 0, "vectors": 4, "actors": 0}
    assert (tmp_path / "vectors" / NAMES[0]).stat() == kept
    assert (tmp_path / "vectors" / NAMES[1]).samefile(tmp_path / "given" / NAMES[1])


def test_parts_are_copied_where_files_cannot_be_linked(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    adopt_vectors(run)
    assert [path.name for path in parts(run / "vectors")] == NAMES
    assert (tmp_path / "vectors" / NAMES[1]).read_bytes() == (tmp_path / "given" / NAMES[1]).read_bytes()
    assert not list((tmp_path / "vectors").glob(".*"))
