"""The blocks of a graph in; the quality graph of modularity over them, in one process or on shards, out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from clustering.kernels.graph.diffusion import NeighborLists
from clustering.kernels.graph.forest import IntArray
from clustering.kernels.graph.halo import number_locally
from clustering.kernels.hierarchy import membership
from clustering.kernels.hierarchy.modularity_cut import QualityBlock
from clustering.kernels.hierarchy.tiling import LINKS, count_links, count_steps
from clustering.kernels.memory import quality_shard
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import block_index, load_block_array
from clustering.workers.graph.halo import HaloExchange, Kept, OneShard, open_shards

LISTS = ("list_indptr", "list_indices", "list_distances")  # arrays of a block
Sums = tuple[IntArray, IntArray, IntArray]  # clusters, and ``inside`` and ``volume`` of each


@dataclass(frozen=True)
class NeighborShard:
    """The first neighbors of the rows of a block.

    rows, halo : int64, ascending, the own rows and the others that are listed
    nearest : int32 or int64, shape (n_own, q), rows of the whole run, -1 where a list is shorter
    local : int32, same shape, the same in local numbers
    copies : int32, shape (n_own,), records of each row
    links : int32 or int64, shape (n_own, LINKS), as ``nearest``; steps : from ``count_steps``, of the stored distances
    """

    rows: IntArray
    halo: IntArray
    nearest: NDArray[Any]
    local: NDArray[Any]
    copies: NDArray[np.int32]
    links: NDArray[Any]
    steps: IntArray


def load_shard(run: RunDir, q: int, number: int) -> NeighborShard:
    """The first q neighbors of each row of a block of the run's graph."""
    rows, copies, *held = (load_block_array(run, number, name) for name in ("rows", "copies", *LISTS))
    lists = NeighborLists(*held)
    links = lists.nearest(LINKS)
    nearest = lists.nearest(q)
    listed = nearest >= 0
    local = np.full(nearest.shape, -1, nearest.dtype)
    local[listed], halo = number_locally(rows, nearest[listed])
    return NeighborShard(np.asarray(rows), halo, nearest, local, np.asarray(copies), links, count_steps(lists))


class ShardedQuality:
    """A ``QualityGraph`` of all blocks. Sums are of integers, so any number of shards gives the same."""

    def __init__(self, shards: OneShard | HaloExchange, shared: bool, weigh: bool) -> None:
        self.shards = shards
        lists = shards.exchange(_lists) if shared else None
        self.blocks: QualityBlock | Kept = shards.keep(_weigh_edges, lists, weigh)

    def sum_over(self, leaf: IntArray, parent: NDArray[np.int32], size: IntArray) -> tuple[IntArray, IntArray]:
        inside, volume = np.zeros(parent.size, np.int64), np.zeros(parent.size, np.int64)
        tree = (self.shards.share(one) for one in (leaf.astype(np.int32), parent, size))
        for clusters, more_inside, more_volume in self.shards.each(_sum_over, self.blocks, *tree):
            inside[clusters] += more_inside
            volume[clusters] += more_volume
        return inside, volume

    def between(self, unit: IntArray, n_units: int) -> csr_array:
        total = csr_array((n_units, n_units), dtype=np.int64)
        for some in self.shards.each(_between, self.blocks, self.shards.share(unit.astype(np.int32)), n_units):
            total = total + csr_array(some)
        return total

    def count_links(self, home: IntArray, most: IntArray) -> tuple[IntArray, IntArray]:
        """The sums of ``count_links`` and ``count_steps`` over all blocks."""
        shared = (self.shards.share(one.astype(np.int32)) for one in (home, most))
        links, steps = np.sum(list(self.shards.each(_count_links, *shared)), axis=0)
        return links, steps

    def count_kept_links(self, layers: NDArray[np.int32], most: IntArray) -> IntArray:
        """The sums of ``count_kept_links`` over all blocks."""
        counts = np.zeros((2, most.size), np.int64)
        for some in self.shards.each(_count_kept_links, self.shards.share(layers), self.shards.share(most)):
            counts += some
        return counts


def count_kept_links(run: RunDir, layers: NDArray[np.int32], most: IntArray) -> IntArray:
    """The same without a quality graph: block after block in this process."""
    counts = np.zeros((2, most.size), np.int64)
    for number in range(len(block_index(run))):
        rows, *lists = (load_block_array(run, number, name) for name in ("rows", *LISTS))
        nearest = NeighborLists(*lists).nearest(membership.LINKS)
        counts += membership.count_kept_links(rows, nearest, layers, most)
    return counts


@contextmanager
def open_quality_graph(run: RunDir, q: int, *, shared: bool, weigh: bool) -> Iterator[ShardedQuality]:
    """The quality graph of the first q neighbors in the run's graph, for the length of the block.

    shared, weigh : whether edges weigh by common neighbors, and by the records of the row that lists them
    """
    index = block_index(run)
    sizes = zip(index.rows, index.list_halo, strict=True)
    memory = [quality_shard(rows, min(halo, rows * q), q) for rows, halo in sizes]
    with open_shards(partial(load_shard, run, q), len(index), index.n_texts, memory) as shards:
        yield ShardedQuality(shards, shared, weigh)


def _lists(shard: NeighborShard) -> NDArray[Any]:
    return shard.nearest


def _weigh_edges(shard: NeighborShard, lists: NDArray[Any] | None, weigh: bool) -> QualityBlock:
    every = not shard.halo.size and shard.rows.size == shard.rows.max(initial=-1) + 1  # the only shard
    rows = None if every else np.concatenate([shard.rows, shard.halo])
    return QualityBlock.of(shard.local, lists is not None, shard.copies if weigh else None, rows, lists)


def _count_links(shard: NeighborShard, home: Any, most: Any) -> IntArray:
    return np.stack([count_links(shard.rows, shard.links, home, most), shard.steps])


def _count_kept_links(shard: NeighborShard, layers: Any, most: Any) -> IntArray:
    return membership.count_kept_links(shard.rows, shard.links[:, : membership.LINKS], layers, most)


def _sum_over(_: NeighborShard, block: QualityBlock, leaf: Any, parent: Any, size: Any) -> Sums:
    inside, volume = block.sum_over(leaf, parent, size)
    some = np.flatnonzero((inside != 0) | (volume != 0))
    return some, inside[some], volume[some]


def _between(_: NeighborShard, block: QualityBlock, unit: Any, n_units: int) -> coo_array:
    return coo_array(block.between(unit, n_units))
