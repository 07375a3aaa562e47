"""Covey: clusters of millions of short texts, as one batch job on Ray."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Ray replaces print with a Python function; numba then cannot compile other packages' kernels that print.
os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clustering.config.loading import build_config, load_config
    from clustering.config.sections import RunConfig
    from clustering.errors import ConfigError, CoveyError, InputError, StageError, StoreError
    from clustering.estimator.graph_hdbscan import GraphHDBSCAN
    from clustering.finished.assign import assign_texts
    from clustering.finished.evaluate import evaluate_run
    from clustering.finished.export import export_run
    from clustering.finished.recluster import recluster_run
    from clustering.finished.results import Results, cluster_texts, open_run
    from clustering.pipeline import run_pipeline
    from clustering.runs.directory import RunDir
    from clustering.runs.kernel_inputs import load_graph, load_graph_block
    from clustering.runs.saved_config import load_run_config
    from clustering.sample import write_sample

# Loaded on first use, so that a kernel or the configuration can be imported without Ray and Milvus.
_HOMES = {
    "config.loading": ["build_config", "load_config"],
    "config.sections": ["RunConfig"],
    "errors": ["ConfigError", "CoveyError", "InputError", "StageError", "StoreError"],
    "estimator.graph_hdbscan": ["GraphHDBSCAN"],
    "finished.assign": ["assign_texts"],
    "finished.evaluate": ["evaluate_run"],
    "finished.export": ["export_run"],
    "finished.recluster": ["recluster_run"],
    "finished.results": ["Results", "cluster_texts", "open_run"],
    "pipeline": ["run_pipeline"],
    "runs.directory": ["RunDir"],
    "runs.kernel_inputs": ["load_graph", "load_graph_block"],
    "runs.saved_config": ["load_run_config"],
    "sample": ["write_sample"],
}

__all__ = [
    "ConfigError",
    "CoveyError",
    "GraphHDBSCAN",
    "InputError",
    "Results",
    "RunConfig",
    "RunDir",
    "StageError",
    "StoreError",
    "assign_texts",
    "build_config",
    "cluster_texts",
    "evaluate_run",
    "export_run",
    "load_config",
    "load_graph",
    "load_graph_block",
    "load_run_config",
    "open_run",
    "recluster_run",
    "run_pipeline",
    "write_sample",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"clustering.{module}"), name)
    raise AttributeError(f"module 'clustering' has no attribute {name!r}")
