"""A sample of rows and their neighbors in; the share of the true nearest neighbors that a search found out."""

from __future__ import annotations

from typing import Any

import numpy as np

from clustering.kernels.topk import FloatArray, IntArray, dot_distance, wilson_interval
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_rows, rows_without_vector, vectors_of
from clustering.schema import Figures
from clustering.workers.exact_search import exact_neighbors
from clustering.workers.tasks import run_on_one_node

TIE = 2e-6  # of squared distances: two texts whose distances differ by less are equally near


class RecallSample:
    """A random sample of rows, with their vectors and the distance of their true k-th neighbor."""

    def __init__(self, run: RunDir, metric: str, k: int, size: int, n_texts: int, seed: Any) -> None:
        self.metric, self.k = metric, k
        rng = np.random.default_rng(seed)
        drawn = rng.choice(n_texts, min(size, n_texts), replace=False)
        self.rows = np.setdiff1d(drawn, rows_without_vector(run / "vectors"))
        self.vectors = vectors_of(run_on_one_node(read_rows, run / "vectors", self.rows, ["vector"]))
        _, dots = exact_neighbors(run / "vectors", self.vectors, self.rows, k)
        self.edge = _squared(dot_distance(dots[:, -1], metric), metric) + TIE

    def shares(self, distances: FloatArray, counts: IntArray) -> FloatArray:
        """For each row, the share of its k neighbors that are as near as the true k-th; a tie is no miss.

        distances : float32, shape (n_neighbors,), of the neighbors that the search found, row by row
        counts : int64, shape (n_rows,), neighbors of each row
        Returns: float32, shape (n_rows,), 0 to 1
        """
        row = np.repeat(np.arange(len(counts)), counts)
        near = _squared(distances, self.metric) <= self.edge[row]
        return (np.bincount(row[near], minlength=len(counts)) / self.k).astype(np.float32)


def _squared(distances: FloatArray, metric: str) -> FloatArray:
    return distances**2 if metric == "L2" else 2 * distances


def measure_recall(run: RunDir, metric: str, k: int, sample: int, n_texts: int, seed: int) -> Figures:
    """The share of the true k nearest neighbors that the search found, on a random sample of rows.

    Returns: recall, recall_low and recall_high (its 95 % interval), recall_sample (rows).
    """
    if sample == 0 or k == 0:
        return {"recall": None, "recall_low": None, "recall_high": None, "recall_sample": 0}
    drawn = RecallSample(run, metric, k, sample, n_texts, seed)
    listed = run_on_one_node(read_rows, run / "neighbors", drawn.rows, ["distances"])["distances"].combine_chunks()
    recall = float(drawn.shares(listed.flatten().to_numpy(), np.asarray(listed.value_lengths())).mean())
    low, high = wilson_interval(recall, len(drawn.rows))
    figures = {"recall": recall, "recall_low": low, "recall_high": high, "recall_sample": len(drawn.rows)}
    return {name: round(value, 5) for name, value in figures.items()}
