"""Ray's errors in; whether the work is tried again, and what ended its worker, out."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clustering.errors import StageError
from clustering.workers.nodes import live_nodes

log = logging.getLogger("covey")
MAX_ATTEMPTS = 3
MAX_LOST_NODES = 10  # under one piece of work
ANSWER_TIMEOUT_S = 20  # for a node to say how its worker ended
TAIL_BYTES = 20_000
NODE_LOST = "its node was lost"
# The worker, its node, or another worker that held one of its objects has ended; the work itself is not at fault.
LOSS_ERRORS = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)


@dataclass(frozen=True)
class WorkerProcess:
    """A worker process, with what shows later how it ended."""

    node_id: str
    address: str
    pid: int
    log_path: str  # of its standard error
    oom_kills: int  # of the node's kernel before the work began

    @classmethod
    def current(cls) -> WorkerProcess:
        try:
            log_path = os.readlink("/proc/self/fd/2")
        except OSError:
            log_path = ""
        node_id, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return cls(node_id, address, os.getpid(), log_path, _oom_kills())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.address}"


def _oom_kills() -> int:
    """Kills for want of memory since the machine or the container started; 0 where the kernel does not count them."""
    counts = [0]
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with contextlib.suppress(OSError):
            counts += [int(count) for count in re.findall(r"^oom_kill (\d+)$", Path(path).read_text(), re.MULTILINE)]
    return max(counts)


def is_retryable(error: ray.exceptions.RayError) -> bool:
    """Whether the worker, or something it needed, is lost, so that the work may succeed elsewhere."""
    if isinstance(error, ray.exceptions.RayTaskError):  # the work itself met the loss of an actor or object
        return isinstance(error.cause, (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError))
    return isinstance(error, LOSS_ERRORS)


class WorkerTraceError(Exception):
    """The cause of an error that a worker raised; its text is the worker's traceback."""


@contextlib.contextmanager
def unwrapped_errors() -> Iterator[None]:
    """Raise what a worker raised without Ray's wrapper.

    Raises: StageError for an error of Ray itself.
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


class Attempts:
    """The failed attempts at one piece of work."""

    def __init__(self, work: str) -> None:
        """work : its name in messages, such as a part with its first ids"""
        self.work = work
        self.failures: list[tuple[ray.exceptions.RayError, WorkerProcess | None]] = []

    def record(self, error: ray.exceptions.RayError, process: WorkerProcess | None) -> None:
        """Count a failure.

        Raises: StageError with the causes, after three failures that were not the loss of a node.
        """
        self.failures.append((error, process))
        if len(self.failures) < MAX_ATTEMPTS:
            log.warning("%s: %s ended during the work; it is tried again", self.work, process or "the worker")
            return
        causes = [failure_cause(*failure) for failure in self.failures]
        own = [cause for cause in causes if cause != NODE_LOST]
        if len(own) < MAX_ATTEMPTS and len(self.failures) < MAX_LOST_NODES:
            log.warning("%s: %s; it is tried again", self.work, causes[-1])
            return
        raise StageError(
            f"{self.work} ended its worker {len(self.failures)} times: {'; '.join(dict.fromkeys(own or causes))}. "
            f"Give it more memory, or take out what is wrong in it; the same command goes on from the last finished "
            f"part"
        )


def failure_cause(error: ray.exceptions.RayError, process: WorkerProcess | None) -> str:
    """What ended a worker, for messages; NODE_LOST when its node is gone."""
    message, shown = str(error), f" ({process})" if process else ""
    if isinstance(error, ray.exceptions.NodeDiedError) or re.search(r"node (has died|was terminated)", message):
        return NODE_LOST
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in message:
        return f"out of memory: Ray killed it, as its node had hardly any left{shown}"
    if isinstance(error, (ray.exceptions.RayTaskError, ray.exceptions.ObjectLostError)):
        return NODE_LOST  # the node of an object or actor that it waited for
    if "receives a SIGTERM" in message:
        return f"signal SIGTERM{shown}"
    code = re.search(r"exits with an exit code (\d+)", message)
    if code:
        return f"exit code {code[1]}{shown}"
    if process is None:
        return "an end without a word"
    cause = _exit_cause_from_node(process)
    return cause if cause == NODE_LOST else cause + shown


def _exit_cause_from_node(process: WorkerProcess) -> str:
    if process.node_id not in {node.id for node in live_nodes()}:
        return NODE_LOST
    there = NodeAffinitySchedulingStrategy(process.node_id, soft=False)
    task: Any = ray.remote(_exit_cause).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    try:
        return str(ray.get(task.remote(process), timeout=ANSWER_TIMEOUT_S))
    except ray.exceptions.RayError:
        return NODE_LOST


def _exit_cause(process: WorkerProcess) -> str:
    """What the worker's log and the kernel's counts show; runs on the worker's node."""
    tail = _log_tail(Path(process.log_path))
    signal = re.search(r"\*\*\* (SIG\w+) received", tail)
    if signal:
        line = re.search(r"most recent call first\):\s+(File .*)", tail)
        return f"signal {signal[1]}" + (f" at {line[1].strip()}" if line else "")
    if _oom_kills() > process.oom_kills:
        return "out of memory: the kernel killed it (SIGKILL)"
    return "signal SIGKILL, or an exit without a word"


def _log_tail(path: Path) -> str:
    """The end of a worker's log, '' where there is none. Ray moves logs of ended workers once it follows 200 files."""
    for place in (path, path.parent / "old" / path.name):
        with contextlib.suppress(OSError), open(place, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - TAIL_BYTES))
            return handle.read().decode(errors="replace")
    return ""
