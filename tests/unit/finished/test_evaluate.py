"""evaluate.py: its figures go into the report of the run that was measured, and into no other's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering.config.loading import build_config
from clustering.config.sections import ClusterSection, ReadSection
from clustering.errors import ConfigError
from clustering.finished import evaluate
from clustering.runs.directory import RunDir
from clustering.runs.inventory import STAGE_ARTEFACTS
from clustering.runs.parts import part_name
from clustering.runs.storage import write_json, write_table

REPORT = {"counts": {"texts": 1}, "search": {"recall": 1.0}}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """What passes for a finished run of one text."""
    entry = {"fingerprint": "0" * 16, "started": 0.0, "finished": 1.0, "seconds": 1.0, "figures": {}}
    write_json(tmp_path / "manifest.json", {"id": "0" * 12, "stages": dict.fromkeys(STAGE_ARTEFACTS, entry)})
    write_json(tmp_path / "report.json", REPORT)
    return RunDir(tmp_path)


def test_a_run_at_work_is_not_evaluated_as_it_would_lose_its_new_report(run: RunDir) -> None:
    with (
        RunDir(run.path).locked(),
        pytest.raises(ConfigError, match="is in use by another run; wait for it"),
    ):
        evaluate.evaluate_run(run, build_config({}))
    assert run.report == REPORT


def test_no_run_begins_while_one_is_evaluated(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(evaluate, "write_json", lambda *_: seen.append(RunDir(run.path).in_use()))
    evaluate.evaluate_run(run, build_config({}))
    assert seen == [True]


def test_a_directory_without_a_run_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not finished; finish it with covey run first"):
        evaluate.evaluate_run(RunDir(tmp_path / "none"), build_config({}))
    assert not (tmp_path / "none").exists()


READ = ReadSection(text_columns=("title",), id_column="id")


def labels(tmp_path: Path, ids: list[str]) -> RunDir:
    """What compare_with_truth reads of a run: each record in a cluster of its own."""
    own = pa.array(range(len(ids)), pa.int32())
    table = pa.table({"text_id": pa.array(ids, pa.string()), "label": own, "home": own})
    (tmp_path / "labels.parquet").mkdir()  # as of many records
    half = len(ids) // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, tmp_path / "labels.parquet" / part_name(number))
    return RunDir(tmp_path)


def test_a_record_whose_label_is_empty_has_no_truth(tmp_path: Path) -> None:
    """csv knows no other way to say so; the empty label was a class of its own."""
    (tmp_path / "truth.csv").write_text("id,label\na,x\nb,y\nc,\nd,\n")
    found = evaluate.compare_with_truth(
        labels(tmp_path, ["a", "b", "c", "d"]), READ, f"{tmp_path}/truth.csv", "label", None
    )
    assert found["records"] == 2
    assert found["label"]["ari"] == 1


@pytest.mark.parametrize("truth", [["x", "y", "-1", "-1"], [3, 4, -1, -1], [3.0, 4.0, -1.0, float("nan")]])
def test_a_truth_of_minus_one_is_none(truth: list[object], tmp_path: Path) -> None:
    """It is noise in files of labels; as a class of its own it told clusters of noise to be one."""
    pq.write_table(pa.table({"id": ["a", "b", "c", "d"], "label": truth}), tmp_path / "truth.parquet")
    found = evaluate.compare_with_truth(
        labels(tmp_path, ["a", "b", "c", "d"]), READ, f"{tmp_path}/truth.parquet", "label", None
    )
    assert (found["records"], found["left_out"]) == (2, 2)
    assert found["label"]["ari"] == 1


def test_truths_without_an_id_are_those_of_records_without_one(tmp_path: Path) -> None:
    """They counted as ids that repeat."""
    (tmp_path / "truth.csv").write_text("id,label\na,x\n,y\n,y\n")
    run = labels(tmp_path, ["a", "truth.csv:2", "truth.csv:3"])
    assert evaluate.compare_with_truth(run, READ, f"{tmp_path}/truth.csv", "label", None)["records"] == 3


def test_what_a_truth_lacks_is_told_by_the_options_that_name_it(tmp_path: Path) -> None:
    """read.text_columns and read.id_column are settings of the run, which evaluate does not take."""
    (tmp_path / "truth.csv").write_text("key,story\na,x\n")
    with pytest.raises(ConfigError, match="Set --truth-column and --id-column to one of them"):
        evaluate.compare_with_truth(labels(tmp_path, ["a"]), READ, f"{tmp_path}/truth.csv", "label", None)


def test_a_run_without_texts_has_nothing_to_compare(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("id,label\na,x\n")
    with pytest.raises(ConfigError, match="clusters no texts, so there is nothing to compare"):
        evaluate.compare_with_truth(labels(tmp_path, []), READ, f"{tmp_path}/truth.csv", "label", None)


@pytest.mark.parametrize("n_texts", [1, 2, 6])
def test_equal_vectors_and_a_single_one_have_a_fidelity_or_none(n_texts: int, tmp_path: Path) -> None:
    """Texts of the same words in another order have equal vectors: the exact tree has the length 0."""
    run = RunDir(tmp_path)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.tile([1, 0], n_texts), pa.float32()), 2)
    write_table(run / "vectors" / part_name(0), pa.table({"row": np.arange(n_texts), "vector": vectors}))
    write_table(run / "assignment.parquet", pa.table({"label": np.full(n_texts, -1, np.int32)}))
    edges = np.arange(n_texts - 1)
    lengths = np.full(n_texts - 1, 1e-3, np.float32)
    write_table(run / "forest" / part_name(0), pa.table({"left": edges, "right": edges + 1, "distance": lengths}))
    found = evaluate.exact_fidelity(run, ClusterSection(weights="distance", selection="eom", min_samples=1), "L2")
    assert found is None if n_texts == 1 else found is not None and found["mst_weight_difference"] is None
