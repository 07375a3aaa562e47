"""Finished runs in; seconds, money and memory that another run will take, out."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clustering.config.sections import RunConfig
from clustering.errors import ConfigError
from clustering.monitoring.plan import Counts, NodeType, counts_of, estimate_stages, milvus_bytes
from clustering.monitoring.progress import format_duration
from clustering.runs.directory import RunDir
from clustering.schema import Figures

log = logging.getLogger("covey")

START_S = {"umap": 8.0}  # that a stage takes with next to nothing to do: umap-learn compiles first; 1 s the others
EXTRAPOLATED = 50  # times as many texts as in the run that tells: what it tells is a rough guess


@dataclass(frozen=True)
class Calibration:
    """What a finished run says of the next one."""

    run: str
    encoder: str
    index: str
    counts: Counts
    graph_k: int
    method: str  # of the map
    seconds: dict[str, float]
    used: dict[str, float]  # cpus and gpus of its cluster


def calibration_of(run: RunDir) -> Calibration | None:
    """The figures of a run, None where it is not finished or holds none."""
    try:
        manifest = run.results
        done = {name: stage["figures"] for name, stage in manifest["stages"].items()}
        read, config, _ = done["read"], manifest["config"], done["report"]
        found = Calibration(
            str(run.path), config["embed"]["encoder"], str(done["search"]["index"]),
            counts_of(read, done["embed"]["dim"]), config["graph"]["k"] or config["search"]["k"],
            config["project"].get("method", "umap"),  # the only one of older runs
            {name: stage["seconds"] for name, stage in manifest["stages"].items()}, done["search"]["used"],
        )  # fmt: skip
        counts, used = found.counts, found.used
        numbers = [counts.texts, counts.records, counts.dim, found.graph_k, used["cpus"], used["gpus"]]
        return found if all(isinstance(one, (int, float)) for one in [*numbers, *found.seconds.values()]) else None
    except (ConfigError, KeyError, OSError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None  # it may be anybody's, and ends nothing of this run


def calibrations_beside(run: RunDir, given: list[str] | None = None) -> list[Calibration]:
    """What the named runs, or the finished ones in the same folder, say.

    Raises: ConfigError for a named one that is not finished.
    """
    if given:
        found = [calibration_of(RunDir(name)) for name in given]
        if None in found:
            raise ConfigError([f"{given[found.index(None)]} is no finished run that times could be told from"])
    else:
        others = sorted(run.path.parent.glob("*/manifest.json")) if isinstance(run.path, Path) else []
        found = [calibration_of(RunDir(path.parent)) for path in others if path.parent != run.path and path.is_file()]
    return [one for one in found if one is not None]


def estimate_seconds(stage: str, config: RunConfig, counts: Counts, known: Calibration) -> float | None:
    """How long a stage of ``counts`` will take on machines such as the finished run's; None where it cannot tell."""
    if stage not in known.seconds or (stage == "embed" and config.embed.encoder != known.encoder):
        return None
    if stage in ("store", "search") and config.store.index_type != known.index:
        return None
    if stage == "project" and config.project.method != known.method:
        return None
    times = counts.texts / known.counts.texts
    growth = times
    if stage in ("store", "search"):
        growth *= counts.dim / known.counts.dim
        if stage == "search" and known.index == "FLAT":  # each text is compared with all
            growth *= times
        elif known.index == "HNSW":
            growth *= math.log(max(counts.texts, 2)) / math.log(max(known.counts.texts, 2))
    elif stage in ("graph", "forest", "cluster"):
        growth *= config.graph_k / known.graph_k
    start = START_S.get(config.project.method, 1.0) if stage == "project" else 1.0
    return start + max(known.seconds[stage] - start, 0.05) * growth


def cost_of(seconds: float, used: dict[str, float], config: RunConfig) -> float | None:
    """What the machines cost for so long, in run.prices's currency."""
    prices = config.run.prices
    if prices is None:
        return None
    return seconds / 3600 * (used["cpus"] * prices.cpu_hour + used["gpus"] * prices.gpu_hour)


def estimate_times(run: RunDir, config: RunConfig, counts: Counts, stages: list[str]) -> dict[str, float]:
    """Log how long the stages to do will take, where finished runs in the same folder tell; return their seconds.

    Empty where any of them cannot be told.
    """
    told = forecast(config, counts, NodeType(1), calibrations_beside(run))["stages"]
    rows = [row for row in told if row["stage"] in stages]
    if any(row["seconds"] is None for row in rows):
        return {}
    log.info(
        "plan: about %s, by the times of %s",
        format_duration(sum(row["seconds"] for row in rows)), ", ".join(sorted({row["from"] for row in rows})),
    )  # fmt: skip
    return {row["stage"]: row["seconds"] for row in rows}


def forecast(config: RunConfig, counts: Counts, machine: NodeType, known: list[Calibration]) -> Figures:
    """Needs of every stage and in all, with the seconds that the largest fitting finished run tells."""
    rows: list[Figures] = []
    for need in estimate_stages(config, counts, machine):
        guesses = [
            (run.counts.texts, seconds, run)
            for run in known
            if (seconds := estimate_seconds(need.stage, config, counts, run)) is not None
        ]
        _, seconds, run = max(guesses, key=lambda guess: guess[0], default=(0, None, None))
        rows.append(
            {
                "stage": need.stage,
                "memory_bytes": need.memory_bytes,
                "processes": need.processes,
                "node_bytes": need.node_bytes,
                "disk_bytes": need.disk_bytes,
                "seconds": seconds and round(seconds, 1),
                "from": run and run.run,
                "cost": cost_of(seconds, run.used, config) if seconds and run else None,
            }
        )
    complete = all(row["seconds"] is not None for row in rows)
    total: dict[str, Any] = {
        "seconds": round(sum(row["seconds"] for row in rows), 1) if complete else None,
        "cost": round(sum(row["cost"] for row in rows), 2) if complete and config.run.prices else None,
        "disk_bytes": sum(row["disk_bytes"] for row in rows),
        "node_bytes": max(row["node_bytes"] for row in rows),
        "milvus_bytes": milvus_bytes(config, counts),
    }
    return {"stages": rows, "total": total}
