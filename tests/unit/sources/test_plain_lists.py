"""Lists of texts without columns: a text a line in a .txt file, strings in JSON."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clustering.cli.roles import Roles, find_roles
from clustering.config.sections import ReadSection
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir
from clustering.sources import batches, layout, opening, pieces
from clustering.sources.detection import find_files
from clustering.sources.formats import jsonlines
from clustering.sources.formats.issues import Issues
from tests.unit.conftest import Write
from tests.unit.sources.test_inputs import texts_of, warned

Read = Callable[..., tuple[RunDir, dict[str, Any]]]
TITLES = [
    'Flood, fire and "rain',
    "NULL",
    "Vote;\tagain",
    "# a comment",
    "Zürich 漢字",
    "'quoted'",
    "sep=,",
    "Flood again",
]


def section(path: str, **keys: Any) -> ReadSection:
    return ReadSection(paths=(path,), text_columns=("text",), **keys)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("closed", [True, False])
def test_each_line_of_a_text_file_is_a_text(
    end: str, encoding: str, closed: bool, write: Write, read_here: Read
) -> None:
    path = write("titles.txt", (end.join(TITLES) + end * closed).encode(encoding))
    run, figures = read_here(section(path))
    assert texts_of(run) == [title.replace("\t", " ") for title in TITLES]
    assert (figures["records"], figures["dropped"]) == (len(TITLES), 0)
    assert find_roles(ReadSection(paths=(path,))).text == "text"


def test_packed_text_files_and_pieces_are_read_as_one(
    write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"Flood {n} of {n % 7}" + ' "' * (n % 3) for n in range(300)]
    whole = texts_of(read_here(section(write("a.txt", "\n".join(lines))))[0])
    assert whole == [" ".join(line.split()) for line in lines]
    assert texts_of(read_here(section(write("a.txt.gz", "\n".join(lines))))[0]) == whole
    monkeypatch.setattr(pieces, "PIECE_BYTES", 500)
    assert texts_of(read_here(section(write("b.txt", "\n".join(lines))))[0]) == whole


def test_empty_lines_are_counted_with_the_records_that_hold_no_text(write: Write, read_here: Read) -> None:
    run, figures = read_here(section(write("a.txt", "Flood in Garford\n\n   \nVote in Garford\n")))
    assert texts_of(run) == ["Flood in Garford", "Vote in Garford"]
    assert (figures["records"], figures["empty"]) == (3, 1)  # a line without any sign is no record


@pytest.mark.parametrize(("between", "form"), [("\t", "tsv"), (",", "csv"), (";", "csv")])
def test_a_table_in_a_text_file_is_told_and_can_be_read_as_either(
    between: str, form: str, write: Write, read_here: Read
) -> None:
    lines = [between.join(["id", "text"]), *(f"{n}{between}Flood number {n}" for n in range(9))]
    path = write("a.txt", "\n".join(lines))
    with pytest.raises(ConfigError, match=f"10 lines has 2 fields .*read.format={form}"):
        find_files(section(path))
    assert texts_of(read_here(section(path, format=form))[0])[8] == "Flood number 8"
    assert len(texts_of(read_here(section(path, format="txt"))[0])) == 10


def test_in_a_folder_a_text_file_is_read_only_where_it_is_asked_for(write: Write, tmp_path: Path) -> None:
    write("README.txt", "These are the headlines\nof a year\n")
    write("a.csv", "text\nFlood in Garford\n")
    inputs = find_files(section(str(tmp_path)))
    assert [file.name for file in inputs] == ["a.csv"]
    assert "README.txt" in inputs.warnings[0]
    assert [file.name for file in find_files(section(f"{tmp_path}/*.txt"))] == ["README.txt"]


@pytest.mark.parametrize("content", [
    json.dumps(TITLES), json.dumps(TITLES, indent=2, ensure_ascii=False), "\n".join(map(json.dumps, TITLES)) + "\n",
])  # fmt: skip
@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz"])
def test_strings_in_json_are_texts(name: str, content: str, write: Write, read_here: Read) -> None:
    path = write(name, content)
    run, figures = read_here(section(path))
    assert texts_of(run) == [title.replace("\t", " ") for title in TITLES]
    assert (figures["records"], figures["warnings"]) == (len(TITLES), [])
    assert find_roles(ReadSection(paths=(path,))).text == "text"


def test_what_is_no_string_among_strings_is_counted(write: Write, read_here: Read) -> None:
    content = '["Flood",\n 7,\n {"text": "Vote"},\n "bro\nken",\n "Rain"]'
    run, figures = read_here(section(write("a.json", content), bad_lines="skip"))
    assert texts_of(run) == ["Flood", "Rain"]
    assert "3 " in warned(figures)
    assert "line 2" in warned(figures)


HEADLINES = [f"Flood number {n}" for n in range(200)]
RECORDS = [{"text": text} for text in HEADLINES]


@pytest.mark.parametrize("bad", [
    r'"a \x b"', '"bro\nken"', "bare", "7", '{"text": "Vote"}', 'no opening"', r'"\ud8"', '"no closing\n',
])  # fmt: skip
@pytest.mark.parametrize("between", [", ", ",\n  "])
@pytest.mark.parametrize("block", [7, 100, 1 << 20])
def test_strings_behind_a_malformed_one_are_read_wherever_lines_end(bad: str, between: str, block: int) -> None:
    told = [*map(json.dumps, HEADLINES)]
    found, issues = values_in("[" + between.join([*told, bad, *told]) + "]", "strings", block)
    assert [value["text"] for value in found] == HEADLINES * 2
    assert issues.counts["malformed"] == 1


@pytest.mark.parametrize("bad", [
    r'{"text": "a \x b"}', '{"text": "bro\nken"}', "bare", "7", '"Vote"', "null", "{'text': 'Vote'}", '{"text": "Vote"',
    '{"text": "no closing}', '{"text": no opening"}', '{"text": "Vote", "tags": [{"a": 1}, {"a": 2}], "b": bad}',
    '{"text":' + "[" * 9999 + "]" * 9999 + "}",
])  # fmt: skip
@pytest.mark.parametrize("between", [", ", ",\n  ", "\n", " ", ""])
@pytest.mark.parametrize("block", [7, 100, 1 << 20])
def test_objects_behind_a_malformed_one_are_read_wherever_lines_end(bad: str, between: str, block: int) -> None:
    told = [*map(json.dumps, RECORDS)]
    found, issues = values_in(between.join([*told, bad, *told]), "stream", block)
    assert found == RECORDS * 2
    assert issues.counts["malformed"] == 1


def values_in(content: str, style: str, block: int) -> tuple[list[Any], Issues]:
    issues = Issues()
    blocks = [(content[at : at + block].encode(), at + block >= len(content)) for at in range(0, len(content), block)]
    return list(jsonlines.records_of(blocks, style, 1 << 20, issues)), issues


@pytest.mark.parametrize(("style", "before", "many", "behind"), [
    ("stream", "[", "null,", ""),
    ("stream", "[", '{"text": "a", },', ""),
    ("stream", "[", '{"text": "\t"},', ""),
    ("stream", '{"text": }', "\n \n\n", "x\n"),
    ("strings", '["Flood\nhere"', "\n \n\n", "x,\n"),
    ("strings", "[x", "\n,,\n", "x,\n"),
    ("stream", '[{"text": [', '"",', '"" ""]},'),
])  # fmt: skip
def test_the_time_of_a_block_grows_with_its_length(style: str, before: str, many: str, behind: str) -> None:
    size = {"[": 1 << 19, '[{"text": [': 1 << 21}.get(before, 1 << 16)
    last = {"text": "Vote"}
    content = before + many * (size // len(many)) + behind + json.dumps(last if style == "stream" else last["text"])
    began = time.process_time()
    found, issues = values_in(content, style, 1 << 22)
    assert time.process_time() - began < 5  # minutes where every value, or every space, walks through the block
    assert found[-1] == last
    assert issues.counts["malformed"] or "\t" in many


def test_malformed_values_far_behind_each_other_are_told_with_their_lines() -> None:
    issues = Issues()
    for name in "abc":
        issues.start_file(name)
        content = "[" + '{"text": "Flood"},\n' * 5000 * (ord(name) - 96) + '{"text": },\n{"text": "Vote"}]'
        list(jsonlines.records_of([(content.encode(), True)], "stream", 1 << 20, issues))
    told = [example.split(" is no ")[0] for example in issues.examples["malformed"]]
    assert told == ["a, line 5,001", "b, line 10,001", "c, line 15,001"]


@pytest.mark.parametrize("content", [
    '["Flood\there", "Vote"]', '"Flood\there"\n"Vote"\n', '{"text": "Flood\there"}\n{"text": "Vote"}\n',
    '[{"text": "Flood\there", "a":\n 1}, {"text": "Vote"}]', '[\n"Flood\there",\n"Vote"\n]',
])  # fmt: skip
def test_a_tab_within_a_string_is_taken_in_every_form(content: str, write: Write, read_here: Read) -> None:
    run, figures = read_here(section(write("a.json", content)))
    assert texts_of(run) == ["Flood here", "Vote"]
    assert figures["warnings"] == []


@pytest.mark.parametrize("content", ['["Flood", null, "Vote"]', '[null, "Flood", "Vote"]', 'null\n"Flood"\n"Vote"\n'])
def test_null_among_strings_is_a_record_without_text(content: str, write: Write, read_here: Read) -> None:
    run, figures = read_here(section(write("a.json", content)))
    assert texts_of(run) == ["Flood", "Vote"]
    assert (figures["records"], figures["empty"], figures["warnings"]) == (3, 1, [])


@pytest.mark.parametrize("form", ["strings", "list", "row"])
def test_values_on_one_line_are_read_block_by_block(
    form: str, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "RECORD_BYTES", 1000)
    monkeypatch.setattr(layout, "HEAD_BYTES", 300)
    monkeypatch.setattr(batches, "RECORD_BYTES", 1000)
    monkeypatch.setattr(opening, "BLOCK_BYTES", 4096)
    content = json.dumps(HEADLINES if form == "strings" else RECORDS)
    path = write("a.json", content if form != "row" else content[1:-1].replace("}, ", "} "))
    assert texts_of(read_here(section(path))[0]) == HEADLINES
    assert find_roles(ReadSection(paths=(path,))).text == "text"


def test_a_record_of_a_list_that_is_too_long_is_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RECORD_BYTES": 1000, "HEAD_BYTES": 300}.items():
        monkeypatch.setattr(layout, name, value)
    with pytest.raises(ConfigError, match="a record is longer than 1,000 characters"):
        find_files(section(write("a.json", json.dumps([{"text": "Flood " * 1000}]))))
    with pytest.raises(ConfigError, match="a line is longer than 1,000 characters"):
        find_files(section(write("b.json", json.dumps({"all": RECORDS}))))


@pytest.mark.parametrize(("name", "content"), [
    ("a.txt", "Flood\nVote\n"), ("a.csv", "text\nFlood\nVote\n"), ("a.json", '["Flood", "Vote"]'),
    ("a.jsonl", '{"text": "Flood"}\n{"text": "Vote"}\n'),
])  # fmt: skip
@pytest.mark.parametrize("blank", ["\n", "\r\n", " \n"])
def test_a_file_that_begins_with_empty_lines_is_read(
    name: str, content: str, blank: str, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "HEAD_BYTES", 3000)
    run, _ = read_here(section(write(name, blank * 20_000 + content)))
    assert texts_of(run) == ["Flood", "Vote"]


def test_a_file_that_is_blank_for_too_long_is_told(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RECORD_BYTES": 1000, "HEAD_BYTES": 300}.items():
        monkeypatch.setattr(layout, name, value)
    with pytest.raises(ConfigError, match=r"its first .* bytes hold nothing but white space"):
        find_files(section(write("a.txt", "\n" * 9000 + "Flood\n")))


@pytest.mark.parametrize("zeros", [4, 4095, 10_001, 1 << 19])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-be"])
@pytest.mark.parametrize(("name", "content"), [("a.txt", "Flood\nVote\n"), ("a.csv", "text\nFlood\nVote\n")])
def test_zeros_before_the_first_line_are_left_out(
    zeros: int, encoding: str, name: str, content: str, write: Write, read_here: Read
) -> None:
    zeros -= zeros % 4 if encoding != "utf-8" else 0
    run, figures = read_here(section(write(name, b"\0" * zeros + content.encode(encoding))))
    assert texts_of(run) == ["Flood", "Vote"]
    assert figures["warnings"] == []


@pytest.mark.parametrize("content", [
    '{"text": "Flood"}\n{"text": "Vote"}\n', '[{"text": "Flood"}, {"text": "Vote"}]', '[\n"Flood",\n"Vote"\n]',
    '{\n "text": "Flood"\n}\n{\n "text": "Vote"\n}\n',
])  # fmt: skip
def test_json_in_a_text_file_is_told_and_can_be_read_as_either(content: str, write: Write, read_here: Read) -> None:
    path = write("a.txt", content)
    with pytest.raises(ConfigError, match=r"holds JSON\. read\.format=jsonl reads it"):
        find_files(section(path))
    assert texts_of(read_here(section(path, format="jsonl"))[0]) == ["Flood", "Vote"]
    assert read_here(section(path, format="txt"))[1]["records"] == len(content.splitlines())


@pytest.mark.parametrize("first", ["[1] Flood", '["Flood"] they say', "{{Flood}}", "{Flood}", '"Flood"'])
def test_a_text_in_brackets_or_quotes_is_no_json(first: str, write: Write, read_here: Read) -> None:
    assert texts_of(read_here(section(write("a.txt", f"{first}\nVote\n")))[0]) == [first, "Vote"]


def test_a_text_file_in_a_zip_is_read_only_where_it_is_asked_for(write: Write, tmp_path: Path) -> None:
    write("a.csv", "text\nFlood in Garford\n")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("README.txt", "These are the headlines\nof a year\n")
    with pytest.raises(ConfigError, match=r"zip of 'README\.txt', which in a folder may be a README"):
        find_files(section(str(tmp_path)))
    assert [file.format for file in find_files(section(f"{tmp_path}/b.zip"))] == ["txt"]
    assert [file.format for file in find_files(section(f"{tmp_path}/*.zip", format="txt"))] == ["txt"]


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_signs_that_programs_put_between_texts_lose_none(end: str, write: Write, read_here: Read) -> None:
    lines = ["Flood\x1fhere", "\ufeffVote", "Rain \ufeff"]
    run, figures = read_here(section(write("a.txt", ("\ufeff" + end.join(lines)).encode())))
    assert texts_of(run)[:2] == ["Flood here", "Vote"]
    assert (figures["records"], figures["warnings"]) == (3, [])


def test_the_text_of_a_file_without_columns_goes_by_number_without_a_warning(write: Write) -> None:
    cfg = ReadSection(paths=(write("a.txt", "Flood\nVote\n"),), text_columns=("1",))
    assert find_files(cfg).warnings == []


@pytest.mark.parametrize(("name", "content"), [("a.txt", "flood\nvote\nrain\n"), ("a.json", '["flood", "vote"]')])
def test_single_words_are_texts_where_there_are_no_columns(name: str, content: str, write: Write) -> None:
    assert find_roles(ReadSection(paths=(write(name, content),))) == Roles("text")


def test_what_a_folder_lacks_is_told_with_txt(write: Write, tmp_path: Path) -> None:
    write("README.txt", "These are the headlines\n")
    with pytest.raises(ConfigError, match=r"parquet file, nor a txt that is asked for: .*README\.txt"):
        find_files(section(str(tmp_path)))
