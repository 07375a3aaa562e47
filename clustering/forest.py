"""graph/ in; forest/ out: the minimum spanning forest of mutual reachability, and how much of it is proven."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clustering import schema
from clustering.config import ClusterSection, GraphSection
from clustering.exact import search_outside
from clustering.kernels.csr import min_distance
from clustering.kernels.forest import FloatArray, Forest, IntArray, core_distances, merge_forests, spanning_forest
from clustering.kernels.repair import prove_forest, repair_forest
from clustering.parts import on_worker
from clustering.rundir import Figures, RunDir, load_graph, part_name, read_columns, whole, write_table

SHARD_EDGES = 1 << 27  # stored edges that one task reads; a larger graph is shared out


def build_forest(
    run: RunDir, cfg: ClusterSection, graph: GraphSection, metric: str, shard_edges: int = SHARD_EDGES
) -> Figures:
    """Leave forest/: the edges, ascending, and core.npy.

    The neighbor lists' own forest comes first, of a large graph by one task a shard. With ``graph.bridge=nearest``
    what the lists leave open, and what joins their pieces, is then settled by exact search over vectors/.

    Returns: edges; certified, repaired and open (merges proven by the lists, settled by search, and left); queries
        (rows searched); pieces (of the lists' graph), bridges, pieces_left; isolated (texts without any edge); shards
        and merged_edges (those that the last merge of their forests reads); ``peak_bytes``.
    """
    figures, peak = on_worker(_forest, run, cfg, graph, metric, shard_edges)
    return {**figures, "peak_bytes": peak}


def _forest(run: RunDir, cfg: ClusterSection, section: GraphSection, metric: str, shard_edges: int) -> Figures:
    graph = load_graph(run)
    n_texts = graph.shape[0]
    core = core_distances(graph, cfg.min_samples, copies_of(run) if cfg.copies == "weigh" else None)
    listed, figures = reduce_forest(run, graph, core, shard_edges)
    radius = np.load(run / "graph" / "radius.npy")
    if section.bridge == "nearest":
        ask = search_outside(run / "vectors", core, metric, min_distance(metric), section.max_distance)
        forest, proof = repair_forest(listed, radius, ask, cfg.budget)
    else:
        forest, proof = listed, prove_forest(listed, radius)
    columns = {"left": forest.left, "right": forest.right, "distance": forest.distance}
    write_table(run / "forest" / part_name(0), pa.table(columns, schema=schema.FOREST))
    with whole(run / "forest" / "core.npy") as temporary, temporary.open("wb") as handle:
        np.save(handle, core)
    return {
        "edges": len(forest),
        "certified": proof.certified,
        "repaired": proof.repaired,
        "open": proof.open,
        "queries": proof.queries,
        "pieces": n_texts - len(listed),
        "bridges": proof.bridges,
        "pieces_left": n_texts - len(forest),
        "isolated": int(np.isinf(core).sum()) if n_texts > 1 else 0,
        **figures,
    }


def reduce_forest(run: RunDir, graph: csr_array, core: FloatArray, shard_edges: int) -> tuple[Forest, Figures]:
    """The forest of the graph; of more than ``shard_edges`` stored edges by tasks for shards of near rows.

    Each task keeps the forest of its rows' edges, and pairs of forests are merged until one is left. An edge that a
    task drops is the heaviest of a cycle, so the result is the same for any number of shards, bit for bit.
    Returns: the forest; shards and merged_edges.
    """
    n_texts = graph.shape[0]
    n_shards = -(-graph.nnz // shard_edges)
    if n_shards < 2:
        forest = spanning_forest(graph, core)
        return forest, {"shards": 1, "merged_edges": len(forest)}
    shared = ray.put(core)
    shard, merge = ray.remote(_shard_forest), ray.remote(_merge_two)
    waiting: list[Any] = [shard.remote(run, shared, rows) for rows in near_rows(run, graph, n_shards)]
    while len(waiting) > 2:
        last = waiting[len(waiting) // 2 * 2 :]
        waiting = [merge.remote(n_texts, *two) for two in zip(waiting[::2], waiting[1::2], strict=False)] + last
    halves = ray.get(waiting)
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


def _merge_two(n_texts: int, one: Forest, other: Forest) -> Forest:
    return merge_forests([one, other], n_texts)


def copies_of(run: RunDir) -> NDArray[np.int32]:
    """int32, shape (n_texts,): records of each distinct text."""
    return read_columns(run / "texts", ["copies"])["copies"].to_numpy()  # type: ignore[no-any-return]


def load_forest(run: RunDir) -> Forest:
    """The run's forest of mutual reachability, ascending."""
    table = read_columns(run / "forest", ["left", "right", "distance"])
    return Forest(*(table[name].to_numpy() for name in ("left", "right", "distance")))
