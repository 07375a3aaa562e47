"""vectors/ in, a Milvus collection with one entity for each row out, audited before it is searched."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from clustering.bulk import check_bulk, load_bulk
from clustering.config import RunConfig, StoreSection
from clustering.errors import ConfigError, StoreError
from clustering.index import finish_collection, is_loaded, load_collection, release_collection
from clustering.kernels.topk import FloatArray, IntArray
from clustering.milvus import Address, Link, address_of, connected, patiently, server_version
from clustering.parts import Item, map_parts
from clustering.patience import Pace, paced
from clustering.rundir import (
    Figures,
    RunDir,
    gather,
    names_of,
    parts,
    rows_without_vector,
    stored_vectors,
    vectors_of,
)
from clustering.storage import read_table, touch
from clustering.wire import ROW, VECTOR, column_of, write_request

log = logging.getLogger("covey")

REQUEST_BYTES = 12 << 20  # a write request; servers take 64 MiB at most, and split what is larger themselves
IN_FLIGHT = 2  # requests of an actor that wait for the server at the same time
# The embedded one copies the whole request for each row of it: benchmarks/embedded_store.py measures sizes.
EMBEDDED_REQUEST_BYTES = 512 << 10
EMBEDDED_IN_FLIGHT = 1  # it works on one write at a time
KEYS_PER_QUERY = 8192  # servers list 16,384 at most
AUDIT_ROUNDS = 3
AUDIT_SAMPLE = 200  # vectors that are read back
MARK = "covey"  # opens the description of every collection that a run made
MARKS = "loaded"  # in the run directory while a collection is filled: which parts are begun, which are done


class ChangedError(StoreError):
    """Somebody else has written to the collection, so that what was found in it may be wrong."""


def check_store(config: RunConfig, dim: int | None, run_id: str) -> None:
    """Before any work: the server answers, can load as it is asked to, and what lies under the name is ours or nothing.

    Raises: ConfigError that says what is in the way.
    """
    if config.store.embedded:
        return
    address = address_of(config, config.store.uri)
    with connected(address) as client:
        refuse_foreign(client, address.collection, config.store.metric, dim, run_id)
        if config.store.load == "bulk":
            check_bulk(address, config.store, server_version(client))


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
    vector = next((field for field in found["fields"] if field["name"] == VECTOR), None)
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


def store_vectors(
    run: RunDir, address: Address, store: StoreSection, n_texts: int, dim: int, run_id: str, mark: str
) -> Figures:
    """Load every vector that is there under its row as key, build the index, and audit what the collection holds.

    mark : fingerprint of vectors and index; this run's collection with another mark is made anew
    Returns: collection, index, metric, rows, rows_per_second, segments, retries, repaired_rows.
    Raises: ConfigError when the collection is somebody else's; StoreError when it cannot be made whole.
    """
    n_vectors = n_texts - rows_without_vector(run / "vectors").size
    with connected(address) as client, Link(address) as link:
        prepare_collection(run, client, address.collection, store.metric, dim, run_id, mark)
        figures: Figures = {"rows_per_second": None, "retries": 0}
        if (run / MARKS).exists():  # else a collection that was whole once: the audit says what it lacks
            load = load_bulk if store.load == "bulk" else load_stream
            figures = load(run, address, store)
        figures["segments"] = finish_collection(client, link, store, n_vectors)
        repaired = 0
        for attempt in range(AUDIT_ROUNDS + 1):
            wrong = audit_collection(run, link, n_texts, attempt)
            if not wrong:
                break
            if attempt == AUDIT_ROUNDS:
                raise StoreError(
                    f"collection {address.collection} at {address.uri} still lacks or doubles rows after {attempt} "
                    f"repairs: {_in_words(wrong)}; drop it and start again with run.resume=false"
                )
            log.warning("store: the collection lacks or doubles %s; loading exactly those again", _in_words(wrong))
            repaired += sum(piece["stop"] - piece["first"] for piece in wrong)
            map_parts(Loader, [{"pieces": wrong}], actors=1, run=run, address=address)
            figures["segments"] = finish_collection(client, link, store, n_vectors)
    run.remove(MARKS)
    shape = {"index": store.index_type, "metric": store.metric}
    return {"collection": address.collection, **shape, "rows": n_vectors, "repaired_rows": repaired, **figures}


def prepare_collection(
    run: RunDir, client: MilvusClient, name: str, metric: str, dim: int, run_id: str, mark: str
) -> None:
    """Make the collection unless this run's lies there already; of a new one, nothing is marked as loaded."""
    description = f"{MARK} {run_id} {mark}"
    found = refuse_foreign(client, name, metric, dim, run_id)
    if found == description:
        return
    run.remove(MARKS)
    touch(run / MARKS / "filling")  # before the collection: an empty one without it would pass for a damaged one
    if found is not None:
        client.drop_collection(name)
    fields = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
    fields.add_field(ROW, DataType.INT64, is_primary=True)
    fields.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dim)
    client.create_collection(name, schema=fields, consistency_level="Strong")


class Loader:
    """Send pieces of vectors/ to the collection, column by column, on a server several requests at a time.

    A piece is inserted where nothing of it can lie there yet. Where something may (a worker died over it, or a reply
    was lost), it is upserted, which leaves one entity of each key however often it is repeated.
    """

    def __init__(self, run: RunDir, address: Address) -> None:
        self.run = run
        self.address = address
        self.link = Link(address)
        self.request_bytes = EMBEDDED_REQUEST_BYTES if address.embedded else REQUEST_BYTES
        self.in_flight = EMBEDDED_IN_FLIGHT if address.embedded else IN_FLIGHT
        self.pace: Pace | None = None

    def __call__(self, item: Item) -> Item:
        with ThreadPoolExecutor(self.in_flight) as pool:
            done = list(pool.map(self.load, item["pieces"]))
        return {"rows": sum(rows for rows, _ in done), "retries": sum(retries for _, retries in done)}

    def load(self, piece: Item) -> tuple[int, int]:
        """Rows sent and requests repeated for a piece: a whole part, or rows first to stop - 1 of it."""
        begun, done = (self.run / MARKS / f"{piece['name']}.{state}" for state in ("begun", "done"))
        whole = "first" not in piece
        if whole and done.exists():
            return 0, 0
        again = not whole or begun.exists()
        if whole:
            touch(begun)
        table = read_table(self.run / "vectors" / piece["name"])
        rows, vectors = stored_vectors(table)
        if not whole:
            wanted = (rows >= piece["first"]) & (rows < piece["stop"])
            rows, vectors = rows[wanted], vectors[wanted]
        retries = self.send(rows, vectors, again)
        if whole:
            touch(done)
        return len(rows), retries

    def send(self, rows: IntArray, vectors: FloatArray, again: bool) -> int:
        """Write some rows, in requests of about the same size; return how often requests were repeated."""
        most = max(1, self.request_bytes // (4 * vectors.shape[1]))
        pace = self.pace = self.pace or Pace(most)
        retries = at = 0
        while at < len(rows):
            requests = -(-(len(rows) - at) // pace.rows)
            some = slice(at, at + -(-(len(rows) - at) // requests))
            retries += self._write(rows[some], vectors[some], again, pace)
            at = some.stop
        return retries

    def _write(self, rows: IntArray, vectors: FloatArray, again: bool, pace: Pace) -> int:
        def ask(some: slice, seen: bool) -> None:
            kind = "upsert" if again or seen else "insert"
            place = self.address.collection, self.address.db_name or ""
            self.link.call(kind.capitalize(), write_request(kind, *place, rows[some], vectors[some]))

        return paced(self.address, pace, len(rows), ask)[1]


def load_stream(run: RunDir, address: Address, store: StoreSection) -> Figures:
    """Send all parts through write actors. Returns: rows_per_second, retries."""
    started = time.perf_counter()
    actors = 1 if store.embedded else 2  # Milvus Lite takes one writer a collection
    names = names_of(run / "vectors")
    in_flight = EMBEDDED_IN_FLIGHT if store.embedded else IN_FLIGHT
    size = min(8, max(in_flight, -(-len(names) // (4 * actors))))  # parts a call: to fill the line, and to share out
    items = [{"pieces": [{"name": name} for name in names[at : at + size]]} for at in range(0, len(names), size)]
    results = map_parts(Loader, items, actors=actors, run=run, address=address)
    rows = sum(result["rows"] for result in results)
    return {
        "rows_per_second": round(rows / (time.perf_counter() - started), 1),
        "retries": sum(result["retries"] for result in results),
    }


def audit_collection(run: RunDir, link: Link, n_texts: int, attempt: int = 0) -> list[Item]:
    """What the collection lacks, doubles or holds wrongly, as pieces of vectors/ to be loaded again; [] when whole.

    The count of entities comes first and waits for all writes. Every key is listed, range by range; the count shows
    doubled keys, which a list does not; a sample of vectors, another one at each attempt, is compared bit by bit.
    Raises: StoreError for entities that are no rows of this run.
    """
    address = link.address
    total, _ = patiently(address, lambda _: link.count())
    spans = [(path.name, *_span(path)) for path in parts(run / "vectors")]
    without = rows_without_vector(run / "vectors")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda span: _wrong_rows(link, span[0], span[1], span[2], without), spans))
    wrong = [piece for pieces, _ in found for piece in pieces]
    listed = sum(count for _, count in found)
    if total > listed:
        outside, _ = patiently(address, lambda _: link.count(f"{ROW} < 0 or {ROW} >= {n_texts}"))
        if outside:
            raise StoreError(
                f"collection {address.collection} at {address.uri} holds {outside} entities that are no rows of this "
                f"run; somebody else writes to it. Drop it, or choose another store.collection"
            )
        with ThreadPoolExecutor(4) as pool:
            counts = list(pool.map(lambda span: _count(link, *span[1:]), spans))
        doubled = [span for span, (_, keys), count in zip(spans, found, counts, strict=True) if count > keys]
        named = {(piece["name"]) for piece in wrong}
        wrong += [{"name": name, "first": a, "stop": b} for name, a, b in doubled if name not in named]
    if not wrong:
        wrong = _wrong_vectors(run, link, spans, without, attempt)
    return wrong


def _span(path: Any) -> tuple[int, int]:
    """First row of a part of vectors/, and the one after its last."""
    rows = read_table(path, columns=["row"])["row"]
    return int(rows[0].as_py()), int(rows[-1].as_py()) + 1


def _count(link: Link, first: int, stop: int) -> int:
    return patiently(link.address, lambda _: link.count(f"{ROW} >= {first} and {ROW} < {stop}"))[0]


def _keys(link: Link, first: int, stop: int) -> IntArray:
    """The keys from first to stop - 1 that the collection has."""
    words = f"{ROW} >= {first} and {ROW} < {stop}"
    fields, _ = patiently(link.address, lambda failures: link.query(words, [ROW], KEYS_PER_QUERY, strong=failures > 0))
    found = [column_of(field).to_numpy() for field in fields if field.field_name == ROW]
    return np.concatenate([np.empty(0, np.int64), *found])


def _wrong_rows(link: Link, name: str, first: int, stop: int, without: IntArray) -> tuple[list[Item], int]:
    """Runs of rows of a part that the collection lacks, and how many keys it has. without : rows that have no vector"""
    held = np.zeros(stop - first, bool)
    for start in range(first, stop, KEYS_PER_QUERY):
        end = min(start + KEYS_PER_QUERY, stop)
        held[_keys(link, start, end) - first] = True
    lacking = ~held
    lacking[without[(without >= first) & (without < stop)] - first] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lacking, [0]]))) + first
    runs = [{"name": name, "first": int(a), "stop": int(b)} for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return runs, int(held.sum())


def _wrong_vectors(run: RunDir, link: Link, spans: list[Any], without: IntArray, attempt: int) -> list[Item]:
    """The parts of a sample of rows whose stored vectors are not equal to those of vectors/."""
    n_texts = spans[-1][2]
    rng = np.random.default_rng([n_texts, attempt])
    rows = np.setdiff1d(rng.choice(n_texts, min(AUDIT_SAMPLE, n_texts), replace=False), without)
    if not rows.size:
        return []
    words = f"{ROW} in [{', '.join(map(str, rows))}]"
    fields, _ = patiently(link.address, lambda failures: link.query(words, [ROW, VECTOR], strong=failures > 0))
    columns = {field.field_name: column_of(field) for field in fields}
    differ = rows
    if columns:
        held = columns[ROW].to_numpy()
        stored = columns[VECTOR].flatten().to_numpy().reshape(len(held), -1)
        sent = vectors_of(gather(run / "vectors", rows, ["vector"]))
        equal = held[(stored == sent[np.searchsorted(rows, held)]).all(axis=1)]
        differ = np.setdiff1d(rows, equal)  # a row that is not there, too
    return [
        {"name": name, "first": first, "stop": stop}
        for name, first, stop in spans
        if ((differ >= first) & (differ < stop)).any()
    ]


def _in_words(pieces: list[Item]) -> str:
    shown = ", ".join(f"rows {piece['first']} to {piece['stop'] - 1}" for piece in pieces[:5])
    return shown + (f" and {len(pieces) - 5} more ranges" if len(pieces) > 5 else "")


def confirm_store(address: Address, n_vectors: int, run_id: str, mark: str) -> None:
    """Before the search: the collection is still this run's and holds every vector (a run may go on days later).

    Raises: ChangedError when it holds more or fewer; StoreError when it is gone, or another.
    """
    with connected(address) as client, Link(address) as link:
        if not client.has_collection(address.collection):
            raise StoreError(f"collection {address.collection} is gone from {address.uri}")
        if client.describe_collection(address.collection).get("description") != f"{MARK} {run_id} {mark}":
            raise StoreError(f"collection {address.collection} at {address.uri} has been made anew by another start")
        load_collection(link)
        found, _ = patiently(address, lambda _: link.count())
    if found != n_vectors:
        raise ChangedError(f"collection {address.collection} holds {found} vectors in place of {n_vectors}")


def confirm_unchanged(run: RunDir, address: Address, n_vectors: int) -> None:
    """After the search: nobody has taken, added or changed entities meanwhile, or lists would lack true neighbors.

    Raises: ChangedError when the count of entities, or one of a sample of keys and vectors, differs.
    """
    with Link(address) as link:
        total, _ = patiently(address, lambda _: link.count())
        spans = [(path.name, *_span(path)) for path in parts(run / "vectors")]
        wrong = _wrong_vectors(run, link, spans, rows_without_vector(run / "vectors"), AUDIT_ROUNDS + 1)
    if total != n_vectors or wrong:
        found = f"holds {total} entities in place of {n_vectors}"
        if total == n_vectors:
            found = f"differs in {_in_words(wrong)}"
        raise ChangedError(
            f"collection {address.collection} at {address.uri} has changed while it was searched: it {found}. Somebody "
            f"else writes to it. What was found is given up; when nobody does any more, the same command loads what "
            f"is missing and searches again"
        )


def is_in_use(address: Address) -> bool:
    """Whether the collection is there and loaded."""
    with connected(address) as client, Link(address) as link:
        return client.has_collection(address.collection) and patiently(address, lambda _: is_loaded(link))[0]


def release_store(address: Address, run_id: str) -> None:
    """Give back the memory of this run's collection; one that is not there, or not this run's, is left as it is.

    Raises: StoreError, ConfigError when the server does not do it.
    """
    with connected(address) as client, Link(address) as link:
        found = client.has_collection(address.collection) and client.describe_collection(address.collection)
        if found and str(found.get("description", "")).startswith(f"{MARK} {run_id} "):
            release_collection(link)
            log.info("store: released collection %s from the server's memory; it stays stored", address.collection)


def drop_collection(address: Address, run_id: str) -> None:
    """Drop this run's collection if it is there; nobody else's."""

    def drop(_: int) -> None:
        found = client.has_collection(address.collection) and client.describe_collection(address.collection)
        if found and str(found.get("description", "")).startswith(f"{MARK} {run_id} "):
            client.drop_collection(address.collection)
            log.info("store: dropped collection %s", address.collection)

    with connected(address) as client:
        patiently(address, drop)
