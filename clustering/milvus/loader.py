"""vectors/ in, entities of a collection out, by write requests that may be repeated."""

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

REQUEST_BYTES = 12 << 20  # of a write request; servers take 64 MiB at most, and split a larger request themselves
IN_FLIGHT = 2  # requests of an actor that wait for the server at the same time
# The embedded server copies the whole request for each of its rows; benchmarks/embedded_store.py measures sizes.
EMBEDDED_REQUEST_BYTES = 512 << 10
EMBEDDED_IN_FLIGHT = 1  # it works on one write at a time


class Loader:
    """Send pieces of vectors/ to the collection, column by column; a server gets several requests at a time.

    A piece is inserted where nothing of it can lie there yet. Where something may, because a worker ended or a reply
    was lost, it is upserted, which leaves one entity a key however often it is repeated.
    """

    def __init__(self, run: RunDir, endpoint: Endpoint) -> None:
        self.run, self.endpoint, self.channel = run, endpoint, Channel(endpoint)
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
        is_part = "first" not in piece
        if is_part and done.exists():
            return 0, 0
        again = not is_part or begun.exists()
        if is_part:
            touch(begun)
        rows, vectors = stored_vectors(read_table(self.run / "vectors" / piece["name"]))
        if not is_part:
            within = (rows >= piece["first"]) & (rows < piece["stop"])
            rows, vectors = rows[within], vectors[within]
        retries = self.send(rows, vectors, again)
        if is_part:
            touch(done)
        return len(rows), retries

    def send(self, rows: IntArray, vectors: FloatArray, again: bool) -> int:
        """Write rows in requests of about the same size; return how often requests were repeated.

        rows : int64, shape (n_rows,); vectors : float32, shape (n_rows, dim)
        again : whether some of the rows may be stored already
        Raises: StoreError as ``retry`` does.
        """
        most = max(1, self.request_bytes // (4 * vectors.shape[1]))
        request_size = self.request_size = self.request_size or RequestSize(most)
        retries = start = 0
        while start < len(rows):
            n_requests = -(-(len(rows) - start) // request_size.rows)
            part = slice(start, start + -(-(len(rows) - start) // n_requests))
            retries += self._write(rows[part], vectors[part], again, request_size)
            start = part.stop
        return retries

    def _write(self, rows: IntArray, vectors: FloatArray, again: bool, request_size: RequestSize) -> int:
        def ask(part: slice, seen: bool) -> None:
            kind = "upsert" if again or seen else "insert"
            request = write_request(kind, rows=rows[part], vectors=vectors[part], **self.endpoint.target)
            self.channel.call(kind.capitalize(), request)

        return retry_in_halves(self.endpoint, request_size, len(rows), ask)[1]


def load_stream(run: RunDir, endpoint: Endpoint, store: StoreSection) -> Figures:
    """Send all parts through actors that write. Returns: rows_per_second, retries."""
    started = time.perf_counter()
    actors = 1 if store.embedded else 2  # Milvus Lite takes one writer for a collection
    names = part_names(run / "vectors")
    in_flight = EMBEDDED_IN_FLIGHT if store.embedded else IN_FLIGHT
    size = min(
        8, max(in_flight, -(-len(names) // (4 * actors)))
    )  # parts a call: enough to keep requests in flight, few enough to share out
    items = [{"pieces": [{"name": name} for name in names[at : at + size]]} for at in range(0, len(names), size)]
    results = map_parts(Loader, items, actors=actors, run=run, endpoint=endpoint)
    rows = sum(result["rows"] for result in results)
    return {
        "rows_per_second": round(rows / (time.perf_counter() - started), 1),
        "retries": sum(result["retries"] for result in results),
    }
