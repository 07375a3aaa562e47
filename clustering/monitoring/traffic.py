"""Configuration, counts and a cluster in; tasks, bytes, and requests to an object store of each stage out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from clustering.config.sections import RunConfig
from clustering.kernels.memory import (
    FILE_RECORDS,
    GROUP_ROWS,
    LARGEST_PART,
    MAP_TEXTS,
    SUMMED_TEXTS,
    count_blocks,
    counting_bytes,
    halo_rows,
    part_rows,
    record_groups,
)
from clustering.kernels.partitions import count_partitions
from clustering.monitoring.capacity import PARALLEL_STAGES
from clustering.monitoring.rates import request_formulas
from clustering.monitoring.resources import Counts, NodeType, StageEstimate, words_share
from clustering.runs.parts import AHEAD, REMOTE_AHEAD

LATENCY_S = {"HEAD": 0.020, "GET": 0.035, "PUT": 0.060, "LIST": 0.035}  # of a request to an object store
READ_BYTES = 32 << 20  # of the input, in a task
UPLOAD_BYTES, UPLOADS = 16 << 20, 4  # of a larger object, in a request; and requests at a time
INDEXED = ("embed", "store", "search")  # whose driver writes an index while parts are made
WALKED = ("graph", "cluster", "plot")  # whose single task walks over a column of all parts
LARGE_GROUP = 131_072  # rows of a row group of the assignment
ON_ONE_NODE = ("cluster", "plot")  # whose bytes go through one process
ROUNDS, SKETCH_BYTES = 8, 256  # in which shards send each row of the halos of others


@dataclass(frozen=True)
class Traffic:
    """What a stage moves.

    tasks, at_once : calls of workers or tasks, and how many are at work together
    read, written : bytes of the run directory; between : bytes that go from node to node, or to a server
    requests : to an object store, by verb
    serial_s, shared_s : seconds that they wait in one process, and in all processes that share the work
    """

    tasks: int
    at_once: int
    read: float = 0
    written: float = 0
    between: float = 0
    requests: dict[str, int] = field(default_factory=dict)
    serial_s: float = 0
    shared_s: float = 0

    @property
    def waits_s(self) -> float:
        """Seconds that the stage waits for its requests, if nothing is done meanwhile."""
        return self.serial_s + self.shared_s / self.at_once


@dataclass(frozen=True)
class Pieces:
    """How many of everything a run has: see ``pieces_of``."""

    parts: int  # of texts/, vectors/ and neighbors/
    groups: int  # row groups of those parts
    records: int  # parts of records/
    blocks: int  # of the graph
    nodes: int
    cores: int  # of all nodes


def pieces_of(config: RunConfig, counts: Counts, node_type: NodeType) -> Pieces:
    texts, k = counts.texts, min(config.graph_k, max(counts.texts - 1, 0))
    parts = math.ceil(texts / part_rows(counts.records, counts.dim, counts.text_bytes))
    return Pieces(
        parts,
        max(parts, math.ceil(texts / GROUP_ROWS)),
        math.ceil(counts.records / GROUP_ROWS / record_groups(counts.records * counts.text_bytes)),
        count_blocks(texts, k, node_type.count, node_type.memory_bytes),
        node_type.count,
        node_type.cpus * node_type.count,
    )


def stage_traffic(estimate: StageEstimate, config: RunConfig, counts: Counts, node_type: NodeType) -> Traffic:
    """The tasks and the traffic of a stage. estimate : of the stage on a node of the type"""
    pieces, stage = pieces_of(config, counts, node_type), estimate.stage
    phases = _phases(stage, config, pieces, counts)
    actors = {"embed": config.embed.actors, "store": config.store.actors, "search": config.search.actors}
    pool = min(estimate.processes * pieces.nodes, actors.get(stage) or math.inf)
    if stage not in PARALLEL_STAGES:  # tasks that ask for a core and, but for shards, for the memory of the largest
        on_node = node_type.cpus
        needed = counting_bytes(counts.texts) if stage == "describe" else estimate.memory_bytes
        if node_type.memory_bytes and stage not in ("forest", "cluster"):
            on_node = max(1, min(on_node, node_type.memory_bytes // needed))
        pool = on_node * pieces.nodes
    read, written, between = _moved(stage, config, counts, pieces)
    requests, serial_s, shared_s = _requests(stage, estimate, config, counts, pieces)
    return Traffic(
        sum(phases), max(1, int(min(pool, max(phases)))), read, written, between if stage in ("store", "search") else
        between * (1 - 1 / pieces.nodes), requests, serial_s, shared_s,
    )  # fmt: skip


def _phases(stage: str, config: RunConfig, pieces: Pieces, counts: Counts) -> list[int]:
    """The calls of a stage's workers, or its tasks, of each phase; a phase begins when the one before is done."""
    texts, blocks = counts.texts, pieces.blocks
    counted, summed = min(64, math.ceil(texts / 32_768)), math.ceil(texts / SUMMED_TEXTS)
    grouped = min(1024, math.ceil(texts / LARGEST_PART))
    alone, grouping = blocks == 1, min(64, math.ceil(counts.records / LARGEST_PART))
    return {
        "read": [math.ceil(counts.records * counts.text_bytes / READ_BYTES), pieces.parts],
        "embed": [min(64, math.ceil(texts / LARGEST_PART)), pieces.parts] if words_share(config) else [pieces.parts],
        "store": [pieces.parts],
        "search": [pieces.parts],
        "graph": [1] if alone else [1, min(pieces.parts, blocks), blocks],
        "forest": [1] if alone else [blocks, blocks],  # shards, and merges with the stage's own task
        "cluster": [1] if alone else [1, blocks],
        "describe": [1] if counted == summed == 1 else [1, 1, 1, *[counted] * 3, *[summed] * 4],
        "project": [1] if grouped == 1 else [1, *[grouped] * (5 if texts > MAP_TEXTS else 2)],
        "plot": [1] if grouped == 1 else [1, grouped, grouped],
        "report": [1] if counts.records <= FILE_RECORDS else [grouping, grouping, 1],
    }[stage]


def _moved(stage: str, config: RunConfig, counts: Counts, pieces: Pieces) -> tuple[float, float, float]:
    """Bytes that a stage reads and writes, and those that go between processes, or to a server."""
    n, records, k = counts.texts, counts.records, config.search.k
    texts, vectors, lists = n * (counts.text_bytes + 12), n * counts.dim * 4, n * k * 12
    edges = n * min(config.graph_k, k)
    members, assigned, coords, forest = records * 40, n * 80, n * 16, n * 24
    kept = records * (counts.text_bytes + 60)  # of records/, read for the digests and for the rest
    own = -(-n // pieces.blocks)
    halos = pieces.blocks * halo_rows(n, own)
    blocks = edges * 24 + n * 40
    sampled = n > (config.project.sample or MAP_TEXTS)
    drawn = min(n, config.plot.points)
    shown = drawn * counts.text_bytes
    return {
        "read": (records * counts.text_bytes + 2 * kept, kept + texts + members, 0),
        "embed": ((2 if words_share(config) else 1) * texts, vectors, 0),
        "store": (vectors, 0, vectors),
        "search": (vectors, lists, vectors + lists),
        "graph": (lists + texts, blocks, edges * 28 if pieces.blocks > 1 else 0),
        "forest": (edges * 8 + n * 40, forest, halos * SKETCH_BYTES * ROUNDS + forest * math.log2(pieces.blocks)),
        "cluster": (edges * 4 + n * 20 + forest, assigned, halos * 4 * 15 + n * 12 * (pieces.blocks > 1)),
        "describe": (2 * (texts + assigned), 0, 2 * texts),
        "project": ((2 if sampled else 1) * lists + vectors, coords, n * 9 * pieces.nodes if sampled else 0),
        "plot": (coords + n * 24 + members + shown + (lists if drawn == n else 0), shown + (1 << 20), 0),
        "report": (members + assigned + coords + texts, records * (60 + counts.text_bytes), 0),
    }[stage]


def frame_traffic(config: RunConfig, counts: Counts, node_type: NodeType) -> Traffic:
    """The requests of a run before, between and after its stages."""
    found = _counted("between stages", pieces_of(config, counts, node_type))
    requests = {verb: math.ceil(found.get(verb, 0.0)) for verb in LATENCY_S}
    return Traffic(1, 1, requests=requests, serial_s=found.get("serial_s", 0.0))


def _sampled_groups(stage: str, config: RunConfig, n_texts: int, groups: int) -> list[float]:
    """The row groups that each sample of vectors/ reads, of so many."""
    windows = min(groups, 2 * count_partitions(n_texts))  # each begins in one group and ends in the next
    drawn = {"store": [200], "search": [config.search.recall_sample]}.get(stage, [])
    found = [groups * (1 - math.exp(-rows / groups)) for rows in drawn]  # rows drawn one by one
    return [*found, windows] if stage == "search" else found


def _counted(stage: str, pieces: Pieces) -> dict[str, float]:
    """What the formulas of benchmarks/requests.py give."""
    formulas = request_formulas("shared" if pieces.blocks > 1 else "alone").get(stage, {})
    sizes = (1, pieces.parts, pieces.groups, pieces.blocks)
    return {what: sum(a * b for a, b in zip(fitted, sizes, strict=True)) for what, fitted in formulas.items()}


def _requests(
    stage: str, estimate: StageEstimate, config: RunConfig, counts: Counts, pieces: Pieces
) -> tuple[dict[str, int], float, float]:
    """What ``Traffic`` holds of requests: by the counted formulas, and what only large objects need."""
    found, get = _counted(stage, pieces), LATENCY_S["GET"]
    serial_s, shared_s = found.get("serial_s", 0.0), found.get("shared_s", 0.0)
    if pieces.blocks > 1:  # the driver and the single tasks of a large run
        serial_s = request_formulas("shared").get(stage, {}).get("serial_s", [0.0])[0]
        serial_s += LATENCY_S["PUT"] * pieces.parts * (stage in INDEXED)
        serial_s += get * (pieces.groups + pieces.parts) / REMOTE_AHEAD * (stage in WALKED)
        for held in _sampled_groups(stage, config, counts.texts, pieces.groups):
            serial_s += get / AHEAD * (pieces.parts + held)
    requests = {verb: found.get(verb, 0.0) for verb in LATENCY_S}
    uploads = estimate.disk_bytes / UPLOAD_BYTES if stage not in ("store", "project") else 0.0
    large_groups = counts.texts / LARGE_GROUP  # of the assignment
    alone = {"cluster": counts.texts * 24 / UPLOAD_BYTES, "plot": 2 * large_groups}.get(stage, 0.0)
    apart = {"forest": pieces.blocks * 8, "describe": 2 * pieces.parts, "report": 2 * pieces.parts}.get(stage, 0)
    copied = {"forest": 8, "cluster": 4}.get(stage, 0) * counts.texts * 50 / UPLOAD_BYTES if pieces.blocks > 1 else 0.0
    if stage == "embed" and words_share(config):  # terms are counted beforehand, and each actor loads their weights
        apart += pieces.parts + pieces.groups + min(estimate.processes * pieces.nodes, pieces.parts)
    if stage == "read":  # a part of records/ is written once, and read for its digests and for its rows
        uploads += pieces.records - pieces.parts
        apart += 2 * (pieces.records - pieces.parts)
    requests["PUT"] += uploads
    requests["GET"] += alone + apart + copied
    one_file = stage in ("forest", "cluster")
    serial_s += LATENCY_S["GET"] * alone + LATENCY_S["PUT"] * uploads / UPLOADS * one_file
    shared_s += LATENCY_S["GET"] * (apart + copied) + LATENCY_S["PUT"] * uploads * (not one_file)
    return {verb: math.ceil(count) for verb, count in requests.items()}, serial_s, shared_s
