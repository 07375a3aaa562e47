"""What is killed in the midst of loading and searching a real server changes nothing in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from pymilvus import MilvusClient

from clustering import schema
from clustering.config.sections import SearchSection, StoreSection
from clustering.milvus.audit import audit_collection
from clustering.milvus.channel import Channel
from clustering.milvus.endpoint import Endpoint
from clustering.runs import index
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.parts import part_name, parts, read_columns
from clustering.runs.storage import write_table
from clustering.stages.search import search_neighbors
from clustering.stages.store import store_vectors
from tests.integration.conftest import ROOT, restart_milvus, start_milvus, stop_milvus

pytestmark = [pytest.mark.ray, pytest.mark.milvus, pytest.mark.nightly]
N_TEXTS, DIM, PART = 15_000, 64, 300
AWAY_S = 6  # between the server's death and its next start


class Server:
    """The packaged server, which can be killed and started again where it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Sessions that outlive their server hold up the next start; a server that cannot renew them in time exits.
        self.process, self.uri = start_milvus(folder, "--extra-config", "common.session.ttl=15")

    def kill(self) -> None:
        stop_milvus(self.process, signal.SIGKILL)

    def start(self) -> None:
        self.process = restart_milvus(self.folder, self.uri)

    def kill_and_start_later(self) -> None:
        self.kill()
        time.sleep(AWAY_S)
        self.start()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("faults") / "data")
    yield server
    stop_milvus(server.process)


def embedded_run(path: Path) -> RunDir:
    """A run directory whose stages before the store are done: clustered unit vectors in many small parts."""
    rng = np.random.default_rng(11)
    vectors = rng.normal(size=(200, DIM))[rng.integers(0, 200, N_TEXTS)] + 0.4 * rng.normal(size=(N_TEXTS, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    run = RunDir(path)
    for number, start in enumerate(range(0, N_TEXTS, PART)):
        some = vectors[start : start + PART]
        columns = [
            pa.array(range(start, start + PART), pa.int64()),
            pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), DIM),
        ]
        write_table(run / "vectors" / part_name(number), pa.table(columns, schema=schema.vectors_schema(DIM)))
    return run


def load(run: RunDir, uri: str) -> dict:
    store = StoreSection(uri=uri, index="FLAT")
    return store_vectors(run, Endpoint(uri, run.path.name), store, N_TEXTS, DIM, "mark")


def search(run: RunDir, uri: str) -> dict:
    store, cfg = StoreSection(uri=uri, index="FLAT"), SearchSection(k=10, recall_sample=200)
    return search_neighbors(run, Endpoint(uri, run.path.name), store, cfg, N_TEXTS, seed=0)


@pytest.fixture(autouse=True)
def parts_are_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the disk is, the indexes tell how far a stage is."""
    monkeypatch.setattr(index, "WRITING_SHARE", inf)


def drive(path: str, uri: str) -> None:
    """The two stages in a process of their own, which can be killed."""
    index.WRITING_SHARE = inf
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    load(RunDir(path), uri)
    (RunDir(path) / "stored").touch()
    search(RunDir(path), uri)


@pytest.fixture(scope="module")
def undisturbed(local_ray: None, server: Server, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The neighbors that a run finds which nobody disturbs."""
    run = embedded_run(tmp_path_factory.mktemp("undisturbed") / "undisturbed")
    figures = load(run, server.uri)
    assert (figures["rows"], figures["retries"], figures["repaired_rows"]) == (N_TEXTS, 0, 0)
    found = search(run, server.uri)
    assert (found["recall"], found["short_rows"], found["retries"]) == (1, 0, 0)
    return read_columns(run / "neighbors", schema.NEIGHBORS.names)


def check_whole(run: RunDir, uri: str, undisturbed: pa.Table, drop: bool = True) -> None:
    """Every row once in the collection, bit for bit; neighbors equal to the undisturbed run's."""
    name = run.path.name
    client = MilvusClient(uri=uri)
    (counted,) = client.query(name, filter="", output_fields=["count(*)"], consistency_level="Strong")
    assert counted["count(*)"] == N_TEXTS
    assert audit_collection(run, Channel(Endpoint(uri, name)), N_TEXTS) == []
    found = read_columns(run / "neighbors", schema.NEIGHBORS.names)
    assert found["row"].to_pylist() == list(range(N_TEXTS))
    assert found.equals(undisturbed)
    if drop:
        client.drop_collection(name)


@contextmanager
def meanwhile(ready: Callable[[], bool], disturb: Callable[[], None]) -> Iterator[None]:
    """Disturb the block once it is so far; fail when it never was."""
    done: list[BaseException | None] = []

    def wait_and_disturb() -> None:
        try:
            deadline = time.monotonic() + 600
            while not ready():
                assert time.monotonic() < deadline, "the moment to disturb never came"
                time.sleep(0.002)
            disturb()
            done.append(None)
        except BaseException as error:
            done.append(error)

    thread = threading.Thread(target=wait_and_disturb)
    thread.start()
    yield
    thread.join()
    if done[0] is not None:
        raise done[0]


def is_loading(run: RunDir) -> Callable[[], bool]:
    return lambda: 3 <= len(read_index(run / "loaded")) < N_TEXTS / PART - 5


def is_searching(run: RunDir) -> Callable[[], bool]:
    return lambda: 3 <= len(read_index(run / "neighbors")) < N_TEXTS / PART - 5


def is_ours(process: int) -> bool:
    """Whether a process comes from this one, and not from another Ray of this machine."""
    while process > 1 and process != os.getpid():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == os.getpid()


def kill_an_actor() -> None:
    """SIGKILL for the process of one actor of the pool."""
    actors = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::_PoolActor") and is_ours(int(process.name)):
                actors.append(int(process.name))
        except OSError:
            continue
    assert actors, "no actor was at work"
    os.kill(actors[0], signal.SIGKILL)


def test_the_server_dies_while_it_is_loaded_and_while_it_is_searched(undisturbed, server, tmp_path):
    run = embedded_run(tmp_path / "server_dies")
    with meanwhile(is_loading(run), server.kill_and_start_later):
        assert load(run, server.uri)["retries"] > 0
    with meanwhile(is_searching(run), server.kill_and_start_later):
        assert search(run, server.uri)["retries"] > 0
    check_whole(run, server.uri, undisturbed)


def test_an_actor_dies_while_it_loads_and_another_while_it_searches(undisturbed, server, tmp_path):
    run = embedded_run(tmp_path / "actor_dies")
    with meanwhile(is_loading(run), kill_an_actor):
        load(run, server.uri)
    with meanwhile(is_searching(run), kill_an_actor):
        search(run, server.uri)
    check_whole(run, server.uri, undisturbed)


def test_the_driver_dies_twice_and_is_started_again(undisturbed, server, tmp_path):
    run = embedded_run(tmp_path / "driver_dies")
    assert run.id
    code = "import sys; from tests.integration.test_faults import drive; drive(*sys.argv[1:])"
    words = [sys.executable, "-c", code, str(run.path), server.uri]
    for moment in (is_loading, is_searching):
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        with meanwhile(moment(run), process.kill):
            err = process.communicate(timeout=900)[1]
            assert process.returncode == -signal.SIGKILL, err
        assert (run / "stored").exists() == (moment is is_searching)
    kept = list(parts(run / "neighbors"))
    times = [path.stat().st_mtime_ns for path in kept]
    search(run, server.uri)
    assert [path.stat().st_mtime_ns for path in kept] == times
    check_whole(run, server.uri, undisturbed)


def test_what_is_missing_or_doubled_is_loaded_again(undisturbed, server, tmp_path, caplog):
    run = embedded_run(tmp_path / "damaged")
    load(run, server.uri)
    client = MilvusClient(uri=server.uri)
    lost, doubled = 3 * PART, 4 * PART  # first rows of two parts
    client.delete("damaged", filter=f"row >= {lost} and row < {lost + 10}")
    table = pq.read_table(run / "vectors" / part_name(4)).slice(0, 20).to_pylist()
    client.insert("damaged", table)  # its first rows a second time
    wrong = audit_collection(run, Channel(Endpoint(server.uri, "damaged")), N_TEXTS)
    assert {"name": part_name(3), "first": lost, "stop": lost + 10} in wrong
    assert {"name": part_name(4), "first": doubled, "stop": doubled + PART} in wrong
    assert len(wrong) == 2
    client.upsert("damaged", [{"row": row, "vector": [1.0] * DIM} for row in range(N_TEXTS - 6000, N_TEXTS)])
    assert load(run, server.uri)["repaired_rows"] >= 10 + PART + 6000  # of vectors, a sample is read
    search(run, server.uri)
    check_whole(run, server.uri, undisturbed, drop=False)
    client.insert("damaged", [{"row": N_TEXTS + 5, "vector": [1.0] * DIM}])
    with pytest.raises(Exception, match="holds 1 entities that are no rows of this run"):
        audit_collection(run, Channel(Endpoint(server.uri, "damaged")), N_TEXTS)
