"""GPUs are charged for the time for which a worker held them, not for its waiting; memory that is freed is free."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from clustering.monitoring.usage import Usage, counting_usage
from clustering.workers import pool, tasks
from clustering.workers.pool import _Job, _Pool, _Slot
from clustering.workers.reservations import Request
from clustering.workers.tasks import run_with_retries


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (pool, tasks):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.parametrize("placed", [True, False])
def test_an_actor_is_charged_from_when_it_has_a_node(
    placed: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = SimpleNamespace(wait=lambda of, timeout: ([], of), kill=lambda actor: None)
    monkeypatch.setattr(pool, "ray", ray)
    of_gpus = _Pool(_Job(dict, {}, Request("embed", cpus=0, gpus=2)), [], 1, None, 1)
    slot = _Slot("actor", "process", items=1)
    of_gpus.slots.append(slot)
    with counting_usage() as usage:
        of_gpus._resize()
        clock.now = 600
        if placed:
            ray.wait = lambda of, timeout: (of, [])
            of_gpus._resize()
        clock.now = 610
        of_gpus._end(slot)
    assert usage.gpu_seconds == (20 if placed else 0)


def test_a_single_task_is_charged_from_its_start(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> tuple[Any, Any]:
        clock.now += 600
        return iter(["result"]), SimpleNamespace(node_id="node")

    def get(_: str) -> tuple[int, Usage]:
        clock.now += 10
        return 1, Usage()

    monkeypatch.setattr(tasks, "_start", start)
    monkeypatch.setattr(tasks.ray, "wait", lambda of, timeout: (of, []))
    monkeypatch.setattr(tasks.ray, "get", get)
    with counting_usage() as usage:
        assert run_with_retries(Request("embed", gpus=0.5), "a part", len)[0] == 1
    assert usage.gpu_seconds == 5


GROWN = """
import ctypes, sys
import numpy as np
from clustering.monitoring.usage import measure

libc = ctypes.CDLL("libc.so.6")
if not hasattr(libc, "mallinfo2"):
    sys.exit(77)
libc.mallinfo2.restype = type("Info", (ctypes.Structure,), {"_fields_": [(n, ctypes.c_size_t) for n in "abcdefghij"]})
own_pages = lambda: libc.mallinfo2().e  # hblkhd: bytes of arrays with pages of their own
for _ in range(2):
    np.ones(30 << 20, np.uint8)  # glibc gives arrays of that size no pages of their own after it
before = own_pages()
print(own_pages() - before if (array := np.ones(8 << 20, np.uint8)).size else 0)
del array
print(measure(lambda: own_pages() - before if (array := np.ones(8 << 20, np.uint8)).size else 0)[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_large_arrays_of_work_go_back_to_the_system_when_they_are_freed() -> None:
    asked = subprocess.run([sys.executable, "-c", GROWN], capture_output=True, text=True)
    if asked.returncode == 77:
        pytest.skip("the C library is no glibc of 2.33 or later")
    untamed, tamed = map(int, asked.stdout.split())
    assert untamed == 0, "glibc no longer does what is kept off here"
    assert tamed >= 8 << 20
