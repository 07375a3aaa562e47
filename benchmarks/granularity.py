"""Rules that choose how finely to cut, on labelled sets and on small samples of them whose events are a handful.

    python -m benchmarks.granularity --data DIR --cache DIR --output benchmarks/results/granularity.json

DIR and cache are those of benchmarks.quality. Each rule chooses a resolution gamma among the powers of the root of 2
from 1/4 to 256, or computes one; scores are the mean of NMI and ARI of `home`. `small sets`: random samples of a set,
and samples that keep but a few texts of each class.

- fixed: max(1, n / 20000)
- halves agree: where the cuts by every other neighbor, and by the others, agree most (ARI)
- stable: where the cut changes least towards the next finer one
- likelihood: the fixed point of gamma = (in - out) / (ln in - ln out), the densities within and between clusters
  (Newman 2016), from 1 on
- description length: least entropy of the sizes plus 5 links a text coded by those densities
- inside share: the finest cut that keeps 97 % of the weight that lies inside clusters at gamma 1
- broken lists, gamma alone: the shipped rule for gamma; diffusion and min_cluster_size as usual
- broken lists: all of the shipped rule
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score

from benchmarks.exactness import exact_lists
from benchmarks.quality import ENCODERS, SETS, Case, agreement, load_case, truth_of_texts
from clustering import GraphHDBSCAN
from clustering.encoders.loading import load_encoder
from clustering.kernels.graph.diffusion import NeighborLists, diffuse
from clustering.kernels.graph.forest import IntArray, spanning_forest
from clustering.kernels.graph.group_sizes import GRANULARITY, count_breaks, measure_group_sizes
from clustering.kernels.hierarchy import modularity_cut
from clustering.kernels.hierarchy.condensed_tree import condense, leaf_clusters

GRID = 2.0 ** np.arange(-2, 8.01, 0.5)
ONE = 4  # the place of gamma 1
SMALL = {  # name: set, texts of each class (least, most) or share of the set, classes at most, seed
    "uci-15%": ("uci", 0.15, None, 1), "gnews-20%": ("gnews", 0.2, None, 1), "so-10%": ("so", 0.1, None, 1),
    "bio-10%": ("bio", 0.1, None, 1), "ag-20%": ("ag", 0.2, None, 1), "reddit-10%": ("reddit", 0.1, None, 5),
    "uci-3to6": ("uci", (3, 6), None, 2), "gnews-3to6": ("gnews", (3, 6), None, 2),
    "gnews-4to12": ("gnews", (4, 12), None, 3), "uci-5to20": ("uci", (5, 20), None, 3),
    "reddit-5to10": ("reddit", (5, 10), 300, 2), "so-30to120": ("so", (30, 120), None, 7),
}  # fmt: skip


OUTLETS = [
    " - Reuters", " | Fox News", " (Video)", " - BBC News", " - The Guardian", " | CNN", " - USA TODAY", " - Bloomberg",
    " : Daily Mail", " - NDTV", " | TIME.com", " (photos)", "", " - Los Angeles Times", " - Forbes", " [update]",
]  # fmt: skip
SYNDICATED = [("uci", "static", 2), ("uci", "static", 4), ("uci", "static", 8), ("gnews", "static", 4),
              ("uci", "minilm", 4), ("gnews", "minilm", 8)]  # fmt: skip


@dataclass(frozen=True)
class Cut:
    home: IntArray
    inside: float  # share of the weight
    volume: Any  # share of each cluster


class Cuts:
    """The cuts of a case's tree, by resolution."""

    def __init__(self, case: Case) -> None:
        n_rows, k = case.indices.shape
        self.n_rows, indptr = n_rows, np.arange(n_rows + 1, dtype=np.int64) * k
        lists = NeighborLists(indptr, case.indices.ravel(), case.distances.ravel())
        self.group_sizes = measure_group_sizes(count_breaks(lists), n_rows)
        graph = csr_array((diffuse(lists, 0), lists.indices, indptr), shape=(n_rows, n_rows))
        forest = spanning_forest(graph, np.zeros(n_rows, np.float32), symmetric=False)
        self.tree = condense(forest, n_rows, 5)
        leaves = leaf_clusters(self.tree)
        near = np.ascontiguousarray(case.indices[:, :10])
        self.quality, *self.halves = (
            modularity_cut.measure_quality(
                forest, self.tree, leaves, modularity_cut.QualityBlock.of(np.ascontiguousarray(lists)), n_rows
            )
            for lists in (near, near[:, 0::2], near[:, 1::2])
        )
        self.grid = [self.at(gamma) for gamma in GRID]

    def at(self, gamma: float, quality: modularity_cut.Quality | None = None) -> Cut:
        quality = quality or self.quality
        number = modularity_cut.cut_tree(self.tree, quality, gamma)
        home = np.where(quality.leaf >= 0, number[quality.leaf], -1)
        graph = modularity_cut.unit_graph(quality, home)
        total = max(float(graph.sum()), 1.0)
        return Cut(home, float(graph.diagonal().sum()) / total, np.asarray(graph.sum(axis=1)) / total)


def densities(found: Cut) -> tuple[float, float]:
    together = float((found.volume**2).sum())
    return found.inside / together, max(1 - found.inside, 1e-6) / max(1 - together, 1e-9)


def fixed(cuts: Cuts) -> Cut:
    return cuts.at(max(1.0, cuts.n_rows / GRANULARITY))


def halves_agree(cuts: Cuts) -> Cut:
    pairs = [[cuts.at(gamma, half).home for half in cuts.halves] for gamma in GRID[ONE:]]
    return cuts.grid[ONE + int(np.argmax([adjusted_rand_score(*pair) for pair in pairs]))]


def stable(cuts: Cuts) -> Cut:
    same = [adjusted_rand_score(one.home, other.home) for one, other in pairwise(cuts.grid)]
    return cuts.grid[ONE + int(np.argmax(np.convolve(same, [1, 1, 1], "same")[ONE:-1]))]


def likelihood(cuts: Cuts) -> Cut:
    gamma = 1.0
    for _ in range(30):
        inner, outer = densities(cuts.at(gamma))
        following = (inner - outer) / math.log(inner / outer) if inner > outer * 1.0001 else 1.0
        if abs(math.log(following / gamma)) < 0.02:
            break
        gamma = following
    return cuts.at(gamma)


def description_length(cuts: Cuts) -> Cut:
    def length(found: Cut) -> float:
        inner, outer = densities(found)
        links = found.inside * math.log(inner) + (1 - found.inside) * math.log(outer)
        share = found.volume[found.volume > 0]
        return float(-(share * np.log(share)).sum()) - 5 * links

    return min(cuts.grid, key=length)


def inside_share(cuts: Cuts) -> Cut:
    return [found for found in cuts.grid[ONE:] if found.inside >= 0.97 * cuts.grid[ONE].inside][-1]


def broken_lists(cuts: Cuts) -> Cut:
    return cuts.at(cuts.group_sizes.gamma(cuts.n_rows))


RULES: dict[str, Callable[[Cuts], Cut]] = {
    "fixed": fixed, "halves agree": halves_agree, "stable": stable, "likelihood": likelihood,
    "description length": description_length, "inside share": inside_share, "broken lists, gamma alone": broken_lists,
}  # fmt: skip


def draw(truth: IntArray, share: float | tuple[int, int], classes: int | None, seed: int) -> tuple[IntArray, IntArray]:
    """Some of the distinct texts, ascending, and the true class of each. truth : of all distinct texts"""
    rng = np.random.default_rng(seed)
    if isinstance(share, float):
        rows = rng.choice(truth.size, int(truth.size * share), replace=False)
    else:
        names = np.unique(truth)
        names = names if classes is None else rng.choice(names, min(classes, names.size), replace=False)
        held = [np.flatnonzero(truth == name) for name in names]
        some = [min(len(own), int(rng.integers(share[0], share[1] + 1))) for own in held]
        rows = np.concatenate([rng.choice(own, size, replace=False) for own, size in zip(held, some, strict=True)])
    rows = np.sort(rows)
    return rows, truth[rows]


def sample(case: Case, share: float | tuple[int, int], classes: int | None, seed: int) -> Case:
    """Some of the distinct texts with lists of their own."""
    rows, truth = draw(truth_of_texts(case.group, case.truth), share, classes, seed)
    return Case(case.vectors[rows], *exact_lists(case.vectors[rows]), np.arange(rows.size), truth)


def syndicated(name: str, encoder: str, most: int, data: Path, cache: Path) -> Case:
    """3,000 texts of a set, each in 1 to ``most`` copies with the names of outlets."""
    case, rng = load_case(name, SETS[name], encoder, data, cache), np.random.default_rng(0)
    texts = pq.read_table(cache / f"{name}-texts.parquet")["text"].to_pylist()
    truth = truth_of_texts(case.group, case.truth)
    chosen = rng.choice(len(texts), min(3000, len(texts)), replace=False)
    copies = [(row, out) for row in chosen for out in rng.choice(OUTLETS, rng.integers(1, most + 1), replace=False)]
    order = rng.permutation(len(copies))
    vectors = load_encoder(ENCODERS[encoder]).encode([texts[copies[at][0]] + copies[at][1] for at in order]).vectors
    return Case(vectors, *exact_lists(vectors), np.arange(order.size), truth[[copies[at][0] for at in order]])


def cases(data: Path, cache: Path, only_syndicated: bool) -> Iterator[tuple[str, str, Case]]:
    if only_syndicated:
        for name, encoder, most in SYNDICATED:
            yield f"{name} in up to {most}", encoder, syndicated(name, encoder, most, data, cache)
        return
    for encoder in ENCODERS:
        held = {name: load_case(name, source, encoder, data, cache) for name, source in SETS.items()}
        yield from ((name, encoder, case) for name, case in held.items())
        for name, (origin, share, classes, seed) in SMALL.items():
            yield name, encoder, sample(held[origin], share, classes, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--syndicated", action="store_true", help="only sets with copies of headlines by outlets")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    lines = []
    for name, encoder, case in cases(given.data, given.cache, given.syndicated):
        cuts = Cuts(case)
        scores = {rule: agreement(case.truth, choose(cuts).home[case.group]) for rule, choose in RULES.items()}
        shipped = GraphHDBSCAN().fit(neighbors=(case.indices, case.distances))
        scores["broken lists"] = agreement(case.truth, shipped.home_[case.group])
        scores = {rule: round(value, 4) for rule, value in scores.items()}
        lines.append(
            {
                "set": name,
                "encoder": encoder,
                "texts": cuts.n_rows,
                "broken": round(cuts.group_sizes.share, 3),
                "tiling": round(shipped.tiling_ or 0, 3),
                **scores,
            }
        )
        print(json.dumps(lines[-1]), flush=True)
    rules = [*RULES, "broken lists"]
    print("| rule | the sets | small sets | worst against fixed | small sets, worst |\n| --- | --- | --- | --- | --- |")
    for rule in rules:
        parts = [[line for line in lines if (line["set"] in SETS) == whole] for whole in (True, False)]
        means = [float(np.mean([line[rule] for line in part] or [np.nan])) for part in parts]
        worst = [min((line[rule] - line["fixed"] for line in part), default=np.nan) for part in parts]
        print(f"| {rule} | {means[0]:.3f} | {means[1]:.3f} | {worst[0]:+.3f} | {worst[1]:+.3f} |")
    if given.output:
        versions = {name: importlib.metadata.version(name) for name in ("covey", "numpy", "scikit-learn")}
        given.output.write_text(json.dumps({"cases": lines, "versions": versions}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
