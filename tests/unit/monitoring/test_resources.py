"""resources.py: what each way to keep vectors needs of the server's memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clustering.config.loading import build_config
from clustering.monitoring.resources import GUESSED_DIM, Counts, NodeType, dim_of, estimate_stages, milvus_bytes

COUNTS = Counts(texts=1000, records=1000, dim=1024, text_bytes=60.0)


@pytest.mark.parametrize(
    ("store", "each"),
    [
        ({"index": "HNSW"}, 4 * 1024 + 4 * 32),
        ({"index": "HNSW", "vector_type": "bfloat16", "params": {"M": 8}}, 2 * 1024 + 4 * 16),
        ({"index": "HNSW_SQ"}, 1024 + 4 * 32),
        ({"index": "HNSW_SQ", "params": {"sq_type": "SQ6", "refine": True, "refine_type": "FP16"}}, 2816 + 4 * 32),
        ({"index": "IVF_SQ8"}, 1024),
        ({"index": "IVF_FLAT", "replicas": 3}, 3 * 4 * 1024),
        ({"index": "FLAT", "params": {"mmap.enabled": True}}, 1024),
        ({"index": "DISKANN"}, 0.225 * 4 * 1024),
    ],
)
def test_the_servers_memory_follows_from_how_the_vectors_are_kept(store: dict[str, Any], each: float) -> None:
    config = build_config({"store": {"uri": "http://milvus:19530", **store}})
    more = milvus_bytes(config, replace(COUNTS, texts=1_001_000)) - milvus_bytes(config, COUNTS)
    assert more == pytest.approx(2 * 1e6 * each, abs=8)


@pytest.mark.parametrize(
    ("embed", "dim"),
    [
        ({"encoder": "static"}, 512),
        ({"encoder": "static", "dimensions": 64}, 320),
        ({"encoder": "static", "lexical": 0}, 256),
        ({"encoder": "static", "dimensions": 512}, 512),  # which is refused before any work
        ({"encoder": "somebody/model"}, GUESSED_DIM),
        ({"encoder": "somebody/model", "dimensions": 128}, 128),
    ],
)
def test_the_plan_counts_with_the_dimensions_that_are_stored(embed: dict[str, Any], dim: int) -> None:
    assert dim_of(build_config({"embed": embed})) == dim


def test_an_actor_with_a_gpu_is_planned_with_its_parts_at_once() -> None:
    def embed(**keys: Any) -> int:
        config = build_config({"embed": {"encoder": "bge-m3", **keys}})
        counts = Counts(texts=1_000_000, records=1_000_000, dim=1024, text_bytes=70.0)
        return next(one.memory_bytes for one in estimate_stages(config, counts, NodeType(8, 1)) if one.stage == "embed")

    assert embed(gpus_per_actor=1) - embed() > 5 * 8192 * 1024 * 8
