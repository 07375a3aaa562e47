"""Somebody's collection made in the quick way of Milvus: all but key and vector lie in its dynamic field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from clustering.config.sections import CollectionInput
from clustering.errors import ConfigError
from clustering.milvus.embedded import embedded_server
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns
from clustering.sources.collection import find_collection

ROWS = 120


def quick(uri: str) -> MilvusClient:
    """Two collections with the same headlines: in the dynamic field, and in a JSON field."""
    rng = np.random.default_rng(3)
    client = MilvusClient(uri=uri)
    client.create_collection("quick", dimension=16)
    entities = [
        {"id": at, "vector": rng.normal(size=16).tolist(), "headline": f"headline {at}", "year": at,
         "a b": f"spaced {at}", "info": {"short": f"short {at}", "number": 1.5}}
        for at in range(ROWS)
    ]  # fmt: skip
    entities[5]["headline"] = 2024
    del entities[7]["headline"]
    entities[9]["headline"] = {"no": "text"}
    client.insert("quick", entities)
    fields = client.create_schema(auto_id=False, enable_dynamic_field=False)
    fields.add_field("key", DataType.INT64, is_primary=True)
    fields.add_field("info", DataType.JSON)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=16)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection("json", schema=fields, index_params=index)
    client.insert("json", [{"key": one["id"], "info": one["info"], "vector": one["vector"]} for one in entities])
    return client


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[str]:
    with embedded_server(tmp_path / "theirs") as uri:
        quick(uri).close()
        yield uri


def given(uri: str, name: str = "quick", text_field: str = "headline", **more: str) -> CollectionInput:
    return CollectionInput(uri=uri, name=name, text_field=text_field, **more)


def test_a_name_that_the_schema_lacks_is_looked_for_in_the_dynamic_field(theirs: str) -> None:
    source = find_collection(given(theirs))
    assert (source.asked, source.text, source.rows) == (("id", "$meta", "vector"), "headline", ROWS)
    assert find_collection(given(theirs, text_field="info.short", id_field="year")).asked == ("id", "$meta", "vector")
    assert find_collection(given(theirs, "json", "info.short")).asked == ("key", "info", "vector")
    wrong = r"text_field: none of the first 100 entities of quick has 'titel' in its field \$meta; there are a b, headl"
    with pytest.raises(ConfigError, match=wrong):
        find_collection(given(theirs, text_field="titel"))
    with pytest.raises(ConfigError, match=r"id_field: none of the first 100 .* has 'info.id' in its field info; there"):
        find_collection(given(theirs, "json", "info.short", id_field="info.id"))
    with pytest.raises(
        ConfigError, match=r"text_field: json has no field 'title'; it has key \(INT64\), info \(JSON\)"
    ):
        find_collection(given(theirs, "json", "title"))
    with pytest.raises(ConfigError, match=r"text_field: 'info' is not of type VARCHAR or TEXT"):
        find_collection(given(theirs, "json", "info"))


@pytest.mark.ray
@pytest.mark.full
def test_texts_of_a_dynamic_field_are_clustered(covey, theirs, tmp_path):
    run = tmp_path / "run"
    result = covey("run", "--config", "cluster_configs/laptop.yaml", "read.paths=[]", f"run.dir={run}", "search.k=20",
                   f"read.collection.uri={theirs}", "read.collection.name=quick",
                   "read.collection.text_field=headline", "read.collection.id_field=info.short")  # fmt: skip
    assert result.status == 0, result.err
    run = RunDir(run)
    texts = dict(zip(*read_columns(run / "texts", ["row", "text"]).to_pydict().values(), strict=True))
    members = zip(*read_columns(run / "members", ["text_id", "row"]).to_pydict().values(), strict=True)
    found = {text_id: texts[row] for text_id, row in members}
    assert found["short 3"] == "headline 3"
    assert found["short 5"] == "2024"
    assert len(found) == ROWS - 2  # one has none, another something that is no text
    assert "short 7" not in found
