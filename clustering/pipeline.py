"""The stages in order: read, embed, store, search, graph, forest, cluster, describe, project, plot, report."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import replace

from clustering.compile_ahead import start_compiling
from clustering.config.sections import RunConfig
from clustering.errors import ConfigError, StoreError
from clustering.fingerprints import commits, known_commit, stage_fingerprints
from clustering.milvus.audit import confirm_store, confirm_unchanged
from clustering.milvus.channel import open_store
from clustering.milvus.collection import ChangedError, check_store, drop_collection, is_in_use, release_store
from clustering.milvus.endpoint import Endpoint, endpoint_of
from clustering.monitoring.plan import dim_of
from clustering.monitoring.progress import track_stage
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
from clustering.stages.search import search_neighbors
from clustering.stages.store import store_vectors
from clustering.workers.nodes import node_cpus
from clustering.workers.session import ray_session
from clustering.workers.tasks import requiring_memory, run_concurrently

log = logging.getLogger("covey")


def run_pipeline(config: RunConfig) -> RunDir:
    """Do the whole run, or what is left of it, and return its directory.

    A Ray that is already connected is used; otherwise one is started (``RAY_ADDRESS`` names a cluster) and ended.
    Raises: ConfigError for whatever is wrong with configuration, input or store, before any work where it can be
        known; CoveyError for a stage that cannot finish.
    """
    run = RunDir(config.run.dir, patience_s=config.run.patience_s)
    source, dim = check_everything(config)
    with run.locked():
        if not config.run.resume:
            run.replace_damaged_manifest()
        commit = known_commit(config, run) if isinstance(source, list) else None
        marks = stage_fingerprints(config, source, commit)
        if config.run.resume and run.finished("report", marks["report"]):
            if "previous" in run.manifest:  # a start with other settings came in between, and did not finish
                run.begin(marks, config=config.as_dict())
            log.info("%s is finished; nothing to do (run.resume=false starts anew)", run.path)
            return run
        given, config = config, keep_collection(config, run)
        if not (config.run.resume and run.finished("search", marks["search"])):
            check_store(config, dim, run.id)  # before anything is given up
        with ray_session():
            if isinstance(source, list):
                require_gpus(config)
            check_nodes(config, run)
            compiling = start_compiling(config)  # as long as this is held
            if not config.run.resume:
                start_anew(config, run)
            run.begin(
                marks, config=given.as_dict(), versions={**versions(), **commits(config, commit)}, seed=config.run.seed,
                machine=f"{platform.system()} {platform.machine()}", collection=config.collection,
            )  # fmt: skip
            run_stages(config, run, source, marks, commit)
            run.publish()
            del compiling
    return run


def keep_collection(config: RunConfig, run: RunDir) -> RunConfig:
    """The configuration with the name that the run's collection has, though the directory was renamed since.

    A copy of a directory gets a collection of its own: what it was copied from still has the other.
    """
    held, saved = run.manifest.get("collection"), run.results.get("config") or {}
    if config.store.collection or held in (None, config.collection):
        return config
    before = RunDir(saved.get("run", {}).get("dir") or config.run.dir)
    # No other bucket or endpoint is asked that only the directory names: what was there is left alone.
    near = getattr(before.path, "root", None) == getattr(run.path, "root", None)
    there = before.path != run.path and (not near or (before / "manifest.json").exists())
    copied = there and (not near or before.id == run.id)
    return config if copied else replace(config, store=replace(config.store, collection=held))


def start_anew(config: RunConfig, run: RunDir) -> None:
    """Give up what earlier starts have left, in the run directory and on the server."""
    if not config.store.embedded:
        drop_collection(endpoint_of(config, config.store.uri), run.id)
    run.clear()
    log.info("run.resume=false: nothing of an earlier start is kept; without it the same command goes on after an end")


def run_stages(
    config: RunConfig, run: RunDir, source: list[InputFile] | Source, marks: dict[str, str], commit: str | None
) -> None:
    """The way of one text. Each line leaves an artefact, or keeps the one that a run before has left."""

    def stage(name: str, work: Callable[[], Figures]) -> Figures:
        return do_stage(config, run, marks, name, work)

    if isinstance(source, Source):
        read = stage("read", lambda: read_collection(source, config.read, run, node_cpus()))
    else:
        read = stage("read", lambda: read_texts(source, config.read, run, node_cpus()))
    n_texts = read["texts"]
    if n_texts == 0:
        log.warning("no texts: %d records, none with text in read.text_columns", read["records"])
        stage("report", lambda: write_report(run, config))
        return
    dim = source.dim if isinstance(source, Source) else dim_of(config)
    make_plan(config, run, read, dim, [name for name in marks if not run.finished(name, marks[name])])
    embed = adopt_vectors if isinstance(source, Source) else lambda run: embed_texts(run, config.embed, commit)
    embedded = stage("embed", lambda: embed(run))
    if n_texts > 1:  # one text has no neighbors
        search_collection(config, run, marks, n_texts, embedded)
    cluster_stages(config, run, marks, n_texts)


def cluster_stages(config: RunConfig, run: RunDir, marks: dict[str, str], n_texts: int) -> None:
    """The stages after the search, which need the run directory alone."""

    def stage(name: str, work: Callable[[], Figures]) -> Figures:
        return do_stage(config, run, marks, name, work)

    seed, metric = config.run.seed, config.store.metric
    with run_concurrently(lambda: stage("project", lambda: project_texts(run, config.project, n_texts, seed))):
        stage("graph", lambda: build_graph(run, config.graph, config.graph_k, n_texts, metric))
        stage("forest", lambda: build_forest(run, config.cluster, config.graph, config.graph_k, metric, seed))
        stage("cluster", lambda: cluster_graph(run, config.cluster, config.graph, config.graph_k, metric))
        stage("describe", lambda: describe_clusters(run, config.describe))
    stage("plot", lambda: plot_map(run, config.plot, config.name, seed))
    stage("report", lambda: write_report(run, config))


def do_stage(config: RunConfig, run: RunDir, marks: dict[str, str], name: str, work: Callable[[], Figures]) -> Figures:
    """A stage under watch, where nodes have the memory that the plan says it needs."""
    manifest = run.manifest
    planned = manifest.get("plan", {}).get(name, {}).get("memory", 0) if config.run.check else 0
    with requiring_memory(planned):
        return run.stage(name, marks[name], lambda: track_stage(run, config.name, name, work, manifest.get("expected")))


def search_collection(config: RunConfig, run: RunDir, marks: dict[str, str], n_texts: int, embedded: Figures) -> None:
    """Load the vectors, count them, and search; the embedded server lives only as long as this.

    Afterwards a server's collection is released from its memory, or dropped when it shall not be kept; also by the next
    start when this one is killed. One that is kept and that somebody else has loaded since stays loaded.
    """
    mark, manifest = marks["store"], run.manifest
    searched = run.finished("search", marks["search"])
    if searched and (manifest.get("loaded") != mark if config.store.keep else manifest.get("dropped") == mark):
        return
    with open_store(config, run) as endpoint:
        if not searched:
            ours = manifest.get("loaded") == mark or not run.finished("store", mark) or not is_in_use(endpoint)
            run.update_manifest(dropped=None, loaded=mark if ours and not config.store.embedded else None)
            load_and_search(config, run, endpoint, marks, n_texts, embedded)
        if not config.store.keep:
            drop_collection(endpoint, run.id)
            run.update_manifest(dropped=mark)
        elif run.manifest.get("loaded"):
            try:
                release_store(endpoint, run.id)
            except (ConfigError, StoreError) as error:
                log.warning("store: collection %s stays loaded: %s", endpoint.collection, error)
        run.update_manifest(loaded=None)


def load_and_search(
    config: RunConfig, run: RunDir, endpoint: Endpoint, marks: dict[str, str], n_texts: int, embedded: Figures
) -> None:
    store, search = config.store, config.search
    n_vectors = embedded.get("vectors", n_texts)
    if run.finished("store", marks["store"]):
        try:
            confirm_store(endpoint, n_vectors, run.id, marks["store"])
        except StoreError as error:
            log.warning("store: %s; loading again", error)
            _forget_store(run, error)

    def load() -> Figures:
        return store_vectors(run, endpoint, store, n_texts, embedded["dim"], marks["store"])

    def ask() -> Figures:
        figures = search_neighbors(run, endpoint, store, search, n_texts, config.run.seed)
        confirm_unchanged(run, endpoint, n_vectors)
        return figures

    do_stage(config, run, marks, "store", load)
    try:
        do_stage(config, run, marks, "search", ask)
    except ChangedError as error:
        _forget_store(run, error)
        raise


def _forget_store(run: RunDir, error: StoreError) -> None:
    """Let the collection be audited and mended; what was found in one that others have changed is given up."""
    run.forget("store")
    if isinstance(error, ChangedError):
        run.remove("neighbors")
