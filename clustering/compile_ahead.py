"""A configuration in; kernels compiled into numba's cache out, beside the first stages or when an image is built.

A kernel is compiled for the types that the stages pass to it, so the stages themselves run here on made-up texts.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clustering import kernels, schema
from clustering.config.loading import build_config
from clustering.config.sections import RunConfig
from clustering.kernels.cache import cache_folder
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import ListOptions
from clustering.runs.parts import part_name
from clustering.runs.storage import digest, write_table
from clustering.sources.folding import compile_folding
from clustering.stages.cluster import _cluster, cluster_graph
from clustering.stages.embed import compile_words
from clustering.stages.forest import _diffused_forest, _forest, build_forest
from clustering.stages.graph import build_graph
from clustering.stages.project import _project, project_texts
from clustering.workers.graph.shuffle import build_whole
from clustering.workers.nodes import live_nodes
from clustering.workers.remote import start_in_background
from clustering.workers.session import ray_session

log = logging.getLogger("covey")
TEXTS, DIM, LISTED = 240, 8, 6


def start_compiling(config: RunConfig) -> Any:
    """Start a task that compiles the kernels of later stages beside the first ones, on a single node without them.

    The images of a cluster's nodes contain the compiled kernels.
    Returns: the task, which ends when it is no longer referenced; None when nothing is to be compiled.
    """
    if len(live_nodes()) != 1 or are_kernels_compiled(config):
        return None
    return start_in_background(compile_beside_run, config)


def compile_kernels(config: RunConfig | None = None) -> None:
    """Compile the kernels of near-duplicates, of words and of the stages from graph on, unless the cache holds them.

    config : None for the default
    """
    config = config or build_config({})
    done = _marker(config)
    with tempfile.TemporaryDirectory(prefix="covey-") as folder:
        run = RunDir(Path(folder))
        _write_earlier_artefacts(run)
        compile_folding()
        compile_words()
        k, metric = LISTED, config.store.metric
        timed = None if config.time_scale is None else 1.0  # a given scale counts in any case
        build_whole(run, ListOptions(k, config.graph.max_distance, metric, TEXTS, 0, timed))
        forest = _diffused_forest if config.cluster.weights == "diffused" else _forest
        forest(run, config.cluster, replace(config.graph, bridge="none"), metric, 0)  # bridges would start Ray
        _cluster(run, config.cluster, k, metric)
        if config.project.method == "layout":  # umap-learn does not cache what it compiles
            _project(run, config.project, TEXTS, 0)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()


def compile_for_blocks(config: RunConfig | None = None) -> None:
    """Compile what the stages from graph to project call on a graph of several blocks.

    This starts Ray, because the shards call kernels on the read-only arrays that Ray hands out, which are types of
    their own. An image needs these kernels: else every shard of a cluster would compile them.

    config : None for the default
    """
    config = config or build_config({})
    k, metric = LISTED, config.store.metric
    with tempfile.TemporaryDirectory(prefix="covey-") as folder, ray_session():
        run = RunDir(Path(folder))
        _write_earlier_artefacts(run)
        build_graph(run, config.graph, k, TEXTS, metric, blocks=2, time_scale=config.time_scale)
        build_forest(run, config.cluster, replace(config.graph, bridge="none"), metric, 0)
        cluster_graph(run, config.cluster, k, metric)
        project_texts(run, replace(config.project, sample=TEXTS // 2), TEXTS, 0)


def are_kernels_compiled(config: RunConfig) -> bool:
    """Whether the cache holds the kernels of a run in their current version."""
    return _marker(config).exists()


def _marker(config: RunConfig) -> Path:
    """The empty file that exists when the kernels are compiled."""
    sources = sorted((source.name, source.stat().st_mtime_ns) for source in Path(kernels.__file__).parent.rglob("*.py"))
    kinds = (config.cluster.weights, config.time_scale is None, config.project.method)
    parts = (sources, sys.version, platform.machine(), version("numba"), *kinds)
    return cache_folder() / f"covey-{digest(parts)}.warm"


def compile_beside_run(config: RunConfig) -> None:
    """Compile the kernels beside a run. An error does not end the run, because its stages compile what they need."""
    os.nice(5)  # the run itself comes first
    try:
        compile_kernels(config)
    except Exception as error:
        log.debug("kernels are not compiled beforehand: %s: %s", type(error).__name__, error)


def _write_earlier_artefacts(run: RunDir) -> None:
    """Write what the stages up to the search leave, for two groups of texts."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(TEXTS, DIM)).astype(np.float32) + np.arange(TEXTS)[:, None] % 2 * np.float32(8)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = np.sqrt(np.maximum(2 - 2 * vectors @ vectors.T, 0))
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :LISTED]
    lengths = np.take_along_axis(distances, nearest, axis=1)
    rows, ends = np.arange(TEXTS), np.arange(0, nearest.size + 1, LISTED, dtype=np.int32)
    texts = {"row": rows, "text": [f"text {row}" for row in rows], "copies": np.ones(TEXTS, np.int32)}
    listed = {
        "row": rows,
        "neighbors": pa.ListArray.from_arrays(ends, pa.array(nearest.ravel())),
        "distances": pa.ListArray.from_arrays(ends, pa.array(lengths.astype(np.float32).ravel())),
        "cell": np.zeros(TEXTS, np.int32),
    }
    stored = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    members = {"row": rows, "time": rows.astype("datetime64[us]")}
    write_table(run / "members" / part_name(0), pa.table(members))
    write_table(run / "texts" / part_name(0), pa.table(texts, schema=schema.TEXTS))
    write_table(run / "neighbors" / part_name(0), pa.table(listed, schema=schema.NEIGHBORS))
    write_table(run / "vectors" / part_name(0), pa.table([rows, stored], schema=schema.vectors_schema(DIM)))


if __name__ == "__main__":
    for given in ({}, {"read": {"time_column": "time"}}, {"cluster": {"weights": "distance", "selection": "eom"}}):
        compile_kernels(build_config(given))
        compile_for_blocks(build_config(given))
