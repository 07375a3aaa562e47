"""Estimates and the cluster's types of node in; an error for each stage that does not fit, out."""

from __future__ import annotations

import os
from collections.abc import Iterable

from clustering.config.sections import RunConfig
from clustering.errors import ConfigError
from clustering.monitoring.resources import Counts, NodeType, StageEstimate, estimate_stages, format_bytes

REMEDIES = {
    "embed": "lower embed.actors or embed.tokens_per_batch",
    "search": "lower search.actors",
    "graph": "lower search.k or graph.k",
    "forest": "lower search.k or graph.k",
    "project": "set project.sample",
}
WORK_SHARE = 0.7  # of a node's memory that Ray gives to tasks; the rest is for objects
PARALLEL_STAGES = ("read", "embed", "store", "search")  # of many processes, which Ray puts on any node


def this_machine(gpus: float = 0) -> NodeType:
    """This machine as a node."""
    held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return NodeType(os.cpu_count() or 1, gpus, int(WORK_SHARE * held))


def group_node_types(nodes: Iterable[tuple[int, float, int]]) -> list[NodeType]:
    """The types of some nodes, given as cores, GPUs and bytes of memory; the type with most memory first.

    Nodes of a type differ by megabytes; the type has the memory of its smallest node.
    """
    groups: dict[tuple[int, float, int], list[int]] = {}
    for cpus, gpus, memory_bytes in nodes:
        groups.setdefault((cpus, gpus, round(memory_bytes / 2**30)), []).append(memory_bytes)
    types = [NodeType(cpus, gpus, min(sizes), len(sizes)) for (cpus, gpus, _), sizes in groups.items()]
    return sorted(types, key=lambda node_type: node_type.memory_bytes, reverse=True)


def estimates_by_node_type(
    config: RunConfig, counts: Counts, node_types: list[NodeType]
) -> list[tuple[NodeType, StageEstimate]]:
    """The estimate of every stage on each type of node that it may run on, stage by stage."""
    by_stage = zip(*(estimate_stages(config, counts, node_type) for node_type in node_types), strict=True)
    return [
        (node_type, estimate)
        for estimates in by_stage
        for node_type, estimate in zip(node_types, estimates, strict=True)
        if node_type in _types_for(estimate.stage, config, node_types)
    ]


def _types_for(stage: str, config: RunConfig, node_types: list[NodeType]) -> list[NodeType]:
    """The types of node that a stage may run on. A single task goes where most memory is."""
    if stage == "embed" and config.embed.gpus_per_actor:
        return [node_type for node_type in node_types if node_type.gpus >= config.embed.gpus_per_actor]
    return node_types if stage in PARALLEL_STAGES else node_types[:1]


def check_fits(estimates: Iterable[tuple[NodeType, StageEstimate]]) -> None:
    """Raises: ConfigError with what a stage needs on a type of node, what such a node has, and what to change."""
    problems = [
        f"{estimate.stage} needs {estimate} of memory on a node, and one of {node_type} has "
        f"{format_bytes(node_type.memory_bytes)} for work: take a larger one"
        f"{', or ' + REMEDIES[estimate.stage] if estimate.stage in REMEDIES else ''} "
        f"(run.check=false tries it all the same)"
        for node_type, estimate in estimates
        if estimate.node_bytes > node_type.memory_bytes > 0
    ]
    if problems:
        raise ConfigError(problems)
