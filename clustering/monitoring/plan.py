"""Estimates in; what a run will need, as lines for people and as an entry of the manifest, out."""

from __future__ import annotations

import logging
import os

from clustering.config.sections import RunConfig
from clustering.errors import ConfigError
from clustering.monitoring.progress import format_duration
from clustering.monitoring.resources import (
    GUESSED_TEXT_BYTES,
    Counts,
    NodeType,
    StageEstimate,
    dim_of,
    estimate_stages,
    format_bytes,
    milvus_bytes,
)
from clustering.monitoring.times import calibrations_beside, forecast
from clustering.runs.directory import RunDir
from clustering.schema import Figures

log = logging.getLogger("covey")
MAX_TEXTS = 1 << 53
EXTRAPOLATED = 50  # times the texts of the largest finished run, from which on times are a rough guess


def plan_entries(
    config: RunConfig, counts: Counts, estimates: list[tuple[NodeType, StageEstimate]]
) -> dict[str, Figures]:
    """For the manifest: each stage's bytes of memory in a process and on disk, and processes by type of node."""
    entries: dict[str, Figures] = {
        estimate.stage: {"memory": estimate.memory_bytes, "disk": estimate.disk_bytes, "processes": {}}
        for estimate in estimate_stages(config, counts, NodeType(1))
    }
    for node_type, estimate in estimates:
        entries[estimate.stage]["processes"][str(node_type)] = estimate.processes
    return entries


def log_plan(config: RunConfig, counts: Counts, estimates: list[tuple[NodeType, StageEstimate]]) -> None:
    """Log a line for each stage and type of node."""
    log.info("plan: texts=%d records=%d dim=%d k=%d", counts.texts, counts.records, counts.dim, config.search.k)
    several = len({node_type for node_type, _ in estimates}) > 1
    for node_type, estimate in estimates:
        where = f" on a node of {node_type}" if several else ""
        log.info("plan: %-8s memory=%s disk=%s%s", estimate.stage, estimate, format_bytes(estimate.disk_bytes), where)
    if not config.store.embedded:
        log.info("plan: the Milvus server needs about %s", format_bytes(milvus_bytes(config, counts)))


def plan_lines(config: RunConfig, n_texts: int, runs: list[str] | None = None) -> list[str]:
    """The needs of a run of so many texts: a line for each stage, and the sums.

    runs : finished runs to take times from; None: those beside ``run.dir``
    """
    if not 1 <= n_texts <= MAX_TEXTS:
        raise ConfigError([f"--texts={str(n_texts)[:30]} is no number of texts; give 1 at least"])
    known = calibrations_beside(RunDir(config.run.dir), runs)
    largest = max(known, key=lambda calibration: calibration.counts.texts).counts if known else None
    text_bytes = largest.text_bytes if largest else GUESSED_TEXT_BYTES
    counts = Counts(n_texts, n_texts, dim_of(config), text_bytes)
    stages = forecast(config, counts, NodeType(os.cpu_count() or 1, config.embed.gpus_per_actor), known)
    lines = [
        f"{n_texts:,} texts of {text_bytes:.0f} bytes, {counts.dim} dimensions, k={config.search.k}",
        f"{'stage':<9} {'memory of a process':>20} {'disk':>9} {'time':>8}  as in",
    ]
    for stage in stages:
        estimate = stage.estimate
        memory, disk = format_bytes(estimate.memory_bytes), format_bytes(estimate.disk_bytes)
        time = "?" if stage.seconds is None else format_duration(stage.seconds)
        source = stage.run or "no finished run tells"
        lines.append(f"{estimate.stage:<9} {memory:>20} {disk:>9} {time:>8}  {source}")
    seconds = [stage.seconds for stage in stages if stage.seconds is not None]
    costs = [stage.cost for stage in stages if stage.cost is not None]
    total = format_duration(sum(seconds)) if len(seconds) == len(stages) else "unknown"
    disk = format_bytes(sum(stage.estimate.disk_bytes for stage in stages))
    node = format_bytes(max(stage.estimate.node_bytes for stage in stages))
    lines.append(f"in all: {total}, {disk} of disk; a node needs {node} of memory")
    if not config.store.embedded:
        lines.append(f"the Milvus server needs about {format_bytes(milvus_bytes(config, counts))} of memory")
    if largest and n_texts > EXTRAPOLATED * largest.texts:
        lines.append(f"a rough guess: the largest of these runs has {largest.texts:,} texts")
    if config.run.prices and len(costs) == len(stages):
        lines.append(f"cost: {sum(costs):.2f} {config.run.prices.currency}")
    if len(seconds) < len(stages):
        lines.append(
            "times come from finished runs of the same encoder and index: run a sample first, or name one by --run"
        )
    return lines
