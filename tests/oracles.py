"""Slow, obvious references in plain Python; the tests hold the library against them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Dense = NDArray[np.float32]  # a distance graph with infinity where there is no edge
Edge = tuple[int, int, float]


def undirected_graph(
    rows: Iterable[int], cols: Iterable[int], distances: Iterable[float], n_texts: int, floor: float
) -> Dense:
    """Every pair's shortest direction, not below the floor; 0 where there is no edge."""
    shortest: dict[tuple[int, int], float] = {}
    for one, other, distance in zip(rows, cols, distances, strict=True):
        if one != other:
            pair = min(one, other), max(one, other)
            shortest[pair] = min(shortest.get(pair, math.inf), max(distance, float(np.float32(floor))))
    dense = np.zeros((n_texts, n_texts), np.float32)
    for (one, other), distance in shortest.items():
        dense[one, other] = dense[other, one] = distance
    return dense


def pieces(n_texts: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest row that each row is connected with."""
    piece = list(range(n_texts))
    for one, other in edges:
        small, large = sorted((piece[one], piece[other]))
        piece = [small if held == large else held for held in piece]
    return piece


def core_distances(dense: Dense, min_samples: int, weights: Sequence[int] | None = None) -> list[float]:
    """One list of all other records a text, sorted; its min_samples-th entry, or its last."""
    found = []
    for row, distances in enumerate(dense):
        near = [] if weights is None else [0.0] * (weights[row] - 1)
        own = len(near)
        for other, distance in enumerate(distances.tolist()):
            if math.isfinite(distance):
                near += [distance] * (1 if weights is None else weights[other])
        near.sort()
        if len(near) == own < min_samples:  # no edge, and too few records of its own
            found.append(math.inf)
        else:
            found.append(near[min(min_samples, len(near)) - 1])
    return found


def mutual_reachability(dense: Dense, core: Sequence[float]) -> Dense:
    reach = np.maximum(dense, np.maximum.outer(np.asarray(core, np.float32), np.asarray(core, np.float32)))
    return np.where(np.isfinite(dense), reach, np.inf).astype(np.float32)


def spanning_weights(dense: Dense) -> list[float]:
    """Prim on the dense matrix, started anew for each piece; the weights ascending."""
    left = set(range(len(dense)))
    weights: list[float] = []
    while left:
        first = left.pop()
        near = {row: float(dense[first, row]) for row in left}
        while near:
            row = min(near, key=near.__getitem__)
            if math.isinf(near[row]):
                break
            weights.append(near.pop(row))
            left.remove(row)
            near = {other: min(held, float(dense[row, other])) for other, held in near.items()}
    return sorted(weights)


def homes(edges: Iterable[Edge], label: Sequence[int]) -> tuple[list[int], list[float]]:
    """Sets of texts that grow along the ascending edges; a set with a cluster gives it to a set without."""
    group = {text: frozenset([text]) for text in range(len(label))}
    home = {group[text]: held for text, held in enumerate(label)}
    found, height = list(label), [0.0 if held >= 0 else math.inf for held in label]
    for one, other, distance in edges:
        sides = group[one], group[other]
        clusters = [home[side] for side in sides if home[side] >= 0]
        if len(clusters) == 2:
            continue
        if clusters:
            for text in next(side for side in sides if home[side] < 0):
                found[text], height[text] = clusters[0], distance
        joined = sides[0] | sides[1]
        home[joined] = clusters[0] if clusters else -1
        group |= dict.fromkeys(joined, joined)
    return found, height


def lowest_ways(n_texts: int, edges: Iterable[Edge]) -> NDArray[np.float64]:
    """For every pair the smallest longest step of a way between them."""
    way = np.full((n_texts, n_texts), np.inf)
    np.fill_diagonal(way, 0)
    for one, other, distance in edges:
        way[one, other] = way[other, one] = distance
    for via in range(n_texts):
        way = np.minimum(way, np.maximum(way[:, [via]], way[[via], :]))
    return way


def bridges(distances: NDArray[np.float64], piece: Sequence[int], longest: float = math.inf) -> set[tuple[int, int]]:
    """All pairs between pieces, shortest first; a pair is a bridge when its pieces are still apart."""
    n_texts, piece = len(piece), list(piece)
    pairs = [(one, other) for one in range(n_texts) for other in range(one + 1, n_texts)]
    found = set()
    for one, other in sorted(pairs, key=lambda pair: (float(distances[pair]), pair)):
        if piece[one] != piece[other] and distances[one, other] <= longest:
            found.add((one, other))
            piece = [piece[one] if held == piece[other] else held for held in piece]
    return found


def fold_copies(keys: Iterable[Hashable]) -> tuple[list[int], list[bool], list[int]]:
    """Number keys by first appearance with a dict."""
    number: dict[Hashable, int] = {}
    row, first = [], []
    for key in keys:
        first.append(key not in number)
        row.append(number.setdefault(key, len(number)))
    counts = Counter(row)
    return row, first, [counts[text] for text in range(len(number))]


def nearest(dots: Sequence[float], row: int, k: int) -> list[int]:
    """All other rows, the largest inner product first, ties by row; the first k."""
    others = [other for other in range(len(dots)) if other != row]
    return sorted(others, key=lambda other: (-dots[other], other))[:k]


def class_tf_idf(words: Sequence[Sequence[str]]) -> dict[tuple[int, str], float]:
    """c-TF-IDF as BERTopic writes it: tf(t, c) / words in c * log(1 + A / f(t))."""
    counts = [Counter(held) for held in words]
    uses = sum(counts, Counter())
    average = sum(len(held) for held in words) / len(words)
    return {
        (cluster, word): count / len(words[cluster]) * math.log(1 + average / uses[word])
        for cluster, held in enumerate(counts)
        for word, count in held.items()
    }
