"""A run directory, or a configuration and counts, in; lines for people out: how far a run is, what one will need."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from clustering.config.loading import build_saved_config
from clustering.config.sections import RunConfig
from clustering.errors import ConfigError
from clustering.kernels.printable import one_line
from clustering.monitoring.plan import (
    GUESSED_DIM,
    GUESSED_TEXT_BYTES,
    Counts,
    NodeType,
    counts_of,
    dim_of,
    format_bytes,
)
from clustering.monitoring.progress import format_duration, progress_line
from clustering.monitoring.times import EXTRAPOLATED, calibrations_beside, forecast
from clustering.runs.directory import RunDir
from clustering.runs.inventory import PROGRESS, STAGE_ARTEFACTS
from clustering.runs.saved_config import is_builtin_encoder
from clustering.schema import Figures


def status_lines(run: RunDir) -> list[str]:
    """How far a run is: a line for the run, one for each stage.

    Raises: ConfigError when the directory holds no run.
    """
    manifest = run.manifest  # first, as it says what is wrong with the directory
    if not (run / "manifest.json").exists():
        raise ConfigError([f"{run.path} holds no run (no manifest.json)"])
    in_use = run.in_use()
    done = manifest["stages"]
    progress = _progress(run)
    at_work = {one["stage"]: one for one in progress}
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
        elif one := at_work.get(name):
            spent = format_duration((time.time() if in_use else one["updated"]) - one["started"])
            said = progress_line(one).partition(": ")[2] if one["total"] or one.get("waits") else ""
            line = f"{'at work' if in_use else 'begun'}, {spent}{said and '; ' + said}"
        else:
            line = "to do" + (f", about {format_duration(expected[name])}" if name in expected else "")
        lines.append(f"  {name:<9} {line}")
    return lines


MOST = 1 << 53  # texts, parts or seconds; no stage has more
Count = Annotated[int, Field(ge=0, le=MOST)]
Number = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
Words = Annotated[str, AfterValidator(lambda text: one_line(text, 200))]


@dataclass(config=ConfigDict(extra="ignore"), kw_only=True)
class Progress:
    """What a stage at work says of itself, as ``watch.Watch.figures`` leaves it."""

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


def _progress(run: RunDir) -> list[Figures]:
    """What the stages at work say of themselves; nothing where they say nothing, or no process of ours has written."""
    try:
        found = json.loads((run / PROGRESS).read_text(encoding="utf-8"))
        return [asdict(one) for one in _PROGRESS.validate_python([found, *found.get("beside", [])])]
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return []


def _expected(run: RunDir, manifest: Figures) -> dict[str, float]:
    """Seconds that each stage will take by the finished runs in the same folder; empty where nothing tells."""
    done = {name: stage["figures"] for name, stage in manifest["stages"].items()}
    if "config" not in manifest or not done.get("read", {}).get("texts"):
        return {}
    try:
        config = build_saved_config(manifest["config"])
        dim = done.get("embed", {}).get("dim")  # no model is looked at that only the directory names
        guessed = dim_of(config) if is_builtin_encoder(config.embed) else GUESSED_DIM
        counts = counts_of(done["read"], dim if isinstance(dim, int) else guessed)
    except (ConfigError, KeyError, TypeError):  # of another version, or made by anybody
        return {}
    told = forecast(config, counts, NodeType(os.cpu_count() or 1), calibrations_beside(run))
    return {row["stage"]: row["seconds"] for row in told["stages"] if row["seconds"] is not None}


def plan_lines(config: RunConfig, n_texts: int, runs: list[str] | None = None) -> list[str]:
    """What a run of so many texts will need: a line for each stage, and the sums.

    runs : finished runs to tell times from; none: those beside ``run.dir``
    """
    if not 1 <= n_texts <= MOST:
        raise ConfigError([f"--texts={str(n_texts)[:30]} is no number of texts; give 1 at least"])
    known = calibrations_beside(RunDir(config.run.dir), runs)
    text_bytes = max(known, key=lambda one: one.counts.texts).counts.text_bytes if known else GUESSED_TEXT_BYTES
    counts = Counts(n_texts, n_texts, dim_of(config), text_bytes)
    told = forecast(config, counts, NodeType(os.cpu_count() or 1, config.embed.gpus_per_actor), known)
    lines = [
        f"{n_texts:,} texts of {text_bytes:.0f} bytes, {counts.dim} dimensions, k={config.search.k}",
        f"{'stage':<9} {'memory of a process':>20} {'disk':>9} {'time':>8}  as in",
    ]
    for row in told["stages"]:
        took = "?" if row["seconds"] is None else format_duration(row["seconds"])
        lines.append(
            f"{row['stage']:<9} {format_bytes(row['memory_bytes']):>20} {format_bytes(row['disk_bytes']):>9} "
            f"{took:>8}  "
            f"{row['from'] or 'no finished run tells'}"
        )
    total = told["total"]
    took = "unknown" if total["seconds"] is None else format_duration(total["seconds"])
    disk, node = format_bytes(total["disk_bytes"]), format_bytes(total["node_bytes"])
    lines.append(f"in all: {took}, {disk} of disk; a node needs {node} of memory")
    if not config.store.embedded:
        lines.append(f"the Milvus server needs about {format_bytes(total['milvus_bytes'])} of memory")
    if known and n_texts > EXTRAPOLATED * max(one.counts.texts for one in known):
        lines.append(f"a rough guess: the largest of these runs has {max(one.counts.texts for one in known):,} texts")
    if total["cost"] is not None and config.run.prices:
        lines.append(f"cost: {total['cost']:.2f} {config.run.prices.currency}")
    if total["seconds"] is None:
        lines.append(
            "times come from finished runs of the same encoder and index: run a sample first, or name one by --run"
        )
    return lines
