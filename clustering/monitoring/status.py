"""A run directory in; how far the run is, as lines for people, out."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from clustering.config.loading import build_saved_config
from clustering.errors import ConfigError
from clustering.kernels.printable import one_line
from clustering.monitoring.progress import format_duration, progress_line
from clustering.monitoring.resources import GUESSED_DIM, NodeType, counts_of, dim_of
from clustering.monitoring.times import calibrations_beside, forecast
from clustering.runs.directory import RunDir
from clustering.runs.inventory import PROGRESS, STAGE_ARTEFACTS
from clustering.runs.saved_config import is_builtin_encoder
from clustering.schema import Figures


def status_lines(run: RunDir) -> list[str]:
    """How far a run is: a line for the run, and one for each stage.

    Raises: ConfigError when the directory holds no run.
    """
    manifest = run.manifest  # first, as it says what is wrong with the directory
    if not (run / "manifest.json").exists():
        raise ConfigError([f"{run.path} holds no run (no manifest.json)"])
    in_use = run.in_use()
    done = manifest["stages"]
    progress = _read_progress(run)
    at_work = {stage["stage"]: stage for stage in progress}
    if in_use:
        first = progress[0] if progress else {"pid": "?", "host": "?"}
        head = f"running, process {first['pid']} of {first['host']}"
    elif "report" in done:
        head = "finished"
    else:
        head = "stopped; the same command goes on from here"
    if run.is_complete and "report" not in done:
        head += "; labels, report and map are those of the run before"
    lines = [f"{run.path}: {head}"]
    expected = _expected(run, manifest)
    for name in STAGE_ARTEFACTS:
        if name in done:
            line = f"done in {format_duration(done[name]['seconds'])}"
        elif stage := at_work.get(name):
            spent = format_duration((time.time() if in_use else stage["updated"]) - stage["started"])
            details = progress_line(stage).partition(": ")[2] if stage["total"] or stage.get("waits") else ""
            line = f"{'at work' if in_use else 'begun'}, {spent}{details and '; ' + details}"
        else:
            line = "to do" + (f", about {format_duration(expected[name])}" if name in expected else "")
        lines.append(f"  {name:<9} {line}")
    return lines


LARGEST = 1 << 53  # parts or seconds
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Number = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Words = Annotated[str, AfterValidator(lambda text: one_line(text, 200))]


@dataclass(config=ConfigDict(extra="ignore"), kw_only=True)
class Progress:
    """A stage at work, as ``StageProgress.figures`` writes it."""

    stage: str
    updated: Number
    started: Number
    total: Count
    done: Count = 0
    what: Words = ""
    waits: Words = ""
    rows_per_second: Number | None = None
    left_s: Number | None = None
    run_left_s: Number | None = None
    host: Words = "?"
    pid: Count | Words = "?"


_PROGRESS = TypeAdapter(list[Progress])


def _read_progress(run: RunDir) -> list[Figures]:
    """The progress of the stages at work; empty where there is none, or another program has written the file."""
    try:
        found = json.loads((run / PROGRESS).read_text(encoding="utf-8"))
        return [asdict(stage) for stage in _PROGRESS.validate_python([found, *found.get("beside", [])])]
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return []


def _expected(run: RunDir, manifest: Figures) -> dict[str, float]:
    """Seconds of each stage, by the finished runs in the same folder; empty where none fits."""
    done = {name: stage["figures"] for name, stage in manifest["stages"].items()}
    if "config" not in manifest or not done.get("read", {}).get("texts"):
        return {}
    try:
        config = build_saved_config(manifest["config"])
        dim = done.get("embed", {}).get("dim")  # a model that only the directory names stays unread
        guessed = dim_of(config) if is_builtin_encoder(config.embed) else config.embed.dimensions or GUESSED_DIM
        counts = counts_of(done["read"], dim if isinstance(dim, int) else guessed)
    except (ConfigError, KeyError, TypeError):  # of another version, or written by anybody
        return {}
    stages = forecast(config, counts, NodeType(os.cpu_count() or 1), calibrations_beside(run))
    return {stage.estimate.stage: stage.seconds for stage in stages if stage.seconds is not None}
