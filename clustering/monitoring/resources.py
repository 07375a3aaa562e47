"""Configuration, counts and a type of node in; bytes and processes of each stage out."""

from __future__ import annotations

from dataclasses import dataclass

from clustering.config.sections import SERVED, EmbedSection, ReadSection, RunConfig
from clustering.encoders.loading import check_encoder
from clustering.errors import ConfigError
from clustering.kernels.memory import PARTS_AT_ONCE, PARTS_AT_ONCE_SERVED, count_blocks, server_bytes, stage_bytes
from clustering.schema import Figures

GUESSED_DIM = 1024  # where only the loaded model knows it
GUESSED_TEXT_BYTES = 70.0  # a headline
GUESSED_COLUMNS = 10  # of read.keep=[all]
# The encoder static: 60 MiB, and 45 MiB of words whose tokens are kept.
ENCODER_BYTES = {"static": 150 << 20, "minilm": 400 << 20, "bge-m3": 2600 << 20, SERVED: 200 << 20}
STATIC_MODEL_BYTES = 1300 << 20  # of the largest known, potion-multilingual-128M: 500,353 tokens of 256 numbers
SQ_BYTES = {"SQ6": 0.75, "SQ8": 1, "BF16": 2, "FP16": 2, "FP32": 4}  # of a number of a vector in HNSW_SQ
DISKANN_SHARE = 0.225  # of the vectors that DISKANN holds in memory: compressed ones, and those that are read often
WORDS_BYTES = 160 << 20  # of an actor whose vectors hold words, too: numba, and the weights of all terms
READER_BYTES = 300 << 20  # of a process that reads a piece of the input


@dataclass(frozen=True)
class NodeType:
    """A type of node, and how many nodes of it there are."""

    cpus: int
    gpus: float = 0
    memory_bytes: int = 0  # 0: not known
    count: int = 1

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.cpus} cores{gpus}"


@dataclass(frozen=True)
class Counts:
    """The size of the input."""

    texts: int
    records: int
    dim: int
    text_bytes: float  # mean UTF-8 length of a text


def counts_of(read: Figures, dim: int) -> Counts:
    """The counts in the figures of the stage read."""
    return Counts(read["texts"], read["records"], dim, read["text_bytes"] / read["texts"])


def dim_of(config: RunConfig) -> int:
    """The dimension of the vectors; a guess where the encoder is not installed here, or only the loaded model knows."""
    try:
        known = check_encoder(config.embed) if config.read.collection is None else None
    except ConfigError:
        known = None
    return known or config.embed.dimensions or GUESSED_DIM


def words_share(config: RunConfig) -> float:
    """The share of words in the cosine of two texts; none where the vectors come with the texts."""
    return 0.0 if config.read.collection is not None else config.embed.words_share


@dataclass(frozen=True)
class StageEstimate:
    """The memory of one process of a stage, the processes that one node may run at once, and the stage's disk."""

    stage: str
    memory_bytes: int
    processes: int
    disk_bytes: int

    @property
    def node_bytes(self) -> int:
        if self.stage == "read":  # one process numbers all rows, after the others have read
            return max(self.memory_bytes, READER_BYTES * self.processes)
        return self.memory_bytes * self.processes

    def __str__(self) -> str:
        if self.node_bytes == self.memory_bytes:
            return format_bytes(self.node_bytes)
        return f"{self.processes} x {format_bytes(self.node_bytes / self.processes)} = {format_bytes(self.node_bytes)}"


def estimate_stages(config: RunConfig, counts: Counts, node_type: NodeType) -> list[StageEstimate]:
    """The estimate of every stage on a type of node, from counts alone."""
    encoder_bytes = ENCODER_BYTES.get(config.embed.encoder, ENCODER_BYTES["bge-m3"])
    if config.embed.encoder == "static" and config.embed.model:
        encoder_bytes = STATIC_MODEL_BYTES
    if words_share(config):
        encoder_bytes += WORDS_BYTES
    most = max(counts.texts - 1, 0)
    graph_k = min(config.graph_k, most)
    stages = stage_bytes(
        counts.texts, counts.records, counts.dim, min(config.search.k, most), counts.text_bytes,
        encoder_bytes if config.read.collection is None else 0,
        parts_at_once=parts_at_once(config.embed), graph_k=graph_k,
        n_blocks=count_blocks(counts.texts, graph_k, node_type.count, node_type.memory_bytes),
        recall_sample=min(config.search.recall_sample, counts.texts), map_neighbors=config.project.n_neighbors,
        map_texts=config.project.sample, map_method=config.project.method, drawn=config.plot.points,
        unfolded=counts.records - counts.texts if config.cluster.copies == "weigh" else 0,
        kept_columns=kept_columns(config.read),
    )  # fmt: skip
    return [
        StageEstimate(one.stage, one.memory_bytes, _processes(one.stage, config, node_type), one.disk_bytes)
        for one in stages
    ]


def kept_columns(read: ReadSection) -> int:
    """The columns of the records besides text_id and time; a guess where the input tells which there are."""
    kept = GUESSED_COLUMNS if read.keep == ("all",) else len(read.keep)
    return kept + bool(read.source_column) + bool(read.link_column)


def parts_at_once(embed: EmbedSection) -> int:
    """Parts that an actor of the stage embed works on at the same time."""
    if embed.encoder == SERVED:
        return PARTS_AT_ONCE_SERVED
    return PARTS_AT_ONCE if embed.gpus_per_actor else 1


def _processes(stage: str, config: RunConfig, node_type: NodeType) -> int:
    """Processes of a stage that one node may run at the same time."""
    embed = config.embed
    if stage == "embed" and embed.gpus_per_actor:
        most = max(1, int(node_type.gpus / embed.gpus_per_actor))
        return min(embed.actors or most, most)
    if stage == "embed":
        return min(embed.actors or 4, node_type.cpus)
    if stage == "store":
        return 1 if config.store.embedded else min(config.store.actors or 2, node_type.cpus)
    if stage == "search":
        pool = node_type.cpus if config.store.is_searched_by_workers else 2
        return min(config.search.actors or pool, node_type.cpus)
    return node_type.cpus if stage == "read" else 1


def milvus_bytes(config: RunConfig, counts: Counts) -> int:
    """Memory of the loaded collection on the server, in all its replicas.

    Of what mmap keeps on disk a quarter counts: pages that the search reads often. This share is a guess.
    """
    store = config.store
    width = 4.0 if store.vector_type == "float32" else 2.0
    links = 2 * int(store.params.get("M", 16)) if store.index_type in ("HNSW", "HNSW_SQ") else 0
    if store.index_type == "IVF_SQ8":
        width = 1
    elif store.index_type == "HNSW_SQ":
        refined = store.params.get("refine") and SQ_BYTES[str(store.params.get("refine_type", "FP32"))]
        width = SQ_BYTES[str(store.params.get("sq_type", "SQ8"))] + (refined or 0)
    elif store.index_type == "DISKANN":
        width *= DISKANN_SHARE
    found = store.replicas * server_bytes(counts.texts, width, counts.dim, links)
    return found // 4 if store.params.get("mmap.enabled") else found


def format_bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
