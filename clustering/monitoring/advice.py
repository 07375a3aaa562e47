"""The plan of a run in; what would have to change where it does not fit, or one step takes most of the time, out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from clustering.config.sections import RunConfig
from clustering.encoders.loading import words_dim
from clustering.monitoring.capacity import REMEDIES
from clustering.monitoring.progress import format_duration
from clustering.monitoring.rates import OWN_ENCODERS, Seconds
from clustering.monitoring.resources import Counts, NodeType, StageEstimate, format_bytes, milvus_bytes, words_share

MOST = 0.4  # share of the time from which on a step is named
LONG_S = 1800  # a shorter run needs no advice
EMBEDDED_TEXTS = 100_000  # beyond, a server is the better store
LARGE_SERVER_BYTES = 64 << 30
LONG_WAIT_S = 1200  # for the requests of a run
SMALLER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("store.vector_type=float16", {"vector_type": "float16"}),
    ("store.index=HNSW_SQ", {"index": "HNSW_SQ"}),
    ("store.index=IVF_SQ8", {"index": "IVF_SQ8"}),
)


def advise(
    config: RunConfig, counts: Counts, cluster: NodeType, estimates: list[StageEstimate],
    steps: dict[str, Seconds], waits_s: float,
) -> list[str]:  # fmt: skip
    """Sentences, each with the key to set.

    estimates : of each stage on a node of the cluster; steps : the seconds of each step, or stage
    waits_s : for requests to an object store
    """
    return [
        *_too_large(cluster, estimates),
        *_of_the_store(config, counts, cluster),
        *_slow_steps(config, cluster, steps),
        *(
            [f"Requests to an object store cost {format_duration(waits_s)}: take more nodes, or a shared file system."]
            if waits_s > LONG_WAIT_S else []
        ),
    ]  # fmt: skip


def _too_large(cluster: NodeType, estimates: list[StageEstimate]) -> Iterator[str]:
    for estimate in estimates:
        if estimate.node_bytes > cluster.memory_bytes > 0:
            remedy = REMEDIES.get(estimate.stage)
            yield (f"{estimate.stage} does not fit: it needs {estimate} on a node, which has "
                   f"{format_bytes(cluster.memory_bytes)} for work. Take larger nodes (--memory)"
                   f"{f', or {remedy}' if remedy else ''}.")  # fmt: skip


def _of_the_store(config: RunConfig, counts: Counts, cluster: NodeType) -> Iterator[str]:
    if config.store.embedded and cluster.count > 1:
        yield "The embedded store serves one node. Give the address of a Milvus server (store.uri)."
    elif config.store.embedded and counts.texts > EMBEDDED_TEXTS:
        yield "The embedded store compares each text with all others. Take a Milvus server (store.uri)."
    elif not config.store.embedded and (held := milvus_bytes(config, counts)) > LARGE_SERVER_BYTES:
        sizes = [(words, milvus_bytes(replace(config, store=_store(config, keys)), counts)) for words, keys in SMALLER]
        if words_share(config):
            plain = replace(counts, dim=counts.dim - words_dim(config.embed))
            sizes.append(("embed.lexical=0", milvus_bytes(config, plain)))
        less = ", ".join(f"{words} ({format_bytes(size)})" for words, size in sizes if size < 0.9 * held)
        less = f"{less}, " if less else ""
        yield (f"Milvus holds {format_bytes(held)}. It holds less with {less}store.params={{mmap.enabled: true}}, or "
               f"fewer dimensions (embed.dimensions).")  # fmt: skip


def _slow_steps(config: RunConfig, cluster: NodeType, steps: dict[str, Seconds]) -> Iterator[str]:
    total = sum(found.seconds for found in steps.values())
    for step, found in steps.items():
        if total > LONG_S and found.seconds > MOST * total:
            yield f"{step} takes {found.seconds / total:.0%} of the time: {_quicker(step, config, cluster)}."


def _store(config: RunConfig, keys: dict[str, Any]) -> Any:
    return replace(config.store, **{"params": {}, **keys})


def _quicker(step: str, config: RunConfig, cluster: NodeType) -> str:
    """What makes a step quicker."""
    more_nodes = "take more nodes (--nodes)"
    if step == "embed":
        if config.embed.gpus_per_actor:
            return "take more GPUs (--nodes, --gpus) or faster ones (--card)"
        if config.embed.encoder not in OWN_ENCODERS:
            return "take GPUs (embed.gpus_per_actor=1, --gpus), or a smaller encoder (embed.encoder=static)"
        return more_nodes
    if step == "search" and config.store.index_type in ("FLAT", "IVF_FLAT", "IVF_SQ8"):
        return "it grows with the square of the texts; take a server (store.uri) with store.index=HNSW or HNSW_SQ"
    server = "give the server more cores"
    return {
        "insert": "set store.shards to 4 or more, or store.load=bulk",
        "index": f"{server}, or a smaller store.params.efConstruction",
        "search": f"{server} or store.replicas, or set a smaller search.k or search.params.ef",
        "store": f"{server}, or set store.shards to 4 or more",
        "project": "set a smaller project.sample",
        "layout": "set a smaller project.sample",
        "plot": "set a smaller plot.points",
    }.get(step, more_nodes if cluster.count < 100 else "it is shared out already")
