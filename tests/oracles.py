"""Slow, obvious references in plain Python; the tests hold the library against them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

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


# --- clusters by modularity, as docs/clustering.md defines them; sets, dicts and recursion ---

Lists_ = Sequence[Sequence[tuple[int, float]]]  # (other row, distance) of each row, nearest first


class Node:
    """A cluster of the condensed tree: all its rows, those that leave it themselves, and what it splits into."""

    def __init__(self, rows: frozenset[int]) -> None:
        self.rows = rows
        self.own: set[int] = set()
        self.children: list[Node] = []

    def leaves(self) -> list[Node]:
        return [leaf for child in self.children for leaf in child.leaves()] if self.children else [self]

    def nodes(self) -> list[Node]:
        return [self, *(node for child in self.children for node in child.nodes())]


def mixed(bits: int) -> int:
    """splitmix64"""
    mask = (1 << 64) - 1
    bits = (bits + 0x9E3779B97F4A7C15) & mask
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & mask
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
    return bits ^ (bits >> 31)


def diffused(
    lists: Lists_, seed: int, averaged: int = 15, rounds: int = 8, whole: bool = True
) -> dict[tuple[int, int], float]:
    """The length of every listed edge after diffusion of random signs, kept as whole numbers of 1/32767."""
    words = [[mixed(mixed(seed) ^ (2 * row + word)) for word in range(2)] for row in range(len(lists))]
    sign = [[1 if bits >> place & 1 else -1 for bits in pair for place in range(64)] for pair in words]
    sketch = np.array(sign, float).reshape(-1, 128) * round(32767 / math.sqrt(128))
    scale = [max(held[min(averaged // 2, len(held)) - 1][1], 1e-3) if held else 1e-3 for held in lists]
    for _ in range(rounds):
        following = np.empty_like(sketch)
        for row, held in enumerate(lists):
            total = sketch[row].copy()
            for other, distance in held[:averaged]:
                total += 3 * math.exp(-(distance**2) / (scale[row] * scale[other])) * sketch[other]
            unit = total * 32767 / math.sqrt((total**2).sum())
            following[row] = np.rint(unit) if whole else unit
        sketch = following
    ends = {(row, other) for row, held in enumerate(lists) for other, _ in held}
    return {(a, b): max(math.sqrt(((sketch[a] - sketch[b]) ** 2).sum()) / 32767, 1e-6) for a, b in ends}


def kruskal(n_rows: int, lengths: dict[tuple[int, int], float]) -> list[Edge]:
    """The spanning forest, ascending by (float32 length, smaller row, larger row)."""
    edges = {(min(ends), max(ends)): float(np.float32(length)) for ends, length in lengths.items()}
    piece, found = list(range(n_rows)), []
    for (one, other), length in sorted(edges.items(), key=lambda item: (item[1], item[0])):
        if piece[one] != piece[other]:
            piece = [piece[one] if held == piece[other] else held for held in piece]
            found.append((one, other, length))
    return found


def condensed(rows: Iterable[int], edges: Sequence[Edge], smallest: int) -> Node:
    """Take the longest edge away again and again; a side with fewer than ``smallest`` rows leaves the cluster."""
    node = Node(frozenset(rows))
    label = dict(zip(sorted(node.rows), pieces_of(sorted(node.rows), edges), strict=True))
    sides = [frozenset(row for row in node.rows if label[row] == one) for one in sorted(set(label.values()))]
    large = [side for side in sides if len(side) >= smallest]
    if len(sides) > 1:
        if len(large) == 1:
            inner = condensed(large[0], [edge for edge in edges if edge[0] in large[0]], smallest)
            node.own, node.children = set(node.rows - inner.rows) | inner.own, inner.children
            return node
        node.own = set(node.rows).difference(*large)
        node.children = [condensed(side, [edge for edge in edges if edge[0] in side], smallest) for side in large]
        return node
    left = list(edges)
    current = set(node.rows)
    while left:
        left.pop()
        label = dict(zip(sorted(current), pieces_of(sorted(current), left), strict=True))
        sides = [frozenset(row for row in current if label[row] == one) for one in sorted(set(label.values()))]
        large = [side for side in sides if len(side) >= smallest]
        if len(large) == 2:
            node.children = [condensed(side, [edge for edge in left if edge[0] in side], smallest) for side in large]
            return node
        kept = large[0] if large else frozenset()
        node.own |= current - kept
        current, left = set(kept), [edge for edge in left if edge[0] in kept]
    node.own |= current
    return node


def pieces_of(rows: Sequence[int], edges: Iterable[Edge]) -> list[int]:
    place = {row: at for at, row in enumerate(rows)}
    return pieces(len(rows), [(place[one], place[other]) for one, other, _ in edges])


def quality_edges(nearest: Sequence[Sequence[int]], shared: bool = True) -> dict[tuple[int, int], int]:
    """The weight of each row's edges to its first neighbors, in 1/65536 of Jaccard's index of their lists."""
    sets = [{row, *held} for row, held in enumerate(nearest)]
    return {
        (row, other): 65536 * len(sets[row] & sets[other]) // len(sets[row] | sets[other]) if shared else 65536
        for row, held in enumerate(nearest)
        for other in held
    }


class Modularity:
    """Of sets of units, for weighted directed edges between rows that lie in units."""

    def __init__(self, edges: dict[tuple[int, int], int], unit: Sequence[int], gamma: float) -> None:
        self.gamma, self.links, self.volume = gamma, Counter[tuple[int, int]](), Counter[int]()
        for (one, other), weight in edges.items():
            if unit[one] >= 0 and unit[other] >= 0:
                self.links[unit[one], unit[other]] += weight
                self.volume[unit[one]] += weight
                self.volume[unit[other]] += weight
        self.total = max(sum(self.volume.values()), 1)

    def of(self, units: Iterable[int]) -> float:
        held = set(units)
        inside = 2 * sum(weight for (one, other), weight in self.links.items() if one in held and other in held)
        share = sum(self.volume[unit] for unit in held) / self.total
        return inside / self.total - self.gamma * share**2


def best_cut(node: Node, number: dict[Node, int], measure: Modularity, root: bool = True) -> tuple[float, list[Node]]:
    """Of all ways to cut the tree below a node, the one of the largest modularity; the root is never chosen."""
    own = measure.of(number[leaf] for leaf in node.leaves())
    if not node.children:
        return (0.0, []) if root else (own, [node])
    parts = [best_cut(child, number, measure, root=False) for child in node.children]
    below = sum(value for value, _ in parts)
    if not root and own >= below:
        return own, [node]
    return below, [chosen for _, found in parts for chosen in found]


def louvain(measure: Modularity, n_units: int) -> list[int]:
    """Move units, heavy ones first, to the neighboring group that gains most; then groups; until nothing moves."""
    links: Counter[tuple[int, int]] = Counter()
    for (one, other), weight in measure.links.items():
        links[one, other] += weight
        links[other, one] += weight
    heavy = sorted(range(n_units), key=lambda unit: (-measure.volume[unit], -links[unit, unit]))
    member = {unit: place for place, unit in enumerate(heavy)}
    links = Counter({(member[one], member[other]): weight for (one, other), weight in links.items()})
    count = n_units
    while True:
        volume = [sum(weight for (one, _), weight in links.items() if one == node) for node in range(count)]
        group = list(range(count))
        moved = True
        while moved:
            moved = False
            for node in range(count):
                gain = {group[node]: 0.0}
                for other in range(count):
                    if other != node and links[node, other]:
                        gain[group[other]] = gain.get(group[other], 0.0) + links[node, other]
                for other in range(count):
                    if other != node and group[other] in gain:
                        gain[group[other]] -= measure.gamma * volume[node] * volume[other] / measure.total
                best = max(gain, key=gain.__getitem__)  # the first of equal ones
                if best != group[node]:
                    group[node], moved = best, True
        names = {one: place for place, one in enumerate(dict.fromkeys(group))}
        group = [names[one] for one in group]
        member = {unit: group[place] for unit, place in member.items()}
        if len(names) == count:
            return [member[unit] for unit in range(n_units)]
        summed: Counter[tuple[int, int]] = Counter()
        for (one, other), weight in links.items():
            summed[group[one], group[other]] += weight
        links, count = summed, len(names)


def row_labels(root: Node, group: dict[Node, int], n_rows: int) -> list[int]:
    """The group of all leaves below the cluster that a row leaves last, where they agree; else -1."""
    label = [-1] * n_rows
    for node in root.nodes():
        found = {group[leaf] for leaf in node.leaves() if leaf in group}
        for row in node.own:
            label[row] = found.pop() if len(found) == 1 else -1
            found = {group[leaf] for leaf in node.leaves() if leaf in group}
    return label


def fuzzy_weights(indices: NDArray[np.int64], distances: NDArray[np.float32]) -> NDArray[np.float64]:
    """UMAP's weights of a neighbor table whose rows name themselves first."""
    n_texts, width = indices.shape
    listed = np.zeros((n_texts, n_texts))
    for row in range(n_texts):
        away = [float(distance) for distance in distances[row]]
        nearest = min((distance for distance in away if distance > 0), default=0.0)
        low, high = 0.0, 1e6
        for _ in range(200):
            scale = (low + high) / 2
            held = sum(math.exp(-max(distance - nearest, 0) / scale) for distance in away[1:])
            low, high = (low, scale) if held > math.log2(width) else (scale, high)
        mean = sum(away) / width if nearest > 0 else float(distances.mean())
        scale = max(scale, 1e-3 * mean, 1e-30)
        for other, distance in zip(indices[row], away, strict=True):
            if other != row:
                listed[row, other] += math.exp(-max(distance - nearest, 0) / scale)
    return listed + listed.T - listed * listed.T


def layout_epoch(
    graph: csr_array, xy: NDArray[np.float32], a: float, b: float, speed: float, key: int
) -> NDArray[np.float64]:
    """Where an epoch moves every row: drawn by its edges, a hub half-way at most; driven off by random rows."""
    moved = xy.astype(float)
    for row in range(len(xy)):
        draw, pull, held = np.zeros(2), 0.0, np.float32(0)
        for slot in range(graph.indptr[row], graph.indptr[row + 1]):
            weight = graph.data[slot] / graph.data.max()
            away = xy[row].astype(float) - xy[graph.indices[slot]]
            square = float(away @ away)
            factor = 4 * a * b * square ** (b - 1) / (1 + a * square**b) * float(weight)
            draw, pull, held = draw - factor * away, pull + factor, held + weight
        if graph.indptr[row + 1] - graph.indptr[row] > 2 * graph.nnz // len(xy):
            draw /= max(pull * speed / 0.5, 1)
        drive, samples = np.zeros(2), math.ceil(np.float32(5) * held)
        bits = mixed(key ^ mixed(row))
        for _ in range(samples):
            bits = mixed(bits)
            away = xy[row].astype(float) - xy[(bits >> 32) * len(xy) >> 32]
            square = float(away @ away)
            factor = 2 * b / ((0.001 + square) * (1 + a * square**b))
            drive += np.clip(factor * away, -4, 4)
        moved[row] += speed * (draw + drive * 5 * float(held) / max(samples, 1))
    return moved


def described(
    words: Sequence[Sequence[str]],
    order: Sequence[tuple[float, int]],
    layers: Sequence[Sequence[int]],
    chosen: int,
    parent: Mapping[int, int],
) -> dict[int, tuple[list[str], list[int]]]:
    """Every cluster's words and members, strongest first: c-TF-IDF by texts, with a contrast to the rest of its parent.

    words, order, layers : of each text: its words, (strength, copies), and its cluster in each layer (-1: none)
    """
    members: dict[int, set[int]] = {}
    for row, clusters in enumerate(layers):
        for cluster in set(clusters) - {-1}:
            members.setdefault(cluster, set()).add(row)
    counts = {cluster: Counter(word for row in rows for word in set(words[row])) for cluster, rows in members.items()}
    found = {}
    n_layers = len(layers[0])
    for layer in [*(number for number in range(n_layers) if number != chosen), chosen]:
        clusters = sorted({own[layer] for own in layers} - {-1})
        uses = sum((counts[cluster] for cluster in clusters), Counter())
        average = uses.total() / len(clusters) if clusters else 0.0
        for cluster in clusters:
            n_texts, around = len(members[cluster]), parent.get(cluster, -1)
            weight = {}
            for word, count in counts[cluster].items():
                share = count / n_texts
                others = max(counts.get(around, Counter())[word] - count, 0)
                beside = others / max(len(members.get(around, ())) - n_texts, 1)
                if count > 1 or n_texts <= 3:
                    weight[word] = share * float(np.log1p(average / uses[word])) * share / (share + beside)
            terms = sorted(weight, key=lambda word: (-weight[word], word))
            found[cluster] = terms, sorted(members[cluster], key=lambda row: (-order[row][0], -order[row][1], row))
    return found


def map_of_sample(
    lists: Sequence[Sequence[tuple[int, np.float32]]], chosen: NDArray[np.int64], n_neighbors: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest sampled texts within two steps, by position in the sample; of equal ones, the first found.

    lists : (neighbor, distance) of each text, nearest first
    """
    position = {int(row): at for at, row in enumerate(chosen)}
    indices = np.repeat(np.arange(chosen.size)[:, None], n_neighbors, axis=1)
    away = np.zeros(indices.shape, np.float32)
    for own, row in enumerate(chosen.tolist()):
        length: dict[int, np.float32] = {}
        for middle, first in [(row, np.float32(0)), *lists[row]]:
            for other, second in [(middle, np.float32(0)), *lists[middle]]:
                if other in position and other != row:
                    at, way = position[other], first + second
                    length[at] = min(length.get(at, np.float32(np.inf)), way)
        nearest = sorted(length, key=lambda at: length[at])[: n_neighbors - 1]
        indices[own, 1 : len(nearest) + 1] = nearest
        away[own, 1 : len(nearest) + 1] = [length[at] for at in nearest]
    return indices, away


def places_amid_neighbors(
    lists: Sequence[Sequence[tuple[int, np.float32]]], chosen: NDArray[np.int64], layout: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Round by round, each text that has placed neighbors lies in the weighted mean of its three nearest ones."""
    width = 1 + max(map(len, lists))
    xy = np.tile(np.median(layout, axis=0), (len(lists), 1)).astype(np.float32)
    xy[chosen] = layout
    placed = set(chosen.tolist())
    while True:
        means = {}
        for row in set(range(len(lists))) - placed:
            near = [at for at, (other, _) in enumerate(lists[row], start=1) if other in placed][:3]
            if near:
                weight, place = np.zeros(width, np.float32), np.zeros((width, 2), np.float32)
                for at in near:
                    other, distance = lists[row][at - 1]
                    weight[at] = 1 / np.maximum(distance, np.float32(1e-3)) ** 2
                    place[at] = xy[other]
                means[row] = np.einsum("k,kd->d", weight / weight.sum(), place)
        if not means:
            return xy
        for row, mean in means.items():
            xy[row] = mean
        placed |= means.keys()


def word_counts(sets: list[frozenset[int]]) -> Counter[int]:
    """How many sets have each word."""
    return Counter(word for one in sets for word in one)


def near_duplicates(sets: list[frozenset[int]], rarest: int) -> set[frozenset[int]]:
    """All pairs of equal sets, and of those with a Jaccard index of 0.6 and two words that few sets have.

    rarest : the most sets that have such a word
    """
    counts = word_counts(sets)
    found = set()
    for one, other in combinations(range(len(sets)), 2):
        shared = sets[one] & sets[other]
        rare = sum(counts[word] <= rarest for word in shared)
        near = rare >= 2 and 5 * len(shared) >= 3 * len(sets[one] | sets[other])
        if near or (sets[one] == sets[other] and len(sets[one]) > 1):
            found.add(frozenset([one, other]))
    return found


def family_leaders(sets: list[frozenset[int]], copies: list[int], rarest: int) -> list[int]:
    """The leader of each text: in the order of copies and then of numbers, a text without one leads those near it."""
    pairs = near_duplicates(sets, rarest)
    leader: dict[int, int] = {}
    for one in sorted(range(len(sets)), key=lambda text: (-copies[text], text)):
        if one not in leader:
            near = [other for other in range(len(sets)) if frozenset([one, other]) in pairs]
            leader |= {other: one for other in near if other not in leader} | {one: one}
    return [leader[one] for one in range(len(sets))]
