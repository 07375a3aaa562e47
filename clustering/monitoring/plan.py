"""Estimates in; what a run will need, as lines for people and as an entry of the manifest, out."""

from __future__ import annotations

import functools
import logging
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from clustering.config.sections import RunConfig
from clustering.errors import ConfigError
from clustering.monitoring.advice import advise
from clustering.monitoring.capacity import estimates_by_node_type, this_machine
from clustering.monitoring.progress import format_duration
from clustering.monitoring.rates import CARD, Seconds, card_seconds, server_cores, source_words
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
from clustering.monitoring.times import Calibration, calibrations_beside, cost_of, stage_seconds
from clustering.monitoring.traffic import LATENCY_S, Traffic, frame_traffic, stage_traffic
from clustering.runs.directory import RunDir
from clustering.schema import Figures

log = logging.getLogger("covey")
MAX_TEXTS = 1 << 53
WIDTH = 110  # columns of what is printed


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
    log.debug("plan: texts=%d records=%d dim=%d k=%d", counts.texts, counts.records, counts.dim, config.search.k)
    several = len({node_type for node_type, _ in estimates}) > 1
    for node_type, estimate in estimates:
        where = f" on a node of {node_type}" if several else ""
        log.debug("plan: %-8s memory=%s disk=%s%s", estimate.stage, estimate, format_bytes(estimate.disk_bytes), where)
    if not config.store.embedded:
        log.debug("plan: the Milvus server needs about %s", format_bytes(milvus_bytes(config, counts)))


@dataclass(frozen=True)
class PlannedStage:
    """What a stage needs on its kind of node. steps : the seconds of its steps, where no finished run tells them"""

    estimate: StageEstimate
    node_type: NodeType
    traffic: Traffic
    seconds: Seconds
    steps: dict[str, Seconds]

    @property
    def name(self) -> str:
        return self.estimate.stage


def plan_stages(
    config: RunConfig, counts: Counts, nodes: list[NodeType], known: list[Calibration], card: str = CARD
) -> list[PlannedStage]:
    """The plan of every stage, on the first of the types of node that it may run on.

    known : finished runs, whose times come before the rates of the package
    card : the GPUs of embed, a name of ``rates.cards``
    """
    placed: dict[str, PlannedStage] = {}
    for node_type, estimate in estimates_by_node_type(config, counts, nodes):
        if estimate.stage not in placed:
            moved = stage_traffic(estimate, config, counts, node_type)
            seconds, steps = stage_seconds(estimate.stage, config, counts, node_type, known, card, moved)
            placed[estimate.stage] = PlannedStage(estimate, node_type, moved, seconds, steps)
    return list(placed.values())


def plan_lines(
    config: RunConfig,
    n_texts: int,
    runs: list[str] | None = None,
    nodes: list[NodeType] | None = None,
    card: str = CARD,
) -> list[str]:
    """The needs of a run of so many texts, in lines: of each stage, what it moves, and what would have to change.

    runs : finished runs to take times from; None: those beside ``run.dir``
    nodes : types of node, that with most memory first; None: this machine
    """
    if not 1 <= n_texts <= MAX_TEXTS:
        raise ConfigError([f"--texts={str(n_texts)[:30]} is no number of texts; give 1 at least"])
    known = calibrations_beside(RunDir(config.run.dir), runs)
    largest = max(known, key=lambda calibration: calibration.counts.texts).counts if known else None
    text_bytes = largest.text_bytes if largest else GUESSED_TEXT_BYTES
    counts = Counts(n_texts, n_texts, dim_of(config), text_bytes)
    nodes = nodes or [this_machine(config.embed.gpus_per_actor)]
    if config.embed.gpus_per_actor > max(node.gpus for node in nodes):
        raise ConfigError(
            [f"embed.gpus_per_actor={config.embed.gpus_per_actor:g}, and no node has so many; see --gpus"]
        )
    stages = plan_stages(config, counts, nodes, known, card)
    times = {step: one for stage in stages for step, one in (stage.steps or {stage.name: stage.seconds}).items()}
    frame = frame_traffic(config, counts, nodes[0])
    waits_s = frame.waits_s + sum(stage.traffic.waits_s for stage in stages)
    advice = advise(config, counts, nodes[0], [stage.estimate for stage in stages], times, waits_s)
    return [
        f"{n_texts:,} texts of {text_bytes:.0f} bytes, {counts.dim} dimensions, k={config.search.k}",
        *(f"{'on' if node == nodes[0] else 'and'} {_in_words(node)}" for node in nodes),
        "",
        *_needs(config, counts, stages, card),
        "",
        *_movements(stages, frame, waits_s),
        "",
        *(line for sentence in advice or ["Nothing has to change."] for line in _wrapped("-", sentence)),
    ]


def _in_words(node: NodeType) -> str:
    memory = f" with {format_bytes(node.memory_bytes)} for work" if node.memory_bytes else ""
    return f"{node.count:,} {'node' if node.count == 1 else 'nodes'} of {node}{memory}"


def _needs(config: RunConfig, counts: Counts, stages: list[PlannedStage], card: str) -> Iterator[str]:
    """A line for each stage and for the server's part in it; the sums; where the times come from."""
    named = dict.fromkeys(source for stage in stages for source in stage.seconds.sources)
    number = {source: str(at) for at, source in enumerate(named, 1)}
    yield (f"{'stage':<9} {'on':<7} {'tasks':>6} {'at once':>8} {'memory of one':>13} {'disk':>11} {'time':>7} "
           f"{'at least':>8} {'at most':>8}  by")  # fmt: skip
    for stage in stages:
        kind = "GPU" if stage.name == "embed" and config.embed.gpus_per_actor else "CPU"
        memory, disk = format_bytes(stage.estimate.memory_bytes), format_bytes(stage.estimate.disk_bytes)
        low_to_high = " ".join(f"{format_duration(one):>8}" for one in (stage.seconds.low, stage.seconds.high))
        yield (f"{stage.name:<9} {kind:<7} {stage.traffic.tasks:>6} {stage.traffic.at_once:>8} {memory:>13} {disk:>11} "
               f"{format_duration(stage.seconds.seconds):>7} {low_to_high}  "
               f"{','.join(number[source] for source in stage.seconds.sources)}")  # fmt: skip
        if stage.name in ("store", "search") and not config.store.embedded:
            held, cores = format_bytes(milvus_bytes(config, counts)), f"{server_cores(config, counts)} cores"
            steps = ", ".join(f"{step} {format_duration(one.seconds)}" for step, one in stage.steps.items())
            steps = "" if len(stage.steps) < 2 else steps
            yield f"{'':<9} {'Milvus':<7} {cores:>15} {held:>13} {'':>11} {steps}".rstrip()
    total = functools.reduce(Seconds.plus, (stage.seconds for stage in stages))
    seconds, low, high = map(format_duration, total[:3])
    disk = format_bytes(sum(stage.estimate.disk_bytes for stage in stages))
    node = format_bytes(max(stage.estimate.node_bytes for stage in stages))
    yield f"in all: {seconds} ({low} to {high}), {disk} of disk; a node needs {node} of memory"
    if config.embed.gpus_per_actor:
        cluster = next(stage.node_type for stage in stages if stage.name == "embed")
        of_cards = (f"{name} {format_duration(one)}" for name, one in card_seconds(config, counts, cluster).items())
        yield f"GPUs: {card}; embed takes on {', '.join(of_cards)}"
    costs = [cost_of(stage.seconds.seconds, _held(stage.node_type), config) for stage in stages]
    if config.run.prices:
        yield f"cost: {sum(cost or 0 for cost in costs):.2f} {config.run.prices.currency}"
    yield "times by:"
    for source, at in number.items():
        yield from _wrapped(f"{at:>2}", source_words(source))


def _held(node: NodeType) -> dict[str, float]:
    return {"cpus": node.cpus * node.count, "gpus": node.gpus * node.count}


def _movements(stages: list[PlannedStage], frame: Traffic, waits_s: float) -> Iterator[str]:
    """A line for each stage: the bytes that it moves, and its requests to an object store."""
    verbs = "".join(f" {verb:>9}" for verb in LATENCY_S)
    yield f"{'stage':<9} {'reads':>11} {'writes':>11} {'between nodes':>13} |{verbs} {'waits':>7}"
    for name, moved in [*((stage.name, stage.traffic) for stage in stages), ("else", frame)]:
        read, written, between = (format_bytes(count) for count in (moved.read, moved.written, moved.between))
        counts = "".join(f" {moved.requests.get(verb, 0):>9,}" for verb in LATENCY_S)
        yield f"{name:<9} {read:>11} {written:>11} {between:>13} |{counts} {format_duration(moved.waits_s):>7}"
    slow = "/".join(f"{1000 * LATENCY_S[verb]:.0f}" for verb in ("HEAD", "GET", "PUT"))
    yield (f"where run.dir lies in an object store ({slow} ms for HEAD/GET/PUT), its requests cost "
           f"{format_duration(waits_s)} in all")  # fmt: skip


def _wrapped(mark: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{mark} ", subsequent_indent=" " * (len(mark) + 1))
