"""Configuration in; its input, every problem that is known before any work, and the plan of the run out."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

from clustering.config.sections import RunConfig
from clustering.encoders.loading import CLASSES, check_encoder
from clustering.errors import ConfigError
from clustering.monitoring.capacity import check_fits, estimates_by_node_type, group_node_types
from clustering.monitoring.plan import log_plan, plan_entries
from clustering.monitoring.resources import NodeType, counts_of
from clustering.monitoring.times import estimate_times
from clustering.runs.directory import RunDir
from clustering.runs.object_store import is_local
from clustering.schema import Figures
from clustering.sources.collection import Source, find_collection
from clustering.sources.detection import find_files
from clustering.sources.files import InputFile
from clustering.text.titles import check_titles
from clustering.workers.nodes import (
    blind_nodes_problem,
    cluster_gpus,
    forget_refused_nodes,
    live_nodes,
    node_cpus,
    nodes_to_ask,
    own_address,
)
from clustering.workers.remote import blind_nodes

log = logging.getLogger("covey")
T = TypeVar("T")

PACKAGES = "ray pymilvus milvus-lite hdbscan scipy scikit-learn umap-learn numpy pyarrow plotly".split()


def check_everything(config: RunConfig) -> tuple[list[InputFile] | Source, int | None]:
    """Check the input, the run directory, the titles and the encoder, and report all problems together.

    Returns: the input files or the collection, and the vectors' dimension if it is known beforehand.
    Raises: ConfigError with every problem.
    """
    problems: list[str] = []
    run = RunDir(config.run.dir, patience_s=config.run.patience_s)

    def checked(check: Callable[[], T]) -> T | None:
        try:
            return check()
        except ConfigError as error:
            problems.extend(error.problems)
            return None

    def find_source() -> list[InputFile] | Source:
        if config.read.collection is not None:
            return find_collection(config.read.collection)
        return find_files(config.read, run.has_written, config.run.patience_s)

    checked(run.refuse_foreign)
    source = checked(find_source) or []
    problems += _inputs_within(run, config.read.paths, source)
    checked(lambda: check_titles(config.describe.titles))
    dim = source.dim if isinstance(source, Source) else checked(lambda: check_encoder(config.embed))
    if "/_ray_pkg_" in str(run.path):  # where Ray unpacks --working-dir on each node
        problems.append(
            f"run.dir={config.run.dir} would lie in the job's copy of --working-dir, which Ray deletes; give a path "
            f"that begins with /, or a bucket (s3://, gs://)"
        )
    if problems:
        raise ConfigError(problems)
    return source, dim


def _inputs_within(run: RunDir, paths: tuple[str, ...], source: list[InputFile] | Source) -> list[str]:
    """The problem of paths that name, or match, something in the run directory, where a run removes what it replaces.

    A path above the run directory does not match what Covey has written there.
    """
    found = [path for path in paths if run.contains(_before_the_glob(path))]
    if isinstance(source, list):
        found += [file.uri for file in source if file.uri not in found and run.contains(file.uri)]
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return [f"read.paths: {shown} in run.dir={run.path}, which holds artefacts; take another run.dir"] if found else []


def _before_the_glob(path: str) -> str:
    """The folder in which a glob begins; a path without a glob unchanged."""
    fixed, *magic = re.split(r"[*?[]", path, maxsplit=1)
    return fixed.rpartition("/")[0] if magic and is_local(path) else fixed


def make_plan(config: RunConfig, run: RunDir, read: Figures, dim: int, stages: list[str]) -> None:
    """Log the memory and disk that the stages need, save the plan in the manifest, and refuse a run that cannot fit.

    read : figures of the read stage; stages : those that are not finished
    Raises: ConfigError with what is needed and what the nodes have, unless run.check=false.
    """
    if not stages:
        return
    counts = counts_of(read, dim)
    machines = group_node_types((node.cpus, node.gpus, node.memory_bytes) for node in live_nodes())
    placed = estimates_by_node_type(config, counts, machines or [NodeType(node_cpus())])
    entries = plan_entries(config, counts, placed)
    placed = [(kind, need) for kind, need in placed if need.stage in stages]
    log_plan(config, counts, placed)
    expected = estimate_times(run, config, counts, stages)
    run.update_manifest(plan=entries, nodes=[asdict(kind) for kind in machines], expected=expected)
    if config.run.check and not machines:
        log.warning("plan: no node that takes work is up yet, so the plan cannot check whether the run fits")
    elif config.run.check:
        check_fits(placed)


def check_nodes(config: RunConfig, run: RunDir) -> None:
    """Check that every node that takes work sees the run directory and the store; those that join are asked later.

    Raises: ConfigError with the addresses of the nodes that do not.
    """
    forget_refused_nodes()
    nodes = live_nodes()
    addresses = sorted({node.address for node in nodes})
    problems = []
    if config.store.embedded and len(addresses) > 1:
        problems.append(
            f"store.uri=embedded serves one machine, and this cluster works on {len(addresses)} "
            f"({', '.join(addresses[:3])} ...); give the address of a Milvus server in store.uri"
        )
    elif config.store.embedded and addresses != [own := own_address()]:
        problems.append(
            f"store.uri=embedded serves the driver's machine, {own}, alone, and the work of this cluster is "
            f"done on {''.join(addresses) or 'nodes that are not up yet'}; give the address of a Milvus server in "
            f"store.uri"
        )
    if blind := blind_nodes(run, nodes_to_ask()):
        problems.append(blind_nodes_problem(run, sorted({node.address for node in blind})))
    if problems:
        raise ConfigError(problems)


def require_gpus(config: RunConfig) -> None:
    """Check that the GPUs of one actor exist; on a cluster, which may add nodes, only warn. Tell of GPUs without use.

    Raises: ConfigError on a single node.
    """
    wanted, available = config.embed.gpus_per_actor, cluster_gpus()
    if available and not wanted and config.embed.encoder not in CLASSES:
        log.warning("Ray has %g GPUs, and the encoder works on CPUs; embed.gpus_per_actor=1 takes them", available)
    if wanted <= available:
        return
    problem = f"embed.gpus_per_actor={wanted:g}, but Ray has {available:g} GPUs"
    if "RAY_ADDRESS" in os.environ:
        log.warning("%s now; the run waits for them", problem)
    else:
        raise ConfigError([f"{problem} on this machine; set it to 0, or submit the job to a cluster with GPUs"])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the result."""
    present: dict[str, str] = {"python": sys.version.split()[0]}
    for name in ("covey", *PACKAGES):
        try:
            present[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            present[name] = "not installed"
    return present
