"""A collection and vectors/ in; the rows that it lacks, doubles or holds wrongly, out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clustering.errors import StoreError
from clustering.kernels.topk import IntArray
from clustering.milvus.channel import Channel
from clustering.milvus.collection import DESCRIPTION_PREFIX, ChangedError
from clustering.milvus.endpoint import Endpoint, connected
from clustering.milvus.index import load_collection
from clustering.milvus.protocol import ROW, VECTOR, column_of
from clustering.milvus.retry import retry
from clustering.runs.directory import RunDir
from clustering.runs.parts import parts, read_rows, rows_without_vector, vectors_of
from clustering.runs.storage import read_table
from clustering.workers.pool import Item

KEYS_PER_QUERY = 8192  # servers list 16,384 at most
AUDIT_ROUNDS = 3
AUDIT_SAMPLE = 200  # vectors that are read back


def audit_collection(run: RunDir, channel: Channel, n_texts: int, attempt: int = 0) -> list[Item]:
    """What the collection lacks, doubles or holds wrongly, as pieces of vectors/ to be loaded again; [] when whole.

    The count of entities comes first and waits for all writes. Every key is listed, range by range; the count shows
    doubled keys, which a list does not; a sample of vectors, another one at each attempt, is compared bit by bit.
    Raises: StoreError for entities that are no rows of this run.
    """
    endpoint = channel.endpoint
    total, _ = retry(endpoint, lambda _: channel.count())
    spans = [(path.name, *_span(path)) for path in parts(run / "vectors")]
    without = rows_without_vector(run / "vectors")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda span: _wrong_rows(channel, span[0], span[1], span[2], without), spans))
    wrong = [piece for pieces, _ in found for piece in pieces]
    listed = sum(count for _, count in found)
    if total > listed:
        outside, _ = retry(endpoint, lambda _: channel.count(f"{ROW} < 0 or {ROW} >= {n_texts}"))
        if outside:
            raise StoreError(
                f"{endpoint} holds {outside} entities that are no rows of this "
                f"run; somebody else writes to it. Drop it, or choose another store.collection"
            )
        with ThreadPoolExecutor(4) as pool:
            counts = list(pool.map(lambda span: _count(channel, *span[1:]), spans))
        doubled = [span for span, (_, keys), count in zip(spans, found, counts, strict=True) if count > keys]
        named = {(piece["name"]) for piece in wrong}
        wrong += [{"name": name, "first": a, "stop": b} for name, a, b in doubled if name not in named]
    if not wrong:
        wrong = _wrong_vectors(run, channel, spans, without, attempt)
    return wrong


def _span(path: Any) -> tuple[int, int]:
    """First row of a part of vectors/, and the one after its last."""
    rows = read_table(path, columns=["row"])["row"]
    return int(rows[0].as_py()), int(rows[-1].as_py()) + 1


def _count(channel: Channel, first: int, stop: int) -> int:
    return retry(channel.endpoint, lambda _: channel.count(f"{ROW} >= {first} and {ROW} < {stop}"))[0]


def _keys(channel: Channel, first: int, stop: int) -> IntArray:
    """The keys from first to stop - 1 that the collection has."""
    words = f"{ROW} >= {first} and {ROW} < {stop}"
    fields, _ = retry(
        channel.endpoint, lambda failures: channel.query(words, [ROW], KEYS_PER_QUERY, strong=failures > 0)
    )
    found = [column_of(field).to_numpy() for field in fields if field.field_name == ROW]
    return np.concatenate([np.empty(0, np.int64), *found])


def _wrong_rows(channel: Channel, name: str, first: int, stop: int, without: IntArray) -> tuple[list[Item], int]:
    """Runs of rows of a part that the collection lacks, and how many keys it has. without : rows that have no vector"""
    held = np.zeros(stop - first, bool)
    for start in range(first, stop, KEYS_PER_QUERY):
        end = min(start + KEYS_PER_QUERY, stop)
        held[_keys(channel, start, end) - first] = True
    lacking = ~held
    lacking[without[(without >= first) & (without < stop)] - first] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lacking, [0]]))) + first
    runs = [{"name": name, "first": int(a), "stop": int(b)} for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return runs, int(held.sum())


def _wrong_vectors(run: RunDir, channel: Channel, spans: list[Any], without: IntArray, attempt: int) -> list[Item]:
    """The parts of a sample of rows whose stored vectors are not equal to those of vectors/."""
    n_texts = spans[-1][2]
    rng = np.random.default_rng([n_texts, attempt])
    rows = np.setdiff1d(rng.choice(n_texts, min(AUDIT_SAMPLE, n_texts), replace=False), without)
    if not rows.size:
        return []
    words = f"{ROW} in [{', '.join(map(str, rows))}]"
    fields, _ = retry(channel.endpoint, lambda failures: channel.query(words, [ROW, VECTOR], strong=failures > 0))
    columns = {field.field_name: column_of(field) for field in fields}
    differ = rows
    if columns:
        held = columns[ROW].to_numpy()
        stored = columns[VECTOR].flatten().to_numpy().reshape(len(held), -1)
        sent = vectors_of(read_rows(run / "vectors", rows, ["vector"]))
        equal = held[(stored == sent[np.searchsorted(rows, held)]).all(axis=1)]
        differ = np.setdiff1d(rows, equal)  # a row that is not there, too
    return [
        {"name": name, "first": first, "stop": stop}
        for name, first, stop in spans
        if ((differ >= first) & (differ < stop)).any()
    ]


def describe_pieces(pieces: list[Item]) -> str:
    shown = ", ".join(f"rows {piece['first']} to {piece['stop'] - 1}" for piece in pieces[:5])
    return shown + (f" and {len(pieces) - 5} more ranges" if len(pieces) > 5 else "")


def confirm_store(endpoint: Endpoint, n_vectors: int, run_id: str, fingerprint: str) -> None:
    """Before the search: the collection is still this run's and holds every vector (a run may go on days later).

    Raises: ChangedError when it holds more or fewer; StoreError when it is gone, or another.
    """
    with connected(endpoint) as client, Channel(endpoint) as channel:
        if not client.has_collection(endpoint.collection):
            raise StoreError(f"collection {endpoint.collection} is gone from {endpoint.uri}")
        found = client.describe_collection(endpoint.collection)
        if found.get("description") != f"{DESCRIPTION_PREFIX} {run_id} {fingerprint}":
            raise StoreError(f"{endpoint} has been made anew by another start")
        load_collection(channel)
        total, _ = retry(endpoint, lambda _: channel.count())
    if total != n_vectors:
        raise ChangedError(f"collection {endpoint.collection} holds {total} vectors in place of {n_vectors}")


def confirm_unchanged(run: RunDir, endpoint: Endpoint, n_vectors: int) -> None:
    """After the search: nobody has taken, added or changed entities meanwhile, or lists would lack true neighbors.

    Raises: ChangedError when the count of entities, or one of a sample of keys and vectors, differs.
    """
    with Channel(endpoint) as channel:
        total, _ = retry(endpoint, lambda _: channel.count())
        spans = [(path.name, *_span(path)) for path in parts(run / "vectors")]
        wrong = _wrong_vectors(run, channel, spans, rows_without_vector(run / "vectors"), AUDIT_ROUNDS + 1)
    if total != n_vectors or wrong:
        found = f"holds {total} entities in place of {n_vectors}"
        if total == n_vectors:
            found = f"differs in {describe_pieces(wrong)}"
        raise ChangedError(
            f"{endpoint} has changed while it was searched: it {found}. Somebody "
            f"else writes to it. What was found is given up; when nobody does any more, the same command loads what "
            f"is missing and searches again"
        )
