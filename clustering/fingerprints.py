"""Configuration and input in; a digest for each stage of all that its artefact depends on, out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from clustering.config.sections import RunConfig, StoreSection
from clustering.encoders.weights import (
    UNKNOWN,
    encoder_fingerprint,
    hub_key,
    hub_name,
    model_prompt,
    recorded_commit,
    resolve_commit,
)
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir
from clustering.runs.inventory import READS
from clustering.runs.storage import digest
from clustering.sources.collection import Source
from clustering.sources.files import InputFile

Fingerprints = dict[str, str]  # of each stage


def known_commit(config: RunConfig, run: RunDir) -> str | None:
    """The commit of the hub model that the run embeds with, see ``resolve_commit``; None for other models."""
    name, key = hub_name(config.embed), hub_key(config.embed)
    if name is None or key is None:
        return None
    before = [entries.get("versions") for entries in (run.manifest, run.results)] if config.run.resume else []
    return resolve_commit(name, recorded_commit(key, *before), config.embed.revision)


def known_prompt(config: RunConfig, run: RunDir, commit: str | None) -> str:
    """What is put before each text, see ``model_prompt``; that of an earlier start where the hub does not tell now.

    Raises: ConfigError when it does not tell, and no earlier start worked with this model.
    """
    try:
        return model_prompt(config.embed, commit)
    except ConfigError:
        saved = run.manifest.get("config", {}).get("embed", {})
        same = all(saved.get(key) == getattr(config.embed, key) for key in ("encoder", "model", "revision"))
        if config.run.resume and same and isinstance(saved.get("prompt"), str):
            return str(saved["prompt"])
        raise


def model_versions(config: RunConfig, commit: str | None) -> dict[str, str]:
    """The hub model and its commit, for the versions in the manifest."""
    key = hub_key(config.embed) if config.read.collection is None else None
    return {key: commit or UNKNOWN} if key else {}


def stage_fingerprints(config: RunConfig, source: list[InputFile] | Source, commit: str | None = None) -> Fingerprints:
    """A digest for each stage of all that its artefact depends on; the stage is redone when the digest changes.

    commit : of the hub model, see ``known_commit``
    """
    settings = config.as_dict()

    def part(section: str, *keys: str) -> dict[str, Any]:
        return {key: settings[section][key] for key in keys}

    if config.read.near_duplicates == "keep":  # such a run keeps the digest that it had before there was this key
        settings["read"] = _without(settings["read"], "near_duplicates")
    if isinstance(source, Source):  # its vectors are used unchanged
        collection = settings["read"]["collection"]
        collection = {**_without(collection, "server"), "db_name": collection["server"]["db_name"]}
        read = embed = digest({**settings["read"], "collection": collection}, asdict(source), "source_vectors")
    else:
        read = digest(settings["read"], [(file.uri, file.size, file.modified) for file in source])
        embed = digest(read, encoder_fingerprint(config.embed, commit))
    # A collection that is named after the run's directory keeps its name when the directory is renamed.
    stored = {**part("store", "uri", "index", "params", "metric", "collection"), "db_name": config.store.server.db_name}
    defaults = StoreSection()  # a run that has neither keeps the digest that it had before there were these keys
    stored |= {
        key: settings["store"][key]
        for key in ("vector_type", "shards")
        if settings["store"][key] != getattr(defaults, key)
    }
    store = digest(embed, stored)
    searched = part("search", "k", "params", "target_recall", "recall_sample")
    search = digest(store, searched, config.run.seed, "with cells")
    earlier = {"read": read, "embed": embed, "store": store, "search": search}
    return {**earlier, **later_fingerprints(config, search)}


def later_fingerprints(config: RunConfig, search: str) -> Fingerprints:
    """The fingerprints of the stages after the search, from that of the search."""
    settings = config.as_dict()
    diffused = config.cluster.weights == "diffused"
    others: list[Any] = [config.run.seed] if diffused else [settings["cluster"]["budget"]]
    if not diffused or config.cluster.core_rank > 1:
        others.append(settings["cluster"]["copies"])
    if diffused:  # the preset topics takes nothing from small groups
        others.append("topics" if config.cluster.preset == "topics" else "families apart")
    titles = settings["describe"]["titles"] and _without(settings["describe"]["titles"], "key_env")
    timed = [] if config.time_scale is None else ["time", config.time_scale]
    own: dict[str, list[Any]] = {  # of the other stages, their section of the configuration
        "graph": [settings["graph"], "in blocks with halos", *timed],
        "forest": [config.cluster.weights, config.cluster.core_rank, others],
        "cluster": [_without(settings["cluster"], "time_scale"), "with sizes, tilings, links"],
        "describe": [
            {**settings["describe"], "titles": titles},
            "of all layers, exemplars and names of all parts, headlines",
        ],
        "project": [settings["project"], config.run.seed],
        "plot": [settings["plot"], config.name, config.run.seed, "viewer"],
        "report": [settings["run"]["prices"], "with families, their times, texts and titles"],
    }
    found = {"search": search}
    for stage, read in READS.items():
        found[stage] = digest(*(found[earlier] for earlier in read), *own.get(stage, [settings.get(stage)]))
    del found["search"]
    return found


def _without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Settings without those that only tell how a service is reached."""
    return {key: value for key, value in settings.items() if key not in keys}
