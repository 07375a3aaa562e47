"""What the workers of test_parts.py do: apart from the tests, whose imports each new worker would pay for."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import ray

from clustering.errors import ConfigError
from clustering.kernels.threads import thread_count


class Marks:
    """Leaves a file for each part, and fails as it is told."""

    def __init__(self, folder: Path, error: type[Exception] | None) -> None:
        self.folder, self.error = folder, error

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        (self.folder / str(item["item"])).touch()
        if self.error:
            raise self.error([f"part {item['item']}"]) if self.error is ConfigError else self.error("no answer")
        return {"rows": 1}


class Threads:
    """Says how many threads its actor may use."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"rows": 1, "threads": thread_count()}


def given() -> tuple[dict[str, float], int]:
    """What a task holds, and its threads."""
    return ray.get_runtime_context().get_assigned_resources(), thread_count()


def meets(mine: Path, theirs: Path) -> bool:
    """Leave a file, and wait for the other's: both are at work at the same time."""
    mine.touch()
    deadline = time.monotonic() + 300
    while not theirs.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return theirs.exists()


class Dies:
    """A worker that some parts end: each the way it says, as often as it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        tried = self.folder / f"{item['item']}"
        tries = len(list(self.folder.glob(f"{item['item']}-*")))
        if tries < item.get("times", 0):
            (self.folder / f"{item['item']}-{tries}").touch()
            os.kill(os.getpid(), getattr(signal, item["how"]))
            time.sleep(20)
        time.sleep(item.get("rest", 0))
        tried.touch()
        return {"rows": 1}


class DiesUnlessTold:
    """A worker that ends with each item that does not say that it has been tried before."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if not item.get("again"):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"rows": 1}


class Together:
    """A worker whose calls end when as many are at work as it is told."""

    def __init__(self, count: int) -> None:
        self.barrier = Barrier(count)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        self.barrier.wait(timeout=300)
        return {"rows": item["item"]}


class Crowd:
    """A worker that says how many parts it has had at a time."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = Lock(), 0, 0

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.3)
        with self.lock:
            self.now -= 1
            return {"rows": 1, "most": self.most}


class Unbegun:
    def __init__(self, folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError


def misses_a_key() -> None:
    raise KeyError("missing")
