"""Artefacts in; the arrays that kernels work on out."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.config.sections import GraphSection
from clustering.errors import StageError
from clustering.kernels.graph.blocks import Block
from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.forest import Forest, row_dtype
from clustering.kernels.graph.group_sizes import GroupSizes
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns, walk_neighbors
from clustering.runs.storage import Location, load_array, read_table, save_array, write_json

BLOCK_ARRAYS = tuple(one.name for one in fields(Block))
TRANSFERS = len(BLOCK_ARRAYS)  # files of a block that are written or read at once


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


@dataclass(frozen=True)
class BlockIndex:
    """What blocks.json says of a graph in blocks: each block's rows, entries of the graph, and of the lists."""

    n_texts: int
    rows: list[int]
    edges: list[int]
    list_entries: list[int]

    def __len__(self) -> int:
        return len(self.rows)


def block_index(run: RunDir) -> BlockIndex:
    """The sizes of the blocks of the run's graph; its length is their number. Raises: StageError without a graph."""
    try:
        return BlockIndex(**json.loads((run / "graph" / "blocks.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        raise StageError(f"{run / 'graph'} holds no finished graph; run the stage graph first") from None


def write_block_index(run: RunDir, index: BlockIndex) -> None:
    """Write blocks.json, which makes the blocks a finished graph."""
    write_json(run / "graph" / "blocks.json", vars(index))


def block_folder(run: RunDir, number: int) -> Location:
    return run / "graph" / f"block-{number:05d}"


def save_block(run: RunDir, number: int, block: Block) -> None:
    """Write a block of the graph as memory-mappable arrays."""
    folder = block_folder(run, number)
    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(lambda name: save_array(folder / f"{name}.npy", getattr(block, name)), BLOCK_ARRAYS))


def load_block(run: RunDir, number: int) -> Block:
    """A block of the run's graph, memory-mapped. Raises: StageError when it is missing."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        return Block(*pool.map(lambda name: load_block_array(run, number, name), BLOCK_ARRAYS))


def load_block_array(run: RunDir, number: int, name: str) -> Any:
    """One array of a block, memory-mapped; name : a field of ``Block``. Raises: StageError when it is missing."""
    path = block_folder(run, number) / f"{name}.npy"
    try:
        return load_array(path, mapped=True)
    except FileNotFoundError:
        raise StageError(f"{path.parent.parent} holds no finished graph ({path} is missing)") from None


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
