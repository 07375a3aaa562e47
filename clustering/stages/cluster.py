"""forest/ and graph/ in; the condensed tree, and label, strength, home and layers of every text out."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import ClusterSection
from clustering.kernels.graph.csr import min_distance
from clustering.kernels.graph.diffusion import MIN_LENGTH
from clustering.kernels.graph.equal_vectors import find_tied_rows
from clustering.kernels.hierarchy.labels import ClusterOptions, Labels, label_texts
from clustering.kernels.hierarchy.membership import links_of
from clustering.kernels.hierarchy.tiling import NO_GROUPS, links_within, share_of_tiling
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import load_copies, load_forest, load_group_sizes
from clustering.runs.storage import load_array, write_json, write_table
from clustering.schema import Figures
from clustering.workers.graph.quality import ShardedQuality, count_kept_links, open_quality_graph
from clustering.workers.nodes import withdrawing_wishes
from clustering.workers.tasks import run_on_one_node

_NO_GROUPS = (
    "There are no clear groups; treat the clusters as a tiling. The links to near texts that leave their cluster are "
    "{:.0%} of what they would be if the texts were spread evenly. Another encoder may show groups (embed.encoder)."
)


def cluster_graph(run: RunDir, cfg: ClusterSection, k: int, metric: str) -> Figures:
    """Leave assignment.parquet (a line for each distinct text), tree.parquet and layers.json.

    layers.json holds the chosen layer, the clusters of each layer, and parent, persistence, texts, size (records) and
    link_share of every cluster.
    k : neighbors of each text that are edges
    Returns: count; with_text, clustered and noise (records with a text, in a cluster, in none); noise_share, home_share
        and largest_share (shares of the records with a text); copies_clusters; modularity;
        tiling (the links that leave their cluster, as a share of those if texts were spread evenly); resolution_by
        (what the resolution follows: granularity, small groups, or usual; all three None without modularity); layers
        (clusters, resolution and noise share of each, broadest first); layer (the one that the labels are of).
    """
    with withdrawing_wishes():  # of its shards
        return run_on_one_node(_cluster, run, cfg, k, metric)


def _cluster(run: RunDir, cfg: ClusterSection, k: int, metric: str) -> Figures:
    tiling: float | None = None
    options = ClusterOptions(**{key.name: getattr(cfg, key.name) for key in fields(ClusterOptions)})
    if options.selection != "modularity":
        result, copies = _label(run, cfg, metric, options, None)
        layers = result.layers.astype(np.int32)
        texts, size = _cluster_sizes(layers, copies, result.parent.size)
        kept_links = count_kept_links(run, layers, links_of(texts))
    else:
        q, weigh = min(options.n_neighbors, k), options.copies == "weigh"
        with open_quality_graph(run, q, shared=options.shares_neighbors, weigh=weigh) as quality:
            result, copies = _label(run, cfg, metric, options, quality)
            layers = result.layers.astype(np.int32)
            texts, size = _cluster_sizes(layers, copies, result.parent.size)
            kept_links = quality.count_kept_links(layers, links_of(texts))
            sizes = np.bincount(result.home[result.home >= 0])
            links, steps = quality.count_links(result.home, links_within(sizes))
            if metric != "L2":  # a Euclidean distance is the root of a stored one
                steps[0] *= 2
            tiling = share_of_tiling(sizes, links, steps)
    label, home = result.label, result.home
    ends = np.arange(0, layers.size + 1, layers.shape[1], dtype=np.int32)
    columns = {
        "row": np.arange(copies.size),
        "label": label.astype(np.int32),
        "strength": result.strength.astype(np.float32),
        "layers": pa.ListArray.from_arrays(ends, layers.ravel()),
        "outlier_score": result.outlier_score.astype(np.float32),
        "home": home.astype(np.int32),
        "home_strength": result.home_strength,
    }
    write_table(run / "assignment.parquet", pa.table(columns, schema=schema.ASSIGNMENT))
    records = result.tree.as_records()
    tree = [pa.array(records[name]) for name in ("parent", "child", "lambda_val", "child_size")]
    write_table(run / "tree.parquet", pa.table(tree, schema=schema.TREE))
    in_layers = [np.unique(layer[layer >= 0]) for layer in layers.T]
    kept = {
        "chosen": result.chosen_layer,
        "layers": [numbers.tolist() for numbers in in_layers],
        "parent": result.parent.tolist(),
        "persistence": result.persistence.tolist(),
        "texts": texts.tolist(),
        "size": size.tolist(),
        "link_share": [kept / links if links else None for kept, links in kept_links.T.tolist()],
    }
    write_json(run / "layers.json", kept)
    n_records = int(copies.sum())

    def share(rows: NDArray[np.bool_]) -> float:
        return round(float(copies[rows].sum()) / n_records, 5)

    noise = int(copies[label < 0].sum())
    sizes = np.bincount(label[label >= 0], weights=copies[label >= 0], minlength=1)
    gammas: list[float | None] = [*result.gammas] or [None] * layers.shape[1]
    return {
        "count": result.n_clusters,
        "with_text": n_records,
        "clustered": n_records - noise,
        "noise": noise,
        "noise_share": share(label < 0),
        "home_share": share(home >= 0),
        "largest_share": round(float(sizes.max()) / n_records, 5),
        "copies_clusters": result.n_copies_clusters,
        "modularity": None if result.modularity is None else round(result.modularity, 5),
        "tiling": None if tiling is None else round(tiling, 4),
        "resolution_by": options.decides_resolution(load_group_sizes(run)) if result.gammas else None,
        "layer": result.chosen_layer,
        "layers": [
            {"clusters": numbers.size, "resolution": gamma, "noise_share": share(layer < 0)}
            for layer, numbers, gamma in zip(layers.T, in_layers, gammas, strict=True)
        ],
        "warnings": [] if tiling is None or tiling < NO_GROUPS else [_NO_GROUPS.format(tiling)],
    }


def _label(
    run: RunDir, cfg: ClusterSection, metric: str, options: ClusterOptions, quality: ShardedQuality | None
) -> tuple[Labels, NDArray[np.int32]]:
    """The labels of all texts, and how many records each has."""
    forest, copies = load_forest(run), load_copies(run)
    core = load_array(run / "forest" / "core.npy")
    floor = float(MIN_LENGTH) if cfg.weights == "diffused" else min_distance(metric)
    result = label_texts(
        forest, copies, core, options, floor=floor, equal_to=find_tied_rows(forest, core, floor), nearest=quality,
        group_sizes=load_group_sizes(run),
    )  # fmt: skip
    return result, copies


def _cluster_sizes(
    layers: NDArray[Any], copies: NDArray[np.int32], n_clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The texts and records of each cluster; a cluster of several layers counts a text once."""
    texts, size = np.zeros(n_clusters, np.int64), np.zeros(n_clusters, np.int64)
    for number, layer in enumerate(layers.T):
        own = (layer >= 0) & (layers[:, :number] != layer[:, None]).all(axis=1)
        texts += np.bincount(layer[own], minlength=n_clusters)
        size += np.bincount(layer[own], weights=copies[own], minlength=n_clusters).astype(np.int64)
    return texts, size
