"""Neighbor lists or a graph in shards in; one spanning forest out. Shards exchange their sketches through Ray."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering import schema
from clustering.kernels.graph import diffusion
from clustering.kernels.graph.csr import MIN_DISTANCE
from clustering.kernels.graph.equal_vectors import EqualEdges, equal_edges
from clustering.kernels.graph.forest import FloatArray, Forest, IntArray, merge_forests, spanning_forest
from clustering.kernels.graph.group_sizes import GroupSizes, count_breaks, measure_group_sizes
from clustering.kernels.memory import forest_bytes
from clustering.monitoring.usage import Usage, peak_bytes
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import load_graph, read_neighbor_lists, text_digests
from clustering.runs.parts import part_name, read_columns
from clustering.runs.storage import save_array, write_json, write_table
from clustering.schema import Figures
from clustering.workers.nodes import Node, live_nodes, node_affinity
from clustering.workers.tasks import collect, submit

T = TypeVar("T")


def write_forest(run: RunDir, forest: Forest, core: FloatArray, group_sizes: GroupSizes, n_without: int) -> Figures:
    """Leave forest/.

    core : float32, shape (n_texts,), core distances
    n_without : texts that have no vector
    """
    columns = {"left": forest.left, "right": forest.right, "distance": forest.distance}
    write_table(run / "forest" / part_name(0), pa.table(columns, schema=schema.FOREST))
    save_array(run / "forest" / "core.npy", core)
    write_json(run / "forest" / "grain.json", asdict(group_sizes))
    return {
        "edges": len(forest),
        "pieces_left": core.size - n_without - len(forest),
        "small_groups": round(group_sizes.share, 4),
        "group_size": group_sizes.size,
    }


def shard_nodes(n_texts: int, k: int, most: int) -> list[Node]:
    """At most ``most`` nodes, those with the most memory first, so that each has the memory for its shard."""
    nodes = sorted(live_nodes(), key=lambda node: node.memory_bytes, reverse=True)[:most]
    while len(nodes) > 1 and nodes[-1].memory_bytes < forest_bytes(n_texts, n_texts * k // len(nodes)):
        nodes.pop()
    return nodes


class Shard:
    """The neighbor lists of some rows, and what diffusion makes of them. It can be restarted at any point.

    names : consecutive parts of texts/
    copies : int32, shape (n_texts,), records of each text; None where copies do not count
    reading : the further arguments of ``read_neighbor_lists``
    """

    def __init__(self, run: RunDir, names: list[str], copies: NDArray[np.int32] | None, *reading: Any) -> None:
        self.run, self.names, self.copies = run, names, copies
        self.lists = read_neighbor_lists(run, names, *reading)
        self.affinity: FloatArray | None = None

    def apply(self, kernel: Callable[..., T], *args: Any) -> T:
        """What a kernel makes of the lists."""
        return kernel(self.lists, *args)

    def text_digests(self) -> diffusion.Keys:
        """A digest of each text, so that the order of the texts changes nothing."""
        return text_digests(self.run, self.names)

    def draw_sketch(self, seed: int) -> diffusion.Sketch:
        return diffusion.draw_sketch(self.text_digests(), seed)

    def average(self, n_averaged: int, scales: list[Any], sketches: list[Any]) -> diffusion.Sketch:
        if self.affinity is None:
            self.affinity = diffusion.affinities(self.lists, np.concatenate(ray.get(scales)), n_averaged)
        return diffusion.average_sketches(self.lists, self.affinity, np.concatenate(ray.get(sketches)))

    def edge_lengths(self, sketches: list[Any]) -> FloatArray:
        self.affinity = None
        return diffusion.edge_lengths(self.lists, np.concatenate(ray.get(sketches)))

    def core_distances(self, length: FloatArray, rank: int) -> FloatArray:
        """Core distances by the rows' own lists, float32, shape (n_rows,); 0 for rank 0."""
        if rank == 0:
            return np.zeros(len(self.lists), np.float32)
        own = slice(self.lists.first, self.lists.first + len(self.lists))
        rows = own.stop if self.copies is None else self.copies.size
        graph = self.lists.graph(length, max(rows, int(self.lists.indices.max(initial=0)) + 1))
        return diffusion.listed_core_distances(graph, rank, self.copies)[own]

    def forest(self, length: FloatArray, core: FloatArray) -> Forest:
        return spanning_forest(self.lists.graph(length, core.size), core, symmetric=False)

    def measured_forest(self, length: FloatArray, core: FloatArray) -> tuple[Forest, Usage]:
        """The forest, and what this actor has used since it started."""
        forest = self.forest(length, core)
        return forest, Usage(peak_bytes(), time.process_time())


def diffuse_shards(
    shards: list[tuple[Any, ...]], n_texts: int, rank: int, seed: int, nodes: list[Node]
) -> tuple[list[Forest], FloatArray, GroupSizes, list[EqualEdges]]:
    """Diffuse, and make the forests, with an actor for each shard. Each round's sketches are shared through Ray.

    shards : the arguments of ``Shard`` for each, rows ascending
    rank : min_samples, 0 for none
    nodes : where the actors run, in turn
    Returns: two forests, which merge into that of all rows; core distances (float32, shape (n_texts,)); the group
        sizes; entries between equal vectors. All are the same for any shards.
    """
    on_each = -(-len(shards) // len(nodes))
    kind: Any = ray.remote(max_restarts=3, max_task_retries=3)(Shard)
    actors: list[Any] = []
    for shard, node in zip(shards, itertools.cycle(nodes), strict=False):
        threads = {"env_vars": {"OMP_NUM_THREADS": str(max(1, node.cpus // on_each))}}
        actors.append(kind.options(scheduling_strategy=node_affinity(node), runtime_env=threads).remote(*shard))
    breaks = ray.get([actor.apply.remote(count_breaks) for actor in actors])
    group_sizes = measure_group_sizes(np.sum(breaks, axis=0), n_texts)
    scales = [actor.apply.remote(diffusion.local_scales, group_sizes.n_averaged // 2) for actor in actors]
    sketches = [actor.draw_sketch.remote(seed) for actor in actors]
    for _ in range(diffusion.ROUNDS):
        sketches = [actor.average.remote(group_sizes.n_averaged, scales, sketches) for actor in actors]
    with_lengths = [(actor, actor.edge_lengths.remote(sketches)) for actor in actors]
    core = np.concatenate(ray.get([actor.core_distances.remote(length, rank) for actor, length in with_lengths]))
    shared = ray.put(core)
    forests = _merge_pairs([actor.measured_forest.remote(length, shared) for actor, length in with_lengths], n_texts)
    return forests, core, group_sizes, ray.get([actor.apply.remote(equal_edges, MIN_DISTANCE) for actor in actors])


def _merge_pairs(pending: list[Any], n_texts: int) -> list[Forest]:
    """Merge the forests of pending tasks two by two on workers until two are left."""
    while len(pending) > 2:
        last = pending[len(pending) // 2 * 2 :]
        pending = [submit(_merge_two, n_texts, *two) for two in zip(pending[::2], pending[1::2], strict=False)] + last
    return [collect(forest) for forest in ray.get(pending)]


def reduce_forest(run: RunDir, graph: csr_array, core: FloatArray, n_shards: int) -> tuple[Forest, Figures]:
    """The forest of the graph, by a task for each shard of near rows where there are several shards.

    Each task keeps the forest of its rows' edges, and pairs of forests are merged until one is left. An edge that a
    task drops is the longest of a cycle, so the result is the same for any number of shards, bit for bit.
    graph : float32, shape (n_texts, n_texts), symmetric
    core : float32, shape (n_texts,), core distances
    Returns: the forest; the figures shards and merged_edges
    """
    n_texts = graph.shape[0]
    if n_shards < 2:
        forest = spanning_forest(graph, core)
        return forest, {"shards": 1, "merged_edges": len(forest)}
    shared = ray.put(core)
    tasks = [submit(_shard_forest, run, shared, rows) for rows in shard_rows(run, graph, n_shards)]
    halves = _merge_pairs(tasks, n_texts)
    return merge_forests(halves, n_texts), {"shards": n_shards, "merged_edges": sum(map(len, halves))}


def shard_rows(run: RunDir, graph: csr_array, n_shards: int) -> list[IntArray]:
    """All rows in shards of about as many edges each. Rows of a partition, and near partitions, stay together.

    graph : float32 csr_array, shape (n_texts, n_texts)
    Returns: for each shard its rows, int64, shape (n_shard_rows,), ascending
    """
    cell = read_columns(run / "neighbors", ["cell"])["cell"].to_numpy()
    order = np.argsort(cell, kind="stable")
    stored = np.cumsum(np.diff(graph.indptr)[order])
    cuts = np.searchsorted(stored, graph.nnz * np.arange(1, n_shards) / n_shards)
    return [np.sort(rows) for rows in np.split(order, cuts)]


def _shard_forest(run: RunDir, core: FloatArray, rows: IntArray) -> Forest:
    return spanning_forest(load_graph(run), core, rows=rows)


def _merge_two(n_texts: int, one: tuple[Forest, Usage], other: tuple[Forest, Usage]) -> Forest:
    return merge_forests([collect(one), collect(other)], n_texts)
