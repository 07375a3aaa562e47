"""Nearest clustered rows of new rows in, clusters of the new rows out; the clusters stay as they are.

With diffused weights the nearest rows vote. In plain HDBSCAN a new row takes the cluster of the row that is nearest by
mutual reachability, if that is no farther than the cluster's own members are joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.kernels.graph.diffusion import MIN_SCALE
from clustering.kernels.graph.forest import FloatArray, Forest, IntArray
from clustering.kernels.hierarchy.homes import home_strength, median_height

Assignments = dict[str, NDArray[Any]]


def assign_by_vote(
    rows: IntArray, length: FloatArray, inside: NDArray[np.bool_], n_averaged: int, label: IntArray, home: IntArray
) -> Assignments:
    """Assign new rows by a vote of their nearest rows, weighted by a Gaussian of the distance as in diffusion.

    rows, length : int64 and float32, shape (n_new, k), nearest first, -1 for none, and Euclidean distances
    inside : bool, shape (n_new, k), whether the new row would be in the other's list; only then that votes for label
    n_averaged : how many of the nearest vote; label, home : int64, shape (n_rows,), of all clustered rows
    Returns: label and home, int64, strength and home_strength, float, shape (n_new,); -1 and 0 without votes.
    """
    rows, length, inside = rows[:, :n_averaged], length[:, :n_averaged], inside[:, :n_averaged]
    exists = rows >= 0
    rank = np.maximum(np.minimum(exists.sum(axis=1), n_averaged // 2), 1)
    local = np.take_along_axis(length, rank[:, None] - 1, axis=1) if length.size else np.ones((len(rows), 1))
    scale = np.maximum(local, MIN_SCALE)
    with np.errstate(invalid="ignore"):  # infinity by infinity, where there is no row
        weight = np.where(exists, np.exp(-((length / scale) ** 2)), 0)
    homes, home_share = _winner(home[rows], weight)
    labels, share = _winner(label[rows], np.where(inside, weight, 0))
    return {
        "label": labels,
        "strength": np.where(labels >= 0, share, 0),
        "home": homes,
        "home_strength": np.where((labels >= 0) & (labels == homes), 1, home_share),
    }


def _winner(label: NDArray[Any], weight: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The label with the largest share of each row's weight, and the share; -1 and 0 without weight."""
    if not label.size:
        return np.full(len(label), -1, np.int64), np.zeros(len(label))
    votes = ((label[:, :, None] == label[:, None, :]) * weight[:, None, :]).sum(axis=2)
    each, best, total = np.arange(len(label)), votes.argmax(axis=1), weight.sum(axis=1)
    return np.where(total > 0, label[each, best], -1), votes[each, best] / np.where(total > 0, total, 1)


@dataclass(frozen=True)
class ReachabilityAssigner:
    """Assigns new rows to HDBSCAN's clusters by mutual reachability.

    core, home : float32 and int64, shape (n_rows,), core distances and homes of the clustered rows
    rank : min_samples
    ceiling : float32, shape (n_labels + 1,), the longest forest edge between two members of each cluster; a last 0
    median : the median height of the forest
    """

    core: FloatArray
    home: NDArray[Any]
    rank: int
    ceiling: FloatArray
    median: np.float32

    @classmethod
    def from_forest(
        cls, forest: Forest, core: FloatArray, label: NDArray[Any], home: NDArray[Any], rank: int
    ) -> ReachabilityAssigner:
        """label, home : int64, shape (n_rows,), of the clustered rows; core : float32, shape (n_rows,)"""
        ceiling = np.zeros(int(label.max(initial=-1)) + 2, np.float32)
        within = (label[forest.left] == label[forest.right]) & (label[forest.left] >= 0)
        np.maximum.at(ceiling, label[forest.left[within]], forest.distance[within])
        return cls(core, home, rank, ceiling, median_height(forest.distance))

    def assign(self, rows: IntArray, distances: FloatArray) -> Assignments:
        """Find the nearest clustered row of each new row by mutual reachability.

        ``home`` is the home of that row; ``label`` is the same cluster if it is no farther than the ceiling, else -1.

        rows, distances : int64 and float32, shape (n_new, k), nearest first, -1 for none
        Returns: label, strength, home and home_strength, shape (n_new,), as ``assign_by_vote``.
        """
        if not rows.size:
            nothing = np.full(len(rows), -1, np.int64)
            return {"label": nothing, "strength": np.zeros(len(rows)), "home": nothing, "home_strength": nothing + 1.0}
        away = np.where(rows >= 0, distances, np.inf)
        own_core = away[:, min(self.rank, away.shape[1]) - 1]
        reach = np.maximum(np.maximum(away, self.core[rows]), own_core[:, None])
        nearest, each = reach.argmin(axis=1), np.arange(len(rows))
        height = reach[each, nearest]
        home = np.where(np.isfinite(away[each, nearest]), self.home[rows[each, nearest]], -1)
        top = np.maximum(self.ceiling[home], np.float32(1e-12))
        inside = (home >= 0) & (height <= top)
        with np.errstate(invalid="ignore"):
            strength = np.where(inside, 1 - height / top / 2, 0)
        return {
            "label": np.where(inside, home, -1),
            "strength": strength,
            "home": home,
            "home_strength": np.where(inside, 1, home_strength(height, self.median)),
        }
