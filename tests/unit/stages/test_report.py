"""report.py: figures, warnings and the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clustering.config.loading import build_config
from clustering.config.sections import RunConfig
from clustering.runs import directory
from clustering.runs.directory import RunDir
from clustering.stages import report


def test_what_a_stage_warns_of_stands_in_log_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(directory.log, "warning", lambda line, *words: logged.append(line % words))
    run = RunDir(tmp_path)
    counts = {"records": 3, "texts": 3, "empty": 0, "dropped": 0, "repeated_ids": 0}
    run.stage("read", "0" * 16, lambda: {**counts, "warnings": ["2 of 3 times cannot be read."]})
    run.update_manifest(versions={}, seed=0)
    assert report.collect_figures(run, RunConfig())["warnings"][0] == "2 of 3 times cannot be read."
    assert logged == ["read: 2 of 3 times cannot be read."]


@pytest.mark.parametrize(
    ("time", "given", "says"),
    [
        (
            (3.0, 0.5, 0.6),
            False,
            "3 days apart loses 32% of their similarity, one between texts much further apart 50%",
        ),
        ((3.0, 0.5, 0.6), False, "near texts are nearer in time than any two"),
        ((1 / 24, 0.3, 0.0), True, "two texts 1 hours apart loses 19% of their similarity, "),
        ((1 / 24, 0.3, 0.0), True, "apart 30%: as given (cluster.time_scale)"),
        ((1 / 86_400, 0.3, 0.0), True, "two texts 1 seconds apart"),
        ((3.0, 0.0, 0.05), False, "left aside: near texts are hardly nearer in time than any two"),
        ((3.0, 0.0, 0.2), False, "left aside: so few texts with times do not tell"),
        ((3.0, 0.0, 0.0), True, "left aside: hardly a text has a time, so cluster.time_scale changes nothing"),
    ],
)
def test_what_times_do_is_told_as_it_was_found(time: tuple[float, ...], given: bool, says: str) -> None:
    assert says in report._timed(dict(zip(("days", "share", "difference"), time, strict=True)), given)


def finished_run(folder: Path) -> RunDir:
    """A run as its manifest tells it, without its artefacts."""
    run = RunDir(folder)
    counts = {"records": 9, "texts": 9, "empty": 0, "dropped": 0, "repeated_ids": 0}
    run.stage("read", "0" * 16, lambda: counts)
    run.stage("cluster", "0" * 16, lambda: {"count": 1})
    run.update_manifest(versions={}, seed=0)
    return run


COLUMN = "the column home, which places noise, too."


@pytest.mark.parametrize(
    ("words", "layers", "chosen", "advice"),
    [
        ({}, [0.2, 0.7], 1, f"Take a broader layer, or use {COLUMN}"),
        ({}, [0.7], 0, f"Use {COLUMN}"),
        ({}, [0.7, 0.8], 0, f"Use {COLUMN}"),
        ({}, [0.6, 0.8], 1, f"Use {COLUMN}"),
        ({"min_samples": 4}, [0.7], 0, f"Lower cluster.min_samples, or use {COLUMN}"),
        ({"weights": "distance", "selection": "eom"}, [0.7], 0, f"Take cluster.weights=diffused, or use {COLUMN}"),
    ],
)
def test_much_noise_is_told_with_what_helps(
    words: dict[str, Any], layers: list[float], chosen: int, advice: str, tmp_path: Path
) -> None:
    config = build_config({"cluster": words})
    figures = report.collect_figures(finished_run(tmp_path), config)
    found = {"count": 3, "noise_share": 0.7, "layer": chosen, "layers": [{"noise_share": share} for share in layers]}
    figures["clusters"] |= found
    assert report.collect_warnings(figures, config) == [f"70% of the records are noise. {advice}"]


def test_without_a_cluster_only_keys_that_help_are_named(tmp_path: Path) -> None:
    for words, said in (({}, "Lower cluster.min_cluster_size."), ({"min_samples": 3}, "or cluster.min_samples.")):
        config = build_config({"cluster": words})
        figures = report.collect_figures(finished_run(tmp_path), config)
        figures["clusters"]["count"] = 0
        assert report.collect_warnings(figures, config)[0].endswith(said)
