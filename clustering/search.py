"""A collection and vectors/ in, neighbors/ out: the k nearest other texts of every row; also the recall."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clustering import schema
from clustering.config import SearchSection, StoreSection
from clustering.exact import exact_neighbors
from clustering.kernels.topk import FloatArray, IntArray, dot_distance, drop_self, score_distance, wilson_interval
from clustering.milvus import Address, default_nlist, talking_to
from clustering.parts import Item, map_parts, peak_of
from clustering.rundir import Figures, RunDir, gather, parts, vectors_of, write_table

TIE = 2e-6  # squared distance below which two texts count as equally near


class Searcher:
    """Ask for the neighbors of parts of vectors/; the client is made in the actor."""

    def __init__(self, run: RunDir, address: Address, params: dict[str, Any], metric: str, k: int, batch: int) -> None:
        self.run, self.address, self.params, self.metric, self.k, self.batch = run, address, params, metric, k, batch
        self.client = address.connect()

    def __call__(self, item: Item) -> Item:
        table = pq.read_table(self.run / "vectors" / item["name"])
        rows, vectors = table["row"].to_numpy(), vectors_of(table)
        ids: list[IntArray] = []
        distances: list[FloatArray] = []
        for start in range(0, len(rows), self.batch):
            with talking_to(self.address):
                found = self.client.search(
                    self.address.collection,
                    data=list(vectors[start : start + self.batch]),
                    anns_field="vector",
                    limit=self.k + 1,  # the text itself is one of them
                    search_params={"metric_type": self.metric, "params": self.params},
                    consistency_level="Strong",
                )
            for row, hits in zip(rows[start : start + self.batch], found, strict=True):
                near = np.asarray(hits.ids, np.int64), score_distance(np.asarray(hits.distances), self.metric)
                nearest, away = drop_self(*near, int(row), self.k)
                ids.append(nearest)
                distances.append(away)
        lengths = [len(nearest) for nearest in ids]
        offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
        columns = [
            table["row"],
            pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(ids))),
            pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(distances))),
        ]
        write_table(self.run / "neighbors" / item["name"], pa.table(columns, schema=schema.NEIGHBORS))
        return {"rows": len(rows)}


def search_neighbors(
    run: RunDir, address: Address, store: StoreSection, cfg: SearchSection, n_texts: int, seed: int
) -> Figures:
    """Leave neighbors/ with the k nearest other texts of every row, ascending, and measure the recall.

    Returns: k, index, params, queries_per_second, short_rows (fewer than k neighbors), recall with its 95 %
        interval on recall_sample rows, ``peak_bytes``.
    """
    k = min(cfg.k, n_texts - 1)
    started = time.perf_counter()
    todo = [path for path in parts(run / "vectors") if not (run / "neighbors" / path.name).exists()]
    params = search_params(cfg, store, n_texts)
    results = map_parts(
        Searcher, [{"name": path.name} for path in todo], actors=cfg.actors,
        run=run, address=address, params=params, metric=store.metric, k=k, batch=cfg.queries_per_request,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    short = sum(_short_rows(path, k) for path in parts(run / "neighbors"))
    queries = sum(result["rows"] for result in results)
    figures = {
        "k": k,
        "index": store.index_type,
        "params": params,
        "queries_per_second": round(queries / seconds, 1),
        "short_rows": short,
    }
    recall, peak = measure_recall(run, store.metric, k, cfg.recall_sample, n_texts, seed)
    return {**figures, **recall, "peak_bytes": max(peak, peak_of(results))}


def search_params(cfg: SearchSection, store: StoreSection, n_texts: int) -> dict[str, Any]:
    """The search's parameters: the configuration's over the usual ones for the index."""
    k = min(cfg.k, n_texts - 1)
    nlist = int(store.params.get("nlist", default_nlist(n_texts)))
    usual: dict[str, dict[str, Any]] = {
        "HNSW": {"ef": max(2 * (k + 1), 64)},
        "IVF_FLAT": {"nprobe": max(nlist // 16, 8)},
        "IVF_SQ8": {"nprobe": max(nlist // 16, 8)},
        "DISKANN": {"search_list": max(2 * (k + 1), 100)},
        "GPU_CAGRA": {"itopk_size": max(2 * (k + 1), 128)},
    }
    return {**usual.get(store.index_type, {}), **cfg.params}


def _short_rows(path: Path, k: int) -> int:
    lengths = pa.compute.list_value_length(pq.read_table(path, columns=["neighbors"])["neighbors"])
    return int((lengths.to_numpy() < k).sum())


def measure_recall(run: RunDir, metric: str, k: int, sample: int, n_texts: int, seed: int) -> tuple[Figures, int]:
    """Share of the true k nearest that the search found, on a random sample of rows.

    A neighbor counts as found when it is as near as the true k-th, so that ties do not count as misses.
    Returns: recall, recall_low, recall_high (95 %), recall_sample; peak bytes of the largest task.
    """
    if sample == 0 or k == 0:
        return {"recall": None, "recall_low": None, "recall_high": None, "recall_sample": 0}, 0
    rows = np.sort(np.random.default_rng(seed).choice(n_texts, min(sample, n_texts), replace=False))
    vectors = vectors_of(gather(run / "vectors", rows, ["vector"]))
    listed = gather(run / "neighbors", rows, ["distances"])["distances"].to_pylist()
    found = [np.asarray(distances, np.float32) for distances in listed]
    _, dots, peak = exact_neighbors(run / "vectors", vectors, rows, k)
    edge = _squared(dot_distance(dots[:, -1], metric), metric) + TIE
    shares = [np.count_nonzero(_squared(near, metric) <= limit) / k for near, limit in zip(found, edge, strict=True)]
    recall = float(np.mean(shares))
    low, high = wilson_interval(recall, len(rows))
    figures = {"recall": recall, "recall_low": low, "recall_high": high, "recall_sample": len(rows)}
    return {name: round(value, 5) for name, value in figures.items()}, peak


def _squared(distances: FloatArray, metric: str) -> FloatArray:
    return distances**2 if metric == "L2" else 2 * distances
