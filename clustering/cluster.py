"""forest/ in; the condensed tree, and label, strength and home of every distinct text out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from clustering import schema
from clustering.config import ClusterSection
from clustering.forest import copies_of, load_forest
from clustering.kernels.csr import min_distance
from clustering.kernels.labels import label_texts
from clustering.parts import on_worker
from clustering.rundir import Figures, RunDir, whole, write_table


def cluster_graph(run: RunDir, cfg: ClusterSection, metric: str) -> Figures:
    """Leave assignment.parquet (a line for each distinct text) and tree.parquet.

    Returns: count, noise_share, home_share, largest_share (shares of records), copies_clusters, ``peak_bytes``.
    """
    figures, peak = on_worker(_cluster, run, cfg, metric)
    return {**figures, "peak_bytes": peak}


def _cluster(run: RunDir, cfg: ClusterSection, metric: str) -> Figures:
    forest, copies = load_forest(run), copies_of(run)
    found = label_texts(
        forest, copies, np.load(run / "forest" / "core.npy"),
        weigh=cfg.copies == "weigh", floor=min_distance(metric), min_cluster_size=cfg.min_cluster_size,
        selection=cfg.selection, epsilon=cfg.epsilon, max_cluster_size=cfg.max_cluster_size,
        allow_single_cluster=cfg.allow_single_cluster,
    )  # fmt: skip
    label, home = found.label, found.home
    columns = {
        "row": np.arange(copies.size),
        "label": label.astype(np.int32),
        "strength": found.strength.astype(np.float32),
        "outlier_score": found.outlier_score.astype(np.float32),
        "home": home.astype(np.int32),
        "home_strength": found.home_strength,
    }
    write_table(run / "assignment.parquet", pa.table(columns, schema=schema.ASSIGNMENT))
    records = found.tree.as_records()
    tree = [pa.array(records[name]) for name in ("parent", "child", "lambda_val", "child_size")]
    write_table(run / "tree.parquet", pa.table(tree, schema=schema.TREE))
    with whole(run / "persistence.npy") as temporary, temporary.open("wb") as handle:
        np.save(handle, found.persistence)
    n_records = int(copies.sum())
    sizes = np.bincount(label[label >= 0], weights=copies[label >= 0], minlength=1)
    return {
        "count": len(found.persistence),
        "noise_share": round(float(copies[label < 0].sum()) / n_records, 5),
        "home_share": round(float(copies[home >= 0].sum()) / n_records, 5),
        "largest_share": round(float(sizes.max()) / n_records, 5),
        "copies_clusters": found.alone,
    }
