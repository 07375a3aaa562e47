"""The stages graph, forest and cluster in some numbers of blocks: peaks of each kind of process beside the plan.

    python -m benchmarks.graph_blocks --texts 1000000 --k 20 --blocks 1 4 16 64 --output figures.json

Peaks are in MiB. Those of the graph count what a process maps of Ray's object store; those of the shards do not. The
lists are generated: four of five neighbors are near rows of the same or the next partition, the others are any rows.
With ``--run`` they are those of a finished run. The halo share is the rows that blocks name of others, per text; a
round sends each of them once, in so many messages. Every number of blocks has a Ray of its own, with 2 cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clustering import schema
from clustering.config.sections import ClusterSection, GraphSection
from clustering.kernels.graph.diffusion import DIMS
from clustering.kernels.memory import ShardBytes, forest_bytes, graph_bytes, part_rows, process_bytes
from clustering.monitoring.usage import Usage
from clustering.monitoring.usage import measure as measured_usage
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import block_index
from clustering.runs.parts import part_name, write_part


def generate(run: RunDir, n_texts: int, k: int) -> None:
    rng = np.random.default_rng(0)
    cell = rng.integers(0, min(256, max(1, n_texts // 4096)), n_texts).astype(np.int32)
    order = np.argsort(cell, kind="stable")
    place = np.empty(n_texts, np.int64)
    place[order] = np.arange(n_texts)
    near, size = k * 4 // 5, part_rows(n_texts, 256, 70)
    for part, first in enumerate(range(0, n_texts, size)):
        rows = np.arange(first, min(first + size, n_texts))
        steps = np.cumsum(rng.geometric(0.02, (rows.size, near)), axis=1) * np.where(np.arange(near) % 2, 1, -1)
        far = rng.integers(0, n_texts, (rows.size, k - near))
        others = order[np.concatenate([(place[rows][:, None] + steps) % n_texts, far], axis=1)]
        others = np.where(others == rows[:, None], (others + 1) % n_texts, others)
        away = np.sort(rng.random((rows.size, k), np.float32) + np.float32(0.05), axis=1)
        ends = pa.array(np.arange(0, others.size + 1, k, dtype=np.int32))
        lists = [pa.ListArray.from_arrays(ends, pa.array(values.ravel())) for values in (others, away)]
        texts = {
            "row": rows,
            "text": [f"headline number {row} about something in the town of {row * 7919 % n_texts}" for row in rows],
            "copies": np.ones(rows.size, np.int32),
        }
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2 * rows.size, np.float32)), 2)
        neighbors = pa.table([pa.array(rows), *lists, pa.array(cell[rows])], schema=schema.NEIGHBORS)
        write_part(run / "texts", part_name(part), pa.table(texts, schema=schema.TEXTS))
        write_part(run / "neighbors", part_name(part), neighbors)
        write_part(run / "vectors", part_name(part), pa.table([rows, vectors], schema=schema.vectors_schema(2)))


def measure(folder: Path, n_texts: int, k: int, n_blocks: int) -> dict[str, Any]:
    """The stages in a process with a Ray of its own; what they do in their single tasks, this process does."""
    import ray

    from clustering.stages import cluster, forest, graph
    from clustering.workers import tasks
    from clustering.workers.graph import halo, shuffle

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=4 << 30)
    used: list[Usage] = []
    shards: list[tuple[int, int]] = []  # measured and planned bytes of each process that holds shards
    collect, run, section, rounds = tasks.collect, RunDir(folder), ClusterSection(), []

    def noting(measured: Any) -> Any:
        used.append(measured[1])
        return collect(measured)

    class Noting(halo.HaloExchange):
        def __init__(self, load: Any, n_texts: int, memory: list[ShardBytes]) -> None:
            super().__init__(load, n_texts, memory)
            self.memory = memory

        def connect(self) -> None:
            super().connect()
            rounds.append({"rows": self.n_halo, "messages": sum(map(len, self.sends))})

        def charge_usage(self) -> None:
            for actor in dict.fromkeys(self.actors):
                own = [memory for memory, other in zip(self.memory, self.actors, strict=True) if other is actor]
                shards.append((ray.get(actor.usage.remote()).peak_bytes, process_bytes(own)))

    def stage(work: Any, *args: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Figures of the work, and of the processes with shards, besides the peak of this process."""
        shards.clear()
        started = time.perf_counter()
        figures, usage = measured_usage(work, *args)
        told: dict[str, Any] = {"seconds": round(time.perf_counter() - started, 1), "own": usage.peak_bytes >> 20}
        if shards:
            told |= {"processes": len(shards), "shards": [one >> 20 for one, _ in shards]}
            told["shards_planned"] = [planned >> 20 for _, planned in shards]
        return figures, told

    tasks.collect = shuffle.collect = noting  # type: ignore[attr-defined]
    halo.HaloExchange = Noting  # type: ignore[misc]
    started = time.perf_counter()
    figures = graph.build_graph(run, GraphSection(), k, n_texts, "L2", n_blocks)
    seconds = time.perf_counter() - started
    index, joins = block_index(run), used[-n_blocks:]
    map_bytes = max((usage.peak_bytes for usage in used[:-n_blocks]), default=0)
    cpu_seconds = sum(usage.cpu_seconds for usage in used)
    of_forest, forest_told = stage(forest._diffused_forest, run, section, GraphSection(), "L2", 1)
    of_clusters, cluster_told = stage(cluster._cluster, run, section, k, "L2")
    ray.shutdown()
    sent = rounds[0] if rounds else {"rows": 0, "messages": 0}
    if n_blocks == 1:
        forest_told["own_planned"] = forest_bytes(n_texts, 0, index.list_entries[0]) >> 20
    return {
        "blocks": figures["blocks"],
        "edges": figures["edges"],
        "graph": {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
            "maps": map_bytes >> 20,
            "joins": max(usage.peak_bytes for usage in joins) >> 20,
            "planned": graph_bytes(n_texts, n_texts * k, n_blocks) >> 20,
        },
        "forest": forest_told,
        "cluster": cluster_told,
        "clusters": of_clusters["count"],
        "rows_of_a_block": [min(index.rows), max(index.rows)],
        "halo_of_a_block": [min(index.list_halo), max(index.list_halo)],
        "halo_share": of_forest["halo_share"],
        "round_mebibytes": (sent["rows"] * 2 * DIMS) >> 20,
        "round_messages": sent["messages"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--run", type=Path, help="a finished run, in place of generated lists")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--output", type=Path, required=True)
    words = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory(prefix="covey-") as folder:
        told = {"texts": words.texts, "k": words.k}
        if words.run:
            stages = RunDir(words.run).manifest["stages"]
            search = stages["search"]["figures"]
            told = {"run": words.run.name, "texts": stages["read"]["figures"]["texts"]}
            told |= {name: search[name] for name in ("k", "recall")}
            for name in ("texts", "vectors", "neighbors"):
                Path(folder, name).symlink_to((RunDir(words.run) / name).resolve())
        else:
            generate(RunDir(folder), words.texts, words.k)
        for n_blocks in words.blocks:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                cases.append(process.submit(measure, Path(folder), told["texts"], told["k"], n_blocks).result())
            print(json.dumps(cases[-1]), flush=True)
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    words.output.write_text(json.dumps({**told, **machine, "cases": cases}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
