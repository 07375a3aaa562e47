"""How to ask for the nearest text outside a group: blocked exact products, or a server's top-k with growing k.

    python -m benchmarks.repair_search --output benchmarks/results/repair-search.json reddit_top150.parquet:title

The questions are those that the repair of plain HDBSCAN's tree really asks on the set (k = 15, min_samples 5, static
vectors, exact lists): rows, and the group that each lies in. Blocked products compare them with all vectors. The server
(extra `server`, HNSW) gives the nearest 64, 512, 4096 and 16384 of those rows that are not settled yet: until one is
found outside the group, and the next ones are too far to be nearer by mutual reachability. Its answers are compared
with the exact ones.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pymilvus import DataType, MilvusClient
from scipy.sparse import csr_array

from benchmarks.exactness import exact_lists
from clustering.config.sections import EmbedSection
from clustering.encoders.loading import load_encoder
from clustering.estimator.plain import outside_search
from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.kernels.graph.forest import FloatArray, IntArray, core_distances, spanning_forest
from clustering.kernels.graph.repair import repair_forest
from tests.integration.conftest import start_milvus, stop_milvus

K, MIN_SAMPLES = 15, 5
GROWING = (64, 512, 4096, 16384)


def load_server(client: MilvusClient, vectors: FloatArray) -> None:
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="L2", params={"M": 16, "efConstruction": 200})
    client.create_collection("repair", schema=schema)
    for at in range(0, len(vectors), 5000):
        rows = [{"row": at + place, "vector": vector} for place, vector in enumerate(vectors[at : at + 5000])]
        client.insert("repair", rows)
    client.flush("repair")
    client.create_index("repair", index)
    client.load_collection("repair")


def ask_server(
    client: MilvusClient, vectors: FloatArray, core: FloatArray, rows: IntArray, piece: IntArray
) -> tuple[IntArray, FloatArray, int]:
    """The nearest row outside each row's group, its reachability, and how many rows stayed unsettled."""
    other, reach = np.full(rows.size, -1), np.full(rows.size, np.inf, np.float32)
    left = np.arange(rows.size)
    for limit in GROWING:
        if not left.size:
            break
        kept = []
        step = max(1, 500_000 // limit)
        for at in range(0, left.size, step):
            some = left[at : at + step]
            found = client.search(
                "repair", vectors[rows[some]], limit=min(limit, len(vectors)), search_params={"params": {"ef": limit}}
            )
            for place, hits in zip(some.tolist(), found, strict=True):
                ids = np.array([hit["id"] for hit in hits], np.int64)
                away = np.sqrt(np.maximum([hit["distance"] for hit in hits], 0)).astype(np.float32)
                far = np.maximum(np.maximum(away, MIN_DISTANCE), np.maximum(core[rows[place]], core[ids]))
                far[piece[ids] == piece[rows[place]]] = np.inf
                best = int(far.argmin())
                if far[best] < reach[place]:
                    other[place], reach[place] = ids[best], far[best]
                if not reach[place] <= away[-1]:
                    kept.append(place)
        left = np.array(kept, np.int64)
    return other, reach, left.size


def measure(path: str, column: str) -> dict[str, Any]:
    texts = list(dict.fromkeys(" ".join((text or "").split()) for text in pq.read_table(path)[column].to_pylist()))
    texts = [text for text in texts if text][:50_000]
    vectors = load_encoder(EmbedSection(encoder="static")).encode(texts).vectors
    indices, distances = (column[:, :K] for column in exact_lists(vectors))
    n_rows = len(vectors)
    graph = csr_array((distances.ravel(), indices.ravel(), np.arange(n_rows + 1) * K), shape=(n_rows, n_rows))
    core = core_distances(graph, MIN_SAMPLES)
    exact = outside_search(vectors, core, np.float32(MIN_DISTANCE))
    asked: list[tuple[IntArray, IntArray, FloatArray, float]] = []

    def ask(rows: IntArray, piece: IntArray) -> tuple[IntArray, FloatArray]:
        started = time.perf_counter()
        other, reach = exact(rows, piece)
        asked.append((rows, piece, reach, time.perf_counter() - started))
        return other, reach

    forest = spanning_forest(graph, core, symmetric=False)
    _, proof = repair_forest(forest, np.ascontiguousarray(distances[:, -1]), ask, n_rows)
    line = {
        "set": Path(path).stem, "texts": n_rows, "dim": vectors.shape[1], "rounds": len(asked),
        "queries": proof.queries, "open": proof.unproven, "blocked_seconds": round(sum(one[3] for one in asked), 2),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        process, uri = start_milvus(Path(folder) / "data")
        try:
            client = MilvusClient(uri=uri)
            load_server(client, vectors)
            started, unsettled, wrong = time.perf_counter(), 0, 0
            for rows, piece, reach, _ in asked:
                _, found, left = ask_server(client, vectors, core, rows, piece)
                unsettled += left
                wrong += int((np.abs(found - reach) > 1e-4).sum())
            line |= {"server_seconds": round(time.perf_counter() - started, 2), "unsettled": unsettled, "wrong": wrong}
            client.close()
        finally:
            stop_milvus(process)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="PATH:COLUMN of each set")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    lines = []
    for word in given.sets:
        lines.append(measure(*word.rsplit(":", 1)))
        print(json.dumps(lines[-1]), flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("covey", "pymilvus", "milvus", "numpy")}
    report = {"cases": lines, "k": K, "versions": versions, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    if given.output:
        given.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
