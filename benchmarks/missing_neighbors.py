"""What missing neighbors cost: the default's home score on lists of lower recall, on the sets of benchmarks.quality.

    python -m benchmarks.missing_neighbors --data DIR --cache DIR --output benchmarks/results/missing-neighbors.json

DIR and cache are those of benchmarks.quality. Lists lose true neighbors at random, to a recall of 0.95 and 0.90, three
times. With `--server` the packaged Milvus server (extra `server`) searches an HNSW index (M 6, efConstruction 30) whose
ef is lowered until its lists have about such a recall: what an index misses, it misses in the same places.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from benchmarks.exactness import K
from benchmarks.quality import ENCODERS, SETS, Case, agreement, load_case
from clustering import GraphHDBSCAN
from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.kernels.topk import FloatArray, IntArray
from tests.integration.conftest import start_milvus, stop_milvus

RECALLS = (0.95, 0.9)
EFS = (400, 300, 220, 160, 120, 90, 70, 60, 52)  # Milvus takes no ef below k + 1


def home_score(case: Case, indices: IntArray, distances: FloatArray) -> float:
    model = GraphHDBSCAN().fit(neighbors=(indices, distances))
    return agreement(case.truth, model.home_[case.group])


def drop(case: Case, recall: float, seed: int) -> tuple[IntArray, FloatArray]:
    """Lists that have lost neighbors; they are shorter, as nothing is known of those beyond the 50th."""
    lost = np.random.default_rng(seed).random(case.indices.shape) > recall
    return np.where(lost, -1, case.indices), case.distances


def search(client: MilvusClient, case: Case, ef: int) -> tuple[IntArray, FloatArray]:
    n_rows = len(case.vectors)
    indices, distances = np.full((n_rows, K), -1), np.full((n_rows, K), np.inf, np.float32)
    for at in range(0, n_rows, 1000):
        found = client.search("lists", case.vectors[at : at + 1000], limit=K + 1, search_params={"params": {"ef": ef}})
        for row, hits in enumerate(found, start=at):
            near = [(hit["distance"], hit["id"]) for hit in hits if hit["id"] != row][:K]
            away, ids = zip(*near, strict=True)
            indices[row, : len(ids)], distances[row, : len(ids)] = ids, np.sqrt(np.maximum(away, 0))
    there = indices >= 0
    return indices, np.where(there, np.maximum(distances, np.float32(MIN_DISTANCE)), 0)


def recall_of(case: Case, distances: FloatArray, indices: IntArray) -> float:
    found = (distances <= case.distances[:, -1:] + 1e-5) & (indices >= 0)
    return float(found.sum() / case.indices.size)


def by_index(client: MilvusClient, case: Case) -> dict[float, tuple[float, float, int]]:
    """For each wanted recall the score, the real recall and the ef of the index that comes nearest."""
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=case.vectors.shape[1])
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="L2", params={"M": 6, "efConstruction": 30})
    client.create_collection("lists", schema=schema)
    for at in range(0, len(case.vectors), 5000):
        block = case.vectors[at : at + 5000]
        client.insert("lists", [{"row": at + place, "vector": vector} for place, vector in enumerate(block)])
    client.flush("lists")
    client.create_index("lists", index)
    client.load_collection("lists")
    found = []
    for ef in EFS:
        indices, distances = search(client, case, ef)
        found.append((recall_of(case, distances, indices), ef, indices, distances))
        if found[-1][0] < RECALLS[-1]:
            break
    client.drop_collection("lists")
    best = {wanted: min(found, key=lambda one: abs(one[0] - wanted)) for wanted in RECALLS}
    return {wanted: (home_score(case, ids, away), recall, ef) for wanted, (recall, ef, ids, away) in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        process, uri = start_milvus(Path(folder) / "data") if given.server else (None, "")
        client = MilvusClient(uri=uri) if given.server else None
        try:
            for name, encoder in product(given.sets, ENCODERS):
                case = load_case(name, SETS[name], encoder, given.data, given.cache)
                line = {"set": name, "encoder": encoder, "exact": home_score(case, case.indices, case.distances)}
                for wanted in RECALLS:
                    runs = [home_score(case, *drop(case, wanted, seed)) for seed in range(3)]
                    line[f"dropped to {wanted}"] = float(np.mean(runs))
                if client is not None:
                    for wanted, (score, recall, ef) in by_index(client, case).items():
                        line |= {
                            f"HNSW near {wanted}": score,
                            f"its recall near {wanted}": recall,
                            f"ef near {wanted}": ef,
                        }
                lines.append(
                    {key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()}
                )
                print(json.dumps(lines[-1]), flush=True)
        finally:
            if client is not None and process is not None:
                client.close()
                stop_milvus(process)
    for key in [key for key in lines[0] if key == "exact" or key.startswith(("dropped", "HNSW"))]:
        falls = [line["exact"] - line[key] for line in lines]
        mean = np.mean([line[key] for line in lines])
        print(f"{key}: mean {mean:.4f}, fall {np.mean(falls):+.4f}, most {max(falls):+.4f}")
    if given.output:
        versions = {name: importlib.metadata.version(name) for name in ("covey", "pymilvus", "milvus", "numpy")}
        given.output.write_text(json.dumps({"cases": lines, "versions": versions}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
