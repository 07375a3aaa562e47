"""A stage's finished parts in; its progress out, for the log, Prometheus and ``covey status``."""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from clustering.errors import StageError
from clustering.monitoring.metrics import cluster_resources, gauge, warn_once
from clustering.monitoring.usage import Usage, counting_usage, peak_bytes
from clustering.runs.directory import RunDir
from clustering.runs.inventory import PROGRESS
from clustering.runs.object_store import RemotePath
from clustering.runs.storage import write_json
from clustering.schema import Figures

T = TypeVar("T")
log = logging.getLogger("covey")
WRITE_EVERY_S = 2  # progress.json and the metrics
LOG_EVERY_S = 30


class StageProgress:
    """The progress of one stage, in its driver."""

    def __init__(self, run: RunDir, name: str, stage: str, expected: dict[str, float] | None = None) -> None:
        """expected : the estimated seconds of this stage and the later ones, in their order"""
        self.run, self.name, self.stage = run, name, stage
        expected = expected or {}
        self.expected_s = expected.get(stage)
        order = list(expected)
        self.later_s = sum(expected[name] for name in order[order.index(stage) + 1 :]) if stage in expected else 0.0
        self.usage = Usage()
        self.started = self.since = self.logged = time.time()
        self.written = 0.0
        self.done = self.total = self.rows = self.retries = 0
        self.what = ""  # what is counted, where it is not parts
        self.waits = ""  # what its task waits for before it starts
        self.gpus = 0.0  # reserved now
        self.watched = False  # by a thread that reports regularly, so that the stage never waits for a write

    def expect(self, total: int, gpus: float = 0) -> None:
        """Start to count so many parts, done with so many GPUs."""
        self.done, self.total, self.rows, self.gpus, self.what = 0, total, 0, gpus, ""
        self.since = time.time()
        self._changed()

    def advance(self, result: Figures) -> None:
        """Count a finished part, with the rows and retries of its result."""
        self.done += 1
        self.rows += int(result.get("rows", 0))
        self.retries += int(result.get("retries", 0))
        self._changed()

    def step(self, what: str, done: int, total: int) -> None:
        """Note how far another process has come, such as the server with its index."""
        if what != self.what:
            self.what, self.since = what, time.time()
        self.done, self.total, self.rows = done, total, 0
        self._changed()

    def _changed(self) -> None:
        if not self.watched:
            self.report()

    @property
    def left_s(self) -> float | None:
        """Seconds until all parts are done: by the speed so far, or by the estimate before the first part is done."""
        now = time.time()
        if self.done and now - self.since > 1:
            return (now - self.since) * (self.total - self.done) / self.done
        left = (self.expected_s or 0) - (now - self.started)
        return left if left > 0 else None

    @property
    def run_left_s(self) -> float | None:
        """Seconds until the run is done, where they are estimated."""
        left = self.left_s
        return None if self.expected_s is None or left is None else left + self.later_s

    @property
    def rows_per_second(self) -> float | None:
        spent = time.time() - self.since
        return self.rows / spent if self.rows and spent > 0 else None

    @property
    def gpu_idle(self) -> float | None:
        """The share of the reserved GPU time in which the model was not at work."""
        reserved = self.usage.gpu_seconds + self.gpus * (time.time() - self.since)
        return max(0.0, 1 - self.usage.gpu_busy_seconds / reserved) if reserved else None

    def figures(self) -> Figures:
        """The content of progress.json."""
        return {
            "stage": self.stage,
            "started": round(self.started, 3),
            "updated": round(time.time(), 3),
            "what": self.what,
            "waits": self.waits,
            "done": self.done,
            "total": self.total,
            "rows_per_second": _rounded(self.rows_per_second),
            "left_s": _rounded(self.left_s),
            "run_left_s": _rounded(self.run_left_s),
            "host": platform.node(),
            "pid": os.getpid(),
        }

    def report(self) -> None:
        """Write, export and log the progress, each in its own interval. A failure of these does not end the run."""
        if not _reporting.acquire(blocking=False):  # another thread reports
            return
        try:
            now = time.time()
            if now - self.written >= WRITE_EVERY_S:
                self.written = now
                self.write()
                self.export()
            if now - self.logged >= LOG_EVERY_S:
                self.logged = now
                figures = self.figures()
                log.info("%s", progress_line(figures), extra={"fields": {"event": "progress", **figures}})
        finally:
            _reporting.release()

    def write(self) -> None:
        """Write progress.json: the first of the stages at work, with the others beside it."""
        first, *beside = [stage.figures() for stage in _at_work if stage.run == self.run] or [self.figures()]
        progress, path = {**first, "beside": beside}, self.run / PROGRESS
        try:
            if isinstance(path, RemotePath):
                path.upload(json.dumps(progress).encode(), tries=1)  # the next write follows soon
            else:
                write_json(path, progress)
        except Exception as error:  # from a disk, an object store, or its client
            warn_once(f"{PROGRESS} cannot be written, so `covey status` tells less; the run goes on", error)

    @contextmanager
    def reporting_regularly(self) -> Iterator[None]:
        """Report throughout the block, also while no part is finished, or the stage has no parts."""
        ended = threading.Event()

        def keep_reporting() -> None:
            while not ended.wait(WRITE_EVERY_S):
                self.report()

        thread = threading.Thread(target=keep_reporting, daemon=True)
        thread.start()
        self.watched = True
        try:
            yield
        finally:
            self.watched = False
            ended.set()
            thread.join()

    def export(self, **more: Any) -> None:
        """Set the metrics that Ray exports to Prometheus."""
        values = {
            "covey_stage_running": 1,
            "covey_stage_seconds": time.time() - self.started,
            "covey_seconds_left": self.left_s,
            "covey_parts_done": self.done,
            "covey_parts_total": self.total,
            "covey_rows_per_second": self.rows_per_second,
            "covey_retries": self.retries,
            "covey_gpu_idle_ratio": self.gpu_idle,
            **more,
        }
        try:
            for name, value in values.items():
                if value is not None:
                    gauge(name).set(float(value), {"run": self.name, "stage": self.stage})
        except Exception as error:
            warn_once("metrics for Prometheus cannot be set; the run goes on", error)


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


_reporting = threading.Lock()
_at_work: list[StageProgress] = []  # in this driver; stages may run beside each other, each in a thread
_current: ContextVar[StageProgress | None] = ContextVar("current", default=None)


def current_stage() -> StageProgress | None:
    """The stage of this thread; None in a worker, and where a stage function is called without a pipeline."""
    return _current.get()


def stages_at_work() -> list[Figures]:
    """The progress of each stage that this driver is at, as progress.json has it."""
    return [stage.figures() for stage in list(_at_work)]


def track_stage(
    run: RunDir, name: str, stage: str, work: Callable[[], Figures], expected: dict[str, float] | None = None
) -> Figures:
    """Do a stage's work and report its progress; return its figures, with its memory and usage.

    name : of the run, for metrics; expected : the estimated seconds of the stages
    Raises: StageError when the run directory cannot be written, for instance because its disk is full.
    """
    progress = StageProgress(run, name, stage, expected)
    _at_work.append(progress)
    token = _current.set(progress)
    log.debug("%s begins", stage, extra={"fields": {"event": "stage_started", "stage": stage}})
    try:
        with counting_usage() as progress.usage:
            progress.report()
            with progress.reporting_regularly():
                figures = work()
    except OSError as error:
        raise StageError(
            f"{stage}: {error} (run.dir {run.path}). When that is mended, the same command goes on from the last "
            f"finished part"
        ) from error
    finally:
        _current.reset(token)
        _at_work.remove(progress)
    usage, driver_bytes = progress.usage, peak_bytes()
    cluster = cluster_resources()
    progress.export(
        covey_stage_running=0, covey_seconds_left=0, covey_recall=figures.get("recall"),
        covey_retries=figures.get("retries"), covey_peak_bytes=usage.peak_bytes, covey_driver_bytes=driver_bytes,
    )  # fmt: skip
    used = {
        "cpu_seconds": round(usage.cpu_seconds, 2),
        "gpu_seconds": round(usage.gpu_seconds, 2),
        "gpu_idle": _rounded(progress.gpu_idle, 3),
        "driver_bytes": driver_bytes,
        "cpus": cluster.get("CPU", 0),  # of the whole cluster, which is paid for
        "gpus": cluster.get("GPU", 0),
    }
    return {**figures, "peak_bytes": usage.peak_bytes, "used": used}


def progress_line(progress: Figures) -> str:
    """One line: how far a stage is, how fast, and how long it will take.

    progress : the content of progress.json
    """
    if progress.get("waits"):
        line = f"{progress['stage']}: {progress['waits']}"
    elif progress["total"]:
        what = f"{progress['total']:,} {progress['what'] or 'parts'} ({progress['done'] / progress['total']:.0%})"
        line = f"{progress['stage']}: {progress['done']:,} of {what}"
    else:
        line = f"{progress['stage']}: at work for {format_duration(progress['updated'] - progress['started'])}"
    if progress["rows_per_second"]:
        line += f", {progress['rows_per_second']:,.0f} rows a second"
    if progress["left_s"] is not None:
        line += f", {format_duration(progress['left_s'])} left"
    if progress.get("run_left_s") is not None:
        line += f", of the run about {format_duration(progress['run_left_s'])}"
    return line


def format_duration(seconds: float) -> str:
    """Seconds in a readable unit: 12 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
