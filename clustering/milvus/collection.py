"""A run's id and a server in; the run's own collection made, released or dropped, and nobody else's."""

from __future__ import annotations

import logging

import grpc
from pymilvus import DataType, MilvusClient
from pymilvus.grpc_gen import milvus_pb2

from clustering.config.sections import RunConfig, StoreSection
from clustering.errors import ConfigError, StoreError
from clustering.milvus.bulk import check_bulk
from clustering.milvus.channel import Channel
from clustering.milvus.endpoint import Endpoint, connected, endpoint_of, server_version
from clustering.milvus.index import is_loaded, release_collection
from clustering.milvus.protocol import ROW, VECTOR, VECTOR_TYPES
from clustering.milvus.retry import RefusedError, retry
from clustering.runs.directory import RunDir
from clustering.runs.index import write_index

log = logging.getLogger("covey")

DESCRIPTION_PREFIX = "covey"  # opens the description of every collection that a run made
DEFAULT_GROUP = "__default_resource_group"  # of query nodes
LOAD_STATE = "loaded"  # in the run directory while a collection is filled: its index lists the parts that are stored


class ChangedError(StoreError):
    """Somebody else has written to the collection, so search results from it may be wrong."""


def check_store(config: RunConfig, dim: int | None, run_id: str) -> None:
    """Check, before any work, that the server answers, can load as configured, and has no foreign collection there.

    Raises: ConfigError that says what is in the way.
    """
    if config.store.embedded:
        return
    endpoint = endpoint_of(config, config.store.uri)
    with connected(endpoint) as client:
        check_offered(config.store, server_version(client))
        if config.store.replicas > 1:
            check_replicas(endpoint)
        refuse_foreign(client, endpoint.collection, config.store.metric, dim, run_id)
        if config.store.load == "bulk":
            check_bulk(endpoint, config.store, server_version(client))


def check_offered(store: StoreSection, version: tuple[int, ...]) -> None:
    """Raises: ConfigError for each thing of the configuration that a server of this version does not have."""
    asked = {
        f"store.vector_type={store.vector_type}": (2, 4) if store.vector_type != "float32" else (),
        f"store.index={store.index}": {"GPU_CAGRA": (2, 4), "HNSW_SQ": (2, 5)}.get(store.index_type, ()),
        "store.params mmap.enabled": (2, 4) if store.params.get("mmap.enabled") else (),
    }
    problems = [
        f"{what} needs a server of {'.'.join(map(str, first))} or newer; the one at {store.uri} is "
        f"{'.'.join(map(str, version))}"
        for what, first in asked.items()
        if version < first
    ]
    if problems:
        raise ConfigError(problems)


def check_replicas(endpoint: Endpoint) -> None:
    """Raises: ConfigError when the server has too few nodes for its replicas, as far as it says how many it has."""
    request = milvus_pb2.DescribeResourceGroupRequest(resource_group=DEFAULT_GROUP)
    with Channel(endpoint) as channel:
        try:
            nodes = channel.call("DescribeResourceGroup", request).resource_group.num_available_node
        except (grpc.RpcError, RefusedError):  # rights for this may be missing
            return
    if nodes < endpoint.replicas:
        raise ConfigError(
            [f"store.replicas={endpoint.replicas}: the server at {endpoint.uri} has query nodes for {nodes} at most"]
        )


def describe(run_id: str, fingerprint: str = "") -> str:
    """The description of a run's collection; without a fingerprint, what it begins with."""
    return f"{DESCRIPTION_PREFIX} {run_id} {fingerprint}"


def description_of(client: MilvusClient, name: str) -> str | None:
    """A collection's description; None when there is no collection."""
    return str(client.describe_collection(name).get("description", "")) if client.has_collection(name) else None


def is_own(client: MilvusClient, name: str, run_id: str) -> bool:
    """Whether there is a collection of this name and the run made it."""
    return (description_of(client, name) or "").startswith(describe(run_id))


def refuse_foreign(client: MilvusClient, name: str, metric: str, dim: int | None, run_id: str) -> None:
    """Raise ConfigError when another's collection has the name; it says how that one differs."""
    description = description_of(client, name)
    if description is None or description.startswith(describe(run_id)):
        return
    reasons = []
    fields = client.describe_collection(name)["fields"]
    found_dim = next((int(field["params"]["dim"]) for field in fields if field["name"] == VECTOR), None)
    if dim is not None and found_dim != dim:
        reasons.append(f"its vectors have dimension {found_dim}, the encoder's {dim}")
    indexes = [client.describe_index(name, index) for index in client.list_indexes(name)]
    metrics = sorted({index["metric_type"] for index in indexes if index} - {metric})
    if metrics:
        reasons.append(f"its metric is {metrics[0]}, not {metric}")
    reasons.append("another run made it" if description.startswith(DESCRIPTION_PREFIX) else "no run of Covey made it")
    problem = f"store.collection: {name} exists and is not this run's: {'; '.join(reasons)}"
    raise ConfigError([f"{problem}. Choose another store.collection, or drop that one"])


def prepare_collection(
    run: RunDir, client: MilvusClient, name: str, store: StoreSection, dim: int, fingerprint: str
) -> bool:
    """Make the run's collection unless it is there with the same fingerprint; nothing counts as loaded in a new one.

    Returns: whether it was made
    Raises: ConfigError when another's collection has the name.
    """
    refuse_foreign(client, name, store.metric, dim, run.id)
    description, wanted = description_of(client, name), describe(run.id, fingerprint)
    if description == wanted:
        return False
    run.remove(LOAD_STATE)
    write_index(run / LOAD_STATE, [])  # before the collection: an empty one without it would look damaged
    if description is not None:
        client.drop_collection(name)
    fields = client.create_schema(auto_id=False, enable_dynamic_field=False, description=wanted)
    fields.add_field(ROW, DataType.INT64, is_primary=True)
    fields.add_field(VECTOR, VECTOR_TYPES[store.vector_type], dim=dim)
    client.create_collection(name, schema=fields, consistency_level="Strong", num_shards=store.shards)
    return True


def is_in_use(endpoint: Endpoint) -> bool:
    """Whether the collection is there and loaded."""
    with connected(endpoint) as client, Channel(endpoint) as channel:
        return client.has_collection(endpoint.collection) and retry(endpoint, lambda _: is_loaded(channel))[0]


def release_store(endpoint: Endpoint, run_id: str) -> None:
    """Free the memory of this run's collection; nothing happens when there is none of this run.

    Raises: StoreError, ConfigError when the server does not do it.
    """
    with connected(endpoint) as client, Channel(endpoint) as channel:
        if is_own(client, endpoint.collection, run_id):
            release_collection(channel)
            log.info("store: released collection %s from the server's memory; it stays stored", endpoint.collection)


def drop_collection(endpoint: Endpoint, run_id: str) -> None:
    """Drop this run's collection if there is one; nobody else's."""

    def drop(_: int) -> None:
        if is_own(client, endpoint.collection, run_id):
            client.drop_collection(endpoint.collection)
            log.info("store: dropped collection %s", endpoint.collection)

    with connected(endpoint) as client:
        retry(endpoint, drop)
