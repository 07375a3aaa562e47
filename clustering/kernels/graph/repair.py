"""A spanning forest of nearest neighbors in, its proven merges and the exact forest out.

An edge that neither end lists is no shorter than the last entry of both lists. So a merge is proven if no edge out of
one of its sides, listed or not, can be shorter (the cut property); a search outside one side settles the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np

from clustering.kernels.graph.forest import Forest, find_root, flatten, join_components, merge_forests, row_numbers
from clustering.kernels.topk import FloatArray, IntArray

# Finds for each row the nearest text of another group by mutual reachability. Takes rows int64, shape (n_rows,), and
# the group of every text, int64, shape (n_texts,); returns the text int64 (-1 for none) and its reachability float32.
OutsideSearch = Callable[[IntArray, IntArray], tuple[IntArray, FloatArray]]


@dataclass(frozen=True)
class Proof:
    """How much of a forest is proven to belong to the exact one, if the lists are exact.

    lower_bound : float32, shape (n_edges,), the least height that each merge can have; a merge is proven if it equals
        ``distance``, else the true height lies between the two
    certified : merges proven by the lists alone; repaired : merges settled by search; unproven : the others
    queries : rows that were searched for; bridges : edges between components of the lists' graph
    """

    lower_bound: FloatArray
    certified: int
    repaired: int
    unproven: int
    queries: int = 0
    bridges: int = 0


def prove_forest(forest: Forest, bound: FloatArray) -> Proof:
    """Find the merges that are proven by the lists alone.

    bound : float32, shape (n_texts,), a lower bound on the unlisted edges of each text: the distance of the last
        neighbor in its list, infinite where the list holds all other texts
    Source: the cut property of minimum spanning trees; Tarjan (1983).
    """
    least = np.empty(len(forest), np.float32)
    _prove(forest.left, forest.right, forest.distance, row_numbers(bound.size), bound.copy(), least)
    proven = int((least == forest.distance).sum())
    return Proof(least, proven, 0, len(forest) - proven)


@numba.njit(cache=True, nogil=True)
def _prove(left: Any, right: Any, distance: Any, tree: Any, bound: Any, least: Any) -> None:
    """``bound`` of a root is that of its whole tree."""
    for edge in range(left.size):
        one, other = find_root(tree, left[edge]), find_root(tree, right[edge])
        least[edge] = min(max(bound[one], bound[other]), distance[edge])
        low, high = min(one, other), max(one, other)
        tree[high] = low
        bound[low] = min(bound[low], bound[high])


@numba.njit(cache=True, nogil=True)
def nearest_outside(away: Any, core: Any, others_core: Any, group: Any, others_group: Any) -> Any:
    """Find for each query the nearest other text of another group by mutual reachability; of equal ones the first.

    away : float32, shape (n_queries, n_others), distances
    core, group : float32 and int64, shape (n_queries,); others_core, others_group : likewise, shape (n_others,)
    Returns: position int64 and reachability float32, shape (n_queries,); 0 and infinite if there is none.
    """
    position, reach = np.zeros(core.size, np.int64), np.full(core.size, np.inf, np.float32)
    for query in range(core.size):
        for other in range(others_core.size):
            far = max(away[query, other], max(core[query], others_core[other]))
            if far < reach[query] and group[query] != others_group[other]:
                position[query], reach[query] = other, far
    return position, reach


def repair_forest(forest: Forest, bound: FloatArray, search: OutsideSearch, budget: int) -> tuple[Forest, Proof]:
    """Turn the forest of the lists into the exact one by searching outside the groups that proven edges form.

    Each round searches for those members of every group but the largest that may have a shorter edge out of the group
    than the shortest known one. The edge found is proven, so at least half of the groups merge. A group without any
    listed edge out is a component of the graph, and the edge found is its bridge.

    bound : float32, shape (n_texts,), see ``prove_forest``
    search : see ``OutsideSearch``; budget : most rows to search for; cheap groups first, the others stay unproven
    Returns: the forest, and what is proven of it.
    Source: Boruvka's rounds; March, Ram and Gray (2010) for spanning trees by nearest-neighbor search.
    """
    n_texts = bound.size
    listed = prove_forest(forest, bound)
    known, lowest = forest, bound.copy()
    tree = np.arange(n_texts)
    proven = listed.lower_bound == forest.distance
    join_components(forest.left[proven], forest.right[proven], tree)
    queries = 0
    while True:
        group = _groups(known, tree, lowest)
        n_groups = int(group.max()) + 1 if n_texts else 0
        if n_groups < 2:
            break
        size = np.bincount(group, minlength=n_groups)
        out = np.full(n_groups, np.inf, np.float32)  # the shortest known edge out
        ends = group[known.left], group[known.right]
        between = ends[0] != ends[1]
        for side in ends:
            np.minimum.at(out, side[between], known.distance[between])
        searched = lowest < out[group]
        searched &= group != size.argmax()
        cost = np.bincount(group, weights=searched, minlength=n_groups).astype(np.int64)
        order = np.argsort(cost, kind="stable")
        order = order[cost[order] > 0]
        order = order[np.cumsum(cost[order]) <= budget - queries]
        affordable = np.zeros(n_groups, bool)
        affordable[order] = True
        rows = np.flatnonzero(searched & affordable[group])
        if not rows.size:
            break
        queries += rows.size
        other, reach = search(rows, group)
        exists = other >= 0
        lowest[rows] = np.where(exists, reach, np.inf)
        left, right, reach = np.minimum(rows, other)[exists], np.maximum(rows, other)[exists], reach[exists]
        order = np.lexsort((right, left, reach))
        known = merge_forests(known, Forest(left[order], right[order], reach[order]), n_texts)
    group = _groups(known, tree, lowest)
    least = known.distance.copy()
    between = np.flatnonzero(group[known.left] != group[known.right])
    if between.size:
        floor = np.full(int(group.max()) + 1, np.inf, np.float32)
        np.minimum.at(floor, group, lowest)
        rest = np.empty(between.size, np.float32)
        ends = group[known.left[between]], group[known.right[between]]
        _prove(*ends, known.distance[between], np.arange(floor.size), floor, rest)
        least[between] = rest
    unproven = int((least != known.distance).sum())
    certified = min(listed.certified, len(known) - unproven)
    return known, replace(
        listed, lower_bound=least, certified=certified, repaired=len(known) - unproven - certified, unproven=unproven,
        queries=queries, bridges=len(known) - len(forest),
    )  # fmt: skip


def _groups(known: Forest, tree: IntArray, lowest: FloatArray) -> IntArray:
    """Join proven edges until none is left; return the number of every text's group."""
    _join_proven(known.left, known.right, known.distance, tree, lowest)
    return np.unique(tree, return_inverse=True)[1].reshape(-1).astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _join_proven(left: Any, right: Any, distance: Any, tree: Any, lowest: Any) -> None:
    """Boruvka's rounds, in which a group takes its shortest edge out if no unlisted one can be shorter."""
    n_texts = tree.size
    live = np.arange(left.size)
    n_live = left.size
    while True:
        floor, best = np.full(n_texts, np.inf, np.float32), np.full(n_texts, -1, np.int64)
        for text in range(n_texts):
            root = find_root(tree, text)
            floor[root] = min(floor[root], lowest[text])
        between = 0
        for position in range(n_live):
            edge = live[position]
            one, other = find_root(tree, left[edge]), find_root(tree, right[edge])
            if one != other:
                live[between] = edge
                between += 1
                for root in (one, other):
                    if best[root] < 0:
                        best[root] = edge
        n_live = between
        joined = False
        for root in range(n_texts):
            edge = best[root]
            if edge >= 0 and floor[root] >= distance[edge]:
                one, other = find_root(tree, left[edge]), find_root(tree, right[edge])
                if one != other:
                    tree[max(one, other)] = min(one, other)
                    joined = True
        if not joined:
            break
    flatten(tree)
