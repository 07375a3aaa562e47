"""Vectors that already lie in somebody's collection are clustered, and nothing of it changes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pymilvus import DataType, MilvusClient
from sklearn.metrics import adjusted_rand_score

from clustering.config.sections import EmbedSection
from clustering.encoders.loading import load_encoder
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns
from clustering.sample import write_sample

pytestmark = [pytest.mark.ray, pytest.mark.milvus, pytest.mark.full]
N_ROWS, TIMES = 17_000, 5  # more than a server lists at once; each headline so often
# Their vectors come from whole headlines; a run from files would embed them without the names of outlets.
APART = ["read.near_duplicates=keep"]


def make(client: MilvusClient, name: str, key: DataType, entities: list[dict], load: bool = True) -> None:
    """A collection as somebody else would make it."""
    fields = client.create_schema(auto_id=False, enable_dynamic_field=True)
    fields.add_field("key", key, is_primary=True, **({"max_length": 64} if key == DataType.VARCHAR else {}))
    fields.add_field("headline", DataType.VARCHAR, max_length=512)
    fields.add_field("year", DataType.INT32)
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=256)
    client.create_collection(name, schema=fields)
    for at in range(0, len(entities), 2000):
        client.insert(name, entities[at : at + 2000])
    client.flush(name)
    index = client.prepare_index_params()
    index.add_index("embedding", index_type="HNSW", metric_type="COSINE", params={"M": 8, "efConstruction": 64})
    client.create_index(name, index)
    if load:
        client.load_collection(name)


def digest(client: MilvusClient, name: str) -> str:
    """Of every entity and of all that is said about the collection."""
    found = hashlib.sha256()
    for year in range(2000, 2020):
        entities = client.query(name, filter=f"year == {year}", output_fields=["*"], consistency_level="Strong")
        for entity in sorted(entities, key=lambda entity: entity["key"]):
            vector = np.asarray(entity.pop("embedding"), np.float32)
            found.update(json.dumps(entity, sort_keys=True, default=str).encode() + vector.tobytes())
    about = [client.describe_collection(name), client.list_indexes(name), client.describe_index(name, "embedding"),
             client.get_load_state(name)]  # fmt: skip
    return found.hexdigest() + json.dumps(about, default=str)


def reading(uri: str, name: str) -> list[str]:
    """The words of a run that reads a collection instead of files."""
    return ["run", "--config", "cluster_configs/laptop.yaml", "read.paths=[]", f"read.collection.uri={uri}",
            f"read.collection.name={name}", "read.collection.text_field=headline", "search.k=20",
            "project.sample=2000", *APART]  # fmt: skip


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "sample.csv"
    write_sample(path, N_ROWS // TIMES, seed=9)
    titles = pyarrow.csv.read_csv(path)["title"].to_pylist() * TIMES
    pyarrow.csv.write_csv(pa.table({"id": [f"h{at}" for at in range(N_ROWS)], "title": titles}), path)
    return path


@pytest.fixture(scope="module")
def theirs(milvus_server, sample):
    """Headlines under VARCHAR keys, quotes among them; vectors of other lengths than one."""
    table = pyarrow.csv.read_csv(sample)
    titles = table["title"].to_pylist()
    vectors = load_encoder(EmbedSection(encoder="static")).encode(titles).vectors
    keys = [('a"b' if at % 7 == 0 else "k\\") + f"-{at:05d}" for at in range(N_ROWS)]
    client = MilvusClient(uri=milvus_server)
    entities = [
        {"key": key, "headline": title, "year": 2000 + at % 20, "embedding": vector * (1 + at % 3), "extra": at}
        for at, (key, title, vector) in enumerate(zip(keys, titles, vectors, strict=True))
    ]
    make(client, "theirs", DataType.VARCHAR, entities)
    return dict(zip(keys, table["id"].to_pylist(), strict=True))


def test_a_foreign_collection_is_clustered_and_not_changed(covey, milvus_server, theirs, sample, tmp_path):
    client = MilvusClient(uri=milvus_server)
    before = digest(client, "theirs")
    run = RunDir(tmp_path / "run")
    words = [*reading(milvus_server, "theirs"), f"run.dir={run.path}", f"store.uri={milvus_server}"]
    result = covey(*words)
    assert result.status == 0, result.err
    assert digest(client, "theirs") == before
    labels = pq.read_table(run / "labels.parquet")
    assert sorted(labels["text_id"].to_pylist()) == sorted(theirs)
    assert run.report["counts"]["dropped"] == run.report["counts"]["empty"] == 0
    assert run.report["embed"]["encoder"] is None
    assert "nothing to do" in covey(*words).err
    from_file = tmp_path / "file"
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"run.dir={from_file}", f"read.paths={sample}",
             f"store.uri={milvus_server}", "search.k=20", "project.sample=2000", "embed.lexical=0", *APART]  # fmt: skip
    assert covey(*words).status == 0
    table = pq.read_table(from_file / "labels.parquet")
    expected = dict(zip(table["text_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    mine = [expected[theirs[key]] for key in labels["text_id"].to_pylist()]
    assert adjusted_rand_score(mine, labels["label"].to_numpy()) >= 0.99
    result = covey("assign", "--run", run.path, "--input", sample, "--output", tmp_path / "new.parquet")
    assert result.status == 2
    assert "their encoder is not known here" in result.err


def test_entities_without_a_text_or_a_direction_are_counted(covey, milvus_server, tmp_path):
    client = MilvusClient(uri=milvus_server)
    rng = np.random.default_rng(4)
    entities = [
        {"key": at * 10 - 500, "headline": f"headline {at % 150}", "year": 1, "embedding": rng.normal(size=256)}
        for at in range(300)
    ]
    for at in (3, 5):
        entities[at]["embedding"] = np.zeros(256)
    for at in (7, 11, 13):
        entities[at]["headline"] = "  "
    make(client, "numbers", DataType.INT64, entities)
    run = RunDir(tmp_path / "run")
    words = [*reading(milvus_server, "numbers"), f"run.dir={run.path}"]
    result = covey(*words)
    assert result.status == 0, result.err
    counts = run.report["counts"]
    assert (counts["records"], counts["dropped"], counts["empty"], counts["texts"]) == (300, 2, 3, 150)
    assert "2 entities were left out: their vector is zero, infinite or not a number, for instance of" in " ".join(
        run.report["warnings"]
    )
    result = covey(*words, "read.limit=100", f"run.dir={tmp_path / 'few'}")
    assert result.status == 0, result.err
    assert RunDir(tmp_path / "few").report["counts"]["records"] == 100


def test_entities_are_cleaned_as_records_of_files_are(covey, milvus_server, tmp_path):
    client = MilvusClient(uri=milvus_server)
    rng = np.random.default_rng(5)
    entities = [
        {"key": at, "headline": f"&lt;p&gt;AT&amp;T sells <b>unit</b> {at}" if at % 2 else f"AT&T sells unit {at}",
         "year": 1, "embedding": rng.normal(size=256)}
        for at in range(200)
    ]  # fmt: skip
    make(client, "marked", DataType.INT64, entities)
    run = RunDir(tmp_path / "run")
    result = covey(*reading(milvus_server, "marked"), f"run.dir={run.path}")
    assert result.status == 0, result.err
    assert read_columns(run / "texts", ["text"])["text"].to_pylist() == [f"AT&T sells unit {at}" for at in range(200)]
    assert "50% of the texts carry markup" in " ".join(run.report["warnings"])


def test_an_empty_collection_has_no_texts(covey, milvus_server, tmp_path):
    make(MilvusClient(uri=milvus_server), "empty", DataType.VARCHAR, [])
    result = covey(*reading(milvus_server, "empty"), f"run.dir={tmp_path / 'run'}")
    assert result.status == 0, result.err
    assert RunDir(tmp_path / "run").report["counts"]["records"] == 0


def test_what_cannot_be_read_is_said_before_any_work(covey, milvus_server, tmp_path):
    client = MilvusClient(uri=milvus_server)
    entities = [{"key": 1, "headline": "one", "year": 1, "embedding": [1.0] * 256}]
    make(client, "asleep", DataType.INT64, entities, load=False)
    words = [*reading(milvus_server, "asleep"), f"run.dir={tmp_path / 'run'}", "read.collection.text_field=year",
             "read.collection.vector_field=vec"]  # fmt: skip
    result = covey(*words)
    assert result.status == 2
    assert "'year' is not of type VARCHAR" in result.err
    assert "; the fields are key (INT64), headline (VARCHAR)" in result.err
    assert "has no field 'vec'" in result.err
    assert "is not loaded" in result.err
    assert "NotLoad" in str(client.get_load_state("asleep")["state"])
    result = covey(*words, "read.collection.name=nowhere")
    assert result.status == 2
    assert "has no collection nowhere; it has asleep" in result.err
