"""storage.py: nothing that is read runs code, and an object store that fails is waited for."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering.config.loading import load_config
from clustering.config.sections import ReadSection
from clustering.errors import ConfigError, StageError
from clustering.runs.directory import RunDir
from clustering.runs.kernel_inputs import load_group_sizes
from clustering.runs.object_store import RemotePath, filesystem_of, is_transient
from clustering.runs.parts import load_assignment, read_columns, read_rows
from clustering.runs.storage import (
    atomic_write,
    has_extension_types,
    load_array,
    locate,
    read_metadata,
    read_schema,
    read_slice,
    read_table,
    read_temporary,
    write_temporary,
)
from clustering.sources.detection import find_files


class Trap:
    """What a prepared file would have pickle do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return shutil.copy, (__file__, str(self.mark))


class Pickled(pa.ExtensionType):
    """An extension type as Ray registers them: its description is unpickled when a file with it is opened."""

    def __init__(self, content: Any = None) -> None:
        self.content = content
        super().__init__(pa.int64(), "covey.tests.pickled")

    def __arrow_ext_serialize__(self) -> bytes:
        return pickle.dumps(self.content)

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Pickled:
        return cls(pickle.loads(serialized))


@pytest.fixture
def trap(tmp_path: Path) -> Any:
    """A Parquet file that runs code when it is opened, and the mark that the code leaves."""
    mark, path = tmp_path / "sprung", tmp_path / "part-000000.parquet"
    column = pa.ExtensionArray.from_storage(Pickled(Trap(mark)), pa.array([1, 2], pa.int64()))
    pq.write_table(pa.table({"row": [0, 1], "label": column}), path)
    pa.register_extension_type(Pickled())
    yield path, mark
    pa.unregister_extension_type("covey.tests.pickled")


def test_the_trap_of_the_tests_springs(trap: tuple[Path, Path]) -> None:
    path, mark = trap
    pq.read_table(path, columns=["row"])
    assert mark.exists()


@pytest.mark.parametrize(
    "read",
    [
        read_table,
        lambda path: read_table(path, columns=["row"]),
        read_metadata,
        read_schema,
        lambda path: read_slice(path, 0, 1, ["row"]),
        lambda path: read_columns(path.parent, ["row"]),
        lambda path: read_rows(path.parent, np.array([0]), ["row"]),
        lambda path: load_assignment(_as_assignment(path)),
    ],
)
def test_a_file_that_would_run_code_is_refused_before_it_is_opened(
    read: Callable[[Path], Any], trap: tuple[Path, Path]
) -> None:
    path, mark = trap
    with pytest.raises(StageError, match=r"parquet holds columns of an Arrow extension type, which may run code"):
        read(path)
    assert not mark.exists()


def test_an_arrow_file_that_would_run_code_is_refused_before_it_is_opened(trap: tuple[Path, Path]) -> None:
    path, mark = trap
    column = pa.ExtensionArray.from_storage(Pickled(Trap(mark)), pa.array([1, 2], pa.int64()))
    write_temporary(path.with_suffix(".arrow"), pa.table({"row": [0, 1], "label": column}))
    with pytest.raises(StageError, match=r"arrow holds columns of an Arrow extension type, which may run code"):
        read_temporary(path.with_suffix(".arrow"), lambda name: name == "row")
    assert not mark.exists()
    pa.ipc.open_file(str(path.with_suffix(".arrow")))
    assert mark.exists()


def test_an_input_that_would_run_code_is_refused_by_name(trap: tuple[Path, Path]) -> None:
    path, mark = trap
    with pytest.raises(ConfigError, match=r"part-000000\.parquet: it holds a column of an Arrow extension type"):
        find_files(ReadSection(paths=(str(path),), text_columns=("row",)))
    assert not mark.exists()


@pytest.mark.parametrize(("first", "stop"), [(0, 7), (2, 3), (3, 3), (1, 6), (6, 7)])
def test_a_slice_of_a_file_reads_only_its_row_groups(first: int, stop: int, tmp_path: Path) -> None:
    table = pa.table({"row": np.arange(7), "label": np.arange(7) * 2, "other": np.zeros(7)})
    path = tmp_path / "assignment.parquet"
    pq.write_table(table, path, row_group_size=3)
    assert read_slice(path, first, stop, ["row", "label"]).equals(
        table.select(["row", "label"]).slice(first, stop - first)
    )
    damaged = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(2).column(0).data_page_offset
    damaged[start : start + 8] = b"\xff" * 8
    path.write_bytes(damaged)
    assert read_slice(path, 1, 6, ["row"])["row"].to_pylist() == [1, 2, 3, 4, 5]  # the last group has row 6 alone


def _as_assignment(path: Path) -> RunDir:
    return RunDir(path.rename(path.with_name("assignment.parquet")).parent)


@pytest.mark.parametrize("write", [lambda path, table: pq.write_table(table, path), write_temporary])
def test_extension_types_are_seen_wherever_they_stand(write: Callable[[Path, pa.Table], None], tmp_path: Path) -> None:
    """In Parquet the words lie in base64, so how they look depends on what stands before them."""
    storage = pa.array([1, 2], pa.int64())
    for pad in range(6):
        column = pa.ExtensionArray.from_storage(Pickled(), storage)
        nested = pa.StructArray.from_arrays([column], ["within"])
        for name, array in (("flat", column), ("nested", nested)):
            path = tmp_path / name
            write(path, pa.table({"x" * pad + "row": storage, "label": array}))
            with path.open("rb") as file:
                assert has_extension_types(file), (pad, name)
                assert file.tell() == 0
            write(path, pa.table({"x" * pad + "row": storage}))
            with path.open("rb") as file:
                assert not has_extension_types(file), (pad, name)


def test_a_file_of_plain_columns_is_read_as_it_is(tmp_path: Path) -> None:
    table = pa.table({"row": [0, 1], "lists": [[1.5], []], "text": ["a", None]}).replace_schema_metadata({"short": "3"})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "a.parquet"), check_metadata=True)
    assert read_table(tmp_path / "a.parquet").to_pydict() == table.to_pydict()
    assert read_table(tmp_path / "a.parquet", ["text", "row"]).column_names == ["text", "row"]
    assert read_metadata(tmp_path / "a.parquet").num_rows == 2
    assert read_schema(tmp_path / "a.parquet").metadata[b"short"] == b"3"


def test_what_a_start_writes_for_itself_comes_back_with_its_types(tmp_path: Path) -> None:
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    table = pa.table({
        "text": ["a", None, "\u00fc"], "none": pa.nulls(3), "whole": pa.array([1, 2, None], pa.uint32()),
        "day": pa.array([0, 86_400_000, None], pa.date64()), "took": pa.array([1, None, 3], pa.duration("s")),
        "at": pa.array([-(1 << 60), 0, None], pa.timestamp("s", "Asia/Tokyo")),
        "id": pa.array([b"ab", None, b"cd"], pa.binary(2)),
        "lists": pa.ListArray.from_arrays([0, 1, 1, 3], words), "within": [{"x": 1.5}, None, {"x": None}],
    })  # fmt: skip
    write_temporary(tmp_path / "a.arrow", pa.concat_tables([table.slice(1), table]))
    assert read_temporary(tmp_path / "a.arrow", lambda name: True).equals(pa.concat_tables([table.slice(1), table]))
    assert read_temporary(tmp_path / "a.arrow", {"took", "text"}.__contains__).schema.names == ["text", "took"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.arrow"]


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"\xff" * 8, b"PAR1\xff\xff\xff\x7fPAR1", b"ARROW1", b"ARROW1\0\0\xff\xff\xff\x7fARROW1"],
)
def test_what_is_no_table_is_no_trap_and_no_end_of_the_process(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert not has_extension_types(file)
    with pytest.raises(StageError, match=r"a\.parquet is damaged: .*run\.resume=false makes it anew"):
        read_table(path)
    with pytest.raises(StageError, match=r"a\.parquet is damaged: .*run\.resume=false makes it anew"):
        read_temporary(path, lambda name: True)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 cut off", b"\x93NUMPY\x01\x00 cut off"])
def test_a_damaged_array_is_told_by_its_name_in_a_bucket_too(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, remote = tmp_path / "core.npy", RemotePath.of("s3://bucket/core.npy")
    local.write_bytes(content)
    monkeypatch.setattr(RemotePath, "read_bytes", lambda path: content)
    monkeypatch.setattr(RemotePath, "retry", lambda path, work: None)  # the copy stays empty
    for path, mapped in ((local, False), (local, True), (remote, False), (remote, True)):
        with pytest.raises(StageError, match=r"core\.npy is damaged: it holds no array"):
            load_array(path, mapped)


@pytest.mark.parametrize("content", [
    b"", b'{"layers": [1, ', b"[1, 2, 3]", b"7", b'{"a": "\xff"}', b"[" * 100_000, b"{}", b"[]", b"null", b'{"bad": 1}',
    b'[["share", 1], ["size", 2]]', b'{"share": "x", "size": 1}',
])  # fmt: skip
def test_a_damaged_file_of_json_is_told_by_its_name(content: bytes, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    path = tmp_path / "run" / "forest" / "grain.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"grain\.json is damaged: .*run\.resume=false makes it anew"):
        load_group_sizes(run)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "core.npy", np.array([Trap(tmp_path / "sprung")]), allow_pickle=True)
    for mapped in (False, True):
        with pytest.raises(StageError, match=r"core\.npy is damaged: it holds no array"):
            load_array(tmp_path / "core.npy", mapped)
    assert not (tmp_path / "sprung").exists()


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("clustering.runs.object_store.time.sleep", clock.sleep)
    monkeypatch.setattr("clustering.runs.object_store.time.monotonic", lambda: clock.now)
    monkeypatch.setattr(RemotePath, "filesystem", None)
    return clock


AWAY = "When reading: AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7, Couldn't connect to server"
BUSY = "google::cloud::Status(UNAVAILABLE: Retry policy exhausted)"


def failing(clock: Clock, until: float, error: Exception) -> tuple[Callable[[Any], str], list[float]]:
    calls: list[float] = []

    def work(_: Any) -> str:
        calls.append(clock.now)
        if clock.now < until:
            raise error
        return "done"

    return work, calls


@pytest.mark.parametrize("says", [AWAY, BUSY, "AWS Error SLOW_DOWN during PutObject operation (HTTP status 503)"])
def test_minutes_of_trouble_are_waited_for(says: str, clock: Clock) -> None:
    work, calls = failing(clock, 200, OSError(says))
    assert RemotePath.of("s3://bucket/run").retry(work) == "done"
    assert len(calls) < 60, "asked too often"
    assert max(clock.pauses) <= 10
    assert len(set(clock.pauses)) == len(clock.pauses), "the pauses are drawn"


def test_patience_ends_and_says_how_long_it_was(clock: Clock) -> None:
    work, _ = failing(clock, 1e9, OSError(AWAY))
    run = RunDir("s3://bucket/run", patience_s=120)
    with pytest.raises(StageError, match=r"s3://bucket/run/texts/x: When reading.*\(tried \d+ times in 120 s\)\. When"):
        (run.path / "texts" / "x").retry(work)
    assert clock.now == pytest.approx(120)
    there = pickle.loads(pickle.dumps(run.path / "texts"))  # as a worker gets it
    assert there.patience_s == 120


@pytest.mark.parametrize(
    "says",
    ["AWS Error ACCESS_DENIED during PutObject operation", "AWS Error UNKNOWN (HTTP status 403) during HeadObject",
     "AWS Error NO_SUCH_BUCKET during ListObjectsV2", "google::cloud::Status(PERMISSION_DENIED: no access)",
     "AWS Error SIGNATURE_DOES_NOT_MATCH during GetObject"],
)  # fmt: skip
def test_what_waiting_cannot_mend_ends_at_once(says: str, clock: Clock) -> None:
    work, calls = failing(clock, 1e9, OSError(says))
    with pytest.raises(StageError, match="When that is mended, the same command goes on"):
        RemotePath.of("s3://bucket/run").retry(work)
    assert len(calls) == 1
    missing, calls = failing(clock, 1e9, FileNotFoundError("none"))
    with pytest.raises(FileNotFoundError):
        RemotePath.of("s3://bucket/run").retry(missing)
    assert len(calls) == 1


def test_what_is_no_trouble_of_the_store_is_tried_a_few_times(clock: Clock) -> None:
    work, calls = failing(clock, 1e9, pa.ArrowInvalid("Parquet magic bytes not found in footer"))
    with pytest.raises(StageError, match="magic bytes not found"):
        RemotePath.of("s3://bucket/run").retry(work)
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["nytimes/timeout.csv", "connect/unavailable/curl.parquet", "sentiment.csv"])
def test_the_name_of_an_object_is_no_trouble_of_the_store(name: str) -> None:
    says = [
        f"Could not open Parquet input source '{name}': magic bytes not found",
        f"The operation lacked the necessary privileges to complete for path {name}: Error performing GET "
        f"https://s3.amazonaws.com/{name} in 3.4ms - Server returned non-2xx status code: 403 Forbidden: "
        f"<Error><Code>AccessDenied</Code><Key>{name}</Key></Error>",
    ]
    assert [is_transient(OSError(one)) for one in says] == [None, None]
    late = f"Generic S3 error: Error performing GET https://s3.amazonaws.com/{name} in 30s - HTTP error: "
    assert is_transient(OSError(f"{late}operation timed out")) is True
    assert is_transient(OSError(f"When reading information for key '{name}' in bucket 'b': {AWAY}")) is True


def test_a_sign_of_life_is_tried_once(clock: Clock) -> None:
    work, calls = failing(clock, 1e9, OSError(AWAY))
    with pytest.raises(StageError, match="NETWORK_CONNECTION"):
        RemotePath.of("s3://bucket/run").retry(work, tries=1)
    assert len(calls) == 1


# --- places ---


@pytest.mark.parametrize("key", ["news#1", "news 100%", "a%20b", "größe/код", "a&b=c", "{a}~[b]"])
def test_a_key_in_a_bucket_is_taken_as_it_is_written(key: str) -> None:
    uri = f"s3://bucket/{key}?region=eu-west-1"
    found = locate(uri)
    assert isinstance(found, RemotePath)
    assert found.inner == f"bucket/{key}"
    assert found.root == "s3://bucket?region=eu-west-1"
    assert str(found) == uri
    assert locate(str(found / "texts")) == found / "texts"
    assert filesystem_of(uri)[1] == f"bucket/{key}"


def test_slashes_of_a_key_are_counted_once() -> None:
    assert locate("s3://bucket//runs///one/") == locate("s3://bucket/runs/one")


def test_a_user_or_password_in_a_uri_is_refused_and_not_shown() -> None:
    """``--run`` and ``--output`` stand in no configuration; their messages showed it."""
    for uri in ("s3://key:hush@bucket/run", "s3://hush@bucket", "s3://key:hu/sh@bucket/x"):
        section = ReadSection(paths=(uri,), text_columns=("title",))
        for work in (lambda: locate(uri), lambda: load_config(uri), lambda: find_files(section)):  # noqa: B023
            with pytest.raises(ConfigError, match=r"a URI .*a user or password") as caught:
                work()
            assert "sh@" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://bucket/runs/../other", "gs://bucket/./runs"])
def test_a_bucket_has_no_steps_up(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"is no URI: a bucket knows no steps \. and \.\."):
        locate(uri)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///r/a%20b", "/r/a b"), ("file:///r/a b", "/r/a b"), ("FILE:///r/%C3%BC", "/r/ü"),
        ("file://localhost/r/x", "/r/x"), ("file:///r/100%", "/r/100%"), ("file:///r/a%2520b", "/r/a%20b"),
        ("/r/a%20b", "/r/a%20b"), ("file:///r/a#b", "/r/a#b"), ("file:///r/a%3Fb", "/r/a?b"),
    ],
)  # fmt: skip
def test_a_uri_of_a_local_path_is_decoded_wherever_it_is_given(uri: str, path: str) -> None:
    assert locate(uri) == Path(path)
    assert filesystem_of(uri)[1] == path


@pytest.mark.parametrize("uri", ["file://runs/x", "file://host/r", "file://~/x", "file://", "file:///r/a?b=c"])
def test_a_uri_of_another_machine_or_with_options_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="is no URI: "):
        locate(uri)
    with pytest.raises(ConfigError, match="cannot look for "):
        find_files(ReadSection(paths=(uri,)))


def test_files_are_found_by_a_uri_as_by_their_path(tmp_path: Path) -> None:
    folder = tmp_path / "in put" / "[1]"
    folder.mkdir(parents=True)
    for name in ("a b", "ü", "100%"):
        (folder / f"{name}.csv").write_text("title\nFlood\n")
    for given in (f"{folder.as_uri()}", f"file://{folder}", f"file://{tmp_path}/in%20put/*/*.csv", str(folder)):
        found = find_files(ReadSection(paths=(given,), text_columns=("title",)))
        assert [file.name for file in found] == ["100%.csv", "a b.csv", "ü.csv"], given
    assert RunDir(folder.as_uri()).path == folder


def test_a_key_of_a_bucket_keeps_its_percent_signs() -> None:
    uri = "s3://bucket/place=S%C3%A3o?region=eu-west-1"
    assert filesystem_of(uri)[1] == RemotePath.of(uri).inner == "bucket/place=S%C3%A3o"


def test_a_folder_that_others_remove_while_it_is_empty_is_no_trouble(tmp_path: Path) -> None:
    folder, ended = tmp_path / "pending" / "0123456789abcdef", threading.Event()

    def remove() -> None:
        while not ended.wait(0.0002):
            with contextlib.suppress(OSError):
                folder.rmdir()

    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(remove)
        try:
            for number in range(500):
                with atomic_write(folder / "layers.json", durable=False) as temporary:
                    temporary.write_text(str(number), encoding="utf-8")
                (folder / "layers.json").unlink()
        finally:
            ended.set()
        removing.result()
