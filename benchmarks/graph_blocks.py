"""The stage graph in some numbers of blocks: seconds, and the peak of each kind of process beside the plan.

    python -m benchmarks.graph_blocks --texts 1000000 --k 20 --blocks 1 4 16 64 --output figures.json

The lists are generated: four of five neighbors are near rows of the same or the next partition, the others are any
rows. Every number of blocks has a Ray of its own, with 2 cores. Peaks count what a process maps of Ray's object store.
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
from clustering.config.sections import GraphSection
from clustering.kernels.memory import graph_bytes, part_rows
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
    import ray

    from clustering.stages.graph import build_graph
    from clustering.workers import tasks
    from clustering.workers.graph import shuffle

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=4 << 30)
    used: list[Any] = []
    collect = tasks.collect

    def noting(measured: Any) -> Any:
        used.append(measured[1])
        return collect(measured)

    tasks.collect = shuffle.collect = noting  # type: ignore[attr-defined]
    run = RunDir(folder)
    started = time.perf_counter()
    figures = build_graph(run, GraphSection(), k, n_texts, "L2", n_blocks)
    seconds = time.perf_counter() - started
    ray.shutdown()
    index = block_index(run)
    joins = used[-n_blocks:]
    return {
        **figures,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(usage.cpu_seconds for usage in used), 1),
        "map_tasks": len(used) - 1 - n_blocks if n_blocks > 1 else 0,
        "map_mebibytes": max((usage.peak_bytes for usage in used[:-n_blocks]), default=0) >> 20,
        "join_mebibytes": max(usage.peak_bytes for usage in joins) >> 20,
        "planned_mebibytes": graph_bytes(n_texts, n_texts * k, n_blocks) >> 20,
        "rows_of_a_block": [min(index.rows), max(index.rows)],
        "edges_of_a_block": [min(index.edges), max(index.edges)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--output", type=Path, required=True)
    words = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory(prefix="covey-") as folder:
        generate(RunDir(folder), words.texts, words.k)
        for n_blocks in words.blocks:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                cases.append(process.submit(measure, Path(folder), words.texts, words.k, n_blocks).result())
            print(json.dumps(cases[-1]))
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    content = {"texts": words.texts, "k": words.k, **machine, "cases": cases}
    words.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
