"""What the whole costs beyond its stages: the command's wall time beside the same stages without Ray around them.

    python -m benchmarks.whole_run --texts 260000    # 200,000 distinct ones

The command runs as a user starts it, against the packaged Milvus server (extra `server`). Then every stage's function
is called again in one plain process, its workers in as many plain processes as Ray had, on a directory of its own. The
two runs' labels are compared (two HNSW indexes of the same vectors differ a little). Memory: each stage's measured peak
beside its plan.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=260_000)
    parser.add_argument("--output", default="benchmarks/results/whole-run.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_sample(home / "sample.parquet", given.texts)
        process, uri = start_milvus(home / "milvus")
        words = [f"read.paths={home / 'sample.parquet'}", f"store.uri={uri}", "store.index=HNSW"]
        try:
            started = time.perf_counter()
            command = [sys.executable, "-m", "jobs.cluster_texts", "--config", "cluster_configs/laptop.yaml", *words]
            subprocess.run([*command, f"run.dir={home / 'whole'}"], check=True)
            wall = time.perf_counter() - started
            with without_ray():
                bare = bare_stages(words, RunDir(home / "bare"))
        finally:
            stop_milvus(process)
        whole = RunDir(home / "whole")
        labels = [pq.read_table(home / name / "labels.parquet")["label"].to_numpy() for name in ("whole", "bare")]
        manifest, figures = whole.manifest, whole.report
        found = {
            "texts": figures["counts"]["texts"],
            "wall_s": round(wall, 1),
            "stages_s": {name: stage["seconds"] for name, stage in manifest["stages"].items()},
            "bare_s": bare,
            "wall_to_stages": round(wall / sum(stage["seconds"] for stage in manifest["stages"].values()), 3),
            "wall_to_bare": round(wall / sum(bare.values()), 3),
            "ari_of_labels": round(float(adjusted_rand_score(*labels)), 4),
            "memory": {
                name: {
                    "peak_mib": stage["figures"]["peak_bytes"] >> 20,
                    "planned_mib": manifest["plan"][name]["memory"] >> 20,
                }
                for name, stage in manifest["stages"].items()
            },
            "driver_mib": figures["driver_bytes"] >> 20,
            "machine": f"{platform.machine()}, 2 cores",
            "versions": versions(),
        }
    Path(given.output).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
