"""GraphHDBSCAN on exact neighbor lists beside hdbscan on the vectors themselves, over labelled sets of short texts.

    python -m benchmarks.exactness --output benchmarks/results/exactness.json \\
        googlenews.parquet:title uci_news_aggregator_extract.parquet:title stackoverflow20.parquet:text

A set is a Parquet file with a column of texts and a column `label`. Texts are folded, encoded by the static encoder,
and their 50 nearest are found exactly. For each setting: the adjusted Rand index (ARI) of GraphHDBSCAN's labels with
hdbscan's, before the repair and after, the share of merges that the lists prove, the rows that the repair asked for;
and how well `home` agrees with the true labels (NMI, ARI). Trees of equal weight differ where lengths tie (a core
distance is the length of many edges), so two columns more: `reordered` is hdbscan's ARI with itself when the rows come
in another order; `same_tree` is the ARI of our labels with those of hdbscan's own code on our tree, and
`weight_difference` how much longer our tree is than hdbscan's, relative to it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import hdbscan
import numpy as np
import pyarrow.parquet as pq
from hdbscan._hdbscan_linkage import label
from hdbscan.hdbscan_ import _tree_to_labels
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from clustering import GraphHDBSCAN
from clustering.config.sections import EmbedSection
from clustering.encoders.loading import load_encoder
from clustering.estimator.plain import outside_search
from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.kernels.graph.forest import Forest, core_distances, spanning_forest
from clustering.kernels.graph.repair import repair_forest
from clustering.kernels.topk import FloatArray, IntArray

K = 50
SETTINGS = [(3, 3), (5, 10), (15, 15)]


def exact_lists(vectors: FloatArray) -> tuple[IntArray, FloatArray]:
    indices = np.empty((len(vectors), K), np.int64)
    distances = np.empty((len(vectors), K), np.float32)
    for at in range(0, len(vectors), 1000):
        block = vectors[at : at + 1000]
        squared = np.maximum(2 - 2 * block @ vectors.T, 0)
        squared[np.arange(len(block)), at + np.arange(len(block))] = np.inf
        near = np.argpartition(squared, K, axis=1)[:, :K]
        near = np.take_along_axis(near, np.argsort(np.take_along_axis(squared, near, 1), axis=1), 1)
        indices[at : at + 1000] = near
        distances[at : at + 1000] = np.sqrt(np.take_along_axis(squared, near, 1))
    return indices, np.maximum(distances, np.float32(MIN_DISTANCE))


def repaired_forest(lists: tuple[IntArray, FloatArray], vectors: FloatArray, min_samples: int) -> Forest:
    indices, distances = lists
    shape = (len(vectors), len(vectors))
    graph = csr_array((distances.ravel(), indices.ravel(), np.arange(len(vectors) + 1) * K), shape=shape)
    core = core_distances(graph, min_samples)
    forest = spanning_forest(graph, core, symmetric=False)
    search = outside_search(vectors, core, np.float32(MIN_DISTANCE))
    return repair_forest(forest, np.ascontiguousarray(distances[:, -1]), search, len(vectors))[0]


def run_set(path: str, column: str) -> list[dict[str, Any]]:
    table = pq.read_table(path)
    texts = [" ".join(text.split()) for text in table[column].to_pylist()]
    truth = np.unique(table["label"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1]
    distinct, group = np.unique(texts, return_inverse=True)
    vectors = load_encoder(EmbedSection(encoder="static")).encode(distinct.tolist()).vectors
    lists = exact_lists(vectors)
    shuffle = np.random.default_rng(0).permutation(len(distinct))
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for min_samples, min_cluster_size in SETTINGS:
            for selection in ("eom", "leaf"):
                keys: dict[str, Any] = {"min_samples": min_samples, "min_cluster_size": min_cluster_size}

                def exact(rows: FloatArray, keys: dict[str, Any] = keys, how: str = selection) -> Any:
                    model = hdbscan.HDBSCAN(  # one tree for both selections
                        **keys, cluster_selection_method=how, memory=cache, gen_min_span_tree=True
                    )
                    return model.fit(rows.astype(np.float64))

                ours = GraphHDBSCAN(**keys, weights="distance", selection=selection, min_distance=MIN_DISTANCE)
                listed = ours.fit(neighbors=lists).labels_
                proven = ours.certified_
                started = time.perf_counter()
                repaired = ours.fit(neighbors=lists, vectors=vectors)
                seconds = time.perf_counter() - started
                model = exact(vectors)
                theirs, weight = model.labels_, float(model._min_spanning_tree[:, 2].sum())
                forest = repaired_forest(lists, vectors, min_samples)
                edges = np.column_stack([forest.left, forest.right, forest.distance.astype(np.float64)])
                of_ours = _tree_to_labels(None, label(edges), min_cluster_size, selection, False, False, 0.0, 0.0, 0)[0]
                line = {
                    "set": Path(path).stem, "texts": len(distinct), **keys, "selection": selection,
                    "ari_lists": round(adjusted_rand_score(theirs, listed), 4),
                    "ari_repaired": round(adjusted_rand_score(theirs, repaired.labels_), 4),
                    "reordered": round(adjusted_rand_score(theirs[shuffle], exact(vectors[shuffle]).labels_), 4),
                    "same_tree": round(adjusted_rand_score(of_ours, repaired.labels_), 4),
                    "weight_difference": round(float(forest.distance.astype(np.float64).sum()) / weight - 1, 9),
                    "certified_by_lists": round(proven, 5), "certified": round(repaired.certified_, 5),
                    "queries": repaired.n_queries_, "seconds": round(seconds, 2),
                    "clusters": int(repaired.labels_.max()) + 1, "hdbscan_clusters": int(theirs.max()) + 1,
                    "noise": round(float((repaired.labels_ < 0).mean()), 4),
                    "home_nmi": round(normalized_mutual_info_score(truth, repaired.home_[group]), 4),
                    "home_ari": round(adjusted_rand_score(truth, repaired.home_[group]), 4),
                }  # fmt: skip
                print(json.dumps(line), flush=True)
                found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", help="PATH:COLUMN of each set")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    lines = [line for word in given.sets for line in run_set(*word.rsplit(":", 1))]
    report = {
        "cases": lines,
        "k": K,
        "versions": {name: importlib.metadata.version(name) for name in ("covey", "hdbscan", "wordllama", "numpy")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    if given.output:
        given.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
