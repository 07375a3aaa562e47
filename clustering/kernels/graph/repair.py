"""A spanning forest of nearest neighbors in; which of its merges are proven, and the exact forest, out.

What the lists of the k nearest neighbors lack is known to be long: an edge that neither end lists is no shorter than
the last entry of both lists. A merge is proven when one of its sides has no shorter way out, listed or not (the cut
property). The others are settled by asking for the nearest text outside one side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np

from clustering.kernels.graph.forest import (
    FloatArray,
    Forest,
    IntArray,
    find_root,
    flatten,
    join_components,
    merge_forests,
    row_numbers,
)

# rows int64 (n_rows,), piece int64 (n_texts,) -> for each row the nearest text of another piece by mutual reachability:
# text int64 (-1: there is none) and reachability float32
OutsideSearch = Callable[[IntArray, IntArray], tuple[IntArray, FloatArray]]


@dataclass(frozen=True)
class Proof:
    """How much of a forest is proven to belong to the exact one, given that the lists are exact.

    lower_bound : float32, shape (n_edges,), the smallest height that each merge can have; where it equals ``distance``
        the merge is proven, else its true height lies between the two
    certified : merges proven by the lists alone; repaired : settled by asking; unproven : the others
    queries : rows asked for; bridges : edges between texts that the lists leave in separate pieces
    """

    lower_bound: FloatArray
    certified: int
    repaired: int
    unproven: int
    queries: int = 0
    bridges: int = 0


def prove_forest(forest: Forest, bound: FloatArray) -> Proof:
    """Tell which merges are proven by the lists alone.

    bound : float32, shape (n_texts,), no edge of a text that is not listed is shorter: the distance of the last
        neighbor in its list, infinite where the list holds all other texts
    """
    least = np.empty(len(forest), np.float32)
    _prove(forest.left, forest.right, forest.distance, row_numbers(bound.size), bound.copy(), least)
    proven = int((least == forest.distance).sum())
    return Proof(least, proven, 0, len(forest) - proven)


@numba.njit(cache=True, nogil=True)
def _prove(left: Any, right: Any, distance: Any, tree: Any, bound: Any, least: Any) -> None:
    """``bound`` at a root: of its whole tree."""
    for edge in range(left.size):
        one, other = find_root(tree, left[edge]), find_root(tree, right[edge])
        least[edge] = min(max(bound[one], bound[other]), distance[edge])
        low, high = min(one, other), max(one, other)
        tree[high] = low
        bound[low] = min(bound[low], bound[high])


@numba.njit(cache=True, nogil=True)
def nearest_outside(away: Any, core: Any, others_core: Any, piece: Any, others_piece: Any) -> Any:
    """For each query the nearest of the others that lies in another piece, by mutual reachability; ties: the first.

    away : float32, shape (n_queries, n_others), distances; core, piece : shape (n_queries,); others_* : (n_others,)
    Returns: place int64 and reachability float32, shape (n_queries,); 0 and infinite where there is none.
    """
    place, reach = np.zeros(core.size, np.int64), np.full(core.size, np.inf, np.float32)
    for query in range(core.size):
        for other in range(others_core.size):
            far = max(away[query, other], max(core[query], others_core[other]))
            if far < reach[query] and piece[query] != others_piece[other]:
                place[query], reach[query] = other, far
    return place, reach


def repair_forest(forest: Forest, bound: FloatArray, ask: OutsideSearch, budget: int) -> tuple[Forest, Proof]:
    """Turn the forest of the lists into the exact one, asking for the nearest text outside what is not proven.

    Proven edges join texts to groups. Each round asks, for every group but the largest, those members that may have a
    shorter way out than the shortest known; that way is then proven, so at least half of the groups are joined. A group
    without any listed way out is a piece of the graph, and the answer is its bridge.

    ask : see ``OutsideSearch``; budget : rows that may be asked for; cheap groups first, the others stay as they are
    Returns: the forest, and what is proven of it.
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
        out = np.full(n_groups, np.inf, np.float32)  # the shortest known way out
        ends = group[known.left], group[known.right]
        between = ends[0] != ends[1]
        for side in ends:
            np.minimum.at(out, side[between], known.distance[between])
        asking = lowest < out[group]
        asking &= group != size.argmax()
        cost = np.bincount(group, weights=asking, minlength=n_groups).astype(np.int64)
        order = np.argsort(cost, kind="stable")
        order = order[cost[order] > 0]
        order = order[np.cumsum(cost[order]) <= budget - queries]
        wanted = np.zeros(n_groups, bool)
        wanted[order] = True
        rows = np.flatnonzero(asking & wanted[group])
        if not rows.size:
            break
        queries += rows.size
        other, reach = ask(rows, group)
        there = other >= 0
        lowest[rows] = np.where(there, reach, np.inf)
        ways = Forest(np.minimum(rows, other)[there], np.maximum(rows, other)[there], reach[there])
        known = merge_forests([known, ways], n_texts)
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
    new = len(known) - len(forest)
    certified = min(listed.certified, len(known) - unproven)
    return known, replace(
        listed, lower_bound=least, certified=certified, repaired=len(known) - unproven - certified, unproven=unproven,
        queries=queries, bridges=new,
    )  # fmt: skip


def _groups(known: Forest, tree: IntArray, lowest: FloatArray) -> IntArray:
    """Join what is proven, as far as that goes; return the number of every text's group."""
    _join_proven(known.left, known.right, known.distance, tree, lowest)
    return np.unique(tree, return_inverse=True)[1].reshape(-1).astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _join_proven(left: Any, right: Any, distance: Any, tree: Any, lowest: Any) -> None:
    """Boruvka's rounds, in which a group takes its shortest way out when no other can be shorter."""
    n_texts = tree.size
    live = np.arange(left.size)
    n_live = left.size
    while True:
        floor, best = np.full(n_texts, np.inf, np.float32), np.full(n_texts, -1, np.int64)
        for text in range(n_texts):
            root = find_root(tree, text)
            floor[root] = min(floor[root], lowest[text])
        between = 0
        for place in range(n_live):
            edge = live[place]
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
