"""A run of generated headlines and the clusterer alone, in about a minute; prints two Markdown tables.

    python -m benchmarks.quick

The run uses the static encoder and the embedded store; its figures are those of its report.json. The clusterer gets
exact neighbor lists of points in 8 dimensions, made by benchmarks.graph_to_labels, after a small fit that compiles.
Compare figures of one machine only, and start it twice: the first start compiles the kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.graph_to_labels import MIN_CLUSTER_SIZE, MIN_SAMPLES, lists_of
from clustering import GraphHDBSCAN, write_sample

ROOT = Path(__file__).resolve().parents[1]


def run_stages(n_texts: int, folder: Path) -> dict[str, Any]:
    """report.json of a run of so many generated records, and the seconds of the whole command."""
    write_sample(folder / "sample.csv", n_texts)
    words = ["run", "--config", str(ROOT / "cluster_configs/laptop.yaml"), f"run.dir={folder / 'run'}"]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "clustering.cli.main", *words, f"read.paths={folder / 'sample.csv'}"],
        capture_output=True, check=True, text=True, cwd=ROOT,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return {**json.loads((folder / "run" / "report.json").read_text(encoding="utf-8")), "seconds": seconds}


def print_stages(report: dict[str, Any]) -> None:
    counts, search, clusters = (report[name] for name in ("counts", "search", "clusters"))
    print(f"{counts['records']:,} records, {counts['texts']:,} distinct texts, {clusters['count']:,} clusters, "
          f"recall {search['recall']:.3f}, {report['seconds']:.1f} s for the whole command\n")  # fmt: skip
    print("| stage | seconds | texts/s | CPU seconds | peak, MiB |\n| --- | ---: | ---: | ---: | ---: |")
    for name, stage in report["stages"].items():
        speed = counts["texts"] / max(stage["seconds"], 1e-3)
        peak = (stage["peak_bytes"] or 0) / 2**20
        print(f"| {name} | {stage['seconds']:.2f} | {speed:,.0f} | {stage['cpu_seconds']:.1f} | {peak:,.0f} |")


def print_fits(sizes: list[int], k: int) -> None:
    fits = {
        "default": GraphHDBSCAN(),
        "plain HDBSCAN": GraphHDBSCAN(MIN_SAMPLES, MIN_CLUSTER_SIZE, weights="distance", selection="eom"),
    }
    small = lists_of(2000, k, 8)
    print("\n| clusterer | texts | k | seconds | clusters | noise |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for n_rows in sizes:
        lists = lists_of(n_rows, k, 8)
        for name, model in fits.items():
            model.fit(small)
            started = time.perf_counter()
            labels = model.fit(lists).labels_
            seconds = time.perf_counter() - started
            print(f"| {name} | {n_rows:,} | {k} | {seconds:.2f} | {labels.max() + 1:,} | {(labels < 0).mean():.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=15_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000], help="rows of the clusterer's lists")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as scratch:
        print_stages(run_stages(given.texts, Path(scratch)))
    print_fits(given.sizes, 15)


if __name__ == "__main__":
    main()
