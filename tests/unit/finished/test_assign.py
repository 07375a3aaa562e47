"""assign.py: what is written takes the place of nothing that it was made of; new ids stay what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clustering.config.loading import build_config
from clustering.errors import ConfigError
from clustering.finished import assign
from clustering.finished.assign import _Clusters, assign_texts, ids_like
from clustering.runs.directory import RunDir
from clustering.runs.index import write_index
from clustering.runs.inventory import STAGE_ARTEFACTS
from clustering.runs.parts import part_name, write_part
from clustering.runs.storage import save_array, write_json, write_table


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("new.csv", "is a file of --input, whose place it would take; name another file"),
        ("linked.csv", "is a file of --input, whose place it would take; name another file"),
        ("run/labels.parquet", "is an artefact of the run, which is not changed; name another file"),
        ("placed.csv", "would be Parquet, whatever its name says; let it end with .parquet"),
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


def test_a_file_without_the_columns_of_the_run_is_told_to_get_them(tmp_path: Path) -> None:
    """assign takes no read.text_columns, which the message asked to set."""
    entry = {"fingerprint": "0" * 16, "started": 0.0, "finished": 1.0, "seconds": 1.0, "figures": {}}
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run/manifest.json", {"id": "0" * 12, "stages": dict.fromkeys(STAGE_ARTEFACTS, entry)})
    (tmp_path / "run/assignment.parquet").write_text("")
    run = RunDir(tmp_path / "run")
    (tmp_path / "new.csv").write_text("headline\nA flood\n")
    config = build_config({"read": {"text_columns": ["title"]}})
    with pytest.raises(
        ConfigError, match=r"'headline'\. read\.text_columns of the run means it; rename it in the file"
    ):
        assign_texts(run, config, [str(tmp_path / "new.csv")], str(tmp_path / "placed.parquet"))
    with pytest.raises(ConfigError, match="--input: no such file"):
        assign_texts(run, config, [str(tmp_path / "gone.csv")], str(tmp_path / "placed.parquet"))


def test_an_encoder_on_a_node_that_does_not_see_the_run_encodes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assign, "own_address", lambda: "10.0.0.7")
    there = assign._Encoder(RunDir(tmp_path / "not_mounted"), "0" * 12, build_config({}).embed)
    with pytest.raises(ConfigError, match=r"run\.dir=.*not_mounted is not the same place on 10\.0\.0\.7; take"):
        there.encode(["A flood"])


def test_a_run_without_texts_says_so(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.stage("read", "0" * 16, lambda: {"records": 3, "texts": 0})
    run.stage("report", "0" * 16, lambda: {"records": 3})
    config = build_config({"read": {"text_columns": ["title"]}})
    with pytest.raises(ConfigError, match="the run has no texts, and so no clusters that new texts could belong to"):
        assign_texts(run, config, ["new.csv"], tmp_path / "assigned.parquet")


@pytest.mark.parametrize(
    ("run_ids", "new_ids", "expected"),
    [
        ([1, 2], ["7", "12", None], [7, 12, None]),
        ([1, 2], ["007", "7", None], ["007", "7", "new.csv:3"]),
        ([1, 2], ["7", " 8", "9"], ["7", " 8", "9"]),
        ([1, 2], ["7", "a", ""], ["7", "a", "new.csv:3"]),
        ([1, 2], [7.0, 8.0, None], [7, 8, None]),
        ([1, 2], [7.0, 8.5, None], ["7", "8.5", "new.csv:3"]),
        ([1, 2], [None, None, None], [None, None, None]),
        ([1.5, 2.0], ["1.50", "1.5", "2"], ["1.50", "1.5", "2"]),
        ([1.5, 2.0], [3, 4, 5], [3.0, 4.0, 5.0]),
        ([1.5, 2.0], [float("inf"), 4.5, 5.0], [float("inf"), 4.5, 5.0]),
        (["a", "b"], [7, 8, None], ["7", "8", "new.csv:3"]),
    ],
)
def test_new_ids_take_the_type_of_the_runs_only_where_they_stay_apart(
    run_ids: list[Any], new_ids: list[Any], expected: list[Any], tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    write_table(run / "members" / part_name(0), pa.table({"text_id": run_ids, "row": [0, 1]}))
    locations = pa.chunked_array([[f"new.csv:{line}" for line in (1, 2, 3)]])
    found = ids_like(run, pa.chunked_array([pa.array(new_ids)]), locations)
    assert found.to_pylist() == expected


@pytest.mark.parametrize(("copies", "label"), [("weigh", 0), ("fold", -1)])
def test_a_new_text_is_dense_by_all_records_where_copies_weigh(copies: str, label: int, tmp_path: Path) -> None:
    """Rows 0 and 1 have nine records each, row 2 is another cluster; the core distance is that of the third record."""
    run, name, numbers = RunDir(tmp_path / "run"), part_name(0), list(range(3))
    run.update_manifest()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(3, dtype=np.float32).ravel()), 3)
    write_index(run / "vectors", [write_part(run / "vectors", name, pa.table({"row": numbers, "vector": vectors}))])
    write_index(run / "texts", [write_part(run / "texts", name, pa.table({"row": numbers, "copies": [9, 9, 1]}))])
    forest = {"left": [0, 0], "right": [1, 2], "distance": pa.array([0.2, 1], pa.float32())}
    write_table(run / "forest" / name, pa.table(forest))
    save_array(run / "forest" / "core.npy", np.full(3, 0.2, np.float32))
    found = {"label": [0, 0, 1], "home": [0, 0, 1], "strength": [1.0] * 3, "home_strength": [1.0] * 3}
    write_table(run / "assignment.parquet", pa.table(found))
    config = build_config({"cluster": {"weights": "distance", "copies": copies, "min_samples": 3}})
    clusters = _Clusters(run, config, "there is no server")
    near = clusters.reach.assign(np.array([[0, 1, 2]]), np.array([[0.1, 0.15, 0.9]], np.float32))
    assert near["label"].tolist() == [label]
