"""graph/ and neighbors/ in, forest/ out: the minimum spanning forest, and how much of it is proven."""

from __future__ import annotations

import itertools

import numpy as np

from clustering.config.sections import ClusterSection, GraphSection
from clustering.kernels.graph import diffusion
from clustering.kernels.graph.csr import MIN_DISTANCE, min_distance
from clustering.kernels.graph.equal_vectors import EqualEdges, equal_edges, equal_pairs, join_equal_rows, tie_equal_rows
from clustering.kernels.graph.forest import IntArray, core_distances, join_components, merge_forests
from clustering.kernels.graph.group_sizes import count_breaks, measure_group_sizes
from clustering.kernels.graph.repair import prove_forest, repair_forest
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import load_copies, load_graph, load_radius, read_neighbor_lists
from clustering.runs.parts import part_names, read_rows, rows_without_vector, vectors_of
from clustering.schema import Figures
from clustering.workers.exact_search import outside_search
from clustering.workers.nodes import live_nodes
from clustering.workers.shards import Shard, diffuse_shards, reduce_forest, shard_nodes, write_forest
from clustering.workers.tasks import run_on_one_node

SHARD_EDGES = 1 << 27  # stored edges of a shard; a larger graph is split


def build_forest(
    run: RunDir, cfg: ClusterSection, graph: GraphSection, k: int, metric: str, seed: int, shards: int | None = None
) -> Figures:
    """Leave forest/: its edges, ascending by distance, core.npy and grain.json (the sizes of small groups).

    With ``cluster.weights=diffused`` the edges are those of the neighbor lists, with diffused lengths. With
    ``distance`` they are the graph's. With ``graph.bridge=nearest``, an exact search over vectors/ then settles the
    merges that the lists leave open, and finds the edges that join pieces. A large graph is split into shards.

    k : neighbors of each text that are edges
    shards : None takes as many as SHARD_EDGES asks for; with diffused lengths, at most as many as there are nodes
    Returns: edges; with ``distance`` certified, repaired and open (merges proven by the lists, settled by the search,
        and left open) and queries (rows searched); pieces (of the lists' graph), bridges, pieces_left; isolated (texts
        without an edge); shards and merged_edges (the edges that the last merge of their forests reads); small_groups
        (share of texts whose list breaks off, as in a small group) and group_size.
    """
    work = _diffused_forest if cfg.weights == "diffused" else _forest
    return run_on_one_node(work, run, cfg, graph, k, metric, seed, shards)


def _forest(
    run: RunDir, cfg: ClusterSection, section: GraphSection, k: int, metric: str, seed: int, shards: int | None
) -> Figures:
    graph = load_graph(run)
    n_texts = graph.shape[0]
    core = core_distances(graph, cfg.core_rank, load_copies(run) if cfg.copies == "weigh" else None)
    listed, figures = reduce_forest(run, graph, core, shards or -(-graph.nnz // SHARD_EDGES))
    radius = load_radius(run)
    if section.bridge == "nearest":
        search = outside_search(run / "vectors", core, metric, min_distance(metric), section.max_distance)
        forest, proof = repair_forest(listed, radius, search, cfg.budget)
    else:
        forest, proof = listed, prove_forest(listed, radius)
    n_without = rows_without_vector(run / "vectors").size  # texts without a vector are in no piece
    breaks, equal = [], []
    for name in part_names(run / "texts"):
        lists = read_neighbor_lists(run, [name], k, section, metric, n_texts)
        breaks.append(count_breaks(lists))
        equal.append(equal_edges(lists, MIN_DISTANCE))
    forest = tie_equal_rows(forest, _equal_texts(run, equal, n_texts), core, min_distance(metric))
    return {
        **write_forest(run, forest, core, measure_group_sizes(np.sum(breaks, axis=0), n_texts), n_without),
        "certified": proof.certified,
        "repaired": proof.repaired,
        "open": proof.unproven,
        "queries": proof.queries,
        "pieces": n_texts - n_without - len(listed),
        "bridges": proof.bridges,
        "isolated": int(np.isinf(core).sum()) - n_without if n_texts > 1 else 0,
        **figures,
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


def _diffused_forest(
    run: RunDir, cfg: ClusterSection, section: GraphSection, k: int, metric: str, seed: int, shards: int | None
) -> Figures:
    names = part_names(run / "texts")
    copies = load_copies(run)
    n_texts = copies.size
    most = max(1, -(-n_texts * k // SHARD_EDGES))
    nodes = shard_nodes(n_texts, k, min(len(names), most)) if most > 1 else []
    n_shards = shards or max(1, len(nodes))
    rank = cfg.core_rank if cfg.core_rank > 1 else 0
    weigh = copies if cfg.copies == "weigh" else None
    cuts = np.linspace(0, len(names), n_shards + 1).astype(int)
    inputs = [(run, names[a:b], weigh, k, section, metric, n_texts) for a, b in itertools.pairwise(cuts)]
    if n_shards == 1:
        shard = Shard(*inputs[0])
        group_sizes = measure_group_sizes(count_breaks(shard.lists), n_texts)
        length = diffusion.diffuse(shard.lists, seed, group_sizes.n_averaged, shard.text_digests())
        core = shard.core_distances(length, rank)
        forests, equal = [shard.forest(length, core)], [equal_edges(shard.lists, MIN_DISTANCE)]
        forest = forests[0]
    else:
        forests, core, group_sizes, equal = diffuse_shards(inputs, n_texts, rank, seed, nodes or live_nodes())
        forest = merge_forests(forests, n_texts)
    forest = tie_equal_rows(forest, _equal_texts(run, equal, n_texts), core, float(diffusion.MIN_LENGTH))
    n_without = rows_without_vector(run / "vectors").size
    figures = write_forest(run, forest, core, group_sizes, n_without)
    joined = np.unique(np.concatenate([forest.left, forest.right])).size
    isolated = n_texts - n_without - joined if n_texts > 1 else 0
    return {
        **figures,
        "pieces": figures["pieces_left"],
        "bridges": 0,
        "isolated": isolated,
        "shards": n_shards,
        "merged_edges": sum(map(len, forests)),
    }
