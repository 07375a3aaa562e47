"""What a task asks of the cluster in; what it can have, and what it waits for, out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from clustering.monitoring import progress
from clustering.workers.nodes import Node, free_resources, live_nodes

log = logging.getLogger("covey")
SETTLE_S = 0.7  # until Ray's head knows what was just taken or given back

_required_memory: ContextVar[int] = ContextVar("required_memory", default=0)  # bytes
_released: list[tuple[float, float]] = []  # when, and how many cores
_reservations: list[tuple[str, int]] = []  # node ids and bytes of the single tasks of this process


@dataclass(frozen=True)
class Request:
    """What a single task or an actor asks for."""

    name: str
    memory_bytes: int = 0
    node: Node | None = None  # the preferred one, where nodes differ in size
    cpus: float = 1
    gpus: float = 0

    def __str__(self) -> str:
        asked = [f"{self.gpus:g} GPU"] if self.gpus else []
        asked += [f"{self.cpus:g} core{'s' * (self.cpus != 1)}"] if self.cpus else []
        asked += [f"{self.memory_bytes >> 20:,} MiB of memory"] if self.memory_bytes else []
        return " and ".join(asked) + " on one node"


@contextmanager
def requiring_memory(memory_bytes: int) -> Iterator[None]:
    """Run the single tasks that this thread starts in the block only where a node has so much memory."""
    token = _required_memory.set(memory_bytes)
    try:
        yield
    finally:
        _required_memory.reset(token)


def single_task_request(name: str) -> Request:
    """The required memory, or less where others hold it for good.

    Ray waits for ever for memory that nobody gives back, such as that of the job's own entry point.
    """
    required = _required_memory.get()
    nodes = [node for node in live_nodes() if node.memory_bytes >= required]
    if not nodes:  # a lost node is replaced, or an autoscaler adds one for this request
        return Request(name, required)
    deadline = time.monotonic() + SETTLE_S
    while True:
        free = free_resources(nodes)
        available = max(free[node.id].memory_bytes + _reserved_on(node.id) for node in nodes)
        if available >= required or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if available < required:
        log.warning(
            "%s is planned with %d MiB, and no node has more than %d MiB that nobody holds; it is tried there",
            name, required >> 20, available >> 20,
        )  # fmt: skip
    memory_bytes = min(required, available)
    ready = [node for node in nodes if free[node.id].cpus >= 1 and free[node.id].memory_bytes >= memory_bytes]
    if ready and max(node.cpus for node in nodes) >= 2 * min(node.cpus for node in nodes):
        return Request(name, memory_bytes, max(ready, key=lambda node: free[node.id].cpus))
    return Request(name, memory_bytes)


@contextmanager
def reserving_memory(node_id: str, memory_bytes: int) -> Iterator[None]:
    """Note that a single task of this process holds memory of a node, and will give it back."""
    reservation = (node_id, memory_bytes)
    _reservations.append(reservation)
    try:
        yield
    finally:
        _reservations.remove(reservation)


def _reserved_on(node_id: str) -> int:
    return sum(memory_bytes for reserved, memory_bytes in list(_reservations) if reserved == node_id)


@contextmanager
def releasing_cores(cores: float) -> Iterator[None]:
    """Note at the block's end that its cores are free; Ray's head learns of it a moment later."""
    try:
        yield
    finally:
        _released.append((time.monotonic(), cores))


def free_cores() -> dict[str, int]:
    """The cores of each node, by id, that are free or will be in a moment; 1 at least."""
    nodes = live_nodes()
    free = free_resources(nodes)
    since = time.monotonic() - SETTLE_S
    _released[:] = [(when, cores) for when, cores in _released if when > since]
    released = sum(cores for _, cores in _released)
    return {node.id: max(1, min(node.cpus, int(free[node.id].cpus + released))) for node in nodes}


def cores_to_request(cpus: float) -> float:
    """So many cores, or fewer where no node has them: Ray waits for ever for what another job does not give back."""
    return min(cpus, max(free_cores().values(), default=cpus))


@contextmanager
def reporting_waits() -> Iterator[Callable[[Request, float], None]]:
    """A function that reports a request which has not started since a time of ``time.monotonic``, and what is free."""
    stage = progress.current_stage()

    def report(request: Request, since: float) -> None:
        message = _describe_wait(request, since)
        log.warning("%s %s", request.name, message, extra={"fields": {"event": "waits", "task": request.name}})
        if stage:
            stage.waits = message

    try:
        yield report
    finally:
        if stage:
            stage.waits = ""


def _describe_wait(request: Request, since: float) -> str:
    nodes = live_nodes()
    free = free_resources(nodes)
    nodes.sort(key=lambda node: (free[node.id].gpus, free[node.id].cpus, free[node.id].memory_bytes), reverse=True)
    shown = []
    for node in nodes[:3]:
        left = free[node.id]
        gpus = f"{left.gpus:g} of {node.gpus:g} GPUs, " if request.gpus else ""
        shown.append(
            f"{gpus}{left.cpus:g} of {node.cpus} cores and {left.memory_bytes >> 20:,} of {node.memory_bytes >> 20:,} "
            f"MiB on {node.address}"
        )
    available = "; ".join(shown) + (" ..." if len(nodes) > 3 else "") if nodes else "no node takes work"
    return (
        f"waits for {request} since {progress.format_duration(time.monotonic() - since)}; free now: {available} "
        f"(`ray status` shows what others hold)"
    )
