"""What Prometheus sees of a stage, through Ray; trouble with it is told once and ends no run."""

from __future__ import annotations

import logging
from typing import Any

import ray

log = logging.getLogger("covey")

# What Prometheus sees, each with the labels run and stage; Ray puts "ray_" before the names.
METRICS = {
    "covey_stage_running": "1 while the stage works",
    "covey_stage_seconds": "seconds since the stage began",
    "covey_seconds_left": "seconds until the parts at hand are done, at the speed so far",
    "covey_parts_done": "parts of the stage that are done",
    "covey_parts_total": "parts of the stage",
    "covey_rows_per_second": "records read, texts embedded, vectors stored, or queries answered a second",
    "covey_retries": "requests to Milvus that were repeated",
    "covey_recall": "share of the true neighbors that the search found",
    "covey_gpu_idle_ratio": "share of the time in which the model was not at work on the GPUs that the stage holds",
    "covey_peak_bytes": "highest resident memory of a process of the stage",
    "covey_driver_bytes": "highest resident memory of the driver so far",
}
_hindered: set[str] = set()


def warn_once(what: str, error: Exception) -> None:
    """Warn of what hinders telling, once a process."""
    if what not in _hindered:
        _hindered.add(what)
        log.warning("%s (%s: %s)", what, type(error).__name__, error)


_gauges: dict[str, Any] = {}


def gauge(name: str) -> Any:
    if name not in _gauges:
        from ray.util.metrics import Gauge

        _gauges[name] = Gauge(name, METRICS[name], ("run", "stage"))
    return _gauges[name]


def cluster_resources() -> dict[str, float]:
    """What the cluster has of each resource."""
    try:
        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    except Exception as error:
        warn_once("the cluster's size is not known; the run goes on", error)
        found = {}
    return found
