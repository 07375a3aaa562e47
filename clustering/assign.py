"""A finished run and new texts in; the clusters they belong to out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from clustering.config import ReadSection, RunConfig
from clustering.encoders import load_encoder
from clustering.errors import ConfigError
from clustering.exact import exact_neighbors
from clustering.kernels.topk import FloatArray, dot_distance
from clustering.parts import on_worker
from clustering.read import clean_text, find_files, read_columns_of
from clustering.rundir import Figures, RunDir, load_assignment, load_forest, write_table

ASSIGNED = pa.schema(
    [
        ("text_id", pa.string()),
        ("label", pa.int32()),
        ("strength", pa.float32()),
        ("home", pa.int32()),
        ("home_strength", pa.float32()),
        ("nearest_row", pa.int64()),
        ("distance", pa.float32()),
    ]
)


def assign_texts(run: RunDir, config: RunConfig, paths: list[str], output: str | Path) -> Figures:
    """Place new texts in the clusters of a finished run, by exact search over its vectors; the run is not changed.

    A new text meets the run's texts at mutual reachability max(its own core distance, the other's, their distance).
    ``home`` is the home of the text it meets first; ``label`` is the same cluster when it meets it no higher than
    the cluster's own members meet each other, else -1.

    paths : files with the run's text columns (and its id column); output : a Parquet file
    Returns: records, empty (left out), assigned (label not -1).
    Raises: ConfigError when the run is not finished or the files do not fit its configuration.
    """
    if not (run / "report.json").exists() or not (run / "assignment.parquet").exists():
        raise ConfigError([f"{run.path} holds no finished clusters; finish it with covey run first"])
    read = config.read
    wanted = list(dict.fromkeys([*read.text_columns, *([read.id_column] if read.id_column else [])]))
    files = find_files(ReadSection(paths=tuple(paths), text_columns=read.text_columns, id_column=read.id_column))
    table = read_columns_of(files, wanted)
    columns = [table[name].to_pylist() for name in read.text_columns]
    texts = [clean_text(list(values), read.separator) for values in zip(*columns, strict=True)]
    ids = [given or place for given, place in zip(
        table[read.id_column].to_pylist() if read.id_column else table["place"].to_pylist(),
        table["place"].to_pylist(), strict=True)]  # fmt: skip
    kept = [place for place, text in enumerate(texts) if text]
    placed = place_texts([ids[place] for place in kept], run, config, [texts[place] for place in kept])
    write_table(Path(output), placed)
    assigned = int((placed["label"].to_numpy() >= 0).sum())
    return {"records": len(texts), "empty": len(texts) - len(kept), "assigned": assigned}


def place_texts(ids: list[str], run: RunDir, config: RunConfig, texts: list[str]) -> pa.Table:
    """The table of assign_texts for cleaned texts."""
    if not texts:
        return ASSIGNED.empty_table()
    vectors, _ = on_worker(_encode, config, texts)
    metric, min_samples = config.store.metric, config.cluster.min_samples
    core = np.load(run / "forest" / "core.npy")
    k = min(config.search.k, core.size)
    rows, dots, _ = exact_neighbors(run / "vectors", vectors, np.full(len(texts), -1, np.int64), k)
    away = dot_distance(dots, metric)
    own_core = away[:, min(min_samples, k) - 1]
    reach = np.maximum(np.maximum(away, core[rows]), own_core[:, None])
    meets = reach.argmin(axis=1)
    each = np.arange(len(texts))
    height, where = reach[each, meets], rows[each, meets]
    assignment = load_assignment(run)
    home = assignment["home"].to_numpy()[where]
    ceiling = _ceilings(run, assignment["label"].to_numpy())
    inside = (home >= 0) & (height <= ceiling[home])
    forest = load_forest(run)
    middle = np.float32(np.median(forest.distance)) if forest.distance.size else np.float32(1)
    columns = {
        "text_id": pa.array(ids, pa.string()),
        "label": np.where(inside, home, -1).astype(np.int32),
        "strength": np.where(inside, 1 - height / np.maximum(ceiling[home], 1e-12) / 2, 0).astype(np.float32),
        "home": home.astype(np.int32),
        "home_strength": np.where(inside, 1, 1 / (1 + height / middle)).astype(np.float32),
        "nearest_row": rows[:, 0],
        "distance": away[:, 0],
    }
    return pa.table(columns, schema=ASSIGNED)


def _encode(config: RunConfig, texts: list[str]) -> FloatArray:
    return load_encoder(config.embed).encode(texts).vectors


def _ceilings(run: RunDir, label: np.ndarray[tuple[int], np.dtype[np.int32]]) -> FloatArray:
    """For each cluster the longest forest edge between two of its members; a last 0 stands for no cluster."""
    forest = load_forest(run)
    ceiling = np.zeros(int(label.max(initial=-1)) + 2, np.float32)
    within = (label[forest.left] == label[forest.right]) & (label[forest.left] >= 0)
    np.maximum.at(ceiling, label[forest.left[within]], forest.distance[within])
    return ceiling
