"""A sample of rows in, the share of their true neighbors that a search finds out; also the parameters for a target."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from clustering.config import SEARCH_PARAMS, SearchSection, StoreSection
from clustering.exact import exact_neighbors
from clustering.kernels.topk import FloatArray, IntArray, dot_distance, wilson_interval
from clustering.milvus import Address, default_nlist
from clustering.parts import on_worker
from clustering.rundir import Figures, RunDir, gather, rows_without_vector, vectors_of

log = logging.getLogger("covey")

TIE = 2e-6  # squared distance below which two texts count as equally near
STEP = 1.5  # by which a parameter grows
SURE = 1.645  # standard errors by which a sample must exceed the target: 95 % one-sided


def search_params(cfg: SearchSection, store: StoreSection, n_texts: int) -> dict[str, Any]:
    """The search's parameters: the configuration's over the usual ones for the index; nprobe is nlist at most."""
    k = min(cfg.k, n_texts - 1)
    nlist = nlist_of(store, n_texts)
    usual: dict[str, dict[str, Any]] = {
        "HNSW": {"ef": max(2 * (k + 1), 64)},
        "IVF_FLAT": {"nprobe": max(nlist // 16, 8)},
        "IVF_SQ8": {"nprobe": max(nlist // 16, 8)},
        "DISKANN": {"search_list": max(2 * (k + 1), 100)},
        "GPU_CAGRA": {"itopk_size": max(2 * (k + 1), 128)},
    }
    params = {**usual.get(store.index_type, {}), **cfg.params}
    return params | ({"nprobe": min(params["nprobe"], nlist)} if "nprobe" in params else {})


def nlist_of(store: StoreSection, n_texts: int) -> int:
    return int(store.params.get("nlist", default_nlist(n_texts)))


class Sample:
    """Some rows with their vectors and the distance of their true k-th neighbor."""

    def __init__(self, run: RunDir, metric: str, k: int, size: int, n_texts: int, seed: Any) -> None:
        self.metric, self.k = metric, k
        rng = np.random.default_rng(seed)
        drawn = rng.choice(n_texts, min(size, n_texts), replace=False)
        self.rows = np.setdiff1d(drawn, rows_without_vector(run / "vectors"))
        self.vectors = vectors_of(on_worker(gather, run / "vectors", self.rows, ["vector"]))
        _, dots = exact_neighbors(run / "vectors", self.vectors, self.rows, k)
        self.edge = _squared(dot_distance(dots[:, -1], metric), metric) + TIE

    def shares(self, distances: FloatArray, counts: IntArray) -> FloatArray:
        """For each row, the share of its k that are as near as the true k-th, so that ties do not count as misses.

        distances : float32, one entry a neighbor found; counts : their number for each row
        """
        row = np.repeat(np.arange(len(counts)), counts)
        found = _squared(distances, self.metric) <= self.edge[row]
        return (np.bincount(row[found], minlength=len(counts)) / self.k).astype(np.float32)


def _squared(distances: FloatArray, metric: str) -> FloatArray:
    return distances**2 if metric == "L2" else 2 * distances


def measure_recall(run: RunDir, metric: str, k: int, sample: int, n_texts: int, seed: int) -> Figures:
    """Share of the true k nearest that the search found, on a random sample of rows.

    Returns: recall, recall_low, recall_high (95 %), recall_sample.
    """
    if sample == 0 or k == 0:
        return {"recall": None, "recall_low": None, "recall_high": None, "recall_sample": 0}
    drawn = Sample(run, metric, k, sample, n_texts, seed)
    listed = on_worker(gather, run / "neighbors", drawn.rows, ["distances"])["distances"].combine_chunks()
    recall = float(drawn.shares(listed.flatten().to_numpy(), np.asarray(listed.value_lengths())).mean())
    low, high = wilson_interval(recall, len(drawn.rows))
    figures = {"recall": recall, "recall_low": low, "recall_high": high, "recall_sample": len(drawn.rows)}
    return {name: round(value, 5) for name, value in figures.items()}


def tune_params(
    run: RunDir,
    address: Address,
    store: StoreSection,
    cfg: SearchSection,
    n_texts: int,
    seed: int,
    make: Callable[..., Any],
) -> tuple[dict[str, Any], Figures]:
    """Raise the index's parameter step by step until a sample's recall exceeds ``cfg.target_recall``.

    The rows are not those on which the finished search is measured. A step is enough when the sample's mean exceeds the
    target by as many standard errors as make it 95 % sure. The configured value, if any, is where the steps begin.
    make : builds what asks the collection, ``search.Asker``
    Returns: the parameters, and target_recall, target_reached and the steps with the recall of each.
    """
    k = min(cfg.k, n_texts - 1)
    (key, (_, most)), *_ = SEARCH_PARAMS[store.index_type].items()
    start = 8 if key == "nprobe" else k + 1
    most = min(most, nlist_of(store, n_texts) if key == "nprobe" else max(n_texts, start))
    value = min(int(cfg.params.get(key, start)), most)
    sample = Sample(run, store.metric, k, cfg.recall_sample, n_texts, [seed, 1])
    steps: list[dict[str, float]] = []
    target = float(cfg.target_recall or 0)
    while True:
        params = {**cfg.params, key: value}
        asker = make(address, store.metric, params, k, cfg.queries_per_request, n_texts)
        step = asker.batch(sample.vectors.shape[1])
        with asker.link:
            found = [
                asker.nearest(sample.rows[at : at + step], sample.vectors[at : at + step])
                for at in range(0, len(sample.rows), step)
            ]
        _, distances, counts = (np.concatenate(part) for part in zip(*found, strict=True))
        shares = sample.shares(distances, counts)
        recall, error = float(shares.mean()), float(shares.std()) / math.sqrt(len(shares))
        steps.append({key: value, "recall": round(recall, 5)})
        reached = recall - SURE * error >= target
        if reached or value == most:
            break
        value = min(most, max(value + 1, math.ceil(value * STEP)))
    log.info("search: %s=%d for a recall of %.4f on %d rows (target %g)", key, value, recall, len(shares), target)
    if not reached:
        log.warning("search: recall %.4f stays below the target %g with the largest %s=%d", recall, target, key, value)
    return params, {"target_recall": target, "target_reached": reached, "target_steps": steps}
