"""Names of metrics in; Ray's gauges for Prometheus, and the cluster's resources, out. No failure here ends a run."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import ray

log = logging.getLogger("covey")

# Each metric has the labels run and stage. Ray puts "ray_" before its name.
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
_warned: set[str] = set()


def warn_once(message: str, error: Exception) -> None:
    """Warn of a failure of the monitoring, once a process."""
    if message not in _warned:
        _warned.add(message)
        log.warning("%s (%s: %s)", message, type(error).__name__, error)


@cache
def gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, METRICS[name], ("run", "stage"))


def cluster_resources() -> dict[str, float]:
    """The cluster's total of each resource, such as CPU and GPU; empty where Ray does not answer."""
    try:
        return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    except Exception as error:
        warn_once("the cluster's size is not known; the run goes on", error)
        return {}
