"""The stages in order: read, embed, store, search, graph, forest, cluster, describe, project, plot, report."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from clustering.collection_lifecycle import (
    discard_earlier_starts,
    keep_collection_name,
    release_left,
    search_collection,
)
from clustering.compile_ahead import start_compiling
from clustering.config.sections import RunConfig
from clustering.encoders.loading import served_dim
from clustering.fingerprints import Fingerprints, known_commit, known_prompt, model_versions, stage_fingerprints
from clustering.milvus.collection import check_store
from clustering.monitoring.progress import track_stage
from clustering.monitoring.resources import dim_of
from clustering.preflight import check_everything, check_nodes, make_plan, require_gpus, versions
from clustering.runs.directory import RunDir
from clustering.schema import Figures
from clustering.sources.collection import Source, read_collection
from clustering.sources.files import InputFile
from clustering.stages.cluster import cluster_graph
from clustering.stages.describe import describe_clusters
from clustering.stages.embed import adopt_vectors, embed_texts
from clustering.stages.forest import build_forest
from clustering.stages.graph import build_graph
from clustering.stages.plot import plot_map
from clustering.stages.project import project_texts
from clustering.stages.read import read_texts
from clustering.stages.report import write_report
from clustering.workers.remote import refuse_blind_nodes
from clustering.workers.reservations import requiring_memory
from clustering.workers.session import ray_session
from clustering.workers.tasks import run_concurrently

log = logging.getLogger("covey")


def run_pipeline(config: RunConfig) -> RunDir:
    """Do the whole run, or what is left of it, and return its directory.

    A Ray that is already connected is used; otherwise one is started (``RAY_ADDRESS`` names a cluster) and ended.
    Raises: ConfigError for a wrong configuration, input or store, before any work where it can be known; CoveyError
        for a stage that cannot finish.
    """
    run = RunDir(config.run.dir, patience_s=config.run.patience_s)
    source, dim = check_everything(config)
    with run.locked():
        if not config.run.resume:
            run.replace_damaged_manifest()
        commit = None
        if isinstance(source, list):
            commit = known_commit(config, run)
            prompt, share = known_prompt(config, run, commit), config.embed.words_share
            config = replace(config, embed=replace(config.embed, prompt=prompt, lexical=share))
        fingerprints = stage_fingerprints(config, source, commit)
        if config.run.resume and run.finished("report", fingerprints["report"]):
            if "previous" in run.manifest:  # another start with other settings came in between and did not finish
                run.begin(fingerprints, config=config.as_dict(), origin=None)
            release_left(config, run)
            log.info("%s is finished; nothing to do (run.resume=false starts anew)", run.path)
            return run
        tell_other_input(run, config)
        saved_config, config = config.as_dict(), keep_collection_name(config, run)
        if isinstance(source, list) and not (config.run.resume and run.finished("embed", fingerprints["embed"])):
            dim = served_dim(config.embed) or dim  # a server that is not needed any more may be gone
        if not (config.run.resume and run.finished("search", fingerprints["search"])):
            check_store(config, dim, run.id)  # before anything is discarded
        with ray_session():
            if isinstance(source, list):
                require_gpus(config)
            check_nodes(config, run)
            compiling = start_compiling(config)  # works as long as it is referenced
            if not config.run.resume:
                discard_earlier_starts(config, run)
            run.begin(
                fingerprints, config=saved_config, origin=None,
                versions={**versions(), **model_versions(config, commit)}, seed=config.run.seed,
                machine=f"{platform.system()} {platform.machine()}", collection=config.collection,
            )  # fmt: skip
            run_stages(config, run, source, fingerprints, commit, dim or dim_of(config))
            run.publish()
            del compiling
    return run


def tell_other_input(run: RunDir, config: RunConfig) -> None:
    """Say that results of other files are about to be replaced."""
    manifest = run.manifest
    held = manifest.get("config", {}).get("read", {}).get("paths")
    if "report" in manifest.get("stages", {}) and held and list(held) != list(config.read.paths):
        log.warning("%s holds the results of %s; this run replaces them when it is done", run.path, ", ".join(held))


def run_stages(
    config: RunConfig,
    run: RunDir,
    source: list[InputFile] | Source,
    fingerprints: Fingerprints,
    commit: str | None,
    dim: int,
) -> None:
    """Run every stage in order. Each line leaves an artefact, or keeps the one of an earlier start.

    dim : of the vectors; a guess where only the loaded model knows it
    """
    stage = partial(run_stage, config, run, fingerprints)
    if isinstance(source, Source):
        read = stage("read", lambda: read_collection(source, config.read, run))
    else:
        read = stage("read", lambda: read_texts(source, config.read, run, dim))
    n_texts = read["texts"]
    if n_texts == 0:
        log.warning("no texts: %d records, none with text in read.text_columns", read["records"])
        stage("report", lambda: write_report(run, config))
        return
    make_plan(config, run, read, dim, run.unfinished(fingerprints))
    if isinstance(source, Source):
        embedded = stage("embed", lambda: adopt_vectors(run))
    else:
        embedded = stage("embed", lambda: embed_texts(run, config.embed, commit))
    if n_texts > 1:  # one text has no neighbors
        search_collection(config, run, fingerprints, n_texts, embedded, stage)
    cluster_stages(config, run, fingerprints, n_texts)


def cluster_stages(config: RunConfig, run: RunDir, fingerprints: Fingerprints, n_texts: int) -> None:
    """Run the stages after the search, which need only the run directory."""
    stage = partial(run_stage, config, run, fingerprints)
    seed, metric = config.run.seed, config.store.metric
    with run_concurrently(lambda: stage("project", lambda: project_texts(run, config.project, n_texts, seed))):
        scale = config.time_scale
        stage("graph", lambda: build_graph(run, config.graph, config.graph_k, n_texts, metric, time_scale=scale))
        stage("forest", lambda: build_forest(run, config.cluster, config.graph, metric, seed))
        stage("cluster", lambda: cluster_graph(run, config.cluster, config.graph_k, metric))
        stage("describe", lambda: describe_clusters(run, config.describe))
    stage("plot", lambda: plot_map(run, config.plot, config.name, seed))
    stage("report", lambda: write_report(run, config))


def run_stage(
    config: RunConfig, run: RunDir, fingerprints: Fingerprints, name: str, work: Callable[[], Figures]
) -> Figures:
    """Run a stage, unless it is finished, on nodes with the memory that the plan says it needs; report its progress."""
    refuse_blind_nodes(run)
    manifest = run.manifest
    planned = manifest.get("plan", {}).get(name, {}).get("memory", 0) if config.run.check else 0
    tracked = partial(track_stage, run, config.name, name, work, manifest.get("expected"))
    with requiring_memory(planned):
        return run.stage(name, fingerprints[name], tracked)
