"""Vectors and a server in, neighbors out: the run's collection is named, loaded, searched, and released or dropped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from clustering.config.sections import RunConfig
from clustering.errors import ConfigError, StoreError
from clustering.milvus.audit import confirm_store, confirm_unchanged
from clustering.milvus.collection import ChangedError, drop_collection, is_in_use, release_store
from clustering.milvus.endpoint import Endpoint, endpoint_of, open_store
from clustering.runs.directory import RunDir
from clustering.schema import Figures
from clustering.stages.search import search_neighbors
from clustering.stages.store import store_vectors

log = logging.getLogger("covey")
HURRY_S = 3  # for the server to answer where the process is about to end
RunStage = Callable[[str, Callable[[], Figures]], Figures]  # a stage's name and its work in, its figures out


def keep_collection_name(config: RunConfig, run: RunDir) -> RunConfig:
    """Return the configuration with the name of the run's own collection, even if the directory was renamed.

    A copy of a directory gets a collection of its own, because the original still owns the other one.
    """
    name, saved = run.manifest.get("collection"), run.results.get("config") or {}
    if config.store.collection or name is None:
        return config
    original = RunDir(saved.get("run", {}).get("dir") or config.run.dir)
    # Only the directory names its former location, so a request never goes to another bucket or endpoint.
    same_store = getattr(original.path, "root", None) == getattr(run.path, "root", None)
    may_exist = original.path != run.path and (not same_store or (original / "manifest.json").exists())
    is_copy = may_exist and (not same_store or (original.id == run.id and not _same_folder(original, run)))
    if is_copy and name == config.collection:  # its folder has the name of the original's
        name = f"{name}_{hashlib.blake2b(str(run.path).encode(), digest_size=4).hexdigest()}"
    elif is_copy:
        return config
    return replace(config, store=replace(config.store, collection=name))


def _same_folder(one: RunDir, other: RunDir) -> bool:
    """Whether two paths lead to one folder."""
    return isinstance(one.path, Path) and isinstance(other.path, Path) and one.path.samefile(other.path)


def discard_earlier_starts(config: RunConfig, run: RunDir) -> None:
    """Remove what earlier starts left in the run directory and on the server."""
    if not config.store.embedded:
        drop_collection(endpoint_of(config, config.store.uri), run.id)
    run.clear()
    log.info("run.resume=false: earlier results are removed; without it the same command continues an interrupted run")


def search_collection(
    config: RunConfig, run: RunDir, fingerprints: dict[str, str], n_texts: int, embedded: Figures, stage: RunStage
) -> None:
    """Load the vectors and search them; the embedded server runs only inside this call.

    Afterwards the collection on a server is released from its memory, or dropped with store.keep=false. After an error
    or an interrupt it is released, too. If this process is killed before, the next start does it. A kept collection
    that somebody else has loaded meanwhile stays loaded.
    embedded : figures of the embed stage
    """
    fingerprint, manifest = fingerprints["store"], run.manifest
    is_loaded, is_dropped = manifest.get("loaded") == fingerprint, manifest.get("dropped") == fingerprint
    searched = run.finished("search", fingerprints["search"])
    if searched and (not is_loaded if config.store.keep else is_dropped):
        return
    with open_store(config, run) as endpoint:
        if not config.store.embedded:  # it has answered before the run; whoever restarts it now is waited for
            endpoint = replace(endpoint, timeout_s=max(endpoint.timeout_s, endpoint.patience_s))
        if not searched:
            releases = is_loaded or not run.finished("store", fingerprint) or not is_in_use(endpoint)
            run.update_manifest(dropped=None, loaded=fingerprint if releases and not config.store.embedded else None)
            try:
                _load_and_search(config, run, endpoint, fingerprint, n_texts, embedded, stage)
            except BaseException:
                if run.manifest.get("loaded"):
                    _release(run, replace(endpoint, timeout_s=HURRY_S, patience_s=HURRY_S))
                raise
        if not config.store.keep:
            drop_collection(endpoint, run.id)
            run.update_manifest(dropped=fingerprint)
        elif run.manifest.get("loaded"):
            _release(run, endpoint)
        run.update_manifest(loaded=None)


def release_left(config: RunConfig, run: RunDir) -> None:
    """Release the collection that a start which was killed has left in a server's memory."""
    if run.manifest.get("loaded") and not config.store.embedded:
        _release(run, endpoint_of(keep_collection_name(config, run), config.store.uri))
        run.update_manifest(loaded=None)


def _release(run: RunDir, endpoint: Endpoint) -> None:
    try:
        release_store(endpoint, run.id)
    except (ConfigError, StoreError) as error:
        log.warning("store: collection %s stays loaded: %s", endpoint.collection, error)


@contextmanager
def kept_collection(config: RunConfig, run: RunDir) -> Iterator[Endpoint | str]:
    """The endpoint of a finished run's collection, loaded until the block ends; or the reason why it cannot be asked.

    It must be on a server and hold the vectors of this run. One that was loaded before stays so.
    """
    stages = run.results["stages"]
    if config.store.embedded or not {"store", "search"} <= set(stages):
        yield "no server keeps a collection of this run"
        return
    endpoint, loads = endpoint_of(keep_collection_name(config, run), config.store.uri), False
    try:
        try:
            loads = not is_in_use(endpoint)
            confirm_store(endpoint, stages["store"]["figures"]["rows"], run.id, stages["store"]["fingerprint"])
        except (ConfigError, StoreError) as error:
            reason = str(error)
        else:
            yield endpoint
            return
    finally:
        if loads:
            _release(run, replace(endpoint, timeout_s=HURRY_S, patience_s=HURRY_S))
    yield reason


def _load_and_search(
    config: RunConfig, run: RunDir, endpoint: Endpoint, fingerprint: str, n_texts: int, embedded: Figures,
    stage: RunStage,
) -> None:  # fmt: skip
    n_vectors = embedded.get("vectors", n_texts)
    if run.finished("store", fingerprint):
        try:
            confirm_store(endpoint, n_vectors, run.id, fingerprint)
        except StoreError as error:
            log.warning("store: %s; loading again", error)
            _forget_store(run, error)

    def search() -> Figures:
        figures = search_neighbors(run, endpoint, config.store, config.search, n_texts, config.run.seed)
        confirm_unchanged(run, endpoint, n_vectors)
        return figures

    dim = embedded["dim"]
    stage("store", lambda: store_vectors(run, endpoint, config.store, n_texts, dim, fingerprint))
    try:
        stage("search", search)
    except ChangedError as error:
        _forget_store(run, error)
        raise


def _forget_store(run: RunDir, error: StoreError) -> None:
    """Have the collection audited and repaired; neighbors found in a collection that others changed are removed."""
    run.forget("store")
    if isinstance(error, ChangedError):
        run.remove("neighbors")
