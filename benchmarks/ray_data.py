"""The stage embed by Ray Data and by Covey's pool: seconds, memory of the driver, and what becomes of a deadly part.

    python -m benchmarks.ray_data --texts 200000

Each way is measured in a process of its own, with a Ray of its own. The static encoder runs on all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from clustering.config.sections import EmbedSection, ReadSection
from clustering.encoders.loading import load_encoder
from clustering.errors import StageError
from clustering.monitoring.usage import peak_bytes
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_names
from clustering.sample import write_sample
from clustering.sources.detection import find_files
from clustering.stages.embed import Embedder
from clustering.stages.read import read_texts
from clustering.workers.nodes import cluster_cpus
from clustering.workers.pool import map_parts

STATIC = EmbedSection(encoder="static", lexical=0)
GIVE_UP_S = 100  # on a part that ends each worker


class DeadlyEmbedder(Embedder):
    """Ends with the part of a name, as often as it is told."""

    def __init__(self, run: RunDir, deadly: str, times: int) -> None:
        super().__init__(run, STATIC)
        self.deadly, self.times = deadly, times

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        _end(self.run, item["name"] == self.deadly, self.times)
        return super().__call__(item)


class Encode:
    """What ``Embedder`` does, with rows in and rows out."""

    def __init__(self, run: RunDir, deadly_row: int, times: int) -> None:
        self.encoder = load_encoder(STATIC)
        self.run, self.deadly_row, self.times = run, deadly_row, times

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch["row"].to_numpy()
        _end(self.run, bool((rows == self.deadly_row).any()), self.times)
        vectors = self.encoder.encode(batch["text"].to_pylist()).vectors.astype(np.float32)
        return pa.table([batch["row"], pa.FixedSizeListArray.from_arrays(vectors.ravel(), self.encoder.dim)],
                        ["row", "vector"])  # fmt: skip


def _end(run: RunDir, is_deadly: bool, times: int) -> None:
    deaths = Path(str(run.path)) / "deaths"
    if is_deadly and (before := len(list(deaths.glob("*")))) < times:
        (deaths / str(before)).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def by_pool(run: RunDir, deadly: int, times: int) -> None:
    names = part_names(run / "texts")
    map_parts(DeadlyEmbedder, [{"name": name} for name in names], run=run, deadly=names[deadly] if times else "",
              times=times)  # fmt: skip


def by_ray_data(run: RunDir, deadly: int, times: int) -> None:
    texts = ray.data.read_parquet([str(run / "texts" / name) for name in part_names(run / "texts")],
                                  columns=["row", "text"])  # fmt: skip
    texts.map_batches(
        Encode, fn_constructor_args=(run, deadly * 8192 if times else -1, times), batch_size=8192,
        batch_format="pyarrow", num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=cluster_cpus()),
    ).write_parquet(str(Path(str(run.path)) / "by_ray_data"))  # fmt: skip


def measure(way: str, folder: str, times: int) -> None:
    ray.init("local", include_dashboard=False, logging_level="ERROR")
    run, started = RunDir(folder), time.perf_counter()
    error = ""
    try:
        (by_pool if way == "pool" else by_ray_data)(run, 3, times)
    except StageError as raised:
        error = str(raised)
    seconds = time.perf_counter() - started
    print(json.dumps({"way": way, "seconds": round(seconds, 1), "driver_mib": peak_bytes() >> 20, "error": error}))


def ask(way: str, run: RunDir, times: int) -> str:
    """One measurement, as it is printed."""
    deaths = Path(str(run.path)) / "deaths"
    deaths.mkdir(exist_ok=True)
    for mark in deaths.iterdir():
        mark.unlink()
    words = [sys.executable, "-m", "benchmarks.ray_data", "--way", way, "--run", str(run.path), "--times", str(times)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        found = process.communicate(timeout=GIVE_UP_S if times > 3 else None)[0].strip().splitlines()
        told = found[-1] if found else f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate()
        told = f"no end after {GIVE_UP_S} s"
    return f"{told}; workers that ended: {len(list(deaths.iterdir()))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--way", choices=["pool", "data"])
    parser.add_argument("--run")
    parser.add_argument("--times", type=int, default=0)
    given = parser.parse_args()
    if given.way:
        measure(given.way, given.run, given.times)
        return
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.csv"
        write_sample(sample, given.texts)
        cfg = ReadSection(paths=(str(sample),), text_columns=("title",), id_column="id")
        ray.init("local", include_dashboard=False, logging_level="ERROR")
        run = RunDir(Path(folder) / "run")
        run.update_manifest()
        print(f"texts: {read_texts(find_files(cfg), cfg, run, 256)['texts']}", flush=True)
        ray.shutdown()
        for _ in range(given.repeats):
            for way in ("pool", "data"):
                print("no death:", ask(way, run, 0), flush=True)
        for times, words in ((1, "a worker ends once:"), (1000, "a part ends each worker:")):
            for way in ("pool", "data"):
                print(words, ask(way, run, times), flush=True)


if __name__ == "__main__":
    main()
