"""A pool of Ray actors: items in, results out; another actor repeats an item whose actor ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import ray

from clustering.errors import ConfigError, CoveyError
from clustering.monitoring import progress
from clustering.monitoring.usage import Usage, charge, measure
from clustering.runs.parts import describe_item
from clustering.workers.failures import Attempts, WorkerProcess, is_retryable, unwrapped_errors
from clustering.workers.reservations import Request, cores_to_request, releasing_cores, reporting_waits
from clustering.workers.tasks import REPORT_WAIT_AFTER_S, run_with_retries

Item = dict[str, Any]


class Worker(Protocol):
    """The work on one item. Each actor makes one worker, so that a model or a client is loaded once."""

    def __call__(self, item: Item) -> Item: ...


def map_parts(
    make: Callable[..., Worker],
    items: list[Item],
    *,
    actors: int,
    cpus: float = 1,
    gpus: float = 0,
    take: Callable[[Item], None] | None = None,
    **kwargs: Any,
) -> list[Item]:
    """Give every item to a worker of a pool of actors; return the results in the items' order.

    make : builds the worker on its actor, with ``kwargs``
    items : each gets its number as ``item``; a worker must be safe to repeat, because a lost actor's item starts again;
        such a one has ``again``
    cpus : cores of an actor; fewer where no node has so many free
    take : called with each result as it comes, so that what is large can be merged and taken out
    Raises: ConfigError with the problems of all items, when a worker raises one; any other CoveyError at once, because
        the other items would fail alike; StageError for an item that ends its worker three times.
    """
    if not items:
        return []
    items = [{**item, "item": number} for number, item in enumerate(items)]
    actors, cpus = min(actors, len(items)), 0 if gpus else cores_to_request(cpus)
    results: dict[int, Item] = {}
    errors: list[CoveyError] = []
    stage = progress.current_stage()
    if stage:
        stage.expect(len(items), actors * gpus)
    started = time.perf_counter()
    with releasing_cores(actors * cpus), closing(_run_items(make, kwargs, items, actors, cpus, gpus)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, CoveyError):
                errors.append(outcome)
                if not isinstance(outcome, ConfigError):
                    break
                continue
            number, result, usage = outcome
            if take:
                take(result)
            results[number] = result
            usage.gpu_busy_seconds = gpus * result.get("model_seconds", 0)
            charge(usage)
            if stage:
                stage.advance(result)
    charge(Usage(gpu_seconds=actors * gpus * (time.perf_counter() - started)))
    if stage:
        stage.gpus = 0
    _raise_errors(errors)
    return [results[number] for number in range(len(items))]


def _raise_errors(errors: list[CoveyError]) -> None:
    if errors and isinstance(errors[0], ConfigError):
        problems = [problem for error in errors for problem in getattr(error, "problems", [str(error)])]
        raise type(errors[0])(list(dict.fromkeys(problems)))
    if errors:
        raise errors[0]


Outcome = tuple[int, Item, Usage] | CoveyError  # of an item: its number, result and usage, or the worker's error


class _PoolActor:
    """Make a worker, and call it for each item. A CoveyError is a result, unlike an error that ends the pool."""

    def __init__(self, make: Callable[..., Worker], kwargs: dict[str, Any]) -> None:
        self.make, self.kwargs = make, kwargs
        self.worker: Worker | None = None

    def process(self) -> WorkerProcess:
        return WorkerProcess.current()

    def start(self) -> CoveyError | None:
        try:
            self.worker = self.make(**self.kwargs)
        except CoveyError as error:
            return error
        return None

    def run(self, item: Item) -> Outcome:
        assert self.worker is not None
        try:
            return item["item"], *measure(self.worker, item)
        except CoveyError as error:
            return error


def _run_only_item(make: Callable[..., Worker], kwargs: dict[str, Any], item: Item) -> Outcome:
    actor = _PoolActor(make, kwargs)
    return actor.start() or actor.run(item)


def _run_items(
    make: Callable[..., Worker], kwargs: dict[str, Any], items: list[Item], actors: int, cpus: float, gpus: float
) -> Generator[Outcome]:
    """The outcomes of all items, as they come.

    Raises: StageError for an item that has ended its worker three times.
    """
    stage = progress.current_stage()
    request = Request(stage.stage if stage else make.__name__, cpus=cpus, gpus=gpus)
    with unwrapped_errors():
        if len(items) == 1:  # one task starts faster than a pool of one actor
            (item,) = items
            work, mark = _describe(request, item, kwargs), partial(item.update, again=True)
            yield run_with_retries(request, work, _run_only_item, make, kwargs, item, before_retry=mark)[0]
        else:
            yield from _Pool(make, kwargs, items, request).outcomes(actors)


def _describe(request: Request, item: Item, kwargs: dict[str, Any]) -> str:
    return f"{request.name}: {describe_item(item, kwargs.get('run'))}"


@dataclass
class _Slot:
    """An actor of the pool, and the item it works on."""

    actor: Any
    process: Any  # reference to its WorkerProcess
    item: Item | None = None  # None while it starts


class _Pool:
    def __init__(
        self, make: Callable[..., Worker], kwargs: dict[str, Any], items: list[Item], request: Request
    ) -> None:
        self.make, self.kwargs, self.request = make, kwargs, request
        self.todo = deque(items)
        self.calls: dict[Any, _Slot] = {}  # by the reference to the awaited outcome
        self.attempts: dict[int, Attempts] = {}  # by the item's number
        self.starts = Attempts(f"{request.name}: the start of {make.__name__}")

    def outcomes(self, actors: int) -> Generator[Outcome]:
        """Keep so many actors at work until every item is done."""
        try:
            for _ in range(actors):
                self._add_actor()
            while self.calls:
                yield from self._finish(self._next_call())
        finally:
            for slot in self.calls.values():
                ray.kill(slot.actor)

    def _add_actor(self) -> None:
        kind: Any = ray.remote(_PoolActor)
        options = {"num_cpus": self.request.cpus, "num_gpus": self.request.gpus, "scheduling_strategy": "SPREAD"}
        actor = kind.options(**options, max_restarts=0).remote(self.make, self.kwargs)
        slot = _Slot(actor, actor.process.remote())
        self.calls[actor.start.remote()] = slot

    def _next_call(self) -> Any:
        """The next call that is done. A report follows every wait in which no actor has started."""
        since = time.monotonic()
        with reporting_waits() as report:
            while not (ready := ray.wait(list(self.calls), timeout=REPORT_WAIT_AFTER_S)[0]):
                if not ray.wait([slot.process for slot in self.calls.values()], timeout=0)[0]:
                    report(self.request, since)
        return ready[0]

    def _finish(self, call: Any) -> Iterator[Outcome]:
        """The outcome of a call, if there is one; its actor gets the next item."""
        slot = self.calls.pop(call)
        try:
            outcome: Outcome | None = ray.get(call)
        except ray.exceptions.RayError as error:
            ray.kill(slot.actor)
            if not is_retryable(error):
                raise
            self._retry(slot, error)
            return
        if slot.item is None:
            self.starts.failures.clear()
        if outcome is not None:
            yield outcome
        has_started = slot.item is not None or outcome is None
        if self.todo and has_started:
            slot.item = self.todo.popleft()
            self.calls[slot.actor.run.remote(slot.item)] = slot
        else:
            ray.kill(slot.actor)

    def _retry(self, slot: _Slot, error: ray.exceptions.RayError) -> None:
        """Put a lost actor's item first in line, and start another actor."""
        try:
            process: WorkerProcess | None = ray.get(slot.process, timeout=1)
        except ray.exceptions.RayError:
            process = None
        if slot.item is None:
            self.starts.record(error, process)
        else:
            number = slot.item["item"]
            if number not in self.attempts:
                self.attempts[number] = Attempts(_describe(self.request, slot.item, self.kwargs))
            self.attempts[number].record(error, process)
            self.todo.appendleft({**slot.item, "again": True})
        if self.todo:
            self._add_actor()
