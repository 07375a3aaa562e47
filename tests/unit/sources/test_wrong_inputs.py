"""Inputs with something wrong, made from a seed: each is read, told or refused, and nothing is lost in silence."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering.config.sections import CsvSection, ReadSection
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir
from clustering.runs.parts import parts, read_columns

CASES = 500
QUICK = 40
RECORDS = 120
SLOW_S = 60  # far beyond what any takes; the bound is there for those that never end
TITLE = re.compile(rb"no\d{1,3}x")  # the end of each title; those that still stand in a file must be in some text
Read = Callable[..., tuple[RunDir, dict[str, Any]]]
WORDS = (
    "flood vote harbour mayor strike cup final bus council rain "
    "Größe café naïve 北京 東京 Мэр Ελλάδα 😀 O'Brien R&D 50% #1"
).split()


def titles(rng: random.Random) -> list[str]:
    return [f"{' '.join(rng.choices(WORDS, k=rng.randint(2, 9)))} no{n}x" for n in range(RECORDS)]


def as_csv(rng: random.Random, texts: list[str]) -> bytes:
    sink = io.StringIO()
    delimiter = rng.choice(",,,;\t|")
    style = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    writer = csv.writer(sink, delimiter=delimiter, quoting=style, lineterminator=rng.choice(["\n", "\r\n", "\r"]))
    writer.writerow(["id", "title", "score"])
    for number, text in enumerate(texts):
        writer.writerow([number, text, number / 2])
    return sink.getvalue().encode()


def as_json(rng: random.Random, texts: list[str]) -> bytes:
    objects = [{"id": number, "title": text, "score": number / 2} for number, text in enumerate(texts)]
    ascii_only = rng.random() < 0.5
    one = rng.choice(["lines", "lines", "array", "pretty", "array of lines"])
    if one == "lines":
        return "".join(json.dumps(each, ensure_ascii=ascii_only) + "\n" for each in objects).encode()
    if one == "array of lines":
        return ("[" + ",\n".join(json.dumps(each, ensure_ascii=ascii_only) for each in objects) + "]").encode()
    return json.dumps(objects, ensure_ascii=ascii_only, indent=2 if one == "pretty" else None).encode()


def as_parquet(rng: random.Random, texts: list[str]) -> bytes:
    sink = io.BytesIO()
    kind = rng.choice([pa.string(), pa.large_string(), pa.binary(), pa.string_view()])
    column = pa.array(texts).cast(kind) if rng.random() < 0.8 else pa.array(texts).dictionary_encode()
    table = pa.table({"id": range(len(texts)), "title": column, "score": [n / 2 for n in range(len(texts))]})
    pq.write_table(
        table, sink, row_group_size=rng.choice([7, 50, 1000]), compression=rng.choice(["none", "zstd", "snappy"])
    )
    return sink.getvalue()


FORMATS = {"csv": as_csv, "jsonl": as_json, "json": as_json, "parquet": as_parquet, "tsv": as_csv}


# --- what goes wrong: each takes the bytes of a file, and returns others ---


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randint(0, len(content))]


def flipped(rng: random.Random, content: bytes) -> bytes:
    held = bytearray(content)
    for _ in range(rng.randint(1, 20)):
        held[rng.randrange(len(held))] = rng.randrange(256)
    return bytes(held)


def dropped(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randint(1, 200) :]


def doubled(rng: random.Random, content: bytes) -> bytes:
    return content + content


def sown(*words: bytes) -> Callable[[random.Random, bytes], bytes]:
    """Words that stand anywhere."""

    def sow(rng: random.Random, content: bytes) -> bytes:
        for _ in range(rng.choice([1, 1, 2, 5, 40])):
            at = rng.randrange(len(content) + 1)
            content = content[:at] + rng.choice(words) + content[at:]
        return content

    return sow


def at_lines(*words: bytes) -> Callable[[random.Random, bytes], bytes]:
    """Lines that stand between others."""

    def put(rng: random.Random, content: bytes) -> bytes:
        lines = content.split(b"\n")
        for _ in range(rng.choice([1, 1, 3, 30])):
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(words))
        return b"\n".join(lines)

    return put


def recoded(rng: random.Random, content: bytes) -> bytes:
    encoding = rng.choice(
        ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp1252", "cp1251", "gbk", "shift_jis", "latin-1"]
    )
    return content.decode("utf-8", "replace").encode(encoding, "replace")


def packed(rng: random.Random, content: bytes) -> bytes:
    pack = rng.choice(
        [gzip.compress, bz2.compress, lzma.compress, lambda raw: pa.Codec("zstd").compress(raw, asbytes=True)]
    )
    return pack(content)


def packed_badly(rng: random.Random, content: bytes) -> bytes:
    return cut(rng, packed(rng, content)) + rng.choice([b"", b"garbage", b"\0" * 50])


def noise(rng: random.Random, content: bytes) -> bytes:
    return rng.choice([*NOISE, rng.randbytes(3000)])


NOISE = [
    b"", b"\n", b"\0" * 5000, b"PAR1", b"PAR1" * 50, b"\x1f\x8b", b"[", b"{", b'"', b"[" * 5000, b'{"a":' * 5000,
    b"\xef\xbb\xbf", b"PK\x03\x04garbage", b"null\n", b"1\n2\n",
]  # fmt: skip
WRONGS = [
    cut, flipped, dropped, doubled, recoded, packed, packed_badly, noise,
    sown(b'"', b'""', b'\\"', b'"h"', b"'"), sown(b"\n", b"\r", b"\r\n", b"\n\n"), sown(b",", b";", b"\t", b"|"),
    sown(b"\0", b"\xff", b"\xe9", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"), sown(b"{", b"}", b"[", b"]", b":"),
    at_lines(b"", b"# comment", b"sep=;", b"total: 120", b'"', b'1,"open', b"1,2,3,4,5", b"only"),
    at_lines(b"{}", b"[]", b"null", b'{"title": NaN}', b'{"title": ["x"]}', b'{"title": "cut',
             b'{"delete": 1}', b'{"title": "\\ud800"}', b'{"title": "a", "title": "b"}',
             b'{"id": 99999999999999999999}'),
]  # fmt: skip
CHOICES: list[dict[str, Any]] = [
    *([{}] * 20), {"id_column": "id"}, {"id_column": "id", "keep": ("score",)}, {"keep": ("all",)},
    {"time_column": "score", "source_column": "id"}, {"errors": "replace"}, {"bad_lines": "skip"},
    {"bad_lines": "skip", "errors": "replace"}, {"csv": CsvSection(header="none"), "text_columns": ("2",)},
    {"csv": CsvSection(delimiter=";", quote="none")}, {"csv": CsvSection(encoding="cp1252")}, {"limit": 50},
    {"text_columns": ("title", "score")}, {"text_columns": ("title.inner",)}, {"text_columns": ("missing",)},
    {"format": "csv"}, {"format": "jsonl"}, {"format": "parquet"},
]  # fmt: skip


@contextmanager
def ending_in_time() -> Iterator[None]:
    def rings(*_: object) -> None:
        raise TimeoutError(f"it has not ended after {SLOW_S} s")

    before = signal.signal(signal.SIGALRM, rings)
    signal.alarm(SLOW_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wrong_input(seed: int, folder: Path) -> ReadSection:
    """A file or a folder that something is wrong with, and how it is to be read."""
    rng = random.Random(seed)
    for number in range(rng.choice([1, 1, 1, 3])):
        suffix = rng.choice(list(FORMATS))
        content = FORMATS[suffix](rng, titles(rng))
        for _ in range(rng.choice([1, 1, 1, 1, 2])):
            content = rng.choice(WRONGS)(rng, content or b"x")
        suffix = rng.choice([*([suffix] * 15), suffix.upper(), f"{suffix}.gz", "csv", "json", "txt", ""])
        (folder / f"{number} part{'.' if suffix else ''}{suffix}").write_bytes(content)
    paths = (str(folder),) if rng.random() < 0.5 else tuple(str(path) for path in sorted(folder.iterdir()))
    return ReadSection(**{"paths": paths, "text_columns": ("title",), **rng.choice(CHOICES)})


def check(seed: int, folder: Path, read_here: Read) -> str:
    """Read the input of a seed; return what came of it. Whatever else than words fails the test."""
    cfg = wrong_input(seed, folder)
    problems: list[str] = []
    with ending_in_time():
        try:
            run, figures = read_here(cfg)
        except ConfigError as error:
            problems = error.problems
            if not problems:
                raise
    if problems:
        assert all(problem and len(problem) < 3000 and "Traceback" not in problem for problem in problems)
        return "refused"
    lost = figures["dropped"] + figures["keyless"]
    if lost:
        assert any(word in line for line in figures["warnings"] for word in ("malformed", "no column")), figures
    if cfg.bad_lines == "refuse" and cfg.limit is None:
        assert figures["dropped"] * 100 <= figures["records"] + figures["dropped"]
    assert figures["texts"] <= figures["records"] - figures["empty"]
    if figures["warnings"]:
        return "told"
    if cfg.text_columns == ("title",) and cfg.limit is None:
        lost = lost_titles(folder, run)
        assert len(lost) * 100 <= figures["records"], lost
    return "read"


def lost_titles(folder: Path, run: RunDir) -> list[str]:
    """The titles that still stand in the files as they were written, and in no text that was read."""
    content = b"\n".join(path.read_bytes() for path in folder.iterdir())
    held = read_columns(run / "texts", ["text"])["text"].to_pylist() if parts(run / "texts") else []
    everything = "\n".join(held)
    written = {found.decode() for found in TITLE.findall(content)}
    return [title for title in written if title not in everything]


@pytest.mark.parametrize("seed", range(QUICK))
def test_a_wrong_input_is_read_told_or_refused(seed: int, tmp_path: Path, read_here: Read) -> None:
    (tmp_path / "in").mkdir()
    check(seed, tmp_path / "in", read_here)


@pytest.mark.nightly
def test_five_hundred_wrong_inputs_are_read_told_or_refused(tmp_path: Path, read_here: Read) -> None:
    found = []
    for seed in range(QUICK, CASES):
        folder = tmp_path / f"in-{seed}"
        folder.mkdir()
        try:
            found.append(check(seed, folder, read_here))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    for outcome in ("refused", "told", "read"):
        assert found.count(outcome) > 20, found  # else the generator makes inputs of one kind alone
