"""parts.describe_item: what names a part in messages is short, whatever its text ids are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from clustering.runs.directory import RunDir
from clustering.runs.parts import describe_item, part_name
from clustering.runs.storage import write_table


def test_long_and_hostile_ids_are_cut_and_shown_as_they_may_be(tmp_path: Path) -> None:
    run, name = RunDir(tmp_path), part_name(0)
    write_table(run / "texts" / name, pa.table({"row": [0, 1]}))
    write_table(run / "members" / name, pa.table({"text_id": ["x" * 10_000, "\x1b[2J\nb"], "row": [0, 1]}))
    assert describe_item({"name": name}, run) == f"{name} (rows 0 to 1, text ids {'x' * 79}…, \ufffd[2J b ...)"
