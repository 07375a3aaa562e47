"""Single Ray tasks: a call in; its result out, with what it used charged to the stage at hand."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ray
from threadpoolctl import threadpool_limits

from clustering.errors import StageError
from clustering.monitoring import progress
from clustering.monitoring.usage import Usage, charge, measure
from clustering.workers.failures import MAX_ATTEMPTS, Attempts, WorkerProcess, is_retryable
from clustering.workers.nodes import FreeResources, Node, free_resources, live_nodes, node_affinity

log = logging.getLogger("covey")
T = TypeVar("T")
# Ray begins a task again whose own node is lost. So it shall with one that meets what another lost node took with it.
LOST_WITH_A_NODE = [ray.exceptions.RayActorError, ray.exceptions.ObjectLostError]
REPORT_WAIT_AFTER_S = 30  # what a task waits for is told
SETTLE_S = 0.7  # until Ray's head knows what has just been taken or given back
FRESH_S = 3  # for which what was free counts as free still


class WorkerTraceError(Exception):
    """Stands as the cause of an error that a worker raised: its text is where, on the worker."""


@contextmanager
def unwrapped_errors() -> Iterator[None]:
    """Raise what a worker raised, not what Ray wraps around it; an end of Ray's own parts is told in words.

    Raises: StageError for what is Ray's own.
    """
    try:
        yield
    except ray.exceptions.RayError as error:
        trace = re.sub(r"\x1b\[\d*m", "", str(error))
        inner: BaseException | None = error
        while isinstance(inner, ray.exceptions.RayError):
            inner = getattr(inner, "cause", None) or inner.__cause__
        log.debug("a worker's error", extra={"fields": {"event": "worker_error", "trace": trace}})
        if inner is not None:
            raise inner from WorkerTraceError(trace)
        raise StageError(
            f"Ray could not go on ({type(error).__name__}: {trace.splitlines()[0].strip()}); the same command goes on "
            f"from the last finished part"
        ) from error


def submit(work: Callable[..., T], *args: Any, **options: Any) -> Any:
    """Begin ``work(*args)`` as a Ray task; what comes of it, and what it used, is for ``accounted``.

    options : of the task, such as num_cpus
    """
    return _measured.options(
        name=work.__name__, max_retries=MAX_ATTEMPTS - 1, retry_exceptions=LOST_WITH_A_NODE, **options
    ).remote(work, *args)


@ray.remote
def _measured(work: Callable[..., T], *args: Any) -> tuple[T, Usage]:
    return measure(work, *args)


def collect(found: tuple[T, Usage]) -> T:
    """The result of a task, whose use is charged to the work at hand."""
    result, usage = found
    charge(usage)
    return result


_needed: ContextVar[int] = ContextVar("needed", default=0)  # bytes that the stage at hand needs in one process


@contextmanager
def requiring_memory(memory_bytes: int) -> Iterator[None]:
    """Let single tasks that this thread starts in the block run only where a node has so much memory."""
    token = _needed.set(memory_bytes)
    try:
        yield
    finally:
        _needed.reset(token)


def run_on_one_node(work: Callable[..., T], *args: Any) -> T:
    """Run ``work(*args)`` as one Ray task, with the memory that its stage needs.

    It asks for one core, so that it starts beside others, and has as many threads as its node has cores free when it
    starts.
    """
    with unwrapped_errors():
        found: tuple[T, Usage] = run_with_retries(_request(_name(work)), f"{_name(work)} (one task)", work, *args)
    return collect(found)


def _name(work: Callable[..., Any]) -> str:
    """What asks for a task, in messages."""
    seen = progress.current_stage()
    return seen.stage if seen else work.__name__.strip("_")


def run_with_retries(request: Request, what: str, work: Callable[..., T], *args: Any) -> tuple[T, Usage]:
    """What comes of one task, and what it used; it is begun again when its worker ends, three times in all.

    what : names the work in messages
    Raises: StageError when its worker has ended three times; what the task raises, as Ray wraps it.
    """
    tries = Attempts(what)
    while True:
        where: WorkerProcess | None = None
        try:
            stream, where = _started(request, work, *args)
            with releasing_cores(request.cpus), _holding(where.node, request.memory_bytes):
                found: tuple[T, Usage] = ray.get(next(stream))
                return found
        except ray.exceptions.RayError as error:
            side = _side.get()
            if not is_retryable(error) or (side and side.ended):
                raise
            tries.record(error, where)


class _SideTask:
    """The single task of a thread of the driver; once ``ended``, none is begun, and one at work is not waited for."""

    def __init__(self) -> None:
        self.stream: Any = None
        self.ended = False

    def end(self) -> None:
        self.ended = True
        if self.stream is not None:
            with suppress(Exception):  # it is done, or Ray is gone
                ray.cancel(self.stream, force=True)


_side: ContextVar[_SideTask | None] = ContextVar("side", default=None)  # of a thread beside the driver's main one


@contextmanager
def run_concurrently(work: Callable[[], object]) -> Iterator[None]:
    """Let ``work``, of single tasks, run on a thread of its own beside the block, at whose end it is waited for.

    Raises: what the block or ``work`` raises; it ends the other's task.
    """
    own, side, context = _SideTask(), _SideTask(), copy_context()
    context.run(_side.set, side)
    token = _side.set(own)
    with ThreadPoolExecutor(1, "covey-beside") as pool:
        other = pool.submit(context.run, work)
        other.add_done_callback(lambda done: own.end() if done.exception() else None)
        try:
            yield
            wait([other])  # here, where a signal is answered by ending it
        except Exception:
            if own.ended:  # by what ``work`` has raised
                other.result()
            raise
        finally:
            side.end()
            _side.reset(token)
    other.result()


@ray.remote
def _run_task(
    seen: dict[str, int], asked: float, work: Callable[..., T], *args: Any
) -> Iterator[WorkerProcess | tuple[T, Usage]]:
    """Where the work runs, as soon as it does; then what comes of it, and what it used.

    seen : cores that each node had free when the task was asked for; asked : when that was
    """
    here = WorkerProcess.here()
    yield here
    fresh = here.node in seen and time.time() - asked < FRESH_S
    with limited_threads(seen[here.node] if fresh else _free_cores(here.node)):
        yield measure(work, *args)


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Let kernels, and the linear algebra of numpy and scipy, use so many threads within the block."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # also for libraries that are loaded within the block
    try:
        with threadpool_limits(threads):
            yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _free_cores(here: str) -> int:
    """Cores of this node that nobody else holds, with the task's own."""
    nodes = [node for node in live_nodes() if node.id == here]
    if not nodes:
        return 1
    time.sleep(SETTLE_S)  # until the task's own core is counted as held, and what others gave back is not
    return min(nodes[0].cpus, int(free_resources(nodes)[here].cpus) + 1)


_given_back: list[tuple[float, float]] = []  # when, and how many cores


@contextmanager
def releasing_cores(cores: float) -> Iterator[None]:
    """Ray's head counts cores that a block has held for a moment longer: until then they are known here."""
    try:
        yield
    finally:
        _given_back.append((time.monotonic(), cores))


def _cores_seen(nodes: list[Node], free: dict[str, FreeResources]) -> dict[str, int]:
    """Cores that each node has free, or has in a moment."""
    since = time.monotonic() - SETTLE_S
    _given_back[:] = [(when, cores) for when, cores in _given_back if when > since]
    more = sum(cores for _, cores in _given_back)
    return {node.id: max(1, min(node.cpus, int(free[node.id].cpus + more))) for node in nodes}


@dataclass(frozen=True)
class Request:
    """What a single task asks for."""

    name: str
    memory_bytes: int = 0
    node: Node | None = None  # where it goes, where nodes are of several sizes
    cpus: float = 1
    gpus: float = 0

    def __str__(self) -> str:
        asked = [f"{self.gpus:g} GPU"] if self.gpus else []
        asked += [f"{self.cpus:g} core{'s' * (self.cpus != 1)}"] if self.cpus else []
        asked += [f"{self.memory_bytes >> 20:,} MiB of memory"] if self.memory_bytes else []
        return " and ".join(asked) + " on one node"


def _request(name: str) -> Request:
    """What can be had of the nodes that are large enough, which is less than planned where others hold it for good.

    Ray waits for ever for what nobody gives back, such as the memory of the job's own entry point.
    """
    needed = _needed.get()
    nodes = [node for node in live_nodes() if node.memory_bytes >= needed]
    if not nodes:  # one will take the place of a lost one, or an autoscaler brings one up for what is asked
        return Request(name, needed)
    deadline = time.monotonic() + SETTLE_S
    while True:
        free = free_resources(nodes)
        there = max(free[node.id].memory_bytes + _held_on(node.id) for node in nodes)
        if there >= needed or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if there < needed:
        log.warning(
            "%s is planned with %d MiB, and no node has more than %d MiB that nobody holds; it is tried there",
            name, needed >> 20, there >> 20,
        )  # fmt: skip
    asked = min(needed, there)
    ready = [node for node in nodes if free[node.id].cpus >= 1 and free[node.id].memory_bytes >= asked]
    if ready and max(node.cpus for node in nodes) >= 2 * min(node.cpus for node in nodes):
        return Request(name, asked, max(ready, key=lambda node: free[node.id].cpus))
    return Request(name, asked)


_holds: list[tuple[str, int]] = []  # nodes and bytes of the single tasks of this process that are at work


@contextmanager
def _holding(node: str, memory_bytes: int) -> Iterator[None]:
    hold = (node, memory_bytes)
    _holds.append(hold)
    try:
        yield
    finally:
        _holds.remove(hold)


def _held_on(node: str) -> int:
    """Bytes that other single tasks of this process hold of a node, and will give back."""
    return sum(memory_bytes for where, memory_bytes in list(_holds) if where == node)


def _started(request: Request, work: Callable[..., Any], *args: Any) -> tuple[Any, WorkerProcess]:
    """A task that has started, as what it yields, and where it runs; what it waits for is told again and again."""
    since = time.monotonic()
    stream = _submit(request, work, *args)
    with reporting_waits() as tell:
        while not ray.wait([stream], timeout=REPORT_WAIT_AFTER_S)[0]:
            tell(request, since)
            if request.node:  # others have taken it meanwhile: any node will do
                ray.cancel(stream)
                request = replace(request, node=None)
                stream = _submit(request, work, *args)
    return stream, ray.get(next(stream))


def _submit(request: Request, work: Callable[..., Any], *args: Any) -> Any:
    options: dict[str, Any] = {
        "name": work.__name__,
        "num_cpus": request.cpus,
        "num_gpus": request.gpus,
        "memory": request.memory_bytes,
        "scheduling_strategy": node_affinity(request.node) if request.node else "DEFAULT",
        "num_returns": "streaming",
        "max_retries": 0,  # its tries are counted here, where it is known what ended the worker
    }
    nodes, side = live_nodes(), _side.get()
    stream = _run_task.options(**options).remote(_cores_seen(nodes, free_resources(nodes)), time.time(), work, *args)
    if side:
        side.stream = stream
        if side.ended:  # in this very moment
            side.end()
    return stream


def cores_to_request(cpus: float) -> float:
    """So many cores, or fewer where no node has them: Ray waits for ever for what another job does not give back."""
    nodes = live_nodes()
    return min(cpus, max(_cores_seen(nodes, free_resources(nodes)).values(), default=cpus))


@contextmanager
def reporting_waits() -> Iterator[Callable[[Request, float], None]]:
    """A call that tells what has not started since a time of ``time.monotonic``: what it asks for, and what is free."""
    seen = progress.current_stage()

    def tell(request: Request, since: float) -> None:
        words = _waits_for(request, since)
        log.warning("%s %s", request.name, words, extra={"fields": {"event": "waits", "task": request.name}})
        if seen:
            seen.waits = words

    try:
        yield tell
    finally:
        if seen:
            seen.waits = ""


def _waits_for(request: Request, since: float) -> str:
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
    there = "; ".join(shown) + (" ..." if len(nodes) > 3 else "") if nodes else "no node takes work"
    return (
        f"waits for {request} since {progress.format_duration(time.monotonic() - since)}; free now: {there} "
        f"(`ray status` shows what others hold)"
    )
