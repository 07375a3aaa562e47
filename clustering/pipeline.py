"""The stages in order: read, embed, store, search, graph, forest, cluster, describe, project, plot, report."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray

from clustering.cluster import cluster_graph
from clustering.collection import Source, find_collection, read_collection
from clustering.config import RunConfig, build_config
from clustering.describe import describe_clusters
from clustering.embed import adopt_vectors, embed_texts
from clustering.encoders import check_encoder
from clustering.errors import ConfigError, StageError, StoreError
from clustering.forest import build_forest
from clustering.graph import build_graph
from clustering.milvus import Address, address_of, open_store
from clustering.parts import beside, cluster_gpus, live_nodes, needing, node_cpus, on_node, original_errors
from clustering.plan import (
    GUESSED_DIM,
    Machine,
    check_fits,
    counts_of,
    dim_of,
    kinds_of,
    plan_entries,
    plan_nodes,
    print_plan,
    told_time,
)
from clustering.plot import plot_map
from clustering.project import project_texts
from clustering.read import InputFile, find_files, read_texts
from clustering.report import write_report
from clustering.rundir import Figures, RunDir, fingerprint, parts
from clustering.search import search_neighbors
from clustering.session import ray_session
from clustering.storage import ANEW, is_local
from clustering.store import (
    ChangedError,
    check_store,
    confirm_store,
    confirm_unchanged,
    drop_collection,
    is_in_use,
    release_store,
    store_vectors,
)
from clustering.titles import check_titles
from clustering.trust import refuse_unsaid, with_words
from clustering.warm import is_warm, warm_beside
from clustering.watch import watched
from clustering.weights import UNKNOWN, commit_of, hub_name, noted, state_of

log = logging.getLogger("covey")
PACKAGES = (
    "ray",
    "pymilvus",
    "milvus-lite",
    "hdbscan",
    "scipy",
    "scikit-learn",
    "umap-learn",
    "numpy",
    "pyarrow",
    "plotly",
)


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
            run.mend()
        commit = known_commit(config, run) if isinstance(source, list) else None
        marks = fingerprints(config, source, commit)
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
            compiling = begin_to_compile(config)  # as long as this is held
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


def known_commit(config: RunConfig, run: RunDir) -> str | None:
    """The commit of a model of the hub that the run embeds with, see ``commit_of``; None of other models."""
    name = hub_name(config.embed)
    if name is None:
        return None
    before = [held.get("versions") for held in (run.manifest, run.results)] if config.run.resume else []
    return commit_of(name, noted(name, *before))


def commits(config: RunConfig, commit: str | None) -> dict[str, str]:
    """A model of the hub with its commit, as the manifest keeps it among the versions."""
    name = hub_name(config.embed) if config.read.collection is None else None
    return {name: commit or UNKNOWN} if name else {}


def begin_to_compile(config: RunConfig) -> Any:
    """A task that compiles the kernels of later stages beside the first ones, on a single node that lacks them.

    The nodes of a cluster have them from their image.
    """
    if len(live_nodes()) != 1 or is_warm(config):
        return None
    task: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(warm_beside)  # its process ends with it
    return task.remote(config)


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
        drop_collection(address_of(config, config.store.uri), run.id)
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
    with beside(lambda: stage("project", lambda: project_texts(run, config.project, n_texts, seed))):
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
    with needing(planned):
        return run.stage(name, marks[name], lambda: watched(run, config.name, name, work, manifest.get("expected")))


def search_collection(config: RunConfig, run: RunDir, marks: dict[str, str], n_texts: int, embedded: Figures) -> None:
    """Load the vectors, count them, and search; the embedded server lives only as long as this.

    Afterwards a server's collection is released from its memory, or dropped when it shall not be kept; also by the next
    start when this one is killed. One that is kept and that somebody else has loaded since stays loaded.
    """
    mark, manifest = marks["store"], run.manifest
    searched = run.finished("search", marks["search"])
    if searched and (manifest.get("loaded") != mark if config.store.keep else manifest.get("dropped") == mark):
        return
    with open_store(config, run) as address:
        if not searched:
            ours = manifest.get("loaded") == mark or not run.finished("store", mark) or not is_in_use(address)
            run.update_manifest(dropped=None, loaded=mark if ours and not config.store.embedded else None)
            load_and_search(config, run, address, marks, n_texts, embedded)
        if not config.store.keep:
            drop_collection(address, run.id)
            run.update_manifest(dropped=mark)
        elif run.manifest.get("loaded"):
            try:
                release_store(address, run.id)
            except (ConfigError, StoreError) as error:
                log.warning("store: collection %s stays loaded: %s", address.collection, error)
        run.update_manifest(loaded=None)


def load_and_search(
    config: RunConfig, run: RunDir, address: Address, marks: dict[str, str], n_texts: int, embedded: Figures
) -> None:
    store, search = config.store, config.search
    n_vectors = embedded.get("vectors", n_texts)
    if run.finished("store", marks["store"]):
        try:
            confirm_store(address, n_vectors, run.id, marks["store"])
        except StoreError as error:
            log.warning("store: %s; loading again", error)
            _forget_store(run, error)

    def load() -> Figures:
        return store_vectors(run, address, store, n_texts, embedded["dim"], run.id, marks["store"])

    def ask() -> Figures:
        figures = search_neighbors(run, address, store, search, n_texts, config.run.seed)
        confirm_unchanged(run, address, n_vectors)
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


def check_everything(config: RunConfig) -> tuple[list[InputFile] | Source, int | None]:
    """What can be known to be wrong before any work, said at once: the input and the encoder.

    Returns: the input files or the collection, and the vectors' dimension where it is known beforehand.
    Raises: ConfigError with every problem.
    """
    problems: list[str] = []
    source: list[InputFile] | Source = []
    dim = None
    given = config.read.collection
    run = RunDir(config.run.dir, patience_s=config.run.patience_s)
    try:
        run.refuse_foreign()
    except ConfigError as error:
        problems += error.problems
    try:
        source = find_files(config.read, run.wrote, config.run.patience_s) if given is None else find_collection(given)
    except ConfigError as error:
        problems += error.problems
    problems += _inputs_within(run, config.read.paths, source)
    try:
        check_titles(config.describe.titles)
    except ConfigError as error:
        problems += error.problems
    try:
        dim = source.dim if isinstance(source, Source) else check_encoder(config.embed)
    except ConfigError as error:
        problems += error.problems
    if "/_ray_pkg_" in str(run.path):  # where Ray unpacks --working-dir, on each node anew
        problems.append(
            f"run.dir={config.run.dir} would lie in the job's copy of --working-dir, which Ray deletes; give a path "
            f"that begins with /, or a bucket (s3://, gs://)"
        )
    if problems:
        raise ConfigError(problems)
    return source, dim


def _inputs_within(run: RunDir, paths: tuple[str, ...], source: list[InputFile] | Source) -> list[str]:
    """The problem of paths that name, or lead to, something in the run directory, where a run removes what it replaces.

    What Covey itself has written there is no input of a path from farther up.
    """
    found = [path for path in paths if run.holds(_before_the_glob(path))]
    if isinstance(source, list):
        found += [file.uri for file in source if file.uri not in found and run.holds(file.uri)]
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return [f"read.paths: {shown} in run.dir={run.path}, which holds artefacts; take another run.dir"] if found else []


def _before_the_glob(path: str) -> str:
    """The folder in which a glob begins; a path without one as it is."""
    fixed, *magic = re.split(r"[*?[]", path, maxsplit=1)
    return fixed.rpartition("/")[0] if magic and is_local(path) else fixed


def fingerprints(config: RunConfig, source: list[InputFile] | Source, commit: str | None = None) -> dict[str, str]:
    """A digest for each stage of all that its artefact depends on; a changed one means that the stage is redone.

    commit : of a model of the hub, see ``commit_of``
    """
    settings = config.as_dict()

    def part(section: str, *keys: str) -> dict[str, Any]:
        return {key: settings[section][key] for key in keys}

    marks: dict[str, str] = {}
    if isinstance(source, Source):  # its vectors are taken as they are
        given = _without(settings["read"]["collection"], "token_env", "token_file", "ca_file", "server_name")
        marks["read"] = marks["embed"] = fingerprint({**settings["read"], "collection": given}, asdict(source))
    else:
        marks["read"] = fingerprint(settings["read"], [(file.uri, file.size, file.changed) for file in source])
        marks["embed"] = fingerprint(marks["read"], state_of(config.embed, commit))
    # A collection that is named by the run's directory keeps its name when the directory gets another.
    marks["store"] = fingerprint(
        marks["embed"], part("store", "uri", "db_name", "index", "params", "metric", "collection")
    )
    marks["search"] = fingerprint(
        marks["store"], part("search", "k", "params", "target_recall", "recall_sample"), config.run.seed, "with cells"
    )
    return {**marks, **later_marks(config, marks["search"])}


def later_marks(config: RunConfig, search: str) -> dict[str, str]:
    """The digests of the stages after the search, from the search's."""
    settings = config.as_dict()
    marks: dict[str, str] = {}
    marks["graph"] = fingerprint(search, settings["graph"], "with radius")
    diffused = config.cluster.weights == "diffused"
    others = [config.run.seed] if diffused else [settings["cluster"]["budget"]]
    if not diffused or config.cluster.core_rank > 1:
        others.append(settings["cluster"]["copies"])
    marks["forest"] = fingerprint(marks["graph"], config.cluster.weights, config.cluster.core_rank, others)
    marks["cluster"] = fingerprint(marks["forest"], settings["cluster"])
    titles = settings["describe"]["titles"] and _without(settings["describe"]["titles"], "key_env")
    marks["describe"] = fingerprint(marks["cluster"], {**settings["describe"], "titles": titles})
    marks["project"] = fingerprint(search, settings["project"], config.run.seed)
    marks["plot"] = fingerprint(marks["describe"], marks["project"], settings["plot"], config.name, config.run.seed)
    marks["report"] = fingerprint(marks["plot"], settings["run"]["prices"])
    return marks


def _without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Settings without those that say how something is reached, not what it is."""
    return {key: value for key, value in settings.items() if key not in keys}


def make_plan(config: RunConfig, run: RunDir, read: Figures, dim: int, stages: list[str]) -> None:
    """Log what each stage still to do will need before it starts, keep it in the manifest, and refuse what cannot fit.

    Raises: ConfigError with what is needed and what is there, unless run.check=false.
    """
    if not stages:
        return
    counts = counts_of(read, dim)
    machines = kinds_of((node.cpus, node.gpus, node.memory_bytes) for node in live_nodes())
    placed = plan_nodes(config, counts, machines or [Machine(node_cpus())])
    entries = plan_entries(config, counts, placed)
    placed = [(kind, need) for kind, need in placed if need.stage in stages]
    print_plan(config, counts, placed)
    expected = told_time(run, config, counts, stages)
    run.update_manifest(plan=entries, nodes=[asdict(kind) for kind in machines], expected=expected)
    if config.run.check and not machines:
        log.warning("plan: no node that takes work is up yet, so nothing says whether the run will fit")
    elif config.run.check:
        check_fits(placed)


def check_nodes(config: RunConfig, run: RunDir) -> None:
    """Whether every node that takes work sees the run directory and the store.

    Raises: ConfigError with the addresses of those that do not.
    """
    nodes = live_nodes()
    addresses = sorted({node.address for node in nodes})
    problems = []
    if config.store.embedded and len(addresses) > 1:
        problems.append(
            f"store.uri=embedded serves one machine, and this cluster works on {len(addresses)} "
            f"({', '.join(addresses[:3])} ...); give the address of a Milvus server in store.uri"
        )
    if len(nodes) > 1:
        seeing: Any = ray.remote(num_cpus=0)(_sees)
        asked = [seeing.options(scheduling_strategy=on_node(node)).remote(run, run.id) for node in nodes]
        with original_errors():
            seen = ray.get(asked)
        blind = sorted({node.address for node, sees in zip(nodes, seen, strict=True) if not sees})
        if blind:
            shown = ", ".join(blind[:3]) + (" ..." if len(blind) > 3 else "")
            problems.append(
                f"run.dir={run.path} is not the same place on {shown}; take a folder that all nodes share, or a bucket "
                f"(s3://, gs://)"
            )
    if problems:
        raise ConfigError(problems)


def _sees(run: RunDir, run_id: str) -> bool:
    return (run / "manifest.json").exists() and run.id == run_id


def require_gpus(config: RunConfig) -> None:
    """Say so when no GPU is there for the encoder; a cluster may still bring one up, a single node will not.

    Raises: ConfigError on a single node without the GPUs of one actor.
    """
    wanted, there = config.embed.gpus_per_actor, cluster_gpus()
    if wanted <= there:
        return
    problem = f"embed.gpus_per_actor={wanted:g}, but Ray has {there:g} GPUs"
    if "RAY_ADDRESS" in os.environ:
        log.warning("%s now; the run waits for them", problem)
    else:
        raise ConfigError([f"{problem} on this machine; set it to 0, or submit the job to a cluster with GPUs"])


def versions() -> dict[str, str]:
    """Versions of the packages that make the result."""
    present: dict[str, str] = {"python": sys.version.split()[0]}
    for name in ("covey", *PACKAGES):
        try:
            present[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            present[name] = "not installed"
    return present


def load_run_config(run: RunDir) -> RunConfig:
    """The configuration that a run was made with.

    Raises: ConfigError when the directory holds no run.
    """
    saved = run.results.get("config")
    if saved is None:
        raise ConfigError([f"{run.path} holds no run (no manifest.json with a configuration)"])
    return build_config(saved)


def recluster_run(
    run: RunDir, overrides: list[str], config_file: str | Path | None = None, trusted: bool = False
) -> RunDir:
    """Do a finished run's later stages again under other settings; vectors and neighbors stay as they are.

    overrides : words such as ``cluster.min_samples=3``; only sections after the search may be named
    config_file : a configuration that names the endpoint of the titles, where the run has one; trusted : or the word
        that the one in the run directory is meant, which may come from anybody
    Raises: ConfigError for other sections, wrong values, an endpoint that nobody has named, or a directory without a
        finished search.
    """
    later = ("graph", "cluster", "describe", "project", "plot")
    wrong = [word for word in overrides if word.partition(".")[0] not in later]
    if wrong:
        raise ConfigError([f"recluster takes keys of {', '.join(later)} only, not '{word}'" for word in wrong])
    config, said = with_words(load_run_config(run), overrides, config_file, trusted)
    with run.locked():
        stages = run.results["stages"]
        _require_search(run, stages)
        # The marks of the stages that stay are taken as they are: the input files may be gone by now.
        marks = later_marks(config, stages["search"]["fingerprint"] if "search" in stages else "")
        if not run.finished("describe", marks["describe"]):
            if not said:
                refuse_unsaid(config, run.path)
            check_titles(config.describe.titles)
        kept = {name: stage["fingerprint"] for name, stage in stages.items() if name not in marks}
        read = stages["read"]["figures"]
        with ray_session():
            run.begin({**kept, **marks}, config=config.as_dict())
            dim = stages["embed"]["figures"].get("dim") or GUESSED_DIM  # no model of the directory is looked at
            make_plan(config, run, read, dim, [name for name in marks if not run.finished(name, marks[name])])
            # The store has nothing to do with it: no token goes to an address that only the directory names.
            cluster_stages(config, run, marks, read["texts"])
            run.publish()
    return run


def _require_search(run: RunDir, stages: Figures) -> None:
    """Raises: ConfigError when the stages up to the graph are not finished; a single text has no search. StageError
    when what they left is gone."""
    texts = stages.get("read", {}).get("figures", {}).get("texts", 0)
    needed = ["read", "embed", *(["search"] if texts > 1 else []), "graph"]
    missing = [name for name in needed if name not in stages]
    if missing:
        raise ConfigError([f"{run.path} has no finished {missing[-1]}; finish it with covey run first"])
    for name in ("texts", "vectors"):
        if not parts(run / name):
            raise StageError(f"{run / name} is missing. {ANEW}")
