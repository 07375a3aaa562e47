"""Counts in, the bytes that each stage will need out."""

from __future__ import annotations

from dataclasses import dataclass

PART_ROWS = 8192


@dataclass(frozen=True)
class StagePlan:
    """What a stage holds in its largest process, and what it leaves on disk, in bytes."""

    stage: str
    memory_bytes: int
    disk_bytes: int


def plan_stages(
    n_texts: int, n_records: int, dim: int, k: int, text_bytes: float, encoder_bytes: int, queries: int = 1000
) -> list[StagePlan]:
    """The bytes of every stage from the run's counts.

    n_texts, n_records : distinct texts, and records; dim : of a vector; k : neighbors of a text
    text_bytes : mean UTF-8 length of a text; encoder_bytes : weights of the encoder in memory
    queries : of a search request
    """
    part = min(n_texts, PART_ROWS)
    edges = n_texts * k  # directed
    vectors = n_texts * dim * 4
    # The first number is what an interpreter with Ray and the stage's libraries holds before it has read a row, in MiB.
    rows = [
        ("read", 300, n_records * 96, n_texts * (text_bytes + 12) + n_records * 40),  # two 16-byte digests, sorted
        ("embed", 260, encoder_bytes + part * (dim * 8 + text_bytes * 2 + 400), vectors),
        ("store", 340, part * dim * 12, vectors * 1.3),
        ("search", 350, part * (dim * 8 + k * 250), edges * 12),  # a hit is 250 bytes of Python objects until decoded
        ("graph", 380, edges * 72, edges * 24),  # sorting keys, then both directions of every edge
        ("forest", 450, edges * 16 + n_texts * 700, n_texts * 24),  # lists and sketches
        ("cluster", 450, n_texts * 700, n_texts * 80),
        ("describe", 440, n_texts * 450, 1 << 20),
        ("project", 550, edges * 12 + n_texts * 15 * 60 + part * dim * 4, n_texts * 16),
        ("plot", 630, n_texts * 120 + min(n_texts, 50_000) * (text_bytes + 1200), 6 << 20),
        ("report", 580, n_texts * 40 + PART_ROWS * 200, n_records * 60),
    ]
    return [StagePlan(stage, (base << 20) + int(memory), int(disk)) for stage, base, memory, disk in rows]


def server_bytes(n_texts: int, dim: int, links: int) -> int:
    """Memory of a loaded collection: float32 vectors, and of an HNSW index the links (2 M) of each text.

    A fifth is added for what a server keeps beside them.
    """
    return int(n_texts * (4 * dim + 4 * links) * 1.2)
