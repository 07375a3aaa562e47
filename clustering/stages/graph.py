"""neighbors/ in, graph/ out: the symmetric CSR distance graph, and how long the edges are that it does not list."""

from __future__ import annotations

import numpy as np

from clustering.config.sections import GraphSection
from clustering.errors import StageError
from clustering.kernels.graph.csr import min_distance, undirected_graph
from clustering.kernels.topk import FloatArray, IntArray
from clustering.runs.directory import RunDir
from clustering.runs.parts import parts, rows_without_vector, save_graph, walk_neighbors
from clustering.runs.storage import read_metadata, save_array
from clustering.schema import Figures
from clustering.workers.tasks import run_on_one_node


def build_graph(run: RunDir, cfg: GraphSection, k: int, n_texts: int, metric: str) -> Figures:
    """Leave graph/: the graph of the k nearest neighbors of every text as memory-mappable arrays, and radius.npy.

    radius.npy : float32, shape (n_texts,), see ``list_radius``
    Returns: edges (undirected), too_long (edges dropped by max_distance).
    Raises: StageError when neighbors/ does not list all texts.
    """
    return run_on_one_node(_build, run, cfg, k, n_texts, metric)


def _build(run: RunDir, cfg: GraphSection, k: int, n_texts: int, metric: str) -> Figures:
    rows, cols, distances = _edges(run, k)
    listed = sum(read_metadata(path).num_rows for path in parts(run / "neighbors"))
    if listed != n_texts and n_texts > 1:
        raise StageError(f"{run / 'neighbors'} lists {listed} of {n_texts} texts; start again with run.resume=false")
    without = rows_without_vector(run / "vectors")
    radius = list_radius(rows, distances, n_texts, min_distance(metric), cfg.max_distance, without)
    too_long = 0
    if cfg.max_distance is not None:
        keep = distances <= cfg.max_distance
        too_long = int(keep.size - keep.sum())
        rows, cols, distances = rows[keep], cols[keep], distances[keep]
    graph = undirected_graph(rows, cols, distances, n_texts, min_distance(metric))
    del rows, cols, distances
    save_graph(run / "graph", graph)
    save_array(run / "graph" / "radius.npy", radius)
    return {"edges": graph.nnz // 2, "too_long": too_long}


def _edges(run: RunDir, k: int) -> tuple[IntArray, IntArray, FloatArray]:
    edges = [(row, neighbor, distance) for row, _, neighbor, distance in walk_neighbors(run, k)]
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))  # neighbors/ of a single text
    rows, cols, distances = (np.concatenate(arrays) for arrays in zip(empty, *edges, strict=True))
    return rows, cols, distances


def list_radius(
    rows: IntArray,
    distances: FloatArray,
    n_texts: int,
    floor: float,
    longest: float | None = None,
    without: IntArray | None = None,
) -> FloatArray:
    """For every text, the least length of an edge that its list of nearest neighbors does not hold.

    rows : int64, shape (n_entries,), the text whose list holds the entry
    distances : float32, shape (n_entries,)
    floor, longest : no edge of the graph is shorter, and none longer
    without : int64, rows that have no vector and so no edge
    Returns: float32, shape (n_texts,): the distance of the last entry. It is infinite where the list holds all other
        texts, where it reaches beyond ``longest``, and where the text has no vector; it is the floor for any other
        empty list.
    """
    radius = np.full(n_texts, floor, np.float32)
    np.maximum.at(radius, rows, distances)
    without = np.empty(0, np.int64) if without is None else without
    radius[np.bincount(rows, minlength=n_texts) >= n_texts - 1 - without.size] = np.inf
    radius[without] = np.inf
    if longest is not None:
        radius[radius > np.float32(longest)] = np.inf
    return radius
