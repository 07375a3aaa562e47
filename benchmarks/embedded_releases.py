"""Rows in, queries out, recall and memory of Milvus Lite releases, each installed into a folder of its own.

    python benchmarks/embedded_releases.py --texts 10000 50000

COSINE, because release 3.2.2 allocates queries x rows x dimension floats for L2 without an index. Each release is
installed with pip beside the running environment, started on a loopback port, loaded with the static
vectors of a generated sample, and asked for 51 neighbors of 5,000 rows by two threads. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.csv
from pymilvus import DataType, MilvusClient

from clustering.config.sections import EmbedSection
from clustering.encoders.loading import load_encoder
from clustering.sample import write_sample

CASES = [("2.5.1", "FLAT"), ("2.5.1", "IVF_FLAT"), ("3.2.2", "FLAT"), ("3.2.2", "HNSW")]
BUILD = {"HNSW": {"M": 16, "efConstruction": 200}, "IVF_FLAT": {"nlist": 256}}
SEARCH = {"HNSW": {"ef": 128}, "IVF_FLAT": {"nprobe": 32}}
K, QUERIES, BATCH = 51, 5000, 500


def installed(version: str, home: Path) -> Path:
    """A folder that holds this release of milvus-lite and nothing that the environment already has."""
    folder = home / version
    if not folder.exists():
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), f"milvus-lite=={version}"]
        subprocess.run([*words, *([] if version.startswith("3") else ["--no-deps"])], check=True)
    return folder


def start(version: str, folder: Path, data: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if version.startswith("2"):
        libraries = folder / "milvus_lite" / "lib"
        command = [str(libraries / "milvus"), str(data / "milvus.db"), f"127.0.0.1:{port}", "ERROR"]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    else:
        command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(data), "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    return process, f"http://127.0.0.1:{port}"


def measure(version: str, index: str, vectors: np.ndarray, home: Path) -> str:
    with tempfile.TemporaryDirectory() as data:
        process, uri = start(version, installed(version, home), Path(data))
        try:
            client = MilvusClient(uri=uri)
            fields = client.create_schema(auto_id=False)
            fields.add_field("row", DataType.INT64, is_primary=True)
            fields.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
            client.create_collection("texts", schema=fields, consistency_level="Strong")
            started = time.perf_counter()
            for at in range(0, len(vectors), 2000):
                batch = enumerate(vectors[at : at + 2000], at)
                client.upsert("texts", [{"row": row, "vector": vector} for row, vector in batch])
            loading = time.perf_counter() - started
            started = time.perf_counter()
            client.flush("texts")
            params = client.prepare_index_params()
            params.add_index("vector", index_type=index, metric_type="COSINE", params=BUILD.get(index, {}))
            client.create_index("texts", params)
            client.load_collection("texts")
            indexing = time.perf_counter() - started

            def ask(at: int) -> list[list[int]]:
                options = {"metric_type": "COSINE", "params": SEARCH.get(index, {})}
                found = client.search("texts", data=list(vectors[at : at + BATCH]), limit=K, search_params=options)
                return [list(hits.ids) for hits in found]

            queries = min(QUERIES, len(vectors))
            started = time.perf_counter()
            with ThreadPoolExecutor(2) as pool:
                lists = [ids for part in pool.map(ask, range(0, queries, BATCH)) for ids in part]
            searching = time.perf_counter() - started
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
            dots = vectors[:500] @ vectors.T
            edge = np.partition(dots, -K, axis=1)[:, -K] - 1e-6
            hits = [np.count_nonzero(dots[row, lists[row]] >= edge[row]) / K for row in range(500)]
        finally:
            process.terminate()
            process.wait()
    speeds = f"{len(vectors) / loading:,.0f} | {indexing:.1f} | {queries / searching:,.0f}"
    return f"| {len(vectors):,} | {version} | {index} | {speeds} | {np.mean(hits):.3f} | {peak:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="+", default=[10_000, 50_000])
    sizes = parser.parse_args().texts
    with tempfile.TemporaryDirectory() as home:
        sample = Path(home) / "sample.csv"
        write_sample(sample, 2 * max(sizes), seed=0)
        texts = list(dict.fromkeys(pyarrow.csv.read_csv(sample)["title"].to_pylist()))[: max(sizes)]
        vectors = load_encoder(EmbedSection(encoder="static")).encode(texts).vectors
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, k = {K - 1}\n")
        print("| texts | milvus-lite | index | rows/s in | index s | queries/s | recall | peak MiB |")
        print("| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |")
        for size in sizes:
            for version, index in CASES:
                print(measure(version, index, vectors[:size], Path(home)), flush=True)


if __name__ == "__main__":
    main()
