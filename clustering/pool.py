"""A pool of Ray actors: items in, results out as they come; an item whose actor ends is begun on another."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import ray

from clustering import watch
from clustering.deaths import Tries, Where, is_lost
from clustering.errors import ConfigError, CoveyError
from clustering.naming import named
from clustering.tasks import TELL_AFTER_S, Request, original_errors, tried, waiting

Item = dict[str, Any]


class Worker(Protocol):
    """What a part is given to; made once an actor, so that a model or a client is loaded once."""

    def __call__(self, item: Item) -> Item: ...


class _PartActor:
    """Call a worker for each item."""

    def __init__(self, make: Callable[..., Worker], kwargs: dict[str, Any]) -> None:
        self.make, self.kwargs = make, kwargs
        self.worker: Worker | None = None

    def where(self) -> Where:
        return Where.here()

    def begin(self) -> Item:
        """Make the worker; empty, or an error of ours."""
        try:
            self.worker = self.make(**self.kwargs)
        except CoveyError as error:
            return _as_data(error)
        return {}

    def one(self, item: Item) -> Item:
        assert self.worker is not None
        try:
            result, usage = watch.measured(self.worker, item)
        except CoveyError as error:
            return _as_data(error)
        return {**result, "item": item["item"], "usage": asdict(usage)}


def _as_data(error: CoveyError) -> Item:
    """An error of ours as a result, so that it is told apart from those that end a run without words."""
    problems = error.problems if isinstance(error, ConfigError) else [str(error)]
    return {"error": type(error).__name__, "problems": problems}


def _only_part(make: Callable[..., Worker], kwargs: dict[str, Any], item: Item) -> Item:
    actor = _PartActor(make, kwargs)
    return actor.begin() or actor.one(item)


def results_of(
    make: Callable[..., Worker], kwargs: dict[str, Any], items: list[Item], actors: int, cpus: float, gpus: float
) -> Generator[Item]:
    """The results of all items, as they come.

    items : each with its number as ``item``
    Raises: StageError for an item that has ended its worker three times.
    """
    seen = watch.current()
    request = Request(seen.stage if seen else make.__name__, cpus=cpus, gpus=gpus)
    with original_errors():
        if len(items) == 1:  # a pool of one would only cost its start
            result, _ = tried(request, _said(request, items[0], kwargs), _only_part, make, kwargs, items[0])
            yield result
        else:
            yield from _Pool(make, kwargs, items, request).results(actors)


def _said(request: Request, item: Item, kwargs: dict[str, Any]) -> str:
    return f"{request.name}: {named(item, kwargs.get('run'))}"


@dataclass
class _Hand:
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
        self.calls: dict[Any, _Hand] = {}  # what is awaited
        self.tries: dict[int, Tries] = {}  # by an item's number
        self.starts = Tries(f"{request.name}: the start of {make.__name__}")

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
        hand = _Hand(actor, actor.where.remote())
        self.calls[actor.begin.remote()] = hand

    def _next_answer(self) -> Any:
        since = time.monotonic()
        with waiting() as tell:
            while not (ready := ray.wait(list(self.calls), timeout=TELL_AFTER_S)[0]):
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
            if not is_lost(error):
                raise
            self._begin_again(hand, error)
            return
        if hand.item is None:
            self.starts.deaths.clear()
        if result:
            yield result
        if self.todo and not (hand.item is None and result):  # one that could not begin does nothing
            hand.item = self.todo.popleft()
            self.calls[hand.actor.one.remote(hand.item)] = hand
        else:
            ray.kill(hand.actor)

    def _begin_again(self, hand: _Hand, error: ray.exceptions.RayError) -> None:
        where = _place(hand)
        if hand.item is None:
            self.starts.died(error, where)
        else:
            number = int(hand.item["item"])
            if number not in self.tries:
                self.tries[number] = Tries(_said(self.request, hand.item, self.kwargs))
            self.tries[number].died(error, where)
            self.todo.appendleft(hand.item)
        if self.todo:
            self._hire()


def _place(hand: _Hand) -> Where | None:
    """Where an actor was, as far as it could tell."""
    try:
        found: Where = ray.get(hand.where, timeout=1)
    except ray.exceptions.RayError:
        return None
    return found
