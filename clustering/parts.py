"""Ray for the stages: one worker call for each part of an artefact, or one call on one worker."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import ray
import ray.data

from clustering.errors import InputError
from clustering.rundir import measured_peak

Item = dict[str, Any]
T = TypeVar("T")


class Worker(Protocol):
    """What a part is given to; made once an actor, so that a model or a client is loaded once."""

    def __call__(self, item: Item) -> Item: ...


class _PartActor:
    """Call a worker for each item; items and results travel as JSON, artefacts as files."""

    def __init__(self, make: Callable[..., Worker], kwargs: dict[str, Any]) -> None:
        self.worker = make(**kwargs)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"result": [json.dumps(self._one(json.loads(item))) for item in batch["item"]]}

    def _one(self, item: Item) -> Item:
        with measured_peak() as peak:
            try:
                result = self.worker(item)
            except InputError as error:  # Ray would bury it in a task error: it travels as data instead
                return {"problems": error.problems}
        # Ray Data does not keep the order, so the result carries its item's number.
        return {**result, "item": item["item"], "peak_bytes": peak.bytes}


def map_parts(
    make: Callable[..., Worker],
    items: list[Item],
    *,
    actors: int,
    cpus: float = 1,
    gpus: float = 0,
    **kwargs: Any,
) -> list[Item]:
    """Give every item to a worker of an actor pool through Ray Data; return the results in the items' order.

    make : builds the worker on its actor, with ``kwargs``
    items : JSON-ready; a worker must be safe to repeat, because Ray calls it again after a lost actor
    Raises: InputError with the problems of all items, when a worker raised one.
    """
    if not items:
        return []
    numbered = [{"item": json.dumps({**item, "item": number})} for number, item in enumerate(items)]
    results = (
        ray.data.from_items(numbered, override_num_blocks=len(numbered))
        .map_batches(
            _PartActor,
            fn_constructor_args=(make, kwargs),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(items))),
            num_cpus=cpus if gpus == 0 else None,
            num_gpus=gpus or None,
        )
        .take_all()
    )
    found: list[Item] = [json.loads(row["result"]) for row in results]
    problems = sorted({problem for result in found for problem in result.get("problems", [])})
    if problems:
        raise InputError(problems)
    return sorted(found, key=lambda result: int(result["item"]))


def on_worker(work: Callable[..., T], *args: Any, cpus: float | None = None) -> tuple[T, int]:
    """Run ``work(*args)`` as one Ray task with a node's cores; return its result and its peak memory in bytes."""

    def measured(*given: Any) -> tuple[T, int]:
        with measured_peak() as peak:
            result = work(*given)
        return result, peak.bytes

    task = ray.remote(measured).options(num_cpus=node_cpus() if cpus is None else cpus, name=work.__name__)
    try:
        return ray.get(task.remote(*args))  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None if isinstance(error.cause, Exception) else error


def node_cpus() -> int:
    """Cores of the largest node of the cluster."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return max((int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]), default=1) or 1


def cluster_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def own_threads() -> int:
    """Threads a worker may use: Ray's share for the task when it set one, else all cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def peak_of(results: list[Item]) -> int:
    return max((int(result["peak_bytes"]) for result in results), default=0)
