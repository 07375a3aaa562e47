"""neighbors/ and vectors/ in, coords/ out: a map that keeps the searched neighbors together."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clustering import schema
from clustering.config.sections import ProjectSection
from clustering.errors import StageError
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.forest import row_dtype
from clustering.kernels.graph.layout import fuzzy_graph, lay_out
from clustering.kernels.graph.map_sample import (
    join_lists,
    place_between,
    sample_neighbors,
    sampled_entries,
    take_lists,
)
from clustering.kernels.memory import AXES_ROWS, LARGEST_PART, MAP_TEXTS
from clustering.kernels.topk import FloatArray, IntArray
from clustering.runs.directory import RunDir
from clustering.runs.index import Part, read_index, write_index
from clustering.runs.parts import (
    PartGroup,
    group_parts,
    parts,
    read_rows,
    vectors_of,
    walk_neighbors,
    walk_tables,
    write_part,
)
from clustering.schema import Figures
from clustering.workers.tasks import HERE, IN_TASKS, MOST_TASKS, Mapper, collect, run_on_one_node

SMALLEST_MAP = 5  # fewer texts lie where their first two principal components put them
AXES_BLOCK = 8192  # vectors whose covariance is added up at a time
Kept = tuple[tuple[IntArray, NeighborLists], Any]  # rows and their lists, as a task gets what another one keeps


def project_texts(
    run: RunDir, cfg: ProjectSection, n_texts: int, seed: int, task_texts: int = LARGEST_PART
) -> Figures:  # fmt: skip
    """Leave coords/: x and y of every text, in parts with the names of those of vectors/.

    Up to project.sample texts, or 1,000,000 where it says nothing, are laid out on one node. Of more texts a sample is
    laid out, and the others are placed amid their neighbors by tasks on all nodes.

    task_texts : of a task; a run of no more is a single one
    Returns: method, n_neighbors (as used), laid_out (texts that the method itself placed).
    Raises: StageError when umap-learn is not installed, or would search again instead of using the stored neighbors.
    """
    return run_on_one_node(_project, run, cfg, n_texts, seed, task_texts)


def _project(
    run: RunDir, cfg: ProjectSection, n_texts: int, seed: int, task_texts: int = LARGEST_PART,
    mapper: Mapper | None = None,
) -> Figures:  # fmt: skip
    groups = group_parts(run / "vectors", task_texts, MOST_TASKS)
    mapper = mapper or (IN_TASKS if len(groups) > 1 else HERE)
    n_neighbors = max(min(cfg.n_neighbors, n_texts - 1), 1)
    laid_out = min(n_texts, cfg.sample or MAP_TEXTS)
    chosen = None
    if SMALLEST_MAP <= n_texts > laid_out:
        chosen = np.sort(np.random.default_rng(seed).choice(n_texts, laid_out, replace=False))
    xy = _principal_components(run, groups, chosen, mapper)
    if chosen is not None:
        indices, away, width = _sample_lists(run, groups, chosen, n_neighbors, mapper)
        xy = _place_others(run, groups, chosen, draw_map(indices, away, xy, cfg, seed), width, mapper)
    elif n_texts >= SMALLEST_MAP:
        xy = draw_map(*_neighbor_columns(run, n_texts, n_neighbors), xy, cfg, seed)
    index = read_index(run / "vectors")
    calls = ((run, [index[name] for name in group.names], xy[group.first : group.stop]) for group in groups)
    write_index(run / "coords", [part for written in mapper.map(_write_coords, calls) for part in written])
    return {"method": cfg.method, "n_neighbors": n_neighbors, "laid_out": laid_out}


def _write_coords(run: RunDir, parts: list[Part], xy: FloatArray) -> list[Part]:
    """Write parts with the rows of some consecutive ones. xy : float32, shape (n_rows, 2)"""
    written = []
    for part in parts:
        at, row = part.first - parts[0].first, np.arange(part.first, part.first + part.rows)
        x, y = xy[at : at + part.rows].T
        table = pa.table({"row": row, "x": x, "y": y}, schema=schema.COORDS)
        written.append(write_part(run / "coords", part.name, table))
    return written


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


def _sample_lists(
    run: RunDir, groups: list[PartGroup], chosen: IntArray, n_neighbors: int, mapper: Mapper
) -> tuple[IntArray, FloatArray, int]:
    """The neighbor table of a sample for ``draw_map``, see ``sample_neighbors``; and ``width`` of ``place_between``.

    chosen : int64, shape (n_chosen,), rows of the sample, ascending
    """
    position = np.full(groups[-1].stop, -1, np.int32)
    position[chosen] = np.arange(chosen.size, dtype=np.int32)
    shared = mapper.share(position)
    del position
    cut = list(mapper.map(_cut_lists, ((run, group, shared) for group in groups), keep=True))
    width = 1 + max(longest for (longest, _), _ in cut)
    entries = mapper.share(join_lists([entries for (_, entries), _ in cut]))
    own = [kept for _, kept in cut]
    del cut
    found = list(mapper.map(_two_steps, ((one, shared, entries, chosen.size, n_neighbors) for one in own)))
    indices, away = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return indices, away, width


def _cut_lists(
    run: RunDir, group: PartGroup, position: NDArray[np.int32]
) -> tuple[tuple[int, NeighborLists], tuple[IntArray, NeighborLists]]:
    """Of some parts, the length of the longest list, and the entries in the sample; and lists of the sample's rows."""
    longest, entries, own = [], [], []
    for rows, lists in _walk_lists(run, group, position.size):
        longest.append(np.diff(lists.indptr).max(initial=0))
        entries.append(sampled_entries(lists, position))
        own.append(take_lists(rows, lists, position[rows] >= 0))
    return (int(max(longest)), join_lists(entries)), _joined(own)


def _joined(pieces: list[tuple[IntArray, NeighborLists]]) -> tuple[IntArray, NeighborLists]:
    """Rows and their lists as one."""
    return np.concatenate([rows for rows, _ in pieces]), join_lists([lists for _, lists in pieces])


def _two_steps(kept: Kept, *args: Any) -> tuple[IntArray, FloatArray]:
    return sample_neighbors(*collect(kept), *args)


def _place_others(
    run: RunDir, groups: list[PartGroup], chosen: IntArray, layout: FloatArray, width: int, mapper: Mapper
) -> FloatArray:
    """Coordinates of all texts: those of the sample, and for the others the mean of their nearest placed neighbors.

    A text without a placed neighbor waits for a later round. A text that no round reaches lies in the middle of the
    map. The first round reads neighbors/, and each keeps the lists of the texts that still wait.

    layout : float32, shape (n_chosen, 2), coordinates of the sample
    Returns: float32, shape (n_texts, 2)
    """
    xy = np.tile(np.median(layout, axis=0), (groups[-1].stop, 1)).astype(np.float32)
    xy[chosen] = layout
    placed = np.zeros(len(xy), np.bool_)
    placed[chosen] = True
    waiting: list[Any] = []
    while not placed.all():
        n_placed, shared = placed.sum(), mapper.share((width, placed, xy))
        calls: Any = ((kept, shared) for kept in waiting) if waiting else ((run, group, shared) for group in groups)
        before, waiting = waiting, []
        for (rows, means, left), kept in mapper.map(_place_waiting if before else _place_first, calls, keep=True):
            xy[rows], placed[rows] = means, True
            waiting += [kept] if left else []
        if placed.sum() == n_placed:
            break
    return xy


def _place_first(run: RunDir, group: PartGroup, shared: Any) -> tuple[Any, tuple[IntArray, NeighborLists]]:
    """Place what can be placed of some parts; keep the lists of the texts that wait. shared : as ``_place_waiting``

    Returns: rows that were placed, their places, and how many wait; rows that wait, and their lists
    """
    _, placed, xy = shared
    return _place((take_lists(*one, ~placed[one[0]]) for one in _walk_lists(run, group, len(xy))), shared)


def _place_waiting(kept: Kept, shared: Any) -> tuple[Any, tuple[IntArray, NeighborLists]]:
    """The same for texts that wait. shared : the last three arguments of ``place_between``"""
    return _place([collect(kept)], shared)


def _place(pieces: Iterable[tuple[IntArray, NeighborLists]], shared: Any) -> tuple[Any, tuple[IntArray, NeighborLists]]:
    found, places, waiting = [], [], []
    for rows, lists in pieces:
        reached, means = place_between(rows, lists, *shared)
        found.append(rows[reached])
        places.append(means)
        waiting.append(take_lists(rows, lists, ~reached))
    left = _joined(waiting)
    return (np.concatenate(found), np.concatenate(places), left[0].size), left


def _walk_lists(run: RunDir, group: PartGroup, n_texts: int) -> Iterator[tuple[IntArray, NeighborLists]]:
    """The rows of some parts and their neighbor lists as they are stored, some rows at a time."""
    columns = ["row", "neighbors", "distances"]
    for table in walk_tables([run / "neighbors" / name for name in group.names], columns):
        rows = table["row"].to_numpy()
        length = pc.list_value_length(table["neighbors"]).to_numpy()
        indices, distances = (table[name].combine_chunks().flatten().to_numpy() for name in columns[1:])
        indptr = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
        yield rows, NeighborLists(indptr, indices.astype(row_dtype(n_texts)), distances)


def _neighbor_columns(run: RunDir, n_texts: int, n_neighbors: int) -> tuple[IntArray, FloatArray]:
    """The neighbor table for ``draw_map``.

    A text with fewer neighbors stands again at distance 0 in the other columns, which adds no edge.
    """
    indices = np.repeat(np.arange(n_texts)[:, None], n_neighbors, axis=1)
    distances = np.zeros((n_texts, n_neighbors), np.float32)
    for row, position, neighbor, distance in walk_neighbors(run, n_neighbors - 1):
        indices[row, position + 1], distances[row, position + 1] = neighbor, distance
    return indices, distances


def _principal_components(
    run: RunDir, groups: list[PartGroup], chosen: IntArray | None, mapper: Mapper
) -> FloatArray:  # fmt: skip
    """The first two principal components of the vectors of some texts, by the covariance of the vectors of all.

    Of more than AXES_ROWS texts, the covariance is that of so many vectors in evenly spaced blocks of rows.

    chosen : int64, shape (n_chosen,), ascending; None: all texts
    Returns: float32, shape (n_chosen, 2)
    """
    n_texts = groups[-1].stop
    if n_texts <= AXES_ROWS:
        vectors = _read_vectors(run, n_texts)
        blocks = [vectors[at : at + AXES_BLOCK] for at in range(0, n_texts, AXES_BLOCK)]
        axes, shift = principal_axes(blocks)
        xy = np.concatenate([_along(block, axes) for block in blocks]) - shift
        return np.ascontiguousarray(xy if chosen is None else xy[chosen], np.float32)
    spaced = (read_rows(run / "vectors", rows, ["vector"]) for rows in spaced_rows(n_texts))
    axes, shift = principal_axes(map(vectors_of, spaced))
    calls: Any = ((run, group, _within(group, chosen), axes) for group in groups)
    return np.concatenate(list(mapper.map(_project_rows, calls))) - shift


def _within(group: PartGroup, chosen: IntArray | None) -> IntArray | None:
    """Positions in a group of the rows that are chosen."""
    if chosen is None:
        return None
    start, stop = np.searchsorted(chosen, [group.first, group.stop])
    return chosen[start:stop] - group.first


def _read_vectors(run: RunDir, n_texts: int) -> FloatArray:
    vectors, at = np.empty((0, 0), np.float32), 0
    for table in walk_tables(parts(run / "vectors"), ["vector"]):
        found = vectors_of(table)
        if at == 0:
            vectors = np.empty((n_texts, found.shape[1]), np.float32)
        vectors[at : at + len(found)] = found
        at += len(found)
    return vectors


def _project_rows(run: RunDir, group: PartGroup, chosen: IntArray | None, axes: FloatArray) -> FloatArray:
    """The components of the vectors of some parts. chosen : positions of those that are wanted; None: all"""
    tables = walk_tables([run / "vectors" / name for name in group.names], ["vector"])
    xy = np.concatenate([_along(vectors_of(table), axes) for table in tables])
    return xy if chosen is None else xy[chosen]


def _along(vectors: FloatArray, axes: FloatArray) -> FloatArray:
    """The vectors' places along axes; a product of matrices would round a row by how many rows stand beside it."""
    along: FloatArray = np.einsum("rd,dc->rc", vectors, axes)
    return along


def spaced_rows(n_texts: int) -> IntArray:
    """AXES_ROWS of the rows, in evenly spaced blocks: int64, shape (n_blocks, AXES_BLOCK), ascending."""
    blocks = np.linspace(0, n_texts // AXES_BLOCK - 1, AXES_ROWS // AXES_BLOCK).astype(np.int64)
    return blocks[:, None] * AXES_BLOCK + np.arange(AXES_BLOCK)


def principal_axes(blocks: Iterable[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """The first two principal axes, by the exact covariance.

    blocks : of vectors, float32, shape (n_rows, dim)
    Returns: float32, shape (dim, 2); float32, shape (2,), the place of the mean along them
    """
    count = 0
    total: Any = 0.0
    product: Any = 0.0
    with threadpool_limits(1, "blas"):  # more threads round otherwise, and how many there are follows the free cores
        for vectors in blocks:
            count += len(vectors)
            total = total + vectors.sum(axis=0, dtype=np.float64)
            product = product + (vectors.T @ vectors).astype(np.float64)
        mean = total / count
        _, axes = np.linalg.eigh(product / count - np.outer(mean, mean))
    axes = axes[:, :-3:-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # an eigenvector may have either sign
    return axes.astype(np.float32), (mean @ axes).astype(np.float32)
