"""vectors/ in, a Milvus collection with one entity for each row out, audited before it is searched."""

from __future__ import annotations

import logging

from clustering.config.sections import StoreSection
from clustering.errors import StoreError
from clustering.milvus.audit import AUDIT_ROUNDS, audit_collection, describe_pieces
from clustering.milvus.bulk import load_bulk
from clustering.milvus.channel import Channel
from clustering.milvus.collection import LOAD_STATE, prepare_collection
from clustering.milvus.endpoint import Endpoint, connected
from clustering.milvus.index import make_searchable
from clustering.milvus.loader import load_pieces, load_stream
from clustering.runs.directory import RunDir
from clustering.runs.parts import rows_without_vector
from clustering.schema import Figures

log = logging.getLogger("covey")


def store_vectors(
    run: RunDir, endpoint: Endpoint, store: StoreSection, n_texts: int, dim: int, fingerprint: str
) -> Figures:
    """Load every vector with its row as key, build the index, and audit what the collection holds.

    fingerprint : of vectors and index; this run's collection is made anew when it has another one
    Returns: collection, index, metric, rows, rows_per_second, segments, retries, repaired_rows.
    Raises: ConfigError when the collection is somebody else's; StoreError when it cannot be repaired.
    """
    n_vectors = n_texts - rows_without_vector(run / "vectors").size
    with connected(endpoint) as client, Channel(endpoint) as channel:
        fresh = prepare_collection(run, client, endpoint.collection, store, dim, fingerprint)
        figures: Figures = {"rows_per_second": None, "retries": 0}
        if (run / LOAD_STATE).exists():  # else the collection was complete once; the audit finds what it lacks
            bulk = store.load == "bulk"
            figures = load_bulk(run, endpoint, store) if bulk else load_stream(run, endpoint, store, fresh)
        segments = make_searchable(client, channel, store, n_vectors)
        repaired = attempt = 0
        while wrong := audit_collection(run, channel, n_texts, attempt):
            pieces = describe_pieces(wrong)
            if attempt == AUDIT_ROUNDS:
                raise StoreError(
                    f"{endpoint} still lacks or doubles rows after {attempt} repairs: {pieces}; drop it and start "
                    f"again with run.resume=false"
                )
            log.warning("store: the collection lacks or doubles %s; loading exactly those again", pieces)
            repaired += sum(piece["stop"] - piece["first"] for piece in wrong)
            load_pieces(run, endpoint, store, wrong)
            segments = make_searchable(client, channel, store, n_vectors)
            attempt += 1
    run.remove(LOAD_STATE)
    return {
        "collection": endpoint.collection,
        "index": store.index_type,
        "metric": store.metric,
        "rows": n_vectors,
        "repaired_rows": repaired,
        **figures,
        "segments": segments,
    }
