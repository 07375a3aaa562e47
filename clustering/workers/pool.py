"""A pool of Ray actors: items in, results out; it is as large as the cluster, and repeats an item whose actor ends."""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, Protocol

import ray

from clustering.errors import ConfigError, CoveyError
from clustering.monitoring import progress
from clustering.monitoring.usage import Usage, charge, measure
from clustering.runs.directory import RunDir
from clustering.runs.parts import describe_item
from clustering.workers.failures import Attempts, WorkerProcess, is_retryable, unwrapped_errors
from clustering.workers.nodes import (
    Wish,
    asking_autoscaler,
    avoiding_refused,
    live_nodes,
    refuse_blind,
    room_for,
    sees_run,
)
from clustering.workers.reservations import Request, cores_to_request, releasing_cores, reporting_waits
from clustering.workers.tasks import REPORT_WAIT_AFTER_S, run_with_retries

RESIZE_EVERY_S = 2.0
NODE_START_S = 300  # that a new node takes; for less work none is asked for

Item = dict[str, Any]


class Worker(Protocol):
    """The work on one item. Each actor makes one worker, so that a model or a client is loaded once."""

    def __call__(self, item: Item) -> Item: ...


def map_parts(
    make: Callable[..., Worker],
    items: list[Item],
    *,
    actors: int | None = None,
    per_node: int | None = None,
    cpus: float = 1,
    gpus: float = 0,
    at_once: int = 1,
    take: Callable[[Item], None] | None = None,
    **kwargs: Any,
) -> list[Item]:
    """Give every item to a worker of a pool of actors; return the results in the items' order.

    make : builds the worker on its actor, with ``kwargs``. Where ``run`` is one of them, nodes that do not see that
        run directory are given no item.
    items : each gets its number as ``item``; a worker must be safe to repeat, because a lost actor's item starts again;
        such a one has ``again``
    actors : how many; None: as many as the cluster has room for, more when nodes join and fewer when they leave
    per_node : of those, at most so many for each node
    cpus : cores of an actor; fewer where no node has so many free
    at_once : items that an actor works on at a time, at most; for more than one, threads call its worker
    take : called with each result as it comes, so that what is large can be merged and taken out
    Raises: ConfigError with the problems of all items, when a worker raises one; any other CoveyError at once, because
        the other items would fail alike; StageError for an item that ends its worker three times.
    """
    if not items:
        return []
    items = [{**item, "item": number} for number, item in enumerate(items)]
    results: dict[int, Item] = {}
    errors: list[CoveyError] = []
    stage = progress.current_stage()
    request = Request(stage.stage if stage else make.__name__, cpus=0 if gpus else cores_to_request(cpus), gpus=gpus)
    if stage:
        stage.expect(len(items), gpus)
    job = _Job(make, kwargs, request)
    with closing(_run_items(job, items, actors, per_node, at_once)) as outcomes:
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


class _Blind(NamedTuple):
    """What an actor says whose node does not see the run directory."""

    node_id: str
    address: str


@dataclass(frozen=True)
class _Job:
    """What the actors of a pool do, and what each asks for."""

    make: Callable[..., Worker]
    kwargs: dict[str, Any]
    request: Request

    @property
    def run(self) -> RunDir | None:
        return self.kwargs.get("run")

    def run_id(self) -> str:
        """The id of the run directory that all actors must see; '' where there is none."""
        return self.run.id if self.run is not None and (self.run / "manifest.json").exists() else ""

    def describe(self, item: Item) -> str:
        return f"{self.request.name}: {describe_item(item, self.run)}"

    def refuse(self, blind: _Blind) -> None:
        """Give no work to a node. Raises: ConfigError where no other is up."""
        assert self.run is not None
        refuse_blind(
            self.run, {blind.node_id: blind.address}, f"{self.request.name}: a node that has joined gets no work"
        )


class _PoolActor:
    """Make a worker, and call it for each item. A CoveyError is a result, unlike an error that ends the pool."""

    def __init__(self, make: Callable[..., Worker], kwargs: dict[str, Any], run_id: str) -> None:
        self.make, self.kwargs, self.run_id = make, kwargs, run_id
        self.worker: Worker | None = None
        self.charged, self.charging = 0.0, Lock()  # CPU seconds of this process

    def process(self) -> WorkerProcess:
        return WorkerProcess.current()

    def start(self, lasting: bool = True) -> CoveyError | _Blind | None:
        """Make the worker. lasting : for as long as this process"""
        if self.run_id and not sees_run(self.kwargs["run"], self.run_id):
            process = WorkerProcess.current()
            return _Blind(process.node_id, process.address)
        try:
            self.worker = self.make(**self.kwargs)
        except CoveyError as error:
            return error
        if lasting:
            gc.collect()
            gc.freeze()  # each item ends in a collection, which need not look through a model and its vocabulary
        self.charged = time.process_time()
        return None

    def run(self, item: Item) -> Outcome:
        assert self.worker is not None
        try:
            result, usage = measure(self.worker, item)
        except CoveyError as error:
            return error
        with self.charging:  # the process' seconds belong to the items of all threads: each is charged once
            usage.cpu_seconds, self.charged = time.process_time() - self.charged, time.process_time()
        return item["item"], result, usage


def _run_only_item(make: Callable[..., Worker], kwargs: dict[str, Any], run_id: str, item: Item) -> Outcome | _Blind:
    actor = _PoolActor(make, kwargs, run_id)
    return actor.start(lasting=False) or actor.run(item)  # this process goes on with other tasks


def _run_items(
    job: _Job, items: list[Item], actors: int | None, per_node: int | None, at_once: int
) -> Generator[Outcome]:
    """The outcomes of all items, as they come.

    Raises: StageError for an item that has ended its worker three times.
    """
    with unwrapped_errors():
        if len(items) == 1:  # one task starts faster than a pool of one actor
            yield _only_outcome(job, items[0])
        else:
            yield from _Pool(job, items, actors, per_node, at_once).outcomes()


def _only_outcome(job: _Job, item: Item) -> Outcome:
    work, mark = job.describe(item), partial(item.update, again=True)
    while True:
        outcome: Outcome | _Blind = run_with_retries(
            job.request, work, _run_only_item, job.make, job.kwargs, job.run_id(), item, before_retry=mark
        )[0]
        if not isinstance(outcome, _Blind):
            return outcome
        job.refuse(outcome)


@dataclass(eq=False)
class _Slot:
    """An actor of the pool, and how many items it has."""

    actor: Any
    process: Any  # reference to its WorkerProcess
    items: int = 0
    alone: bool = False  # it has an item that another actor has ended with
    placed_at: float | None = None  # time.monotonic() when it was first seen on a node

    def is_placed(self) -> bool:
        if self.placed_at is None and ray.wait([self.process], timeout=0)[0]:
            self.placed_at = time.monotonic()
        return self.placed_at is not None


class _Pool:
    """Items to do, and the actors that do them; their number follows the cluster's nodes."""

    def __init__(self, job: _Job, items: list[Item], actors: int | None, per_node: int | None, at_once: int) -> None:
        self.job, self.actors, self.per_node, self.at_once = job, actors, per_node, at_once
        self.run_id = job.run_id()
        self.stage = progress.current_stage()
        self.todo = deque(items)
        self.slots: list[_Slot] = []
        self.calls: dict[
            Any, tuple[_Slot, Item | None, float]
        ] = {}  # by the reference to the outcome; no item: a start
        self.attempts: dict[int, Attempts] = {}  # by the item's number
        self.starts = Attempts(f"{job.request.name}: the start of {job.make.__name__}")
        self.done, self.work_s = 0, 0.0  # items, and the seconds that they took
        self.resized = -math.inf
        self.share = 1  # items of an actor at a time
        self.wish: Wish

    @property
    def n_busy(self) -> int:
        """Items at work."""
        return sum(item is not None for _, item, _ in self.calls.values())

    def outcomes(self) -> Generator[Outcome]:
        """Keep actors at work until every item is done."""
        with asking_autoscaler(self.job.request.cpus, self.job.request.gpus) as self.wish:
            try:
                self._resize()
                while self.todo or self.n_busy:
                    yield from self._finish(self._next_call())
                    if time.monotonic() - self.resized > RESIZE_EVERY_S:
                        self._resize()
            finally:
                for slot in list(self.slots):
                    self._end(slot)

    def _resize(self) -> None:
        """Start actors that the cluster has room for; end those that wait for room that is gone."""
        self.resized = time.monotonic()
        request, room = self.job.request, self.actors
        if room is None:
            room = max(1, room_for(live_nodes(), request.cpus, request.gpus, self.per_node))
            self._ask_for_nodes(room)
        self.share = max(1, min(self.at_once, (self.n_busy + len(self.todo)) // room))  # else the first take all
        target = min(room, sum(slot.items > 0 for slot in self.slots) + len(self.todo))
        while len(self.slots) < target:
            self._add_actor()
        if len(self.slots) > target:
            waiting = [slot for slot in self.slots if not slot.is_placed()]
            for slot in waiting[max(0, len(waiting) - len(self.slots) + target) :]:
                self._end(slot)
        if request.gpus:  # one that waits for a node holds none
            placed = sum(slot.is_placed() for slot in self.slots)
            if self.stage:
                self.stage.gpus = placed * request.gpus

    def _ask_for_nodes(self, room: int) -> None:
        """Ask the autoscaler for as many actors as finish the rest in about the time that a new node takes."""
        if self.per_node is None and self.done:
            left_s = (len(self.todo) + self.n_busy / 2) * self.work_s / self.done / self.share
            wanted = min(math.ceil(left_s / NODE_START_S), self.n_busy + len(self.todo))
            self.wish.ask(wanted if wanted > room else 0)

    def _add_actor(self) -> None:
        job = self.job
        kind: Any = ray.remote(_PoolActor)
        options = {"num_cpus": job.request.cpus, "num_gpus": job.request.gpus, "scheduling_strategy": "SPREAD"}
        options |= {"max_restarts": 0, "max_concurrency": self.at_once, **avoiding_refused()}
        actor = kind.options(**options).remote(job.make, job.kwargs, self.run_id)
        slot = _Slot(actor, actor.process.remote())
        self.slots.append(slot)
        self.calls[actor.start.remote()] = slot, None, 0.0

    def _end(self, slot: _Slot) -> None:
        """End an actor; charge the time for which it held its GPUs."""
        if slot not in self.slots:
            return
        request = self.job.request
        if request.gpus and slot.placed_at is not None:
            charge(Usage(gpu_seconds=request.gpus * (time.monotonic() - slot.placed_at)))
        self.slots.remove(slot)
        if not slot.items:  # the calls of a lost actor tell of its items
            self.calls = {call: entry for call, entry in self.calls.items() if entry[0] is not slot}
        with releasing_cores(request.cpus):
            ray.kill(slot.actor)

    def _next_call(self) -> Any:
        """The next call that is done. A report follows every long wait in which no actor has started."""
        since = reported = time.monotonic()
        with reporting_waits() as report:
            while not (ready := ray.wait(list(self.calls), timeout=min(RESIZE_EVERY_S, REPORT_WAIT_AFTER_S))[0]):
                self._resize()
                late = time.monotonic() - reported >= REPORT_WAIT_AFTER_S
                if late and not any(slot.is_placed() for slot in self.slots):
                    reported = time.monotonic()
                    report(self.job.request, since)
        return ready[0]

    def _finish(self, call: Any) -> Iterator[Outcome]:
        """The outcome of a call, if there is one; its actor gets further items."""
        slot, item, since = self.calls.pop(call)
        try:
            outcome: Outcome | _Blind | None = ray.get(call)
        except ray.exceptions.RayError as error:
            slot.items -= item is not None
            self._end(slot)
            if not is_retryable(error):
                raise
            self._retry(slot, item, error)
            return
        if isinstance(outcome, _Blind):
            self._end(slot)
            self.job.refuse(outcome)
            self._resize()
            return
        if item is None:
            self.starts.failures.clear()
            slot.is_placed()  # noted, also of a start that takes no time
            if outcome is not None:  # no other actor would start
                self.todo.clear()
        else:
            slot.items -= 1
            self.done, self.work_s = self.done + 1, self.work_s + time.monotonic() - since
        if outcome is not None:
            yield outcome
        self._give_items(slot)
        if not slot.items:
            self._end(slot)

    def _give_items(self, slot: _Slot) -> None:
        """Give an actor as many items as it takes. One that an actor has ended with gets an actor to itself.

        Only it is then to blame for a further end.
        """
        slot.alone &= slot.items > 0
        while self.todo and slot.items < self.share and not slot.alone and slot in self.slots:
            slot.alone = self.todo[0]["item"] in self.attempts
            if slot.alone and slot.items:
                return
            item = self.todo.popleft()
            slot.items += 1
            self.calls[slot.actor.run.remote(item)] = slot, item, time.monotonic()

    def _retry(self, slot: _Slot, item: Item | None, error: ray.exceptions.RayError) -> None:
        """Put an item of a lost actor first in line, and start another actor where the cluster has room."""
        try:
            process: WorkerProcess | None = ray.get(slot.process, timeout=1)
        except ray.exceptions.RayError:
            process = None
        if item is None:
            self.starts.record(error, process)
        else:
            number = item["item"]
            if number not in self.attempts:
                self.attempts[number] = Attempts(self.job.describe(item))
            self.attempts[number].record(error, process)
            self.todo.appendleft({**item, "again": True})
        self._resize()
