"""assign.py: what is written takes the place of nothing that it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustering.config.loading import build_config
from clustering.errors import ConfigError
from clustering.finished.assign import assign_texts
from clustering.runs.directory import RunDir
from clustering.runs.inventory import STAGE_ARTEFACTS
from clustering.runs.storage import write_json


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("new.csv", "is a file of --input, whose place it would take; name another file"),
        ("linked.csv", "is a file of --input, whose place it would take; name another file"),
        ("run/labels.parquet", "is an artefact of the run, which is not changed; name another file"),
        ("run/../run/assignment.parquet", "is an artefact of the run, which is not changed; name another file"),
    ],
)
def test_neither_an_input_nor_an_artefact_is_written_over(output: str, says: str, tmp_path: Path) -> None:
    entry = {"fingerprint": "0" * 16, "started": 0.0, "finished": 1.0, "seconds": 1.0, "figures": {}}
    manifest = {"id": "0" * 12, "stages": dict.fromkeys(STAGE_ARTEFACTS, entry)}
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run/manifest.json", manifest)
    for name in ("run/assignment.parquet", "run/labels.parquet", "new.csv"):
        (tmp_path / name).write_text("title\nsomething new\n", encoding="utf-8")
    (tmp_path / "linked.csv").symlink_to(tmp_path / "new.csv")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    config = build_config({"read": {"text_columns": ["title"]}})
    with pytest.raises(ConfigError) as refused:
        assign_texts(RunDir(tmp_path / "run"), config, [str(tmp_path / "new.csv")], str(tmp_path / output))
    assert says in str(refused.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
