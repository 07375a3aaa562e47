"""vectors/ in, entities of a collection out, by write requests that may be repeated."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from operator import itemgetter

import numpy as np
import pyarrow as pa

from clustering.config.sections import StoreSection
from clustering.kernels.topk import FloatArray, IntArray
from clustering.milvus.channel import Channel
from clustering.milvus.collection import LOAD_STATE
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.protocol import write_request
from clustering.milvus.retry import RequestSize, retry_in_halves
from clustering.runs.directory import RunDir
from clustering.runs.index import IndexWriter, read_index
from clustering.runs.parts import read_ahead, read_rows, stored_vectors, walk_tables
from clustering.schema import Figures
from clustering.workers.pool import Item, map_parts

REQUEST_BYTES = 12 << 20  # of a write request; servers take 64 MiB at most, and split a larger request themselves
LOADERS_PER_NODE = 2
IN_FLIGHT = 2  # requests of an actor that wait for the server at the same time
# The embedded server copies the whole request for each of its rows; benchmarks/embedded_store.py measures sizes.
EMBEDDED_REQUEST_BYTES = 512 << 10
EMBEDDED_IN_FLIGHT = 1  # it works on one write at a time


class Loader:
    """Send pieces of vectors/ to the collection, column by column; a server gets several requests at a time.

    A piece is inserted where nothing of it can lie there yet. Where something may, because a worker ended or a reply
    was lost, it is upserted, which leaves one entity a key however often it is repeated.
    again : whether that holds for all pieces
    """

    def __init__(self, run: RunDir, endpoint: Endpoint, again: bool = True) -> None:
        self.run, self.endpoint, self.channel, self.again = run, endpoint, Channel(endpoint), again
        self.request_bytes = EMBEDDED_REQUEST_BYTES if endpoint.embedded else REQUEST_BYTES
        self.in_flight = EMBEDDED_IN_FLIGHT if endpoint.embedded else IN_FLIGHT
        self.request_size: RequestSize | None = None

    def __call__(self, item: Item) -> Item:
        done = [self.load(piece, self.again or item.get("again", False)) for piece in item["pieces"]]
        return {"rows": sum(rows for rows, _ in done), "retries": sum(retries for _, retries in done), **item}

    def load(self, piece: Item, again: bool = False) -> tuple[int, int]:
        """Rows sent and requests repeated for a piece: a whole part, or rows first to stop - 1 of it.

        again : whether some of its rows may be stored already
        """

        def send(table: pa.Table) -> tuple[int, int]:
            rows, vectors = stored_vectors(table)
            return len(rows), self.send(rows, vectors, again)

        tables: Iterable[pa.Table] = walk_tables([self.run / "vectors" / piece["name"]])
        if "first" in piece:
            rows = np.arange(piece["first"], piece["stop"])
            tables = [read_rows(self.run / "vectors", rows, ["row", "vector"])]
        sent = list(read_ahead(send, tables, self.in_flight))
        return sum(rows for rows, _ in sent), sum(retries for _, retries in sent)

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
            request = write_request(
                kind, rows=rows[part], vectors=vectors[part], vector_type=self.endpoint.vector_type,
                **self.endpoint.target,
            )  # fmt: skip
            self.channel.call(kind.capitalize(), request)

        return retry_in_halves(self.endpoint, request_size, len(rows), ask)[1]


def load_stream(run: RunDir, endpoint: Endpoint, store: StoreSection, fresh: bool) -> Figures:
    """Send all parts through actors that write; those that the index of loaded/ lists are stored already.

    fresh : whether this start has made the collection, so that nothing is stored
    Returns: rows_per_second, retries.
    """
    started = time.perf_counter()
    vectors, done = read_index(run / "vectors"), read_index(run / LOAD_STATE)
    items = [{"pieces": [{"name": name}]} for name in vectors.names if name not in done]
    with IndexWriter(run / LOAD_STATE, done) as index:
        results = map_parts(
            Loader, items, actors=_actors(store), per_node=LOADERS_PER_NODE, run=run, endpoint=endpoint,
            again=not fresh, take=lambda result: index.add(vectors[result["pieces"][0]["name"]]),
        )  # fmt: skip
    rows = sum(result["rows"] for result in results)
    return {
        "rows_per_second": round(rows / (time.perf_counter() - started), 1),
        "retries": sum(result["retries"] for result in results),
    }


def load_pieces(run: RunDir, endpoint: Endpoint, store: StoreSection, pieces: list[Item]) -> None:
    """Send pieces of vectors/ again. pieces : with name, first and stop"""
    items = [{"pieces": list(own)} for _, own in itertools.groupby(pieces, itemgetter("name"))]
    map_parts(Loader, items, actors=_actors(store), per_node=LOADERS_PER_NODE, run=run, endpoint=endpoint)


def _actors(store: StoreSection) -> int | None:
    return 1 if store.embedded else store.actors  # Milvus Lite takes one writer for a collection
