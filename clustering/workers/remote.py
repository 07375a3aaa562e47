"""Values, classes and functions in; references, actors and tasks of Ray that need no pool and no stage, out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from clustering.runs.directory import RunDir
from clustering.workers.failures import unwrapped_errors
from clustering.workers.nodes import (
    Node,
    asks_nodes,
    avoiding_refused,
    node_affinity,
    nodes_to_ask,
    refuse_blind,
    sees_run,
    watch_run,
    watched_run,
)

T = TypeVar("T")
ASK_EVERY_S = 5.0  # the nodes that have joined during a stage
_last_asked = 0.0  # time.monotonic()


def share(value: Any) -> Any:
    """A reference to a value; a task that gets the reference receives the value."""
    return ray.put(value)


def fetch(reference: Any) -> Any:
    """The value of a reference. Raises: what the worker raised."""
    with unwrapped_errors():
        return ray.get(reference)


def compute_remotely(work: Callable[..., Any], *args: Any) -> Any:
    """A reference to the result of ``work(*args)``, for other workers; the driver never holds the result."""
    return ray.remote(work).remote(*args)


def start_actor(kind: type, *args: Any, gpus: float = 0) -> Any:
    """An actor of a class, on a node that is not refused; call its methods by ``.remote``. It holds no core."""
    room: dict[str, float] = {"num_cpus": 0, "num_gpus": gpus} if gpus else {}  # as it is, it needs a core to start
    return ray.remote(kind).options(**room, **avoiding_refused()).remote(*args)


def start_in_background(work: Callable[..., object], *args: Any) -> Any:
    """Start ``work`` in a process of its own that reserves no core. It ends when the reference is dropped."""
    task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(work)  # its process ends with the task
    return task.remote(*args)


def run_on_each_node(nodes: list[Node], work: Callable[..., T], *args: Any) -> list[T]:
    """The results of ``work(*args)`` on each of the nodes, in their order."""
    task: Any = ray.remote(num_cpus=0)(work)
    results: list[T] = fetch([task.options(scheduling_strategy=node_affinity(node)).remote(*args) for node in nodes])
    return results


def blind_nodes(run: RunDir, nodes: list[Node]) -> list[Node]:
    """Those of some nodes that do not see the run directory."""
    seen = run_on_each_node(nodes, sees_run, run, run.id)
    return [node for node, sees in zip(nodes, seen, strict=True) if not sees]


def refuse_blind_nodes(run: RunDir) -> None:
    """Ask nodes that have joined whether they see the run directory; those that do not get no work.

    Tasks that start from now on look for this run directory, too.
    Raises: ConfigError where no other is up.
    """
    global _last_asked
    watch_run(run, run.id)
    if blind := {node.id: node.address for node in blind_nodes(run, nodes_to_ask())}:
        refuse_blind(run, blind, "nodes that have joined get no work")
    _last_asked = time.monotonic()


def ask_joined_nodes(every_s: float = ASK_EVERY_S) -> None:
    """In the driver, while it waits for tasks: do so again. Raises: as above."""
    run = watched_run()
    if run is not None and asks_nodes() and time.monotonic() - _last_asked >= every_s:
        refuse_blind_nodes(run)
