"""What Ray's workers read in pieces and number together is what one reads and numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustering.config.sections import ReadSection
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns
from clustering.sample import write_sample
from clustering.sources import numbering, pieces
from clustering.sources.detection import find_files
from clustering.stages.read import read_texts

pytestmark = [pytest.mark.ray, pytest.mark.full]


def test_workers_read_pieces_and_number_rows_together(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample(tmp_path / "sample.csv", 30_000)
    cfg = ReadSection(paths=(str(tmp_path / "sample.csv"),), text_columns=("title",), id_column="id")
    one, several = RunDir(tmp_path / "one"), RunDir(tmp_path / "several")
    figures = read_texts(find_files(cfg), cfg, one, dim=256)
    monkeypatch.setattr(numbering, "NUMBERED_RECORDS", 10_000)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 300_000)
    assert read_texts(find_files(cfg), cfg, several, dim=256) == figures
    assert figures["texts"] < figures["records"]
    for artefact, columns in (("texts", ["row", "text", "copies"]), ("members", ["text_id", "row"])):
        assert read_columns(several / artefact, columns).equals(read_columns(one / artefact, columns))
