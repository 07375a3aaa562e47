"""Neighbor lists and a sample of the texts in; the sample's own lists, and places for the texts outside it, out.

The lists come in parts, and each function works on one part. A part gives the same results for any cut of the rows.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.topk import FloatArray, IntArray

PLACED_NEIGHBORS = 3  # a text outside the sample lies between so many placed neighbors
BLOCK_ROWS = 8192  # texts that are placed between others at a time


def sampled_entries(lists: NeighborLists, position: NDArray[np.int32]) -> NeighborLists:
    """The entries of the lists that are in the sample, with positions in the sample in place of rows.

    position : int32, shape (n_texts,), of each text in the sample; -1 for the others
    """
    place = position[lists.indices]
    sampled = place >= 0
    return NeighborLists(_bounds(lists, sampled), place[sampled], lists.distances[sampled])


def take_lists(rows: IntArray, lists: NeighborLists, taken: NDArray[np.bool_]) -> tuple[IntArray, NeighborLists]:
    """Some of the lists of some rows, and their rows. rows, taken : int64 and bool, shape (n_lists,)"""
    entries = np.repeat(taken, np.diff(lists.indptr))
    bounds = np.append(_bounds(lists, entries)[:-1][taken], entries.sum())
    return rows[taken], NeighborLists(bounds, lists.indices[entries], lists.distances[entries])


def _bounds(lists: NeighborLists, kept: NDArray[np.bool_]) -> IntArray:
    """Where each list begins and ends when only some entries are kept. kept : shape (n_entries,)"""
    counted: IntArray = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[lists.indptr]
    return counted


def join_lists(parts: list[NeighborLists]) -> NeighborLists:
    """The lists of consecutive parts as one."""
    if len(parts) == 1:
        return parts[0]
    indptr = np.zeros(sum(map(len, parts)) + 1, np.int64)
    np.concatenate([np.diff(part.indptr) for part in parts], out=indptr[1:])
    np.cumsum(indptr, out=indptr)
    indices, distances = ([getattr(part, name) for part in parts] for name in ("indices", "distances"))
    return NeighborLists(indptr, np.concatenate(indices), np.concatenate(distances))


def sample_neighbors(
    rows: IntArray, lists: NeighborLists, position: NDArray[np.int32], entries: NeighborLists, n_chosen: int,
    n_neighbors: int,
) -> tuple[IntArray, FloatArray]:  # fmt: skip
    """The nearest sampled texts within two steps on the neighbor lists, of some texts of the sample.

    rows : int64, shape (n_rows,); lists : their neighbor lists, in the same order
    position : as in ``sampled_entries``; entries : what it gives for the lists of all texts
    n_chosen : texts of the sample
    Returns: positions in the sample (int64) and lengths of the shortest way (float32), shape (n_rows, n_neighbors);
        column 0 is the text itself, which also stands for missing neighbors at length 0. Of equally near texts, the
        one that is found first comes first.
    """
    found = np.empty((rows.size, n_neighbors), np.int64)
    away = np.zeros((rows.size, n_neighbors), np.float32)
    _two_steps(
        rows, lists.indptr, lists.indices, lists.distances, position, entries.indptr, entries.indices,
        entries.distances, np.full(n_chosen, np.inf, np.float32), np.empty(n_chosen, np.int64), found, away,
    )  # fmt: skip
    return found, away


@numba.njit(cache=True, nogil=True)
def _two_steps(
    rows: Any, indptr: Any, indices: Any, distances: Any, position: Any, inner_indptr: Any, inner_indices: Any,
    inner_distances: Any, best: Any, touched: Any, found: Any, away: Any,
) -> None:  # fmt: skip
    """best : infinite, and touched : empty, both of shape (n_chosen,)"""
    n_neighbors = found.shape[1]
    for at in range(rows.size):
        own = position[rows[at]]
        found[at, :] = own
        n_touched = 0
        for first in range(indptr[at] - 1, indptr[at + 1]):  # at first no step: the text itself
            itself = first < indptr[at]
            middle, length = (rows[at], np.float32(0)) if itself else (np.int64(indices[first]), distances[first])
            for second in range(inner_indptr[middle] - 1, inner_indptr[middle + 1]):
                if second < inner_indptr[middle]:
                    other, way = np.int64(position[middle]), length
                else:
                    other, way = np.int64(inner_indices[second]), length + inner_distances[second]
                if other < 0 or other == own:
                    continue
                if best[other] == np.inf:
                    touched[n_touched] = other
                    n_touched += 1
                best[other] = min(best[other], way)
        n_found = 1
        for other in touched[:n_touched]:  # keep the nearest in order; of equally near ones, the first comes first
            if n_found < n_neighbors or best[other] < away[at, n_found - 1]:
                column = min(n_found, n_neighbors - 1)
                while column > 1 and away[at, column - 1] > best[other]:
                    found[at, column], away[at, column] = found[at, column - 1], away[at, column - 1]
                    column -= 1
                found[at, column], away[at, column] = other, best[other]
                n_found = min(n_found + 1, n_neighbors)
            best[other] = np.inf


def place_between(
    rows: IntArray, lists: NeighborLists, width: int, placed: NDArray[np.bool_], xy: FloatArray
) -> tuple[NDArray[np.bool_], FloatArray]:
    """Places for some texts: the weighted mean of their nearest placed neighbors.

    rows : int64, shape (n_rows,), texts that are not placed; lists : their neighbor lists, in the same order
    width : entries of the longest list of all texts, and 1 for the text itself; it decides how sums are rounded
    placed, xy : bool, shape (n_texts,), and float32, shape (n_texts, 2)
    Returns: bool, shape (n_rows,), whether a text has a placed neighbor; float32, shape (n_reached, 2), places of those
    """
    found = [
        _means_of_placed(*_table(rows[at : at + BLOCK_ROWS], lists, at, width), placed, xy)
        for at in range(0, rows.size, BLOCK_ROWS)
    ]
    reached = [np.empty(0, np.bool_), *(one for one, _ in found)]
    means = [np.empty((0, 2), np.float32), *(one for _, one in found)]
    return np.concatenate(reached), np.concatenate(means)


def _table(rows: IntArray, lists: NeighborLists, at: int, width: int) -> tuple[NDArray[Any], FloatArray]:
    """The lists from position ``at`` on as a table whose column 0 and missing entries are the text itself."""
    bounds = lists.indptr[at : at + rows.size + 1]
    length = np.diff(bounds)
    row = np.repeat(np.arange(rows.size), length)
    column = 1 + np.arange(bounds[0], bounds[-1]) - np.repeat(bounds[:-1], length)
    indices = np.repeat(rows[:, None], width, axis=1)
    distances = np.zeros((rows.size, width), np.float32)
    indices[row, column] = lists.indices[bounds[0] : bounds[-1]]
    distances[row, column] = lists.distances[bounds[0] : bounds[-1]]
    return indices, distances


def _means_of_placed(
    indices: NDArray[Any], distances: FloatArray, placed: NDArray[np.bool_], xy: FloatArray
) -> tuple[NDArray[np.bool_], FloatArray]:
    near = placed[indices]
    near &= near.cumsum(axis=1) <= PLACED_NEIGHBORS  # the mean of many neighbors lies in no cluster
    weight = np.where(near, 1 / np.maximum(distances, 1e-3) ** 2, 0)
    total = weight.sum(axis=1)
    reached = total > 0
    return reached, np.einsum("rk,rkd->rd", weight[reached] / total[reached, None], xy[indices[reached]])
