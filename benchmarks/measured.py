"""A function in; a process of its own that calls it, measures seconds and memory, and ends it beyond a limit, out."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

POLLED_S, GRACE_S = 0.1, 2.0
DIED = "its process died"


def memory_of(name: str, process: int | str = "self") -> int:
    """Bytes of a process. name : VmRSS, or VmHWM for the most; process : its id, or this one"""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)  # one that ended has none


class LimitError(Exception):
    """What a call has taken too much of, or how it has failed, in words."""


@dataclass(frozen=True)
class Measured:
    """What a call returns, its seconds, and the most bytes beyond those that the process held before it."""

    value: Any
    seconds: float
    peak_bytes: int


class Worker:
    """Calls a function in a process that lives from call to call, so that what is compiled stays so (Linux).

    run : a function of a module, or a partial of one, of one argument
    first : arguments of first calls that are not measured, in each new process
    most_seconds, most_bytes : of a call, beyond what the process held before; more ends the process
    """

    def __init__(self, run: Callable[[Any], Any], first: Sequence[Any], most_seconds: float, most_bytes: int) -> None:
        self.run, self.first, self.most_seconds, self.most_bytes = run, first, most_seconds, most_bytes
        self._process: Any = None
        self._waiting = 0  # first calls that have no answer yet

    def start(self) -> None:
        """Begin a process, which makes its first calls; nobody waits for them."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.run, self.first))
        self._process.start()
        self._waiting = len(self.first)
        theirs.close()

    def wait(self) -> None:
        """Wait for the first calls; one that fails does no harm. Raises: LimitError where the process dies."""
        if self._process is None:
            self.start()
        while self._waiting:
            self._receive()
            self._waiting -= 1

    def __call__(self, argument: Any) -> Measured:
        """Raises: LimitError for a call that fails, or takes too long or too much memory."""
        self.wait()
        try:
            self._pipe.send(argument)
        except ConnectionError:
            raise self._end(DIED) from None
        held, started = memory_of("VmRSS", self._process.pid), time.perf_counter()
        while not self._pipe.poll(POLLED_S):
            passed = time.perf_counter() - started
            if passed > self.most_seconds:
                raise self._end(f"more than {self.most_seconds:g} s")
            if memory_of("VmRSS", self._process.pid) - held > self.most_bytes:
                raise self._end(f"more than {self.most_bytes / (1 << 30):g} GiB")
        found = self._receive()
        if isinstance(found, str):
            raise LimitError(found)
        return found

    def close(self) -> None:
        if self._process is not None:
            self._pipe.close()  # one that waits for an argument ends by itself
            self._process.join(0 if self._waiting else GRACE_S)
            self._process.kill()
            self._process.join()
            self._process = None

    def _receive(self) -> Measured | str:
        try:
            found: Measured | str = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise self._end(DIED) from None
        return found

    def _end(self, why: str) -> LimitError:
        self._process.kill()
        self.close()
        return LimitError(why)


def _serve(pipe: Connection, run: Callable[[Any], Any], first: Sequence[Any]) -> None:
    for argument in first:
        pipe.send(_answer(run, argument))
    while True:
        try:
            argument = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(run, argument))


def _answer(run: Callable[[Any], Any], argument: Any) -> Measured | str:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, so that it does not count as held
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, started = memory_of("VmRSS"), time.perf_counter()
    try:
        value = run(argument)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return Measured(value, time.perf_counter() - started, memory_of("VmHWM") - before)
