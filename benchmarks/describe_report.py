"""Memory and time of describe and report on generated texts, beside their plan; the stages before are not done.

    python -m benchmarks.describe_report --records 1350000 --output benchmarks/results/describe-report.json

Nothing else may run meanwhile for the times to mean anything; the memory is that of the largest process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray

from clustering.config.sections import DescribeSection
from clustering.kernels.memory import stage_bytes
from clustering.monitoring.usage import counting_usage
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.storage import ParquetGroups
from clustering.stages.describe import describe_clusters
from clustering.viewer.findings import collect_findings, collect_syndication
from clustering.workers.labels import write_labels
from clustering.workers.tasks import run_on_one_node
from tests.planted import write_clustered

PART_RECORDS = 131_072


LOADED = {
    "describe": ("clustering.stages.cluster", "py3langid.langid", "sklearn.feature_extraction.text"),
    "report": ("matplotlib.figure", "plotly.graph_objects", "clustering.stages.cluster"),
}


def load(names: tuple[str, ...]) -> None:
    """Load what the stages before leave in a worker."""
    for name in names:
        importlib.import_module(name)
    time.sleep(3)  # so that each worker has its own


def measured(stage: str, work: Callable[[], Any]) -> dict[str, float]:
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")  # new workers
    ray.get([ray.remote(load).remote(LOADED[stage]) for _ in range(2)])
    started = time.perf_counter()
    with counting_usage() as usage:
        work()
    seconds = time.perf_counter() - started
    ray.shutdown()
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.cpu_seconds, 1),
        "peak_mib": usage.peak_bytes >> 20,
    }


def read_labels(run: RunDir) -> None:
    """What the report's pages tell of all records."""
    collect_findings(run, np.arange(ParquetGroups(run / "layers.parquet").starts[-1], dtype=np.int32))
    collect_syndication(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_350_000)
    parser.add_argument("--folder", type=Path, help="where the run lies; kept when it is there already")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = RunDir(args.folder or temporary)
        if not (run / "layers.json").exists():
            Path(str(run.path)).mkdir(parents=True, exist_ok=True)
            write_clustered(run, args.records, PART_RECORDS)
        found: dict[str, Any] = {
            "describe": measured("describe", partial(describe_clusters, run, DescribeSection())),
            "describe, 250,000 texts summed by a task": measured(
                "describe", partial(describe_clusters, run, DescribeSection(), summed_texts=250_000)
            ),
            "report, one file": measured("report", partial(write_labels, run)),
            "report, a folder": measured("report", partial(write_labels, run, 0)),
            "report, pages": measured("report", partial(run_on_one_node, read_labels, run)),
        }
        n_texts = read_index(run / "texts").rows
    planned = {line.stage: line.memory_bytes >> 20 for line in stage_bytes(n_texts, args.records, 256, 20, 60, 0)}
    for name, figures in found.items():
        figures["planned_mib"] = planned[name.partition(",")[0]]
    result = {"texts": n_texts, "records": args.records, "stages": found}
    print(json.dumps(result, indent=1))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
