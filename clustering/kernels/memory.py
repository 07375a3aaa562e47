"""Counts in; the bytes that each stage will need out."""

from __future__ import annotations

from dataclasses import dataclass

from clustering.kernels.topk import BLOCK_BYTES

GROUP_ROWS = 8192  # of a row group of a part: what a worker holds at a time
PARTS_AT_ONCE = 6  # of an actor with a GPU: some are read and written while another has the GPU
PARTS_AT_ONCE_SERVED = 2  # where a server embeds: one is read, decoded and written while it works on the other
LARGEST_PART = 131_072  # rows
PART_VECTOR_BYTES, PART_TEXT_BYTES = 512 << 20, 64 << 20  # of a part, at most
SMALL_RUN_PARTS = 64  # about so many parts share out the work of a run with smaller ones
LARGE_INPUT_BYTES = 1 << 30  # of all files, from which on parts of records/ are larger
LEAST_SHARED = 1 << 22  # entries of all lists, from which on every node gets a block of the graph
ASSUMED_NODE_BYTES = 16 << 30  # of a node of which nothing is known, such as one that an autoscaler will start
MOST_ENTRIES, MOST_BLOCKS = 1 << 27, 512  # entries of the lists of a block, and blocks of a graph
PROCESS_BYTES = 300 << 20  # of a process that holds shards, before it has any
MAP_TEXTS = 1_000_000  # that the map lays out, where project.sample says nothing; the others lie amid their neighbors
AXES_ROWS = 131_072  # vectors whose covariance gives the axes of the map's start
SUMMED_TEXTS = 1 << 21  # whose counts of terms one task adds up
FILE_RECORDS = 10_000_000  # beyond, labels.parquet is a folder of parts
NUMBERED_RECORDS = 1 << 22  # whose texts a process numbers at most
FOLDED_BYTES = 360  # of each
FOLDED_RECORDS = 1 << 20  # among whose texts a process looks for near-duplicates at most
PICTURE_POINTS = 200_000  # of map.png; more texts are a density
SHOWN_CELL_BYTES = 150  # of a short value of a record in the interactive map, while its page is written
HALO_SHARE = 8.0  # rows of others that a small block's edges name, for each own one: 6.7 and 8.1 in two sets of titles
SERVER_BASE_BYTES = 1200 << 20  # of a Milvus server beside its collections, while it indexes


@dataclass(frozen=True)
class StageBytes:
    """Bytes of a stage: memory of its largest process, and disk of its artefacts."""

    stage: str
    memory_bytes: int
    disk_bytes: int


def part_rows(n_rows: int, dim: int, row_bytes: float) -> int:
    """Rows of a part of texts/, vectors/ and neighbors/: a power of two, and several row groups where it can be.

    n_rows : of the run, or more; dim : of its vectors; row_bytes : mean size of a record's text and other columns
    """
    most = min(LARGEST_PART, PART_VECTOR_BYTES // (4 * dim), int(PART_TEXT_BYTES / max(row_bytes, 1)))
    rows = max(min(most, n_rows // SMALL_RUN_PARTS), GROUP_ROWS)
    return 1 << (rows.bit_length() - 1)


def record_groups(input_bytes: float) -> int:
    """The row groups of a part of records/, of which several make one of texts/. input_bytes : of all files"""
    return 4 if input_bytes >= LARGE_INPUT_BYTES else 1


def stage_bytes(
    n_texts: int,
    n_records: int,
    dim: int,
    k: int,
    text_bytes: float,
    encoder_bytes: int,
    *,
    parts_at_once: int = 1,
    graph_k: int | None = None,
    n_blocks: int = 1,
    recall_sample: int = 1000,
    map_neighbors: int = 15,
    map_texts: int | None = None,
    map_method: str = "layout",
    drawn: int = 1_000_000,
    unfolded: int = 0,
    kept_columns: int = 0,
) -> list[StageBytes]:
    """The bytes of every stage, in their order.

    n_texts, n_records : distinct texts, and records; dim : of a vector
    k : neighbors of a text; graph_k : those of them that the graph takes; None: all
    n_blocks : blocks of near rows of the graph, see ``count_blocks``
    text_bytes : mean UTF-8 length of a text; encoder_bytes : of the encoder's weights in memory
    parts_at_once : that an actor embeds; it holds a row group of each
    recall_sample : rows that are compared with exact search
    map_neighbors, map_texts, map_method : of the map; map_texts None: MAP_TEXTS
    unfolded : records beside one of each text, where each is a row of the tree (cluster.copies=weigh)
    drawn, kept_columns : texts in the interactive map, and columns of their records besides text_id and time
    Source: fitted to runs of 2,291 to 859,941 texts (docs/operations.md).
    """
    part = min(n_texts, GROUP_ROWS)  # in a worker's memory at a time
    embedded = min(n_texts, parts_at_once * GROUP_ROWS)
    listed = n_texts * k  # directed edges
    edges = listed if graph_k is None else n_texts * graph_k
    vectors = n_texts * dim * 4
    own = -(-n_texts // n_blocks)
    shard = forest_bytes(own, halo_rows(n_texts, own), -(-edges // n_blocks))
    sampled = recall_sample * (dim * 4 + k * 60) + 3 * BLOCK_BYTES if recall_sample else 0
    umap = map_method == "umap"
    pictured, shown = min(n_texts, PICTURE_POINTS), min(n_texts, drawn)
    held = min(n_records, 2 * drawn)  # records of the interactive map
    cells = held * kept_columns + max(held - shown, 0)
    # The first number is in MiB: an interpreter with Ray and the stage's libraries, before it reads a row. From graph
    # to describe 150 of them are libraries of stages before, which a worker keeps that does the tasks of several.
    rows = [
        # Two 16-byte digests a record, sorted; or the words and keys of near-duplicates, compiled code besides.
        (
            "read",
            230,
            max(min(n_records, NUMBERED_RECORDS) * 118, (100 << 20) + min(n_records, FOLDED_RECORDS) * FOLDED_BYTES),
            n_texts * (text_bytes + 12) + n_records * 40,
        ),
        ("embed", 150, encoder_bytes + embedded * (dim * 8 + text_bytes * 350 + 400), vectors),  # tokens are objects
        ("store", 265, part * dim * 70, vectors * 1.3),  # two parts and their requests in flight
        # A hit is 250 bytes of Python objects until it is decoded. Beside it, a block of products with the sample.
        ("search", 385, part * (dim * 8 + k * 250) + sampled, listed * 12),
        ("graph", 150, graph_bytes(n_texts, edges, n_blocks), edges * 24 + n_texts * 40),
        ("forest", 150, max(shard, merging_bytes(n_texts) if n_blocks > 1 else 0), n_texts * 24),
        # In one block, the same process has the quality graph.
        ("cluster", 570, n_texts * (380 if n_blocks == 1 else 270) + unfolded * 90, n_texts * 80 + unfolded * 32),
        # Words, phrases and texts of the clusters, one for 20 texts or fewer, in the task that joins them.
        ("describe", 0, max(counting_bytes(n_texts), (690 << 20) + n_texts * 180), 1 << 20),
        ("project", 590 if umap else 500, map_bytes(n_texts, dim, k, map_neighbors, map_texts, umap), n_texts * 16),
        # The page's columns and texts, and both packed; values of the records as the tasks leave them, and in order.
        (
            "plot",
            640,
            n_texts * 30 + pictured * 190 + shown * (text_bytes * 4 + 500) + cells * SHOWN_CELL_BYTES,
            shown * text_bytes + (1 << 20),
        ),
        # The records of a task with the texts of a part; in one file, also the rows that have several records.
        (
            "report",
            560,
            min(n_texts, LARGEST_PART) * 600
            + min(n_texts * text_bytes, PART_TEXT_BYTES) * 6
            + min(n_texts, FILE_RECORDS) * 60
            + min(n_texts, n_records - n_texts, FILE_RECORDS) * text_bytes,
            n_records * (60 + text_bytes),
        ),
    ]
    return [StageBytes(stage, (base << 20) + int(memory), int(disk)) for stage, base, memory, disk in rows]


def counting_bytes(n_texts: int) -> int:
    """Memory of a task of the stage describe that does not join the others'.

    The phrases that one adds up, and a few numbers of each cluster, one for 20 texts or fewer, as JSON is read.
    Source: 175 MiB above its start for the phrases of 340,530 generated headlines, which take most.
    """
    return (690 << 20) + min(n_texts, SUMMED_TEXTS) * 540 + n_texts * 20


def map_bytes(n_texts: int, dim: int, k: int, n_neighbors: int, sample: int | None, umap: bool) -> int:
    """Memory of the process that lays out the map, without its libraries. sample : texts that it lays out at most"""
    laid_out = min(n_texts, sample or MAP_TEXTS)
    start = n_texts * dim * 4 if n_texts <= AXES_ROWS else 0
    layout = laid_out * n_neighbors * (137 if umap else 67) + n_texts * 8
    if laid_out == n_texts:
        return max(start, layout)
    # The entries of all lists that are in the sample, in parts, joined, and shared; then all coordinates twice.
    return max(start, layout, laid_out * k * 24 + n_texts * 24, n_texts * 34)


def halo_rows(n_texts: int, n_own: int, share: float = HALO_SHARE) -> int:
    """The rows of others that the edges of a block name, before the graph tells.

    share : for each of its own rows; there are never more than the run has
    """
    return min(n_texts - n_own, int(share * n_own))


@dataclass(frozen=True)
class ShardBytes:
    """Memory that a process takes for a shard, without what it shares with others in Ray's object store.

    held, working : as long as it lives, and besides while it works on this shard
    """

    held: int
    working: int


def process_bytes(shards: list[ShardBytes]) -> int:
    """Memory of a process with some shards, which works on one of them at a time."""
    return PROCESS_BYTES + sum(shard.held for shard in shards) + max(shard.working for shard in shards)


def forest_shard(n_own: int, n_halo: int, entries: int) -> ShardBytes:
    """A shard of the forest.

    n_own, n_halo : rows of the shard, and those of others that its edges name; entries : its directed edges
    Source: the sketches of a round before and after it, or, with many entries, their weights and numbers.
    """
    averaging = n_own * 510 + n_halo * 256
    spanning = entries * 9 + (n_own + n_halo) * 92
    return ShardBytes(entries * 8 + n_own * 90 + n_halo * 8, max(averaging, spanning))


def forest_bytes(n_own: int, n_halo: int, entries: int) -> int:
    """Memory of a process with one shard of the forest; arguments as above."""
    return process_bytes([forest_shard(n_own, n_halo, entries)])


def merging_bytes(n_texts: int) -> int:
    """Memory of the process that merges the last two forests of shards, and joins the rows of equal vectors."""
    return (300 << 20) + n_texts * 150


def graph_bytes(n_texts: int, entries: int, n_blocks: int = 1) -> int:
    """Memory of the largest process that makes the graph in so many blocks.

    n_texts, entries : of the whole run, and of all its lists
    Several blocks: all processes map the place of each row and its time from Ray's object store. One process reads the
    times of all rows.
    """
    read = 250 * min(n_texts, GROUP_ROWS) * entries // max(n_texts, 1)  # row groups of the lists
    shared = n_texts * (8 if n_blocks > 1 else 4)
    work = shared + read + (entries * 24 + n_texts * 90) // n_blocks
    return ((365 if n_blocks == 1 else 300) << 20) + max(work, n_texts * 20)


def count_blocks(n_texts: int, k: int, n_nodes: int, node_bytes: int) -> int:
    """The number of blocks of near rows that the graph is made in.

    One where it is small; otherwise at least one a node, and so many that one fills at most half a node.
    n_nodes, node_bytes : nodes that can be had, and the memory of the smallest; 0: not known, ASSUMED_NODE_BYTES
    """
    entries, node_bytes = n_texts * k, node_bytes or ASSUMED_NODE_BYTES
    if entries < LEAST_SHARED:
        return 1
    n_blocks = max(1, n_nodes, -(-entries // MOST_ENTRIES))
    while n_blocks < MOST_BLOCKS and _block_bytes(n_texts, k, n_blocks) > node_bytes // 2:
        n_blocks += 1
    return n_blocks


def _block_bytes(n_texts: int, k: int, n_blocks: int) -> int:
    own = -(-n_texts // n_blocks)
    return max(graph_bytes(n_texts, n_texts * k, n_blocks), forest_bytes(own, halo_rows(n_texts, own), own * k))


def quality_shard(n_own: int, n_halo: int, q: int) -> ShardBytes:
    """A shard of the quality graph: its rows' edges to their first q neighbors. n_own, n_halo : as in ``forest_shard``

    Source: two tables of the own rows and one of their 30 links, and then the sorted lists and the weights.
    """
    return ShardBytes(n_own * (8 * q + 144) + n_halo * 8, n_own * (12 * q + 16) + n_halo * (4 * q + 16))


def server_bytes(n_texts: int, number_bytes: float, dim: int, links: int) -> int:
    """Memory of a server with a loaded collection.

    number_bytes : of a number of a vector in the index: 4 for float32, 1 for SQ8, 5 for SQ8 refined by FP32
    links : of each text in a graph (2 M of HNSW); 0 for other indexes
    Everything counts twice: while segments are merged and indexed, the old and the new ones are there.
    Source: fitted to a server of 2.3.5 with 200,000 and 1,000,000 vectors of 256 numbers in HNSW.
    """
    return SERVER_BASE_BYTES + int(2 * n_texts * (number_bytes * dim + 4 * links))
