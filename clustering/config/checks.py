"""Settings in, problems out: what no single field can check, in words for people."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from clustering.config import values
from clustering.config.sections import (
    BUILD_CHOICES,
    BUILD_PARAMS,
    CANDIDATE_PARAMS,
    EMBEDDED,
    EMBEDDED_INDEXES,
    ENCODERS,
    GPU_PARAMS,
    SEARCH_PARAMS,
    SERVED,
    SQ_TYPES,
    CollectionInput,
    EmbedSection,
    ReadSection,
    RunConfig,
    SearchSection,
    StoreSection,
)
from clustering.kernels.printable import CREDENTIALS

MIN_GPU_SHARE = 0.01  # of one actor
SECRET_KEYS = {  # key with the address of a server -> key with the name of the variable that holds its secret
    "store.uri": "store.server.token_env",
    "read.collection.uri": "read.collection.server.token_env",
    "describe.titles.url": "describe.titles.key_env",
    "embed.url": "embed.key_env",
}


def show_value(value: Any) -> str:
    """A value as messages show it, unless it may hold a password."""
    shown = repr(value)
    if "@" in shown:
        return "a value with '@', which is not shown"
    return shown if len(shown) <= 2 * values.SHOWN else shown[: 2 * values.SHOWN] + "..."


def find_credentials(sections: Mapping[str, Any]) -> list[str]:
    """A problem for each key that holds a user or password: values are printed and saved."""
    keys = dict.fromkeys(
        key for key, text in _strings(sections) if CREDENTIALS.search(text) or (key in SECRET_KEYS and "@" in text)
    )
    hints = {key: f"name an environment variable with it in {secret}" for key, secret in SECRET_KEYS.items()}
    others = "object stores take credentials from the environment"
    return [f"{key} holds a user or password; {hints.get(key, others)}" for key in keys]


def find_broken_uris(sections: Mapping[str, Any]) -> list[str]:
    """A problem for each value that looks like a URI but is not one. What may be a secret is not shown."""
    problems = []
    for key, text in _strings(sections):
        server = key in SECRET_KEYS
        if "://" not in text or (server and "@" in text):
            continue
        try:
            parts = urlsplit(text)
            no_host = server and not (parts.hostname and parts.port != 0)
        except ValueError as error:  # of the host, or of the port
            problems.append(f"{key} is no URI: {str(error).partition(' (')[0][:100]}; got {show_value(text)}")
            continue
        if server and (parts.query or parts.fragment):
            problems.append(
                f"{key} goes on after a ? or #, which is not sent and may be a secret, so it is not shown; leave it "
                f"out, and name an environment variable with a secret in {SECRET_KEYS[key]}"
            )
        elif no_host:
            problems.append(f"{key} names no host, or port 0; write it as http://host:19530; got {show_value(text)}")
    return problems


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string within a value, with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item, key)


def find_contradictions(config: RunConfig) -> list[str]:
    """A problem for each value that its own key allows, but not together with another key."""
    search, store, cluster = config.search, config.store, config.cluster
    problems = []
    if config.graph_k > search.k:
        problems.append(f"graph.k={config.graph_k} is above search.k={search.k}; raise search.k to {config.graph_k}")
    if config.graph_k < cluster.core_rank:
        key = "graph.k" if config.graph.k else "search.k"
        problems.append(
            f"{key}={config.graph_k} is smaller than cluster.min_samples={cluster.core_rank}; the core distance "
            f"needs min_samples neighbors of each text: raise {key} to at least {cluster.core_rank}"
        )
    used = {
        "preset": cluster.selection == "modularity", "granularity": cluster.selection == "modularity",
        "epsilon": cluster.selection != "modularity", "max_cluster_size": cluster.selection == "eom",
    }  # fmt: skip
    problems += [
        f"cluster.{key}={getattr(cluster, key)} has no meaning with cluster.selection={cluster.selection}; leave it "
        f"out (over a saved configuration: cluster.{key}=null)"
        for key, is_used in used.items()
        if getattr(cluster, key) and not is_used
    ]
    if isinstance(cluster.time_scale, float):
        missing = "read.time_column is not given" if config.read.time_column is None else ""
        missing = missing or ("cluster.weights=distance takes no times" if cluster.weights == "distance" else "")
        if missing:
            problems.append(f"cluster.time_scale={cluster.time_scale:g}, but {missing}; set it to none, or change that")
    if config.project.n_neighbors > search.k:
        problems.append(
            f"project.n_neighbors={config.project.n_neighbors} is above search.k={search.k}; the map reuses the "
            f"searched neighbors: lower it, or raise search.k (graph.k keeps the graph at its size)"
        )
    problems += _check_params(store, search)
    share = config.embed.gpus_per_actor
    if share != int(share) if share > 1 else 0 < share < MIN_GPU_SHARE:
        problems.append(
            f"embed.gpus_per_actor={share:g} is neither a whole number nor a share from {MIN_GPU_SHARE} to 1; Ray "
            f"gives no other"
        )
    problems += _check_served(config.embed) + _check_secret_names(config)
    encoder = config.embed.encoder
    near = difflib.get_close_matches(encoder, ENCODERS, n=1, cutoff=0.7)
    is_path = "/" in encoder or os.path.isdir(os.path.expanduser(encoder))  # or a name of the hub
    if near and encoder not in ENCODERS and not is_path and config.embed.model is None:
        problems.append(f"embed.encoder={encoder!r} is not known; the nearest known one is '{near[0]}'")
    if store.embedded and store.index_type not in EMBEDDED_INDEXES:
        problems.append(
            f"store.index={store.index} is not offered by the embedded store; take one of "
            f"{', '.join(EMBEDDED_INDEXES)}, or give the address of a server in store.uri"
        )
    if store.embedded and (store.actors or 1) > 1:
        problems.append(f"store.actors={store.actors}, but the embedded store takes one writer; leave it out")
    if store.embedded:
        problems += [
            f"store.{key}={getattr(store, key)} needs a server; the embedded store has {default} only"
            for key, default in (("vector_type", "float32"), ("shards", 1), ("replicas", 1))
            if getattr(store, key) != default
        ]
    if store.load == "bulk" and store.embedded:
        problems.append("store.load=bulk needs a server; the embedded store takes stream only")
    elif store.load == "bulk" and not store.bulk_path:
        problems.append(
            "store.load=bulk needs store.bulk_path: a folder that the server sees under the same path, or "
            "s3://bucket/prefix in the bucket that it stores in"
        )
    problems += _check_reading(config.read) + _check_address("store", store)
    if config.read.collection is not None:
        problems += _check_address("read.collection", config.read.collection)
        if config.read.paths:
            problems.append("read.paths and read.collection are both given; keep one (read.paths=[] empties the other)")
    return problems


def _check_served(embed: EmbedSection) -> list[str]:
    """A problem for each key of a server of embeddings that lacks, or that another encoder has no use for."""
    if embed.encoder != SERVED:
        given = [f"embed.{key}" for key in ("url", "key_env") if getattr(embed, key)]
        needs = f"{', '.join(given)}: only embed.encoder={SERVED} asks a server; set that, or leave it out"
        return [needs] if given else []
    problems = []
    if missing := [f"embed.{key}" for key in ("url", "model") if not getattr(embed, key)]:
        problems.append(f"embed.encoder={SERVED} needs {' and '.join(missing)}: the server's address, such as "
                        f"http://host:8080/v1, and the name by which it knows the model")  # fmt: skip
    if embed.gpus_per_actor:
        problems.append(f"embed.gpus_per_actor={embed.gpus_per_actor:g}, but with embed.encoder={SERVED} actors only "
                        f"wait for the server; set it to 0")  # fmt: skip
    return problems


def _check_secret_names(config: RunConfig) -> list[str]:
    """A problem for each name of an environment variable that cannot be one, and may be the secret itself."""
    problems = []
    for key in SECRET_KEYS.values():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name, None)
        if value and not value.isidentifier():
            problems.append(f"{key} is no name of an environment variable, and not shown because it may be the secret "
                            f"itself; put that into a variable, and its name here")  # fmt: skip
    return problems


def _check_reading(read: ReadSection) -> list[str]:
    problems = []
    if read.csv.encoding is not None:
        try:
            "a".encode(read.csv.encoding)
        except (LookupError, ValueError):
            shown = show_value(read.csv.encoding)
            problems.append(f"read.csv.encoding={shown} is no encoding; utf-8, utf-16, cp1252 are some")
    signs = {name: getattr(read.csv, name) for name in ("delimiter", "quote", "escape")}
    same = [name for name, sign in signs.items() if sign and list(signs.values()).count(sign) > 1]
    if same:
        shown = show_value(signs[same[0]])
        problems.append(f"read.csv.{' and read.csv.'.join(same)} are both {shown}; they must differ")
    kept = ("keep", "time_column", "source_column", "link_column")
    columns = [f"read.{name}" for name in kept if getattr(read, name)]
    if read.collection is not None and columns:
        problems.append(
            f"{', '.join(columns)}: columns are those of files; of a collection only texts, ids and vectors are read"
        )
    return problems


def _check_address(key: str, section: StoreSection | CollectionInput) -> list[str]:
    """Check the address of a server against the details beside it; ``key`` is the section's own."""
    problems, server = [], section.server
    if server.token_env and server.token_file:
        problems.append(f"{key}.server.token_env and {key}.server.token_file are both given; keep one")
    if (server.ca_file or server.server_name) and not section.uri.startswith("https://"):
        problems.append(
            f"{key}.server.ca_file and {key}.server.server_name belong to a {key}.uri that begins with https://"
        )
    uri = re.split("[?#]", section.uri)[0]
    scheme, mark, rest = uri.partition("://")
    is_store = isinstance(section, StoreSection)
    is_address = scheme in ("http", "https", "tcp") and mark
    if not is_address and "@" not in section.uri and not (is_store and section.uri == EMBEDDED):
        takes = f"neither '{EMBEDDED}' nor an" if is_store else "no"
        problems.append(f"{key}.uri={show_value(uri)} is {takes} address such as http://host:19530")
    database = rest.partition("/")[2].strip("/")
    if database and "@" not in database:  # pymilvus's client alone would take it for a database
        problems.append(
            f"{key}.uri names more than host and port: /{database[:80]}; set {key}.server.db_name to a database"
        )
    return problems


def _check_params(store: StoreSection, search: SearchSection) -> list[str]:
    """A problem for each parameter that the index does not take, is out of range, or contradicts k or another."""
    problems = []
    index = store.index_type
    choices = BUILD_CHOICES.get(index, {})
    for section, params, known in (
        ("store", store.params, {**BUILD_PARAMS.get(index, {}), **choices}),
        ("search", search.params, SEARCH_PARAMS.get(index, {})),
    ):
        for key, value in params.items():
            name = f"{section}.params.{values.show_key(key)}"
            if key in choices and section == "store":
                if value not in choices[key]:
                    problems.append(f"{name}={show_value(value)} is none of {', '.join(map(str, choices[key]))}")
            elif key in known:
                low, high = known[key]
                if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                    problems.append(f"{name}={show_value(value)} is not a whole number from {low} to {high}")
            elif key == "mmap.enabled" and section == "store":
                if not isinstance(value, bool):
                    problems.append(f"{name}={show_value(value)} is neither true nor false")
            elif index == "GPU_CAGRA" and key in GPU_PARAMS:
                if not isinstance(value, (bool, int, float, str)):
                    problems.append(f"{name}={show_value(value)} is no single value")
            else:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                problems.append(f"{name} is not a parameter of index {index}; {takes} here")
    least = search.k + 1
    for key in CANDIDATE_PARAMS:
        value = search.params.get(key)
        if isinstance(value, int) and value < least:
            problems.append(f"search.params.{key}={value} is below k + 1 = {least}, which Milvus refuses; raise it")
    coarse, fine = store.params.get("sq_type", "SQ8"), store.params.get("refine_type", "FP32")
    if coarse in SQ_TYPES and fine in SQ_TYPES and SQ_TYPES.index(fine) <= SQ_TYPES.index(coarse):
        problems.append(f"store.params.refine_type={fine} is no finer than sq_type={coarse}; take FP32")
    nprobe, nlist = search.params.get("nprobe"), store.params.get("nlist")
    if isinstance(nprobe, int) and isinstance(nlist, int) and nprobe > nlist:
        problems.append(
            f"search.params.nprobe={nprobe} is above store.params.nlist={nlist}; lower it to {nlist} at most"
        )
    wide, degree = store.params.get("intermediate_graph_degree"), store.params.get("graph_degree")
    if isinstance(wide, int) and isinstance(degree, int) and degree > wide:
        problems.append(f"store.params.graph_degree={degree} is above intermediate_graph_degree={wide}; lower it")
    if search.target_recall is not None and index in ("FLAT", "AUTOINDEX"):
        why = "its search is exact" if index == "FLAT" else "it has no parameter that could be raised"
        problems.append(f"search.target_recall has no meaning for index {index}: {why}; leave it out")
    if search.target_recall is not None and search.recall_sample < 100:
        problems.append(
            f"search.target_recall is measured on search.recall_sample={search.recall_sample} rows; take 100 at least"
        )
    return problems
