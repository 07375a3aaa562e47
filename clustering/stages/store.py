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
from clustering.milvus.loader import Loader, load_stream
from clustering.runs.directory import RunDir
from clustering.runs.parts import rows_without_vector
from clustering.schema import Figures
from clustering.workers.pool import map_parts

log = logging.getLogger("covey")


def store_vectors(
    run: RunDir, endpoint: Endpoint, store: StoreSection, n_texts: int, dim: int, fingerprint: str
) -> Figures:
    """Load every vector that is there under its row as key, build the index, and audit what the collection holds.

    fingerprint : of vectors and index; this run's collection is made anew when it has another one
    Returns: collection, index, metric, rows, rows_per_second, segments, retries, repaired_rows.
    Raises: ConfigError when the collection is somebody else's; StoreError when it cannot be made whole.
    """
    n_vectors = n_texts - rows_without_vector(run / "vectors").size
    with connected(endpoint) as client, Channel(endpoint) as channel:
        prepare_collection(run, client, endpoint.collection, store.metric, dim, fingerprint)
        figures: Figures = {"rows_per_second": None, "retries": 0}
        if (run / LOAD_STATE).exists():  # else a collection that was whole once: the audit says what it lacks
            load = load_bulk if store.load == "bulk" else load_stream
            figures = load(run, endpoint, store)
        figures["segments"] = make_searchable(client, channel, store, n_vectors)
        repaired = 0
        for attempt in range(AUDIT_ROUNDS + 1):
            wrong = audit_collection(run, channel, n_texts, attempt)
            if not wrong:
                break
            if attempt == AUDIT_ROUNDS:
                raise StoreError(
                    f"{endpoint} still lacks or doubles rows after {attempt} "
                    f"repairs: {describe_pieces(wrong)}; drop it and start again with run.resume=false"
                )
            log.warning(
                "store: the collection lacks or doubles %s; loading exactly those again", describe_pieces(wrong)
            )
            repaired += sum(piece["stop"] - piece["first"] for piece in wrong)
            map_parts(Loader, [{"pieces": wrong}], actors=1, run=run, endpoint=endpoint)
            figures["segments"] = make_searchable(client, channel, store, n_vectors)
    run.remove(LOAD_STATE)
    shape = {"index": store.index_type, "metric": store.metric}
    return {"collection": endpoint.collection, **shape, "rows": n_vectors, "repaired_rows": repaired, **figures}
