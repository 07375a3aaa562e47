"""Ray for the stages: one worker call for each part of an artefact, or one call on one worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

import ray
import ray.data

from clustering import errors, watch
from clustering.errors import ConfigError, CoveyError

Item = dict[str, Any]
T = TypeVar("T")
# Ray begins a task again whose own node is lost. So it shall with one that meets what another lost node took with it.
LOST = [ray.exceptions.RayActorError, ray.exceptions.ObjectLostError]


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
        started = time.perf_counter()
        try:
            result, usage = watch.measured(self.worker, item)
        except CoveyError as error:
            return _as_data(error)
        # Ray Data does not keep the order, so the result carries its item's number.
        return {**result, "item": item["item"], "usage": asdict(usage), "seconds": time.perf_counter() - started}


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
    Raises: the CoveyError of the first worker that raised one, with the problems of all.
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
    for result in _results(make, kwargs, numbered, actors, cpus, gpus):
        found.append(result)
        if "error" not in result:
            used = watch.Usage(**result.pop("usage"))
            used.gpu_busy_seconds = gpus * result.pop("seconds")
            watch.charge(used)
            if seen:
                seen.advance(result)
    watch.charge(watch.Usage(gpu_seconds=actors * gpus * (time.perf_counter() - started)))
    if seen:
        seen.gpus = 0
    _raise_failures(found)
    return sorted(found, key=lambda result: int(result["item"]))


def _results(
    make: Callable[..., Worker], kwargs: dict[str, Any], items: list[Item], actors: int, cpus: float, gpus: float
) -> Iterator[Item]:
    """The results of all items, as they come."""
    with original_errors():
        if len(items) == 1:  # a pool of one would only cost its start
            task = ray.remote(_only_part).options(num_cpus=0 if gpus else cpus, num_gpus=gpus)
            yield ray.get(task.remote(make, kwargs, items[0]))
            return
        dataset = ray.data.from_items([{"item": json.dumps(item)} for item in items], override_num_blocks=len(items))
        called = dataset.map_batches(
            _PartActor,
            fn_constructor_args=(make, kwargs),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=None if gpus else cpus,
            num_gpus=gpus or None,
        )
        for row in called.iter_rows():
            yield json.loads(row["result"])


def start(work: Callable[..., T], *args: Any, **options: Any) -> Any:
    """Begin ``work(*args)`` as a Ray task; what comes of it, and what it used, is for ``accounted``.

    options : of the task, such as num_cpus
    """
    return _measured.options(name=work.__name__, retry_exceptions=LOST, **options).remote(work, *args)


@ray.remote
def _measured(work: Callable[..., T], *args: Any) -> tuple[T, watch.Usage]:
    return watch.measured(work, *args)


def accounted(found: tuple[T, watch.Usage]) -> T:
    """The result of a task, whose use is charged to the work at hand."""
    result, usage = found
    watch.charge(usage)
    return result


_needed = 0  # bytes that the stage at hand will need in one process


@contextmanager
def needing(memory_bytes: int) -> Iterator[None]:
    """Let single tasks in the block run only where a node has so much memory."""
    global _needed
    _needed = memory_bytes
    try:
        yield
    finally:
        _needed = 0


def on_worker(work: Callable[..., T], *args: Any) -> T:
    """Run ``work(*args)`` as one Ray task with a node's free cores, and the memory that its stage needs."""
    with original_errors():
        options = {"memory": _needed} if _needed else {}
        found: tuple[T, watch.Usage] = ray.get(start(work, *args, num_cpus=_free_cpus(), **options))
    return accounted(found)


@contextmanager
def original_errors() -> Iterator[None]:
    """Raise what a worker raised, not what Ray wraps around it."""
    try:
        yield
    except ray.exceptions.RayError as error:
        inner: BaseException | None = error
        while isinstance(inner, ray.exceptions.RayError):
            inner = getattr(inner, "cause", None) or inner.__cause__
        raise inner or error from None


def _free_cpus() -> int:
    """Cores of a node that nobody holds, one at least: a job's own entry point may hold some."""
    free = int(ray.available_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    return max(1, min(node_cpus(), free))


def node_cpus() -> int:
    """Cores of the largest node of the cluster."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return max((int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]), default=1) or 1


def node_count() -> int:
    """Nodes of the cluster that live."""
    return max(1, sum(bool(node["Alive"]) for node in ray.nodes()))  # type: ignore[no-untyped-call]


def node_gpus() -> float:
    """GPUs of the node that has most."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return float(max((node["Resources"].get("GPU", 0) for node in nodes if node["Alive"]), default=0))


def cluster_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def node_memory() -> int:
    """Bytes that the largest node of the cluster has for work; 0 when there is none that takes any."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    sizes = [has.get("memory", 0) + has.get("object_store_memory", 0) for has in nodes if has.get("CPU", 0) >= 1]
    return int(max(sizes, default=0))
