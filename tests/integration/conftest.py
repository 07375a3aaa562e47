"""A local Ray for the whole session, the packaged Milvus server, and the command line in this process."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from pymilvus import MilvusClient
from ray.cluster_utils import Cluster

from clustering.cli.main import main
from clustering.runs.directory import RunDir
from clustering.sample import write_sample

ROOT = Path(__file__).parents[2]
MILVUS = {"DATACOORD_COMPACTION_CHECK_INTERVAL": "1"}  # seconds until a merge is seen to be done; its default is 10


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # any do for the S3 of the tests; workers inherit them
        os.environ.setdefault(name, "tests")
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path_factory.mktemp("google") / "key.json")
    assert not ray.is_initialized(), "a test before has started Ray"
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Covey = Callable[..., Result]


def start_cluster(**head: Any) -> Cluster:
    """A cluster of its head alone, without the dashboard, whose ten processes no test looks at."""
    cluster = Cluster()
    add_node(cluster, include_dashboard=False, **head)
    return cluster


def add_node(cluster: Cluster, **options: Any) -> Any:
    """One more node of a cluster. Ray gives it 30 s to start; on a busy machine it is started again."""
    for _ in range(4):
        before = raylets()
        try:
            return cluster.add_node(**options)
        except Exception as error:
            if "timed out" not in str(error).lower():
                raise
            for process in raylets() - before:  # it could still come up
                os.kill(process, signal.SIGKILL)
    raise TimeoutError("four nodes have not started in time")


def raylets() -> set[int]:
    """Process ids of the nodes that this process has started."""
    listed = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="], capture_output=True, text=True, check=False
    )
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if line.split()[1].startswith("raylet")}


@pytest.fixture
def covey(local_ray: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Covey:
    """``covey("run", "--config", ...)`` as on the command line: exit status and what was printed."""
    monkeypatch.chdir(ROOT)

    def run(*words: object) -> Result:
        capfd.readouterr()
        status = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Result(status, out, err)

    return run


@pytest.fixture
def run_files(covey: Covey, tmp_path: Path) -> Callable[..., tuple[Path, Result]]:
    """Cluster some files with the laptop configuration; return the run's directory and what was printed."""

    def run(*overrides: str, config: str = "laptop") -> tuple[Path, Result]:
        target = tmp_path / "run"
        words = [f"run.dir={target}", *overrides]
        return target, covey("run", "--config", f"cluster_configs/{config}.yaml", *words)

    return run


def digests(run: RunDir) -> dict[str, str]:
    """What a run found, apart from when and how: digests of its labels and clusters; the map's places are not kept."""
    found = {}
    for name in ("labels.parquet", "clusters.parquet"):
        table = pq.read_table(str(run / name))  # a file, or a folder of parts
        kept = [column for column in table.column_names if column not in ("x", "y")]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.select(kept).schema.remove_metadata()) as writer:
            writer.write_table(table.select(kept).replace_schema_metadata().combine_chunks())
        found[name] = hashlib.sha256(sink.getvalue()).hexdigest()
    return found


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbs: the words of its command without run.dir, its directory, and what it found."""

    words: list[str]
    run: RunDir
    digests: dict[str, str]


@pytest.fixture(scope="session")
def undisturbed(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_sample(folder / "sample.csv", 900)
    words = ["run", "--config", str(ROOT / "cluster_configs/laptop.yaml"), f"read.paths={folder / 'sample.csv'}",
             "run.name=undisturbed"]  # fmt: skip
    assert main([*words, f"run.dir={folder / 'run'}"]) == 0
    return Undisturbed(words, RunDir(folder / "run"), digests(RunDir(folder / "run")))


def holds(folder: Path, *secrets: str) -> list[Path]:
    """The files below a folder in which a secret stands, as it is or as a request's header carries it."""
    wanted = [form for secret in secrets for form in (secret.encode(), base64.b64encode(secret.encode()))]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if any(form in path.read_bytes() for form in wanted)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_answers(port: int, process: subprocess.Popen[Any]) -> None:
    """Wait until a server that has been started listens."""
    deadline = time.monotonic() + 300
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start_milvus(folder: Path, *options: str, **access: Any) -> tuple[subprocess.Popen[bytes], str]:
    """The packaged Milvus server on free ports, with its data in ``folder``; its process and address.

    access : what a client needs besides the address, such as token and server_pem_path
    """
    command = shutil.which(
        "milvus-server", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if command is None:
        pytest.skip("the packaged Milvus server is not installed (extra `server`; x86-64 Linux only)")
    port = free_port()
    words = [command, "--data", str(folder), "--proxy-port", str(port), *options]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(words, env=os.environ | MILVUS, stdout=log, stderr=log, start_new_session=True)
    uri = f"{'https' if 'server_pem_path' in access else 'http'}://127.0.0.1:{port}"
    _wait_for_milvus(process, uri, access)
    return process, uri


def restart_milvus(folder: Path, uri: str) -> subprocess.Popen[bytes]:
    """The server again where it was: its command would take another port while old connections still hold this one."""
    binary = folder / "bin" / "milvus"
    env = {
        **os.environ,
        **MILVUS,
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": str(free_port()),
        "MILVUS_RUN_DIR": str(folder / "run"),
        "LD_LIBRARY_PATH": str(binary.parent),
    }
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        process = subprocess.Popen(
            [binary, "run", "standalone"], cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    _wait_for_milvus(process, uri, {})
    return process


def _wait_for_milvus(process: subprocess.Popen[bytes], uri: str, access: dict[str, Any]) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            client = MilvusClient(uri=uri, timeout=5, **access)
            client.list_collections(timeout=5)
            client.close()
            return
        except Exception:
            if time.monotonic() > deadline or process.poll() is not None:
                stop_milvus(process)
                raise
            time.sleep(0.5)


def stop_milvus(process: subprocess.Popen[bytes], *endings: signal.Signals) -> None:
    """End the whole process group: the command leaves its server running when it is ended alone."""
    for ending in endings or (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, ending)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    # The server itself is not our child; its etcd's port says when it is gone.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", 2380), timeout=1).close()
        except OSError:
            return
        time.sleep(0.2)


@pytest.fixture(scope="module", autouse=True)
def server_in_turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Raise what the server does at the lowest priority, which takes minutes beside other tests; only root may.

    A search of a second in a FLAT index took 76 beside three busy processes.
    """
    if request.node.get_closest_marker("milvus") is None or os.geteuid() != 0:
        yield
        return
    over = threading.Event()
    watch = threading.Thread(target=_raise_until, args=(over,), daemon=True)
    watch.start()
    yield
    over.set()
    watch.join()


def _raise_until(over: threading.Event) -> None:
    while not over.wait(0.5):
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                if (process / "comm").read_text() == "milvus\n":
                    for thread in (process / "task").iterdir():
                        if (thread / "comm").read_text().startswith("Knowhere_"):
                            os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)


@pytest.fixture(scope="module")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running server without authentication; its etcd has a fixed port, so one server at a time."""
    process, uri = start_milvus(tmp_path_factory.mktemp("milvus") / "data")
    yield uri
    stop_milvus(process)
