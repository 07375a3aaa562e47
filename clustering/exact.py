"""Queries and vectors/ in, their true nearest neighbors out, by blocked matrix products on Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray

from clustering.kernels.topk import FloatArray, IntArray, block_top_k, merge_top_k
from clustering.parts import node_cpus
from clustering.rundir import measured_peak, parts, vectors_of


def exact_neighbors(
    folder: Path, queries: FloatArray, query_rows: IntArray, k: int
) -> tuple[IntArray, FloatArray, int]:
    """The k nearest rows of each query by blocked matrix products over all stored vectors.

    queries : float32, shape (n_queries, dim), unit length
    query_rows : int64, shape (n_queries,); a query's own row is left out; -1 for a text that is not stored
    Returns: rows and inner products, shape (n_queries, at most k), nearest first; peak bytes of the largest task.
    """
    shared = ray.put((queries, query_rows))
    task = ray.remote(_block_neighbors)
    best: tuple[IntArray, FloatArray] | None = None
    peak = 0
    for done in _windowed(task, [(path, shared, k) for path in parts(folder)]):
        rows, dots, used = done
        held = ([rows], [dots]) if best is None else ([best[0], rows], [best[1], dots])
        best = merge_top_k(*held, k)
        peak = max(peak, used)
    if best is None:
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32), 0
    return *best, peak


def _windowed(task: Any, calls: list[tuple[Any, ...]]) -> Iterator[Any]:
    """Results as they come, with at most a few tasks a core in flight, so that the driver never holds many."""
    calls = list(reversed(calls))
    waiting: list[Any] = []
    while calls or waiting:
        while calls and len(waiting) < 2 * node_cpus():
            waiting.append(task.remote(*calls.pop()))
        (done,), waiting = ray.wait(waiting, num_returns=1)
        yield ray.get(done)


def _block_neighbors(path: Path, shared: tuple[FloatArray, IntArray], k: int) -> tuple[IntArray, FloatArray, int]:
    with measured_peak() as peak:
        table = pq.read_table(path)
        queries, query_rows = shared
        rows, dots = block_top_k(queries, vectors_of(table), query_rows, int(table["row"][0].as_py()), k)
    return rows, dots, peak.bytes
