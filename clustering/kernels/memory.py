"""Counts in, the bytes that each stage will need out."""

from __future__ import annotations

from dataclasses import dataclass

PROCESS = 350 << 20  # an interpreter with Ray, numpy, pyarrow and the stage's libraries
PART_ROWS = 8192


@dataclass(frozen=True)
class StagePlan:
    """What a stage holds in its largest process, and what it leaves on disk, in bytes."""

    stage: str
    memory_bytes: int
    disk_bytes: int


def plan_stages(
    n_texts: int, n_records: int, dim: int, k: int, text_bytes: float, encoder_bytes: int
) -> list[StagePlan]:
    """The bytes of every stage from the run's counts.

    n_texts, n_records : distinct texts, and records; dim : of a vector; k : neighbors of a text
    text_bytes : mean UTF-8 length of a text; encoder_bytes : weights of the encoder in memory
    """
    part = min(n_texts, PART_ROWS)
    edges = n_texts * k  # directed
    vectors = n_texts * dim * 4
    rows = [
        ("read", n_records * 96, n_texts * (text_bytes + 12) + n_records * 40),  # two 16-byte digests, sorted
        ("embed", encoder_bytes + part * (dim * 8 + text_bytes * 2 + 400), vectors),
        ("store", part * dim * 12, vectors * 1.3),
        ("search", part * (dim * 8 + k * 250), edges * 12),  # a hit is about 250 bytes of Python objects until decoded
        ("graph", edges * 72, edges * 24),  # sorting keys, then both directions of every edge
        ("forest", edges * 64, n_texts * 20),
        ("cluster", n_texts * 350, n_texts * 60),
        ("describe", n_texts * 40 + n_texts * text_bytes * 2, 1 << 20),
        ("project", edges * 12 + n_texts * 15 * 60 + part * dim * 4, n_texts * 16),
        ("plot", n_texts * 120 + min(n_texts, 50_000) * (text_bytes + 1200), 6 << 20),
        ("report", n_texts * 40 + PART_ROWS * 200, n_records * 60),
    ]
    return [StagePlan(stage, int(memory) + PROCESS, int(disk)) for stage, memory, disk in rows]
