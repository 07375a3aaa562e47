"""vectors/ in, a Milvus collection with one entity for each row out, counted before it is searched."""

from __future__ import annotations

import logging
import time
from typing import Any

import pyarrow.parquet as pq
from pymilvus import DataType, MilvusClient

from clustering.config import RunConfig, StoreSection
from clustering.errors import ConfigError, StoreError
from clustering.milvus import Address, address_of, default_nlist, talking_to
from clustering.parts import Item, map_parts, peak_of
from clustering.rundir import Figures, RunDir, parts, vectors_of

REQUEST_BYTES = 8 << 20  # an upsert request; servers refuse more than 64 MiB
MARK = "covey"  # opens the description of every collection that a run made


def check_store(config: RunConfig, dim: int | None, run_id: str) -> None:
    """Before any work: the server answers, and what lies under the collection's name is this run's or nothing.

    Raises: ConfigError that says what is in the way.
    """
    if not config.store.embedded:
        address = address_of(config, config.store.uri)
        client = address.connect()
        with talking_to(address):
            refuse_foreign(client, address.collection, config.store.metric, dim, run_id)


def refuse_foreign(client: MilvusClient, name: str, metric: str, dim: int | None, run_id: str) -> str | None:
    """The description of this run's collection, None when there is none.

    Raises: ConfigError when the name is taken by somebody else's collection; it says how that one differs.
    """
    if not client.has_collection(name):
        return None
    found = client.describe_collection(name)
    description = str(found.get("description", ""))
    if description.startswith(f"{MARK} {run_id} "):
        return description
    reasons = []
    vector = next((field for field in found["fields"] if field["name"] == "vector"), None)
    has_dim = int(vector["params"]["dim"]) if vector else None
    if dim is not None and has_dim != dim:
        reasons.append(f"its vectors have dimension {has_dim}, the encoder's {dim}")
    indexes = [client.describe_index(name, index) for index in client.list_indexes(name)]
    metrics = sorted({index["metric_type"] for index in indexes if index} - {metric})
    if metrics:
        reasons.append(f"its metric is {metrics[0]}, not {metric}")
    reasons.append("another run made it" if description.startswith(MARK) else "no run of Covey made it")
    raise ConfigError(
        [
            f"store.collection: {name} exists and is not this run's: {'; '.join(reasons)}. Choose another "
            f"store.collection, or drop that one"
        ]
    )


class Loader:
    """Send parts of vectors/ to the collection; a repeated part changes nothing, because keys are rows."""

    def __init__(self, run: RunDir, address: Address) -> None:
        self.run = run
        self.address = address
        self.client = address.connect()

    def __call__(self, item: Item) -> Item:
        table = pq.read_table(self.run / "vectors" / item["name"])
        rows = table["row"].to_pylist()
        vectors = vectors_of(table)
        step = max(1, min(5000, REQUEST_BYTES // (4 * vectors.shape[1] + 16)))
        for start in range(0, len(rows), step):
            batch = zip(rows[start : start + step], vectors[start : start + step], strict=True)
            with talking_to(self.address):
                self.client.upsert(self.address.collection, [{"row": row, "vector": vector} for row, vector in batch])
        return {"rows": len(rows)}


def store_vectors(
    run: RunDir, address: Address, store: StoreSection, n_texts: int, dim: int, run_id: str, mark: str
) -> Figures:
    """Load every vector under its row as key, build the index, and compare the count with the number of texts.

    mark : fingerprint of vectors and index; this run's collection with another mark is made anew
    Raises: ConfigError when the collection is somebody else's; StoreError when the count is wrong.
    """
    client = address.connect()
    name, description = address.collection, f"{MARK} {run_id} {mark}"
    found = refuse_foreign(client, name, store.metric, dim, run_id)
    if found is not None and found != description:
        client.drop_collection(name)
    if found != description:
        fields = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
        fields.add_field("row", DataType.INT64, is_primary=True)
        fields.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        client.create_collection(name, schema=fields, consistency_level="Strong")
    writers = 1 if store.embedded else 2  # Milvus Lite takes one writer a collection
    items = [{"name": path.name} for path in parts(run / "vectors")]
    results = map_parts(Loader, items, actors=writers, run=run, address=address)
    with talking_to(address):
        client.flush(name)
        if not client.list_indexes(name):
            params = client.prepare_index_params()
            params.add_index(
                "vector", index_type=store.index_type, metric_type=store.metric, params=index_params(store, n_texts)
            )
            client.create_index(name, params)
        _wait_for_index(client, name)
        client.load_collection(name)
        rows = count_rows(client, name)
    if rows != n_texts:
        raise StoreError(
            f"collection {name} holds {rows} vectors after loading {n_texts} texts; drop it and start again with "
            f"run.resume=false"
        )
    shape = {"index": store.index_type, "metric": store.metric}
    return {"collection": name, **shape, "rows": rows, "peak_bytes": peak_of(results)}


def index_params(store: StoreSection, n_texts: int) -> dict[str, Any]:
    """The index's parameters: the configuration's over the usual ones."""
    usual: dict[str, dict[str, Any]] = {
        "HNSW": {"M": 16, "efConstruction": 200},
        "IVF_FLAT": {"nlist": default_nlist(n_texts)},
        "IVF_SQ8": {"nlist": default_nlist(n_texts)},
        "GPU_CAGRA": {"intermediate_graph_degree": 64, "graph_degree": 32},
    }
    return {**usual.get(store.index_type, {}), **store.params}


def _wait_for_index(client: MilvusClient, name: str) -> None:
    while True:
        (index,) = (client.describe_index(name, index) for index in client.list_indexes(name))
        state = str(index.get("state", "Finished"))
        if state == "Failed":
            raise StoreError(f"the index of {name} failed: {index.get('index_state_fail_reason') or index}")
        if state == "Finished" and int(index.get("pending_index_rows") or 0) <= 0:
            return
        time.sleep(0.5)


def count_rows(client: MilvusClient, name: str) -> int:
    (counted,) = client.query(name, filter="", output_fields=["count(*)"], consistency_level="Strong")
    return int(counted["count(*)"])


def confirm_store(address: Address, n_texts: int, run_id: str, mark: str) -> None:
    """Before the search: the collection is still this run's and holds every text (a run may go on days later).

    Raises: StoreError when it does not.
    """
    client = address.connect()
    with talking_to(address):
        if not client.has_collection(address.collection):
            raise StoreError(f"collection {address.collection} is gone from {address.uri}")
        if client.describe_collection(address.collection).get("description") != f"{MARK} {run_id} {mark}":
            raise StoreError(f"collection {address.collection} at {address.uri} has been made anew by another start")
        client.load_collection(address.collection)
        found = count_rows(client, address.collection)
    if found != n_texts:
        raise StoreError(f"collection {address.collection} holds {found} vectors for {n_texts} texts")


def drop_collection(address: Address) -> None:
    address.connect().drop_collection(address.collection)
    logging.getLogger("covey").info("store: dropped collection %s (store.keep=false)", address.collection)
