"""Shards on Ray actors in; arrays with a value a row out: each shard has those of its own rows and of its halo.

    with open_shards(load, n_shards, n_texts, memory) as shards:
        nearest = shards.exchange(first_neighbors, 15)         # an array of own rows a shard, sent where it is needed
        weights = shards.keep(weigh_edges, nearest)            # stays beside its shard
        totals = shards.reduce(sum_edges, add_sums, weights)   # merged two by two on all nodes

A function such as ``first_neighbors`` gets the shard and the further arguments. An exchanged array comes as a table of
own rows and halo, by local number; a kept value is that of the shard. The functions must give the same result each
time, because a lost actor starts again and repeats what is needed of it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import ray

from clustering.kernels.graph.forest import IntArray
from clustering.kernels.graph.halo import Requests, Routes, match_rows, split_rows
from clustering.kernels.memory import ShardBytes, process_bytes
from clustering.monitoring import progress
from clustering.monitoring.usage import Usage, charge, peak_bytes
from clustering.workers.nodes import (
    Node,
    Origin,
    Wish,
    avoiding_refused,
    coming_nodes,
    free_resources,
    live_nodes,
    node_affinity,
)
from clustering.workers.reservations import Request, reporting_waits
from clustering.workers.tasks import REPORT_WAIT_AFTER_S, submit

LOOK_EVERY_S = 1.0  # at the nodes, while more are coming
AUTOSCALER_S = 15  # until an autoscaler has seen what is asked for
NODES_TIMEOUT_S = 900  # for those that it starts
ATTEMPTS = 3  # of an actor's start, and of a call to it, after its process or node is lost


class Shard(Protocol):
    """Some rows and what lies at them, in local numbers. rows, halo : int64, ascending, without a common row"""

    rows: IntArray
    halo: IntArray


Load = Callable[[int], Any]  # makes the shard of a number; it is called on the actor
Kernel = Callable[..., Any]  # gets the shard and further arguments


@dataclass(frozen=True)
class Exchanged:
    """An array of own rows of each shard, and what each one has sent to others, as references."""

    own: list[Any]
    sent: list[dict[int, Any]]


@dataclass(frozen=True)
class Kept:
    """A value of each shard, as references."""

    values: list[Any]


@contextmanager
def open_shards(load: Load, n_shards: int, n_texts: int, memory: list[ShardBytes]) -> Iterator[OneShard | HaloExchange]:
    """The shards for the length of the block. A single one is made in this process, without an actor.

    load : makes the shard of a number from 0 to n_shards - 1, see ``Shard``
    n_texts : rows of all shards; memory : what each shard needs
    Raises: what a shard raises, as Ray wraps it, so that a single task around the block is tried again for a loss.
    """
    if n_shards == 1:
        yield OneShard(load(0))
        return
    exchange = HaloExchange(n_texts, memory)
    try:
        exchange.start(load)
        exchange.connect()
        yield exchange
        exchange.charge_usage()
    finally:
        exchange.close()


class OneShard:
    """The calls of ``HaloExchange`` on a single shard, which has no halo."""

    n_halo = 0

    def __init__(self, shard: Any) -> None:
        self.shard = shard

    def exchange(self, kernel: Kernel, *args: Any) -> Any:
        return kernel(self.shard, *args)

    keep = exchange

    def share(self, value: Any) -> Any:
        return value

    def each(self, kernel: Kernel, *args: Any) -> Iterator[Any]:
        yield kernel(self.shard, *args)

    def reduce(self, kernel: Kernel, merge: Callable[[Any, Any], Any], *args: Any) -> Any:
        return kernel(self.shard, *args)


class HaloExchange:
    """Shards on actors, spread over the nodes. Arguments as in ``open_shards``.

    n_halo : rows in the halos of all shards
    """

    def __init__(self, n_texts: int, memory: list[ShardBytes]) -> None:
        self.n_texts, self.memory, self.numbers = n_texts, memory, range(len(memory))
        self.wish = Wish({"memory": max(process_bytes([shard]) for shard in memory)})
        self.actors: list[Any] = []  # of each shard; neighboring shards may share one
        self.routes: list[Any] = []
        self.sends: tuple[list[int], ...] = ()
        self.receives: tuple[list[int], ...] = ()
        self.n_halo = 0

    def start(self, load: Load) -> None:
        """Start the actors, where the nodes have room for all shards or get no more; ``close`` undoes it."""
        self._make_room()
        memory = self.memory
        kind: Any = ray.remote(_ShardActor)
        groups = list(_groups(memory))
        on_node = Counter(node.id for node, _, _ in groups)
        self.most, self.nodes = 0, set(on_node)
        for node, free, group in groups:
            needed = process_bytes([memory[number] for number in group])
            needed = min(needed, free // on_node[node.id])  # Ray waits for ever for what the others hold
            self.most = max(self.most, needed)
            options = {"memory": needed, "max_restarts": ATTEMPTS, "max_task_retries": ATTEMPTS, **avoiding_refused()}
            actor = kind.options(**options, scheduling_strategy=node_affinity(node)).remote(
                Origin.here(), load, max(1, node.cpus // on_node[node.id])
            )
            self.actors += [actor] * len(group)

    def _make_room(self) -> None:
        """Where the nodes lack memory for all shards, ask the autoscaler for it, and wait as long as it starts nodes.

        Without an autoscaler, or when it starts no more, shards are placed on the nodes that are up.
        """
        since = reported = time.monotonic()
        with reporting_waits() as report:
            while not _placed(self.memory)[1]:
                self.wish.ask(len(self.memory))
                coming, waited = coming_nodes(), time.monotonic() - since
                if coming is None or waited > NODES_TIMEOUT_S or (not coming and waited > AUTOSCALER_S):
                    return
                if time.monotonic() - reported > REPORT_WAIT_AFTER_S:
                    reported = time.monotonic()
                    report(Request(self._name(), int(self.wish.bundle["memory"]), cpus=0), since)
                time.sleep(LOOK_EVERY_S)

    def connect(self) -> None:
        """Tell each shard once which rows the others need of it. Equal ranges of rows are matched on all actors."""
        self._wait_for_actors()
        several = {"num_returns": len(self.numbers)}
        ranges = [
            self.actors[number].split.options(**several).remote(number, self.n_texts, len(self.numbers))
            for number in self.numbers
        ]
        matched = [
            self.actors[number].match.options(**several).remote(*(of_shard[number] for of_shard in ranges))
            for number in self.numbers
        ]
        routed = [
            self.actors[number].route.options(num_returns=2).remote(number, *(of_range[number] for of_range in matched))
            for number in self.numbers
        ]
        self._wait([summary for _, summary in routed])
        self.routes = [routes for routes, _ in routed]
        self.sends, self.receives, n_halo = zip(*ray.get([summary for _, summary in routed]), strict=True)
        self.n_halo = sum(n_halo)

    def exchange(self, kernel: Kernel, *args: Any) -> Exchanged:
        """An array of own rows from each shard, shape (n_own, ...), sent to the shards that have some in their halo."""
        calls = [self._call(number, kernel, args, 1 + len(self.sends[number])) for number in self.numbers]
        self._wait([own for own, *_ in calls])
        return Exchanged(
            [own for own, *_ in calls],
            [dict(zip(to, sent, strict=True)) for to, (_, *sent) in zip(self.sends, calls, strict=True)],
        )

    def keep(self, kernel: Kernel, *args: Any) -> Kept:
        """A value of each shard, for its own later calls."""
        values = [self._call(number, kernel, args)[0] for number in self.numbers]
        self._wait(values)
        return Kept(values)

    def share(self, value: Any) -> Any:
        """A value that is an argument of all shards, once on each node."""
        return ray.put(value)

    def each(self, kernel: Kernel, *args: Any) -> Iterator[Any]:
        """The value of each shard in this process, one after the other, in their order."""
        values = self.keep(kernel, *args).values
        values.reverse()
        while values:
            yield ray.get(values.pop())

    def reduce(self, kernel: Kernel, merge: Callable[[Any, Any], Any], *args: Any) -> Any:
        """The values of all shards, merged two by two in a fixed order by tasks; the last two in this process."""
        pending = [self._call(number, kernel, args)[0] for number in self.numbers]
        usages = []
        while len(pending) > 2:
            pairs = zip(pending[::2], pending[1::2], strict=False)
            merged = [submit(merge, *pair, num_returns=2, scheduling_strategy="SPREAD") for pair in pairs]
            usages += [usage for _, usage in merged]
            pending = [value for value, _ in merged] + pending[len(pending) // 2 * 2 :]
        self._wait(pending)
        for usage in ray.get(usages):
            charge(usage)
        return merge(*ray.get(pending))

    def charge_usage(self) -> None:
        for usage in ray.get([actor.usage.remote() for actor in dict.fromkeys(self.actors)]):
            charge(usage)

    def close(self) -> None:
        self.wish.ask(0)
        for actor in dict.fromkeys(self.actors):
            ray.kill(actor)

    def _call(self, number: int, kernel: Kernel, args: tuple[Any, ...], n_returns: int = 1) -> list[Any]:
        """References to what ``kernel`` makes of a shard, and then to the rows of it that each other shard needs."""
        counts: list[int | None] = []  # of each argument: the values that make its table; None for a single value
        values: list[Any] = []
        for arg in args:
            if isinstance(arg, Exchanged):
                received = [arg.sent[other][number] for other in self.receives[number]]
                counts.append(1 + len(received))
                values += [arg.own[number], *received]
            else:
                counts.append(None)
                values.append(arg.values[number] if isinstance(arg, Kept) else arg)
        call = self.actors[number].call.options(name=kernel.__name__, num_returns=n_returns)
        found = call.remote(number, kernel, self.routes[number], n_returns > 1, counts, *values)
        return found if n_returns > 1 else [found]

    def _wait_for_actors(self) -> None:
        since, starts = time.monotonic(), [actor.usage.remote() for actor in dict.fromkeys(self.actors)]
        with reporting_waits() as report:
            while len(ray.wait(starts, num_returns=len(starts), timeout=REPORT_WAIT_AFTER_S)[0]) < len(starts):
                report(self._request(), since)

    def _wait(self, references: list[Any]) -> None:
        """Wait for the values without bringing them to this process. It is told when a lost actor finds no room."""
        since, many = time.monotonic(), len(references)
        with reporting_waits() as report:
            while ray.wait(references, num_returns=many, timeout=REPORT_WAIT_AFTER_S, fetch_local=False)[1]:
                nodes = live_nodes()
                room = max((free.memory_bytes for free in free_resources(nodes).values()), default=0)
                if room < self.most and not self.nodes <= {node.id for node in nodes}:
                    report(self._request(), since)

    def _request(self) -> Request:
        return Request(self._name(), self.most, cpus=0)

    def _name(self) -> str:
        stage = progress.current_stage()
        return stage.stage if stage else "shards"


class _Place(NamedTuple):
    """A node, its free memory in bytes, and how many shards it gets."""

    node: Node
    free_bytes: int
    shards: int


def _placed(memory: list[ShardBytes]) -> tuple[list[_Place], bool]:
    """Place shards evenly by cores where they have room; and whether all have. Those without go where most is free."""
    nodes = live_nodes()
    at_first = {id: resources.memory_bytes for id, resources in free_resources(nodes).items()}
    free, counts, fits = dict(at_first), dict.fromkeys(at_first, 0), bool(nodes)
    cpus = {node.id: node.cpus for node in nodes}
    for needed in [process_bytes([shard]) for shard in memory if nodes]:
        roomy = [id for id in free if free[id] >= needed]
        best = min(roomy, key=lambda id: counts[id] / cpus[id]) if roomy else max(free, key=lambda id: free[id])
        fits &= bool(roomy)
        free[best] -= needed
        counts[best] += 1
    return [_Place(node, at_first[node.id], counts[node.id]) for node in nodes], fits


def _groups(memory: list[ShardBytes]) -> Iterator[tuple[Node, int, list[int]]]:
    """Join the shards on a node that share an actor: one a core at most.

    Yields: a node, its free memory in bytes, and the numbers of the shards of an actor there.
    """
    first = 0
    for node, free_bytes, shards in _placed(memory)[0]:
        numbers = range(first, first + shards)
        first = numbers.stop
        for group in np.array_split(numbers, max(min(len(numbers), node.cpus), 1)):
            if group.size:
                yield node, free_bytes, group.tolist()


class _ShardActor:
    """Some shards, which it can make again at any time."""

    def __init__(self, origin: Origin, load: Load, threads: int) -> None:
        if not origin.is_seen():  # the stage's task is tried again, without this node
            raise FileNotFoundError("this node does not see the run directory")
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self.shard = cache(load)

    def split(self, number: int, n_texts: int, n_ranges: int) -> list[tuple[IntArray, IntArray]]:
        """Own rows and halo by ranges of rows."""
        both = self.shard(number).rows, self.shard(number).halo
        return list(zip(*(split_rows(rows, n_texts, n_ranges) for rows in both), strict=True))

    def match(self, *of_shards: tuple[IntArray, IntArray]) -> list[Requests]:
        return match_rows([owned for owned, _ in of_shards], [wanted for _, wanted in of_shards])

    def route(self, number: int, *requests: Requests) -> tuple[Routes, tuple[list[int], list[int], int]]:
        routes = Routes.of(self.shard(number).rows, list(requests))
        return routes, (list(routes.sends), list(routes.receives), self.shard(number).halo.size)

    def call(
        self, number: int, kernel: Kernel, routes: Routes, sends: bool, counts: list[int | None], *values: Any
    ) -> Any:
        args, rest = [], list(values)
        for count in counts:
            own = rest.pop(0)
            if count is None:
                args.append(own)
            else:
                args.append(routes.table(own, rest[: count - 1]))
                del rest[: count - 1]
        del values
        found = kernel(self.shard(number), *args)
        args.clear()  # the tables, before the rows to send need memory
        return [found, *routes.slices(found)] if sends else found

    def usage(self) -> Usage:
        """What this actor has used since it started."""
        return Usage(peak_bytes(), time.process_time())
