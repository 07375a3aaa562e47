"""A call in, run as a Ray task; its result out, with its usage charged to the current stage."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import ray
from threadpoolctl import threadpool_limits

from clustering.monitoring import progress
from clustering.monitoring.usage import Usage, charge, measure
from clustering.workers.failures import MAX_ATTEMPTS, Attempts, WorkerProcess, is_retryable, unwrapped_errors
from clustering.workers.nodes import (
    Origin,
    avoiding,
    avoiding_refused,
    free_resources,
    live_nodes,
    node_affinity,
    refuse_blind,
    watched_run,
)
from clustering.workers.process import environment
from clustering.workers.remote import ASK_EVERY_S, ask_joined_nodes
from clustering.workers.reservations import (
    SETTLE_S,
    Request,
    free_cores,
    releasing_cores,
    reporting_waits,
    reserving_memory,
    single_task_request,
)

T = TypeVar("T")
# Ray retries a task whose own node is lost. It also retries one that fails because an actor or object was lost with
# another node.
RETRIED: dict[str, Any] = {
    "max_retries": MAX_ATTEMPTS - 1, "retry_exceptions": [ray.exceptions.RayActorError, ray.exceptions.ObjectLostError]
}  # fmt: skip
REPORT_WAIT_AFTER_S = 30
FRESH_S = 3  # age up to which a count of free cores is used
MOST_TASKS = 1024  # of one step of a stage, whose parts they share out
IN_FLIGHT = 200  # tasks of ``map_tasks`` that are at work, or whose results wait to be taken


def submit(work: Callable[..., T], *args: Any, **options: Any) -> Any:
    """Start ``work(*args)`` as a Ray task; ``collect`` takes what ``ray.get`` returns for it.

    options : of the task, such as num_cpus
    """
    options = {**RETRIED, **avoiding_refused(), **options}
    return note_tasks([_measured.options(name=work.__name__, **options).remote(Origin.here(), work, *args)])[0]


def note_tasks(references: list[Any]) -> list[Any]:
    """Note results of tasks that this thread of the driver has started: they end when a stage beside it fails."""
    if thread := _thread_task.get():
        thread.noted += [reference.binary() for reference in references]
        if thread.cancelled:  # while they were submitted
            thread.cancel()
    return references


Starter = Callable[..., list[Any]]


def submit_pieces(n_pieces: int, work: Callable[..., list[Any]], *args: Any, memory: int = 0) -> list[Any]:
    """Start ``work(*args)``, which returns so many pieces, as a Ray task; a reference to each, for ``collect``.

    memory : bytes that the task asks for
    """
    options = {**RETRIED, **avoiding_refused(), "num_returns": n_pieces, "memory": memory}
    found = _measured_pieces.options(name=work.__name__, **options).remote(Origin.here(), work, *args)
    return note_tasks(found if n_pieces > 1 else [found])


def submit_yields(n_pieces: int, work: Callable[..., Iterator[Any]], *args: Any, **options: Any) -> list[Any]:
    """Start ``work(*args)``, which yields two pieces or more, as a Ray task. Ray stores each before the next is made.

    Returns: a reference to each piece; usage is among what the work yields.
    """
    options = {**RETRIED, **avoiding_refused(), **options, "num_returns": n_pieces, "name": work.__name__}
    found: list[Any] = _yielded.options(**options).remote(Origin.here(), n_pieces, work, *args)
    note_tasks(found[-1:])
    return found


def await_all(references: list[Any]) -> None:
    """Wait until the results of all tasks are there, or their errors; a task that takes them then starts at once."""
    while ray.wait(references, num_returns=len(references), timeout=ASK_EVERY_S, fetch_local=False)[1]:
        ask_joined_nodes()


def make_pieces(n_pieces: int, work: Callable[..., list[Any]], *args: Any) -> list[Any]:
    """Do in this process what ``submit_pieces`` starts as a task."""
    return [(piece, Usage()) for piece in work(*args)]


@ray.remote
def _measured_pieces(origin: Origin, work: Callable[..., list[Any]], *args: Any) -> Any:
    if not origin.is_seen():
        return ray.get(_start_elsewhere(_measured_pieces, origin, 1, work, *args)[0])
    pieces, usage = _measure(work, *args)
    charged = [(piece, Usage() if number else usage) for number, piece in enumerate(pieces)]
    return charged if len(charged) > 1 else charged[0]


@ray.remote
def _measured(origin: Origin, work: Callable[..., T], *args: Any) -> tuple[T, Usage]:
    if not origin.is_seen():
        return ray.get(_start_elsewhere(_measured, origin, 1, work, *args)[0])  # type: ignore[no-any-return]
    return _measure(work, *args)


def _measure(work: Callable[..., T], *args: Any) -> tuple[T, Usage]:
    """Measure the work of a task. What its process already holds are modules: no collection walks over them again."""
    gc.collect()
    gc.freeze()
    return measure(work, *args)


@ray.remote
def _yielded(origin: Origin, n_pieces: int, work: Callable[..., Iterator[Any]], *args: Any) -> Iterator[Any]:
    if origin.is_seen():
        yield from work(*args)
        return
    for piece in _start_elsewhere(_yielded, origin, n_pieces, n_pieces, work, *args):
        yield ray.get(piece)


def _start_elsewhere(task: Any, origin: Origin, n_returns: int, *args: Any) -> list[Any]:
    """Have this task done on a node that sees the run directory, as this one does not; references to its results.

    Meanwhile this task keeps its core: else Ray would start others here, as many as wait.
    Raises: ConfigError where no other node is up.
    """
    origin = origin.refusing_this_node()
    assigned: dict[str, float] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    memory = int(assigned.get("memory", 0))
    options = {**RETRIED, **avoiding(origin.refused), "num_returns": n_returns, "memory": memory}
    found = task.options(**options).remote(origin, *args)
    references: list[Any] = found if n_returns > 1 else [found]
    while ray.wait(references, num_returns=n_returns, timeout=0, fetch_local=False)[1]:
        time.sleep(0.05)
    return references


def collect(measured: tuple[T, Usage]) -> T:
    """The result of a task; its usage is charged to the current stage."""
    result, usage = measured
    charge(usage)
    return result


def map_tasks(
    work: Callable[..., Any], calls: Iterable[tuple[Any, ...]], keep: bool = False, most: int = IN_FLIGHT
) -> Iterator[Any]:
    """Run ``work(*args)`` for each of ``calls`` as a Ray task on any node; yield the results in the order of the calls.

    It is for the single task of a stage: when that ends or is cancelled, so are these.
    keep : ``work`` returns a pair. Its second value stays where it was made, and a reference to it is yielded in its
        place; ``collect`` takes what a later call receives for it.
    most : tasks that are at work, or whose results wait to be taken
    Raises: what the first call that fails raises, as Ray wraps it; the others are cancelled.
    """
    pending: deque[list[Any]] = deque()
    try:
        for args in calls:
            pending.append(submit_pieces(2, work, *args) if keep else [submit(work, *args)])
            if len(pending) >= most:
                yield _take(pending)
        while pending:
            yield _take(pending)
    finally:
        for task, *_ in pending:
            ray.cancel(task, force=True)


def _take(pending: deque[list[Any]]) -> Any:
    """The result of the first of some tasks."""
    result = collect(ray.get(pending[0][0]))
    _, *kept = pending.popleft()
    return (result, *kept) if kept else result


def map_here(work: Callable[..., Any], calls: Iterable[tuple[Any, ...]], keep: bool = False) -> Iterator[Any]:
    """As ``map_tasks``, but in this process, one call after the other."""
    for args in calls:
        if keep:
            told, kept = make_pieces(2, work, *args)
            yield collect(told), kept
        else:
            yield work(*args)


class Mapper(NamedTuple):
    """Where the calls of a stage run.

    share : makes of a value what many calls are given for it; when the value changes later, theirs does not
    """

    map: Callable[..., Iterator[Any]]
    share: Callable[[Any], Any]


IN_TASKS, HERE = Mapper(map_tasks, ray.put), Mapper(map_here, deepcopy)


def run_on_one_node(work: Callable[..., T], *args: Any) -> T:
    """Run ``work(*args)`` as one Ray task, with the memory that its stage requires.

    It asks for one core, so that it starts beside others. It uses as many threads as its node has free cores when it
    starts.
    """
    stage = progress.current_stage()
    name = stage.stage if stage else work.__name__.strip("_")
    with unwrapped_errors():
        measured: tuple[T, Usage] = run_with_retries(single_task_request(name), f"{name} (one task)", work, *args)
    return collect(measured)


def run_with_retries(
    request: Request,
    description: str,
    work: Callable[..., T],
    *args: Any,
    before_retry: Callable[[], None] | None = None,
) -> tuple[T, Usage]:
    """The result and usage of one task, which is tried three times when its worker ends.

    description : of the work, for messages
    before_retry : may change the arguments
    Raises: StageError when its worker has ended three times; what the task raises, as Ray wraps it.
    """
    attempts = Attempts(description)
    while True:
        process: WorkerProcess | None = None
        try:
            stream, process = _start(request, work, *args)
            memory = reserving_memory(process.node_id, request.memory_bytes)
            with releasing_cores(request.cpus), memory, _charging_gpus(request.gpus):
                while not ray.wait([stream], timeout=ASK_EVERY_S)[0]:
                    ask_joined_nodes()
                measured: tuple[T, Usage] | None = ray.get(next(stream))
            if measured is not None:
                return measured
            if run := watched_run():
                blind = {process.node_id: process.address}
                refuse_blind(run, blind, f"{request.name}: a node that has joined gets no work")
            request = replace(request, node=None)
        except ray.exceptions.RayError as error:
            thread = _thread_task.get()
            if not is_retryable(error) or (thread and thread.cancelled):
                raise
            attempts.record(error, process)
            ask_joined_nodes(0)  # one may have made an actor fail
            if before_retry:
                before_retry()


@contextmanager
def _charging_gpus(gpus: float) -> Iterator[None]:
    """Charge GPUs for the time of the block, whatever ends it."""
    since = time.monotonic()
    try:
        yield
    finally:
        if gpus:
            charge(Usage(gpu_seconds=gpus * (time.monotonic() - since)))


def _start(request: Request, work: Callable[..., Any], *args: Any) -> tuple[Any, WorkerProcess]:
    """The stream of a task that has started, and its process; each wait for its start is reported."""
    since = time.monotonic()
    stream = _submit_stream(request, work, *args)
    with reporting_waits() as report:
        while not ray.wait([stream], timeout=REPORT_WAIT_AFTER_S)[0]:
            report(request, since)
            if request.node:  # the preferred node is busy: any other will do
                ray.cancel(stream)
                request = replace(request, node=None)
                stream = _submit_stream(request, work, *args)
    return stream, ray.get(next(stream))


def _submit_stream(request: Request, work: Callable[..., Any], *args: Any) -> Any:
    options: dict[str, Any] = {
        "name": work.__name__,
        "num_cpus": request.cpus,
        "num_gpus": request.gpus,
        "memory": request.memory_bytes,
        "scheduling_strategy": node_affinity(request.node) if request.node else "DEFAULT",
        "num_returns": "streaming",
        "max_retries": 0,  # run_with_retries counts the attempts, because it knows what ended the worker
    }
    if not request.node:
        options |= avoiding_refused()
    stream = _run_task.options(**options).remote(free_cores(), time.time(), Origin.here(), work, *args)
    if thread := _thread_task.get():
        thread.stream = stream
        if thread.cancelled:  # while the task was submitted
            thread.cancel()
    return stream


@ray.remote
def _run_task(
    cores: dict[str, int], counted_at: float, origin: Origin, work: Callable[..., T], *args: Any
) -> Iterator[WorkerProcess | tuple[T, Usage] | None]:
    """Yield the worker's process as soon as it starts, then the result of the work and its usage.

    None is yielded in their place on a node that does not see the run directory.
    cores : free cores of each node; counted_at : when, in seconds of ``time.time``
    """
    origin.adopt()
    process = WorkerProcess.current()
    yield process
    if not origin.is_seen():
        yield None
        return
    fresh = process.node_id in cores and time.time() - counted_at < FRESH_S
    with limited_threads(cores[process.node_id] if fresh else _free_cores_of(process.node_id)):
        yield _measure(work, *args)


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Limit kernels, and the linear algebra of numpy and scipy, to so many threads within the block."""
    with environment("OMP_NUM_THREADS", str(threads)), threadpool_limits(threads):
        yield


def _free_cores_of(node_id: str) -> int:
    """Free cores of this task's node, with its own."""
    nodes = [node for node in live_nodes() if node.id == node_id]
    if not nodes:
        return 1
    time.sleep(SETTLE_S)
    return min(nodes[0].cpus, int(free_resources(nodes)[node_id].cpus) + 1)


class _ThreadTask:
    """The single task of one thread of the driver, and others. Once cancelled, its thread starts no other."""

    def __init__(self) -> None:
        self.stream: Any = None
        self.noted: list[bytes] = []  # ids of results; a reference would keep the result
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        started = [] if self.stream is None else [self.stream]
        for task in [*started, *map(ray.ObjectRef, self.noted)]:
            if ray.is_initialized():  # else the call would start a Ray
                with suppress(Exception):  # it is done, or Ray is gone
                    ray.cancel(task, force=True)


_thread_task: ContextVar[_ThreadTask | None] = ContextVar("thread_task", default=None)


@contextmanager
def run_concurrently(work: Callable[[], object]) -> Iterator[None]:
    """Run ``work``, which starts single tasks, on a thread beside the block, and wait for it at the block's end.

    Raises: what the block or ``work`` raises; an error of one cancels the other's task.
    """
    own, other, context = _ThreadTask(), _ThreadTask(), copy_context()
    context.run(_thread_task.set, other)
    token = _thread_task.set(own)
    with ThreadPoolExecutor(1, "covey-beside") as pool:
        future = pool.submit(context.run, work)
        future.add_done_callback(lambda done: own.cancel() if done.exception() else None)
        try:
            yield
            wait([future])  # here, so that a signal cancels the other task
        except Exception:
            if own.cancelled:  # because ``work`` has failed
                future.result()
            raise
        finally:
            other.cancel()
            _thread_task.reset(token)
    future.result()
