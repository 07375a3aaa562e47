"""A sample of rows and their neighbors in; the share of the true nearest neighbors that a search found out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clustering.kernels.topk import FloatArray, IntArray, TopK, dot_distance, wilson_interval
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_rows, rows_without_vector, vectors_of
from clustering.schema import Figures
from clustering.workers.exact_search import exact_neighbors
from clustering.workers.pool import Item
from clustering.workers.remote import fetch, share
from clustering.workers.tasks import run_on_one_node

TIE = 2e-6  # of squared distances: two texts whose distances differ by less are equally near
Lists = dict[int, tuple[IntArray, FloatArray]]  # neighbors and distances of a row, by its number in the sample
NO_RECALL: Figures = {"recall": None, "recall_low": None, "recall_high": None, "recall_sample": 0}


class RecallSample:
    """A random sample of rows, with their vectors, their true neighbors and those that a search has found.

    The true neighbors come from ``find_true_neighbors``, or part by part from workers that hold the vectors anyway, see
    ``SampleWatch``.

    is_exact : whether the searched distances are those of the stored vectors; else neighbors are compared by row
    """

    def __init__(
        self, run: RunDir, metric: str, k: int, size: int, n_texts: int, seed: Any, is_exact: bool = True
    ) -> None:
        self.run, self.metric, self.is_exact = run, metric, is_exact
        drawn = np.random.default_rng(seed).choice(n_texts, min(size, n_texts), replace=False)
        self.rows = np.setdiff1d(drawn, rows_without_vector(run / "vectors"))
        self.vectors = vectors_of(run_on_one_node(read_rows, run / "vectors", self.rows, ["vector"]))
        self.true = TopK(len(self.rows), k)
        self.has_true_neighbors = False
        self.lists: Lists = {}

    def watch(self) -> SampleWatch:
        """What a worker needs in order to take part; the vectors are sent once for all workers."""
        return SampleWatch(self.rows, None if self.has_true_neighbors else share(self.vectors), self.true.rows.shape[1])

    def take(self, result: Item) -> None:
        """Take what a worker has seen out of its result."""
        near, lists = result.pop("sample")
        self.true.merge(*near)
        self.lists |= lists

    def shares(self, neighbors: IntArray, distances: FloatArray, counts: IntArray) -> FloatArray:
        """For each row, the share of its k neighbors that are as near as the true k-th; a tie is no miss.

        neighbors, distances : int64 and float32, shape (n_neighbors,), that the search found, row by row
        counts : int64, shape (n_rows,), neighbors of each row
        Returns: float32, shape (n_rows,), 0 to 1
        """
        row = np.repeat(np.arange(len(counts)), counts)
        if self.is_exact:
            edge = _squared(dot_distance(self.true.dots[:, -1], self.metric), self.metric) + TIE
            near = _squared(distances, self.metric) <= edge[row]
        else:
            near = (neighbors[:, None] == self.true.rows[row]).any(axis=1)
        return (np.bincount(row[near], minlength=len(counts)) / self.true.rows.shape[1]).astype(np.float32)

    def figures(self) -> Figures:
        """The recall of the lists that have come: recall, recall_low and recall_high (its 95 % interval)."""
        if not len(self.rows):
            return NO_RECALL
        lists = [self.lists[number] for number in range(len(self.rows))]
        neighbors, distances = (np.concatenate(part) for part in zip(*lists, strict=True))
        counts = np.array([len(listed) for listed, _ in lists])
        recall = float(self.shares(neighbors, distances, counts).mean())
        low, high = wilson_interval(recall, len(self.rows))
        figures = {"recall": recall, "recall_low": low, "recall_high": high, "recall_sample": len(self.rows)}
        return {name: round(value, 5) for name, value in figures.items()}


class SampleWatch:
    """The part of a worker: the sample's nearest among the vectors that it holds, and the lists of the sample's rows.

    Results that are sent stay small: a row that is no longer among the k nearest that this worker has seen is left out.
    """

    def __init__(self, rows: IntArray, reference: Any, k: int) -> None:
        """reference : to the vectors of the rows; None where their true neighbors are known"""
        self.rows, self.reference = rows, reference
        self.queries: FloatArray | None = None
        self.near = TopK(len(rows), k)
        self.seen: list[IntArray] = []  # the rows of the vectors since the last result
        self.lists: Lists = {}

    def see_vectors(self, rows: IntArray, vectors: FloatArray) -> None:
        """Compare the sample with vectors of some rows, which have not been seen before.

        rows : int64, shape (n_rows,), ascending; vectors : float32, shape (n_rows, dim)
        """
        if self.reference is None:
            return
        self.queries = fetch(self.reference) if self.queries is None else self.queries
        self.near.scan(self.queries, self.rows, rows, vectors)
        self.seen.append(rows)

    def see_lists(self, table: pa.Table) -> None:
        """Keep the lists of the sample's rows. table : of neighbors/"""
        some = table.filter(pc.is_in(table["row"], pa.array(self.rows)))
        numbers = np.searchsorted(self.rows, some["row"].to_numpy()).tolist()
        for number, near, away in zip(numbers, some["neighbors"], some["distances"], strict=True):
            self.lists[number] = near.values.to_numpy(), away.values.to_numpy()

    def result(self) -> tuple[tuple[IntArray, IntArray, FloatArray], Lists]:
        """What was seen since the last time, for ``RecallSample.take``."""
        new = np.isin(self.near.rows, np.concatenate([np.empty(0, np.int64), *self.seen]))
        lists, self.lists, self.seen = self.lists, {}, []
        return (np.nonzero(new)[0], self.near.rows[new], self.near.dots[new]), lists


def _squared(distances: FloatArray, metric: str) -> FloatArray:
    return distances**2 if metric == "L2" else 2 * distances


def find_true_neighbors(*samples: RecallSample) -> None:
    """Find the true neighbors of samples of the same run and k by exact search, all in one pass over its vectors."""
    one = samples[0]
    vectors, rows = (np.concatenate([getattr(sample, name) for sample in samples]) for name in ("vectors", "rows"))
    near, dots = exact_neighbors(one.run / "vectors", vectors, rows, one.true.rows.shape[1])
    ends = np.cumsum([len(sample.rows) for sample in samples])[:-1]
    for sample, own, own_dots in zip(samples, np.split(near, ends), np.split(dots, ends), strict=True):
        sample.true.rows, sample.true.dots, sample.has_true_neighbors = own, own_dots, True
