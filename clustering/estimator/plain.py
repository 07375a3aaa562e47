"""A graph of distances in, the spanning forest of plain HDBSCAN and what is proven of it out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from clustering.estimator.inputs import as_floats
from clustering.estimator.parameters import Parameters
from clustering.kernels.graph.forest import FloatArray, Forest, IntArray, core_distances, spanning_forest
from clustering.kernels.graph.repair import OutsideSearch, Proof, nearest_outside, prove_forest, repair_forest

OPEN = np.dtype([("left", np.int64), ("right", np.int64), ("least", np.float32), ("height", np.float32)])
MIN_SAMPLES = 5  # the rank of the core distance where none is given
BLOCK_BYTES = 128 << 20  # of distances at a time, when vectors are searched for unlisted edges


def plain_forest(
    graph: csr_array, bound: FloatArray, copies: NDArray[np.int32], points: NDArray[Any] | None, own: Parameters
) -> tuple[Forest, FloatArray, Proof]:
    """The spanning forest of mutual reachability, exact as far as lists and vectors prove it.

    graph : float32 csr_array, shape (n_rows, n_rows); bound : float32, shape (n_rows,), see ``prove_forest``
    copies : int32, shape (n_rows,); points : float, shape (n_rows, dim), or None
    Returns: the forest, core distances float32, shape (n_rows,), and what is proven.
    """
    rank = min(own.min_samples or MIN_SAMPLES, max(int(copies.sum()), 1))
    core = core_distances(graph, rank, copies if own.copies == "weigh" else None)
    forest = spanning_forest(graph, core, symmetric=False)
    if points is None:
        return forest, core, prove_forest(forest, bound)
    search = outside_search(points, core, np.float32(own.min_distance))
    forest, proof = repair_forest(forest, bound, search, own.budget)
    return forest, core, proof


def open_merges(forest: Forest, proof: Proof, first: IntArray) -> NDArray[Any]:
    """The merges that are not proven, with their rows: OPEN, shape (n_open,). first : the row of each node"""
    unproven = np.flatnonzero(proof.lower_bound != forest.distance)
    found = np.empty(unproven.size, OPEN)
    for side in ("left", "right"):
        found[side] = first[getattr(forest, side)[unproven]]
    found["least"], found["height"] = proof.lower_bound[unproven], forest.distance[unproven]
    return found


def checked_vectors(vectors: ArrayLike, n_rows: int) -> FloatArray:
    """float32, shape (n_rows, dim). Raises: ValueError for another shape or type, and numbers that are not finite."""
    points = as_floats("vectors", vectors)
    if points.ndim != 2 or len(points) != n_rows:
        raise ValueError(f"vectors have shape {points.shape}; expected ({n_rows}, dim), one for each row")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"vectors hold an infinite number or NaN in {(~finite).sum()} rows, first in row {finite.argmin()}; leave "
            f"those rows out"
        )
    return points


def outside_search(points: NDArray[Any], core: FloatArray, floor: np.float32) -> OutsideSearch:
    """Exact search for the nearest row of another group by mutual reachability; of equal ones the smaller row."""
    # Far from the origin the squares would be so large that nothing is left of the distances between points.
    centered = (points - points.mean(axis=0, dtype=np.float64)).astype(np.float32)
    squares = np.einsum("ij,ij->i", centered, centered)
    step = max(1, BLOCK_BYTES // (4 * max(len(points), 1)))

    def search(rows: IntArray, group: IntArray) -> tuple[IntArray, FloatArray]:
        other, reach = np.empty(rows.size, np.int64), np.empty(rows.size, np.float32)
        for at in range(0, rows.size, step):
            some = rows[at : at + step]
            squared = squares[some][:, None] + squares[None, :] - 2 * centered[some] @ centered.T
            lengths = np.maximum(np.sqrt(np.maximum(squared, 0)), floor)
            found, far = nearest_outside(lengths, core[some], core, group[some], group)
            away = np.linalg.norm(points[some].astype(np.float64) - points[found], axis=1)  # products round more
            away = np.maximum(away, np.maximum(np.maximum(core[some], core[found]), floor))
            other[at : at + step], reach[at : at + step] = found, np.where(np.isinf(far), far, away)
        other[np.isinf(reach)] = -1
        return other, reach

    return search
