"""evaluate.py: its figures go into the report of the run that was measured, and into no other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustering import evaluate
from clustering.config import build_config
from clustering.errors import ConfigError
from clustering.inventory import STAGE_ARTEFACTS
from clustering.rundir import RunDir, write_json

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
