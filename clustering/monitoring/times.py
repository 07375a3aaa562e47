"""Finished runs in; the seconds and money that another run will take, out."""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

from clustering.config.sections import RunConfig
from clustering.errors import ConfigError
from clustering.kernels.memory import FILE_RECORDS
from clustering.monitoring.progress import format_duration
from clustering.monitoring.rates import PER_DECADE, STEPS, THREADED, Seconds, cores_of, moving_seconds, step_seconds
from clustering.monitoring.resources import Counts, NodeType, StageEstimate, counts_of, estimate_stages
from clustering.monitoring.traffic import ON_ONE_NODE, Traffic, stage_traffic
from clustering.runs.directory import RunDir
from clustering.runs.object_store import is_local

log = logging.getLogger("covey")
START_S = 1.0  # of a stage with next to nothing to do
UMAP_START_S = 8.0  # umap-learn compiles first
# The times of a smaller run are those of starts and first calls; they tell of runs of up to ten times as many texts.
TELLING_TEXTS, SMALL_TO_LARGE = 5_000, 10
LARGEST = 1e12  # texts, cores and seconds that a finished run may tell of
LIKE_A_RUN = (0.8, 1.25)  # times what a finished run of the same size and cores suggests


@dataclass(frozen=True)
class Calibration:
    """The figures of a finished run that times of other runs are estimated from."""

    path: str
    encoder: str
    index: str
    counts: Counts
    graph_k: int
    method: str  # of the map
    seconds: dict[str, float]
    used: dict[str, float]  # cpus and gpus of its cluster


def calibration_of(run: RunDir) -> Calibration | None:
    """The calibration by a run; None where the run is not finished or its figures are not usable."""
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
        sizes = [counts.texts, counts.records, counts.dim, found.graph_k]
        amounts = [counts.text_bytes, used["cpus"], used["gpus"], *found.seconds.values()]
        usable = all(isinstance(number, int) and 0 < number <= LARGEST for number in sizes)
        usable &= all(isinstance(number, (int, float)) and 0 <= number <= LARGEST for number in amounts)
        return found if usable else None
    except (ConfigError, KeyError, OSError, TypeError, ValueError, AttributeError, ArithmeticError):
        return None  # anybody may have written it; it never ends this run


def calibrations_beside(run: RunDir, named: list[str] | None = None) -> list[Calibration]:
    """The calibrations by the named runs, or else by the finished runs in the same folder.

    Raises: ConfigError for a named run that is not finished.
    """
    if named:
        found = [calibration_of(RunDir(name)) for name in named]
        if None in found:
            raise ConfigError([f"{named[found.index(None)]} is no finished run that times could be told from"])
    else:
        others = sorted(run.path.parent.glob("*/manifest.json")) if isinstance(run.path, Path) else []
        found = [calibration_of(RunDir(path.parent)) for path in others if path.parent != run.path and path.is_file()]
    return [calibration for calibration in found if calibration is not None]


def estimate_seconds(stage: str, config: RunConfig, counts: Counts, known: Calibration) -> float | None:
    """Seconds of a stage on nodes like those of a finished run; None where that run does not fit."""
    growth = ratio = counts.texts / known.counts.texts
    if known.counts.texts < TELLING_TEXTS and ratio > SMALL_TO_LARGE:
        return None
    if stage not in known.seconds or (stage == "embed" and config.embed.encoder != known.encoder):
        return None
    if stage in ("store", "search") and config.store.index_type != known.index:
        return None
    if stage == "project" and config.project.method != known.method:
        return None
    if stage in ("store", "search"):
        growth *= counts.dim / known.counts.dim
        if stage == "search" and known.index == "FLAT":  # each text is compared with all
            growth *= ratio
        elif known.index == "HNSW":
            growth *= math.log(max(counts.texts, 2)) / math.log(max(known.counts.texts, 2))
    elif stage in ("graph", "forest", "cluster"):
        growth *= config.graph_k / known.graph_k
    start = UMAP_START_S if stage == "project" and config.project.method == "umap" else START_S
    return start + max(known.seconds[stage] - start, 0.05) * growth


def stage_seconds(
    stage: str, config: RunConfig, counts: Counts, cluster: NodeType, known: list[Calibration], card: str,
    moved: Traffic,
) -> tuple[Seconds, dict[str, Seconds]]:  # fmt: skip
    """The seconds of a stage on the nodes of a type: by the largest finished run that fits it, else by the rates.

    moved : by the stage
    Returns: the seconds, and where rates tell, those of each step.
    """
    guesses = [(run, seconds) for run in known if (seconds := estimate_seconds(stage, config, counts, run)) is not None]
    if guesses:
        run, seconds = max(guesses, key=lambda guess: guess[0].counts.texts)
        seconds *= _fewer_cores(stage, config, counts, run, cluster, moved.at_once)
        wider = PER_DECADE ** abs(math.log10(counts.texts / run.counts.texts))
        low, high = LIKE_A_RUN
        return Seconds(seconds, seconds * low / wider, seconds * high * wider, (run.path,)), {}
    steps = {step: step_seconds(step, config, counts, cluster, card, moved.at_once) for step in STEPS[stage]}
    nodes = 1 if moved.tasks == 1 or stage in ON_ONE_NODE else cluster.count
    moving = moving_seconds(moved.read + moved.written + moved.between, nodes)
    waiting = Seconds(moved.waits_s, moved.waits_s / 2, moved.waits_s * 2, ("latency",))
    start = Seconds(START_S, START_S, START_S, ())
    apart = [start, moving] if is_local(config.run.dir) else [start, moving, waiting]
    return functools.reduce(Seconds.plus, [*apart, *steps.values()]), steps


def _fewer_cores(
    stage: str, config: RunConfig, counts: Counts, run: Calibration, cluster: NodeType, at_once: float
) -> float:
    """The cores (or GPUs) that shared out a stage of a finished run, over those that will.

    at_once : tasks of the stage that will be at work together
    """
    step, shared = next(iter(STEPS[stage].items()))
    if shared != "nodes" or (stage == "report" and counts.records <= FILE_RECORDS):
        return 1.0
    before = run.used["gpus" if stage == "embed" and config.embed.gpus_per_actor else "cpus"]
    if before and step not in THREADED:
        alike = replace(cluster, count=max(1, math.ceil(before / cluster.cpus)))  # its own nodes are not known
        estimate = next(one for one in estimate_stages(config, run.counts, alike) if one.stage == stage)
        before = min(before, stage_traffic(estimate, config, run.counts, alike).at_once)
    return before / cores_of(step, config, counts, cluster, at_once) if before else 1.0


def cost_of(seconds: float, used: dict[str, float], config: RunConfig, tokens: int = 0) -> float | None:
    """The cost of the cluster for so many seconds, in the currency of run.prices; None without prices.

    tokens : that a server of embeddings has counted
    """
    prices = config.run.prices
    if prices is None:
        return None
    an_hour = used["cpus"] * prices.cpu_hour + used["gpus"] * prices.gpu_hour
    return seconds / 3600 * an_hour + tokens / 1e6 * prices.million_tokens


@dataclass(frozen=True)
class StageForecast:
    """What a stage will need, with the time and cost that a finished run suggests; None where none does."""

    estimate: StageEstimate
    seconds: float | None
    cost: float | None
    run: str | None  # the finished run


def forecast(config: RunConfig, counts: Counts, node_type: NodeType, known: list[Calibration]) -> list[StageForecast]:
    """The forecast of every stage, by the largest finished run that fits it."""
    stages = []
    for estimate in estimate_stages(config, counts, node_type):
        guesses = [
            (run, seconds)
            for run in known
            if (seconds := estimate_seconds(estimate.stage, config, counts, run)) is not None
        ]
        if guesses:
            run, seconds = max(guesses, key=lambda guess: guess[0].counts.texts)
            cost = cost_of(seconds, run.used, config)
            stages.append(StageForecast(estimate, round(seconds, 1), cost, run.path))
        else:
            stages.append(StageForecast(estimate, None, None, None))
    return stages


def estimate_times(run: RunDir, config: RunConfig, counts: Counts, stages: list[str]) -> dict[str, float]:
    """Log how long the stages to do will take, by the finished runs in the same folder; return their seconds.

    Returns: seconds by stage; empty where no finished run fits one of the stages.
    """
    forecasts = forecast(config, counts, NodeType(1), calibrations_beside(run))
    seconds = {one.estimate.stage: one.seconds for one in forecasts if one.estimate.stage in stages and one.seconds}
    if len(seconds) < len(stages):
        return {}
    sources = sorted({str(one.run) for one in forecasts if one.estimate.stage in stages})
    log.info("plan: about %s, by the times of %s", format_duration(sum(seconds.values())), ", ".join(sources))
    return seconds
