"""graph/ or neighbors/ in; forest/ out: the minimum spanning forest, and how much of it is proven."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering import schema
from clustering.artefacts import copies_of, read_lists, text_keys
from clustering.config import ClusterSection, GraphSection
from clustering.exact import search_outside
from clustering.kernels import diffusion
from clustering.kernels.csr import MIN_DISTANCE, min_distance
from clustering.kernels.equal import EqualEdges, equal_edges, equal_pairs, joined, tie
from clustering.kernels.forest import (
    FloatArray,
    Forest,
    IntArray,
    core_distances,
    grow_pieces,
    merge_forests,
    spanning_forest,
)
from clustering.kernels.grain import Grain, count_breaks, grain_of
from clustering.kernels.memory import forest_bytes
from clustering.kernels.repair import prove_forest, repair_forest
from clustering.parts import Node, accounted, live_nodes, on_node, on_worker, start
from clustering.rundir import (
    Figures,
    RunDir,
    gather,
    load_graph,
    part_name,
    parts,
    peak_bytes,
    read_columns,
    rows_without_vector,
    save_array,
    vectors_of,
    write_json,
    write_table,
)
from clustering.storage import load_array
from clustering.watch import Usage

SHARD_EDGES = 1 << 27  # stored edges; a larger graph is shared out


def build_forest(
    run: RunDir,
    cfg: ClusterSection,
    graph: GraphSection,
    k: int,
    metric: str,
    seed: int,
    shards: int | None = None,
) -> Figures:
    """Leave forest/: the edges, ascending, core.npy, and grain.json.

    With ``cluster.weights=diffused`` the edges are those of the neighbor lists with diffused lengths. With ``distance``
    the graph's own forest comes first; with ``graph.bridge=nearest`` what the lists leave open, and what joins their
    pieces, is then settled by exact search over vectors/. Large graphs are worked on by one task a shard.

    k : neighbors of each text that are edges
    shards : none: as many as SHARD_EDGES asks for, when diffused no more than there are nodes
    Returns: edges; with ``distance`` certified, repaired and open (merges proven by the lists, settled by search, and
        left) and queries (rows searched); pieces (of the lists' graph), bridges, pieces_left; isolated (texts without
        any edge); shards and merged_edges (those that the last merge of their forests reads); small_groups (share of
        texts whose list breaks off, as those in small groups do) and group_size.
    """
    work = _diffused_forest if cfg.weights == "diffused" else _forest
    return on_worker(work, run, cfg, graph, k, metric, seed, shards)


def _forest(
    run: RunDir, cfg: ClusterSection, section: GraphSection, k: int, metric: str, seed: int, shards: int | None
) -> Figures:
    graph = load_graph(run)
    n_texts = graph.shape[0]
    core = core_distances(graph, cfg.core_rank, copies_of(run) if cfg.copies == "weigh" else None)
    listed, figures = reduce_forest(run, graph, core, shards or -(-graph.nnz // SHARD_EDGES))
    radius = load_array(run / "graph" / "radius.npy")
    if section.bridge == "nearest":
        ask = search_outside(run / "vectors", core, metric, min_distance(metric), section.max_distance)
        forest, proof = repair_forest(listed, radius, ask, cfg.budget)
    else:
        forest, proof = listed, prove_forest(listed, radius)
    without = rows_without_vector(run / "vectors").size  # texts that are in no piece
    breaks, equal = [], []
    for path in parts(run / "texts"):
        lists = read_lists(run, [path.name], k, section, metric, n_texts)
        breaks.append(count_breaks(lists))
        equal.append(equal_edges(lists, MIN_DISTANCE))
    forest = tie(forest, _equal_texts(run, equal, n_texts), core, min_distance(metric))
    return {
        **_write(run, forest, core, grain_of(np.sum(breaks, axis=0), n_texts), without),
        "certified": proof.certified,
        "repaired": proof.repaired,
        "open": proof.open,
        "queries": proof.queries,
        "pieces": n_texts - without - len(listed),
        "bridges": proof.bridges,
        "isolated": int(np.isinf(core).sum()) - without if n_texts > 1 else 0,
        **figures,
    }


def _equal_texts(run: RunDir, edges: list[EqualEdges], n_texts: int) -> IntArray:
    """The smallest row with a vector that equals each row's; vectors are compared only where lists are full of such."""
    piece, open_rows = joined(edges, n_texts)
    if open_rows.size > 1:
        left, right = equal_pairs(vectors_of(gather(run / "vectors", open_rows, ["vector"])))
        grow_pieces(open_rows[left], open_rows[right], piece)
    return piece


def _write(run: RunDir, forest: Forest, core: FloatArray, grain: Grain, without: int) -> Figures:
    columns = {"left": forest.left, "right": forest.right, "distance": forest.distance}
    write_table(run / "forest" / part_name(0), pa.table(columns, schema=schema.FOREST))
    save_array(run / "forest" / "core.npy", core)
    write_json(run / "forest" / "grain.json", asdict(grain))
    return {
        "edges": len(forest),
        "pieces_left": core.size - without - len(forest),
        "small_groups": round(grain.share, 4),
        "group_size": grain.size,
    }


def _diffused_forest(
    run: RunDir, cfg: ClusterSection, section: GraphSection, k: int, metric: str, seed: int, shards: int | None
) -> Figures:
    names = [path.name for path in parts(run / "texts")]
    copies = copies_of(run)
    n_texts = copies.size
    wanted = max(1, -(-n_texts * k // SHARD_EDGES))
    nodes = _shard_nodes(n_texts, k, min(len(names), wanted)) if wanted > 1 else []
    n_shards = shards or max(1, len(nodes))
    rank = cfg.core_rank if cfg.core_rank > 1 else 0
    weigh = copies if cfg.copies == "weigh" else None
    cuts = np.linspace(0, len(names), n_shards + 1).astype(int)
    given = [(run, names[a:b], weigh, k, section, metric, n_texts) for a, b in itertools.pairwise(cuts)]
    if n_shards == 1:
        shard = _Shard(*given[0])
        grain = grain_of(shard.breaks(), n_texts)
        length = diffusion.diffuse(shard.lists, seed, grain.averaged, shard.keys())
        core = shard.cores(length, rank)
        forests, equal = [shard.forest(length, core)], [shard.equal()]
        forest = forests[0]
    else:
        forests, core, grain, equal = diffuse_shards(given, n_texts, rank, seed, nodes or live_nodes())
        forest = merge_forests(forests, n_texts)
    forest = tie(forest, _equal_texts(run, equal, n_texts), core, float(diffusion.MIN_LENGTH))
    without = rows_without_vector(run / "vectors").size
    figures = _write(run, forest, core, grain, without)
    joined = np.unique(np.concatenate([forest.left, forest.right])).size
    isolated = n_texts - without - joined if n_texts > 1 else 0
    return {
        **figures,
        "pieces": figures["pieces_left"],
        "bridges": 0,
        "isolated": isolated,
        "shards": n_shards,
        "merged_edges": sum(map(len, forests)),
    }


def _shard_nodes(n_texts: int, k: int, most: int) -> list[Node]:
    """As many nodes as have the memory for a shard each, those with most of it first."""
    nodes = sorted(live_nodes(), key=lambda node: node.memory_bytes, reverse=True)[:most]
    while len(nodes) > 1 and nodes[-1].memory_bytes < forest_bytes(n_texts, n_texts * k // len(nodes)):
        nodes.pop()
    return nodes


class _Shard:
    """The neighbor lists of some rows, and what diffusion makes of them; can be begun anew at any point."""

    def __init__(self, run: RunDir, names: list[str], copies: NDArray[np.int32] | None, *given: Any) -> None:
        self.run, self.names, self.copies = run, names, copies
        self.lists = read_lists(run, names, *given)
        self.pull: FloatArray | None = None

    def breaks(self) -> IntArray:
        return count_breaks(self.lists)

    def equal(self) -> EqualEdges:
        return equal_edges(self.lists, MIN_DISTANCE)

    def scales(self, rank: int) -> FloatArray:
        return diffusion.local_scales(self.lists, rank)

    def sketch(self, seed: int) -> diffusion.Sketch:
        return diffusion.draw_sketch(self.keys(), seed)

    def keys(self) -> diffusion.Keys:
        """A digest of each text, so that the order in which texts come changes nothing."""
        return text_keys(self.run, self.names)

    def average(self, averaged: int, scales: list[Any], sketches: list[Any]) -> diffusion.Sketch:
        if self.pull is None:
            self.pull = diffusion.affinities(self.lists, np.concatenate(ray.get(scales)), averaged)
        return diffusion.average(self.lists, self.pull, np.concatenate(ray.get(sketches)))

    def lengths(self, sketches: list[Any]) -> FloatArray:
        self.pull = None
        return diffusion.edge_lengths(self.lists, np.concatenate(ray.get(sketches)))

    def cores(self, length: FloatArray, rank: int) -> FloatArray:
        """Core distances by the rows' own lists; 0 without min_samples."""
        if rank == 0:
            return np.zeros(len(self.lists), np.float32)
        own = slice(self.lists.first, self.lists.first + len(self.lists))
        rows = own.stop if self.copies is None else self.copies.size
        graph = self.lists.graph(length, max(rows, int(self.lists.indices.max(initial=0)) + 1))
        return diffusion.listed_cores(graph, rank, self.copies)[own]

    def forest(self, length: FloatArray, core: FloatArray) -> Forest:
        return spanning_forest(self.lists.graph(length, core.size), core, symmetric=False)

    def measured_forest(self, length: FloatArray, core: FloatArray) -> tuple[Forest, Usage]:
        """The forest, and what this actor has used for it and all before."""
        forest = self.forest(length, core)
        return forest, Usage(peak_bytes(), time.process_time())


def diffuse_shards(
    shards: list[tuple[Any, ...]], n_texts: int, rank: int, seed: int, nodes: list[Node]
) -> tuple[list[Forest], FloatArray, Grain, list[EqualEdges]]:
    """Diffusion and forests by one actor a shard; a round's sketches are objects that all actors read in the next.

    shards : arguments of ``_Shard`` for each, rows ascending; rank : min_samples, 0 for none
    nodes : where the actors are, in turn
    Returns: two forests, whose merge is the whole's; core distances; the grain; entries between equal vectors. All the
        same for any shards.
    """
    on_each = -(-len(shards) // len(nodes))
    kind: Any = ray.remote(max_restarts=3, max_task_retries=3)(_Shard)
    actors: list[Any] = []
    for shard, node in zip(shards, itertools.cycle(nodes), strict=False):
        threads = {"env_vars": {"OMP_NUM_THREADS": str(max(1, node.cpus // on_each))}}
        actors.append(kind.options(scheduling_strategy=on_node(node), runtime_env=threads).remote(*shard))
    grain = grain_of(np.sum(ray.get([one.breaks.remote() for one in actors]), axis=0), n_texts)
    scales = [one.scales.remote(grain.averaged // 2) for one in actors]
    sketches = [one.sketch.remote(seed) for one in actors]
    for _ in range(diffusion.ROUNDS):
        sketches = [one.average.remote(grain.averaged, scales, sketches) for one in actors]
    lengths = [one.lengths.remote(sketches) for one in actors]
    core = np.concatenate(ray.get([one.cores.remote(own, rank) for one, own in zip(actors, lengths, strict=True)]))
    shared = ray.put(core)
    waiting = [one.measured_forest.remote(own, shared) for one, own in zip(actors, lengths, strict=True)]
    return _merged_pairs(waiting, n_texts), core, grain, ray.get([one.equal.remote() for one in actors])


def _merged_pairs(waiting: list[Any], n_texts: int) -> list[Forest]:
    """Merge the forests of tasks two by two on workers until two are left."""
    while len(waiting) > 2:
        last = waiting[len(waiting) // 2 * 2 :]
        waiting = [start(_merge_two, n_texts, *two) for two in zip(waiting[::2], waiting[1::2], strict=False)] + last
    return [accounted(found) for found in ray.get(waiting)]


def reduce_forest(run: RunDir, graph: csr_array, core: FloatArray, n_shards: int) -> tuple[Forest, Figures]:
    """The forest of the graph, by tasks for shards of near rows where there are to be several.

    Each task keeps the forest of its rows' edges, and pairs of forests are merged until one is left. An edge that a
    task drops is the heaviest of a cycle, so the result is the same for any number of shards, bit for bit.
    Returns: the forest; shards and merged_edges.
    """
    n_texts = graph.shape[0]
    if n_shards < 2:
        forest = spanning_forest(graph, core)
        return forest, {"shards": 1, "merged_edges": len(forest)}
    shared = ray.put(core)
    tasks = [start(_shard_forest, run, shared, rows) for rows in near_rows(run, graph, n_shards)]
    halves = _merged_pairs(tasks, n_texts)
    return merge_forests(halves, n_texts), {"shards": n_shards, "merged_edges": sum(map(len, halves))}


def near_rows(run: RunDir, graph: csr_array, n_shards: int) -> list[IntArray]:
    """All rows, in shards of about as many stored edges each; rows of a cell, and near cells, stay together."""
    cell = read_columns(run / "neighbors", ["cell"])["cell"].to_numpy()
    order = np.argsort(cell, kind="stable")
    stored = np.cumsum(np.diff(graph.indptr)[order])
    cuts = np.searchsorted(stored, graph.nnz * np.arange(1, n_shards) / n_shards)
    return [np.sort(rows) for rows in np.split(order, cuts)]


def _shard_forest(run: RunDir, core: FloatArray, rows: IntArray) -> Forest:
    return spanning_forest(load_graph(run), core, rows=rows)


def _merge_two(n_texts: int, one: tuple[Forest, Usage], other: tuple[Forest, Usage]) -> Forest:
    return merge_forests([accounted(one), accounted(other)], n_texts)
