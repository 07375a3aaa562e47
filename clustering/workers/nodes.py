"""Ray's view of the cluster in; its nodes, with their sizes and free resources, out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger("covey")
ANSWER_TIMEOUT_S = 5  # for Ray's head to say what is free


@dataclass(frozen=True)
class Node:
    """A live node that takes work; its memory is what Ray gives to tasks, without the object store."""

    id: str
    address: str
    cpus: int
    gpus: float
    memory_bytes: int


@dataclass(frozen=True)
class FreeResources:
    """The part of a node that nobody holds."""

    cpus: float
    memory_bytes: int
    gpus: float = 0


def live_nodes() -> list[Node]:
    """Every live node with a core for work; the head of a cluster often has none."""
    return [
        Node(
            node["NodeID"], node["NodeManagerAddress"], int(has["CPU"]), float(has.get("GPU", 0)),
            int(has.get("memory", 0)),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and (has := node["Resources"]).get("CPU", 0) >= 1
    ]  # fmt: skip


def free_resources(nodes: list[Node]) -> dict[str, FreeResources]:
    """The free resources of each node, by id, as Ray's head says; it learns of changes a moment later.

    A node of which the head says nothing counts as free.
    """
    free = {node.id: FreeResources(node.cpus, node.memory_bytes, node.gpus) for node in nodes}
    try:
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=ANSWER_TIMEOUT_S)
        for node in status.active_nodes + status.idle_nodes:
            if node.node_id in free and node.resource_usage:
                left = {item.resource_name: item.total - item.used for item in node.resource_usage.usage}
                free[node.node_id] = FreeResources(left.get("CPU", 0), int(left.get("memory", 0)), left.get("GPU", 0))
    except Exception as error:  # another release of Ray may raise anything; the sizes suffice
        log.debug("the free resources of the nodes are not known: %s", error)
    return free


def node_affinity(node: Node) -> NodeAffinitySchedulingStrategy:
    """The scheduling strategy that runs a task on a node as long as that lives."""
    return NodeAffinitySchedulingStrategy(node.id, soft=True)


def node_cpus() -> int:
    """Cores of the largest node of the cluster."""
    return max((node.cpus for node in live_nodes()), default=1)


def cluster_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
