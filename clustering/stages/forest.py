"""graph/ in, forest/ out: the minimum spanning forest, and how much of it is proven."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pyarrow as pa

from clustering import schema
from clustering.config.sections import ClusterSection, GraphSection
from clustering.kernels.graph.csr import min_distance
from clustering.kernels.graph.diffusion import MIN_LENGTH
from clustering.kernels.graph.equal_vectors import EqualEdges, equal_pairs, join_equal_rows, tie_equal_rows
from clustering.kernels.graph.forest import Forest, IntArray, join_components
from clustering.kernels.graph.group_sizes import mean_squared_distance
from clustering.kernels.graph.repair import prove_forest, repair_forest
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.kernel_inputs import load_radius
from clustering.runs.parts import part_name, read_rows, rows_without_vector, sample_rows, vectors_of
from clustering.runs.storage import save_array, write_json, write_table
from clustering.schema import Figures
from clustering.workers.exact_search import outside_search
from clustering.workers.graph.forest import ShardedForest, diffused_forest, reachability_forest
from clustering.workers.nodes import withdrawing_wishes
from clustering.workers.tasks import run_on_one_node


def build_forest(run: RunDir, cfg: ClusterSection, graph: GraphSection, metric: str, seed: int) -> Figures:
    """Leave forest/: its edges, ascending by distance, core.npy and grain.json (the sizes of small groups).

    With ``cluster.weights=diffused`` the edges are those of the neighbor lists, with diffused lengths. With
    ``distance`` they are the graph's. With ``graph.bridge=nearest``, an exact search over vectors/ then settles the
    merges that the lists leave open, and finds the edges that join pieces. Each block of the graph is a shard.

    Returns: edges; with ``distance`` certified, repaired and open (merges proven by the lists, settled by the search,
        and left open) and queries (rows searched); pieces (of the lists' graph), bridges, pieces_left; isolated (texts
        without an edge); shards, halo_share (rows that shards hold of others, per text) and merged_edges (the edges
        that the last merge of their forests reads); small_groups (share of texts whose list breaks off, as in a small
        group that stands alone), group_size, and families (share of texts whose list breaks off within a larger group).
    """
    work = _diffused_forest if cfg.weights == "diffused" else _forest
    with withdrawing_wishes():  # of its shards
        return run_on_one_node(work, run, cfg, graph, metric, seed)


def _forest(run: RunDir, cfg: ClusterSection, section: GraphSection, metric: str, seed: int) -> Figures:
    found = reachability_forest(run, metric, cfg.core_rank, cfg.copies == "weigh", unrelated_distance(run))
    n_texts, listed = found.core.size, found.forest
    radius = load_radius(run)
    if section.bridge == "nearest":
        search = outside_search(run / "vectors", found.core, metric, min_distance(metric), section.max_distance)
        forest, proof = repair_forest(listed, radius, search, cfg.budget)
    else:
        forest, proof = listed, prove_forest(listed, radius)
    n_without = rows_without_vector(run / "vectors").size  # texts without a vector are in no piece
    return {
        **_finish(run, found, forest, min_distance(metric), n_without),
        "certified": proof.certified,
        "repaired": proof.repaired,
        "open": proof.unproven,
        "queries": proof.queries,
        "pieces": n_texts - n_without - len(listed),
        "bridges": proof.bridges,
        "isolated": int(np.isinf(found.core).sum()) - n_without if n_texts > 1 else 0,
    }


def _diffused_forest(run: RunDir, cfg: ClusterSection, section: GraphSection, metric: str, seed: int) -> Figures:
    rank = cfg.core_rank if cfg.core_rank > 1 else 0
    adapt = cfg.preset != "topics"
    found = diffused_forest(run, metric, rank, cfg.copies == "weigh", seed, unrelated_distance(run), adapt)
    n_texts, n_without = found.core.size, rows_without_vector(run / "vectors").size
    joined = np.zeros(n_texts, np.bool_)
    joined[found.forest.left] = joined[found.forest.right] = True
    figures = _finish(run, found, found.forest, float(MIN_LENGTH), n_without)
    isolated = n_texts - n_without - int(joined.sum()) if n_texts > 1 else 0
    return {**figures, "pieces": figures["pieces_left"], "bridges": 0, "isolated": isolated}


def unrelated_distance(run: RunDir) -> float:
    """The mean squared distance of two of the run's vectors, by a sample."""
    n_texts = read_index(run / "vectors").rows
    if not n_texts:
        return mean_squared_distance(np.empty((0, 1), np.float32))
    vectors = vectors_of(read_rows(run / "vectors", sample_rows(n_texts), ["vector"]))
    return mean_squared_distance(vectors[vectors.any(axis=1)])


def _finish(run: RunDir, found: ShardedForest, forest: Forest, floor: float, n_without: int) -> Figures:
    """Join the rows of equal vectors first, and leave forest/. floor : the shortest length of an edge"""
    n_texts = found.core.size
    forest = tie_equal_rows(forest, _equal_texts(run, found.equal, n_texts), found.core, floor)
    columns = {"left": forest.left, "right": forest.right, "distance": forest.distance}
    write_table(run / "forest" / part_name(0), pa.table(columns, schema=schema.FOREST))
    save_array(run / "forest" / "core.npy", found.core)
    write_json(run / "forest" / "grain.json", asdict(found.group_sizes))
    return {
        "edges": len(forest),
        "pieces_left": n_texts - n_without - len(forest),
        "small_groups": round(found.group_sizes.share, 4),
        "group_size": found.group_sizes.size,
        "families": round(found.group_sizes.families, 4),
        "shards": len(found.equal),
        "halo_share": round(found.n_halo / max(n_texts, 1), 4),
        "merged_edges": found.merged_edges,
    }


def _equal_texts(run: RunDir, edges: list[EqualEdges], n_texts: int) -> IntArray:
    """For each row, the smallest row with an equal vector. Vectors are compared only where lists are full of such rows.

    Returns: int64, shape (n_texts,)
    """
    piece, open_rows = join_equal_rows(edges, n_texts)
    if open_rows.size > 1:
        left, right = equal_pairs(vectors_of(read_rows(run / "vectors", open_rows, ["vector"])))
        join_components(open_rows[left], open_rows[right], piece)
    return piece
