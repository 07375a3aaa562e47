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
from clustering.kernels.hierarchy.condensed_tree import CondensedTree, last_lambdas
from clustering.kernels.hierarchy.homes import home_strength, median_height
from clustering.kernels.hierarchy.membership import labels_of_nodes

Assignments = dict[str, NDArray[Any]]


def assign_by_vote(
    rows: IntArray, length: FloatArray, inside: NDArray[np.bool_], n_averaged: int, label: IntArray, home: IntArray
) -> Assignments:
    """Assign new rows by a vote of their nearest rows, weighted by a Gaussian of the distance as in diffusion.

    rows, length : int64 and float32, shape (n_new, k), nearest first, -1 for none, and Euclidean distances
    inside : bool, shape (n_new, k), whether the new row would be in the other's list; only then that votes for label
    n_averaged : how many of the nearest vote; label, home : int64, shape (n_rows,), of all clustered rows
    Returns: label and home, int64, strength and home_strength, float, shape (n_new,); -1 and 0 without votes,
        and where those without a label, or without a home, win.
    """
    rows, weight, votes = weigh_votes(rows, length, inside, n_averaged)
    homes, home_share = _winner(home[rows], weight)
    labels, share = _winner(label[rows], votes)
    return {
        "label": labels,
        "strength": share,
        "home": homes,
        "home_strength": np.where((labels >= 0) & (labels == homes), 1, home_share),
    }


def weigh_votes(
    rows: IntArray, length: FloatArray, inside: NDArray[np.bool_], n_averaged: int
) -> tuple[IntArray, NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """The rows that vote for each new row in ``assign_by_vote``, their weights for its home, and those for its label.

    Returns: int64, float and float, shape (n_new, n_averaged or k if that is less).
    """
    rows, length, inside = rows[:, :n_averaged], length[:, :n_averaged], inside[:, :n_averaged]
    exists = rows >= 0
    rank = np.maximum(np.minimum(exists.sum(axis=1), n_averaged // 2), 1)
    local = np.take_along_axis(length, rank[:, None] - 1, axis=1) if length.size else np.ones((len(rows), 1))
    scale = np.maximum(local, MIN_SCALE)
    with np.errstate(invalid="ignore"):  # infinity by infinity, where there is no row
        weight = np.where(exists, np.exp(-((length / scale) ** 2)), 0)
    return rows, weight, np.where(inside, weight, 0)


def _winner(label: NDArray[Any], weight: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The label with the largest share of each row's weight, and the share; -1 and 0 where none or -1 has it."""
    if not label.size:
        return np.full(len(label), -1, np.int64), np.zeros(len(label))
    votes = ((label[:, :, None] == label[:, None, :]) * weight[:, None, :]).sum(axis=2)
    each, best, total = np.arange(len(label)), votes.argmax(axis=1), weight.sum(axis=1)
    winner = np.where(total > 0, label[each, best], -1)
    return winner, np.where(winner >= 0, votes[each, best] / np.where(total > 0, total, 1), 0)


def _own_core(rows: IntArray, away: FloatArray, rank: int, copies: NDArray[np.int32] | None) -> FloatArray:
    """The core distance of each new row: that of its rank-th nearest record, or of its last one.

    rows, away : int64 and float32, shape (n_new, k), nearest first; -1 and infinite for none
    copies : int32, shape (n_rows,), records of each clustered row; None: one each
    """
    if copies is None:
        return away[:, :rank].max(axis=1)  # type: ignore[no-any-return]
    records = np.where(rows >= 0, copies[rows], 0).astype(np.int64)
    nearer = np.cumsum(records, axis=1) - records
    return np.where(nearer < rank, away, 0).max(axis=1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ReachabilityAssigner:
    """Assigns new rows to HDBSCAN's clusters by mutual reachability.

    core, home : float32 and int64, shape (n_rows,), core distances and homes of the clustered rows
    rank : min_samples; copies : int32, shape (n_rows,), records of each row where all of them count for it, or None
    ceiling : float32, shape (n_labels + 1,), the longest forest edge between two members of each cluster; a last 0
    median : the median height of the forest
    """

    core: FloatArray
    home: NDArray[Any]
    rank: int
    ceiling: FloatArray
    median: np.float32
    copies: NDArray[np.int32] | None = None

    @classmethod
    def from_forest(
        cls, forest: Forest, core: FloatArray, label: NDArray[Any], home: NDArray[Any], rank: int,
        copies: NDArray[np.int32] | None = None,
    ) -> ReachabilityAssigner:  # fmt: skip
        """label, home : int64, shape (n_rows,), of the clustered rows; core : float32, shape (n_rows,)"""
        ceiling = np.zeros(int(label.max(initial=-1)) + 2, np.float32)
        within = (label[forest.left] == label[forest.right]) & (label[forest.left] >= 0)
        np.maximum.at(ceiling, label[forest.left[within]], forest.distance[within])
        return cls(core, home, rank, ceiling, median_height(forest.distance), copies)

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
        own_core = _own_core(rows, away, self.rank, self.copies)
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
            "home_strength": np.where(inside, 1, np.where(home >= 0, home_strength(height, self.median), 0)),
        }


@dataclass(frozen=True)
class TreeAssigner:
    """Assigns new rows to HDBSCAN's clusters by their place in the condensed tree, as hdbscan does.

    A new row hangs on the row that is nearest by mutual reachability. It leaves the tree with that row, or earlier if
    the distance is longer than that at which the row leaves.

    core : float32, shape (n_rows,), core distances of the clustered rows; rank : min_samples
    copies : int32, shape (n_rows,), records of each row where all of them count for the rank, or None
    node_label : int64, shape (n_clusters,), the label of each cluster of the tree, -1 for none
    top : float64, shape (n_labels,), the largest lambda at which anything leaves the cluster of each label
    Source: hdbscan's ``approximate_predict``.
    """

    tree: CondensedTree
    core: FloatArray
    rank: int
    node_label: IntArray
    top: NDArray[np.float64]
    copies: NDArray[np.int32] | None = None

    @classmethod
    def from_tree(
        cls, tree: CondensedTree, core: FloatArray, label: IntArray, rank: int,
        copies: NDArray[np.int32] | None = None,
    ) -> TreeAssigner:  # fmt: skip
        """label : int64, shape (n_rows,), -1 for rows that are no members by the tree; the others : see the class"""
        node_label, last = labels_of_nodes(tree, label), last_lambdas(tree)
        top = np.zeros(int(node_label.max(initial=-1)) + 1)
        inside = np.flatnonzero(node_label >= 0)[::-1]
        top[node_label[inside]] = last[inside]  # the smallest number, the highest cluster, comes last
        return cls(tree, core, rank, node_label, top, copies)

    def place(self, rows: IntArray, distances: FloatArray) -> tuple[IntArray, IntArray, NDArray[np.float64]]:
        """The row that each new row hangs on, the cluster that it leaves, and lambda of its distance to the row.

        rows, distances : int64 and float32, shape (n_new, k), nearest first, -1 for none
        Returns: int64, int64 and float64, shape (n_new,); row -1, cluster 0 and lambda 0 without a neighbor.
        """
        if not rows.size:
            return np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.int64), np.zeros(len(rows))
        away = np.where(rows >= 0, distances, np.inf)
        # One more than within the tree: the new row itself is not in the lists.
        own_core = _own_core(rows, np.where(np.isfinite(away), away, 0), self.rank + 1, self.copies)
        reach = np.maximum(np.maximum(away, self.core[rows]), own_core[:, None])
        nearest, each = reach.argmin(axis=1), np.arange(len(rows))
        height = np.maximum(reach[each, nearest].astype(np.float64), np.finfo(np.float32).tiny)
        leaving = np.where(np.isfinite(height), 1 / height, 0)
        row = rows[each, nearest]
        cluster = np.where(leaving > 0, self.tree.cluster[row], 0).astype(np.int64)
        earlier = self.tree.departure[row] > leaving
        while (up := (cluster > 0) & earlier & (self.tree.birth[cluster] >= leaving)).any():
            cluster[up] = self.tree.parent[cluster[up]]
        return row, cluster, leaving

    def assign(self, rows: IntArray, distances: FloatArray) -> Assignments:
        """The label and strength of each new row, int64 and float64, shape (n_new,); see ``place``."""
        _, cluster, leaving = self.place(rows, distances)
        label = np.where(leaving > 0, self.node_label[cluster], -1)
        highest = np.append(self.top, 0)[label]
        share = np.divide(np.minimum(leaving, highest), highest, out=np.ones(label.size), where=highest > 0)
        return {"label": label, "strength": np.where(label >= 0, share, 0)}
