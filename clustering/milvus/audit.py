"""A collection and vectors/ in; which rows the collection lacks, doubles or holds wrongly, out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from clustering.errors import StoreError
from clustering.kernels.topk import IntArray
from clustering.milvus.channel import Channel
from clustering.milvus.collection import ChangedError, describe, description_of
from clustering.milvus.endpoint import Endpoint, connected
from clustering.milvus.index import load_collection
from clustering.milvus.protocol import ROW, VECTOR, column_of, decode, encode
from clustering.milvus.retry import retry
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import read_rows, rows_without_vector, vectors_of
from clustering.workers.pool import Item

KEYS_PER_QUERY = 8192  # servers list 16,384 at most
AUDIT_ROUNDS = 3
AUDIT_SAMPLE = 200  # vectors that are compared


class Rows(NamedTuple):
    """The rows first to stop - 1, which lie in one part of vectors/."""

    name: str
    first: int
    stop: int

    @property
    def expression(self) -> str:
        return f"{ROW} >= {self.first} and {ROW} < {self.stop}"

    def select(self, rows: IntArray) -> IntArray:
        return rows[(rows >= self.first) & (rows < self.stop)]


def audit_collection(run: RunDir, channel: Channel, n_texts: int, attempt: int = 0) -> list[Item]:
    """What the collection lacks, doubles or holds wrongly, as pieces of vectors/ to load again; [] when it is complete.

    The count of entities comes first and waits for all writes. Every key is listed, range by range; the count shows
    doubled keys, which a list does not; a sample of vectors, another one at each attempt, is compared bit by bit.
    Raises: StoreError for entities that are no rows of this run.
    """
    endpoint = channel.endpoint
    total = _count(channel)
    ranges, without = _ranges_of_vectors(run), rows_without_vector(run / "vectors")

    def look(part: Rows) -> tuple[int, list[Rows]]:  # the keys themselves are dropped at once
        stored = _stored_keys(channel, part)
        return stored.size, _missing(part, stored, without)

    with ThreadPoolExecutor(4) as pool:
        sizes, missing = zip(*pool.map(look, ranges), strict=True)
    wrong = [piece for pieces in missing for piece in pieces]
    if total > sum(sizes):
        foreign = _count(channel, f"{ROW} < 0 or {ROW} >= {n_texts}")
        if foreign:
            raise StoreError(
                f"{endpoint} holds {foreign} entities that are no rows of this run; somebody else writes to it. Drop "
                f"it, or choose another store.collection"
            )
        with ThreadPoolExecutor(4) as pool:
            counts = list(pool.map(lambda part: _count(channel, part.expression), ranges))
        wrong += [
            part for part, size, count, lost in zip(ranges, sizes, counts, missing, strict=True)
            if count > size and not lost
        ]  # fmt: skip
    return [piece._asdict() for piece in wrong or _wrong_vectors(run, channel, ranges, without, attempt)]


def _ranges_of_vectors(run: RunDir) -> list[Rows]:
    """The rows of vectors/ in ranges of at most KEYS_PER_QUERY."""
    return [
        Rows(part.name, first, min(first + KEYS_PER_QUERY, part.first + part.rows))
        for part in read_index(run / "vectors")
        for first in range(part.first, part.first + part.rows, KEYS_PER_QUERY)
    ]


def _count(channel: Channel, expression: str = "") -> int:
    return retry(channel.endpoint, lambda _: channel.count(expression))[0]


def _stored_keys(channel: Channel, part: Rows) -> IntArray:
    """The rows of a part that the collection has, ascending and each once."""

    fields, _ = retry(
        channel.endpoint,
        lambda failures: channel.query(part.expression, [ROW], KEYS_PER_QUERY, strong=failures > 0),
    )
    keys = [column_of(field).to_numpy() for field in fields if field.field_name == ROW]
    return np.unique(np.concatenate([np.empty(0, np.int64), *keys]))


def _missing(part: Rows, stored: IntArray, without: IntArray) -> list[Rows]:
    """The runs of rows of a part that are not stored. without : rows that have no vector"""
    is_missing = np.ones(part.stop - part.first, bool)
    is_missing[stored - part.first] = False
    is_missing[part.select(without) - part.first] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_missing, [0]]))) + part.first
    return [Rows(part.name, int(first), int(stop)) for first, stop in zip(edges[::2], edges[1::2], strict=True)]


def _wrong_vectors(run: RunDir, channel: Channel, ranges: list[Rows], without: IntArray, attempt: int) -> list[Rows]:
    """The parts with sampled rows whose stored vector differs from that of vectors/, or is not there."""
    n_texts = ranges[-1].stop
    rng = np.random.default_rng([n_texts, attempt])
    rows = np.setdiff1d(rng.choice(n_texts, min(AUDIT_SAMPLE, n_texts), replace=False), without)
    if not rows.size:
        return []
    expression = f"{ROW} in [{', '.join(map(str, rows))}]"
    fields, _ = retry(channel.endpoint, lambda failures: channel.query(expression, [ROW, VECTOR], strong=failures > 0))
    columns = {field.field_name: column_of(field) for field in fields}
    wrong = rows
    if columns and len(columns[ROW]):  # of a collection without entities, some servers send empty columns
        keys = columns[ROW].to_numpy()
        stored = columns[VECTOR].flatten().to_numpy().reshape(len(keys), -1)
        kind = channel.endpoint.vector_type
        sent = decode(encode(vectors_of(read_rows(run / "vectors", rows, ["vector"])), kind), kind)
        wrong = np.setdiff1d(rows, keys[(stored == sent[np.searchsorted(rows, keys)]).all(axis=1)])
    return [part for part in ranges if part.select(wrong).size]


def describe_pieces(pieces: list[Item]) -> str:
    """Pieces of vectors/ in words; the first five in full."""
    shown = ", ".join(f"rows {piece['first']} to {piece['stop'] - 1}" for piece in pieces[:5])
    return shown + (f" and {len(pieces) - 5} more ranges" if len(pieces) > 5 else "")


def confirm_store(endpoint: Endpoint, n_vectors: int, run_id: str, fingerprint: str) -> None:
    """Check before the search, perhaps days after the load, that the collection is this run's and has every vector.

    Raises: ChangedError when it holds more or fewer; StoreError when it is gone, or another.
    """
    with connected(endpoint) as client, Channel(endpoint) as channel:
        description = description_of(client, endpoint.collection)
        if description is None:
            raise StoreError(f"collection {endpoint.collection} is gone from {endpoint.uri}")
        if description != describe(run_id, fingerprint):
            raise StoreError(f"{endpoint} has been made anew by another start")
        load_collection(channel)
        total = _count(channel)
    if total != n_vectors:
        raise ChangedError(f"collection {endpoint.collection} holds {total} vectors in place of {n_vectors}")


def confirm_unchanged(run: RunDir, endpoint: Endpoint, n_vectors: int) -> None:
    """Check after the search that nobody wrote to the collection meanwhile; lists would lack true neighbors.

    Raises: ChangedError when the count of entities, or one of a sample of keys and vectors, differs.
    """
    with Channel(endpoint) as channel:
        total, without = _count(channel), rows_without_vector(run / "vectors")
        wrong = _wrong_vectors(run, channel, _ranges_of_vectors(run), without, AUDIT_ROUNDS + 1)
    if total != n_vectors or wrong:
        pieces = describe_pieces([piece._asdict() for piece in wrong])
        change = f"holds {total} entities in place of {n_vectors}" if total != n_vectors else f"differs in {pieces}"
        raise ChangedError(
            f"{endpoint} has changed while it was searched: it {change}. Somebody else writes to it. What was found is "
            f"given up; when nobody does any more, the same command loads what is missing and searches again"
        )
