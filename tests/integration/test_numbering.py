"""What Ray's workers read in pieces and number together is what one reads and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering.cli.main import main
from clustering.config.sections import ReadSection
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns
from clustering.sample import write_sample
from clustering.sources import folding, numbering, pieces
from clustering.sources.detection import find_files
from clustering.stages.read import read_texts
from tests.syndication import syndicate

LAPTOP = str(Path(__file__).parents[2] / "cluster_configs" / "laptop.yaml")
pytestmark = [pytest.mark.ray, pytest.mark.full]


@pytest.mark.parametrize("near", [pytest.param("keep", marks=pytest.mark.nightly), "fold"])
def test_workers_read_pieces_and_number_rows_together(
    near: Any, local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample(tmp_path / "sample.csv", 30_000)
    paths = (str(tmp_path / "sample.csv"),)
    cfg = ReadSection(paths=paths, text_columns=("title",), id_column="id", near_duplicates=near)
    one, several = RunDir(tmp_path / "one"), RunDir(tmp_path / "several")
    figures = read_texts(find_files(cfg), cfg, one, dim=256)
    monkeypatch.setattr(numbering, "NUMBERED_RECORDS", 10_000)
    monkeypatch.setattr(folding, "FOLDED_RECORDS", 10_000)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 300_000)
    assert read_texts(find_files(cfg), cfg, several, dim=256) == figures
    assert figures["texts"] < figures["records"]
    for artefact, columns in (("texts", ["row", "text", "copies"]), ("members", ["text_id", "row", "text"])):
        assert read_columns(several / artefact, columns).equals(read_columns(one / artefact, columns))


def test_what_outlets_carry_is_clustered_once_and_placed_with_its_headline(local_ray: None, tmp_path: Path) -> None:
    write_sample(tmp_path / "sample.parquet", 800, seed=3)
    carried = syndicate(pq.read_table(tmp_path / "sample.parquet")["title"].to_pylist(), most=4)
    feed = pa.table({"id": np.arange(len(carried.texts)), "title": carried.texts})
    pq.write_table(feed, tmp_path / "feed.parquet")
    run, words = RunDir(tmp_path / "run"), ["read.text_columns=[title]", "read.near_duplicates=fold", "search.k=30"]
    paths = [f"run.dir={run.path}", f"read.paths={tmp_path / 'feed.parquet'}"]
    assert main(["run", "--config", LAPTOP, *paths, *words]) == 0
    labels, families = pq.read_table(run / "labels.parquet"), pq.read_table(run / "families.parquet")
    family = labels["family"].to_numpy()
    counts = run.report["counts"]
    assert counts["texts"] == len(np.unique(family)) < 800
    assert counts["near_duplicates"] > 400
    for name in ("label", "home", "strength", "x"):  # a family is one text
        assert len(np.unique(np.stack([family, labels[name].to_numpy()]), axis=1).T) == counts["texts"]
    listed = dict(zip(families["family"].to_pylist(), families["members"].to_pylist(), strict=True))
    for one, members in listed.items():
        assert labels["text_id"].to_numpy()[family == one].tolist() == members
    sizes = pq.read_table(run / "clusters.parquet")["size"].to_numpy()
    label = labels["label"].to_numpy()
    assert sizes[: label.max() + 1].tolist() == np.bincount(label[label >= 0]).tolist()
    output = tmp_path / "assigned.parquet"
    assert (
        main(["assign", "--run", str(run.path), "--input", str(tmp_path / "feed.parquet"), "--output", str(output)])
        == 0
    )
    assigned = pq.read_table(output)
    for name in ("label", "home"):
        assert assigned[name].to_pylist() == labels[name].to_pylist()
    assert assigned["nearest_row"].to_pylist() == family.tolist()
    assert "near-duplicates" in (run / "report.html").read_text(encoding="utf-8")
