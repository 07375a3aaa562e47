"""graph/ in; forest/, the condensed tree, and label, strength and home of every distinct text out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clustering import schema
from clustering.config import ClusterSection
from clustering.kernels.forest import Forest, core_distances, spanning_forest
from clustering.kernels.growth import grow_homes, home_strength, median_height
from clustering.kernels.tree import cluster_forest, finish_labels
from clustering.parts import on_worker
from clustering.rundir import Figures, RunDir, load_forest, load_graph, part_name, read_columns, whole, write_table


def build_forest(run: RunDir, cfg: ClusterSection) -> Figures:
    """Leave forest/: the minimum spanning forest of mutual reachability.

    Returns: edges, pieces, isolated (texts without any edge), ``peak_bytes``.
    """
    figures, peak = on_worker(_forest, run, cfg)
    return {**figures, "peak_bytes": peak}


def _forest(run: RunDir, cfg: ClusterSection) -> Figures:
    graph = load_graph(run)
    core = core_distances(graph, cfg.min_samples, _copies(run) if cfg.copies == "weigh" else None)
    forest = spanning_forest(graph, core)
    columns = {"left": forest.left, "right": forest.right, "distance": forest.distance}
    write_table(run / "forest" / part_name(0), pa.table(columns, schema=schema.FOREST))
    with whole(run / "forest" / "core.npy") as temporary, temporary.open("wb") as handle:
        np.save(handle, core)
    n_texts = graph.shape[0]
    isolated = int(np.isinf(core).sum())
    return {"edges": len(forest.left), "pieces": n_texts - len(forest.left), "isolated": isolated}


def _copies(run: RunDir) -> NDArray[np.int32]:
    return read_columns(run / "texts", ["copies"])["copies"].to_numpy()  # type: ignore[no-any-return]


def cluster_graph(run: RunDir, cfg: ClusterSection) -> Figures:
    """Leave assignment.parquet (a line for each distinct text) and tree.parquet.

    Returns: count, noise_share, home_share, largest_share (shares of records), copies_clusters, ``peak_bytes``.
    """
    figures, peak = on_worker(_cluster, run, cfg)
    return {**figures, "peak_bytes": peak}


def _cluster(run: RunDir, cfg: ClusterSection) -> Figures:
    forest, copies = load_forest(run), _copies(run)
    n_texts = copies.size
    options: dict[str, Any] = {
        "min_cluster_size": cfg.min_cluster_size,
        "selection": cfg.selection,
        "epsilon": cfg.epsilon,
        "max_cluster_size": cfg.max_cluster_size,
        "allow_single_cluster": cfg.allow_single_cluster,
    }
    weighed = copies if cfg.copies == "weigh" else np.ones_like(copies)
    unfolded = unfold_copies(forest, weighed, np.load(run / "forest" / "core.npy"))
    found = cluster_forest(unfolded, int(weighed.sum()), **options)
    label, strength, persistence = finish_labels(found, copies, cfg.min_cluster_size)
    alone = len(persistence) - len(found.persistence)
    home, height = grow_homes(forest.left, forest.right, forest.distance, label)
    columns = {
        "row": np.arange(n_texts),
        "label": label.astype(np.int32),
        "strength": strength.astype(np.float32),
        "outlier_score": found.outlier_score[:n_texts].astype(np.float32),
        "home": home.astype(np.int32),
        "home_strength": home_strength(height, median_height(forest.distance)),
    }
    write_table(run / "assignment.parquet", pa.table(columns, schema=schema.ASSIGNMENT))
    records = found.tree.as_records()
    tree = [pa.array(records[name]) for name in ("parent", "child", "lambda_val", "child_size")]
    write_table(run / "tree.parquet", pa.table(tree, schema=schema.TREE))
    with whole(run / "persistence.npy") as temporary, temporary.open("wb") as handle:
        np.save(handle, persistence)
    n_records = int(copies.sum())
    sizes = np.bincount(label[label >= 0], weights=copies[label >= 0], minlength=1)
    return {
        "count": len(persistence),
        "noise_share": round(float(copies[label < 0].sum()) / n_records, 5),
        "home_share": round(float(copies[home >= 0].sum()) / n_records, 5),
        "largest_share": round(float(sizes.max()) / n_records, 5),
        "copies_clusters": alone,
    }


def unfold_copies(forest: Forest, weights: NDArray[np.int32], core: NDArray[np.float32]) -> Forest:
    """Give every further copy of a text a node of its own, tied to the text at the text's core distance.

    weights : int32, shape (n_texts,), nodes a text; core : float32, shape (n_texts,)
    Returns: a forest over sum(weights) nodes whose first n_texts are the texts; the same forest when all weigh 1.
    """
    extra = weights.astype(np.int64) - 1
    if not extra.any():
        return forest
    owner = np.repeat(np.arange(weights.size, dtype=np.int64), extra)
    copy = weights.size + np.arange(owner.size, dtype=np.int64)
    left, right = np.concatenate([forest.left, owner]), np.concatenate([forest.right, copy])
    floor = np.float32(forest.distance.min()) if forest.distance.size else np.float32(1)
    reach = np.minimum(np.maximum(core[owner], min(floor, np.float32(1e-3))), np.float32(1e6))
    distance = np.concatenate([forest.distance, reach])
    order = np.lexsort((right, left, distance))
    return Forest(left[order], right[order], distance[order])
