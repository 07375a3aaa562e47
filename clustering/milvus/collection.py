"""A collection and a run's id in; made, released or dropped, and never one that is somebody else's."""

from __future__ import annotations

import logging

from pymilvus import DataType, MilvusClient

from clustering.config.sections import RunConfig
from clustering.errors import ConfigError, StoreError
from clustering.milvus.bulk import check_bulk
from clustering.milvus.channel import Channel
from clustering.milvus.endpoint import Endpoint, connected, endpoint_of, server_version
from clustering.milvus.index import is_loaded, release_collection
from clustering.milvus.protocol import ROW, VECTOR
from clustering.milvus.retry import retry
from clustering.runs.directory import RunDir
from clustering.runs.storage import touch

log = logging.getLogger("covey")

DESCRIPTION_PREFIX = "covey"  # opens the description of every collection that a run made
LOAD_STATE = "loaded"  # in the run directory while a collection is filled: which parts are begun, which are done


class ChangedError(StoreError):
    """Somebody else has written to the collection, so that what was found in it may be wrong."""


def check_store(config: RunConfig, dim: int | None, run_id: str) -> None:
    """Before any work: the server answers, can load as it is asked to, and what lies under the name is ours or nothing.

    Raises: ConfigError that says what is in the way.
    """
    if config.store.embedded:
        return
    endpoint = endpoint_of(config, config.store.uri)
    with connected(endpoint) as client:
        refuse_foreign(client, endpoint.collection, config.store.metric, dim, run_id)
        if config.store.load == "bulk":
            check_bulk(endpoint, config.store, server_version(client))


def refuse_foreign(client: MilvusClient, name: str, metric: str, dim: int | None, run_id: str) -> str | None:
    """The description of this run's collection, None when there is none.

    Raises: ConfigError when the name is taken by somebody else's collection; it says how that one differs.
    """
    if not client.has_collection(name):
        return None
    found = client.describe_collection(name)
    description = str(found.get("description", ""))
    if description.startswith(f"{DESCRIPTION_PREFIX} {run_id} "):
        return description
    reasons = []
    vector = next((field for field in found["fields"] if field["name"] == VECTOR), None)
    has_dim = int(vector["params"]["dim"]) if vector else None
    if dim is not None and has_dim != dim:
        reasons.append(f"its vectors have dimension {has_dim}, the encoder's {dim}")
    indexes = [client.describe_index(name, index) for index in client.list_indexes(name)]
    metrics = sorted({index["metric_type"] for index in indexes if index} - {metric})
    if metrics:
        reasons.append(f"its metric is {metrics[0]}, not {metric}")
    reasons.append("another run made it" if description.startswith(DESCRIPTION_PREFIX) else "no run of Covey made it")
    raise ConfigError(
        [
            f"store.collection: {name} exists and is not this run's: {'; '.join(reasons)}. Choose another "
            f"store.collection, or drop that one"
        ]
    )


def prepare_collection(run: RunDir, client: MilvusClient, name: str, metric: str, dim: int, fingerprint: str) -> None:
    """Make the collection unless this run's lies there already; of a new one, nothing is marked as loaded."""
    description = f"{DESCRIPTION_PREFIX} {run.id} {fingerprint}"
    found = refuse_foreign(client, name, metric, dim, run.id)
    if found == description:
        return
    run.remove(LOAD_STATE)
    touch(run / LOAD_STATE / "filling")  # before the collection: an empty one without it would pass for a damaged one
    if found is not None:
        client.drop_collection(name)
    fields = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
    fields.add_field(ROW, DataType.INT64, is_primary=True)
    fields.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dim)
    client.create_collection(name, schema=fields, consistency_level="Strong")


def is_in_use(endpoint: Endpoint) -> bool:
    """Whether the collection is there and loaded."""
    with connected(endpoint) as client, Channel(endpoint) as channel:
        return client.has_collection(endpoint.collection) and retry(endpoint, lambda _: is_loaded(channel))[0]


def release_store(endpoint: Endpoint, run_id: str) -> None:
    """Give back the memory of this run's collection; one that is not there, or not this run's, is left as it is.

    Raises: StoreError, ConfigError when the server does not do it.
    """
    with connected(endpoint) as client, Channel(endpoint) as channel:
        found = client.has_collection(endpoint.collection) and client.describe_collection(endpoint.collection)
        if found and str(found.get("description", "")).startswith(f"{DESCRIPTION_PREFIX} {run_id} "):
            release_collection(channel)
            log.info("store: released collection %s from the server's memory; it stays stored", endpoint.collection)


def drop_collection(endpoint: Endpoint, run_id: str) -> None:
    """Drop this run's collection if it is there; nobody else's."""

    def drop(_: int) -> None:
        found = client.has_collection(endpoint.collection) and client.describe_collection(endpoint.collection)
        if found and str(found.get("description", "")).startswith(f"{DESCRIPTION_PREFIX} {run_id} "):
            client.drop_collection(endpoint.collection)
            log.info("store: dropped collection %s", endpoint.collection)

    with connected(endpoint) as client:
        retry(endpoint, drop)
