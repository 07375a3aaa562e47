"""A pool of Ray actors: items in, results out as they come; an item whose actor ends is begun on another."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import ray

from clustering import errors
from clustering.errors import ConfigError, CoveyError
from clustering.monitoring import progress
from clustering.monitoring.usage import Usage, charge, measure
from clustering.runs.parts import describe_item
from clustering.workers.failures import Attempts, WorkerProcess, is_retryable
from clustering.workers.tasks import (
    REPORT_WAIT_AFTER_S,
    Request,
    cores_to_request,
    releasing_cores,
    reporting_waits,
    run_with_retries,
    unwrapped_errors,
)


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
    actors, cpus = min(actors, len(items)), 0 if gpus else cores_to_request(cpus)
    found: list[Item] = []
    seen = progress.current_stage()
    if seen:
        seen.expect(len(items), actors * gpus)
    started = time.perf_counter()
    with releasing_cores(actors * cpus), closing(run_items(make, kwargs, numbered, actors, cpus, gpus)) as results:
        for result in results:
            found.append(result)
            if "error" not in result:
                used = Usage(**result.pop("usage"))
                used.gpu_busy_seconds = gpus * result.get("model_seconds", 0)
                charge(used)
                if seen:
                    seen.advance(result)
            elif not issubclass(getattr(errors, result["error"]), ConfigError):
                break
    charge(Usage(gpu_seconds=actors * gpus * (time.perf_counter() - started)))
    if seen:
        seen.gpus = 0
    _raise_failures(found)
    return sorted(found, key=lambda result: int(result["item"]))


Item = dict[str, Any]


class Worker(Protocol):
    """What a part is given to; made once an actor, so that a model or a client is loaded once."""

    def __call__(self, item: Item) -> Item: ...


class _PartActor:
    """Call a worker for each item."""

    def __init__(self, make: Callable[..., Worker], kwargs: dict[str, Any]) -> None:
        self.make, self.kwargs = make, kwargs
        self.worker: Worker | None = None

    def where(self) -> WorkerProcess:
        return WorkerProcess.here()

    def begin(self) -> Item:
        """Make the worker; empty, or an error of ours."""
        try:
            self.worker = self.make(**self.kwargs)
        except CoveyError as error:
            return _error_item(error)
        return {}

    def one(self, item: Item) -> Item:
        assert self.worker is not None
        try:
            result, usage = measure(self.worker, item)
        except CoveyError as error:
            return _error_item(error)
        return {**result, "item": item["item"], "usage": asdict(usage)}


def _error_item(error: CoveyError) -> Item:
    """An error of ours as a result, so that it is told apart from those that end a run without words."""
    problems = error.problems if isinstance(error, ConfigError) else [str(error)]
    return {"error": type(error).__name__, "problems": problems}


def _only_part(make: Callable[..., Worker], kwargs: dict[str, Any], item: Item) -> Item:
    actor = _PartActor(make, kwargs)
    return actor.begin() or actor.one(item)


def run_items(
    make: Callable[..., Worker], kwargs: dict[str, Any], items: list[Item], actors: int, cpus: float, gpus: float
) -> Generator[Item]:
    """The results of all items, as they come.

    items : each with its number as ``item``
    Raises: StageError for an item that has ended its worker three times.
    """
    seen = progress.current_stage()
    request = Request(seen.stage if seen else make.__name__, cpus=cpus, gpus=gpus)
    with unwrapped_errors():
        if len(items) == 1:  # a pool of one would only cost its start
            result, _ = run_with_retries(
                request, _describe_item(request, items[0], kwargs), _only_part, make, kwargs, items[0]
            )
            yield result
        else:
            yield from _Pool(make, kwargs, items, request).results(actors)


def _describe_item(request: Request, item: Item, kwargs: dict[str, Any]) -> str:
    return f"{request.name}: {describe_item(item, kwargs.get('run'))}"


@dataclass
class _PoolActor:
    """An actor, and what it is at."""

    actor: Any
    where: Any  # what will tell where it is
    item: Item | None = None  # none: it begins


class _Pool:
    def __init__(
        self, make: Callable[..., Worker], kwargs: dict[str, Any], items: list[Item], request: Request
    ) -> None:
        self.make, self.kwargs, self.request = make, kwargs, request
        self.todo = deque(items)
        self.calls: dict[Any, _PoolActor] = {}  # what is awaited
        self.tries: dict[int, Attempts] = {}  # by an item's number
        self.starts = Attempts(f"{request.name}: the start of {make.__name__}")

    def results(self, actors: int) -> Generator[Item]:
        """Keep so many actors at work until nothing is left to do."""
        try:
            for _ in range(actors):
                self._hire()
            while self.calls:
                yield from self._answer(self._next_answer())
        finally:
            for hand in self.calls.values():
                ray.kill(hand.actor)

    def _hire(self) -> None:
        kind: Any = ray.remote(_PartActor)
        options = {"num_cpus": self.request.cpus, "num_gpus": self.request.gpus, "scheduling_strategy": "SPREAD"}
        actor = kind.options(**options, max_restarts=0).remote(self.make, self.kwargs)
        hand = _PoolActor(actor, actor.where.remote())
        self.calls[actor.begin.remote()] = hand

    def _next_answer(self) -> Any:
        since = time.monotonic()
        with reporting_waits() as tell:
            while not (ready := ray.wait(list(self.calls), timeout=REPORT_WAIT_AFTER_S)[0]):
                places = [hand.where for hand in self.calls.values()]
                if not ray.wait(places, timeout=0)[0]:  # else an actor is there, and has much to do
                    tell(self.request, since)
        return ready[0]

    def _answer(self, call: Any) -> Iterator[Item]:
        hand = self.calls.pop(call)
        try:
            result: Item = ray.get(call)
        except ray.exceptions.RayError as error:
            ray.kill(hand.actor)
            if not is_retryable(error):
                raise
            self._begin_again(hand, error)
            return
        if hand.item is None:
            self.starts.failures.clear()
        if result:
            yield result
        if self.todo and not (hand.item is None and result):  # one that could not begin does nothing
            hand.item = self.todo.popleft()
            self.calls[hand.actor.one.remote(hand.item)] = hand
        else:
            ray.kill(hand.actor)

    def _begin_again(self, hand: _PoolActor, error: ray.exceptions.RayError) -> None:
        where = _place(hand)
        if hand.item is None:
            self.starts.record(error, where)
        else:
            number = int(hand.item["item"])
            if number not in self.tries:
                self.tries[number] = Attempts(_describe_item(self.request, hand.item, self.kwargs))
            self.tries[number].record(error, where)
            self.todo.appendleft(hand.item)
        if self.todo:
            self._hire()


def _place(hand: _PoolActor) -> WorkerProcess | None:
    """Where an actor was, as far as it could tell."""
    try:
        found: WorkerProcess = ray.get(hand.where, timeout=1)
    except ray.exceptions.RayError:
        return None
    return found
