"""Ray for who needs no pool and no stage: shared values, actors of one kind, and work on every node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import ray

from clustering.workers.nodes import Node, node_affinity
from clustering.workers.tasks import unwrapped_errors

T = TypeVar("T")


def share(value: Any) -> Any:
    """A reference to a value, which tasks that are given it receive in its place."""
    return ray.put(value)


def fetch(reference: Any) -> Any:
    """What a reference stands for. Raises: what the worker raised."""
    with unwrapped_errors():
        return ray.get(reference)


def compute_remotely(work: Callable[..., Any], *args: Any) -> Any:
    """A reference to the result of ``work(*args)``, which goes to other workers and never to the driver."""
    return ray.remote(work).remote(*args)


def start_actor(kind: type, *args: Any, gpus: float = 0) -> Any:
    """An actor of a class; its methods are called by ``.remote``."""
    return ray.remote(kind).options(num_gpus=gpus).remote(*args)


def start_in_background(work: Callable[..., object], *args: Any) -> Any:
    """Begin ``work`` in a process of its own, which takes no core of others; it ends when the reference is let go."""
    task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(work)  # its process ends with it
    return task.remote(*args)


def run_on_each_node(nodes: list[Node], work: Callable[..., T], *args: Any) -> list[T]:
    """The results of ``work(*args)`` on each of some nodes, in their order."""
    task: Any = ray.remote(num_cpus=0)(work)
    asked = [task.options(scheduling_strategy=node_affinity(node)).remote(*args) for node in nodes]
    found: list[T] = fetch(asked)
    return found
