"""Texts in; the run directory with vectors and neighbor lists that ``benchmarks.graph_blocks --run`` takes, out.

    python -m benchmarks.neighbor_lists --texts titles.parquet --column title --k 20 --output lists

Static vectors of the distinct texts; each text is compared with all texts in the partitions around its own. The recall,
by exact search for 2,000 texts, is printed and lies in lists.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clustering import schema
from clustering.config.sections import EmbedSection
from clustering.encoders.static import StaticEncoder
from clustering.kernels.memory import part_rows
from clustering.kernels.partitions import assign_partitions
from clustering.kernels.topk import FloatArray, IntArray, TopK, dot_distance
from clustering.runs.directory import RunDir
from clustering.runs.index import Part, write_index
from clustering.runs.parts import part_name, write_part
from clustering.stages.search import partition_centers

SAMPLE = 2000  # texts that are compared with all others
STEP = 4096  # vectors that are compared at a time


def write_parts(folder: Any, size: int, **columns: Any) -> None:
    """Leave some columns as an artefact. columns : arrays of the rows, and ``schema``"""
    layout = columns.pop("schema")
    written: list[Part] = []
    for part, first in enumerate(range(0, len(columns["row"]), size)):
        arrays = [pa.array(columns[field.name][first : first + size], field.type) for field in layout]
        written.append(write_part(folder, part_name(part), pa.table(arrays, schema=layout)))
    write_index(folder, written)


def nearest(vectors: FloatArray, cell: IntArray, centers: FloatArray, k: int, n_near: int) -> tuple[IntArray, Any]:
    """The k nearest texts in the n_near partitions around each text's own: rows and inner products."""
    found = np.empty((len(vectors), k), np.int64), np.empty((len(vectors), k), np.float32)
    away = np.square(centers[:, None] - centers[None]).sum(axis=2)
    members = [np.flatnonzero(cell == number) for number in range(len(centers))]
    for number, own in enumerate(members):
        near = np.argsort(away[number], kind="stable")[:n_near]
        rows = np.sort(np.concatenate([members[other] for other in near]))
        others = vectors[rows]
        for first in range(0, own.size, STEP):
            some = own[first : first + STEP]
            best = TopK(some.size, k)
            best.scan(vectors[some], some, rows, others)
            found[0][some], found[1][some] = best.rows, best.dots
    return found


def measured_recall(vectors: FloatArray, dots: NDArray[np.float32], k: int) -> float:
    """The share of the true k nearest of a sample that are as near as those found."""
    sample = np.sort(np.random.default_rng(0).choice(len(vectors), min(SAMPLE, len(vectors)), replace=False))
    best = TopK(sample.size, k)
    best.scan(vectors[sample], sample, np.arange(len(vectors)), vectors)
    return float((dots[sample] >= best.dots[:, -1:] - 1e-6).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--column", default="title")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--near", type=int, default=24, help="partitions that a text is compared with")
    parser.add_argument("--output", type=Path, required=True)
    words = parser.parse_args()
    started = time.perf_counter()
    column = pq.read_table(words.texts, columns=[words.column])[words.column].drop_null()
    counts = column.value_counts()  # by first appearance
    texts, copies = counts.field("values"), counts.field("counts").to_numpy().astype(np.int32)
    encoder = StaticEncoder(EmbedSection(encoder="static"))
    batches = (texts.slice(first, STEP).to_pylist() for first in range(0, len(texts), STEP))
    vectors = np.concatenate([encoder.encode(batch).vectors for batch in batches])
    known = vectors.any(axis=1)  # a text of unknown tokens has no neighbors; it is left out here
    texts, copies, vectors = texts.filter(pa.array(known)), copies[known], vectors[known]
    n_texts, run = len(texts), RunDir(words.output)
    row, size = np.arange(n_texts), part_rows(n_texts, vectors.shape[1], 70)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    write_parts(run / "texts", size, schema=schema.TEXTS, row=row, text=texts, copies=copies)
    write_parts(run / "vectors", size, schema=schema.vectors_schema(vectors.shape[1]), row=row, vector=wide)
    centers = partition_centers(run, n_texts, 0)
    cell = assign_partitions(vectors, centers)
    found, dots = nearest(vectors, cell, centers, words.k, words.near)
    ends = pa.array(np.arange(0, found.size + 1, words.k, dtype=np.int32))
    lists = [pa.ListArray.from_arrays(ends, pa.array(one.ravel())) for one in (found, dot_distance(dots, "L2"))]
    columns = dict(zip(schema.NEIGHBORS.names, [row, *lists, cell], strict=True))
    write_parts(run / "neighbors", size, schema=schema.NEIGHBORS, **columns)
    told = {
        "file": words.texts.name, "texts": n_texts, "k": words.k, "partitions": len(centers), "near": words.near,
        "recall": round(measured_recall(vectors, dots, words.k), 4), "seconds": round(time.perf_counter() - started),
    }  # fmt: skip
    (words.output / "lists.json").write_text(json.dumps(told), encoding="utf-8")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
