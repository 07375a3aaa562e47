"""The same run on a real Milvus server, and what a server can refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pymilvus import DataType, MilvusClient
from pymilvus.grpc_gen import milvus_pb2
from sklearn.metrics import adjusted_rand_score

from clustering.cli.main import main
from clustering.config.sections import StoreSection
from clustering.errors import StoreError
from clustering.milvus.bulk import ImportJobs
from clustering.milvus.channel import Channel
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.index import list_segments, make_searchable
from clustering.milvus.protocol import ROW, VECTOR
from clustering.milvus.query import NeighborQuery
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns, vectors_of
from clustering.sample import write_sample
from tests.integration.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.milvus, pytest.mark.full]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "sample.csv"
    write_sample(path, 1500, seed=5)
    return path


def labels_of(run: Path) -> np.ndarray:
    return pq.read_table(run / "labels.parquet")["label"].to_numpy()


def collection(uri: str, name: str, dim: int, metric: str = "L2") -> MilvusClient:
    client = MilvusClient(uri=uri)
    fields = client.create_schema(auto_id=False)
    fields.add_field("key", DataType.INT64, is_primary=True)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type=metric)
    client.create_collection(name, schema=fields, index_params=index)
    return client


def test_a_server_gives_the_same_clusters_as_the_embedded_store(run_files, covey, sample, milvus_server, tmp_path):
    embedded, result = run_files(f"read.paths={sample}")
    assert result.status == 0, result.err
    flat = tmp_path / "flat"
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}"]
    result = covey(*words, f"run.dir={flat}")
    assert result.status == 0, result.err
    assert adjusted_rand_score(labels_of(embedded), labels_of(flat)) >= 0.99
    client = MilvusClient(uri=milvus_server)
    assert "covey_flat" in client.list_collections()


@pytest.mark.nightly
def test_ivf_is_searched_with_its_own_parameters(covey, sample, milvus_server, tmp_path):
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}"]
    run = tmp_path / "ivf"
    options = ["store.index=IVF_FLAT", "store.params.nlist=32", "search.params.nprobe=2", "store.keep=false"]
    result = covey(*words, f"run.dir={run}", *options)
    assert result.status == 0, result.err
    search = RunDir(run).report["search"]
    assert search["params"] == {"nprobe": 2}
    assert search["recall"] < 1  # two of 32 cells cannot hold every neighbor; the run says so itself


@pytest.mark.parametrize(
    ("index", "shards", "params"),
    [  # the packaged server has no DISKANN
        pytest.param("IVF_SQ8", 2, {"nprobe": 32}, marks=pytest.mark.nightly),
        ("HNSW", 3, {"ef": 102}),
    ],
)
def test_smaller_indexes_and_several_shards_hold_the_same_neighbors(
    index, shards, params, covey, sample, milvus_server, tmp_path
):
    run = RunDir(tmp_path / f"{index}_{shards}")
    more = ["store.params.nlist=32", "search.params.nprobe=32"] if index == "IVF_SQ8" else ["store.metric=COSINE"]
    result = covey("run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"run.dir={run.path}",
                   f"store.uri={milvus_server}", f"store.index={index}", f"store.shards={shards}", *more)  # fmt: skip
    assert result.status == 0, result.err
    search = run.report["search"]
    assert (search["index"], search["params"]) == (index, params)
    assert search["recall_low"] > (0.9 if index == "HNSW" else 0.88)
    assert search["recall"] > 0.93
    client = MilvusClient(uri=milvus_server)
    described = client.describe_collection(f"covey_{index}_{shards}")
    assert described["num_shards"] == shards
    assert client.describe_index(f"covey_{index}_{shards}", "vector")["index_type"] == index


def test_what_the_server_does_not_have_is_refused_before_any_work(covey, sample, milvus_server, tmp_path):
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}",
             f"run.dir={tmp_path / 'run'}", "store.index=HNSW_SQ", "store.vector_type=float16"]  # fmt: skip
    result = covey(*words)
    assert result.status == 2
    assert (
        f"store.vector_type=float16 needs a server of 2.4 or newer; the one at {milvus_server} is 2.3.5" in result.err
    )
    assert f"store.index=HNSW_SQ needs a server of 2.5 or newer; the one at {milvus_server} is 2.3.5" in result.err
    result = covey(*words[:-2], "store.replicas=2")
    assert result.status == 2
    assert f"store.replicas=2: the server at {milvus_server} has query nodes for 1 at most" in result.err
    assert not (tmp_path / "run" / "texts").exists()


@pytest.mark.nightly
def test_a_target_recall_is_reached_with_the_least_effort_that_does(covey, sample, milvus_server, tmp_path):
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}"]
    run = RunDir(tmp_path / "target")
    options = ["store.index=IVF_FLAT", "store.params.nlist=64", "search.target_recall=0.9", "search.params.nprobe=1",
               "read.near_duplicates=keep"]  # fmt: skip
    result = covey(*words, f"run.dir={run.path}", *options)
    assert result.status == 0, result.err
    search = run.report["search"]
    steps = search["target_steps"]
    assert search["target_reached"] is True
    assert [step["nprobe"] for step in steps] == sorted({step["nprobe"] for step in steps})
    assert all(step["recall"] < 0.9 for step in steps[:-2])
    assert search["params"] == {"nprobe": steps[-1]["nprobe"]}
    assert 1 < search["params"]["nprobe"] < 64
    assert search["recall_high"] >= 0.9
    vectors = vectors_of(read_columns(run / "vectors", ["vector"])).astype(np.float64)
    far = -vectors @ vectors.T
    np.fill_diagonal(far, np.inf)
    lists = read_columns(run / "neighbors", ["neighbors"])["neighbors"].to_pylist()
    edge = np.sort(far, axis=1)[:, 49] + 1e-6
    true = np.mean([(far[row][listed] <= edge[row]).sum() / 50 for row, listed in enumerate(lists)])
    assert 0.89 <= true < 1
    assert "for a recall of" in result.err
    result = covey(*words, f"run.dir={run.path}", *options, "search.target_recall=0.97")
    assert RunDir(run.path).report["search"]["params"]["nprobe"] > search["params"]["nprobe"]


def test_a_bulk_load_leaves_the_same_collection_and_no_file(covey, sample, milvus_server, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    run, shared = RunDir(tmp_path / "bulk"), tmp_path / "shared"
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}",
             f"run.dir={run.path}", "store.load=bulk", f"store.bulk_path={shared}"]  # fmt: skip
    with monkeypatch.context() as patched:  # killed while the server imports
        patched.setattr("clustering.milvus.bulk.ImportJobs.wait", interrupt)
        assert covey(*words).status == 130
    (asked,) = json.loads((run / "loaded" / "bulk.json").read_text()).values()
    assert asked.isdigit()
    result = covey(*words)
    assert result.status == 0, result.err
    assert list(shared.iterdir()) == []
    store = run.report["store"]
    assert store["rows"] == run.report["counts"]["texts"]
    assert store["repaired_rows"] == 0
    figures = run.manifest["stages"]["store"]["figures"]
    assert (figures["import_jobs"], figures["import_files"]) == (1, 1)
    assert run.report["search"]["recall"] > 0.99
    client = MilvusClient(uri=milvus_server)
    assert "NotLoad" in str(client.get_load_state("covey_bulk")["state"])  # released when the run was done
    client.load_collection("covey_bulk")
    (counted,) = client.query("covey_bulk", filter="", output_fields=["count(*)"], consistency_level="Strong")
    assert counted["count(*)"] == store["rows"]
    result = covey(*words, "search.k=20")
    assert result.status == 0, result.err
    assert str(client.get_load_state("covey_bulk")["state"]) == "Loaded"  # somebody has loaded it since


def test_an_import_job_that_the_server_does_not_know_counts_as_done(milvus_server, tmp_path):
    assert ImportJobs(RunDir(tmp_path), Endpoint(milvus_server, "covey_none")).state("1") == (True, "")


@pytest.mark.nightly
def test_a_file_that_the_server_cannot_see_is_told(covey, sample, milvus_server, tmp_path, monkeypatch):
    run, shared = RunDir(tmp_path / "unseen"), tmp_path / "shared"
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}",
             f"run.dir={run.path}", "store.load=bulk", f"store.bulk_path={shared}"]  # fmt: skip
    with monkeypatch.context() as patched:
        start = ImportJobs.start
        patched.setattr(ImportJobs, "start", lambda jobs, files, _: start(jobs, files, "/nowhere"))
        result = covey(*words)
    assert result.status == 1
    assert "the import of part-000000.parquet failed" in result.err
    assert f"The server must see store.bulk_path={shared}" in result.err
    result = covey(*words)
    assert result.status == 0, result.err


@pytest.mark.parametrize(("dim", "metric", "reason"), [(128, "L2", "dimension 128, the encoder's 512"),
                                                       (512, "COSINE", "its metric is COSINE, not L2")])  # fmt: skip
def test_a_foreign_collection_is_refused_and_not_touched(dim, metric, reason, covey, sample, milvus_server, tmp_path):
    name = f"theirs_{dim}"
    client = collection(milvus_server, name, dim, metric)
    client.insert(name, [{"key": 1, "vector": [0.5] * dim}])
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}"]
    result = covey(*words, f"run.dir={tmp_path / 'run'}", f"store.collection={name}")
    assert result.status == 2
    assert reason in result.err
    assert "no run of Covey made it" in result.err
    assert not (tmp_path / "run" / "texts").exists()
    (counted,) = client.query(name, filter="", output_fields=["count(*)"], consistency_level="Strong")
    assert counted["count(*)"] == 1


@pytest.mark.nightly
def test_changed_texts_are_loaded_anew(covey, sample, milvus_server, tmp_path):
    given = tmp_path / "news.csv"
    lines = sample.read_text().splitlines()
    given.write_text("\n".join(lines[:400]) + "\n")
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={given}", f"store.uri={milvus_server}",
             f"run.dir={tmp_path / 'changing'}"]  # fmt: skip
    assert covey(*words).status == 0
    given.write_text("\n".join(lines[:200]) + "\n")
    result = covey(*words)
    assert result.status == 0, result.err
    counts = RunDir(tmp_path / "changing").report["counts"]
    client = MilvusClient(uri=milvus_server)
    client.load_collection("covey_changing")
    (held,) = client.query("covey_changing", filter="", output_fields=["count(*)"])
    assert held["count(*)"] == counts["texts"] < 200


@pytest.mark.nightly
def test_a_collection_that_shall_not_stay_is_dropped_by_the_next_start(
    covey, sample, milvus_server, tmp_path, monkeypatch
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}",
             f"run.dir={tmp_path / 'passing'}", "store.keep=false"]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr("clustering.collection_lifecycle.drop_collection", interrupt)
        assert covey(*words).status == 130
    client = MilvusClient(uri=milvus_server)
    assert "covey_passing" in client.list_collections()
    result = covey(*words)
    assert result.status == 0, result.err
    assert "dropped collection covey_passing" in result.err
    assert "covey_passing" not in client.list_collections()
    searched = RunDir(tmp_path / "passing").manifest["stages"]["search"]["finished"]
    assert covey("recluster", "--run", tmp_path / "passing", "cluster.min_samples=3").status == 0
    assert "covey_passing" not in client.list_collections()
    assert RunDir(tmp_path / "passing").manifest["stages"]["search"]["finished"] == searched


@pytest.mark.nightly
def test_vectors_of_another_start_are_not_searched(covey, sample, milvus_server, tmp_path):
    run = RunDir(tmp_path / "copied")
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}"]
    assert covey(*words, f"run.dir={run.path}").status == 0
    before = labels_of(run.path)
    copy = shutil.copytree(run.path, tmp_path / "elsewhere" / "copied")  # with the same id
    other = tmp_path / "other.csv"
    other.write_text(sample.read_text().replace("a", "e"))
    same = "store.collection=covey_copied"  # by itself, a copy takes another one
    assert covey(*words[:3], f"read.paths={other}", words[4], f"run.dir={copy}", same).status == 0
    result = covey(*words, f"run.dir={run.path}", "search.k=49")
    assert result.status == 0, result.err
    assert "made anew by another start" in result.err
    assert run.report["search"]["recall"] == 1
    assert adjusted_rand_score(before, labels_of(run.path)) > 0.9


@pytest.fixture(scope="module")
def loaded(local_ray, sample, milvus_server, tmp_path_factory):
    """The words of a run that is finished, and its directory."""
    run = RunDir(tmp_path_factory.mktemp("loaded") / "loaded")
    words = ["run", "--config", str(ROOT / "cluster_configs/laptop.yaml"), f"read.paths={sample}",
             f"store.uri={milvus_server}", f"run.dir={run.path}"]  # fmt: skip
    assert main(words) == 0
    return words, run


def test_new_texts_are_placed_by_the_kept_collection_as_by_exact_search(covey, loaded, milvus_server, tmp_path):
    _, run = loaded
    new = tmp_path / "new.csv"
    write_sample(new, 900, seed=77)
    words = ["assign", "--run", run.path, "--input", new, "--output"]
    client = MilvusClient(uri=milvus_server)
    client.release_collection("covey_loaded")

    def is_loaded() -> bool:
        return str(client.get_load_state("covey_loaded")["state"]) == "Loaded"

    exact, asked = tmp_path / "exact.parquet", tmp_path / "asked.parquet"
    result = covey(*words, exact)
    assert result.status == 0, result.err
    assert f"has its vectors at {milvus_server}, which is not asked unless you say so: --trust" in result.err
    assert "exact search over vectors/ finds the nearest texts" in result.err
    expected = pq.read_table(exact)
    assert len(set(expected["label"].to_pylist())) > 5
    for loads in (False, True):
        if loads:
            client.load_collection("covey_loaded")
        result = covey("assign", f"store.uri={milvus_server}", *words[1:], asked)
        assert result.status == 0, result.err
        assert f"assign: collection covey_loaded at {milvus_server} is asked for the nearest texts" in result.err
        assert is_loaded() == loads  # released again unless it was loaded before
        found = pq.read_table(asked)
        for name in ("text_id", "label", "home"):
            assert found[name].equals(expected[name]), name
        np.testing.assert_allclose(found["distance"].to_numpy(), expected["distance"].to_numpy(), atol=2e-3)
        np.testing.assert_allclose(found["strength"].to_numpy(), expected["strength"].to_numpy(), atol=1e-3)
    client.release_collection("covey_loaded")
    with pytest.MonkeyPatch.context() as patched:

        def refuse(self: NeighborQuery, *_: object) -> None:
            raise StoreError("released by somebody")

        patched.setattr(NeighborQuery, "nearest", refuse)
        result = covey("assign", "--trust", *words[1:], asked)
    assert result.status == 0, result.err
    assert "exact search over vectors/ finds the nearest texts: released by somebody" in result.err
    assert not is_loaded()
    assert pq.read_table(asked).equals(expected)
    description = client.describe_collection("covey_loaded")["description"]
    client.load_collection("covey_loaded")
    client.delete("covey_loaded", ids=[3])
    result = covey("assign", "--trust", *words[1:], asked)
    texts = run.report["counts"]["texts"]
    assert f"holds {texts - 1} vectors in place of {texts}" in result.err
    assert pq.read_table(asked).equals(expected)
    assert description == client.describe_collection("covey_loaded")["description"]


def test_a_collection_is_released_after_an_error_or_an_interrupt(covey, sample, milvus_server, tmp_path, monkeypatch):
    words = ["run", "--config", "cluster_configs/laptop.yaml", f"read.paths={sample}", f"store.uri={milvus_server}",
             f"run.dir={tmp_path / 'ended'}"]  # fmt: skip
    client = MilvusClient(uri=milvus_server)
    for error, status in ((KeyboardInterrupt, 130), (StoreError("no answer"), 1)):
        seen = []

        def ended(*_: object, error: Any = error, seen: list[str] = seen) -> None:
            seen.append(str(client.get_load_state("covey_ended")["state"]))
            raise error

        with monkeypatch.context() as patched:
            patched.setattr("clustering.collection_lifecycle.search_neighbors", ended)
            assert covey(*words).status == status
        assert seen == ["Loaded"]
        assert "NotLoad" in str(client.get_load_state("covey_ended")["state"])
    assert covey(*words).status == 0
    assert RunDir(tmp_path / "ended").report["search"]["recall"] == 1


@pytest.mark.nightly
def test_a_collection_that_is_gone_is_loaded_again(covey, loaded, milvus_server):
    words, run = loaded
    before = labels_of(run.path)
    MilvusClient(uri=milvus_server).drop_collection("covey_loaded")
    result = covey(*words, "search.k=40")
    assert result.status == 0, result.err
    assert "is gone" in result.err
    assert adjusted_rand_score(before, labels_of(run.path)) > 0.9


@pytest.mark.nightly
def test_starting_anew_keeps_nothing_of_the_collection(covey, loaded, milvus_server):
    """Else vectors of other weights under the same name would stay in it, as far as the audit's sample misses them."""
    words, run = loaded
    n_texts = run.report["counts"]["texts"]
    wrong = [{"row": row, "vector": [1.0] * 512} for row in range(n_texts)]
    MilvusClient(uri=milvus_server).upsert("covey_loaded", wrong)
    result = covey(*words, "run.resume=false")
    assert result.status == 0, result.err
    assert run.report["store"]["repaired_rows"] == 0
    assert run.report["search"]["recall"] == 1
    assert run.report["counts"]["texts"] == n_texts


def fill_segments(client: MilvusClient, name: str, count: int) -> None:
    """Leave a collection of so many segments with 3,000 rows each."""
    fields = client.create_schema(auto_id=False)
    fields.add_field(ROW, DataType.INT64, is_primary=True)
    fields.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=16)
    client.create_collection(name, schema=fields)
    vectors = np.random.default_rng(0).normal(size=(count, 3000, 16)).astype(np.float32)
    for part, some in enumerate(vectors):
        client.insert(name, [{ROW: 3000 * part + row, VECTOR: vector} for row, vector in enumerate(some.tolist())])
        client.flush(name)


@pytest.mark.nightly
def test_segments_are_merged_before_the_index_is_built_and_so_they_are_searched(milvus_server):
    """The index of the merging is gone, and no row waits for an index beside the search."""
    client = MilvusClient(uri=milvus_server)
    fill_segments(client, "parts", 4)
    endpoint, store = Endpoint(milvus_server, "parts"), StoreSection(uri=milvus_server, index="HNSW")
    with Channel(endpoint) as channel:
        assert len(list_segments(channel)) == 4
        for _ in range(2):  # the second finds everything as it shall be
            assert make_searchable(client, channel, store, 12_000) == 1
            (index,) = client.list_indexes("parts")
            told = client.describe_index("parts", index)
            assert (told["index_type"], told["indexed_rows"], told["pending_index_rows"]) == ("HNSW", 12_000, 0)
            request = milvus_pb2.GetQuerySegmentInfoRequest(collectionName="parts")
            loaded = channel.call("GetQuerySegmentInfo", request).infos
            assert {one.segmentID for one in loaded} == list_segments(channel)
            assert [one.num_rows for one in loaded] == [12_000]
    client.drop_collection("parts")


@pytest.mark.nightly
def test_segments_that_have_the_index_are_not_written_anew(milvus_server, monkeypatch):
    """A server that is asked to merge them may index all of them a second time, which takes hours for millions."""

    def compact(*_: object, **__: object) -> None:
        raise AssertionError("a merge was asked for")

    client = MilvusClient(uri=milvus_server)
    fill_segments(client, "indexed", 3)
    with Channel(Endpoint(milvus_server, "indexed")) as channel:
        assert len(list_segments(channel)) == 3
        index = client.prepare_index_params()
        index.add_index(VECTOR, index_type="HNSW", metric_type="L2", params={"M": 16, "efConstruction": 200})
        client.create_index("indexed", index)
        store = StoreSection(uri=milvus_server, index="HNSW")
        monkeypatch.setattr(client, "compact", compact)
        assert make_searchable(client, channel, store, 9000) in (1, 2, 3)  # the server may merge them on its own
        described = client.describe_index("indexed", client.list_indexes("indexed")[0])
        assert (described["index_type"], described["total_rows"]) == ("HNSW", 9000)
    client.drop_collection("indexed")
