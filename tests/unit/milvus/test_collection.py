"""collection.py: what a server's version does not have is refused before any work, in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymilvus import CollectionSchema, DataType, MilvusClient

from clustering.config.sections import StoreSection
from clustering.errors import ConfigError
from clustering.milvus.collection import check_offered, prepare_collection
from clustering.runs.directory import RunDir

URI = "http://m:1"


@pytest.mark.parametrize(
    ("store", "first"),
    [
        ({"vector_type": "float16"}, (2, 4)),
        ({"vector_type": "bfloat16"}, (2, 4)),
        ({"index": "HNSW", "params": {"mmap.enabled": True}}, (2, 4)),
        ({"index": "GPU_CAGRA"}, (2, 4)),
        ({"index": "HNSW_SQ"}, (2, 5)),
        ({"index": "HNSW", "params": {"mmap.enabled": False}}, (2, 3)),
        ({"index": "DISKANN"}, (2, 3)),
        ({"index": "IVF_SQ8", "shards": 4}, (2, 3)),
    ],
)
def test_each_option_has_the_version_that_it_begins_with(store: dict[str, Any], first: tuple[int, int]) -> None:
    section = StoreSection(uri=URI, **store)
    for minor in (3, 4, 5, 6):
        if (2, minor) >= first:
            check_offered(section, (2, minor, 0))
            continue
        with pytest.raises(ConfigError) as refused:
            check_offered(section, (2, minor, 9))
        (problem,) = refused.value.problems
        assert problem.endswith(f"needs a server of 2.{first[1]} or newer; the one at {URI} is 2.{minor}.9")


def test_all_that_is_missing_is_said_at_once() -> None:
    section = StoreSection(uri=URI, index="HNSW_SQ", vector_type="bfloat16", params={"mmap.enabled": True})
    with pytest.raises(ConfigError) as refused:
        check_offered(section, (2, 3, 5))
    assert [problem.split(" needs")[0] for problem in refused.value.problems] == [
        "store.vector_type=bfloat16", "store.index=HNSW_SQ", "store.params mmap.enabled"
    ]  # fmt: skip


class Client:
    """A server without collections, which keeps what it is asked to make."""

    made: tuple[CollectionSchema, dict[str, Any]]

    def has_collection(self, name: str) -> bool:
        return False

    def create_schema(self, **options: Any) -> CollectionSchema:
        return MilvusClient.create_schema(**options)

    def create_collection(self, name: str, schema: CollectionSchema, **options: Any) -> None:
        self.made = schema, options


@pytest.mark.parametrize(
    ("vector_type", "expected"), [("float32", DataType.FLOAT_VECTOR), ("bfloat16", DataType.BFLOAT16_VECTOR)]
)
def test_a_collection_has_the_type_of_its_vectors_and_its_shards(
    vector_type: Any, expected: DataType, tmp_path: Path
) -> None:
    client: Any = Client()
    store = StoreSection(uri=URI, vector_type=vector_type, shards=3)
    assert prepare_collection(RunDir(tmp_path), client, "texts", store, 4, "mark")
    schema, options = client.made
    assert [field.dtype for field in schema.fields] == [DataType.INT64, expected]
    assert options["num_shards"] == 3
