"""read.py: files are found and looked into before any work; records become clean texts, each with its row."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import re
import subprocess
import sys
import time
import unicodedata
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from clustering import schema
from clustering.config.sections import ReadSection
from clustering.errors import ConfigError, InputError
from clustering.kernels import memory
from clustering.kernels.memory import record_groups
from clustering.runs.parts import read_columns
from clustering.sources import batches, deduplication, detection, files, layout, opening
from clustering.sources.detection import find_files
from clustering.sources.files import InputFile
from clustering.sources.formats import parquet
from clustering.sources.formats.issues import Issues
from clustering.sources.records import TextCleaner
from clustering.stages import read
from clustering.stages.read import _read_tasks, read_columns_of
from clustering.text import cleaning
from clustering.text.cleaning import Cleaning
from tests import oracles
from tests.strategies import odd_texts
from tests.unit.conftest import Write

Bound = Callable[[str, int], None]


def section(*paths: str | Path, columns: tuple[str, ...] = ("title",), **keys: Any) -> ReadSection:
    return ReadSection(paths=tuple(map(str, paths)), text_columns=columns, **keys)


def columns_of(*paths: str | Path, columns: tuple[str, ...] = ("title",), **keys: Any) -> pa.Table:
    cfg = section(*paths, columns=columns, **keys)
    return read_columns_of(find_files(cfg), cfg)


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> Bound:
    """``bound(name, value)`` sets a bound where it stands."""

    def set_it(name: str, value: int) -> None:
        for module in (files, detection, layout, batches, read, parquet):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)

    return set_it


def names(*paths: str | Path) -> list[str]:
    return [file.name for file in find_files(section(*paths))]


def problems(*paths: str | Path, **keys: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        find_files(section(*paths, **keys))
    return caught.value.problems


# --- which files ---


@pytest.fixture
def tree(write: Write, tmp_path: Path) -> Path:
    for name in ("b.csv", "a.tsv", "deep/c.jsonl", "deep/er/d.csv.gz", ".hidden.csv"):
        write(f"tree/{name}", '{"title": "Vote"}\n' if "jsonl" in name else "title\nVote\n")
    write("tree/notes.txt", "not an input")
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a.tsv", "b.csv", "deep/c.jsonl", "deep/er/d.csv.gz"]),
        ("*", ["a.tsv", "b.csv"]),
        ("*.csv", ["b.csv"]),
        ("?.[ct]sv", ["a.tsv", "b.csv"]),
        ("*/*", ["c.jsonl"]),
        ("**", ["a.tsv", "b.csv", "deep/c.jsonl", "deep/er/d.csv.gz"]),
        ("**/*.csv*", ["b.csv", "deep/er/d.csv.gz"]),
        ("**/er/*", ["d.csv.gz"]),
        ("deep/**/*.gz", ["d.csv.gz"]),
        (".hidden.csv", [".hidden.csv"]),
    ],
)
def test_a_path_finds_its_files_in_order(tree: Path, pattern: str, expected: list[str]) -> None:
    assert names(tree / pattern) == expected


def test_files_in_hidden_folders_are_not_read(tree: Path, write: Write) -> None:
    write("tree/.ipynb_checkpoints/b-checkpoint.csv", "title\nVote\n")
    assert names(tree) == ["a.tsv", "b.csv", "deep/c.jsonl", "deep/er/d.csv.gz"]


def test_files_keep_the_order_of_the_paths(write: Write) -> None:
    assert names(write("b.csv"), write("a.csv")) == ["b.csv", "a.csv"]


def test_a_file_named_twice_is_read_once(write: Write, tmp_path: Path) -> None:
    path = write("sub/a.csv")
    assert names(path, tmp_path / "sub/../sub/a.csv", tmp_path / "sub", tmp_path / "**/*.csv") == ["a.csv"]


def test_a_file_named_by_path_and_by_uri_is_read_once(write: Write) -> None:
    path = write("a.csv")
    assert names(path, f"file://{path}") == ["a.csv"]


def test_a_file_whose_name_looks_like_a_glob_is_found(write: Write) -> None:
    assert names(write("news[2024].csv")) == ["news[2024].csv"]


def test_a_bucket_and_a_local_folder_are_read_in_one_run(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, stored = write("here/a.csv"), write("there/bucket/b.csv")
    bucket = pa.fs.SubTreeFileSystem(str(Path(stored).parents[1]), pa.fs.LocalFileSystem())
    plain = files.filesystem

    def found_by(path: str) -> tuple[pa.fs.FileSystem, str]:
        return (bucket, path[5:]) if path.startswith("s3://") else plain(path)

    for module in (files, layout, opening):
        if hasattr(module, "filesystem"):
            monkeypatch.setattr(module, "filesystem", found_by)
    found = find_files(section(local, "s3://bucket/b.csv"))
    assert [file.uri for file in found] == [local, "s3://bucket/b.csv"]
    assert len({file.name for file in found}) == 2


@pytest.mark.parametrize("name", ["a.csv", "the news/a b.csv", "100%.csv"])
def test_a_uri_names_a_local_file_too(name: str, write: Write, tmp_path: Path) -> None:
    path = write(name)
    for uri in (Path(path).as_uri(), Path(path).parent.as_uri(), f"{Path(path).parent.as_uri()}/*.csv"):
        (file,) = find_files(section(uri))
        assert file.uri == path
        assert columns_of(uri)["title"].to_pylist() == ["Flood in Garford"]


def test_an_address_that_is_none_is_refused() -> None:
    (found,) = problems("s3://[bucket/a.csv")
    assert found.startswith("read.paths: cannot look for s3://[bucket/a.csv: ")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.CSV", "a.csv.gz"])
def test_an_empty_file_has_no_records(name: str, write: Write) -> None:
    assert names(write(name, "")) == [name]


# --- what is wrong with them ---


def test_every_problem_is_named_at_once(write: Write, tmp_path: Path) -> None:
    found = problems(
        tmp_path / "missing.csv", tmp_path / "no*.csv", write("notes.pdf"), write("other.csv", "headline,n\nVote,1\n"),
        write("fine.csv"),
    )  # fmt: skip
    assert found[0] == f"read.paths: no such file: {tmp_path / 'missing.csv'}"
    named = "csv, tsv, jsonl, json or parquet file, nor a txt that is asked for"
    assert found[1] == f"read.paths: the glob matches no {named}: {tmp_path / 'no*.csv'}"
    assert found[2].startswith(f"read.paths: {tmp_path / 'notes.pdf'} is none of csv, tsv, jsonl")
    assert len(found) == 3  # that one of several files lacks the column is a warning


def test_no_paths_at_all_are_refused() -> None:
    assert problems() == ["read.paths is empty; name files, globs, directories or URIs, or give a read.collection"]


def test_a_directory_without_inputs_is_refused(write: Write, tmp_path: Path) -> None:
    write("folder/notes.txt")
    assert problems(tmp_path / "folder") == [
        f"read.paths: the directory holds no csv, tsv, jsonl, json or parquet file, nor a txt that is asked for: "
        f"{tmp_path / 'folder'}; it finds '{tmp_path / 'folder/notes.txt'}' (read.format names their format)"
    ]


def test_an_unknown_kind_of_address_is_refused() -> None:
    (found,) = problems("carrier-pigeon://coop/a.csv")
    assert found.startswith("read.paths: cannot look for carrier-pigeon://coop/a.csv: ")


CONTENT = {
    "a.csv": "title,body\nVote,Free buses\n",
    "a.tsv": "title\tbody\nVote\tFree buses\n",
    "a.jsonl": '{"title": "Vote", "body": "Free buses"}\n',
    "a.csv.gz": "title,body\nVote,Free buses\n",
    "bom.csv": b"\xef\xbb\xbftitle,body\nVote,Free buses\n",
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_missing_column_names_the_columns_that_exist(name: str, write: Write) -> None:
    (found,) = problems(write(name, CONTENT[name]), columns=("title", "summary"), id_column="guid")
    assert found.endswith(
        "has no column 'summary', 'guid'; its columns are 'title', 'body'. Set read.text_columns and read.id_column to "
        "one of them."
    )


def test_a_missing_column_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"headline": ["Vote"], "n": [1]}), tmp_path / "a.parquet")
    (found,) = problems(tmp_path / "a.parquet")
    assert "has no column 'title'; its columns are 'headline', 'n'" in found


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("plain.csv.gz", b"title\nVote\n", "it is not gzip"),
        ("cut.csv.gz", gzip.compress(b"title\nVote\n", mtime=0)[:-12], "Truncated compressed stream"),
        ("text.parquet", b"title\nVote\n", "Parquet magic bytes not found"),
        ("short.parquet", b"PAR1", "Parquet file size is 4 bytes"),
        ("list.jsonl", b"[1, 2]\n", "no line holds a JSON object"),
        ("cut.jsonl", b'{"title": \n', "Expecting value"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(name: str, content: bytes, says: str, write: Write) -> None:
    path = write(name, content)
    (found,) = problems(path)
    assert found.startswith(f"{path} cannot be read as {name.split('.')[1]}")
    assert says in found


# --- texts ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Vote", "Free buses"], "Vote|Free buses"),
        (["Vote", None], "Vote"),
        ([None, "", " \t"], ""),
        (["  Free \n\t buses\u2028for\xa0all "], "Free buses for all"),
        (["Cafe\u0301"], "Caf\u00e9"),
        (["\U0001f469\u200d\U0001f680 lands 😀"], "\U0001f469\u200d\U0001f680 lands 😀"),
        (["שלום  עולם", "مرحبا"], "שלום עולם|مرحبا"),
        (["北京　大学"], "北京 大学"),
        (["bad \ud83d half"], "bad ? half"),
    ],
)
def test_a_text_is_cleaned(values: list[str | None], expected: str) -> None:
    cleaner = TextCleaner(section(columns=tuple("abc"[: len(values)]), separator="|"))
    typed = [value.encode("utf-8", "replace").decode() if value else value for value in values]
    table = pa.table({name: pa.array([value], pa.string()) for name, value in zip("abc", typed, strict=False)})
    assert cleaner(table, Issues()) == ([expected], [None])


@pytest.mark.parametrize("opened", ["<!--", "<script>", "<style a=b>"])
def test_the_end_of_what_is_never_closed_is_sought_once(opened: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sought = []

    class Counted:
        def search(self, text: str, at: int) -> None:
            sought.append(at)

    monkeypatch.setattr(cleaning, "_ENDS", dict.fromkeys(cleaning._ENDS, Counted()))
    Cleaning()(f"Flood {opened * 1000}")
    assert sought == [len("Flood ") + len(opened)]


@given(odd_texts)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    clean = Cleaning(markup=False)(text)
    assert Cleaning(markup=False)(clean) == clean
    assert clean == " ".join(clean.split())
    assert unicodedata.is_normalized("NFC", clean)
    assert clean.encode("utf-8").decode("utf-8") == clean


# --- columns of a file ---


def test_columns_are_read_as_strings_with_their_places(write: Write, tmp_path: Path) -> None:
    write("in/a.csv", 'title,id\n"Flood, Garford",007\n"two\nlines",NA\n')
    write("in/b/c.jsonl.gz", '{"title": "Vote", "id": 8}\n\n{"title": null}\n{"title": {"x": 1}, "id": true}\n')
    pq.write_table(pa.table({"id": [1.5, None], "title": ["Final", "Cup"]}), tmp_path / "in/z.parquet")
    table = columns_of(tmp_path / "in", id_column="id")
    assert table["title"].to_pylist() == ["Flood, Garford", "two\nlines", "Vote", None, '{"x": 1}', "Final", "Cup"]
    assert table["id"].to_pylist() == ["007", "NA", "8", None, "true", "1.5", None]  # of several kinds: strings
    assert table[schema.LOCATION].to_pylist() == [
        "a.csv:1", "a.csv:2", "b/c.jsonl.gz:1", "b/c.jsonl.gz:2", "b/c.jsonl.gz:3", "z.parquet:1", "z.parquet:2",
    ]  # fmt: skip


def test_a_file_that_turns_undecodable_is_named(write: Write) -> None:
    path = write("late.csv", b"title\n" + "Größe\n".encode() * 2500 + "München\n".encode("latin-1"))
    with pytest.raises(
        InputError, match=r"late\.csv: line 2,502, byte 20,007: can't decode byte 0xfc as UTF-8; read.csv.encoding"
    ):
        columns_of(path)


def test_half_a_character_does_not_stop_the_columns(write: Write) -> None:
    path = write("a.jsonl", '{"title": "\\ud83d"}\n')
    assert len(columns_of(path)) == 1


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_pyarrow_holds_nothing_of_python_once_a_csv_file_is_left(
    name: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread of its own would let go of it while the process ends, and abort.
    held: list[weakref.ref[Any]] = []
    options = pa.csv.ParseOptions

    def handled(**words: Any) -> Any:
        held.append(weakref.ref(words["invalid_row_handler"]))
        return options(**words)

    monkeypatch.setattr(pa.csv, "ParseOptions", handled)
    columns_of(write(name))
    assert [one() for one in held] == [None]


# --- files that unpack to far more than they are ---

READ_ALL = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from clustering.sources import batches, detection
from clustering.sources.formats import parquet
from clustering.stages import read
from clustering.config.sections import ReadSection
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir; from clustering.monitoring.usage import measured_peak, peak_bytes
path, into, bounds = sys.argv[1:]
for name, value in json.loads(bounds).items():
    setattr(next(module for module in (read, batches, parquet) if hasattr(module, name)), name, value)
cfg, found = ReadSection(paths=(path,), text_columns=("title",)), {"records": 0, "problems": []}
before = peak_bytes()
with measured_peak() as peak:
    try:
        worker = read.RecordReader(RunDir(Path(into)), cfg)
        for number, task in enumerate(read._read_tasks(detection.find_files(cfg), cfg)):
            found["records"] += worker({"task": asdict(task), "serial": number})["rows"]
    except ConfigError as error:
        found["problems"] = error.problems
print(json.dumps({**found, "grown_mib": (peak.bytes - before) / 2**20}))
"""
MIB = 1 << 20


@pytest.fixture
def read_alone(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Find and read a file in a process of its own: records, problems, and MiB that its memory grew by at most."""

    def run(path: str | Path, **bounds: int) -> dict[str, Any]:
        words = [sys.executable, "-c", READ_ALL, str(path), str(tmp_path / "run-alone"), json.dumps(bounds)]
        result = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


def packed(head: str, often: bytes, mib: int, tail: str = "") -> bytes:
    """Gzip of ``head``, ``mib`` MiB of ``often`` and ``tail``, made from few of its members."""
    filler = gzip.compress(often * (4 * MIB // len(often)))
    return gzip.compress(head.encode()) + filler * (mib // 4) + gzip.compress(tail.encode())


def repeated(path: Path, text: str, often: int, first: str | None = None) -> Path:
    """A Parquet file of some hundred bytes that says one text many times, after ``first``."""
    start, texts = ([None], [text]) if first is None else ([1], [text, first])
    column = pa.DictionaryArray.from_arrays(pa.array(start + [0] * often, pa.int32()), texts)
    pq.write_table(pa.table({"title": column}), path, compression="zstd", write_statistics=False)
    return path


@pytest.mark.full
def test_a_line_without_end_is_refused_before_it_is_held(write: Write, read_alone: Any) -> None:
    path = write("a.jsonl.gz", packed('{"title": "Vote"}\n' * 1000 + '{"title": "', b"x", 1024))
    assert Path(path).stat().st_size < 2 * MIB
    found = read_alone(path)
    assert found["problems"] == [f"{path}: a line is longer than 16,777,216 characters. Write one record on each line."]
    assert found["grown_mib"] < 1024 / 4  # of what would come out


@pytest.mark.full
def test_a_csv_record_without_end_is_refused_before_it_is_held(write: Write, read_alone: Any) -> None:
    path = write("a.csv.gz", packed('title\nVote\n"', b"x\n", 1024))
    found = read_alone(path, EXPANDED_BYTES=64 * MIB)
    (problem,) = found["problems"]  # the quote is read as a character, so the lines after it are records
    assert problem.startswith(f"{path}: ")
    assert "records of" in problem
    assert "have come out of its" in problem
    assert found["grown_mib"] < 1024 / 2  # of what would come out; its reader is ahead of a busy machine


@pytest.mark.full
def test_a_csv_file_of_a_million_columns_is_read_for_those_wanted(write: Write, read_alone: Any) -> None:
    path = write("wide.csv.gz", "," * 1_000_000 + "title\n" + "," * 1_000_000 + "Vote\n")
    assert Path(path).stat().st_size < MIB
    found = read_alone(path)
    assert (found["records"], found["problems"]) == (1, [])
    assert found["grown_mib"] < 400
    (problem,) = problems(path, columns=("body",))
    assert problem.startswith(f"{path} has no column 'body'; its columns are '1', '2', ")
    assert len(problem) < 1000


@pytest.mark.full
def test_long_records_are_held_a_few_at_a_time(write: Write, read_alone: Any) -> None:
    line = b'{"title": "' + b"x" * (4 * MIB - 14) + b'"}\n'
    path = write("a.jsonl.gz", packed("", line, 4 * 40))
    found = read_alone(path, BATCH_BYTES=16 * MIB)
    assert (found["records"], found["problems"]) == (40, [])
    assert found["grown_mib"] < 250


@pytest.mark.full
def test_a_string_that_parquet_says_often_is_written_out_a_few_times_at_a_time(tmp_path: Path, read_alone: Any) -> None:
    path = repeated(tmp_path / "a.parquet", "x" * MIB, 300)
    assert path.stat().st_size < 2000
    found, at_once = read_alone(path, BATCH_BYTES=16 * MIB), read_alone(path, BATCH_BYTES=1 << 40)
    assert (found["records"], found["problems"]) == (301, [])
    assert found["grown_mib"] < at_once["grown_mib"] / 3


@pytest.mark.full
def test_a_string_that_parquet_continues_often_is_unpacked_a_few_times_at_a_time(
    tmp_path: Path, read_alone: Any
) -> None:
    path = tmp_path / "a.parquet"
    options = {"use_dictionary": False, "column_encoding": {"title": "DELTA_BYTE_ARRAY"}, "compression": "zstd"}
    pq.write_table(pa.table({"title": ["x" * (MIB // 4)] * 800}), path, write_statistics=False, **options)
    assert path.stat().st_size < 2000
    found = read_alone(path, DENSE_BYTES=16 * MIB, BATCH_BYTES=8 * MIB)
    assert (found["records"], found["problems"]) == (800, [])
    assert found["grown_mib"] < 180


@pytest.mark.parametrize("first", [None, "Vote"])
def test_a_value_that_is_too_long_is_refused(tmp_path: Path, read_here: Any, first: str | None) -> None:
    path = repeated(tmp_path / "a.parquet", "x" * 17 * MIB, 1_000_000, first)
    with pytest.raises(InputError) as caught:
        read_here(section(path))
    assert caught.value.problems == [
        f"{path}: column 'title' holds a value of 17,825,792 bytes; at most 16,777,216 are read. Shorten it."
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "parquet.gz"])
def test_records_just_below_the_bounds_are_read(
    kind: str, write: Write, tmp_path: Path, read_here: Any, bound: Bound
) -> None:
    bound("RECORD_BYTES", 100_000)
    bound("BATCH_BYTES", 150_000)
    titles: list[Any] = ["a" * 99_980, "Vote", "b" * 99_980, "", "Vote", "c" * 99_980]
    path = tmp_path / f"a.{kind}"
    if kind.startswith("parquet"):
        titles += [None, "d" * 100_000]
        pq.write_table(pa.table({"title": titles}), tmp_path / "a.parquet", compression="none")
        if kind == "parquet.gz":
            content = (tmp_path / "a.parquet").read_bytes()
            write(path.name, gzip.compress(content))
            bound("UNPACKED_BYTES", len(content))
    else:
        lines = [json.dumps({"title": title}) for title in titles] if kind == "jsonl" else ["title", *titles]
        write(path.name, "\n".join(lines))
    run, _ = read_here(section(path))
    assert read_columns(run / "texts", ["text"])["text"].to_pylist() == list(dict.fromkeys(filter(None, titles)))


@pytest.mark.parametrize("rows", [1, 7, 64, 8192])
@pytest.mark.parametrize("dense", [1, 3000, 1 << 30])
def test_parquet_reads_the_same_however_it_is_cut(rows: int, dense: int, tmp_path: Path, bound: Bound) -> None:
    titles = [None if n % 7 == 0 else "é" * (n % 5) if n % 3 else f"Headline {n % 11}" for n in range(200)]
    columns = {
        "string": pa.array(titles),
        "large": pa.array(titles, pa.large_string()),
        "coded": pa.array(titles).dictionary_encode(),
        "bytes": pa.array(titles).cast(pa.large_binary()),
        "fixed": pa.array([b"abcd", None] * 100, pa.binary(4)),
        "number": pa.array([None, *range(199)]),
        "nothing": pa.nulls(200),
    }
    expected = {name: pa.chunked_array([column]).cast(pa.string()).to_pylist() for name, column in columns.items()}
    columns["in"] = pa.StructArray.from_arrays([columns["string"], columns["number"]], ["string", "number"])
    expected |= {f"in.{name}": expected[name] for name in ("string", "number")}
    bound("RECORDS_PER_PART", rows)
    bound("DENSE_BYTES", dense)
    bound("BATCH_BYTES", dense)
    deltas = dict.fromkeys(("string", "large", "bytes", "in.string"), "DELTA_BYTE_ARRAY")
    for number, options in enumerate(({}, {"use_dictionary": False, "column_encoding": deltas})):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=90, **options)
        table = columns_of(path, columns=tuple(expected))
        assert {name: table[name].to_pylist() for name in expected} == expected


def test_a_large_input_makes_fewer_parts_of_records_and_the_same_rows(
    tmp_path: Path, read_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"title": [f"Flood {n % 70}" for n in range(100)]}), path)
    seen: list[list[str]] = []
    share_out = deduplication._share_out
    monkeypatch.setattr(
        deduplication,
        "_share_out",
        lambda counts, most: seen.append([one["name"] for one in counts]) or share_out(counts, most),
    )
    assert (record_groups((1 << 30) - 1), record_groups(1 << 30)) == (1, 4)
    runs = []
    for large in (1 << 30, 1):
        monkeypatch.setattr(memory, "LARGE_INPUT_BYTES", large)
        runs.append(read_here(section(path), 10))
    assert [len(names) for names in seen] == [10, 3]  # of 10 and of 40 records
    assert runs[0][1] == runs[1][1]
    one, other = (read_columns(run / "texts", ["row", "text", "copies"]) for run, _ in runs)
    assert one.equals(other)


def test_a_row_group_that_is_too_large_is_refused(tmp_path: Path, read_here: Any, bound: Bound) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"title": ["x" * 1000, "y" * 1000], "other": ["z" * 9000] * 2}), path)
    group = pq.ParquetFile(path).metadata.row_group(0)
    size = group.column(0).total_uncompressed_size
    bound("DENSE_BYTES", 1)
    bound("UNPACKED_BYTES", size)
    assert read_here(section(path))[1]["records"] == 2
    bound("UNPACKED_BYTES", size - 1)
    with pytest.raises(InputError) as caught:
        read_here(section(path))
    assert caught.value.problems == [
        f"{path}: row group 0 unpacks to {size:,} bytes of title; at most {size - 1:,} are read. "
        f"Write smaller row groups."
    ]


@pytest.mark.full
def test_a_gzip_of_parquet_is_unpacked_up_to_a_bound(write: Write, read_alone: Any) -> None:
    path = write("a.parquet.gz", packed("PAR1", b"\0", 256))
    found = read_alone(path, UNPACKED_BYTES=128 * MIB)
    assert found["problems"] == [f"{path}: it unpacks to more than 134,217,728 bytes. Take it out of its gzip."]
    assert found["grown_mib"] < 100


def test_a_parquet_footer_that_is_too_long_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with path.open("wb") as file:
        file.truncate(33 * MIB)  # zeros that take no place on the disk
        file.seek(0, 2)
        file.write((33 * MIB).to_bytes(4, "little") + b"PAR1")
    assert problems(path) == [
        f"{path}: its footer takes 34,603,008 bytes; at most 33,554,432 are read. Write larger row groups."
    ]


def test_what_an_interrupted_start_has_left_is_not_read(write: Write, tmp_path: Path, read_here: Any) -> None:
    for left in ("part-000000-000000.arrow", "part-000007-000000.arrow", "part-000007-000000.npz",
                 "part-000000-000000.parquet"):  # fmt: skip
        write(f"run-0/records/{left}", b"broken off")
    _, figures = read_here(section(write("a.csv")))
    assert (figures["records"], figures["texts"]) == (1, 1)
    assert sorted(path.name for path in (tmp_path / "run-0").iterdir()) == ["members", "texts"]


def test_json_that_is_too_deep_or_a_number_too_long_is_dropped(write: Write, read_here: Any) -> None:
    deep = '{"title": ' + "[" * 100_000
    path = write("a.jsonl", f'{deep}\n{{"title": {"1" * 5000}}}\n{{"title": "Vote"}}\n')
    _, figures = read_here(section(path, bad_lines="skip"))
    assert (figures["records"], figures["dropped"]) == (1, 2)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def test_nothing_in_a_parquet_file_is_executed(tmp_path: Path, read_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trap = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Trap())}
    schema = pa.schema([pa.field("title", pa.string(), metadata=trap)], metadata={"pandas": pickle.dumps(Trap())})
    pq.write_table(pa.table({"title": ["Vote"]}, schema=schema), tmp_path / "a.parquet")
    (problem,) = problems(tmp_path / "a.parquet")
    assert "Arrow extension type (arrow.py_extension_type), which may run code when it is read" in problem
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("held", [b"a" * 50_000, b"a." * 25_000, b"\0a.a" * 12_500, b"\0" + b"a.a" * 16_000],
                         ids=["long", "parts", "many", "long name"])  # fmt: skip
def test_the_time_for_names_of_extension_types_grows_with_the_footer(held: bytes) -> None:
    began = time.process_time()
    with pytest.raises(InputError, match="of an unknown name"):
        parquet._check_extensions(b"ARROW:schema" + base64.b64encode(held))
    assert time.process_time() - began < 2


@pytest.mark.full
@pytest.mark.parametrize(("name", "line"), [("a.csv.gz", "x"), ("a.jsonl.gz", '{"title": "x"}')])
def test_gzip_out_of_which_far_more_comes_than_went_in_is_refused(
    name: str, line: str, write: Write, read_here: Any, bound: Bound
) -> None:
    path = write(name, "title\n" * ("csv" in name) + f"{line}\n" * 60_000)
    cfg, size = section(path), Path(path).stat().st_size
    assert read_here(cfg)[1]["records"] == 60_000  # for all is well below a gigabyte
    bound("EXPANDED_BYTES", 1 << 20)
    for reads in (read_here, lambda cfg: read_columns_of(find_files(cfg), cfg)):
        with pytest.raises(InputError) as caught:
            reads(cfg)
        (problem,) = caught.value.problems
        assert problem.startswith(f"{path}: ")
        assert f"have come out of its {size:,} bytes of gzip, more than 200 times as much" in problem
        assert problem.endswith("If it is sound, unpack it and name the unpacked file.")
    bound("EXPANSION_RATIO", 100_000)
    assert read_here(cfg)[1]["records"] == 60_000


def test_headlines_in_gzip_are_far_from_what_is_refused(write: Write, bound: Bound) -> None:
    bound("EXPANDED_BYTES", 0)
    bound("EXPANSION_RATIO", 50)
    titles = [f"{place}: {event} on day {day}" for day in range(2000) for place in ("Garford", "Calford")
              for event in ("flood closes the harbour", "council bans scooters")]  # fmt: skip
    path = write("a.csv.gz", "title\n" + "\n".join(titles) + "\n")
    assert len(columns_of(path)) == len(titles)


# --- tasks ---


def file_of(name: str, size: int, kind: str = "csv", packing: str | None = None) -> InputFile:
    return InputFile(f"/in/{name}", f"/in/{name}", name, kind, packing, size, "", f"/in/{name}")


def test_small_files_are_read_together_and_large_ones_alone(bound: Bound) -> None:
    bound("READ_TASK_BYTES", 100)
    files = [file_of(f"{number}.csv", size) for number, size in enumerate([40, 60, 1, 500, 50, 50])]
    files.append(file_of("z.parquet", 300, "parquet", "gzip"))
    tasks = [[file["name"] for file in task.files] for task in _read_tasks(files, ReadSection())]
    assert tasks == [["0.csv", "1.csv"], ["2.csv"], ["3.csv"], ["4.csv", "5.csv"], ["z.parquet"]]


def test_no_files_are_no_pieces() -> None:
    assert _read_tasks([], ReadSection()) == []


def test_a_large_parquet_file_is_read_by_row_groups(tmp_path: Path, bound: Bound) -> None:
    bound("READ_TASK_BYTES", 100)
    titles = [f"Headline {number} of a day with much news" for number in range(50)]
    pq.write_table(pa.table({"title": titles}), tmp_path / "a.parquet", row_group_size=7)
    cfg = section(tmp_path / "a.parquet")
    tasks = _read_tasks(find_files(cfg), cfg)
    assert [group for task in tasks for group in task.row_groups or []] == list(range(8))
    assert [task.first_record for task in tasks] == [7 * (task.row_groups or [0])[0] for task in tasks]
    assert len(tasks) > 1


# --- all records, with this process in the place of Ray's workers ---


RECORDS = ["Flood", "Vote", "", "Flood", " flood", "Vote ", "  ", "Final", "Flood", "Vote\t", "Cup", "Flood", "Final"]


@pytest.mark.parametrize("part_rows", [1, 2, 5, 8192])
def test_copies_are_folded_whatever_the_parts(part_rows: int, read_here: Any, write: Write) -> None:
    path = write("a.jsonl", "".join(json.dumps({"title": text}) + "\n" for text in RECORDS))
    run, figures = read_here(section(path), part_rows)
    clean = [" ".join(text.split()) for text in RECORDS]
    kept = [(f"a.jsonl:{number}", text) for number, text in enumerate(clean, 1) if text]
    row, first, copies = oracles.fold_copies([text for _, text in kept])
    texts, members = (
        read_columns(run / "texts", ["row", "text", "copies"]),
        read_columns(run / "members", ["text_id", "row"]),
    )
    assert texts.to_pydict() == {
        "row": list(range(len(copies))),
        "text": [text for (_, text), new in zip(kept, first, strict=True) if new],
        "copies": copies,
    }
    assert members.to_pydict() == {"text_id": [place for place, _ in kept], "row": row}
    assert (figures["records"], figures["texts"], figures["empty"]) == (len(RECORDS), len(copies), 2)
    assert figures["largest_copies"] == max(copies)


@pytest.mark.parametrize("limit", [1, 3, 4, 9, 13, 99])
@pytest.mark.parametrize("part_rows", [2, 5])
def test_a_limit_takes_the_first_records_and_no_more(
    limit: int, part_rows: int, read_here: Any, write: Write, bound: Bound
) -> None:
    bound("READ_TASK_BYTES", 1)  # every file a task
    for name, titles in (("in/a.jsonl", RECORDS[:6]), ("in/b.jsonl", RECORDS[6:])):
        folder = Path(write(name, "".join(json.dumps({"title": text}) + "\n" for text in titles))).parent
    run, figures = read_here(section(folder, limit=limit), part_rows)
    taken = [text for text in (" ".join(text.split()) for text in RECORDS[:limit]) if text]
    assert figures["records"] == min(limit, len(RECORDS))
    assert read_columns(run / "members", ["row"])["row"].to_pylist() == oracles.fold_copies(taken)[0]
    assert sum(read_columns(run / "texts", ["copies"])["copies"].to_pylist()) == len(taken)


def test_the_users_ids_are_kept_and_repeated_ones_counted(read_here: Any, write: Write) -> None:
    path = write("a.csv", "id,title\n007,Flood\nx,Vote\n,Final\n007,Cup\n")
    run, figures = read_here(section(path, id_column="id"))
    assert read_columns(run / "members", ["text_id"])["text_id"].to_pylist() == ["007", "x", "a.csv:3", "007"]
    assert figures["repeated_ids"] == 1


def test_malformed_records_are_dropped_and_counted(read_here: Any, write: Write) -> None:
    good = json.dumps({"title": "Vote"}) + "\n"
    lines = good * 200 + "[1, 2]\n" + '{"title": \n' + json.dumps({"title": "Final"}) + "\n"
    run, figures = read_here(section(write("a.jsonl", lines)))
    assert (figures["records"], figures["dropped"]) == (201, 2)
    assert read_columns(run / "texts", ["text"])["text"].to_pylist() == ["Vote", "Final"]


def test_a_csv_row_with_too_many_fields_is_dropped_and_counted(read_here: Any, write: Write) -> None:
    path = write("a.csv", "id,title\n1,Vote\n2,Fi,nal\n3,Cup\n")
    with pytest.raises(
        InputError, match=r"1 of 3 records are malformed; the first: .*a\.csv, line 3: 3 fields where the"
    ):
        read_here(section(path))
    run, figures = read_here(section(path, bad_lines="skip"))
    assert (figures["records"], figures["dropped"]) == (2, 1)
    assert read_columns(run / "texts", ["text"])["text"].to_pylist() == ["Vote", "Cup"]


def test_two_text_columns_are_joined_by_the_separator(read_here: Any, write: Write) -> None:
    path = write("a.csv", "title,body\nVote,Free buses\nFinal,\n")
    run, _ = read_here(section(path, columns=("title", "body"), separator=" | "))
    assert read_columns(run / "texts", ["text"])["text"].to_pylist() == ["Vote | Free buses", "Final"]


def test_a_column_of_lists_is_refused_with_its_file(read_here: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"title": [["Vote"], ["Cup"]]}), tmp_path / "a.parquet")
    (problem,) = problems(tmp_path / "a.parquet")
    assert re.search(
        r"a\.parquet: column 'title' holds list<.*>; a text or id column holds strings or numbers", problem
    )


def test_a_file_that_cannot_be_read_on_names_its_record(read_here: Any, write: Write) -> None:
    whole = gzip.compress("".join(f'{{"title": "Headline {n}"}}\n' for n in range(20_000)).encode())
    path = write("a.jsonl.gz", whole[: len(whole) // 2])
    with pytest.raises(
        InputError, match=r"a\.jsonl\.gz cannot be read after record \d+: Truncated compressed stream\. Is it jsonl\?"
    ):
        read_here(section(path))


def test_files_without_a_single_text_leave_no_rows(read_here: Any, write: Write) -> None:
    _, figures = read_here(section(write("a.csv", 'title\n" "\n')))
    assert (figures["records"], figures["texts"], figures["empty"]) == (1, 0, 1)


def test_half_a_character_in_an_id_does_not_stop_the_run(read_here: Any, write: Write) -> None:
    path = write("a.jsonl", '{"title": "Vote", "id": "\\ud83d1"}\n')
    _, figures = read_here(section(path, id_column="id"))
    assert figures["texts"] == 1
