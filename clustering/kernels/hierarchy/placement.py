"""New rows' nearest among clustered ones in; the clusters that the new rows belong to, out."""

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
    rows: IntArray, length: FloatArray, inside: NDArray[np.bool_], averaged: int, label: IntArray, home: IntArray
) -> Assignments:
    """Let the nearest rows vote, weighed by a Gaussian of the distance, as diffusion weighs them.

    rows : shape (n_new, k), nearest first, -1 for none; length : float32, Euclidean distances to them
    inside : whether a new row would stand in the other's own list, as only then it can be a member beside it
    averaged : how many of the nearest vote; label, home : of all clustered rows
    Returns: label, strength, home, home_strength of each new row; -1 and 0 where nobody votes.
    """
    rows, length, inside = rows[:, :averaged], length[:, :averaged], inside[:, :averaged]
    there = rows >= 0
    held = np.maximum(np.minimum(there.sum(axis=1), averaged // 2), 1)
    middle = np.take_along_axis(length, held[:, None] - 1, axis=1) if length.size else np.ones((len(rows), 1))
    scale = np.maximum(middle, MIN_SCALE)
    with np.errstate(invalid="ignore"):  # infinity by infinity, where there is no row
        weight = np.where(there, np.exp(-((length / scale) ** 2)), 0)
    homes, home_share = _most(home[rows], weight)
    labels, share = _most(label[rows], np.where(inside, weight, 0))
    return {
        "label": labels,
        "strength": np.where(labels >= 0, share, 0),
        "home": homes,
        "home_strength": np.where((labels >= 0) & (labels == homes), 1, home_share),
    }


def _most(label: NDArray[Any], weight: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The label with the largest share of each row's weight, and that share; -1 and 0 without weight."""
    if not label.size:
        return np.full(len(label), -1, np.int64), np.zeros(len(label))
    votes = ((label[:, :, None] == label[:, None, :]) * weight[:, None, :]).sum(axis=2)
    each, best, total = np.arange(len(label)), votes.argmax(axis=1), weight.sum(axis=1)
    return np.where(total > 0, label[each, best], -1), votes[each, best] / np.where(total > 0, total, 1)


@dataclass(frozen=True)
class ReachabilityAssigner:
    """What HDBSCAN's clusters say to new rows.

    core : float32, shape (n_rows,), core distances; home : of all rows; rank : min_samples
    ceiling : float32, the longest edge of the forest between two members of each cluster; a last 0 for no cluster
    middle : the median height of the forest
    """

    core: FloatArray
    home: NDArray[Any]
    rank: int
    ceiling: FloatArray
    middle: np.float32

    @classmethod
    def from_forest(
        cls, forest: Forest, core: FloatArray, label: NDArray[Any], home: NDArray[Any], rank: int
    ) -> ReachabilityAssigner:
        ceiling = np.zeros(int(label.max(initial=-1)) + 2, np.float32)
        within = (label[forest.left] == label[forest.right]) & (label[forest.left] >= 0)
        np.maximum.at(ceiling, label[forest.left[within]], forest.distance[within])
        return cls(core, home, rank, ceiling, median_height(forest.distance))

    def assign(self, rows: IntArray, away: FloatArray) -> Assignments:
        """Where new rows meet the clustered ones at mutual reachability: ``home`` is the home of the row met first,
        ``label`` the same cluster when that is no higher than its own members meet each other, else -1.

        rows : shape (n_new, k), nearest first, -1 for none; away : float32, distances to them
        """
        if not rows.size:
            nothing = np.full(len(rows), -1, np.int64)
            return {"label": nothing, "strength": np.zeros(len(rows)), "home": nothing, "home_strength": nothing + 1.0}
        away = np.where(rows >= 0, away, np.inf)
        own_core = away[:, min(self.rank, away.shape[1]) - 1]
        reach = np.maximum(np.maximum(away, self.core[rows]), own_core[:, None])
        meets = reach.argmin(axis=1)
        each = np.arange(len(rows))
        height = reach[each, meets]
        home = np.where(np.isfinite(away[each, meets]), self.home[rows[each, meets]], -1)
        top = np.maximum(self.ceiling[home], np.float32(1e-12))
        inside = (home >= 0) & (height <= top)
        with np.errstate(invalid="ignore"):
            strength = np.where(inside, 1 - height / top / 2, 0)
        return {
            "label": np.where(inside, home, -1),
            "strength": strength,
            "home": home,
            "home_strength": np.where(inside, 1, home_strength(height, self.middle)),
        }
