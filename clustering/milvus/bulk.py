"""vectors/ in, a filled collection out: Parquet files that the server imports by itself."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from pymilvus import MilvusException
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from clustering.config.sections import StoreSection
from clustering.errors import ConfigError, StoreError
from clustering.milvus.channel import Channel
from clustering.milvus.endpoint import Endpoint, connected, server_version
from clustering.milvus.protocol import ROW, VECTOR, encode
from clustering.milvus.retry import RefusedError, reason_of, retry
from clustering.monitoring import progress
from clustering.runs.directory import RunDir
from clustering.runs.index import read_index
from clustering.runs.inventory import is_half_written
from clustering.runs.object_store import LOCAL, RemotePath, filesystem_of, is_local
from clustering.runs.parts import stored_vectors, walk_tables
from clustering.runs.storage import Location, atomic_write, read_json, read_schema, write_json
from clustering.schema import Figures
from clustering.workers.pool import Item, map_parts

FILE_BYTES = 512 << 20  # of vectors in a file: a server's segment; servers refuse files above 16 GiB
JOBS = 8  # that share the files, at most as far as FILES_PER_JOB allows; of older servers each file is one
FILES_PER_JOB = 1024  # servers refuse more
OLDEST = (2, 3, 0)  # the first server that imports Parquet
REST = (2, 4, 0)  # the first server whose import jobs are a REST service
POLL_S = 0.5  # between two looks at a job, or longer with many jobs
POLLS_PER_S = 20
ASKED, DONE = "asked", "done"
# How servers of 2.5, of 2.3 and older ones name a job that ended more than three hours ago.
FORGOTTEN = ("job does not exist", "key not found", "task id doesn't exist")
FAILED = {common_pb2.ImportFailed, common_pb2.ImportFailedAndCleaned}


def check_bulk(endpoint: Endpoint, store: StoreSection, version: tuple[int, ...]) -> None:
    """Check, before any work, that the server imports Parquet and that the folder for the files can be written.

    Raises: ConfigError that says what the server cannot do, or what is wrong with store.bulk_path.
    """
    if version < OLDEST:
        found = ".".join(map(str, version))
        raise ConfigError([f"store.load=bulk: the server at {endpoint.uri} is {found}; Parquet imports begin with 2.3"])
    if version >= REST:
        _post(endpoint, "list", {"collectionName": endpoint.collection}, absent_is_fine=True)
    filesystem, folder = bulk_folder(store)
    try:
        filesystem.create_dir(folder, recursive=True)
        with filesystem.open_output_stream(f"{folder}/.covey-probe") as probe:
            probe.write(b"covey")
        filesystem.delete_file(f"{folder}/.covey-probe")
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError([f"store.bulk_path: {store.bulk_path} cannot be written: {error}"]) from None


def bulk_folder(store: StoreSection) -> tuple[pa.fs.FileSystem, str]:
    """The file system of store.bulk_path, and the path within it.

    Raises: ConfigError for a URI that names no file system.
    """
    path = str(store.bulk_path)
    if is_local(path) and not os.path.isabs(path):
        raise ConfigError([f"store.bulk_path: {path} is relative; give the path that workers and server share"])
    try:
        return filesystem_of(path)
    except (OSError, ValueError) as error:
        raise ConfigError([f"store.bulk_path: {path} is no folder or URI: {error}"]) from None


class Exporter:
    """Write some parts of vectors/ as one file with the columns that Milvus imports."""

    def __init__(self, run: RunDir, store: StoreSection, folder: str) -> None:
        self.run, self.folder, self.vector_type = run, folder, store.vector_type
        self.filesystem, _ = bulk_folder(store)
        self.place: Location | None = None  # of another kind than a folder and a bucket
        if self.filesystem == LOCAL:
            self.place = Path(folder)
        elif str(store.bulk_path).startswith(("s3://", "gs://")):
            root = RemotePath.of(str(store.bulk_path))
            self.place = replace(root, inner=folder, patience_s=store.patience_s)

    @contextmanager
    def _written(self, file: str) -> Iterator[Any]:
        """What a file is written to. A bucket gets it in one step, which is retried."""
        if self.place is None:
            with self.filesystem.open_output_stream(f"{self.folder}/{file}") as stream:
                yield stream
        else:
            with atomic_write(self.place / file) as temporary:
                yield temporary

    def __call__(self, item: Item) -> Item:
        rows = 0
        writer: Any = None
        with self._written(item["file"]) as target:
            for table in walk_tables(self.run / "vectors" / name for name in item["names"]):
                keys, vectors = stored_vectors(table)
                values = encode(vectors, self.vector_type)
                if self.vector_type != "float32":  # servers read the bytes of these
                    values = values.view(np.uint8)
                # Older servers read lists, but no lists of fixed size.
                offsets = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
                entities = pa.table({ROW: keys, VECTOR: pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))})
                if writer is None:  # vectors neither compress nor repeat
                    writer = pq.ParquetWriter(target, entities.schema, compression="none", use_dictionary=False)
                writer.write_table(entities)
                rows += len(keys)
            writer.close()
        return {"rows": rows}


def load_bulk(run: RunDir, endpoint: Endpoint, store: StoreSection) -> Figures:
    """Write files where the server reads them, have it import them, and wait until it has.

    Each request is noted in the run directory first; after a crash the server's own list of jobs says which arrived.
    The audit that follows finds what is missing or doubled all the same.
    Returns: rows_per_second, retries, import_jobs, import_files.
    Raises: StoreError with the server's reason when an import fails.
    """
    started = time.perf_counter()
    jobs = ImportJobs(run, endpoint)
    filesystem, root = bulk_folder(store)
    folder = f"{root}/{endpoint.collection}-{run.id}"
    filesystem.create_dir(folder, recursive=True)
    index = read_index(run / "vectors")
    dim = int(read_schema(run / "vectors" / index.names[0]).field("vector").type.list_size)
    n_files = min(max(1, round(index.rows * dim * 4 / FILE_BYTES)), len(index))
    items: list[Item] = [
        {"file": f"part-{number:06d}.parquet", "names": names.tolist()}
        for number, names in enumerate(np.array_split(index.names, n_files))
    ]
    of_jobs = [part.tolist() for part in np.array_split([item["file"] for item in items], jobs.number(len(items)))]
    todo = [files for files in of_jobs if files[0] not in jobs.states]
    left = {file for files in todo for file in files}
    map_parts(Exporter, [item for item in items if item["file"] in left], run=run, store=store, folder=folder)
    # A shared folder has the same path on the server; in an object store, paths begin after the server's bucket.
    server_folder = folder if is_local(str(store.bulk_path)) else folder.partition("/")[2]
    retries = sum(jobs.start(files, server_folder) for files in todo)
    jobs.wait(store)
    _remove_files(filesystem, folder, {item["file"] for item in items})
    seconds = time.perf_counter() - started
    return {
        "rows_per_second": round(index.rows / seconds, 1),
        "retries": retries,
        "import_jobs": len(of_jobs),
        "import_files": len(items),
    }


def _remove_files(filesystem: pa.fs.FileSystem, folder: str, names: set[str]) -> None:
    """Remove the exported files, and the folder unless other files lie in it."""
    selector = pa.fs.FileSelector(folder, recursive=True, allow_not_found=True)
    for info in filesystem.get_file_info(selector):
        known = info.base_name in names or is_half_written(info.base_name)
        if known and info.path == f"{folder}/{info.base_name}":
            filesystem.delete_file(info.path)
    if not filesystem.get_file_info(selector):
        filesystem.delete_dir(folder)


class ImportJobs:
    """A run's import jobs, kept in loaded/bulk.json: a job's first file -> its id, ASKED (no reply yet), or DONE."""

    def __init__(self, run: RunDir, endpoint: Endpoint) -> None:
        self.path = run / "loaded" / "bulk.json"
        self.endpoint, self.channel = endpoint, Channel(endpoint)
        with connected(endpoint) as client:
            self.rest = server_version(client) >= REST
        self.reported: dict[str, str] = {}  # of each job, in the server's words
        self.states: dict[str, str] = read_json(self.path) if self.path.exists() else {}
        unknown = [file for file, state in self.states.items() if state == ASKED]  # an earlier start ended there
        known = retry(endpoint, lambda _: self.known())[0] if unknown else {}
        for file in unknown:
            if job := _job_of(known, file):
                self._note(file, job)
            else:
                del self.states[file]
        for file, job in list(self.states.items()):
            if job != DONE and self.state(job)[1]:  # it has failed, and is asked for anew
                del self.states[file]

    def known(self) -> dict[str, str]:
        """The server's import jobs for the collection that have not failed, each with the names of its files."""
        if self.rest:
            name, database = self.endpoint.collection, self._database
            records = _post(self.endpoint, "list", {"collectionName": name, **database}).get("records") or []
            jobs = [str(record["jobId"]) for record in records if record.get("state") != "Failed"]
            return {job: str(_post(self.endpoint, "describe", {"jobId": job, **database})) for job in jobs}
        request = milvus_pb2.ListImportTasksRequest(collection_name=self.endpoint.collection, limit=1000)
        return {
            str(task.id): " ".join(pair.value for pair in task.infos if pair.key == "files")
            for task in self.channel.call("ListImportTasks", request).tasks
            if task.state not in FAILED
        }

    @property
    def _database(self) -> dict[str, str]:
        return {"dbName": self.endpoint.db_name or ""}

    def number(self, n_files: int) -> int:
        """The number of jobs for so many files."""
        return min(n_files, max(JOBS, -(-n_files // FILES_PER_JOB))) if self.rest else n_files

    def start(self, files: list[str], server_folder: str) -> int:
        """Ask the server to import files as one job; return how often the request was repeated."""
        file, paths = files[0], [f"{server_folder}/{name}" for name in files]
        self._note(file, ASKED)

        def attempt(failures: int) -> str:
            if failures and (started := _job_of(self.known(), file)):  # only the reply was lost
                return started
            if self.rest:
                body = {
                    "collectionName": self.endpoint.collection,
                    **self._database,
                    "files": [[path] for path in paths],
                }
                return str(_post(self.endpoint, "create", body)["jobId"])
            request = milvus_pb2.ImportRequest(files=paths, **self.endpoint.target)
            return str(self.channel.call("Import", request).tasks[0])

        job, retries = retry(self.endpoint, attempt)
        self._note(file, job)
        return retries

    def wait(self, store: StoreSection) -> None:
        """Wait for every job, and show how many are done as the stage's progress.

        Raises: StoreError when a job fails, or when none makes progress for ``store.stall_s``.
        """
        stage, changed = progress.current_stage(), time.monotonic()
        before: dict[str, str] = {}
        waiting = {state: file for file, state in self.states.items() if state != DONE}
        while waiting:
            for job, file in list(waiting.items()):
                finished, reason = self.state(job)
                if reason:
                    raise StoreError(
                        f"{self.endpoint}: the import of {file} failed: {self.endpoint.redact(reason)}. The server "
                        f"must see store.bulk_path={store.bulk_path}. When that is mended, the same command goes on"
                    )
                if finished:
                    del waiting[job]
                    self._note(file, DONE)
            if self.reported != before:
                before, changed = dict(self.reported), time.monotonic()
            if waiting and time.monotonic() - changed >= self.endpoint.stall_s:
                job, file = next(iter(waiting.items()))
                raise StoreError(
                    f"{self.endpoint}: {len(waiting)} of {len(self.states)} imports stand still for "
                    f"{self.endpoint.stall_s:g} s (store.stall_s); that of {file} (job {job}) at {self.reported[job]}. "
                    f"Look at the server's own log; when it goes on, the same command does, too"
                )
            if stage:
                stage.step("imports done", len(self.states) - len(waiting), len(self.states))
            time.sleep(max(POLL_S, len(waiting) / POLLS_PER_S) if waiting else 0)

    def state(self, job: str) -> tuple[bool, str]:
        """Whether a job is done, and why it failed ("" when it did not).

        A job that the server has forgotten is done: the audit finds what its file did not bring.
        """

        def attempt(_: int) -> tuple[bool, str]:
            try:
                return self._reported_state(job)
            except (MilvusException, RefusedError) as error:
                if any(words in reason_of(error) for words in FORGOTTEN):
                    return True, ""
                raise

        return retry(self.endpoint, attempt)[0]

    def _reported_state(self, job: str) -> tuple[bool, str]:
        if self.rest:
            answer = _post(self.endpoint, "describe", {"jobId": job, **self._database})
            self.reported[job] = f"{answer['state']}, {answer.get('progress', 0)} %"
            reason = answer.get("reason") or "no reason given" if answer["state"] == "Failed" else ""
            return answer["state"] == "Completed", reason
        reply = self.channel.call("GetImportState", milvus_pb2.GetImportStateRequest(task=int(job)))
        infos = {pair.key: pair.value for pair in reply.infos}
        self.reported[job] = f"{common_pb2.ImportState.Name(reply.state)}, {infos.get('progress_percent', 0)} %"
        reason = infos.get("failed_reason", "no reason given") if reply.state in FAILED else ""
        return reply.state == common_pb2.ImportCompleted, reason

    def _note(self, file: str, state: str) -> None:
        self.states[file] = state
        write_json(self.path, self.states)


def _job_of(jobs: dict[str, str], file: str) -> str | None:
    return next((job for job, files in jobs.items() if file in files), None)


def _post(endpoint: Endpoint, verb: str, body: dict[str, Any], absent_is_fine: bool = False) -> dict[str, Any]:
    """The server's answer to a request about import jobs, over its REST service.

    Raises: MilvusException with the server's code; 2 where nothing answers, 1401 where the token is refused.
    """
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.token}"}
    if endpoint.db_name:
        headers["DB-Name"] = endpoint.db_name
    path = f"/v2/vectordb/jobs/import/{verb}"
    connection = http.client.HTTPConnection(endpoint.host_port, timeout=endpoint.timeout_s)
    try:
        if endpoint.secure:  # the name in the certificate may differ from the address
            connection.connect()
            context = ssl.create_default_context(cafile=endpoint.ca_file)
            connection.sock = context.wrap_socket(
                connection.sock, server_hostname=endpoint.server_name or endpoint.host
            )
        connection.request("POST", path, json.dumps(body), headers)
        reply = connection.getresponse()
        if reply.status != 200:
            refused = reply.status in (401, 403)
            raise MilvusException(1401 if refused else 2, f"{path} answered {reply.status} {reply.reason}")
        answer = json.load(reply)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise MilvusException(2, f"{path} does not answer: {error}") from None
    finally:
        connection.close()
    if answer.get("code") not in (0, 200) and not absent_is_fine:
        raise MilvusException(int(answer.get("code") or 2), str(answer.get("message")))
    return dict(answer.get("data") or {})
