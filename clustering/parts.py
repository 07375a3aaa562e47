"""Ray for the stages: one worker call for each part of an artefact, or one call on one worker."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import ray
import ray._private.state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clustering import errors, watch
from clustering.errors import ConfigError, CoveyError

log = logging.getLogger("covey")

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
    _look_around()
    seen = watch.current()
    if seen:
        seen.expect(len(items), actors * gpus)
    started = time.perf_counter()
    with closing(_results(make, kwargs, numbered, actors, cpus, gpus)) as results:
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
        found: tuple[T, watch.Usage] = ray.get(start(work, *args, **_wanted(work.__name__)))
    return accounted(found)


_idle: dict[str, dict[str, float]] = {}  # what each node has free while nothing of this run is at work


def _look_around() -> None:
    """Note what nobody holds; to be called while nothing of this run is at work, or is about to end."""
    free: dict[str, dict[str, float]] = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    for node, has in free.items():
        known = _idle.setdefault(node, {})
        for name in ("CPU", "memory"):  # Ray's head hears a moment later of what has come back
            known[name] = max(known.get(name, 0), has.get(name, 0))


def _wanted(name: str) -> dict[str, Any]:
    """Cores and bytes to ask for: what this run can have of the best of the nodes that are large enough.

    Ray waits for ever for what nobody gives back, such as the cores and memory of the job's own entry point.
    """
    _look_around()
    nodes = [node for node in live_nodes() if node.id in _idle and node.memory_bytes >= _needed]
    if not nodes:  # one will take the place of a lost one, or an autoscaler brings one up for what is asked
        return {"num_cpus": 1, "memory": _needed}
    there = max(int(_idle[node.id]["memory"]) for node in nodes)
    fitting = [node for node in nodes if _idle[node.id]["memory"] >= min(_needed, there)]
    cpus = max(1, *(int(_idle[node.id]["CPU"]) for node in fitting))
    if there < _needed:
        log.warning(
            "%s is planned with %d MiB, and no node has more than %d MiB that nobody holds; it is tried there",
            name.lstrip("_"), _needed >> 20, there >> 20,
        )  # fmt: skip
    return {"num_cpus": cpus, "memory": min(_needed, there)}


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


@dataclass(frozen=True)
class Node:
    """A node that lives and takes work; memory is what Ray gives to tasks, without that of its object store."""

    id: str
    address: str
    cpus: int
    gpus: float
    memory_bytes: int


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


def on_node(node: Node) -> NodeAffinitySchedulingStrategy:
    """Where a task runs that shall run on a node, as long as it lives."""
    return NodeAffinitySchedulingStrategy(node.id, soft=True)


def node_cpus() -> int:
    """Cores of the largest node of the cluster."""
    return max((node.cpus for node in live_nodes()), default=1)


def cluster_gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
