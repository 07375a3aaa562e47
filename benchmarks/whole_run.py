"""What the whole costs beyond its stages: the command's wall time beside the same stages without Ray around them.

    python -m benchmarks.whole_run --texts 260000    # 200,000 distinct ones
    python -m benchmarks.whole_run --texts 5900000 --only-command --settings search.k=20 \
        --output benchmarks/results/whole-run-4m.json    # 4 million distinct ones, in more than an hour

The command runs as a user starts it, against the packaged Milvus server (extra `server`). Then every stage's function
is called again in one plain process, its workers in as many plain processes as Ray had, on a directory of its own. The
two runs' labels are compared (two HNSW indexes of the same vectors differ a little). Memory: each stage's measured peak
beside its plan, and the most that any process of each name held, the server's too, sampled once a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
from sklearn.metrics import adjusted_rand_score

from clustering.config.loading import load_config
from clustering.milvus.endpoint import endpoint_of
from clustering.monitoring.usage import Usage
from clustering.preflight import versions
from clustering.runs.directory import RunDir
from clustering.sample import write_sample
from clustering.sources.detection import find_files
from clustering.stages import cluster, describe, embed, forest, graph, plot, project, read, report, search, store
from clustering.workers.nodes import Node
from tests.integration.conftest import start_milvus, stop_milvus

_worker: Any = None


def _make(make: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    global _worker
    _worker = make(**kwargs)


def _call(item: dict[str, Any]) -> dict[str, Any]:
    return {**_worker(item), "item": item["item"]}


def map_parts(
    make: Any, items: list[Any], *, actors: int | None = None, take: Any = None, per_node: int | None = None,
    cpus: float = 1, gpus: float = 0, at_once: int = 1, **kwargs: Any,
) -> Any:  # fmt: skip
    """Workers in plain processes."""
    numbered = [{**item, "item": number} for number, item in enumerate(items)]
    if not items:
        return []
    with ProcessPoolExecutor(min(actors or 2, len(items)), get_context("spawn"), _make, (make, kwargs)) as pool:
        results = list(pool.map(_call, numbered))
    for result in results if take else ():
        take(result)
    return results


class Plain:
    """What the stages ask of Ray, without it."""

    @staticmethod
    def put(value: Any) -> Any:
        return value

    get = put

    @staticmethod
    def remote(work: Callable[..., Any]) -> Any:
        return SimpleNamespace(remote=work)

    @staticmethod
    def wait(waiting: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return waiting[:num_returns], waiting[num_returns:]


@contextmanager
def without_ray() -> Any:
    plain = {
        "ray": Plain,
        "map_parts": map_parts,
        "run_on_one_node": lambda work, *args: work(*args),
        "compute_remotely": lambda work, *args: work(*args),
        "submit": lambda work, *args, **_: (work(*args), Usage()),
        "node_cpus": lambda: 2,
        "cluster_cpus": lambda: 2,
        "live_nodes": lambda: [Node("one", "127.0.0.1", 2, 0, 0)],
    }
    modules = [module for name, module in sys.modules.items() if name.startswith("clustering.")]
    kept = [(module, name, getattr(module, name)) for module in modules for name in plain if hasattr(module, name)]
    for module, name, _ in kept:
        setattr(module, name, plain[name])
    yield
    for module, name, value in kept:
        setattr(module, name, value)


def bare_stages(words: list[str], run: RunDir) -> dict[str, float]:
    """Seconds of each stage's function on a directory of its own."""
    config = load_config("cluster_configs/laptop.yaml", [*words, f"run.dir={run.path}", "store.collection=bare"])
    endpoint, seconds = endpoint_of(config, config.store.uri), {}
    metric, k, seed = config.store.metric, config.graph_k, config.run.seed

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = work()
        seconds[name] = round(time.perf_counter() - started, 2)
        return found

    files = find_files(config.read)
    n_texts = timed("read", lambda: read.read_texts(files, config.read, run, 256))["texts"]
    dim = timed("embed", lambda: embed.embed_texts(run, config.embed))["dim"]
    timed("store", lambda: store.store_vectors(run, endpoint, config.store, n_texts, dim, "bare"))
    timed("search", lambda: search.search_neighbors(run, endpoint, config.store, config.search, n_texts, seed))
    timed("graph", lambda: graph.build_graph(run, config.graph, k, n_texts, metric))
    timed("forest", lambda: forest.build_forest(run, config.cluster, config.graph, metric, seed))
    timed("cluster", lambda: cluster.cluster_graph(run, config.cluster, k, metric))
    timed("describe", lambda: describe.describe_clusters(run, config.describe))
    timed("project", lambda: project.project_texts(run, config.project, n_texts, seed))
    timed("plot", lambda: plot.plot_map(run, config.plot, config.name, seed))
    timed("report", lambda: report._write_labels(run))
    return seconds


class Watch(threading.Thread):
    """Notes the most memory that any process of each name below this one held, once a second, in MiB."""

    def __init__(self, *others: int) -> None:
        super().__init__(daemon=True)
        self.roots, self.over, self.peaks = {os.getpid(), *others}, threading.Event(), dict[str, int]()

    def __enter__(self) -> dict[str, int]:
        self.start()
        return self.peaks

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(1):
            seen = {}
            for path in Path("/proc").glob("[0-9]*/status"):
                with suppress(OSError):  # it has ended
                    seen[int(path.parent.name)] = dict(line.split(":\t", 1) for line in path.read_text().splitlines())
            below = self.roots & seen.keys()
            while more := {pid for pid, status in seen.items() if int(status["PPid"]) in below} - below:
                below |= more
            for pid in below:
                name, peak = seen[pid]["Name"].strip(), int(seen[pid].get("VmHWM", "0").split()[0]) >> 10
                self.peaks[name] = max(self.peaks.get(name, 0), peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=260_000)
    parser.add_argument("--output", default="benchmarks/results/whole-run.json")
    parser.add_argument("--only-command", action="store_true", help="not the stages without Ray")
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_sample(home / "sample.parquet", given.texts)
        bare = dict[str, float]()
        process, uri = start_milvus(home / "milvus")
        words = [f"read.paths={home / 'sample.parquet'}", f"store.uri={uri}", "store.index=HNSW", *given.settings]
        try:
            started = time.perf_counter()
            command = [sys.executable, "-m", "jobs.cluster_texts", "--config", "cluster_configs/laptop.yaml", *words]
            with Watch(process.pid) as peaks:
                subprocess.run([*command, f"run.dir={home / 'whole'}"], check=True)
            wall = time.perf_counter() - started
            if not given.only_command:
                with without_ray():
                    bare = bare_stages(words, RunDir(home / "bare"))
        finally:
            stop_milvus(process)
        whole = RunDir(home / "whole")
        manifest, figures = whole.manifest, whole.report
        found = {
            "texts": figures["counts"]["texts"],
            "wall_s": round(wall, 1),
            "stages_s": {name: stage["seconds"] for name, stage in manifest["stages"].items()},
            "wall_to_stages": round(wall / sum(stage["seconds"] for stage in manifest["stages"].values()), 3),
            "memory": {
                name: {
                    "peak_mib": stage["figures"]["peak_bytes"] >> 20,
                    "planned_mib": manifest["plan"][name]["memory"] >> 20,
                }
                for name, stage in manifest["stages"].items()
            },
            "driver_mib": figures["driver_bytes"] >> 20,
            "process_peaks_mib": dict(sorted(peaks.items(), key=lambda peak: -peak[1])),
            "warnings": figures["warnings"],
            "machine": f"{platform.machine()}, 2 cores",
            "versions": versions(),
        }
        if bare:
            labels = [pq.read_table(home / name / "labels.parquet")["label"].to_numpy() for name in ("whole", "bare")]
            found |= {
                "bare_s": bare,
                "wall_to_bare": round(wall / sum(bare.values()), 3),
                "ari_of_labels": round(float(adjusted_rand_score(*labels)), 4),
            }
    Path(given.output).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
