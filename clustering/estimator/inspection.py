"""A fitted GraphHDBSCAN in; its trees, typical rows, memberships and measures out, each made when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from sklearn.utils.validation import check_is_fitted

from clustering.estimator.parameters import Parameters
from clustering.estimator.plain import MIN_SAMPLES
from clustering.estimator.rows import Rows, first_entries, sorted_lists
from clustering.kernels.graph.forest import FloatArray, Forest, IntArray
from clustering.kernels.hierarchy.labels import Labels
from clustering.kernels.hierarchy.linkage import relative_validity, single_linkage
from clustering.kernels.hierarchy.membership import (
    LINKS,
    kept_links,
    labels_of_nodes,
    strongest,
    tree_memberships,
    typical_rows,
    vote_memberships,
)
from clustering.kernels.hierarchy.placement import TreeAssigner, weigh_votes

BLOCK = 1 << 24  # distances to typical rows at a time


@dataclass(frozen=True)
class Fitted:
    """What ``fit`` leaves; arrays have an entry for each group of rows at distance 0 of each other.

    vectors : float, shape (n_groups, dim), or None; n_averaged : neighbors that diffusion averages over
    """

    rows: Rows
    forest: Forest
    core: FloatArray
    found: Labels
    vectors: NDArray[Any] | None
    n_averaged: int
    own: Parameters

    @cached_property
    def tree_label(self) -> IntArray:
        """int64, shape (n_groups,): the label, but -1 for copies that are a cluster by themselves."""
        label = self.found.label.copy()
        if self.found.n_copies_clusters and self.own.copies == "fold":
            label[(label >= 0) & (np.bincount(label[label >= 0], minlength=1)[label] == 1)] = -1
        return label

    @cached_property
    def assigner(self) -> TreeAssigner:
        copies = self.rows.copies if self.own.copies == "weigh" else None
        rank = self.own.min_samples or MIN_SAMPLES
        return TreeAssigner.from_tree(self.found.tree, self.core, self.tree_label, rank, copies)

    @cached_property
    def typical(self) -> list[IntArray]:
        """The typical groups of each label; of copies that are a cluster by themselves these."""
        groups, label = typical_rows(self.found.tree, self.tree_label)
        alone = np.flatnonzero((self.found.label >= 0) & (self.tree_label < 0))
        groups, label = np.append(groups, alone), np.append(label, self.found.label[alone])
        count = int(self.found.label.max(initial=-1)) + 1
        return [groups[label == one] for one in range(count)]

    @property
    def row_forest(self) -> Forest:
        """The forest over all rows, in which the copies of a row hang on it at the least distance."""
        first, group = self.rows.first, self.rows.group
        copy = np.flatnonzero(first[group] != np.arange(group.size))
        left = np.concatenate([first[group[copy]], first[self.forest.left]])
        right = np.concatenate([copy, first[self.forest.right]])
        near = np.full(copy.size, self.own.min_distance, np.float32)
        distance = np.concatenate([near, self.forest.distance])
        order = np.argsort(distance, kind="stable")
        return Forest(left[order], right[order], distance[order])

    def tree_shares(
        self, points: NDArray[Any], cluster: IntArray, leaving: NDArray[np.float64], most: int
    ) -> csr_array:
        """Memberships of rows by their place in the tree: float64 csr_array, shape (n_rows, n_labels)."""
        if self.vectors is None:
            raise ValueError(
                "membership vectors of plain HDBSCAN need vectors; fit(X) with vectors, or fit(neighbors=, vectors=)"
            )
        typical, node = self.typical, labels_of_nodes(self.found.tree, self.tree_label)
        ends = np.cumsum([0, *(len(one) for one in typical)])
        held = self.vectors[np.concatenate([*typical, np.empty(0, np.int64)])].astype(np.float64)
        step = max(1, BLOCK // max(len(held), 1))
        parts = [csr_array((0, len(typical)))]
        for at in range(0, len(points), step):
            some = slice(at, at + step)
            away = cdist(points[some].astype(np.float64), held)
            near = np.minimum.reduceat(away, ends[:-1], axis=1) if len(typical) else away
            parts.append(strongest(tree_memberships(self.found.tree, near, cluster[some], leaving[some], node), most))
        return _stacked(parts)


class Inspection:
    """The attributes of a fitted GraphHDBSCAN that are made on demand."""

    labels_: IntArray
    weights: str
    _fitted: Fitted

    @property
    def condensed_tree_(self) -> Any:
        """hdbscan's CondensedTree over the distinct rows (copies count once, or weigh), for its plots and exports."""
        from hdbscan.plots import CondensedTree

        fitted = self._checked()
        label = np.concatenate([fitted.tree_label, np.repeat(fitted.tree_label, fitted.rows.copies - 1)])
        tree = fitted.found.tree
        return CondensedTree(tree.as_records(), label[: tree.cluster.size])

    @property
    def single_linkage_tree_(self) -> Any:
        """hdbscan's SingleLinkageTree over all rows; pieces of the graph that stay apart meet at infinite distance."""
        from hdbscan.plots import SingleLinkageTree

        fitted = self._checked()
        return SingleLinkageTree(single_linkage(fitted.row_forest, fitted.rows.group.size))

    @property
    def minimum_spanning_tree_(self) -> Any:
        """hdbscan's MinimumSpanningTree over all rows: edges of mutual reachability, or of diffused length."""
        from hdbscan.plots import MinimumSpanningTree

        fitted = self._checked()
        forest, group = fitted.row_forest, fitted.rows.group
        points = np.empty((group.size, 0)) if fitted.vectors is None else fitted.vectors[group]
        return MinimumSpanningTree(np.column_stack([forest.left, forest.right, forest.distance]), points)

    @property
    def exemplar_rows_(self) -> list[IntArray]:
        """For each label the rows that stay longest in the leaves of its tree: int64, ascending; copies count once."""
        fitted = self._checked()
        return [np.sort(fitted.rows.first[groups]) for groups in fitted.typical]

    @property
    def exemplars_(self) -> list[NDArray[Any]]:
        """For each label the vectors of ``exemplar_rows_``: float, shape (n_exemplars, dim)."""
        fitted = self._checked()
        if fitted.vectors is None:
            raise AttributeError("exemplars_ are vectors, and fit had none; exemplar_rows_ has the rows")
        return [fitted.vectors[fitted.rows.group[rows]] for rows in self.exemplar_rows_]

    @property
    def link_share_(self) -> NDArray[np.float64]:
        """For each cluster of any layer the share of its rows' 10 nearest neighbors that lie in it: float64, 0 to 1.

        Of a cluster with fewer other rows, as many of the nearest count.
        """
        fitted = self._checked()
        nearest = sorted_lists(fitted.rows.graph).nearest(LINKS)
        return kept_links(nearest, fitted.found.layers, fitted.found.persistence.size)

    @property
    def relative_validity_(self) -> float:
        """hdbscan's estimate of DBCV, -1 to 1, to compare settings on the same rows; for weights="distance"."""
        fitted = self._checked()
        if fitted.own.weights != "distance":
            raise AttributeError("relative_validity_ is that of plain HDBSCAN; give weights='distance'")
        return relative_validity(fitted.forest, fitted.found.label, fitted.rows.copies)

    def membership_vectors(
        self,
        X: Any = None,  # noqa: N803
        *,
        neighbors: tuple[ArrayLike, ArrayLike] | None = None,
        most: int = 10,
    ) -> csr_array:
        """How much each row belongs to each cluster; what is missing to 1 is noise's.

        With diffused weights the share of the votes of the nearest rows, as in ``predict``. In plain HDBSCAN the
        values of hdbscan's ``all_points_membership_vectors``, for new rows as if they were in the tree.

        X, neighbors : new rows, as for ``predict``; none: the rows of ``fit``
        most : in plain HDBSCAN the entries of a row that are kept, the largest, from 1 on; votes are few
        Returns: float64 csr_array, shape (n_rows, n_clusters), clusters of ``labels_``.
        Raises: NotFittedError; ValueError as ``predict``, and in plain HDBSCAN without vectors.
        """
        fitted = self._checked()
        if not isinstance(most, (int, np.integer)) or isinstance(most, bool) or most < 1:
            raise ValueError(f"most={most!r} is no number of entries; give a whole number from 1 on")
        count, diffused = int(fitted.found.label.max(initial=-1)) + 1, fitted.own.weights == "diffused"
        if X is None and neighbors is None:
            tree, group = fitted.found.tree, fitted.rows.group
            if diffused:
                ids, away = first_entries(sorted_lists(fitted.rows.graph), fitted.n_averaged)
                return self._votes(ids, away, np.ones(ids.shape, np.bool_), count)[group]
            n_groups = fitted.rows.first.size
            points = fitted.vectors if fitted.vectors is not None else np.empty((n_groups, 0))
            cluster = tree.cluster[:n_groups].astype(np.int64)
            return fitted.tree_shares(points, cluster, tree.departure[:n_groups], most)[group]
        ids, away = self._nearest(X, neighbors)  # type: ignore[attr-defined]
        if diffused:
            return self._votes(ids, away, away <= fitted.rows.radius[ids], count)
        if X is None:
            raise ValueError("membership vectors of plain HDBSCAN need vectors of the new rows; give X")
        row, cluster, leaving = fitted.assigner.place(ids, away)
        leaving = np.minimum(leaving, fitted.found.tree.departure[row])
        return fitted.tree_shares(np.asarray(X), cluster, leaving, most)

    def _votes(self, ids: IntArray, away: FloatArray, inside: NDArray[np.bool_], count: int) -> csr_array:
        rows, _, votes = weigh_votes(ids, away, inside, self._fitted.n_averaged)
        return vote_memberships(self._fitted.found.label[rows], votes.astype(np.float64), count)

    def _checked(self) -> Fitted:
        check_is_fitted(self, "labels_")
        return self._fitted


def _stacked(parts: list[csr_array]) -> csr_array:
    from scipy.sparse import vstack

    return csr_array(vstack(parts, format="csr"))
