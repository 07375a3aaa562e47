"""neighbors/ in, graph/ out: the symmetric CSR distance graph, its pieces joined by their nearest texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from clustering.config import GraphSection
from clustering.errors import StageError
from clustering.kernels.csr import BRIDGE_QUERIES, edges_of, min_distance, narrow, symmetric_csr, undirected_graph
from clustering.kernels.topk import FloatArray, IntArray, dot_distance
from clustering.parts import on_worker
from clustering.rundir import Figures, RunDir, flat_neighbors, gather, parts, save_graph, vectors_of

BLOCK = 4096


def build_graph(run: RunDir, cfg: GraphSection, k: int, n_texts: int, metric: str) -> Figures:
    """Build the graph from the k nearest neighbors of every text and write it memory-mappable.

    Returns: edges (undirected), pieces (before bridging), bridges, pieces_left, too_long (edges dropped by
        max_distance), ``peak_bytes``.
    """
    figures, peak = on_worker(_build, run, cfg, k, n_texts, metric)
    return {**figures, "peak_bytes": peak}


def _build(run: RunDir, cfg: GraphSection, k: int, n_texts: int, metric: str) -> Figures:
    rows, cols, distances = _edges(run, k)
    listed = sum(pq.read_metadata(path).num_rows for path in parts(run / "neighbors"))
    if listed != n_texts and n_texts > 1:
        raise StageError(f"{run / 'neighbors'} lists {listed} of {n_texts} texts; start again with run.resume=false")
    too_long = 0
    if cfg.max_distance is not None:
        keep = distances <= cfg.max_distance
        too_long = int(keep.size - keep.sum())
        rows, cols, distances = rows[keep], cols[keep], distances[keep]
    graph = undirected_graph(rows, cols, distances, n_texts, min_distance(metric))
    del rows, cols, distances
    pieces, piece = connected_components(narrow(graph), directed=False)
    bridges = 0
    # With max_distance the user has said that far texts are not neighbors, so no bridge is longer than that.
    if cfg.bridge == "nearest" and pieces > 1:
        graph, bridges, piece = bridge_pieces(graph, piece, run / "vectors", metric, cfg.max_distance)
    save_graph(run / "graph", graph)
    return {
        "edges": graph.nnz // 2,
        "pieces": int(pieces),
        "bridges": bridges,
        "pieces_left": len(np.unique(piece)),
        "too_long": too_long,
    }


def _edges(run: RunDir, k: int) -> tuple[IntArray, IntArray, FloatArray]:
    rows, cols = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    distances = [np.empty(0, np.float32)]
    for path in parts(run / "neighbors"):
        row, _, neighbor, distance = flat_neighbors(path, k)
        rows.append(row)
        cols.append(neighbor)
        distances.append(distance)
    return np.concatenate(rows), np.concatenate(cols), np.concatenate(distances)


def bridge_pieces(
    graph: csr_array, piece: NDArray[np.int32], vectors: Path, metric: str, longest: float | None = None
) -> tuple[csr_array, int, NDArray[np.int32]]:
    """Join the graph's pieces by the shortest edges between them, found by exact search over the stored vectors.

    Each round gives every piece but the largest its shortest edge to the outside (Boruvka), so a few rounds join all.

    piece : int32, shape (n_texts,), the piece of every row
    longest : no bridge is longer
    Returns: the graph with the bridges, how many there are, and the pieces that are left (more than one when more
        than BRIDGE_QUERIES texts lie outside the largest piece, or when the nearest text is farther than ``longest``).
    """
    low, high, distances = edges_of(graph)
    added: list[tuple[int, int, float]] = []
    while (sizes := np.bincount(piece)).size > 1:
        small = np.flatnonzero(piece != sizes.argmax())
        if not len(small) or len(small) > BRIDGE_QUERIES:
            break
        shortest: dict[int, tuple[float, int, int]] = {}
        for start in range(0, len(small), BLOCK):
            queries = small[start : start + BLOCK]
            away, where = _nearest_outside(vectors, queries, piece, metric)
            for row, distance, other in zip(queries.tolist(), away.tolist(), where.tolist(), strict=True):
                edge = (distance, min(row, other), max(row, other))
                mine = int(piece[row])
                shortest[mine] = min(shortest.get(mine, edge), edge)
        new = {edge for edge in shortest.values() if longest is None or edge[0] <= longest}
        if not new:
            break
        added += [(one, other, distance) for distance, one, other in new]
        ends = np.array([(one, other) for _, one, other in new], np.int64)
        joined = csr_array((np.ones(len(ends)), (piece[ends[:, 0]], piece[ends[:, 1]])), shape=(sizes.size, sizes.size))
        piece = connected_components(narrow(joined), directed=False)[1][piece]
    if added:
        ones, others, lengths = (np.array(column) for column in zip(*sorted(set(added)), strict=True))
        floor = np.float32(min_distance(metric))
        low, high = np.concatenate([low, ones]), np.concatenate([high, others])
        distances = np.concatenate([distances, np.maximum(lengths.astype(np.float32), floor)])
        graph = symmetric_csr(low, high, distances, graph.shape[0])
    return graph, len(set(added)), piece


def _nearest_outside(
    vectors: Path, queries: IntArray, piece: NDArray[np.int32], metric: str
) -> tuple[FloatArray, IntArray]:
    """For each query row the nearest text of another piece: distance and row; ties go to the smaller row."""
    mine = vectors_of(gather(vectors, queries, ["vector"]))
    best = np.full(len(queries), -np.inf, np.float32)
    where = np.full(len(queries), -1, np.int64)
    for path in parts(vectors):
        table = pq.read_table(path)
        rows = table["row"].to_numpy()
        dots = mine @ vectors_of(table).T
        dots[piece[queries][:, None] == piece[rows][None, :]] = -np.inf
        top = dots.argmax(axis=1)
        value = dots[np.arange(len(queries)), top]
        nearer = value > best
        best[nearer], where[nearer] = value[nearer], rows[top[nearer]]
    return dot_distance(best, metric), where
