"""What a user gives GraphHDBSCAN in; parameters, lists, graphs and vectors that are checked, out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from clustering.kernels.graph.csr import directed_graph, first_invalid, has_diagonal, has_duplicates
from clustering.kernels.graph.forest import FloatArray, IntArray, core_distances

SEARCHED = 50  # nearest rows of each that are searched where nothing else is said
FLAT_DIMS = 15  # dimensions up to which a tree finds the nearest faster than comparing with all rows
EXACT_ROWS = 50_000  # of more dimensions; beyond, the search is approximate
LARGEST = 1e18  # of vectors and of diffused distances: float32 holds their squares
WHOLE = {  # parameters that are whole numbers: least, most, and whether None is a choice
    "min_samples": (1, None, True), "min_cluster_size": (2, None, True), "granularity": (1, None, True),
    "max_cluster_size": (0, None, False), "layers": (1, 6, False), "n_neighbors": (1, None, True),
    "budget": (0, None, False), "seed": (0, None, False),
}  # fmt: skip
WORDS = {
    "weights": ("diffused", "distance"), "selection": ("modularity", "eom", "leaf"),
    "preset": (None, "events", "topics"), "copies": ("fold", "weigh"),
}  # fmt: skip


@dataclass(frozen=True)
class Parameters:
    """GraphHDBSCAN's parameters, whole numbers as int, in their range."""

    min_samples: int | None
    min_cluster_size: int | None
    weights: str
    selection: str
    preset: str | None
    granularity: int | None
    epsilon: float
    max_cluster_size: int
    allow_single_cluster: bool
    copies: str
    layers: int
    min_distance: float
    n_neighbors: int | None
    budget: int
    seed: int

    @classmethod
    def from_estimator(cls, estimator: Any) -> Parameters:
        """Raises: ValueError that names the parameter, its value and what is taken."""
        given = {name: getattr(estimator, name) for name in cls.__dataclass_fields__}
        for name, known in WORDS.items():
            if not (given[name] is None or isinstance(given[name], str)) or given[name] not in known:
                raise ValueError(f"{name}={given[name]!r} is not one of {', '.join(map(repr, known))}")
        for name, (least, most, optional) in WHOLE.items():
            if not (optional and given[name] is None):
                given[name] = _whole(name, given[name], least, most)
        for name in ("epsilon", "min_distance"):
            value = given[name]
            if not _is_number(value) or not 0 <= value <= np.finfo(np.float32).max:
                raise ValueError(f"{name}={value!r} is no number from 0 on")
            given[name] = float(value)
        if not isinstance(given["allow_single_cluster"], (bool, np.bool_)):
            raise ValueError(f"allow_single_cluster={given['allow_single_cluster']!r} is neither True nor False")
        return cls(**given)


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, np.number)) and not isinstance(value, (bool, np.bool_, complex, np.complexfloating))


def _whole(name: str, value: Any, least: int, most: int | None) -> int:
    if not _is_number(value) or not abs(value) < math.inf or abs(value - round(value)) > 1e-9 * abs(value):
        near = _is_number(value) and abs(value) < math.inf
        hint = f"; {math.floor(value)} and {math.ceil(value)} are near" if near else ""
        raise ValueError(f"{name}={value!r} is no whole number{hint}")
    if abs(value) >= 1 << 63:
        raise ValueError(f"{name}={value!r} is more than 64 bits hold")
    value = round(value)  # 0.01 * 700 is a little more than 7
    if value < least:
        raise ValueError(f"{name}={value} is below {least}; raise it")
    if most is not None and value > most:
        raise ValueError(f"{name}={value} is not from {least} to {most}")
    return int(value)


def neighbor_arrays(neighbors: Any) -> tuple[NDArray[np.int64], FloatArray]:
    """Row numbers and distances, each of shape (n_rows, k), from what a search gives.

    neighbors : (indices, distances); (distances, indices), as scikit-learn and Faiss give them, is told by the types;
        a third thing, as umap-learn gives it, is passed over
    Raises: ValueError for anything else, and for row numbers that are floats.
    """
    if not isinstance(neighbors, (tuple, list)) or len(neighbors) not in (2, 3):
        held = f" of {len(neighbors)}" if isinstance(neighbors, (tuple, list)) else ""
        raise ValueError(f"neighbors are a {type(neighbors).__name__}{held}; expected (indices, distances)")
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


def _array(name: str, given: Any) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except ValueError:
        raise ValueError(f"{name} of neighbors are lists of several lengths; fill them up with -1") from None


def as_floats(name: str, given: Any) -> FloatArray:
    """float32, so that a number beyond its range is infinite."""
    array = np.asarray(given)
    if array.dtype.kind not in "fiu" and array.size:
        raise ValueError(f"{name} are of type {array.dtype}; expected numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def checked_rows(ids: NDArray[Any], n_rows: int) -> NDArray[np.int64]:
    """The row numbers as int64, -1 for no neighbor.

    Raises: ValueError for a number that no row has.
    """
    wrong = (ids >= n_rows) | ((ids < -1) if ids.dtype.kind == "i" else False)
    if wrong.any():
        raise ValueError(f"neighbors name row {ids[wrong][0]} of {n_rows}; rows run from 0 to n - 1, -1 is no neighbor")
    return ids.astype(np.int64, copy=False)


def graph_of_lists(neighbors: Any) -> tuple[csr_array, FloatArray]:
    """Neighbor lists as a directed graph, each neighbor once, and how long an edge that a row does not list must be.

    Raises: ValueError for wrong shapes, types, row numbers, and for a distance that is negative, infinite or NaN.
    """
    ids, lengths = neighbor_arrays(neighbors)
    n_rows = len(ids)
    ids = checked_rows(ids, n_rows)
    listed = (ids >= 0) & (ids != np.arange(n_rows)[:, None])
    indptr = np.concatenate([[0], np.cumsum(listed.sum(axis=1))])
    all_listed = bool(listed.all())
    graph = csr_array(
        (lengths.ravel() if all_listed else lengths[listed], ids.ravel() if all_listed else ids[listed], indptr),
        shape=(n_rows, n_rows),
    )
    graph = without_duplicates(_checked(graph))
    bound = farthest_distances(graph)
    bound[np.diff(graph.indptr) >= n_rows - 1] = np.inf
    return graph, bound


def graph_of_sparse(given: Any, n_neighbors: int | None) -> tuple[csr_array, FloatArray]:
    """A sparse matrix of distances likewise; n_neighbors : what each row holds of its nearest at least, if known.

    Raises: ValueError for another shape, numbers that are none, indices out of range, and wrong distances.
    """
    if not hasattr(given, "tocsr") or len(given.shape) != 2 or given.shape[0] != given.shape[1]:
        raise ValueError(f"X is {type(given).__name__} of shape {np.shape(given)}; expected a square sparse graph")
    if given.dtype.kind not in "fiu":
        raise ValueError(f"X holds {given.dtype}; expected distances")
    n_rows = given.shape[0]
    graph = _csr_of(given)
    if has_diagonal(graph):
        rows = np.repeat(np.arange(n_rows), np.diff(graph.indptr))
        other = graph.indices != rows
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[other], minlength=n_rows))])
        graph = csr_array((graph.data[other], graph.indices[other], indptr), shape=graph.shape)
    graph = without_duplicates(_checked(graph))
    bound = np.zeros(n_rows, np.float32)
    if n_neighbors is not None:
        bound = core_distances(graph, min(n_neighbors, max(n_rows, 1)))
        bound[np.diff(graph.indptr) >= n_rows - 1] = np.inf
    return graph, bound


def _csr_of(given: Any) -> csr_array:
    """float32; scipy's own conversions would add twins up, and know no float16."""
    try:
        if given.format in ("csr", "csc"):
            given.check_format(full_check=True)
            whole = (as_floats("distances", given.data), given.indices, given.indptr)
            given = (csr_array if given.format == "csr" else csc_array)(whole, shape=given.shape)
        if isinstance(given, csr_array):
            return given
        ends = given.tocoo()
        rows, cols = (side.astype(np.int64) for side in ends.coords)
        if rows.size and (min(rows.min(), cols.min()) < 0 or max(rows.max(), cols.max()) >= given.shape[0]):
            raise ValueError(f"an entry lies outside of {given.shape[0]} rows")
    except (ValueError, IndexError) as error:
        raise ValueError(f"X is no sound sparse graph: {error}") from None
    kept = slice(None) if given.format != "bsr" else ends.data != 0  # blocks are full of zeros that are no distances
    rows, cols, data = rows[kept], cols[kept], as_floats("distances", ends.data)[kept]
    order = np.argsort(rows, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=given.shape[0]))])
    return csr_array((data[order], cols[order], indptr), shape=given.shape)


def check_magnitude(name: str, numbers: NDArray[Any]) -> None:
    """Raises: ValueError for numbers whose squares float32 does not hold: they would all be alike."""
    most = max(-float(numbers.min(initial=0)), float(numbers.max(initial=0)))
    if most > LARGEST:
        raise ValueError(f"{name} reach to {most:.3g}, beyond {LARGEST:g}; divide them all by one number")


def _checked(graph: csr_array) -> csr_array:
    """The graph, if all its distances are finite and not negative."""
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
    """The graph with each neighbor of a row once, at its shortest."""
    if not has_duplicates(graph):
        return graph
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    return directed_graph(rows, graph.indices, graph.data, graph.shape[0], 0)


def farthest_distances(graph: csr_array) -> FloatArray:
    """float32, shape (n_rows,): the longest entry of each row, 0 for an empty one."""
    far = np.zeros(graph.shape[0], np.float32)
    held = np.diff(graph.indptr) > 0
    if held.any():
        far[held] = np.maximum.reduceat(graph.data, graph.indptr[:-1][held])
    return far


def check_is_not_distances(points: NDArray[Any]) -> None:
    """Raises: ValueError for what is a matrix of all distances rather than vectors."""
    if len(points) < 3 or points.shape[0] != points.shape[1] or np.diagonal(points).any() or not points.any():
        return
    if (points >= 0).all() and np.allclose(points, points.T):
        raise ValueError(
            "X is dense, square and symmetric with an empty diagonal, as a matrix of all distances is; give it as a "
            "sparse graph, csr_array(X), or vectors of shape (n_rows, dim)"
        )


def distinct_rows(points: NDArray[Any]) -> tuple[IntArray, IntArray]:
    """The group of equal vectors that each row is in, and the first row of each; groups by first row."""
    points = np.ascontiguousarray(points + 0.0)  # -0 is 0
    whole = points.view(np.dtype((np.void, points.dtype.itemsize * points.shape[1]))).ravel()
    _, first, group = np.unique(whole, return_index=True, return_inverse=True)
    rank = np.empty(first.size, np.int64)
    order = np.argsort(first)
    rank[order] = np.arange(first.size)
    return rank[group.ravel()], first[order]


def row_keys(points: NDArray[Any]) -> NDArray[np.uint64]:
    """uint64, shape (n_rows,): a number that goes with the vector, in whatever order the rows come."""
    bits = np.ascontiguousarray(points.astype(np.float64) + 0.0).view(np.uint64)
    keys = np.zeros(len(bits), np.uint64)
    for column in bits.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def neighbors_of_vectors(points: NDArray[Any], k: int, seed: int) -> tuple[NDArray[np.int64], FloatArray]:
    """The k nearest other rows of each by Euclidean distance, for ``graph_of_lists``.

    Exact up to 15 dimensions or 50,000 rows, else by pynndescent, whose lists lack a few.
    """
    check_magnitude("numbers of X", points)
    n_rows, dim = points.shape
    k = min(k, n_rows - 1)
    if k < 1:
        return np.empty((n_rows, 0), np.int64), np.empty((n_rows, 0), np.float32)
    if dim > FLAT_DIMS and n_rows > EXACT_ROWS:
        from pynndescent import NNDescent

        found = NNDescent(points.astype(np.float32), n_neighbors=k + 1, random_state=seed % (1 << 32))
        ids, away = found.neighbor_graph  # the row itself is among them
        return ids.astype(np.int64), as_floats("distances", np.where(ids >= 0, away, 0))
    distances, indices = _search(points).kneighbors(n_neighbors=k)
    return indices.astype(np.int64), as_floats("distances", distances)


def nearest_vectors(points: NDArray[Any], new: NDArray[Any], k: int) -> tuple[NDArray[np.int64], FloatArray]:
    """The k nearest of the rows to each new vector, exact; an equal one is at distance 0."""
    k = min(k, len(points))
    distances, indices = _search(points).kneighbors(new, n_neighbors=k)
    for place in range(min(3, k)):  # by rounding, another may stand before it
        same = (points[indices[:, place]] == new).all(axis=1)
        indices[same, 0], distances[same, 0] = indices[same, place], 0
    return indices.astype(np.int64), as_floats("distances", distances)


def _search(points: NDArray[Any]) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(algorithm="kd_tree" if points.shape[1] <= FLAT_DIMS else "brute").fit(points)
