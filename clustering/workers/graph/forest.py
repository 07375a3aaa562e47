"""Blocks of the graph in; the spanning forest of their edges, core distances and group sizes out, by shards on Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustering.kernels.graph import diffusion
from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.kernels.graph.diffusion import Keys, NeighborLists, Sketch
from clustering.kernels.graph.equal_vectors import EqualEdges, equal_edges
from clustering.kernels.graph.forest import (
    FloatArray,
    Forest,
    IntArray,
    core_distances,
    merge_forests,
    spanning_forest,
)
from clustering.kernels.graph.group_sizes import GroupSizes, count_breaks, measure_group_sizes
from clustering.kernels.graph.halo import number_locally, sorted_positions
from clustering.kernels.memory import forest_shard
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import block_index, load_block_array
from clustering.workers.graph.halo import HaloExchange, OneShard, open_shards


@dataclass
class ForestShard:
    """A block's edges in local numbers, and its neighbor lists.

    rows, halo : int64, own rows, and the others that the edges name, ascending
    edges : the edges that make the forest, with local numbers; entries of the lists, or of the graph
    symmetric : whether each edge is stored in both directions
    keys, copies : uint64 and int32, shape (n_own,)
    breaks, equal : what ``count_breaks`` and ``equal_edges`` find in the lists
    """

    rows: IntArray
    halo: IntArray
    edges: NeighborLists
    symmetric: bool
    keys: Keys
    copies: NDArray[np.int32]
    breaks: IntArray
    equal: EqualEdges
    affinity: FloatArray | None = field(default=None, repr=False)  # while sketches are averaged


@dataclass(frozen=True)
class ShardedForest:
    """The forest of all blocks, and what else the shards find.

    core : float32, shape (n_texts,), core distances; equal : of each shard
    merged_edges : edges that the last merge has read
    n_halo : rows in the halos of all shards
    """

    forest: Forest
    core: FloatArray
    group_sizes: GroupSizes
    equal: list[EqualEdges]
    merged_edges: int
    n_halo: int


def diffused_forest(
    run: RunDir, metric: str, rank: int, weigh: bool, seed: int, unrelated: float, adapt: bool = True
) -> ShardedForest:
    """The forest of the listed edges with diffused lengths. It is the same for any blocks.

    rank : min_samples, 0 for none; weigh : whether copies count as samples
    unrelated : mean squared distance of two texts, for ``count_breaks``
    adapt : whether fewer neighbors are averaged where small groups count
    """
    n_texts = block_index(run).n_texts
    with _open(run, metric, unrelated, diffused=True) as shards:
        group_sizes = measure_group_sizes(np.sum(list(shards.each(_breaks)), axis=0), n_texts)
        n_averaged = group_sizes.n_averaged if adapt else diffusion.AVERAGED
        scales = shards.exchange(_scales, n_averaged // 2)
        sketches = shards.exchange(_draw, seed)
        for _ in range(diffusion.ROUNDS):
            sketches = shards.exchange(_average, n_averaged, scales, sketches)
        lengths = shards.keep(_lengths, sketches)
        del scales, sketches
        copies = shards.exchange(_copies) if weigh and rank else None
        core = shards.exchange(_listed_core, rank, lengths, copies) if rank else None
        return _reduce(shards, n_texts, group_sizes, core, lengths)


def reachability_forest(run: RunDir, metric: str, rank: int, weigh: bool, unrelated: float) -> ShardedForest:
    """The forest of the graph by mutual reachability. It is the same for any blocks. Arguments as above."""
    n_texts = block_index(run).n_texts
    with _open(run, metric, unrelated, diffused=False) as shards:
        group_sizes = measure_group_sizes(np.sum(list(shards.each(_breaks)), axis=0), n_texts)
        copies = shards.exchange(_copies) if weigh else None
        return _reduce(shards, n_texts, group_sizes, shards.exchange(_core, rank, copies), None)


def _open(run: RunDir, metric: str, unrelated: float, *, diffused: bool) -> Any:
    index = block_index(run)
    ends = (index.list_halo, index.list_entries) if diffused else (index.halo, index.edges)
    memory = [forest_shard(*sizes) for sizes in zip(index.rows, *ends, strict=True)]
    return open_shards(partial(load_shard, run, metric, unrelated, diffused), len(index), index.n_texts, memory)


def load_shard(run: RunDir, metric: str, unrelated: float, diffused: bool, number: int) -> ForestShard:
    """A block as a shard: with its lists, in Euclidean distances, as edges; or with its rows of the graph."""
    load = partial(load_block_array, run, number)
    rows, list_indices, distances = load("rows"), load("list_indices"), load("list_distances")
    euclidean = distances * np.float32(1 if metric == "L2" else 2)
    if metric != "L2":
        np.sqrt(euclidean, out=euclidean)
    np.maximum(euclidean, np.float32(MIN_DISTANCE), out=euclidean)
    lists = NeighborLists(load("list_indptr"), list_indices, euclidean)
    breaks, equal = count_breaks(lists, unrelated), equal_edges(lists, rows, MIN_DISTANCE)
    indptr, indices, lengths = (
        (lists.indptr, list_indices, lists.distances) if diffused else map(load, ("indptr", "indices", "data"))
    )
    local, halo = number_locally(rows, indices)
    edges = NeighborLists(indptr, local, lengths)
    return ForestShard(rows, halo, edges, not diffused, load("keys"), load("copies"), breaks, equal)


def _reduce(
    shards: OneShard | HaloExchange, n_texts: int, group_sizes: GroupSizes, core: Any, lengths: Any
) -> ShardedForest:
    equal, of_rows = [], np.zeros(n_texts, np.float32)
    for rows, some, values in shards.each(_equal_and_core, core):
        equal.append(some)
        if values is not None:
            of_rows[rows] = values
    whole = shards.reduce(_forest, _merge, n_texts, core, lengths)
    return ShardedForest(whole.forest, of_rows, group_sizes, equal, whole.merged_edges, shards.n_halo)


def _breaks(shard: ForestShard) -> IntArray:
    return shard.breaks


def _copies(shard: ForestShard) -> NDArray[np.int32]:
    return shard.copies


def _scales(shard: ForestShard, rank: int) -> FloatArray:
    return diffusion.local_scales(shard.edges, rank)


def _draw(shard: ForestShard, seed: int) -> Sketch:
    return diffusion.draw_sketch(shard.keys, seed)


def _average(shard: ForestShard, n_averaged: int, scales: FloatArray, sketches: Sketch) -> Sketch:
    if shard.affinity is None:
        shard.affinity = diffusion.affinities(shard.edges, scales, n_averaged)
    return diffusion.average_sketches(shard.edges, shard.affinity, sketches)


def _lengths(shard: ForestShard, sketches: Sketch) -> FloatArray:
    shard.affinity = None  # before the lengths need memory
    return diffusion.edge_lengths(shard.edges, sketches)


def _listed_core(shard: ForestShard, rank: int, lengths: FloatArray, copies: NDArray[np.int32] | None) -> FloatArray:
    n_rows = shard.rows.size + shard.halo.size
    return diffusion.listed_core_distances(shard.edges.graph(lengths, n_rows), rank, copies)[: shard.rows.size]


def _core(shard: ForestShard, rank: int, copies: NDArray[np.int32] | None) -> FloatArray:
    graph = shard.edges.graph(shard.edges.distances, shard.rows.size + shard.halo.size)
    return core_distances(graph, rank, copies)[: shard.rows.size]


def _equal_and_core(shard: ForestShard, core: FloatArray | None) -> tuple[IntArray, EqualEdges, FloatArray | None]:
    return shard.rows, shard.equal, None if core is None else core[: shard.rows.size]


def _forest(shard: ForestShard, n_texts: int, core: FloatArray | None, lengths: FloatArray | None) -> _Part:
    """The forest of the shard's edges. They get the numbers of the sorted union, so that ties go by row."""
    edges, own, union = shard.edges, None, None
    n_rows = shard.rows.size + shard.halo.size
    sorted_core = np.zeros(n_rows, np.float32) if core is None else core
    if n_rows < n_texts or shard.halo.size:
        position, union = sorted_positions(shard.rows, shard.halo)
        own = position[: shard.rows.size]
        counts = np.zeros(n_rows + 1, np.int64)
        counts[own + 1] = np.diff(edges.indptr)
        edges = NeighborLists(np.cumsum(counts), position[edges.indices], edges.distances)
        if core is not None:
            sorted_core = np.empty_like(core)
            sorted_core[position] = core
    graph = edges.graph(edges.distances if lengths is None else lengths, n_rows)
    found = spanning_forest(graph, sorted_core, symmetric=shard.symmetric, rows=own)
    if union is not None:
        found = Forest(union[found.left], union[found.right], found.distance)
    return _Part(found, n_texts, len(found))


@dataclass(frozen=True)
class _Part:
    """The forest of some shards; merged_edges : edges that its last merge has read"""

    forest: Forest
    n_texts: int
    merged_edges: int


def _merge(one: _Part, other: _Part) -> _Part:
    read = len(one.forest) + len(other.forest)
    return _Part(merge_forests(one.forest, other.forest, one.n_texts), one.n_texts, read)
