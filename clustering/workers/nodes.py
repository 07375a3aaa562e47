"""The cluster's nodes: how large they are, and what each has free now."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger("covey")
ANSWER_S = 5  # that Ray's head has, to say what is free


@dataclass(frozen=True)
class Node:
    """A node that lives and takes work; memory is what Ray gives to tasks, without that of its object store."""

    id: str
    address: str
    cpus: int
    gpus: float
    memory_bytes: int


@dataclass(frozen=True)
class FreeResources:
    """What nobody holds of a node."""

    cpus: float
    memory_bytes: int
    gpus: float = 0


def live_nodes() -> list[Node]:
    """Every node with a core for work; the head of a cluster often has none."""
    return [
        Node(
            node["NodeID"], node["NodeManagerAddress"], int(has["CPU"]), float(has.get("GPU", 0)),
            int(has.get("memory", 0)),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and (has := node["Resources"]).get("CPU", 0) >= 1
    ]  # fmt: skip


def free_resources(nodes: list[Node]) -> dict[str, FreeResources]:
    """What each node has free, by id; as Ray's head knows it, which hears of changes a moment later.

    A node of which nothing is known counts as free.
    """
    free = {node.id: FreeResources(node.cpus, node.memory_bytes, node.gpus) for node in nodes}
    try:
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address, timeout=ANSWER_S)
        for node in status.active_nodes + status.idle_nodes:
            if node.node_id in free and node.resource_usage:
                left = {one.resource_name: one.total - one.used for one in node.resource_usage.usage}
                free[node.node_id] = FreeResources(left.get("CPU", 0), int(left.get("memory", 0)), left.get("GPU", 0))
    except Exception as error:  # whatever another release of Ray makes of it: a run needs no more than the sizes
        log.debug("what the nodes have free is not known: %s", error)
    return free


def node_affinity(node: Node) -> NodeAffinitySchedulingStrategy:
    """Where a task runs that shall run on a node, as long as it lives."""
    return NodeAffinitySchedulingStrategy(node.id, soft=True)


def node_cpus() -> int:
    """Cores of the largest node of the cluster."""
    return max((node.cpus for node in live_nodes()), default=1)


def cluster_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
