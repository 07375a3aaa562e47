"""vectors/ in, entities of a collection out, by inserts that may be repeated."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from clustering.config.sections import StoreSection
from clustering.kernels.topk import FloatArray, IntArray
from clustering.milvus.channel import Channel
from clustering.milvus.collection import LOAD_STATE
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.protocol import write_request
from clustering.milvus.retry import RequestSize, retry_in_halves
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_names, stored_vectors
from clustering.runs.storage import read_table, touch
from clustering.schema import Figures
from clustering.workers.pool import Item, map_parts

REQUEST_BYTES = 12 << 20  # a write request; servers take 64 MiB at most, and split what is larger themselves
IN_FLIGHT = 2  # requests of an actor that wait for the server at the same time
# The embedded one copies the whole request for each row of it: benchmarks/embedded_store.py measures sizes.
EMBEDDED_REQUEST_BYTES = 512 << 10
EMBEDDED_IN_FLIGHT = 1  # it works on one write at a time


class Loader:
    """Send pieces of vectors/ to the collection, column by column, on a server several requests at a time.

    A piece is inserted where nothing of it can lie there yet. Where something may (a worker died over it, or a reply
    was lost), it is upserted, which leaves one entity of each key however often it is repeated.
    """

    def __init__(self, run: RunDir, endpoint: Endpoint) -> None:
        self.run = run
        self.endpoint = endpoint
        self.channel = Channel(endpoint)
        self.request_bytes = EMBEDDED_REQUEST_BYTES if endpoint.embedded else REQUEST_BYTES
        self.in_flight = EMBEDDED_IN_FLIGHT if endpoint.embedded else IN_FLIGHT
        self.request_size: RequestSize | None = None

    def __call__(self, item: Item) -> Item:
        with ThreadPoolExecutor(self.in_flight) as pool:
            done = list(pool.map(self.load, item["pieces"]))
        return {"rows": sum(rows for rows, _ in done), "retries": sum(retries for _, retries in done)}

    def load(self, piece: Item) -> tuple[int, int]:
        """Rows sent and requests repeated for a piece: a whole part, or rows first to stop - 1 of it."""
        begun, done = (self.run / LOAD_STATE / f"{piece['name']}.{state}" for state in ("begun", "done"))
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
        request_size = self.request_size = self.request_size or RequestSize(most)
        retries = at = 0
        while at < len(rows):
            requests = -(-(len(rows) - at) // request_size.rows)
            some = slice(at, at + -(-(len(rows) - at) // requests))
            retries += self._write(rows[some], vectors[some], again, request_size)
            at = some.stop
        return retries

    def _write(self, rows: IntArray, vectors: FloatArray, again: bool, request_size: RequestSize) -> int:
        def ask(some: slice, seen: bool) -> None:
            kind = "upsert" if again or seen else "insert"
            place = self.endpoint.collection, self.endpoint.db_name or ""
            self.channel.call(kind.capitalize(), write_request(kind, *place, rows[some], vectors[some]))

        return retry_in_halves(self.endpoint, request_size, len(rows), ask)[1]


def load_stream(run: RunDir, endpoint: Endpoint, store: StoreSection) -> Figures:
    """Send all parts through write actors. Returns: rows_per_second, retries."""
    started = time.perf_counter()
    actors = 1 if store.embedded else 2  # Milvus Lite takes one writer a collection
    names = part_names(run / "vectors")
    in_flight = EMBEDDED_IN_FLIGHT if store.embedded else IN_FLIGHT
    size = min(8, max(in_flight, -(-len(names) // (4 * actors))))  # parts a call: to fill the line, and to share out
    items = [{"pieces": [{"name": name} for name in names[at : at + size]]} for at in range(0, len(names), size)]
    results = map_parts(Loader, items, actors=actors, run=run, endpoint=endpoint)
    rows = sum(result["rows"] for result in results)
    return {
        "rows_per_second": round(rows / (time.perf_counter() - started), 1),
        "retries": sum(result["retries"] for result in results),
    }
