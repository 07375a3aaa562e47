"""Work in; the memory, CPU time and GPU time that it has used out, charged to the caller's account."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

T = TypeVar("T")
# M_MMAP_THRESHOLD of mallopt(3), and bytes. From there on an array has pages of its own, which go back with it.
# Left to itself, glibc takes arrays of up to 32 MiB from its heaps, one for each thread, and holds on to the holes.
OWN_PAGES = -3, 4 << 20


@dataclass
class Usage:
    """The resources that some work has used."""

    peak_bytes: int = 0  # of the largest process
    cpu_seconds: float = 0.0  # of all processes
    gpu_seconds: float = 0.0  # GPUs times the seconds for which they were reserved
    gpu_busy_seconds: float = 0.0  # those in which the model was at work

    def add(self, other: Usage) -> None:
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.cpu_seconds += other.cpu_seconds
        self.gpu_seconds += other.gpu_seconds
        self.gpu_busy_seconds += other.gpu_busy_seconds


_account: ContextVar[Usage | None] = ContextVar("account", default=None)  # of this thread


def charge(usage: Usage) -> None:
    """Add usage to this thread's account, if it has one."""
    if (account := _account.get()) is not None:
        account.add(usage)


@contextmanager
def counting_usage() -> Iterator[Usage]:
    """Open an account for what this thread is charged within the block."""
    usage = Usage()
    token = _account.set(usage)
    try:
        yield usage
    finally:
        _account.reset(token)


def measure(work: Callable[..., T], *args: Any) -> tuple[T, Usage]:
    """Do the work; return its result and usage, with the usage of the tasks that it has collected."""
    with counting_usage() as usage, measured_peak() as peak:
        before = time.process_time()
        result = work(*args)
    usage.add(Usage(peak.bytes, time.process_time() - before))
    return result, usage


@dataclass
class Peak:
    """The peak resident memory of a block, set at its end."""

    bytes: int = 0


@contextmanager
def measured_peak() -> Iterator[Peak]:
    """Measure the peak resident memory of this process within the block (on Linux; elsewhere since its start)."""
    peak = Peak()
    release_memory()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's high-water mark
    try:
        yield peak
    finally:
        peak.bytes = peak_bytes()


def release_memory() -> None:
    """Return freed memory to the system, so that it does not count for the next stage of this worker."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has these
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(*OWN_PAGES)
        libc.malloc_trim(0)


def peak_bytes() -> int:
    """The peak resident memory of this process since the last reset, without the pages of Ray's object store.

    All workers of a node share these, and one that has touched them keeps them until it ends, also in later stages.
    """
    try:
        status = Path("/proc/self/status").read_text()
        peak, shared = (int(status.split(f"{name}:")[1].split()[0]) for name in ("VmHWM", "RssShmem"))
        return (peak - shared) * 1024
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
