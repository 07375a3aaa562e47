"""Artefacts in; the arrays that kernels work on out."""

from __future__ import annotations

import json
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from clustering.config.sections import GraphSection
from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.forest import Forest, row_dtype
from clustering.kernels.graph.group_sizes import GroupSizes
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns, walk_neighbors
from clustering.runs.storage import read_table


def read_neighbor_lists(
    run: RunDir, names: list[str], k: int, section: GraphSection, metric: str, n_texts: int
) -> NeighborLists:
    """The neighbor lists of some parts of neighbors/, with only the entries that become edges of the graph.

    names : consecutive parts of texts/; a part that neighbors/ does not have gives empty lists (a single text)
    k : neighbors of each text that count, the nearest first; n_texts : of the whole run
    Returns: lists with Euclidean distances for every metric: of unit vectors, the root of twice the cosine distance.
    """
    rows = [read_table(run / "texts" / name, columns=["row"])["row"] for name in names]
    first = rows[0][0].as_py() if rows else 0
    indptr = np.zeros(sum(map(len, rows)) + 1, np.int64)
    others, distances = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    for row, _, other, distance in walk_neighbors(run, k, section.max_distance, names):
        if row.size:
            indptr[row[0] - first + 1 : row[-1] - first + 2] = np.bincount(row - row[0])
        others.append(other.astype(row_dtype(n_texts), copy=False))
        euclidean = distance if metric == "L2" else np.sqrt(2 * distance)
        distances.append(np.maximum(euclidean, np.float32(MIN_DISTANCE)))
    return NeighborLists(first, np.cumsum(indptr), np.concatenate(others), np.concatenate(distances))


def text_digests(run: RunDir, names: list[str]) -> NDArray[np.uint64]:
    """A digest of each text in some parts of texts/: uint64, shape (n_texts,)."""
    keys = [np.empty(0, np.uint64)]
    for name in names:
        texts = read_table(run / "texts" / name, columns=["text"])["text"].to_pylist()
        digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts)
        keys.append(np.frombuffer(digests, "<u8").astype(np.uint64))
    return np.concatenate(keys)


def load_copies(run: RunDir) -> NDArray[np.int32]:
    """How many records have each distinct text: int32, shape (n_texts,)."""
    return read_columns(run / "texts", ["copies"])["copies"].to_numpy()  # type: ignore[no-any-return]


def load_forest(run: RunDir) -> Forest:
    """The edges of the run's minimum spanning forest, ascending by distance."""
    table = read_columns(run / "forest", ["left", "right", "distance"])
    return Forest(*(table[name].to_numpy() for name in ("left", "right", "distance")))


def load_group_sizes(run: RunDir) -> GroupSizes:
    """The sizes of the run's small groups, which the forest stage has counted."""
    return GroupSizes(**json.loads((run / "forest" / "grain.json").read_text(encoding="utf-8")))
