"""Ray for the stages: one worker call for each part of an artefact; single tasks and nodes are passed on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from typing import Any, Protocol

import ray

from clustering import errors, watch
from clustering.errors import ConfigError, CoveyError
from clustering.nodes import Node, cluster_gpus, live_nodes, node_cpus, on_node
from clustering.tasks import accounted, giving_back, needing, on_worker, original_errors, start

__all__ = [
    "Item", "Node", "Worker", "accounted", "cluster_gpus", "live_nodes", "map_parts", "needing", "node_cpus", "on_node",
    "on_worker", "original_errors", "start",
]  # fmt: skip
Item = dict[str, Any]


class Worker(Protocol):
    """What a part is given to; made once an actor, so that a model or a client is loaded once."""

    def __call__(self, item: Item) -> Item: ...


class _PartActor:
    """Call a worker for each item; items and results travel as JSON, artefacts as files."""

    def __init__(self, make: Callable[..., Worker], kwargs: dict[str, Any]) -> None:
        self.worker: Worker | None = None
        try:
            self.worker = make(**kwargs)
        except CoveyError as error:
            self.failure = _as_data(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"result": [json.dumps(self.one(json.loads(item))) for item in batch["item"]]}

    def one(self, item: Item) -> Item:
        if self.worker is None:
            return self.failure
        try:
            result, usage = watch.measured(self.worker, item)
        except CoveyError as error:
            return _as_data(error)
        # Ray Data does not keep the order, so the result carries its item's number.
        return {**result, "item": item["item"], "usage": asdict(usage)}


def _as_data(error: CoveyError) -> Item:
    """An error of ours as a result: Ray would retry it, or bury it in an error of its own."""
    problems = error.problems if isinstance(error, ConfigError) else [str(error)]
    return {"error": type(error).__name__, "problems": problems}


def _raise_failures(results: list[Item]) -> None:
    failed = [result for result in results if "error" in result]
    if failed:
        problems = list(dict.fromkeys(problem for result in failed for problem in result["problems"]))
        kind: type[CoveyError] = getattr(errors, failed[0]["error"])
        raise kind(problems) if issubclass(kind, ConfigError) else kind("\n".join(problems))


def _only_part(make: Callable[..., Worker], kwargs: dict[str, Any], item: Item) -> Item:
    return _PartActor(make, kwargs).one(item)


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
    Raises: the ConfigError of the first worker that raised one, with the problems of all; any other CoveyError at once,
        as the parts that are left would meet it, too.
    """
    if not items:
        return []
    numbered: list[Item] = [{**item, "item": number} for number, item in enumerate(items)]
    actors = min(actors, len(items))
    found: list[Item] = []
    seen = watch.current()
    if seen:
        seen.expect(len(items), actors * gpus)
    started = time.perf_counter()
    with giving_back(actors * cpus), closing(_results(make, kwargs, numbered, actors, cpus, gpus)) as results:
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


def _results(
    make: Callable[..., Worker], kwargs: dict[str, Any], items: list[Item], actors: int, cpus: float, gpus: float
) -> Generator[Item]:
    """The results of all items, as they come."""
    with original_errors():
        if len(items) == 1:  # a pool of one would only cost its start
            task = ray.remote(_only_part).options(num_cpus=0 if gpus else cpus, num_gpus=gpus)
            yield ray.get(task.remote(make, kwargs, items[0]))
            return
        from ray.data import ActorPoolStrategy, from_items  # takes a second, which a single task does not need

        dataset = from_items([{"item": json.dumps(item)} for item in items], override_num_blocks=len(items))
        called = dataset.map_batches(
            _PartActor,
            fn_constructor_args=(make, kwargs),
            batch_size=1,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=None if gpus else cpus,
            num_gpus=gpus or None,
        )
        for row in called.iter_rows():
            yield json.loads(row["result"])
