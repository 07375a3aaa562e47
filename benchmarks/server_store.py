"""Loading and searching a Milvus server: Covey's stages and the best bare pymilvus loop, in one run.

    python -m benchmarks.server_store --texts 200000 --rivals --output benchmarks/results/server-200k.json
    python -m benchmarks.server_store --texts 1000000 --output benchmarks/results/server-1m.json
    python -m benchmarks.server_store --indexes --input titles.parquet --output benchmarks/results/server-indexes.json

The packaged server (extra `server`) is started with an empty folder. Its vectors are the static ones of generated
headlines. A rival's loop has the vectors in memory, makes a dict for each row and decodes each hit, as pymilvus wants
it; batch size, queries a request and threads are swept, and the best are repeated beside Covey's stage, turn by turn.
With --indexes each index of the server is built and searched in a server of its own, on titles of a file (column
title). The recall is counted by `true_recall`, which shares no code with Covey's own estimate.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from pymilvus import DataType, MilvusClient

from clustering.config.sections import EmbedSection, ReadSection, SearchSection, StoreSection
from clustering.milvus.bulk import load_bulk
from clustering.milvus.collection import prepare_collection
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.loader import load_stream
from clustering.milvus.query import NeighborQuery, search_params
from clustering.monitoring.usage import counting_usage, measured_peak
from clustering.runs.directory import RunDir
from clustering.runs.index import write_index
from clustering.runs.parts import parts, read_columns, vectors_of, write_part
from clustering.sample import write_sample
from clustering.sources.detection import find_files
from clustering.stages.embed import embed_texts
from clustering.stages.read import read_texts
from clustering.stages.search import search_neighbors
from clustering.stages.store import store_vectors
from tests.integration.conftest import start_milvus, stop_milvus

K, DIM = 50, 256
ROUNDS = 2  # turns of the best rival and of Covey
INDEX = {"M": 16, "efConstruction": 200}
EF = 2 * (K + 1)

Figures = dict[str, Any]


class Clock:
    seconds = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    clock, started = Clock(), time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - started


def embedded_texts(folder: Path, n_texts: int, given: Path | None) -> tuple[RunDir, np.ndarray]:
    """A run whose texts are read and embedded, and its vectors, shape (n_texts, DIM). given : None: generated texts"""
    run, sample = RunDir(folder / "run"), given or folder / "sample.parquet"
    if given is None:
        write_sample(sample, int(1.6 * n_texts), seed=0)  # more than are needed, because equal headlines are folded
    cfg = ReadSection(paths=(str(sample),), text_columns=("title",), near_duplicates="keep")
    read_texts(find_files(cfg), cfg, run, DIM)
    keep_first(run, n_texts)
    embed_texts(run, EmbedSection(encoder="static", actors=2, lexical=0))
    return run, vectors_of(read_columns(run / "vectors", ["vector"]))


def keep_first(run: RunDir, n_texts: int) -> None:
    """Only the first rows of texts/, so that the number of distinct texts is the one asked for."""
    left = n_texts
    kept = []
    for path in parts(run / "texts"):
        if left > 0:
            kept.append(write_part(run / "texts", path.name, pq.read_table(path).slice(0, left)))
            left -= kept[-1].rows
    assert left <= 0, f"{-left} texts too few"
    write_index(run / "texts", kept)


def bare_collection(client: MilvusClient, name: str) -> None:
    if client.has_collection(name):
        client.drop_collection(name)
    fields = client.create_schema(auto_id=False)
    fields.add_field("row", DataType.INT64, is_primary=True)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    client.create_collection(name, schema=fields)


def bare_load(uri: str, vectors: np.ndarray, batch: int, threads: int) -> Figures:
    """Rows a second of client.insert, without and with the flush that makes them last."""
    client = MilvusClient(uri=uri)
    bare_collection(client, "bare")

    def send(at: int) -> None:
        some = enumerate(vectors[at : at + batch], at)
        client.insert("bare", [{"row": row, "vector": vector} for row, vector in some])

    with measured_peak() as peak, timed() as sent, ThreadPoolExecutor(threads) as pool:
        list(pool.map(send, range(0, len(vectors), batch)))
    with timed() as flushed:
        client.flush("bare")
    print(f"bare load: batch {batch}, {len(vectors) / sent.seconds:,.0f} rows/s", flush=True)
    return {
        "batch": batch,
        "threads": threads,
        "rows_per_second": len(vectors) / sent.seconds,
        "rows_per_second_flushed": len(vectors) / (sent.seconds + flushed.seconds),
        "client_peak_mib": peak.bytes >> 20,
    }


def stage_load(run: RunDir, uri: str, n_texts: int, load: str) -> Figures:
    """Rows a second of the stage's loading alone; for a stream also without the start of its actors."""
    name = f"covey_{load}"
    shared = run / "shared"
    store = StoreSection(uri=uri, load=load, bulk_path=str(shared) if load == "bulk" else None)
    endpoint = Endpoint(uri, name)
    client = MilvusClient(uri=uri)
    if client.has_collection(name):
        client.drop_collection(name)
    prepare_collection(run, client, name, store, DIM, "mark")
    with timed() as loaded, counting_usage() as used:
        figures = load_bulk(run, endpoint, store) if load == "bulk" else load_stream(run, endpoint, store, fresh=True)
    with timed() as flushed:
        client.flush(name)
    counted = int(client.get_collection_stats(name)["row_count"])
    assert counted == n_texts, f"{counted} of {n_texts} rows"
    run.remove("loaded")
    found = {
        "rows_per_second": figures["rows_per_second"],
        "rows_per_second_flushed": n_texts / (n_texts / figures["rows_per_second"] + flushed.seconds),
        "rows_per_second_with_start": n_texts / loaded.seconds,
        "client_peak_mib": used.peak_bytes >> 20,
    }
    client.drop_collection(name)
    print(f"stage load: {load}, {found['rows_per_second']:,.0f} rows/s", flush=True)
    return found


def bare_search(uri: str, name: str, vectors: np.ndarray, nq: int, threads: int) -> Figures:
    """Queries a second of client.search, its hits decoded into arrays of ids and distances."""
    client = MilvusClient(uri=uri)
    ids = np.empty((len(vectors), K + 1), np.int64)
    distances = np.empty((len(vectors), K + 1), np.float32)

    def ask(at: int) -> None:
        some = vectors[at : at + nq]
        options = {"metric_type": "L2", "params": {"ef": EF}}
        found = client.search(name, data=list(some), limit=K + 1, search_params=options, consistency_level="Eventually")
        for place, hits in enumerate(found, at):
            ids[place] = hits.ids
            distances[place] = hits.distances

    with measured_peak() as peak, timed() as clock, ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, range(0, len(vectors), nq)))
    rate = len(vectors) / clock.seconds
    print(f"bare search: nq {nq}, {threads} threads, {rate:,.0f} queries/s", flush=True)
    return {"nq": nq, "threads": threads, "queries_per_second": rate, "client_peak_mib": peak.bytes >> 20}


def stage_search(run: RunDir, uri: str, n_texts: int, cfg: SearchSection) -> Figures:
    run.remove("neighbors")
    endpoint, store = Endpoint(uri, "covey_bench"), StoreSection(uri=uri, params=INDEX)
    with timed() as clock:
        figures = search_neighbors(run, endpoint, store, cfg, n_texts, 0)
    done = sorted(path.stat().st_mtime for path in parts(run / "neighbors"))
    print(f"stage search: {figures['params']}, {figures['queries_per_second']:,.0f} queries/s", flush=True)
    return {**figures, "seconds": clock.seconds, "part_seconds": done[-1] - done[0], "parts": len(done)}


def true_recall(run: RunDir, vectors: np.ndarray, size: int = 1000, seed: int = 99) -> Figures:
    """Of a random sample's listed neighbors, the share that is not farther than the true k-th, in float64."""
    rows = np.random.default_rng(seed).choice(len(vectors), size, replace=False)
    lists = read_columns(run / "neighbors", ["neighbors"])["neighbors"]
    shares = []
    for some in np.array_split(rows, -(-size // 100)):
        squared = np.empty((len(some), len(vectors)))
        asked = vectors[some].astype(np.float64)
        for at in range(0, len(vectors), 50_000):
            block = vectors[at : at + 50_000].astype(np.float64)
            squared[:, at : at + len(block)] = (asked**2).sum(1)[:, None] + (block**2).sum(1) - 2 * asked @ block.T
        for row, far in zip(some, squared, strict=True):
            listed = lists[int(row)].as_py()
            assert len(set(listed)) == len(listed)
            assert row not in listed
            far[row] = np.inf
            edge = np.sort(np.partition(far, K)[:K])[-1]
            shares.append(float((far[listed] <= edge + 1e-6).sum()) / K)
    error = float(np.std(shares, ddof=1) / np.sqrt(size))
    mean = float(np.mean(shares))
    return {"recall": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error, "sample": size}


def server_mib(field: str = "VmHWM") -> int:
    """Peak (VmHWM) or present (VmRSS) resident memory of the running Milvus server."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"milvus\0run\0standalone" in (process / "cmdline").read_bytes():
                return int((process / "status").read_text().split(f"{field}:")[1].split()[0]) >> 10
        except OSError:
            continue
    return 0


def measure_loading(run: RunDir, uri: str, vectors: np.ndarray, rivals: bool) -> Figures:
    found: Figures = {}
    best = {}
    if rivals:
        sweep = [bare_load(uri, vectors, batch, 2) for batch in (1000, 2500, 5000, 10_000, 20_000)]
        best = max(sweep, key=lambda tried: tried["rows_per_second"])
        found["bare_sweep"] = sweep
    turns: dict[str, list[Figures]] = {"bare": [], "stream": [], "bulk": []}
    for _ in range(ROUNDS if rivals else 1):
        if rivals:
            turns["bare"].append(bare_load(uri, vectors, best["batch"], 2))
        turns["stream"].append(stage_load(run, uri, len(vectors), "stream"))
        turns["bulk"].append(stage_load(run, uri, len(vectors), "bulk"))
    return {**found, **turns}


def measure_searching(run: RunDir, uri: str, vectors: np.ndarray, rivals: bool) -> Figures:
    n_texts = len(vectors)
    found: Figures = {}
    store = StoreSection(uri=uri, params=INDEX)
    with timed() as clock:
        found["store"] = store_vectors(run, Endpoint(uri, "covey_bench"), store, n_texts, DIM, "mark")
    found["store_seconds"] = clock.seconds
    target = SearchSection(k=K, target_recall=0.98, recall_sample=1000)
    found["target"] = stage_search(run, uri, n_texts, target)
    found["target"]["true"] = true_recall(run, vectors)
    if rivals:
        some = vectors[:20_000]
        sweep = [bare_search(uri, "covey_bench", some, nq, threads) for nq in (10, 100, 500, 1000, 4000)
                 for threads in (1, 2, 4)]  # fmt: skip
        best = max(sweep, key=lambda tried: tried["queries_per_second"])
        found["bare_sweep"] = sweep
        found["bare"], found["stage"] = [], []
        fixed = SearchSection(k=K, params={"ef": EF}, recall_sample=0)
        for _ in range(ROUNDS):
            found["bare"].append(bare_search(uri, "covey_bench", vectors, best["nq"], best["threads"]))
            found["stage"].append(stage_search(run, uri, n_texts, fixed))
        found["true_at_ef"] = true_recall(run, vectors)
    return found


def measure_index(run: RunDir, home: Path, vectors: np.ndarray, store: StoreSection, asked: np.ndarray) -> Figures:
    """Load, build and search a collection in a server of its own; queries are drawn rows."""
    process, uri = start_milvus(home / f"{store.index}-{store.shards}")
    try:
        empty, endpoint = server_mib("VmRSS"), Endpoint(uri, "covey_index")
        with timed() as clock:
            figures = store_vectors(run, endpoint, replace(store, uri=uri), len(vectors), DIM, "mark")
        loaded, peak, params = server_mib("VmRSS"), server_mib(), search_params(SearchSection(k=K), store, len(vectors))
        query = NeighborQuery(endpoint, "L2", params, K, len(vectors))
        with ThreadPoolExecutor(4) as pool, timed() as searched:
            near, _, counts = query.neighbors(asked, vectors[asked], pool.map)
        size = sum(path.stat().st_size for path in (home / f"{store.index}-{store.shards}").rglob("index_files/**/*")
                   if path.is_file())  # fmt: skip
    finally:
        stop_milvus(process)
    shares = []
    for row, listed in zip(asked[:1000], np.split(near, np.cumsum(counts)[:-1]), strict=False):
        far = 1 - vectors @ vectors[row]
        far[row] = np.inf
        shares.append(float((far[listed] <= np.partition(far, K - 1)[K - 1] + 1e-6).sum()) / K)
    send_s = len(vectors) / figures["rows_per_second"]
    found = {
        "index": store.index, "shards": store.shards, "params": params, "recall": float(np.mean(shares)),
        "send_seconds": send_s, "build_seconds": clock.seconds - send_s, "segments": figures["segments"],
        "queries_per_second": len(asked) / searched.seconds, "index_mib": size / 2**20,
        "server_empty_mib": empty, "server_loaded_mib": loaded, "server_peak_mib": peak,
    }  # fmt: skip
    print(found, flush=True)
    return found


def measure_indexes(home: Path, n_texts: int, given: Path | None) -> list[Figures]:
    run, vectors = embedded_texts(home, n_texts, given)
    asked = np.random.default_rng(5).permutation(n_texts)[:20_000]
    found = []
    for index, shards in (("HNSW", 1), ("IVF_SQ8", 1), ("HNSW", 2), ("IVF_FLAT", 1)):
        run.remove("loaded")
        found.append(measure_index(run, home, vectors, StoreSection(uri="-", index=index, shards=shards), asked))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--indexes", action="store_true", help="only the indexes, one after the other")
    parser.add_argument("--input", type=Path, help="Parquet file with a column title (default: generated headlines)")
    parser.add_argument("--rivals", action="store_true", help="also the bare loops")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    ray.init("local", include_dashboard=False, logging_level="ERROR")
    packages = ("covey", "ray", "pymilvus", "milvus", "numpy", "pyarrow")
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "texts": args.texts, "dim": DIM, "k": K,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        if args.indexes:
            write_results(args.output, {**about, "indexes": measure_indexes(Path(home), args.texts, args.input)})
            return
        process, uri = start_milvus(Path(home) / "data")
        try:
            with timed() as clock:
                run, vectors = embedded_texts(Path(home), args.texts, args.input)
            result = {
                "measured_with": f"python -m benchmarks.server_store --texts {args.texts}"
                f"{' --rivals' if args.rivals else ''}",
                **about, "index": {"HNSW": INDEX}, "ef": EF,
                "read_and_embed_seconds": clock.seconds,
                "loading": measure_loading(run, uri, vectors, args.rivals),
                "searching": measure_searching(run, uri, vectors, args.rivals),
                "server_peak_mib": server_mib(),
            }  # fmt: skip
        finally:
            stop_milvus(process)
    write_results(args.output, result)


def write_results(output: Path, result: Figures) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(_rounded(result), indent=1) + "\n")
    print(output.read_text())


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_rounded(held) for held in value]
    return round(value, 4 if abs(value) < 10 else 1) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
