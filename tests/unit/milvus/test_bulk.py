"""bulk.py: import jobs over REST, as servers of 2.4 and newer offer them; a stand-in answers in their place."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering.config.sections import StoreSection
from clustering.errors import ConfigError, StoreError
from clustering.milvus import bulk
from clustering.milvus.bulk import Exporter, ImportJobs, bulk_folder, check_bulk
from clustering.milvus.endpoint import Endpoint
from clustering.milvus.protocol import encode
from clustering.runs.directory import RunDir
from clustering.runs.object_store import LOCAL, RemotePath
from clustering.runs.storage import write_table
from clustering.schema import vectors_schema


class Service:
    """The three verbs of the import service as its documentation states them; jobs finish at the third look."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []
        self.broken: str | None = None  # why imports fail
        self.mute = False  # whether the next job begins without an answer
        self.stuck = False  # whether jobs stand still

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        verb = path.removeprefix("/v2/vectordb/jobs/import/")
        if verb == "create":
            job = str(448761313698322000 + len(self.jobs))
            self.jobs[job], self.looks[job] = body, 0
            if self.mute:
                self.mute = False
                raise ConnectionError
            return {"code": 0, "data": {"jobId": job}}
        if verb == "list":
            state = "Failed" if self.broken else "Importing"
            return {"code": 0, "data": {"records": [{"jobId": job, "state": state} for job in self.jobs]}}
        if verb == "describe":
            if body["jobId"] not in self.jobs:
                return {"code": 2100, "message": f"import job does not exist, jobID={body['jobId']}: import failed"}
            self.looks[body["jobId"]] += 1
            done = self.looks[body["jobId"]] >= 3 and not self.stuck
            state = "Failed" if self.broken and done else "Completed" if done else "Importing"
            details = [{"fileName": str(self.jobs[body["jobId"]]["files"])}]
            found = {"jobId": body["jobId"], "state": state, "importedRows": 10 * done, "details": details}
            found |= {"progress": 40} if self.stuck else {}
            return {"code": 0, "data": {**found, **({"reason": self.broken} if state == "Failed" else {})}}
        return {"code": 404, "message": path}


@pytest.fixture
def service() -> Iterator[tuple[Service, str]]:
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.headers.append(dict(self.headers))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            refused = self.headers["Authorization"] != "Bearer root:sesame"
            try:
                answer = {} if refused else state.answer(self.path, body)
            except ConnectionError:
                return
            self.send_response(401 if refused else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint behaves as that of a server whose jobs are a REST service."""
    monkeypatch.setenv("COVEY_TEST_TOKEN", "root:sesame")
    monkeypatch.setattr(bulk, "server_version", lambda _: (2, 5, 4))
    monkeypatch.setattr(bulk, "connected", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(bulk, "POLL_S", 0)


def endpoint(uri: str) -> Endpoint:
    return Endpoint(uri, "texts", token_env="COVEY_TEST_TOKEN", db_name="news", patience_s=1)


def test_a_file_is_asked_for_once_and_waited_for(service: Any, newer: None, tmp_path: Path) -> None:
    state, uri = service
    jobs = ImportJobs(RunDir(tmp_path), endpoint(uri))
    assert jobs.start(["part-0.parquet"], "prefix") == 0
    jobs.wait(StoreSection(uri=uri, bulk_path="s3://bucket/prefix"))
    (asked,) = state.jobs.values()
    assert asked == {"collectionName": "texts", "dbName": "news", "files": [["prefix/part-0.parquet"]]}
    assert {headers["DB-Name"] for headers in state.headers} == {"news"}
    assert list(state.looks.values()) == [3]


def test_files_share_a_bounded_number_of_jobs(service: Any, newer: None, tmp_path: Path) -> None:
    state, uri = service
    jobs = ImportJobs(RunDir(tmp_path), endpoint(uri))
    assert [jobs.number(files) for files in (1, 8, 782, 100_000)] == [1, 8, 8, 98]
    files = [f"part-{number:06d}.parquet" for number in range(300)]
    for some in (files[:150], files[150:]):
        assert jobs.start(some, "prefix") == 0
    jobs.wait(StoreSection(uri=uri, bulk_path="s3://bucket/prefix"))
    asked = [body["files"] for body in state.jobs.values()]
    assert asked == [[[f"prefix/{file}"] for file in some] for some in (files[:150], files[150:])]
    assert jobs.states == {files[0]: "done", files[150]: "done"}
    assert list(state.looks.values()) == [3, 3]
    jobs.rest = False  # older servers take one file a job
    assert jobs.number(782) == 782


@pytest.mark.parametrize("vector_type", ["float32", "float16", "bfloat16"])
def test_a_file_holds_vectors_as_the_server_reads_them(vector_type: Any, tmp_path: Path) -> None:
    run, vectors = RunDir(tmp_path / "run"), np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    write_table(run / "vectors" / "part-000000.parquet", pa.table([range(5), column], schema=vectors_schema(4)))
    store = StoreSection(uri="http://m:1", bulk_path=str(tmp_path), vector_type=vector_type)
    assert Exporter(run, store, str(tmp_path))({"file": "one.parquet", "names": ["part-000000.parquet"]}) == {"rows": 5}
    held = pq.read_table(tmp_path / "one.parquet")
    assert held["row"].to_pylist() == list(range(5))
    size = {"float32": (pa.float32(), 4)}.get(vector_type, (pa.uint8(), 8))
    assert held.schema.field("vector").type.value_type == size[0]
    assert {len(vector) for vector in held["vector"].to_pylist()} == {size[1]}
    raw = held["vector"].combine_chunks().flatten().to_numpy().tobytes()
    assert raw == encode(vectors, vector_type).tobytes()


def test_a_file_in_a_bucket_is_written_in_one_step_that_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream into the bucket ended with the first error of the store, and all files were made again."""
    run, vectors = RunDir(tmp_path / "run"), np.ones((5, 4), np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    write_table(run / "vectors" / "part-000000.parquet", pa.table([range(5), column], schema=vectors_schema(4)))
    store = StoreSection(uri="http://m:1", bulk_path="s3://bucket/prefix?region=eu-west-1", patience_s=77)
    uploaded: list[tuple[str, float, int]] = []

    def upload(path: RemotePath, content: Path) -> None:
        uploaded.append((str(path), path.patience_s, pq.read_metadata(content).num_rows))

    monkeypatch.setattr(RemotePath, "upload", upload)
    work = Exporter(run, store, "bucket/prefix/news-0123")
    assert work({"file": "one.parquet", "names": ["part-000000.parquet"]}) == {"rows": 5}
    assert uploaded == [("s3://bucket/prefix/news-0123/one.parquet?region=eu-west-1", 77, 5)]


def test_what_a_killed_worker_has_half_written_is_removed_with_the_files(tmp_path: Path) -> None:
    for name in ("part-000000.parquet", ".part-000001.parquet.0123abcd.tmp"):
        (tmp_path / "news" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "news" / name).touch()
    bulk._remove_files(LOCAL, str(tmp_path / "news"), {"part-000000.parquet"})
    assert not (tmp_path / "news").exists()


def test_after_a_crash_the_servers_list_says_which_files_it_was_asked_for(
    service: Any, newer: None, tmp_path: Path
) -> None:
    state, uri = service
    jobs = ImportJobs(RunDir(tmp_path), endpoint(uri))
    jobs.start(["part-0.parquet"], "prefix")
    jobs._note("part-0.parquet", "asked")  # the answer was lost
    jobs._note("part-1.parquet", "asked")  # the question was lost
    again = ImportJobs(RunDir(tmp_path), endpoint(uri))
    assert again.states == {"part-0.parquet": next(iter(state.jobs))}


def test_a_job_whose_answer_was_lost_is_not_begun_twice(service: Any, newer: None, tmp_path: Path) -> None:
    state, uri = service
    jobs = ImportJobs(RunDir(tmp_path), endpoint(uri))
    jobs.start(["part-0.parquet"], "prefix")
    state.mute = True
    assert jobs.start(["part-1.parquet"], "prefix") == 1
    assert list(state.jobs) == list(jobs.states.values())


def test_a_failed_job_is_not_taken_for_one_whose_answer_was_lost(service: Any, newer: None, tmp_path: Path) -> None:
    state, uri = service
    jobs = ImportJobs(RunDir(tmp_path), endpoint(uri))
    jobs.start(["part-0.parquet"], "prefix")
    jobs._note("part-0.parquet", "asked")
    state.broken = "file not found"
    assert ImportJobs(RunDir(tmp_path), endpoint(uri)).states == {}


def test_jobs_that_are_done_or_forgotten_are_not_waited_for(service: Any, newer: None, tmp_path: Path) -> None:
    state, uri = service
    store = StoreSection(uri=uri, bulk_path="s3://bucket/prefix")
    jobs = ImportJobs(RunDir(tmp_path), endpoint(uri))
    jobs.start(["part-0.parquet"], "prefix")
    jobs.wait(store)
    jobs.start(["part-1.parquet"], "prefix")
    state.jobs.clear()  # three hours later
    again = ImportJobs(RunDir(tmp_path), endpoint(uri))
    again.wait(store)
    assert ImportJobs(RunDir(tmp_path), endpoint(uri)).states == dict.fromkeys(
        ["part-0.parquet", "part-1.parquet"], "done"
    )
    assert sum(state.looks.values()) == 3


def test_a_failed_import_is_told_and_asked_for_again_next_time(service: Any, newer: None, tmp_path: Path) -> None:
    state, uri = service
    state.broken = "file not found"
    jobs = ImportJobs(RunDir(tmp_path), endpoint(uri))
    jobs.start(["part-0.parquet"], "prefix")
    with pytest.raises(StoreError, match=r"import of part-0.parquet failed: file not found.*store.bulk_path"):
        jobs.wait(StoreSection(uri=uri, bulk_path="s3://bucket/prefix"))
    assert ImportJobs(RunDir(tmp_path), endpoint(uri)).states == {}


def test_all_imports_that_have_failed_are_asked_for_again_at_once(service: Any, newer: None, tmp_path: Path) -> None:
    state, uri = service
    store = StoreSection(uri=uri, bulk_path="s3://bucket/prefix")
    jobs, files = ImportJobs(RunDir(tmp_path), endpoint(uri)), ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    state.broken = "no such bucket"
    for file in files:
        jobs.start([file], "prefix")
    with pytest.raises(StoreError, match="no such bucket"):
        jobs.wait(store)
    for job in state.looks:  # the others fail when nobody looks any more
        state.looks[job] = 3
    again = ImportJobs(RunDir(tmp_path), endpoint(uri))
    state.broken = ""  # that is mended
    assert again.states == {}
    for file in files:
        again.start([file], "prefix")
    again.wait(store)
    assert again.states == dict.fromkeys(files, "done")


def test_an_import_that_stands_still_is_named(service: Any, newer: None, tmp_path: Path) -> None:
    state, uri = service
    jobs = ImportJobs(RunDir(tmp_path), dataclasses.replace(endpoint(uri), stall_s=0.2))
    jobs.start(["part-0.parquet"], "prefix")
    state.stuck = True
    wanted = (
        r"1 of 1 imports stand still for 0.2 s \(store.stall_s\); that of part-0.parquet \(job \d+\) at Importing, 40"
    )
    with pytest.raises(StoreError, match=wanted):
        jobs.wait(StoreSection(uri=uri, bulk_path="s3://bucket/prefix"))


def test_a_refused_token_and_a_silent_service_are_told(
    service: Any, newer: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, uri = service
    monkeypatch.setenv("COVEY_TEST_TOKEN", "root:wrong")
    with pytest.raises(StoreError, match=r"answered 401.*the same command goes on"):
        ImportJobs(RunDir(tmp_path), endpoint(uri)).start(["part-0.parquet"], "seen")
    with pytest.raises(StoreError, match=r"does not answer.*tried \d+ times in 1 s"):
        ImportJobs(RunDir(tmp_path), endpoint("http://127.0.0.1:9")).start(["part-0.parquet"], "seen")


def test_what_a_server_or_a_folder_cannot_do_is_said_before_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the server at http://m:1 is 2.2.16; Parquet imports begin with 2.3"):
        check_bulk(Endpoint("http://m:1", "texts"), StoreSection(bulk_path=str(tmp_path)), (2, 2, 16))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"store.bulk_path: .*/file/folder cannot be written"):
        check_bulk(
            Endpoint("http://m:1", "texts"), StoreSection(bulk_path=str(tmp_path / "file" / "folder")), (2, 3, 5)
        )
    with pytest.raises(ConfigError, match=r"store.bulk_path: shared/bulk is relative; give the path that"):
        bulk_folder(StoreSection(bulk_path="shared/bulk"))
    with pytest.raises(ConfigError, match=r"store.bulk_path: ftp://somewhere is no folder or URI"):
        bulk_folder(StoreSection(bulk_path="ftp://somewhere"))
