"""A run directory in an object store: Amazon's, which fails as often as it is told, and Google's, on this machine."""

from __future__ import annotations

import gzip
import io
import json
import logging
import lzma
import os
import platform
import random
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from moto.server import DomainDispatcherApplication, create_backend_app
from numpy.testing import assert_array_equal
from werkzeug.serving import make_server

from clustering import pipeline
from clustering.config.sections import ReadSection
from clustering.errors import ConfigError, StageError
from clustering.kernels.memory import GROUP_ROWS
from clustering.runs.directory import RunDir
from clustering.runs.index import INDEX, read_index, write_index
from clustering.runs.inventory import LOCK
from clustering.runs.kernel_inputs import load_graph
from clustering.runs.locks import pid_namespace
from clustering.runs.object_store import RemotePath
from clustering.runs.parts import (
    part_name,
    parts,
    read_columns,
    read_rows,
    rows_without_vector,
    walk_tables,
    write_part,
)
from clustering.runs.storage import (
    atomic_write,
    load_array,
    locate,
    read_table,
    read_temporary,
    save_array,
    write_json,
    write_table,
    write_temporary,
)
from clustering.sources import opening, pieces
from clustering.sources.detection import find_files
from clustering.stages.embed import adopt_vectors
from clustering.stages.read import read_columns_of, read_texts
from tests.integration.conftest import digests, free_port

pytestmark = [pytest.mark.ray, pytest.mark.full]
VECTORS = pa.table({"row": [0, 1], "vector": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2, 3, 4]), 2)})
# The lock of a driver that has ended: no process of this machine has such a number.
DEAD = {"owner": "x" * 32, "host": platform.node(), "pid": 2**22 + 1, "numbers": pid_namespace()}
# In a process of its own: pyarrow may hold the interpreter while it waits. With threads: it asks while it reads.
GOOGLE = """
import http.server, sys
http.server.HTTPServer = http.server.ThreadingHTTPServer
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").run()
"""


@dataclass
class ObjectStore:
    """S3 in memory; ``failing`` is the share of requests that it answers with an error of its own."""

    port: int = field(default_factory=free_port)
    failing: float = 0.0
    failed: int = 0
    late: dict[str, float] = field(default_factory=dict)  # seconds for which writes of objects of a name wait, but one
    requests: Counter[str] = field(default_factory=Counter)  # by method
    conditions: bool = True  # whether conditions of writes are heeded, as old stores do not

    def __post_init__(self) -> None:
        served, draw = DomainDispatcherApplication(create_backend_app), random.Random(0)

        def app(environ: dict[str, Any], start_response: Any) -> Any:
            self.requests[environ["REQUEST_METHOD"]] += 1
            if draw.random() < self.failing:
                self.failed += 1
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                body = b"<Error><Code>InternalError</Code><Message>on purpose</Message></Error>"
                start_response("500 Internal Server Error", [("Content-Type", "application/xml"),
                                                             ("Content-Length", str(len(body)))])  # fmt: skip
                return [body]
            if not self.conditions:
                for condition in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
                    environ.pop(condition, None)
            name = environ["PATH_INFO"].rpartition("/")[2]
            if environ["REQUEST_METHOD"] == "PUT" and name in self.late:
                wait, self.late[name] = self.late[name], 2.0  # the second write comes when the first is long there
                time.sleep(wait)
            return served(environ, start_response)

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = make_server("127.0.0.1", self.port, app, threaded=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.filesystem = pa.fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{self.port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        self.filesystem.create_dir("bucket")

    def put(self, path: str, content: bytes) -> None:
        with self.filesystem.open_output_stream(f"bucket/{path}", compression=None) as stream:  # else .gz is packed
            stream.write(content)

    def uri(self, path: str) -> str:
        return f"s3://bucket/{path}?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def store(local_ray: None) -> Iterator[ObjectStore]:
    store = ObjectStore()
    yield store
    store.server.shutdown()


@pytest.fixture(scope="module")
def google(local_ray: None) -> Iterator[Callable[[str], str]]:
    """URIs in a bucket of Google's, for an account whose key the environment names."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = {"type": "service_account", "client_email": "tests@tests.invalid", "private_key_id": "1",
               "private_key": pem.decode()}  # fmt: skip
    Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).write_text(json.dumps(account), encoding="utf-8")
    port = free_port()
    words = [sys.executable, "-c", GOOGLE, str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield lambda path: f"gs://bucket/{path}?scheme=http&endpoint_override=127.0.0.1:{port}&retry_limit_seconds=5"
    server.kill()
    server.wait()


@pytest.fixture(autouse=True)
def sound(store: ObjectStore) -> Iterator[None]:
    yield
    store.failing = 0.0


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_artefacts_come_back_as_they_were_written(kind: str, store: ObjectStore, google: Callable[[str], str]) -> None:
    folder = locate(store.uri("artefacts") if kind == "s3" else google("artefacts"))
    assert isinstance(folder, RemotePath)
    write_table(folder / "part-000001.parquet", VECTORS)
    write_table(folder / "part-000000.parquet", VECTORS.slice(1))
    assert [path.name for path in parts(folder)] == ["part-000000.parquet", "part-000001.parquet"]
    assert read_table(folder / "part-000001.parquet") == VECTORS
    assert read_table(folder / "part-000000.parquet", ["row"])["row"].to_pylist() == [1]
    write_temporary(folder / "part-000000.arrow", VECTORS)
    assert read_temporary(folder / "part-000000.arrow", "row".__eq__) == VECTORS.select(["row"])
    array = np.arange(7, dtype=np.float32)
    save_array(folder / "core.npy", array)
    for mapped in (False, True):
        assert_array_equal(load_array(folder / "core.npy", mapped), array)
    with atomic_write(folder / "marks" / "one") as empty:
        empty.touch()
    assert (folder / "marks").exists()
    assert (folder / "marks" / "one").read_bytes() == b""
    with pytest.raises(FileNotFoundError):
        (folder / "none").read_text()
    assert 0 <= (folder / "core.npy").age_s() < 60
    folder.remove()
    assert not (folder / "core.npy").exists()
    assert not (folder / "marks" / "one").exists()
    assert folder.glob("*") == []
    folder.remove()  # what is not there is no error


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_given_vectors_are_copied_where_they_lie(
    kind: str, store: ObjectStore, google: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = RemotePath.read_bytes

    def refuse(path: RemotePath) -> bytes:
        assert path.name in ("manifest.json", INDEX), "read by the driver"
        return read(path)

    run = RunDir(store.uri("given") if kind == "s3" else google("given"))
    for name in ("part-000000.parquet", "part-000001.parquet"):
        write_table(run / "source_vectors" / name, VECTORS)
    monkeypatch.setattr(RemotePath, "read_bytes", refuse)
    assert adopt_vectors(run)["dim"] == 2
    assert [read_table(path) for path in parts(run / "vectors")] == [VECTORS, VECTORS]


@pytest.fixture
def large_parts(store: ObjectStore) -> RemotePath:
    """Parts of two and three large row groups, all larger than what is read of an object's end, and a small part."""
    folder, listed, first = locate(store.uri(f"{random.random()}/vectors")), [], 0
    store.requests.clear()
    for number, length in enumerate((2 * GROUP_ROWS + 1, 3 * GROUP_ROWS, 2 * GROUP_ROWS + 9, 5)):
        rows = np.arange(first, first + length)
        vectors = np.random.default_rng(number).normal(size=length * 8).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 8)
        listed.append(write_part(folder, part_name(number), pa.table({"row": rows, "vector": column})))
        first += length
    assert store.requests == {"PUT": 4}
    write_index(folder, listed)
    assert store.requests == {"PUT": 5}
    store.requests.clear()
    assert isinstance(folder, RemotePath)
    return folder


def test_a_walk_asks_for_the_index_each_footer_and_each_row_group(store: ObjectStore, large_parts: RemotePath) -> None:
    paths = parts(large_parts)
    assert store.requests == {"GET": 1}
    tables = list(walk_tables(paths, ["row", "vector"]))
    n_parts, n_groups = 4, 2 + 3 + 2  # what is small at the end of a part comes with its footer
    assert store.requests == {"GET": 1 + n_parts + n_groups}
    assert_array_equal(np.concatenate([table["row"].to_numpy() for table in tables]), np.arange(7 * GROUP_ROWS + 15))


def test_a_walk_waits_for_many_row_groups_at_a_time(large_parts: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    most = 0
    ask = RemotePath.read_range

    def slow(*args: Any) -> Any:
        nonlocal most
        waiting.append(1)
        most = max(most, len(waiting))
        time.sleep(0.2)
        waiting.pop()
        return ask(*args)

    monkeypatch.setattr(RemotePath, "read_range", slow)
    assert sum(map(len, walk_tables(parts(large_parts), ["row"]))) == 7 * GROUP_ROWS + 15
    assert most > 4


def test_a_sample_of_rows_asks_for_its_row_groups_alone(store: ObjectStore, large_parts: RemotePath) -> None:
    rows = np.array([3, 4, 2 * GROUP_ROWS, 5 * GROUP_ROWS + 2])
    assert read_rows(large_parts, rows, ["row"])["row"].to_pylist() == rows.tolist()
    n_parts, n_groups = 2, 2
    assert store.requests == {"GET": 1 + n_parts + n_groups}
    store.requests.clear()
    assert rows_without_vector(large_parts).size == 0
    assert read_index(large_parts).rows == 7 * GROUP_ROWS + 15
    assert store.requests == {"GET": 2}


def test_an_object_that_is_missing_or_empty_does_not_change_how_others_are_read(
    store: ObjectStore, large_parts: RemotePath
) -> None:
    (large_parts / "empty").upload(b"")
    with pytest.raises(StageError, match=r"empty.* is damaged: Parquet file size is 0 bytes"):
        read_table(large_parts / "empty")
    with pytest.raises(FileNotFoundError, match="there is no such object") as error:
        read_table(large_parts / "nothing")
    assert error.value.filename == str(large_parts / "nothing")
    store.requests.clear()
    assert len(read_table(large_parts / part_name(3))) == 5
    assert store.requests == {"GET": 1}


def test_labels_that_are_a_folder_are_swapped_in(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(store.uri("folder"))
    names = [part_name(number) for number in range(3)]

    def start(mark: str, left: list[str]) -> None:
        def work() -> dict[str, Any]:
            for name in left or [""]:
                write_json(run / "labels.parquet" / name if name else run / "labels.parquet", mark)
            return {}

        with run.locked():
            run.begin({"read": "a" * 16, "report": mark * 16})
            run.stage("read", "a" * 16, dict)
            run.stage("report", mark * 16, work)
            run.publish()

    def seen(run: RunDir) -> list[str]:
        path = run / "labels.parquet"
        found = sorted(path.glob("*"), key=str) or [path]
        return [json.loads(part.read_text()) for part in found]

    start("b", [])
    assert seen(run) == ["b"]
    start("c", names)
    assert seen(RunDir(store.uri("folder"))) == ["c"] * 3
    copy = RemotePath.copy

    def break_off(path: RemotePath, to: RemotePath) -> None:
        if path.name == names[1]:
            raise KeyboardInterrupt
        copy(path, to)

    monkeypatch.setattr(RemotePath, "copy", break_off)
    with pytest.raises(KeyboardInterrupt):
        start("d", names[:2])
    monkeypatch.undo()
    assert seen(RunDir(store.uri("folder"))) == ["d"] * 2
    with RunDir(store.uri("folder")).locked():
        pass
    assert run.path.glob("pending*") == []
    assert seen(RunDir(store.uri("folder"))) == ["d"] * 2
    start("e", [])
    assert seen(RunDir(store.uri("folder"))) == ["e"]
    assert (run.path / "labels.parquet").glob("*") == []


def test_what_is_half_written_does_not_appear(store: ObjectStore) -> None:
    path = locate(store.uri("half/file.json"))
    with pytest.raises(TypeError, match="not JSON serializable"), atomic_write(path) as temporary:
        temporary.write_text(json.dumps("half") + json.dumps(object()), encoding="utf-8")
    assert not path.exists()
    write_json(path, "old")
    store.failing = 1.0
    hasty = replace(path, patience_s=0.1)
    with pytest.raises(StageError, match=r"s3://bucket/half/file\.json.*\(tried 2 times in \d+ s\)\. When that"):
        write_json(hasty, "new" * 10_000)
    store.failing = 0.0
    assert json.loads(path.read_text()) == "old"


def test_two_processes_do_not_hold_one_prefix_and_the_lock_of_a_dead_one_is_free(store: ObjectStore) -> None:
    run = RunDir(store.uri("held"))
    with run.locked():
        assert RunDir(store.uri("held")).in_use()
        with pytest.raises(ConfigError, match="is in use by another run"), RunDir(store.uri("held")).locked():
            pass
    assert not run.in_use()
    write_json(run / LOCK, {"owner": "x", "host": "elsewhere", "pid": 1})  # alive as far as anybody can tell
    assert run.in_use()
    write_json(run / LOCK, DEAD)
    assert not run.in_use()
    with run.locked():
        pass


HOLD = """
import os, sys, time
from clustering.errors import ConfigError, StageError
from clustering.runs.directory import RunDir
run = RunDir(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    with run.locked():
        print("held", flush=True)
        time.sleep(4)
        run.update_manifest(seed=int(sys.argv[2]))
        print("wrote", flush=True)
except (ConfigError, StageError) as error:
    print(error, flush=True)
"""


def start_together(uri: str, count: int) -> list[str]:
    """What drivers say that ask for one directory at the same moment, each a process of its own."""
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, uri, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         text=True)
        for number in range(count)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        said.append(process.communicate(timeout=300)[0])
    return said


@pytest.mark.full
@pytest.mark.parametrize("left", ["nothing", "a dead driver's lock"])
def test_of_drivers_that_start_together_one_holds_the_directory(left: str, store: ObjectStore) -> None:
    """Though the write of one is late: a lock that is read, then written, let both in."""
    uri = store.uri(f"together/{left[0]}")
    if left != "nothing":
        write_json(RunDir(uri) / LOCK, DEAD)
    store.late = {".lock": 0.0}
    said = start_together(uri, 3)
    store.late = {}
    assert sorted("held" in words for words in said) == [False, False, True], said
    assert [words for words in said if "held" in words] == ["held\nwrote\n"]
    assert sum("is in use by another run; wait for it, or choose another" in words for words in said) == 2


@pytest.mark.full
def test_a_store_without_conditional_writes_is_told_and_used_as_before(store: ObjectStore, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("clustering.runs.locks.log.warning", lambda text, *words: said.append(text % words))
    store.conditions = False
    try:
        run = RunDir(store.uri("unconditional"))
        with run.locked():
            run.update_manifest(seed=1)
            with pytest.raises(ConfigError, match="is in use by another run"), RunDir(run.path).locked():
                pass
    finally:
        store.conditions = True
    assert "unconditional" in said[0]
    assert "takes no conditional writes (it writes although the condition fails): two runs that start on it" in said[0]
    assert not run.in_use()
    assert RunDir(run.path).manifest["seed"] == 1


def test_a_driver_that_was_taken_over_writes_no_entry_though_its_lock_is_there_again(store: ObjectStore) -> None:
    """The next holder's first entry in the manifest is the fence, whatever became of the lock since."""
    run, uri = RunDir(store.uri("fenced")), store.uri("fenced")
    with run.locked():
        run.update_manifest(seed=1)
        write_json(run / LOCK, DEAD)
        with RunDir(uri).locked():
            pass  # it comes, works, and goes
        with pytest.raises(StageError, match="was taken over by another run"):
            run.update_manifest(seed=2)
    assert RunDir(uri).manifest["seed"] == 1


def test_a_process_that_was_taken_for_dead_writes_no_more_and_leaves_the_lock_of_the_next(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clustering.runs.locks.HEARTBEAT_S", 0.05)
    run = RunDir(store.uri("stalled"))
    others = {"owner": "other", "host": "elsewhere", "pid": 1}
    with run.locked():
        run.update_manifest(seed=1)
        write_json(run / LOCK, others)
        time.sleep(0.3)  # several signs of life would have been due
        with pytest.raises(StageError, match="was taken over by another run"):
            run.update_manifest(seed=2)
    assert json.loads((run / LOCK).read_text()) == others
    assert RunDir(run.path).manifest["seed"] == 1


def test_a_run_on_a_store_that_fails_and_goes_away_gives_what_an_undisturbed_one_gives(
    covey, store, undisturbed, monkeypatch
):
    run = RunDir(store.uri("runs/failing"))
    words = [*undisturbed.words, f"run.dir={run.path}"]

    search = pipeline.search_collection

    def go_away(*given: Any) -> None:
        store.failing = 1.0
        search(*given)

    # Of reading a part, four requests must succeed at the same try.
    store.failing, store.failed = 0.1, 0
    with monkeypatch.context() as patched:  # after the vectors
        patched.setattr("clustering.pipeline.search_collection", go_away)
        result = covey(*words, "run.patience_s=15")
    assert result.status == 1
    assert "s3://bucket/runs/failing" in result.err.splitlines()[-1]
    assert "the same command goes on" in result.err.splitlines()[-1]
    store.failing = 0.1
    before = run.manifest["stages"]
    assert before.keys() == {"read", "embed"}
    result = covey(*words)
    assert result.status == 0, result.err
    assert store.failed > 100
    store.failing = 0.0
    after = run.manifest["stages"]
    kept = {name: after[name]["finished"] for name in before}
    assert {name: stage["finished"] for name, stage in before.items()} == kept
    assert digests(run) == undisturbed.digests
    assert load_graph(store.uri("runs/failing")).nnz == load_graph(undisturbed.run).nnz
    assert "nothing to do" in covey(*words).err


@pytest.mark.nightly
def test_a_run_lies_in_a_bucket_of_google_and_goes_on_there(covey, google, undisturbed):
    run = RunDir(google("runs/one"))
    words = [*undisturbed.words, f"run.dir={run.path}"]
    result = covey(*words)
    assert result.status == 0, result.err
    assert digests(run) == undisturbed.digests
    assert load_graph(str(run.path)).nnz == load_graph(undisturbed.run).nnz
    assert not run.in_use()
    assert "nothing to do" in covey(*words).err
    result = covey(*words, "cluster.min_cluster_size=8")
    assert "cluster, describe, plot, report will be done again" in result.err
    assert result.status == 0, result.err


@pytest.fixture(scope="module")
def files(store: ObjectStore) -> dict[str, str]:
    """Files in the bucket, of one title each: the name of each and its title."""
    packed = pa.BufferOutputStream()
    pq.write_table(pa.table({"title": ["Flood"]}), packed)
    contents = {
        "a.csv.gz": gzip.compress(b"title\nVote\n"), "b/c.parquet": packed.getvalue().to_pybytes(),
        "b/d #1.csv": b"title\nFinal\n", "b/e%20f.jsonl.gz": gzip.compress(b'{"title": "Strike"}\n'),
    }  # fmt: skip
    for name, content in contents.items():
        store.put(f"in/{name}", content)
    return dict(zip(contents, ["Vote", "Flood", "Final", "Strike"], strict=True))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("in", ["a.csv.gz", "b/c.parquet", "b/d #1.csv", "b/e%20f.jsonl.gz"]),
        ("in/*/*", ["b/c.parquet", "b/d #1.csv", "b/e%20f.jsonl.gz"]),
        ("in/**/*.gz", ["a.csv.gz", "b/e%20f.jsonl.gz"]),
        ("in/a.csv.gz", ["a.csv.gz"]),
        ("in/b/c.parquet", ["b/c.parquet"]),
        ("in/b/e%20f.jsonl.gz", ["b/e%20f.jsonl.gz"]),
    ],
)
def test_files_of_a_bucket_are_read_with_the_options_of_their_uri(
    path: str, found: list[str], files: dict[str, str], store: ObjectStore, tmp_path: Path
) -> None:
    cfg = ReadSection(paths=(store.uri(path),), text_columns=("title",))
    given = find_files(cfg)
    assert [file.uri for file in given] == [store.uri(f"in/{name}") for name in found]
    figures = read_texts(given, cfg, RunDir(tmp_path / "run"), dim=256)  # on workers of Ray
    assert figures["records"] == len(found)
    titles = read_table(tmp_path / "run" / "texts" / "part-000000.parquet")["text"].to_pylist()
    assert titles == [files[name] for name in found]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.xz", "a.zip", "a.parquet"])
def test_a_bucket_that_fails_while_a_file_is_read_is_waited_for(
    name: str, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = [f"Flood number {n} closes the harbour" for n in range(20_000)]
    table = pa.table({"title": titles})
    plain, held = io.BytesIO(), io.BytesIO()
    pyarrow.csv.write_csv(table, plain)
    pq.write_table(table, held, row_group_size=1000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.csv", plain.getvalue())
    content = {"csv": plain.getvalue(), "gz": gzip.compress(plain.getvalue()), "xz": lzma.compress(plain.getvalue()),
               "zip": packed.getvalue(), "parquet": held.getvalue()}[name.rpartition(".")[2]]  # fmt: skip
    store.put(f"waited/{name}", content)
    monkeypatch.setattr(opening, "BLOCK_BYTES", 50_000)
    cfg = ReadSection(paths=(store.uri(f"waited/{name}"),), text_columns=("title",))
    given = find_files(cfg, patience_s=60)
    store.failing, store.failed = 1.0, 0
    threading.Timer(4, lambda: setattr(store, "failing", 0.2)).start()  # longer than pyarrow itself tries
    assert read_columns_of(given, cfg)["title"].to_pylist() == titles
    assert store.failed > 0
    store.failing = 1.0
    with pytest.raises(StageError, match=r"waited/a.*\(tried \d+ times in \d+ s\)\. When that is mended"):
        read_columns_of([replace(file, patience_s=2) for file in given], cfg)


@pytest.mark.nightly
def test_a_large_file_of_a_bucket_that_fails_is_read_in_pieces(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = [f'Flood number {n}, "of" {n % 7} in\nGarford' for n in range(20_000)]
    plain = io.BytesIO()
    pyarrow.csv.write_csv(pa.table({"title": titles}), plain)
    store.put("large/a.csv", plain.getvalue())
    monkeypatch.setattr(pieces, "PIECE_BYTES", 200_000)
    cfg = ReadSection(paths=(store.uri("large/a.csv"),), text_columns=("title",))
    given = find_files(cfg, patience_s=60)
    assert len(pieces.cut_file(given[0], cfg)) == 5
    store.failing, store.failed = 0.2, 0
    read_texts(given, cfg, RunDir(tmp_path / "run"), dim=256)
    store.failing = 0.0
    assert store.failed > 0
    members = read_columns(tmp_path / "run" / "members", ["text_id", "row"])
    assert members["text_id"].to_pylist() == [f"a.csv:{number}" for number in range(1, 20_001)]
    assert members["row"].to_pylist() == list(range(20_000))


def test_a_file_of_a_bucket_that_cannot_be_read_is_named_with_its_options(store: ObjectStore) -> None:
    store.put("bad/a.csv", b"headline\nVote\n")
    with pytest.raises(ConfigError) as caught:
        find_files(ReadSection(paths=(store.uri("bad"), store.uri("none.csv")), text_columns=("title",)))
    missing, wrong = caught.value.problems
    assert missing == f"read.paths: no such file: {store.uri('none.csv')}"
    assert wrong.startswith(f"{store.uri('bad/a.csv')} has no column 'title'")


def test_a_uri_with_a_password_is_refused_and_not_printed(covey):
    result = covey("run", "--config", "cluster_configs/laptop.yaml", "run.dir=s3://key:sesame@bucket/run")
    assert result.status == 2
    assert "run.dir holds a user or password" in result.err
    assert "sesame" not in result.err


def test_a_place_on_this_machine_is_a_path(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == locate(f"file://{tmp_path}") == tmp_path
