"""The embedded store at the product's own sizes, and its server's life: killed, stopped, started again, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clustering import schema
from clustering.config.sections import StoreSection
from clustering.errors import StoreError
from clustering.kernels.memory import GROUP_ROWS
from clustering.milvus import loader
from clustering.milvus.audit import audit_collection
from clustering.milvus.channel import Channel
from clustering.milvus.collection import prepare_collection
from clustering.milvus.embedded import MAX_QUICK_EXITS, embedded_server, reason_given_up
from clustering.milvus.endpoint import Endpoint, connected
from clustering.milvus.index import make_searchable
from clustering.milvus.loader import Loader
from clustering.runs.directory import RunDir
from clustering.runs.parts import part_name, part_names, read_columns
from clustering.runs.storage import write_table
from clustering.stages.search import Searcher
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
DIM = 256


def vectors_in(path: Path, n_texts: int, dim: int = DIM) -> RunDir:
    """A run directory with clustered unit vectors in parts of the product's size."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(50, dim))[rng.integers(0, 50, n_texts)] + 0.5 * rng.normal(size=(n_texts, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    run = RunDir(path)
    for number, start in enumerate(range(0, n_texts, GROUP_ROWS)):
        some = vectors[start : start + GROUP_ROWS]
        rows = pa.array(range(start, start + len(some)), pa.int64())
        columns = [rows, pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), dim)]
        write_table(run / "vectors" / part_name(number), pa.table(columns, schema=schema.vectors_schema(dim)))
    return run


def prepared(run: RunDir, endpoint: Endpoint, dim: int = DIM) -> None:
    with connected(endpoint) as client:
        prepare_collection(run, client, endpoint.collection, StoreSection(), dim, "mark")


def load(run: RunDir, endpoint: Endpoint, again: bool = False) -> dict[str, Any]:
    return Loader(run, endpoint, again)({"pieces": [{"name": name} for name in part_names(run / "vectors")]})


def finish(endpoint: Endpoint, n_texts: int) -> None:
    with connected(endpoint) as client, Channel(endpoint) as channel:
        make_searchable(client, channel, StoreSection(), n_texts)


def find(run: RunDir, endpoint: Endpoint, n_texts: int, k: int = 10) -> np.ndarray:
    """The neighbors as the product's own searcher leaves them, shape (n_texts, k)."""
    searcher = Searcher(run, endpoint, "L2", {}, k, np.eye(1, DIM, dtype=np.float32), n_texts)
    for name in part_names(run / "vectors"):
        searcher({"name": name})
    return np.array(read_columns(run / "neighbors", ["neighbors"])["neighbors"].to_pylist())


def exact(run: RunDir, rows: slice, k: int = 10) -> np.ndarray:
    column = read_columns(run / "vectors", ["vector"])["vector"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(-1, DIM)
    dots = vectors[rows] @ vectors.T
    dots[np.arange(len(dots)), np.arange(len(vectors))[rows]] = -2
    return np.sort(np.argsort(-dots, axis=1)[:, :k], axis=1)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    home = tmp_path / "store"
    with embedded_server(home) as uri:
        yield Endpoint(uri, "texts", patience_s=60, home=str(home))


@pytest.mark.full
def test_a_part_of_the_products_size_loads_in_requests_that_the_embedded_store_can_take(
    endpoint, tmp_path, monkeypatch
):
    """Requests of 12 MiB, as a server gets them, are quadratic work for it: 37 rows a second of 1024 numbers."""
    sizes: list[int] = []
    waiting: list[int] = []
    call = Channel.call

    def watched(self: Channel, method: str, request: Any, *rest: Any) -> Any:
        if method != "Insert":
            return call(self, method, request, *rest)
        sizes.append(request.ByteSize())
        waiting.append(1)
        assert len(waiting) == 1, "two requests at the same time"
        try:
            return call(self, method, request, *rest)
        finally:
            waiting.pop()

    monkeypatch.setattr(Channel, "call", watched)
    n_texts = GROUP_ROWS + 500
    run = vectors_in(tmp_path / "run", n_texts)
    prepared(run, endpoint)
    done = load(run, endpoint)
    assert (done["rows"], done["retries"]) == (n_texts, 0)
    assert max(sizes) <= loader.EMBEDDED_REQUEST_BYTES * 1.1
    assert len(sizes) == n_texts * DIM * 4 // loader.EMBEDDED_REQUEST_BYTES + 1
    finish(endpoint, n_texts)
    with Channel(endpoint) as channel:
        assert audit_collection(run, channel, n_texts) == []
    found = find(run, endpoint, n_texts)
    some = slice(8000, 8400)  # across the parts' border
    assert (np.sort(found[some], axis=1) == exact(run, some)).mean() > 0.999


def children(process: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def watcher_and_server(home: Path) -> tuple[int, int]:
    """Process ids of the embedded server below ``home`` and of its watcher, waited for."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
                if words[0].endswith(b"/milvus") and str(home / "milvus.db").encode() in words:
                    server = int(path.parent.name)
                    parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
                    if server in children(parent):
                        return parent, server
            except OSError:
                continue
        time.sleep(0.05)
    raise AssertionError("no embedded server")


def gone(process: int) -> bool:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.full
def test_a_server_that_dies_while_it_is_loaded_and_searched_is_started_again(endpoint, tmp_path):
    n_texts = GROUP_ROWS + 500
    run, home = vectors_in(tmp_path / "run", n_texts), tmp_path / "store"
    prepared(run, endpoint)
    killed = []

    def kill_now_and_then() -> None:
        for which in (1, 0, 1):  # the server, its watcher, the server
            time.sleep(1.0)
            processes = watcher_and_server(home)
            os.kill(processes[which], signal.SIGKILL)
            killed.append(which)
            assert gone(processes[1]), "the server outlived its watcher"

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_now_and_then)
        retries = load(run, endpoint)["retries"]
        while not killing.done():
            retries += load(run, endpoint, again=True)["retries"]
        killing.result()
        finish(endpoint, n_texts)
        assert killed == [1, 0, 1]
        assert retries > 0
        with Channel(endpoint) as channel:
            assert channel.count() == n_texts
            assert audit_collection(run, channel, n_texts) == []
        os.kill(watcher_and_server(home)[1], signal.SIGKILL)
        found = find(run, endpoint, n_texts)
    some = slice(8000, 8400)
    assert (np.sort(found[some], axis=1) == exact(run, some)).mean() > 0.999


@pytest.mark.full
def test_a_server_that_cannot_live_is_given_up_and_told(tmp_path):
    home = tmp_path / "store"
    with embedded_server(home) as uri:
        endpoint = Endpoint(uri, "texts", patience_s=60, home=str(home))
        for _ in range(MAX_QUICK_EXITS):
            server = watcher_and_server(home)[1]
            os.kill(server, signal.SIGKILL)
            assert gone(server)
        run, started = RunDir(tmp_path / "run"), time.monotonic()
        with pytest.raises(StoreError, match=r"Milvus ended \(status 137\); see .*server.log. It did so 6 times"):
            Loader(run, endpoint).send(np.arange(3), np.ones((3, 4), np.float32), False)
        assert time.monotonic() - started < 30  # and not the whole patience
    with embedded_server(home) as uri, connected(Endpoint(uri, "texts", home=str(home))) as client:
        assert not reason_given_up(str(home))
        assert client.list_collections() == []


@pytest.mark.full
def test_a_server_that_is_silent_is_told_after_the_patience(tmp_path):
    home = tmp_path / "store"
    with embedded_server(home) as uri:
        endpoint = Endpoint(uri, "texts", patience_s=1.5, home=str(home))
        run = vectors_in(tmp_path / "run", 300)
        prepared(run, endpoint)
        server = watcher_and_server(home)[1]
        os.kill(server, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(StoreError, match=r"DEADLINE_EXCEEDED.*server\.log.*tried 1 times in 1.5 s"):
            load(run, endpoint)
        assert time.monotonic() - started < 15
        os.kill(server, signal.SIGCONT)
        assert load(run, endpoint)["rows"] == 300  # the part was begun, so it is upserted
        with Channel(endpoint) as channel:
            assert channel.count() == 300


def test_nothing_is_left_when_the_job_is_killed(tmp_path):
    home = tmp_path / "store"
    code = "import sys, time; from pathlib import Path; from clustering.milvus.embedded import embedded_server\n"
    code += "with embedded_server(Path(sys.argv[1])): time.sleep(600)"
    job = subprocess.Popen([sys.executable, "-c", code, str(home)], cwd=ROOT)
    try:
        processes = watcher_and_server(home)
    finally:
        job.kill()
        job.wait()
    assert all(gone(process) for process in processes)


def test_two_servers_never_share_a_port(tmp_path):
    with embedded_server(tmp_path / "one") as one, embedded_server(tmp_path / "two") as two:
        assert one != two
        with connected(Endpoint(one, "t")) as client:
            client.create_collection("t", dimension=4)
        with connected(Endpoint(two, "t")) as client:
            assert client.list_collections() == []


def test_a_user_without_a_home_has_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    with embedded_server(tmp_path) as uri, connected(Endpoint(uri, "any")) as client:
        assert client.list_collections() == []
