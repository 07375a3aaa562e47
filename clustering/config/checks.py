"""Settings in, problems out: those that no single field can know, in words for people."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from clustering.config import values
from clustering.config.sections import (
    BUILD_PARAMS,
    EMBEDDED,
    EMBEDDED_INDEXES,
    ENCODERS,
    GPU_PARAMS,
    LISTED,
    SEARCH_PARAMS,
    CollectionInput,
    ReadSection,
    RunConfig,
    SearchSection,
    StoreSection,
)
from clustering.kernels.printable import CREDENTIALS

LEAST_SHARE = 0.01  # of a GPU, for one actor
SECRET_ENV = {  # addresses of servers, and the key that names the variable with their secret
    "store.uri": "store.server.token_env",
    "read.collection.uri": "read.collection.server.token_env",
    "describe.titles.url": "describe.titles.key_env",
}


def shown(value: Any) -> str:
    """A value as messages show it, unless it may hold a password."""
    shown = repr(value)
    if "@" in shown:
        return "a value with '@', which is not shown"
    return shown if len(shown) <= 2 * values.SHOWN else shown[: 2 * values.SHOWN] + "..."


def credentials(known: Mapping[str, Any]) -> list[str]:
    """The keys that hold a user or password: what they hold is printed and saved, so it is no place for a secret."""
    found = dict.fromkeys(
        place for place, text in _words(known) if CREDENTIALS.search(text) or (place in SECRET_ENV and "@" in text)
    )
    hints = {place: f"name an environment variable with it in {key}" for place, key in SECRET_ENV.items()}
    stores = "object stores take credentials from the environment"
    return [f"{place} holds a user or password; {hints.get(place, stores)}" for place in found]


def broken_addresses(known: Mapping[str, Any]) -> list[str]:
    """The keys whose value begins like a URI and is none; it may hold a secret, so that it is not shown."""
    found = []
    for place, text in _words(known):
        if "://" not in text or (place in SECRET_ENV and "@" in text):
            continue
        try:
            parts = urlsplit(text)
            wrong = place in SECRET_ENV and not (parts.hostname and parts.port != 0)
        except ValueError as error:  # of the host, or of the port
            found.append(f"{place} is no URI: {str(error).partition(' (')[0][:100]}; got {shown(text)}")
            continue
        if place in SECRET_ENV and (parts.query or parts.fragment):
            found.append(
                f"{place} goes on after a ? or #, which is not sent and may be a secret, so it is not shown; leave it "
                f"out, and name an environment variable with a secret in {SECRET_ENV[place]}"
            )
        elif wrong:
            found.append(f"{place} names no host, or port 0; write it as http://host:19530; got {shown(text)}")
    return found


def _words(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every string within, with the key where it stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _words(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _words(item, place)


def contradictions(config: RunConfig) -> list[str]:
    """What each key allows on its own, but not together with another."""
    search, store, cluster = config.search, config.store, config.cluster
    found = []
    if config.graph_k > search.k:
        found.append(f"graph.k={config.graph_k} is above search.k={search.k}; raise search.k to {config.graph_k}")
    if config.graph_k < cluster.core_rank:
        key = "graph.k" if config.graph.k else "search.k"
        found.append(
            f"{key}={config.graph_k} is smaller than cluster.min_samples={cluster.core_rank}; the core distance "
            f"needs min_samples neighbors of each text: raise {key} to at least {cluster.core_rank}"
        )
    unlike = {
        "preset": cluster.selection == "modularity", "granularity": cluster.selection == "modularity",
        "epsilon": cluster.selection != "modularity", "max_cluster_size": cluster.selection == "eom",
    }  # fmt: skip
    found += [
        f"cluster.{key}={getattr(cluster, key)} has no meaning with cluster.selection={cluster.selection}; leave it "
        f"out (over a saved configuration: cluster.{key}=null)"
        for key, fits in unlike.items()
        if getattr(cluster, key) and not fits
    ]
    if config.project.n_neighbors > search.k:
        found.append(
            f"project.n_neighbors={config.project.n_neighbors} is above search.k={search.k}; the map reuses the "
            f"searched neighbors: lower it, or raise search.k (graph.k keeps the graph at its size)"
        )
    found += _wrong_params(store, search)
    share = config.embed.gpus_per_actor
    if share != int(share) if share > 1 else 0 < share < LEAST_SHARE:
        found.append(
            f"embed.gpus_per_actor={share:g} is neither a whole number nor a share from {LEAST_SHARE} to 1; Ray gives "
            f"no other"
        )
    near = difflib.get_close_matches(config.embed.encoder, ENCODERS, n=1, cutoff=0.7)
    if near and config.embed.encoder not in ENCODERS and config.embed.model is None:
        found.append(f"embed.encoder={config.embed.encoder!r} is not known; the nearest known one is '{near[0]}'")
    if store.embedded and store.index_type not in EMBEDDED_INDEXES:
        found.append(
            f"store.index={store.index} is not offered by the embedded store; take one of "
            f"{', '.join(EMBEDDED_INDEXES)}, or give the address of a server in store.uri"
        )
    if store.load == "bulk" and store.embedded:
        found.append("store.load=bulk needs a server; the embedded store takes stream only")
    elif store.load == "bulk" and not store.bulk_path:
        found.append(
            "store.load=bulk needs store.bulk_path: a folder that the server sees under the same path, or "
            "s3://bucket/prefix in the bucket that it stores in"
        )
    found += _wrong_reading(config.read)
    found += _wrong_address("store", store)
    if config.read.collection is not None:
        found += _wrong_address("read.collection", config.read.collection)
        if config.read.paths:
            found.append("read.paths and read.collection are both given; keep one (read.paths=[] empties the other)")
    return found


def _wrong_reading(read: ReadSection) -> list[str]:
    """Keys of section read that contradict each other, or name no encoding."""
    found = []
    if read.csv.encoding is not None:
        try:
            "a".encode(read.csv.encoding)
        except (LookupError, ValueError):
            found.append(f"read.csv.encoding={shown(read.csv.encoding)} is no encoding; utf-8, utf-16, cp1252 are some")
    marks = {name: getattr(read.csv, name) for name in ("delimiter", "quote", "escape")}
    same = [name for name, mark in marks.items() if mark and list(marks.values()).count(mark) > 1]
    if same:
        found.append(f"read.csv.{' and read.csv.'.join(same)} are both {shown(marks[same[0]])}; they must differ")
    carried = ("keep", "time_column", "source_column", "link_column")
    given = [f"read.{name}" for name in carried if getattr(read, name)]
    if read.collection is not None and given:
        found.append(
            f"{', '.join(given)}: columns are those of files; of a collection only texts, ids and vectors are read"
        )
    return found


def _wrong_address(place: str, given: StoreSection | CollectionInput) -> list[str]:
    """What is wrong with the address of a server, or contradicts it; ``place`` is where it stands."""
    found = []
    server = given.server
    if server.token_env and server.token_file:
        found.append(f"{place}.server.token_env and {place}.server.token_file are both given; keep one")
    if (server.ca_file or server.server_name) and not given.uri.startswith("https://"):
        found.append(
            f"{place}.server.ca_file and {place}.server.server_name belong to a {place}.uri that begins with https://"
        )
    takes = f"neither '{EMBEDDED}' nor an" if isinstance(given, StoreSection) else "no"
    embedded = isinstance(given, StoreSection) and given.embedded
    uri = re.split("[?#]", given.uri)[0]
    scheme, mark, rest = uri.partition("://")
    if not (scheme in ("http", "https", "tcp") and mark) and "@" not in given.uri and not embedded:
        found.append(f"{place}.uri={shown(uri)} is {takes} address such as http://host:19530")
    database = rest.partition("/")[2].strip("/")
    if database and "@" not in database:  # pymilvus's client takes it for a database, and nothing else does
        found.append(
            f"{place}.uri names more than host and port: /{database[:80]}; set {place}.server.db_name to a database"
        )
    return found


def _wrong_params(store: StoreSection, search: SearchSection) -> list[str]:
    """Parameters that the index does not take, that are out of range, or that contradict k or each other."""
    found = []
    index = store.index_type
    for section, params, known in (
        ("store", store.params, BUILD_PARAMS.get(index, {})),
        ("search", search.params, SEARCH_PARAMS.get(index, {})),
    ):
        for key, value in params.items():
            if key in known:
                low, high = known[key]
                if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                    found.append(f"{section}.params.{key}={shown(value)} is not a whole number from {low} to {high}")
            elif key == "mmap.enabled" or (index == "GPU_CAGRA" and key in GPU_PARAMS):
                if not isinstance(value, (bool, int, float, str)):
                    found.append(f"{section}.params.{key}={shown(value)} is no single value")
            else:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                found.append(
                    f"{section}.params.{values.shown_key(key)} is not a parameter of index {index}; {takes} here"
                )
    for key in LISTED:
        value = search.params.get(key)
        if isinstance(value, int) and value < search.k + 1:
            found.append(f"search.params.{key}={value} is below k + 1 = {search.k + 1}, which Milvus refuses; raise it")
    nprobe, nlist = search.params.get("nprobe"), store.params.get("nlist")
    if isinstance(nprobe, int) and isinstance(nlist, int) and nprobe > nlist:
        found.append(f"search.params.nprobe={nprobe} is above store.params.nlist={nlist}; lower it to {nlist} at most")
    wide, degree = store.params.get("intermediate_graph_degree"), store.params.get("graph_degree")
    if isinstance(wide, int) and isinstance(degree, int) and degree > wide:
        found.append(f"store.params.graph_degree={degree} is above intermediate_graph_degree={wide}; lower it")
    if search.target_recall is not None and index in ("FLAT", "AUTOINDEX"):
        why = "its search is exact" if index == "FLAT" else "it has no parameter that could be raised"
        found.append(f"search.target_recall has no meaning for index {index}: {why}; leave it out")
    if search.target_recall is not None and search.recall_sample < 100:
        found.append(
            f"search.target_recall is measured on search.recall_sample={search.recall_sample} rows; take 100 at least"
        )
    return found
