"""Configuration and counts in; the memory and disk of each stage, and whether the nodes have them, out."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from clustering.config.sections import RunConfig
from clustering.encoders.loading import check_encoder
from clustering.errors import ConfigError
from clustering.kernels.memory import StageBytes, server_bytes, stage_bytes
from clustering.schema import Figures

log = logging.getLogger("covey")
GUESSED_DIM = 1024  # where only the loaded model knows it
GUESSED_TEXT_BYTES = 70.0  # a headline
ENCODER_BYTES = {"static": 150 << 20, "minilm": 400 << 20, "bge-m3": 2600 << 20}
REMEDIES = {
    "embed": "lower embed.actors or embed.tokens_per_batch",
    "search": "lower search.actors or search.queries_per_request",
    "graph": "lower search.k or graph.k",
    "forest": "lower search.k or graph.k",
    "project": "set project.sample",
}
PARALLEL_STAGES = ("read", "embed", "store", "search")  # stages of many processes, which Ray puts on any node
READER_BYTES = 300 << 20  # of a process that reads a piece of the input


@dataclass(frozen=True)
class NodeType:
    """A kind of node, and how many of it there are; memory 0 where it is not known."""

    cpus: int
    gpus: float = 0
    memory_bytes: int = 0
    count: int = 1

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.cpus} cores{gpus}"


def group_node_types(nodes: Iterable[tuple[int, float, int]]) -> list[NodeType]:
    """The kinds among nodes, given by their cores, GPUs and bytes of memory; the one with most memory first.

    Nodes of a kind differ by megabytes; the kind has what the smallest of them has.
    """
    kinds: dict[tuple[int, float, int], list[int]] = {}
    for cpus, gpus, memory in nodes:
        kinds.setdefault((cpus, gpus, round(memory / 2**30)), []).append(memory)
    found = [NodeType(cpus, gpus, min(sizes), len(sizes)) for (cpus, gpus, _), sizes in kinds.items()]
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
class StageEstimate:
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
            return format_bytes(self.node_bytes)
        return f"{self.processes} x {format_bytes(self.node_bytes / self.processes)} = {format_bytes(self.node_bytes)}"


def estimate_stages(config: RunConfig, counts: Counts, machine: NodeType) -> list[StageEstimate]:
    """The need of every stage on a kind of node, from counts alone."""
    ours = config.read.collection is None
    encoder = ENCODER_BYTES.get(config.embed.encoder, ENCODER_BYTES["bge-m3"]) if ours else 0

    def lines(k: int) -> list[StageBytes]:
        return stage_bytes(
            counts.texts, counts.records, counts.dim, min(k, max(counts.texts - 1, 0)), counts.text_bytes, encoder,
            recall_sample=min(config.search.recall_sample, counts.texts), map_neighbors=config.project.n_neighbors,
            map_texts=config.project.sample, map_method=config.project.method, drawn=config.plot.points,
        )  # fmt: skip

    by_graph = {line.stage: line for line in lines(config.graph_k) if line.stage in ("graph", "forest")}
    found = [by_graph.get(line.stage, line) for line in lines(config.search.k)]
    return [
        StageEstimate(line.stage, line.memory_bytes, _processes(line.stage, config, machine), line.disk_bytes)
        for line in found
    ]


def _processes(stage: str, config: RunConfig, machine: NodeType) -> int:
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


def machines_for(stage: str, config: RunConfig, machines: list[NodeType]) -> list[NodeType]:
    """The kinds of node that work of a stage may land on. A single task goes where most memory is."""
    if stage == "embed" and config.embed.gpus_per_actor:
        return [kind for kind in machines if kind.gpus >= config.embed.gpus_per_actor]
    return machines if stage in PARALLEL_STAGES else machines[:1]


def estimates_by_node_type(
    config: RunConfig, counts: Counts, machines: list[NodeType]
) -> list[tuple[NodeType, StageEstimate]]:
    """The need of every stage on each kind of node that it may land on."""
    by_stage = zip(*(estimate_stages(config, counts, kind) for kind in machines), strict=True)
    return [
        (kind, need)
        for needs in by_stage
        for kind, need in zip(machines, needs, strict=True)
        if kind in machines_for(need.stage, config, machines)
    ]


def plan_entries(config: RunConfig, counts: Counts, placed: list[tuple[NodeType, StageEstimate]]) -> dict[str, Figures]:
    """For the manifest: bytes of memory of a stage's process and on disk, and processes on a node of each kind."""
    entries: dict[str, Figures] = {
        need.stage: {"memory": need.memory_bytes, "disk": need.disk_bytes, "processes": {}}
        for need in estimate_stages(config, counts, NodeType(1))
    }
    for kind, need in placed:
        entries[need.stage]["processes"][str(kind)] = need.processes
    return entries


def check_fits(placed: Iterable[tuple[NodeType, StageEstimate]]) -> None:
    """Raises: ConfigError with what a stage needs on a kind of node, what such a node has, and what to change."""
    problems = [
        f"{need.stage} needs {need} of memory on a node, and one of {kind} has {format_bytes(kind.memory_bytes)} for "
        f"work: take a larger one"
        f"{', or ' + REMEDIES[need.stage] if need.stage in REMEDIES else ''} (run.check=false tries it all the same)"
        for kind, need in placed
        if need.node_bytes > kind.memory_bytes > 0
    ]
    if problems:
        raise ConfigError(problems)


def log_plan(config: RunConfig, counts: Counts, placed: list[tuple[NodeType, StageEstimate]]) -> None:
    """Log a line for each stage and kind of node."""
    log.info("plan: texts=%d records=%d dim=%d k=%d", counts.texts, counts.records, counts.dim, config.search.k)
    several = len({kind for kind, _ in placed}) > 1
    for kind, need in placed:
        where = f" on a node of {kind}" if several else ""
        log.info("plan: %-8s memory=%s disk=%s%s", need.stage, need, format_bytes(need.disk_bytes), where)
    if not config.store.embedded:
        log.info("plan: the Milvus server needs about %s", format_bytes(milvus_bytes(config, counts)))


def milvus_bytes(config: RunConfig, counts: Counts) -> int:
    """Memory that the loaded collection takes on the server."""
    links = 2 * int(config.store.params.get("M", 16)) if config.store.index_type == "HNSW" else 0
    return server_bytes(counts.texts, counts.dim, links)


def format_bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
