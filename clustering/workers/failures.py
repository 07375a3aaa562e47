"""Workers that end in the midst of their work: what ended them, and when it is enough."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from clustering.errors import StageError
from clustering.workers.nodes import live_nodes

log = logging.getLogger("covey")
MAX_ATTEMPTS = 3
MOST_LOST = 10  # nodes that one part may outlive
ANSWER_S = 20  # that a node has, to tell what its worker said last
TAIL_BYTES = 20_000
LOST_NODE = "its node was lost"
# What a worker meets that is no fault of its own work: it, its node, or another that held something of it has ended.
LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)


@dataclass(frozen=True)
class WorkerProcess:
    """A worker process: its node, and what tells afterwards how it ended."""

    node: str
    address: str
    pid: int
    log: str  # the file that its standard error goes to
    oom_kills: int  # processes that the node's kernel had killed before for want of memory

    @classmethod
    def here(cls) -> WorkerProcess:
        try:
            log = os.readlink("/proc/self/fd/2")
        except OSError:
            log = ""
        node, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return cls(node, address, os.getpid(), log, _oom_kills())


def _oom_kills() -> int:
    """Of the machine since its start, or of the container; 0 where the kernel does not tell."""
    counts = [0]
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with contextlib.suppress(OSError):
            counts += [int(count) for count in re.findall(r"^oom_kill (\d+)$", Path(path).read_text(), re.MULTILINE)]
    return max(counts)


def is_retryable(error: ray.exceptions.RayError) -> bool:
    """Whether the worker, or what it needed, is gone, so that the work may succeed elsewhere."""
    if isinstance(error, ray.exceptions.RayTaskError):  # raised by the work: what it waited for is gone
        return isinstance(error.cause, (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError))
    return isinstance(error, LOST)


class Attempts:
    """How often a piece of work has ended its worker."""

    def __init__(self, what: str) -> None:
        """what : names the work in messages, such as a part with its first ids"""
        self.what = what
        self.failures: list[tuple[ray.exceptions.RayError, WorkerProcess | None]] = []

    def record(self, error: ray.exceptions.RayError, where: WorkerProcess | None) -> None:
        """Count a death.

        Raises: StageError with what ended the worker, after three that were not the loss of a node.
        """
        self.failures.append((error, where))
        if len(self.failures) < MAX_ATTEMPTS:
            process = f"process {where.pid} on {where.address}" if where else "the worker"
            log.warning("%s: %s ended in the midst of it; it is tried again", self.what, process)
            return
        endings = [failure_cause(*death) for death in self.failures]
        own = [words for words in endings if words != LOST_NODE]
        if len(own) < MAX_ATTEMPTS and len(self.failures) < MOST_LOST:
            log.warning("%s: %s; it is tried again", self.what, endings[-1])
            return
        causes = "; ".join(dict.fromkeys(own or endings))
        raise StageError(
            f"{self.what} ended its worker {len(self.failures)} times: {causes}. Give it more memory, or take out what "
            f"is wrong in it; the same command goes on from the last finished part"
        )


def failure_cause(error: ray.exceptions.RayError, where: WorkerProcess | None) -> str:
    """What ended a worker, in words; LOST_NODE when its node went with it."""
    said, process = str(error), f" (process {where.pid} on {where.address})" if where else ""
    if isinstance(error, ray.exceptions.NodeDiedError) or "node has died" in said or "node was terminated" in said:
        return LOST_NODE
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in said:
        return f"out of memory: Ray killed it, as its node had hardly any left{process}"
    if isinstance(error, (ray.exceptions.RayTaskError, ray.exceptions.ObjectLostError)):
        return LOST_NODE  # of something that it waited for
    if "receives a SIGTERM" in said:
        return f"signal SIGTERM{process}"
    code = re.search(r"exits with an exit code (\d+)", said)
    if code:
        return f"exit code {code[1]}{process}"
    words = _last_words_on_its_node(where) if where else "an end without a word"
    return words if words == LOST_NODE else words + process


def _last_words_on_its_node(where: WorkerProcess) -> str:
    if where.node not in {node.id for node in live_nodes()}:
        return LOST_NODE
    there = NodeAffinitySchedulingStrategy(where.node, soft=False)
    asked: Any = ray.remote(_last_words).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    try:
        return str(ray.get(asked.remote(where), timeout=ANSWER_S))
    except ray.exceptions.RayError:
        return LOST_NODE


def _last_words(where: WorkerProcess) -> str:
    """What the worker's log and the kernel's counts say, read on its node."""
    try:
        with open(where.log, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - TAIL_BYTES))
            tail = handle.read().decode(errors="replace")
    except OSError:
        tail = ""
    signal = re.search(r"\*\*\* (SIG\w+) received", tail)
    if signal:
        at = re.search(r"most recent call first\):\s+(File .*)", tail)
        return f"signal {signal[1]}" + (f" at {at[1].strip()}" if at else "")
    if _oom_kills() > where.oom_kills:
        return "out of memory: the kernel killed it (SIGKILL)"
    return "signal SIGKILL, or an exit without a word"
