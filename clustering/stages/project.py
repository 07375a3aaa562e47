"""neighbors/ and vectors/ in, coords/ out: a map that keeps the searched neighbors together."""

from __future__ import annotations

import warnings
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import ProjectSection
from clustering.errors import StageError
from clustering.kernels.graph.layout import fuzzy_graph, lay_out
from clustering.kernels.topk import FloatArray, IntArray
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name, parts, vectors_of, walk_neighbors, walk_tables
from clustering.runs.storage import write_table
from clustering.schema import Figures
from clustering.workers.tasks import run_on_one_node

PLACED_NEIGHBORS = 3  # a text outside the sample lies between so many placed neighbors
BLOCK_ROWS = 8192  # texts that are placed between others at a time
SMALLEST_MAP = 5  # fewer texts lie where their first two principal components put them


def project_texts(run: RunDir, cfg: ProjectSection, n_texts: int, seed: int) -> Figures:
    """Leave coords/: x and y of every text.

    Returns: method, n_neighbors (as used), laid_out (texts that the method itself placed).
    Raises: StageError when umap-learn is not installed, or would search again instead of using the stored neighbors.
    """
    return run_on_one_node(_project, run, cfg, n_texts, seed)


def _project(run: RunDir, cfg: ProjectSection, n_texts: int, seed: int) -> Figures:
    start = _principal_components(run, n_texts)
    n_neighbors = max(min(cfg.n_neighbors, n_texts - 1), 1)
    xy, laid_out = start, n_texts
    if n_texts >= SMALLEST_MAP:
        indices, distances = _neighbor_columns(run, n_texts, None if cfg.sample else n_neighbors)
        if cfg.sample is not None and cfg.sample < n_texts:
            chosen = np.sort(np.random.default_rng(seed).choice(n_texts, cfg.sample, replace=False))
            laid_out = cfg.sample
            inner = sample_neighbors(indices, distances, chosen, n_neighbors)
            xy = place_between(indices, distances, chosen, draw_map(*inner, start[chosen], cfg, seed))
        else:
            xy = draw_map(indices[:, :n_neighbors], distances[:, :n_neighbors], start, cfg, seed)
    columns = {"row": np.arange(n_texts), "x": xy[:, 0], "y": xy[:, 1]}
    write_table(run / "coords" / part_name(0), pa.table(columns, schema=schema.COORDS))
    return {"method": cfg.method, "n_neighbors": n_neighbors, "laid_out": laid_out}


def draw_map(indices: IntArray, distances: FloatArray, start: FloatArray, cfg: ProjectSection, seed: int) -> FloatArray:
    """The map of a neighbor table by the configured method.

    indices : int64, shape (n_texts, n_neighbors); column 0 is the text itself
    distances : float32, shape (n_texts, n_neighbors); column 0 is 0
    start : float32, shape (n_texts, 2), the first positions
    seed : of the run, used where cfg has none
    Returns: float32, shape (n_texts, 2)
    Raises: StageError, as ``umap_layout``.
    """
    if cfg.method == "umap":
        return umap_layout(indices, distances, start, cfg)
    graph = fuzzy_graph(indices, distances)
    return lay_out(graph, start, min_dist=cfg.min_dist, seed=seed if cfg.seed is None else cfg.seed)


def umap_layout(indices: IntArray, distances: FloatArray, start: FloatArray, cfg: ProjectSection) -> FloatArray:
    """umap-learn's map of a neighbor table; arguments as in ``draw_map``.

    It gets ``start`` because its own spectral start takes minutes for 100,000 texts, and longer on a graph in pieces.
    Raises: StageError when umap-learn is not installed, or would search again instead of using the stored neighbors.
    Source: McInnes et al. (2018), arXiv:1802.03426.
    """
    try:
        from umap import UMAP  # it compiles anew in each process
    except ImportError as error:
        remedy = "pip install umap-learn, or method=layout"
        raise StageError(f"project.method=umap needs umap-learn ({error}); {remedy}") from None

    knn = (indices.copy(), distances.copy())  # umap-learn writes into them
    model = UMAP(indices.shape[1], min_dist=cfg.min_dist, init=start, precomputed_knn=knn, random_state=cfg.seed)
    with warnings.catch_warnings():
        # These two warnings mean that it would search again, in vectors that it does not have.
        warnings.filterwarnings("error", message=".*precomputed_knn.*")
        warnings.filterwarnings("error", message=".*k-nn.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*transforming new data.*")
        warnings.filterwarnings("ignore", message="n_jobs value")
        warnings.filterwarnings("ignore", message="A .* of your vertices were disconnected")  # texts without a vector
        try:
            layout: FloatArray = model.fit_transform(np.zeros((len(indices), 1), np.float32))
        except UserWarning as warning:
            raise StageError(f"umap-learn ignores the stored neighbors ({warning}); take method=layout") from None
    return np.nan_to_num(layout).astype(np.float32, copy=False)


def sample_neighbors(
    indices: IntArray, distances: FloatArray, chosen: IntArray, n_neighbors: int
) -> tuple[IntArray, FloatArray]:
    """The neighbor table of a sample: for each text, the nearest sampled texts within two steps on the neighbor lists.

    indices : int64, shape (n_texts, k + 1); column 0 is the text itself
    distances : float32, shape (n_texts, k + 1)
    chosen : int64, shape (n_chosen,), the rows of the sample, ascending
    Returns: positions in ``chosen`` (int64) and lengths of the shortest way (float32), shape (n_chosen, n_neighbors);
        column 0 is the text itself.
    """
    position = np.full(len(indices), -1, np.int64)
    position[chosen] = np.arange(chosen.size)
    found, away = _two_steps(indices, distances, chosen, position, n_neighbors)
    return found, away


@numba.njit(cache=True, nogil=True)
def _two_steps(indices: Any, distances: Any, chosen: Any, position: Any, n_neighbors: int) -> Any:
    found = np.empty((chosen.size, n_neighbors), np.int64)
    away = np.zeros((chosen.size, n_neighbors), np.float32)
    best = np.full(chosen.size, np.inf, np.float32)
    touched = np.empty(indices.shape[1] * indices.shape[1], np.int64)
    for own in range(chosen.size):
        found[own, :] = own
        n_touched = 0
        row = chosen[own]
        for first in range(indices.shape[1]):
            middle = indices[row, first]
            for second in range(indices.shape[1]):
                other = position[indices[middle, second]]
                if other < 0 or other == own:
                    continue
                length = distances[row, first] + distances[middle, second]
                if best[other] == np.inf:
                    touched[n_touched] = other
                    n_touched += 1
                best[other] = min(best[other], length)
        n_found = 1
        for other in touched[:n_touched]:  # keep the nearest in order; of equally near ones, the first comes first
            if n_found < n_neighbors or best[other] < away[own, n_found - 1]:
                column = min(n_found, n_neighbors - 1)
                while column > 1 and away[own, column - 1] > best[other]:
                    found[own, column], away[own, column] = found[own, column - 1], away[own, column - 1]
                    column -= 1
                found[own, column], away[own, column] = other, best[other]
                n_found = min(n_found + 1, n_neighbors)
            best[other] = np.inf
    return found, away


def place_between(indices: IntArray, distances: FloatArray, chosen: IntArray, layout: FloatArray) -> FloatArray:
    """Coordinates of all texts: those of the sample, and for the others the mean of their nearest placed neighbors.

    A text without a placed neighbor waits for a later round. A text that no round reaches lies in the middle of the
    map.
    indices, distances, chosen : as in ``sample_neighbors``
    layout : float32, shape (n_chosen, 2), coordinates of the sample
    Returns: float32, shape (n_texts, 2)
    """
    xy = np.tile(np.median(layout, axis=0), (len(indices), 1)).astype(np.float32)
    xy[chosen] = layout
    placed = np.zeros(len(indices), np.bool_)
    placed[chosen] = True
    while not placed.all():
        waiting = np.flatnonzero(~placed)
        blocks = np.array_split(waiting, -(-waiting.size // BLOCK_ROWS))
        reached = [_means_of_placed(indices, distances, placed, xy, rows) for rows in blocks]
        rows, means = (np.concatenate(arrays) for arrays in zip(*reached, strict=True))
        if not rows.size:
            break
        xy[rows] = means
        placed[rows] = True
    return xy


def _means_of_placed(
    indices: IntArray, distances: FloatArray, placed: NDArray[np.bool_], xy: FloatArray, waiting: IntArray
) -> tuple[IntArray, FloatArray]:
    """The waiting rows that have a placed neighbor, and the weighted mean of their nearest placed neighbors.

    Returns: int64, shape (n_reached,); float32, shape (n_reached, 2)
    """
    near = placed[indices[waiting]]
    near &= near.cumsum(axis=1) <= PLACED_NEIGHBORS  # the mean of many neighbors lies in no cluster
    weight = np.where(near, 1 / np.maximum(distances[waiting], 1e-3) ** 2, 0)
    total = weight.sum(axis=1)
    reached = total > 0
    rows = waiting[reached]
    return rows, np.einsum("rk,rkd->rd", weight[reached] / total[reached, None], xy[indices[rows]])


def _neighbor_columns(run: RunDir, n_texts: int, n_neighbors: int | None) -> tuple[IntArray, FloatArray]:
    """The neighbor table for ``draw_map``; None takes all stored neighbors.

    A text with fewer neighbors stands again at distance 0 in the other columns, which adds no edge.
    """
    if n_neighbors is None:
        tables = walk_tables(parts(run / "neighbors"), ["neighbors"])
        n_neighbors = 1 + max(pc.max(pc.list_value_length(table["neighbors"])).as_py() for table in tables)
    indices = np.repeat(np.arange(n_texts)[:, None], n_neighbors, axis=1)
    distances = np.zeros((n_texts, n_neighbors), np.float32)
    for row, position, neighbor, distance in walk_neighbors(run, n_neighbors - 1):
        indices[row, position + 1], distances[row, position + 1] = neighbor, distance
    return indices, distances


def _principal_components(run: RunDir, n_texts: int) -> FloatArray:
    """float32, shape (n_texts, 2): the first two principal components of all vectors, by the exact covariance.

    A few row groups are in memory at a time.
    """
    total: Any = 0.0
    product: Any = 0.0
    for table in walk_tables(parts(run / "vectors"), ["vector"]):
        vectors = vectors_of(table)
        total = total + vectors.sum(axis=0, dtype=np.float64)
        product = product + (vectors.T @ vectors).astype(np.float64)
    mean = total / n_texts
    _, axes = np.linalg.eigh(product / n_texts - np.outer(mean, mean))
    axes = axes[:, :-3:-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # an eigenvector may have either sign
    tables = walk_tables(parts(run / "vectors"), ["vector"])
    projected = [vectors_of(table) @ axes.astype(np.float32) for table in tables]
    return np.ascontiguousarray(np.concatenate(projected) - (mean @ axes).astype(np.float32), np.float32)
