"""labels.parquet in; the ids of a run's records by cluster, packed for a page, out."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clustering.runs.directory import RunDir
from clustering.runs.parts import label_parts, walk_tables
from clustering.text.cells import STRING, shown_strings
from clustering.viewer.page import packed_text

MOST_BYTES = 2_000_000  # of the pack
MOST_RECORDS = 500_000  # of more, the ids hardly fit into that, whatever they are


def pack_ids(run: RunDir, records: int) -> str | None:
    """The ids of the records that are in a cluster of any layer; None for a run whose ids take too much room.

    The pack is JSON: ``text_id``, records of the same clusters after each other; and ``layers``, of each layer the
    clusters of these records, each with how many records follow each other in it.
    records : of the run
    """
    if not 0 < records <= MOST_RECORDS:
        return None
    ids, layers = [pa.array([], STRING)], []
    for table in walk_tables(label_parts(run), ["text_id", "layers"]):
        own = pc.list_flatten(table["layers"]).to_numpy().reshape(len(table), -1) if len(table) else None
        if own is not None:
            held = np.flatnonzero((own >= 0).any(axis=1))
            ids.append(shown_strings(table["text_id"].take(pa.array(held))))
            layers.append(own[held])
    if not layers:
        return None
    joined = np.concatenate(layers)
    order = np.lexsort(joined.T[::-1])
    listed = pc.fill_null(pa.concat_arrays(ids).take(pa.array(order)), "").to_pylist()
    content = {"text_id": listed, "layers": [_stretches(layer) for layer in joined[order].T]}
    pack = packed_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
    return pack if len(pack) <= MOST_BYTES else None


def _stretches(layer: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Each cluster with how many records follow each other in it."""
    return [(label, sum(1 for _ in own)) for label, own in itertools.groupby(layer.tolist())]
