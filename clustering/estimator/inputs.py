"""Neighbor lists, graphs and vectors as other libraries give them in, one sparse graph of sound distances out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from clustering.kernels.graph.csr import directed_graph, first_invalid, has_diagonal, has_duplicates, join_rows
from clustering.kernels.graph.forest import FloatArray, core_distances

LARGEST = 1e18  # of vectors and of diffused distances: float32 can hold the squares


def neighbor_arrays(neighbors: Any) -> tuple[NDArray[np.int64], FloatArray]:
    """Row numbers and distances from the result of a search.

    neighbors : (indices, distances); (distances, indices), as scikit-learn and Faiss return them, is recognized by the
        dtypes; a third item, as umap-learn returns it, is ignored
    Returns: indices of an integer dtype such as int64, and distances float32, each of shape (n_rows, k).
    Raises: ValueError for other types and shapes, and for row numbers that are floats.
    """
    if not isinstance(neighbors, (tuple, list)) or len(neighbors) not in (2, 3):
        size = f" of {len(neighbors)}" if isinstance(neighbors, (tuple, list)) else ""
        raise ValueError(f"neighbors are a {type(neighbors).__name__}{size}; expected (indices, distances)")
    ids, lengths = (_array(name, one) for name, one in zip(("indices", "distances"), neighbors[:2], strict=True))
    if ids.dtype.kind == "f" and lengths.dtype.kind in "iu":
        ids, lengths = lengths, ids
    if ids.ndim != 2 or ids.shape != lengths.shape:
        raise ValueError(f"neighbors have shapes {ids.shape} and {lengths.shape}; expected (n_rows, k) twice")
    if ids.dtype.kind not in "iu" and ids.size:
        raise ValueError(
            f"neighbors hold row numbers of type {ids.dtype}; give (indices, distances), the indices as whole numbers"
        )
    return ids, as_floats("distances of neighbors", lengths)


def _array(name: str, values: Any) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{name} of neighbors are lists of several lengths; fill them up with -1") from None


def as_floats(name: str, values: Any) -> FloatArray:
    """Convert numbers to float32, of the same shape; a number beyond its range becomes infinite.

    Raises: ValueError for other types.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" and array.size:
        raise ValueError(f"{name} are of type {array.dtype}; expected numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def checked_rows(ids: NDArray[Any], n_rows: int) -> NDArray[np.int64]:
    """Check row numbers. ids : integers, any shape, -1 for no neighbor. Returns: int64, same shape.

    Raises: ValueError for a number that is no row.
    """
    wrong = (ids >= n_rows) | ((ids < -1) if ids.dtype.kind == "i" else False)
    if wrong.any():
        raise ValueError(f"neighbors name row {ids[wrong][0]} of {n_rows}; rows run from 0 to n - 1, -1 is no neighbor")
    return ids.astype(np.int64, copy=False)


def nearest_once(ids: NDArray[np.int64], away: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Sort lists by distance, and keep each neighbor of a list once, at its shortest.

    ids, away : int64 and float32, shape (n_rows, k), neighbors and their distances, -1 for none
    Returns: int64 and float32, shape (n_rows, k), nearest first, -1 at the end for none.
    """
    order = np.argsort(np.where(ids >= 0, away, np.inf), axis=1, kind="stable")
    ids, away = np.take_along_axis(ids, order, 1), np.take_along_axis(away, order, 1)
    order = np.argsort(ids, axis=1, kind="stable")
    sorted_ids, again = np.take_along_axis(ids, order, 1), np.zeros(ids.shape, np.bool_)
    np.put_along_axis(again, order[:, 1:], sorted_ids[:, 1:] == sorted_ids[:, :-1], 1)
    ids = np.where(again, -1, ids)
    order = np.argsort(ids < 0, axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1), np.take_along_axis(away, order, 1)


def graph_of_lists(neighbors: Any) -> tuple[csr_array, FloatArray]:
    """Turn neighbor lists into a directed graph with each neighbor once.

    neighbors : see ``neighbor_arrays``
    Returns: float32 csr_array, shape (n_rows, n_rows); float32, shape (n_rows,), a lower bound on each row's unlisted
        edges: its longest entry, infinite where it lists all other rows.
    Raises: ValueError for wrong shapes, types, row numbers, and for a distance that is negative, infinite or NaN.
    """
    ids, lengths = neighbor_arrays(neighbors)
    n_rows = len(ids)
    ids = checked_rows(ids, n_rows)
    listed = (ids >= 0) & (ids != np.arange(n_rows)[:, None])
    indptr = np.concatenate([[0], np.cumsum(listed.sum(axis=1))])
    entries = (lengths.ravel(), ids.ravel()) if listed.all() else (lengths[listed], ids[listed])
    graph = csr_array((*entries, indptr), shape=(n_rows, n_rows))
    graph = without_duplicates(_checked(graph))
    bound = farthest_distances(graph)
    bound[np.diff(graph.indptr) >= n_rows - 1] = np.inf
    return graph, bound


def graph_of_sparse(matrix: Any, n_neighbors: int | None) -> tuple[csr_array, FloatArray]:
    """Turn a sparse matrix of distances into a directed graph with each neighbor once.

    matrix : scipy sparse, shape (n_rows, n_rows), floats or integers
    n_neighbors : how many of its nearest rows each row stores at least; none: unknown
    Returns: as ``graph_of_lists``, float32; the bounds are 0 without n_neighbors.
    Raises: ValueError for another shape or type, indices out of range, and negative, infinite or NaN distances.
    """
    if not hasattr(matrix, "tocsr") or len(matrix.shape) != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"X is {type(matrix).__name__} of shape {np.shape(matrix)}; expected a square sparse graph")
    if matrix.dtype.kind not in "fiu":
        raise ValueError(f"X holds {matrix.dtype}; expected distances")
    n_rows = matrix.shape[0]
    graph = _csr_of(matrix)
    if has_diagonal(graph.indptr, graph.indices):
        rows = np.repeat(np.arange(n_rows), np.diff(graph.indptr))
        other = graph.indices != rows
        graph = join_rows(rows[other], graph.indices[other], graph.data[other], n_rows)
    graph = without_duplicates(_checked(graph))
    bound = np.zeros(n_rows, np.float32)
    if n_neighbors is not None:
        bound = core_distances(graph, min(n_neighbors, max(n_rows, 1)))
        bound[np.diff(graph.indptr) >= n_rows - 1] = np.inf
    return graph, bound


def _csr_of(matrix: Any) -> csr_array:
    """The matrix as float32; scipy's own conversions sum duplicates and do not accept float16."""
    try:
        if matrix.format in ("csr", "csc"):
            matrix.check_format(full_check=True)
            arrays = (as_floats("distances", matrix.data), matrix.indices, matrix.indptr)
            matrix = (csr_array if matrix.format == "csr" else csc_array)(arrays, shape=matrix.shape)
        if isinstance(matrix, csr_array):
            return matrix
        ends = matrix.tocoo()
        rows, cols = (side.astype(np.int64) for side in ends.coords)
        if rows.size and (min(rows.min(), cols.min()) < 0 or max(rows.max(), cols.max()) >= matrix.shape[0]):
            raise ValueError(f"an entry lies outside of {matrix.shape[0]} rows")
    except (ValueError, IndexError) as error:
        raise ValueError(f"X is no sound sparse graph: {error}") from None
    kept = slice(None) if matrix.format != "bsr" else ends.data != 0  # its blocks store zeros that are no distances
    rows, cols, data = rows[kept], cols[kept], as_floats("distances", ends.data)[kept]
    order = np.argsort(rows, kind="stable")
    return join_rows(rows[order], cols[order], data[order], matrix.shape[0])


def check_magnitude(name: str, numbers: NDArray[Any]) -> None:
    """Check that float32 can hold the squares. numbers : any float dtype and shape. Raises: ValueError otherwise."""
    most = max(-float(numbers.min(initial=0)), float(numbers.max(initial=0)))
    if most > LARGEST:
        raise ValueError(f"{name} reach to {most:.3g}, beyond {LARGEST:g}; divide them all by one number")


def _checked(graph: csr_array) -> csr_array:
    """Return the graph if all its distances are finite and not negative, else raise ValueError."""
    at = first_invalid(graph.data)
    if at >= 0:
        row = int(np.searchsorted(graph.indptr, at, side="right")) - 1
        bad = int((~((graph.data >= 0) & (graph.data < np.inf))).sum())
        raise ValueError(
            f"{bad} of {graph.nnz} distances are negative, infinite or NaN; the first is {graph.data[at]}, from "
            f"row {row} to row {graph.indices[at]}"
        )
    return graph


def without_duplicates(graph: csr_array) -> csr_array:
    """Keep each neighbor of a row once, at its shortest. graph : float32 csr_array, shape (n_rows, n_rows)"""
    if not has_duplicates(graph.indptr, graph.indices):
        return graph
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    return directed_graph(rows, graph.indices, graph.data, graph.shape[0], 0)


def farthest_distances(graph: csr_array) -> FloatArray:
    """The longest entry of each row: float32, shape (n_rows,), 0 for an empty row."""
    far = np.zeros(graph.shape[0], np.float32)
    filled = np.diff(graph.indptr) > 0
    if filled.any():
        far[filled] = np.maximum.reduceat(graph.data, graph.indptr[:-1][filled])
    return far


def check_is_not_distances(points: NDArray[Any]) -> None:
    """Check that points, float, shape (n_rows, dim), are not a dense distance matrix. Raises: ValueError if so."""
    if len(points) < 3 or points.shape[0] != points.shape[1] or np.diagonal(points).any() or not points.any():
        return
    if (points >= 0).all() and np.allclose(points, points.T):
        raise ValueError(
            "X is dense, square and symmetric with an empty diagonal, as a matrix of all distances is; give it as a "
            "sparse graph, csr_array(X), or vectors of shape (n_rows, dim)"
        )
