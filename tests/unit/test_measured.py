"""benchmarks/measured.py: calls in a process of their own, which ends when one takes too much."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks.measured import LimitError, Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 1 << 20


def work(kind: str) -> int:
    if kind == "sleep":
        time.sleep(60)
    if kind == "grow":
        held = bytearray(os.urandom(1)) * (1 << 30)
        time.sleep(60)
        del held
    if kind == "raise":
        raise ValueError("no clusters\nin any layer")
    if kind == "die":
        os._exit(3)
    if kind == "touch":
        return len(b"x" * (100 * MIB))
    return os.getpid()


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(work, [""], most_seconds=30, most_bytes=300 * MIB)
    yield made
    made.close()


def test_calls_share_a_process_and_are_measured_one_by_one(worker: Worker) -> None:
    first, large, last = worker(""), worker("touch"), worker("")
    assert first.value == last.value != os.getpid()
    assert large.value == 100 * MIB
    assert 99 * MIB < large.peak_bytes < 150 * MIB  # the kernel counts pages in batches
    assert max(first.peak_bytes, last.peak_bytes) < 20 * MIB
    assert 0 < last.seconds < 30


@pytest.mark.parametrize(
    ("kind", "told", "lives"),
    [
        ("sleep", "more than 3 s", False),
        ("grow", "more than 0.292969 GiB", False),
        ("die", "its process died", False),
        ("raise", "ValueError: no clusters", True),
    ],
)
def test_what_fails_is_told_and_the_next_call_works(worker: Worker, kind: str, told: str, lives: bool) -> None:
    process = worker("").value
    worker.most_seconds = 3 if kind == "sleep" else 30
    with pytest.raises(LimitError) as caught:
        worker(kind)
    assert str(caught.value) == told
    assert (worker("").value == process) == lives


def test_a_first_call_may_fail_but_not_end_the_process() -> None:
    worker = Worker(work, ["raise", ""], most_seconds=30, most_bytes=300 * MIB)
    assert worker("").value != os.getpid()
    worker.close()
    dying = Worker(work, ["", "die"], most_seconds=30, most_bytes=300 * MIB)
    for _ in range(2):
        with pytest.raises(LimitError, match="its process died"):
            dying("")


def test_pages_of_the_object_store_count_for_no_process() -> None:
    """A worker keeps those that it has touched until it ends; each later stage seemed to need them."""
    code = """
import mmap, os
from clustering.monitoring.usage import measured_peak
descriptor = os.memfd_create("store")
os.ftruncate(descriptor, 200 << 20)
store = mmap.mmap(descriptor, 200 << 20)
found = []
for own in (0, 100 << 20):
    with measured_peak() as peak:
        found.append(bytearray(own))
        for memory in (store, found[-1]):
            for at in range(0, len(memory), 4096):
                memory[at] = 1
    print(peak.bytes >> 20)
"""
    small, large = map(
        int, subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split()
    )
    assert small < 150
    assert 80 < large - small < 120
