"""neighbors/ in, graph/ out: the symmetric distance graph and the lists, in blocks of near rows.

Where the texts have times, entries between texts that are far apart in time are longer than they were searched.
"""

from __future__ import annotations

from typing import Literal

from clustering.config.sections import GraphSection
from clustering.kernels.memory import count_blocks
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import ListOptions
from clustering.runs.parts import rows_without_vector
from clustering.schema import Figures
from clustering.workers.graph.shuffle import build_whole, shuffle_blocks
from clustering.workers.nodes import obtainable_nodes
from clustering.workers.tasks import run_on_one_node


def build_graph(
    run: RunDir, cfg: GraphSection, k: int, n_texts: int, metric: str,
    blocks: int | None = None, time_scale: float | Literal["auto"] | None = None,
) -> Figures:  # fmt: skip
    """Leave graph/: blocks of near rows as memory-mappable arrays, see ``kernels.graph.blocks.Block``.

    k : neighbors of each text that are edges
    blocks : None takes as many as the size of the graph, and the nodes that can be had, ask for
    time_scale : see ``RunConfig.time_scale``
    Returns: edges (undirected), too_long (entries dropped by max_distance), blocks; with a time scale also time, the
        fields of ``TimeScale``.
    Raises: StageError when neighbors/ does not list all texts.
    """
    run.remove("graph")  # an earlier try may have had another number of blocks
    if blocks is None:
        blocks = count_blocks(n_texts, k, *obtainable_nodes(run.manifest.get("nodes", [])))
    n_without = rows_without_vector(run / "vectors").size
    options = ListOptions(k, cfg.max_distance, metric, n_texts, n_without, time_scale)
    if min(blocks, n_texts) < 2:
        return run_on_one_node(build_whole, run, options)
    return shuffle_blocks(run, options, min(blocks, n_texts))
