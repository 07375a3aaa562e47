"""Ray for the stages: one worker call for each part of an artefact; single tasks and nodes are passed on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from clustering import errors, watch
from clustering.errors import ConfigError, CoveyError
from clustering.nodes import Node, cluster_gpus, live_nodes, node_cpus, on_node
from clustering.pool import Item, Worker, results_of
from clustering.tasks import (
    accounted,
    beside,
    cores_to_ask_for,
    giving_back,
    needing,
    on_worker,
    original_errors,
    start,
)

__all__ = [
    "Item", "Node", "Worker", "accounted", "beside", "cluster_gpus", "live_nodes", "map_parts", "needing", "node_cpus",
    "on_node", "on_worker", "original_errors", "start",
]  # fmt: skip


def _raise_failures(results: list[Item]) -> None:
    failed = [result for result in results if "error" in result]
    if failed:
        problems = list(dict.fromkeys(problem for result in failed for problem in result["problems"]))
        kind: type[CoveyError] = getattr(errors, failed[0]["error"])
        raise kind(problems) if issubclass(kind, ConfigError) else kind("\n".join(problems))


def map_parts(
    make: Callable[..., Worker],
    items: list[Item],
    *,
    actors: int,
    cpus: float = 1,
    gpus: float = 0,
    **kwargs: Any,
) -> list[Item]:
    """Give every item to a worker of a pool of actors; return the results in the items' order.

    make : builds the worker on its actor, with ``kwargs``
    items : JSON-ready; a worker must be safe to repeat, because an item is begun again when its actor is lost
    cpus : of an actor; fewer where no node has so many free
    Raises: the ConfigError of the first worker that raised one, with the problems of all; any other CoveyError at once,
        as the parts that are left would meet it, too; StageError for a part that has ended its worker three times.
    """
    if not items:
        return []
    numbered: list[Item] = [{**item, "item": number} for number, item in enumerate(items)]
    actors, cpus = min(actors, len(items)), 0 if gpus else cores_to_ask_for(cpus)
    found: list[Item] = []
    seen = watch.current()
    if seen:
        seen.expect(len(items), actors * gpus)
    started = time.perf_counter()
    with giving_back(actors * cpus), closing(results_of(make, kwargs, numbered, actors, cpus, gpus)) as results:
        for result in results:
            found.append(result)
            if "error" not in result:
                used = watch.Usage(**result.pop("usage"))
                used.gpu_busy_seconds = gpus * result.get("model_seconds", 0)
                watch.charge(used)
                if seen:
                    seen.advance(result)
            elif not issubclass(getattr(errors, result["error"]), ConfigError):
                break
    watch.charge(watch.Usage(gpu_seconds=actors * gpus * (time.perf_counter() - started)))
    if seen:
        seen.gpus = 0
    _raise_failures(found)
    return sorted(found, key=lambda result: int(result["item"]))
