"""Configuration and counts in; what each stage will need, before it starts: memory, disk, time, money."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clustering.config import RunConfig
from clustering.encoders import check_encoder
from clustering.errors import ConfigError
from clustering.kernels.memory import StagePlan, plan_stages, server_bytes
from clustering.rundir import Figures, RunDir
from clustering.watch import duration

log = logging.getLogger("covey")

GUESSED_DIM = 1024  # where only the loaded model knows it
GUESSED_TEXT_BYTES = 70.0  # a headline
ENCODER_BYTES = {"static": 150 << 20, "minilm": 400 << 20, "bge-m3": 2600 << 20}
START_S = {"umap": 8.0}  # that a stage takes with next to nothing to do: umap-learn compiles first; 1 s the others
FAR = 50  # times as many texts as in the run that tells: what it tells is a rough guess
REMEDIES = {
    "embed": "lower embed.actors or embed.tokens_per_batch",
    "search": "lower search.actors or search.queries_per_request",
    "graph": "lower search.k or graph.k",
    "forest": "lower search.k or graph.k",
    "project": "set project.sample",
}
SPREAD = ("read", "embed", "store", "search")  # stages of many processes, which Ray puts on any node
READER_BYTES = 300 << 20  # of a process that reads a piece of the input


@dataclass(frozen=True)
class Machine:
    """A kind of node, and how many of it there are; memory 0 where it is not known."""

    cpus: int
    gpus: float = 0
    memory_bytes: int = 0
    count: int = 1

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.cpus} cores{gpus}"


def kinds_of(nodes: Iterable[tuple[int, float, int]]) -> list[Machine]:
    """The kinds among nodes, given by their cores, GPUs and bytes of memory; the one with most memory first.

    Nodes of a kind differ by megabytes; the kind has what the smallest of them has.
    """
    kinds: dict[tuple[int, float, int], list[int]] = {}
    for cpus, gpus, memory in nodes:
        kinds.setdefault((cpus, gpus, round(memory / 2**30)), []).append(memory)
    found = [Machine(cpus, gpus, min(sizes), len(sizes)) for (cpus, gpus, _), sizes in kinds.items()]
    return sorted(found, key=lambda kind: kind.memory_bytes, reverse=True)


@dataclass(frozen=True)
class Counts:
    """What there is to cluster."""

    texts: int
    records: int
    dim: int
    text_bytes: float  # mean UTF-8 length of a text


def counts_of(read: Figures, dim: int) -> Counts:
    """The counts that the read stage has found."""
    return Counts(read["texts"], read["records"], dim, read["text_bytes"] / read["texts"])


def dim_of(config: RunConfig) -> int:
    """The dimension of the vectors; guessed where the encoder is not installed here, or only it can tell."""
    try:
        known = check_encoder(config.embed) if config.read.collection is None else None
    except ConfigError:
        known = None
    return known or GUESSED_DIM


@dataclass(frozen=True)
class Need:
    """What a stage will need: of memory in one process, and how many such processes one node may run at once."""

    stage: str
    memory_bytes: int
    processes: int
    disk_bytes: int

    @property
    def node_bytes(self) -> int:
        if self.stage == "read":  # one process numbers all rows, after the others have read
            return max(self.memory_bytes, READER_BYTES * self.processes)
        return self.memory_bytes * self.processes

    def __str__(self) -> str:
        if self.node_bytes == self.memory_bytes:
            return in_bytes(self.node_bytes)
        return f"{self.processes} x {in_bytes(self.node_bytes / self.processes)} = {in_bytes(self.node_bytes)}"


def plan_run(config: RunConfig, counts: Counts, machine: Machine) -> list[Need]:
    """The need of every stage on a kind of node, from counts alone."""
    ours = config.read.collection is None
    encoder = ENCODER_BYTES.get(config.embed.encoder, ENCODER_BYTES["bge-m3"]) if ours else 0

    def lines(k: int) -> list[StagePlan]:
        return plan_stages(
            counts.texts, counts.records, counts.dim, min(k, max(counts.texts - 1, 0)), counts.text_bytes, encoder,
            recall_sample=min(config.search.recall_sample, counts.texts), map_neighbors=config.project.n_neighbors,
            map_texts=config.project.sample, map_method=config.project.method, drawn=config.plot.points,
        )  # fmt: skip

    by_graph = {line.stage: line for line in lines(config.graph_k) if line.stage in ("graph", "forest")}
    found = [by_graph.get(line.stage, line) for line in lines(config.search.k)]
    return [
        Need(line.stage, line.memory_bytes, _processes(line.stage, config, machine), line.disk_bytes) for line in found
    ]


def _processes(stage: str, config: RunConfig, machine: Machine) -> int:
    """Processes of a stage that one node may run at the same time."""
    embed = config.embed
    if stage == "embed" and embed.gpus_per_actor:
        most = max(1, int(machine.gpus / embed.gpus_per_actor))
        return min(embed.actors or most, most)
    if stage == "embed":
        return min(embed.actors or 4, machine.cpus)
    if stage == "store":
        return 1 if config.store.embedded else min(2, machine.cpus)
    if stage == "search":
        return min(config.search.actors, machine.cpus)
    return machine.cpus if stage == "read" else 1


def places_of(stage: str, config: RunConfig, machines: list[Machine]) -> list[Machine]:
    """The kinds of node that work of a stage may land on. A single task goes where most memory is."""
    if stage == "embed" and config.embed.gpus_per_actor:
        return [kind for kind in machines if kind.gpus >= config.embed.gpus_per_actor]
    return machines if stage in SPREAD else machines[:1]


def plan_nodes(config: RunConfig, counts: Counts, machines: list[Machine]) -> list[tuple[Machine, Need]]:
    """The need of every stage on each kind of node that it may land on."""
    by_stage = zip(*(plan_run(config, counts, kind) for kind in machines), strict=True)
    return [
        (kind, need)
        for needs in by_stage
        for kind, need in zip(machines, needs, strict=True)
        if kind in places_of(need.stage, config, machines)
    ]


def plan_entries(config: RunConfig, counts: Counts, placed: list[tuple[Machine, Need]]) -> dict[str, Figures]:
    """For the manifest: bytes of memory of a stage's process and on disk, and processes on a node of each kind."""
    entries: dict[str, Figures] = {
        need.stage: {"memory": need.memory_bytes, "disk": need.disk_bytes, "processes": {}}
        for need in plan_run(config, counts, Machine(1))
    }
    for kind, need in placed:
        entries[need.stage]["processes"][str(kind)] = need.processes
    return entries


def check_fits(placed: Iterable[tuple[Machine, Need]]) -> None:
    """Raises: ConfigError with what a stage needs on a kind of node, what such a node has, and what to change."""
    problems = [
        f"{need.stage} needs {need} of memory on a node, and one of {kind} has {in_bytes(kind.memory_bytes)} for "
        f"work: take a larger one"
        f"{', or ' + REMEDIES[need.stage] if need.stage in REMEDIES else ''} (run.check=false tries it all the same)"
        for kind, need in placed
        if need.node_bytes > kind.memory_bytes > 0
    ]
    if problems:
        raise ConfigError(problems)


def print_plan(config: RunConfig, counts: Counts, placed: list[tuple[Machine, Need]]) -> None:
    """Log a line for each stage and kind of node."""
    log.info("plan: texts=%d records=%d dim=%d k=%d", counts.texts, counts.records, counts.dim, config.search.k)
    several = len({kind for kind, _ in placed}) > 1
    for kind, need in placed:
        where = f" on a node of {kind}" if several else ""
        log.info("plan: %-8s memory=%s disk=%s%s", need.stage, need, in_bytes(need.disk_bytes), where)
    if not config.store.embedded:
        log.info("plan: the Milvus server needs about %s", in_bytes(milvus_bytes(config, counts)))


def milvus_bytes(config: RunConfig, counts: Counts) -> int:
    """Memory that the loaded collection takes on the server."""
    links = 2 * int(config.store.params.get("M", 16)) if config.store.index_type == "HNSW" else 0
    return server_bytes(counts.texts, counts.dim, links)


def in_bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


# --- time and money, from finished runs ---


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


def runs_beside(run: RunDir, given: list[str] | None = None) -> list[Calibration]:
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


def seconds_of(stage: str, config: RunConfig, counts: Counts, known: Calibration) -> float | None:
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


def told_time(run: RunDir, config: RunConfig, counts: Counts, stages: list[str]) -> dict[str, float]:
    """Log how long the stages to do will take, where finished runs in the same folder tell; return their seconds.

    Empty where any of them cannot be told.
    """
    told = forecast(config, counts, Machine(1), runs_beside(run))["stages"]
    rows = [row for row in told if row["stage"] in stages]
    if any(row["seconds"] is None for row in rows):
        return {}
    log.info(
        "plan: about %s, by the times of %s",
        duration(sum(row["seconds"] for row in rows)), ", ".join(sorted({row["from"] for row in rows})),
    )  # fmt: skip
    return {row["stage"]: row["seconds"] for row in rows}


def forecast(config: RunConfig, counts: Counts, machine: Machine, known: list[Calibration]) -> Figures:
    """Needs of every stage and in all, with the seconds that the largest fitting finished run tells."""
    rows: list[Figures] = []
    for need in plan_run(config, counts, machine):
        guesses = [
            (run.counts.texts, seconds, run)
            for run in known
            if (seconds := seconds_of(need.stage, config, counts, run)) is not None
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
