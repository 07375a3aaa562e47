"""Inputs as people have them: dialects, encodings, JSON of every layout, packed and unnamed files, odd records."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering.config.loading import load_config
from clustering.config.sections import CleanSection, CsvSection, ReadSection
from clustering.errors import ConfigError, InputError
from clustering.fingerprints import stage_fingerprints
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns, read_row_texts
from clustering.sources.detection import find_files
from clustering.stages.read import _read_tasks
from tests.unit.conftest import Write

Read = Callable[..., tuple[RunDir, dict[str, Any]]]
HEADLINES = [f"Flood number {n} closes the harbour of Garford" for n in range(200)]


def section(*paths: str | Path, columns: tuple[str, ...] = ("title",), **keys: Any) -> ReadSection:
    return ReadSection(paths=tuple(map(str, paths)), text_columns=columns, **keys)


def texts_of(run: RunDir) -> list[str]:
    """The text of each record, in their order."""
    texts = read_columns(run / "texts", ["text"])["text"].to_pylist()
    return [texts[row] for row in read_columns(run / "members", ["row"])["row"].to_pylist()]


def refused(*paths: str | Path, **keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        find_files(section(*paths, **keys))
    return "\n".join(caught.value.problems)


def warned(figures: dict[str, Any]) -> str:
    return "\n".join(figures["warnings"])


def rows(titles: list[str] = HEADLINES, header: str = "id,title", form: str = "{n},{title}") -> str:
    lines = [form.format(n=n, title=title) for n, title in enumerate(titles)]
    return "\n".join([*([header] if header else []), *lines]) + "\n"


# --- csv ---


def test_a_quote_that_is_opened_by_mistake_swallows_nothing(write: Write, read_here: Read) -> None:
    lines = rows().split("\n")
    lines[31], lines[61] = '30,"h', '60,h "quoted"'
    run, figures = read_here(section(write("a.csv", "\n".join(lines))))
    texts = texts_of(run)
    assert (figures["records"], figures["dropped"]) == (200, 0)
    assert (texts[30], texts[60], texts[31]) == ('"h', 'h "quoted"', HEADLINES[31])
    assert "1 quotes open a field that they do not close" in warned(figures)
    assert "line 32: '30,\"h'" in warned(figures)


@pytest.mark.parametrize("second", ['60,h"', '60,"h"', '60,"', "60,no quote"])
def test_a_stray_quote_swallows_nothing_wherever_the_next_one_stands(
    second: str, write: Write, read_here: Read
) -> None:
    lines = rows().split("\n")
    lines[31], lines[61] = '30,"h', second
    run, figures = read_here(section(write("a.csv", "\n".join(lines))))
    assert (figures["records"], figures["dropped"]) == (200, 0)
    assert texts_of(run)[30] == '"h'
    assert texts_of(run)[31:60] == HEADLINES[31:60]
    assert "line 32" in warned(figures)


def test_fields_of_many_lines_stay_whole(write: Write, read_here: Read) -> None:
    titles = [f'"first {n}\n\nsecond, with ""quotes""\r\n third"' for n in range(50)]
    run, figures = read_here(section(write("a.csv", rows(titles))))
    assert texts_of(run) == [f'first {n} second, with "quotes" third' for n in range(50)]
    assert figures["warnings"] == []


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("id,title", '{n},"{title}\n1, one\n2, two\n3, three\n4, four"'),
        ("id,title", '{n},"{title}\n1,a\n2,b\n3,c\n4,d"'),
        ("id,title", '7{n},"{title}\n2020, one\n2021, two\n2022, three\n2023, four"'),
        ("title,id", '"{title}\nroses, red\nviolets, blue\nsugar, sweet\nand, so",{n}'),
        ("title,id", '"{title}\nroses,red\nviolets,blue\nsugar,sweet\nand,so",{n}'),
        ("url,title", 'a.org/{n},"{title}\nroses, red\nviolets, blue\nsugar, sweet\nand so, we"'),
    ],
)
def test_lines_of_a_text_that_hold_as_many_delimiters_as_a_record_stay_in_it(
    header: str, form: str, write: Write, read_here: Read
) -> None:
    run, figures = read_here(section(write("a.csv", rows(header=header, form=form))))
    assert (figures["records"], figures["dropped"]) == (200, 0)
    assert texts_of(run) == [
        " ".join(next(csv.DictReader(io.StringIO(f"{header}\n{form.format(n=n, title=title)}")))["title"].split())
        for n, title in enumerate(HEADLINES)
    ]
    assert figures["warnings"] == []


def test_a_field_with_very_many_lines_is_told(write: Write, read_here: Read) -> None:
    titles = [*HEADLINES, '"' + "a\n" * 60 + '"']
    _, figures = read_here(section(write("a.csv", rows(titles))))
    assert "1 fields have 50 lines and more" in warned(figures)
    assert "line 202" in warned(figures)


@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
def test_records_are_the_same_however_the_file_is_cut_into_blocks(
    block: int, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clustering.sources import opening

    monkeypatch.setattr(opening, "BLOCK_BYTES", block)
    titles = [f'"two\nlines {n}"' if n % 3 else f'h "{n}" é' for n in range(300)]
    titles[10] = '"stray'
    run, figures = read_here(section(write("a.csv", rows(titles))))
    expected = [f"two lines {n}" if n % 3 else f'h "{n}" é' for n in range(300)]
    expected[10] = '"stray'
    assert texts_of(run) == expected
    assert figures["dropped"] == 0


@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
def test_fields_of_many_lines_are_the_same_however_the_file_is_cut_into_blocks(
    block: int, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clustering.sources import opening

    monkeypatch.setattr(opening, "BLOCK_BYTES", block)
    run, figures = read_here(section(write("a.csv", rows(form='{n},"{title}\n1,a\n2,b\n3,c\n4,d"'))))
    assert texts_of(run) == [f"{title} 1,a 2,b 3,c 4,d" for title in HEADLINES]
    assert figures["warnings"] == []


def test_an_empty_field_too_many_is_harmless(write: Write, read_here: Read) -> None:
    run, figures = read_here(section(write("a.csv", rows(form='{n},"{title}",'))))
    assert texts_of(run) == HEADLINES
    assert figures["dropped"] == 0


def test_an_empty_name_at_the_end_of_the_header_is_harmless(write: Write, read_here: Read) -> None:
    run, figures = read_here(section(write("a.csv", rows(header="id,title,"))))
    assert texts_of(run) == HEADLINES
    assert figures["dropped"] == 0


def test_half_a_character_at_the_end_is_named(write: Write, read_here: Read) -> None:
    path = write("a.csv", rows().encode("utf-16")[:-1])
    with pytest.raises(
        InputError, match=r"a\.csv: line 201, byte [\d,]+: can't decode byte 0x0a as utf-16-le; set read"
    ):
        read_here(section(path))


def test_an_empty_field_too_many_in_some_records_is_harmless(write: Write, read_here: Read) -> None:
    lines = rows().split("\n")
    lines[7], lines[120] = lines[7] + ",", lines[120] + ",,"
    run, figures = read_here(section(write("a.csv", "\n".join(lines))))
    assert texts_of(run) == HEADLINES
    assert figures["dropped"] == 0


def test_an_index_without_a_name_is_understood(write: Write, read_here: Read) -> None:
    run, figures = read_here(section(write("a.csv", rows(header="title", form='"{n}","{title}"'))))
    assert texts_of(run) == HEADLINES
    assert figures["dropped"] == 0
    run, _ = read_here(section(write("b.csv", rows(header=",title")), id_column="1"))
    assert read_columns(run / "members", ["text_id"])["text_id"].to_pylist() == list(range(200))


def test_records_that_do_not_fit_the_header_are_refused_with_one(write: Write, read_here: Read) -> None:
    problem = refused(write("a.csv", rows(form="{n},{title}, and more")))
    assert "200 of the first 200 records do not have the 2 fields of the header ('id', 'title'); one has 3" in problem
    assert "read.bad_lines=skip" in problem


def test_quotes_escaped_by_a_backslash_are_read(write: Write, read_here: Read) -> None:
    titles = ['"h \\"live\\", says mayor"' if n % 4 == 0 else HEADLINES[n] for n in range(200)]
    run, figures = read_here(section(write("a.csv", rows(titles))))
    assert texts_of(run)[0] == 'h "live", says mayor'
    assert len(texts_of(run)) == 200
    assert figures["dropped"] == 0


def test_more_than_one_malformed_record_in_a_hundred_is_refused_or_skipped(write: Write, read_here: Read) -> None:
    lines = rows().split("\n")
    for n in (11, 21, 31):
        lines[n] += ",surplus"
    path = write("a.csv", "\n".join(lines))
    with pytest.raises(InputError) as caught:
        read_here(section(path))
    assert f"3 of 200 records are malformed; the first: {path}, line 12: 3 fields where the header has 2: '10," in str(
        caught.value
    )
    run, figures = read_here(section(path, bad_lines="skip"))
    assert (len(texts_of(run)), figures["dropped"]) == (197, 3)
    assert "3 malformed records were dropped while reading; the first: " in warned(figures)


def test_one_malformed_record_in_a_hundred_is_dropped_and_quoted(write: Write, read_here: Read) -> None:
    lines = rows().split("\n")
    lines[150] += ",surplus"
    _, figures = read_here(section(write("a.csv", "\n".join(lines))))
    assert (figures["records"], figures["dropped"]) == (199, 1)
    assert "1 malformed records were dropped while reading" in warned(figures)
    assert "line 151" in warned(figures)


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("head", ["", "sep={d}\n", "# made by a tool, in May\n# and a second line\n"])
def test_delimiters_and_lines_above_the_header_are_told(
    delimiter: str, head: str, write: Write, read_here: Read
) -> None:
    content = head.format(d=delimiter) + rows().replace(",", delimiter)
    run, figures = read_here(section(write("a.csv", content), id_column="id"))
    assert texts_of(run) == HEADLINES
    assert figures["warnings"] == []


def test_a_dialect_can_be_set(write: Write, read_here: Read) -> None:
    content = "%ignored\n'a'^'it''s one'\n%ignored\n'b'^'two ^ three'\n"
    cfg = section(write("a.csv", content), columns=("what",), id_column="key",
                  csv=CsvSection(delimiter="^", quote="'", header=("key", "what"), comment="%"))  # fmt: skip
    run, figures = read_here(cfg)
    assert texts_of(run) == ["it's one", "two ^ three"]
    assert figures["dropped"] == 0


def test_a_file_without_header_is_read_by_number(write: Write, read_here: Read) -> None:
    path = write("20240501.export.CSV", rows(header="").replace(",", "\t"))
    cfg = section(path, columns=("2",), id_column="1", csv=CsvSection(header="none"))
    run, _figures = read_here(cfg)
    assert texts_of(run) == HEADLINES
    assert read_columns(run / "members", ["text_id"])["text_id"].to_pylist() == list(range(200))


@pytest.mark.parametrize("endings", ["\n", "\r\n", "\r", "\n \r\n", "\n \r", "\r \r\n \n"])
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_line_ends_of_any_system_are_read(
    endings: str, block: int, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clustering.sources import opening

    monkeypatch.setattr(opening, "BLOCK_BYTES", block)
    ends = endings.split(" ")
    content = "".join(line + ends[n % len(ends)] for n, line in enumerate(rows().splitlines()))
    run, figures = read_here(section(write("a.csv", content)))
    assert texts_of(run) == HEADLINES
    assert figures["dropped"] == 0


def test_tab_separated_values_may_be_quoted(write: Write, read_here: Read) -> None:
    for form, expected in (('"{n}"\t"{title}"', HEADLINES[0]), ('{n}\t"{title}', f'"{HEADLINES[0]}')):
        header = '"id"\t"title"' if '}"\t' in form else "id\ttitle"
        run, figures = read_here(section(write("a.tsv", rows(header=header, form=form))))
        assert texts_of(run)[0] == expected
        assert (figures["records"], figures["dropped"]) == (200, 0)


def test_a_column_name_that_stands_twice_is_refused_before_work(write: Write, tmp_path: Path, read_here: Read) -> None:
    path = write("a.csv", rows(header="title,title"))
    assert "column 'title' stands 2 times, as columns 1, 2; name one by its number" in refused(path)
    run, _ = read_here(section(path, columns=("2",)))
    assert texts_of(run) == HEADLINES
    column = pa.array(HEADLINES)
    pq.write_table(
        pa.Table.from_arrays([pa.array(range(200)), column], names=["title", "title"]), tmp_path / "a.parquet"
    )
    assert "column 'title' stands 2 times, as columns 1, 2" in refused(tmp_path / "a.parquet")
    run, _ = read_here(section(tmp_path / "a.parquet", columns=("2",)))
    assert texts_of(run) == HEADLINES


def test_a_header_alone_has_no_records(write: Write, read_here: Read) -> None:
    _, figures = read_here(section(write("a.csv", "id,title\n")))
    assert (figures["records"], figures["texts"]) == (0, 0)


def test_nul_bytes_and_spaces_in_a_header_do_no_harm(write: Write, read_here: Read) -> None:
    run, _figures = read_here(section(write("a.csv", rows(["a\0b", "c"], header="id, title "))))
    assert texts_of(run) == ["a\0b", "c"]


@pytest.mark.parametrize("mark", ["\\N", "NULL", "null", "NaN", "N/A", "NA", "#N/A"])
@pytest.mark.parametrize("more", ["", '9,"h \\"live\\" at"\n', '9,"two\n\nlines"\n', "9,surplus,\n"])
def test_an_unquoted_mark_of_none_is_no_text(mark: str, more: str, write: Write, read_here: Read) -> None:
    body = rows([mark, f'"{mark}"', f"a {mark} b", mark]) + more
    run, figures = read_here(section(write("a.csv", body), id_column="id", keep=("title",)))
    plain = mark.strip("\\") if "\\" in more else mark  # the quote and the N are escaped alike
    assert texts_of(run)[:2] == [plain, f"a {plain} b"]
    assert (figures["records"], figures["empty"]) == (4 + bool(more), 2)
    assert "2 unquoted cells mean that there is no text" in warned(figures)
    assert f"a.csv, line 2: {mark}." in warned(figures)
    run, figures = read_here(section(write("a.csv", body), csv=CsvSection(nulls=())))
    assert figures["empty"] == 0
    assert "unquoted cells" not in warned(figures)


def test_a_mark_of_none_stays_in_the_columns_that_are_carried(write: Write, read_here: Read) -> None:
    path = write("a.csv", "title,land\nVote,NA\nNULL,US\nCup,NA\n")  # Namibia, for one
    run, _ = read_here(section(path, keep=("land",)))
    assert read_columns(run / "members", ["land"])["land"].to_pylist() == ["NA", "NA"]


# --- encodings ---


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_an_encoding_that_the_first_bytes_tell_is_read(encoding: str, name: str, write: Write, read_here: Read) -> None:
    titles = [f"Überschrift {n} – 北京" for n in range(50)]
    content = (
        rows(titles)
        if name == "a.csv"
        else "".join(json.dumps({"title": t}, ensure_ascii=False) + "\n" for t in titles)
    )
    run, figures = read_here(section(write(name, content.encode(encoding))))
    assert texts_of(run) == titles
    assert figures["warnings"] == []


def test_one_byte_of_an_old_encoding_does_not_end_the_run(write: Write, read_here: Read) -> None:
    lines = rows().encode().split(b"\n")
    lines[200] = b"199,Caf\xe9 burns"
    run, figures = read_here(section(write("a.csv", b"\n".join(lines))))
    assert texts_of(run)[199] == "Café burns"
    assert "encoding was guessed" in warned(figures)
    assert "line 201, byte" in warned(figures)
    assert "taken for cp1252" in warned(figures)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Наводнение закрывает гавань сообщает мэр города номер"),
        ("gbk", "北京大学今天宣布新的研究结果 编号"),
        ("shift_jis", "東京で大雨のため電車が止まる ニュース"),
        ("cp1252", "Überschwemmung schließt den Hafen – „sagt“ Bürgermeister"),
        ("cp1253", "Η πλημμύρα κλείνει το λιμάνι λέει ο δήμαρχος"),
        ("euc_kr", "서울에서 오늘 큰 비가 내려 지하철이 멈췄다 뉴스"),
    ],
)
def test_old_encodings_are_guessed_and_told(encoding: str, text: str, write: Write, read_here: Read) -> None:
    titles = [f"{text} {n}" for n in range(40)]
    run, figures = read_here(section(write("a.csv", rows(titles).encode(encoding))))
    assert texts_of(run) == titles
    assert "encoding was guessed" in warned(figures)
    run, figures = read_here(section(write("a.csv", rows(titles).encode(encoding)), csv=CsvSection(encoding=encoding)))
    assert texts_of(run) == titles
    assert figures["warnings"] == []


def test_a_broken_byte_among_utf_8_is_named_or_replaced(write: Write, read_here: Read) -> None:
    titles = [f"Größe {n}" for n in range(100)]
    content = rows(titles).encode().replace("Größe 70".encode(), b"Gr\xf6\xdfe 70")
    path = write("a.csv", content)
    with pytest.raises(
        InputError, match=r"line 72, byte 974: can't decode byte 0xf6 as UTF-8; read\.csv\.encoding names"
    ):
        read_here(section(path))
    run, figures = read_here(section(path, errors="replace"))
    assert texts_of(run)[70] == "Gr\ufffd\ufffde 70"
    assert "2 bytes or characters are not of the encoding and were replaced" in warned(figures)


# --- JSON ---

LAYOUTS = {
    "array, an object a line": lambda objects: "[" + ",\n".join(map(json.dumps, objects)) + "]\n",
    "array in one line": json.dumps,
    "pretty array": lambda objects: json.dumps(objects, indent=2),
    "pretty objects": lambda objects: "\n".join(json.dumps(one, indent=1) for one in objects),
    "lines": lambda objects: "\n".join(map(json.dumps, objects)),
    "lines with carriage returns": lambda objects: "\r\n".join(map(json.dumps, objects)),
    "old line ends": lambda objects: "\r".join(map(json.dumps, objects)),
    "text sequence": lambda objects: "".join(f"\x1e{json.dumps(one)}\n" for one in objects),
    "one after another": lambda objects: "".join(map(json.dumps, objects)),
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson.gz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_of_any_layout_is_read(layout: str, name: str, write: Write, read_here: Read) -> None:
    objects = [{"title": title, "n": {"m": n}} for n, title in enumerate(HEADLINES)]
    run, figures = read_here(section(write(name, LAYOUTS[layout](objects))))
    assert texts_of(run) == HEADLINES
    assert (figures["dropped"], figures["warnings"]) == (0, [])


@pytest.mark.parametrize("block", [100, 5000])
def test_a_large_array_is_read_a_block_at_a_time(
    block: int, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clustering.sources import layout, opening

    monkeypatch.setattr(opening, "BLOCK_BYTES", block)
    monkeypatch.setattr(layout, "HEAD_BYTES", 500)
    objects: list[Any] = [{"title": f"{title} – 北京", "more": ["x"] * 20} for title in HEADLINES]
    content = json.dumps(objects, ensure_ascii=False, indent=2)
    content = content.replace('"title": "Flood number 77 ', '"title": Flood number 77" ')
    _run, figures = read_here(section(write("a.json", content)))
    assert (figures["records"], figures["dropped"]) == (199, 1)
    assert re.search(r'is no JSON object: Expecting value, character 16 of .\{ "title": Flood', warned(figures))


def test_records_without_the_key_are_counted_wherever_they_stand(write: Write, read_here: Read) -> None:
    lines = [json.dumps({"delete": {"id": n}}) for n in range(1200)] + [json.dumps({"text": h}) for h in HEADLINES]
    run, figures = read_here(section(write("a.jsonl", "\n".join(lines)), columns=("text",)))
    assert texts_of(run) == HEADLINES
    assert (figures["records"], figures["keyless"], figures["empty"]) == (1400, 1200, 1200)
    assert "1,200 records have no column of read.text_columns" in warned(figures)


def test_a_key_that_no_record_has_is_refused(write: Write) -> None:
    problem = refused(write("a.jsonl", '{"delete": {"id": 1}, "x": 2}\n' * 1500))
    assert "has no column 'title'; its columns are 'delete', 'x', 'delete.id'" in problem


@pytest.mark.parametrize("layout", ["\n", ",\n"])
def test_a_key_is_sought_in_so_many_bytes_and_no_more(
    layout: str, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clustering.sources import detection, opening
    from clustering.sources import layout as one_file

    for name, value in {"SCAN_BYTES": 60_000, "SCAN_LEAST": 1, "BLOCK_BYTES": 10_000, "HEAD_BYTES": 1000}.items():
        for module in (detection, one_file, opening):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    objects = [{"delete": {"id": n}} for n in range(9000)] + [{"title": h} for h in HEADLINES]
    content = layout.join(map(json.dumps, objects))
    content = f"[{content}]" if "," in layout else content
    path = write("a.json", content)
    problem = refused(path)
    assert "a.json has no column 'title' in its first 60,000 bytes; its columns are 'delete', 'delete.id'." in problem
    assert "If it comes later, read.bad_lines=skip reads on." in problem
    run, figures = read_here(section(path, bad_lines="skip"))
    assert texts_of(run) == HEADLINES
    assert "1 of 1 files have no column 'title': " in warned(figures)
    other = write("b.json", json.dumps(objects[-1]))
    run, figures = read_here(section(other, path))  # another file has it
    assert len(texts_of(run)) == 201
    assert "a.json in its first 30,000 bytes." in warned(figures)


def test_a_file_of_a_folder_that_lacks_the_key_is_named(write: Write, tmp_path: Path, read_here: Read) -> None:
    write("in/a.jsonl", "\n".join(json.dumps({"title": h}) for h in HEADLINES))
    write("in/b.jsonl", '{"headline": "x"}\n')
    write("in/c.csv", "headline\nx\n")
    pq.write_table(pa.table({"headline": ["x", "y"]}), tmp_path / "in/d.parquet")
    run, figures = read_here(section(tmp_path / "in"))
    assert texts_of(run) == HEADLINES
    assert (figures["records"], figures["empty"], figures["keyless"]) == (204, 4, 4)
    assert "3 of 4 files have no column 'title': " in warned(figures)
    assert "in/b.jsonl" in warned(figures)


@pytest.mark.parametrize("first", ["a.csv", "z.csv"])
def test_a_part_of_a_csv_file_without_the_header_is_refused(
    first: str, write: Write, tmp_path: Path, read_here: Read
) -> None:
    write(f"in/day=1/{first}", rows(HEADLINES[:100]))
    for name in "bcdefghi":
        write(f"in/day=1/{name}.csv", rows(HEADLINES[100:], header=""))
    problem = refused(tmp_path / "in")
    assert f"in/day=1/b.csv has as many columns as {tmp_path}/in/day=1/{first}, but no header with such" in problem
    assert "its first line is '0', 'Flood number 100 closes the ha'. Join the files to one" in problem
    assert "3 more files have no such header either" in problem
    run, figures = read_here(section(tmp_path / "in", bad_lines="skip"))
    assert texts_of(run) == HEADLINES[:100]
    assert "8 of 9 files have no column 'title'" in warned(figures)


def test_a_csv_file_with_a_header_of_its_own_is_no_part_of_another(
    write: Write, tmp_path: Path, read_here: Read
) -> None:
    write("in/a.csv", rows())
    write("in/b.csv", rows(header="id,headline"))
    write("in/c.csv", rows(header="", form="{n},{title},7"))
    assert texts_of(read_here(section(tmp_path / "in"))[0]) == HEADLINES


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("titles", [HEADLINES, [f'"{title}, says mayor"' for title in HEADLINES]])
def test_files_that_were_joined_to_one_repeat_no_header(
    ends: str, mark: str, titles: list[str], write: Write, read_here: Read
) -> None:
    content = mark + (rows(titles[:100]) + mark + rows(titles[100:]) + mark + rows([])).replace("\n", ends)
    run, figures = read_here(section(write("a.csv", content), id_column="id"))
    assert texts_of(run) == [title.strip('"') for title in titles]
    assert (figures["records"], figures["dropped"]) == (200, 0)
    assert "2 lines repeat the header of their file and were left out" in warned(figures)
    assert "a.csv, line 102." in warned(figures)


def test_a_header_that_may_be_a_record_is_told(write: Write, read_here: Read) -> None:
    run, figures = read_here(section(write("a.csv", rows(header="")), columns=("2",)))
    assert texts_of(run) == HEADLINES[1:]
    assert "The first line of 1 files is taken for a header" in warned(figures)
    assert "a.csv, '0', 'Flood number 0 closes the harb'." in warned(figures)
    _, figures = read_here(section(write("b.csv", rows(header="id,")), columns=("2",)))
    assert figures["warnings"] == []


def test_numbers_that_are_none_are_no_texts(write: Write, tmp_path: Path, read_here: Read) -> None:
    lines = [f'{{"title": {"NaN" if n % 9 == 0 else json.dumps(h)}}}' for n, h in enumerate(HEADLINES)]
    run, figures = read_here(section(write("a.jsonl", "\n".join(lines))))
    assert texts_of(run) == [h for n, h in enumerate(HEADLINES) if n % 9]
    assert figures["empty"] == 23
    _, figures = read_here(section(write("b.jsonl", '{"title": Infinity}\n{"title": 1e999}\n{"title": 5}\n')))
    assert (figures["texts"], figures["empty"]) == (1, 2)
    pq.write_table(pa.table({"title": [1.5, float("nan"), float("inf")]}), tmp_path / "a.parquet")
    _, figures = read_here(section(tmp_path / "a.parquet"))
    assert (figures["texts"], figures["empty"]) == (1, 2)


def test_nested_values_are_reached_by_a_path(write: Write, tmp_path: Path, read_here: Read) -> None:
    objects = [{"kind": "t3", "data": {"title": h, "by": {"name": f"u{n}"}}} for n, h in enumerate(HEADLINES)]
    path = write("a.jsonl", "\n".join(map(json.dumps, objects)))
    pq.write_table(pa.Table.from_pylist(objects), tmp_path / "a.parquet")
    for one in (path, tmp_path / "a.parquet"):
        run, _ = read_here(section(one, columns=("data.title",), id_column="data.by.name"))
        assert texts_of(run) == HEADLINES
        assert read_columns(run / "members", ["text_id"])["text_id"].to_pylist()[5] == "u5"
    assert "its columns are 'kind', 'data', 'data.title', 'data.by'" in refused(path)


# --- Parquet ---


@pytest.mark.parametrize("kind", ["binary", "large_binary", "large_string", "string_view", "dictionary", "fixed"])
def test_strings_of_any_type_are_read(kind: str, tmp_path: Path, read_here: Read) -> None:
    titles = [f"Größe {n:03}" for n in range(200)]
    column = pa.array(titles)
    types = {"binary": pa.binary(), "large_binary": pa.large_binary(), "large_string": pa.large_string(),
             "string_view": pa.string_view(), "fixed": pa.binary(11)}  # fmt: skip
    column = (
        column.dictionary_encode()
        if kind == "dictionary"
        else column.cast(pa.binary()).cast(types[kind])
        if kind == "fixed"
        else column.cast(types[kind])
    )
    pq.write_table(pa.table({"title": column}), tmp_path / "a.parquet")
    run, _ = read_here(section(tmp_path / "a.parquet"))
    assert texts_of(run) == titles


def test_ids_that_are_uuids_are_strings(tmp_path: Path, read_here: Read) -> None:
    ids = [uuid.uuid4() for _ in HEADLINES]
    column = pa.array([one.bytes for one in ids], pa.uuid())
    pq.write_table(pa.table({"title": HEADLINES, "id": column}), tmp_path / "a.parquet")
    run, _ = read_here(section(tmp_path / "a.parquet", id_column="id"))
    assert read_columns(run / "members", ["text_id"])["text_id"].to_pylist() == list(map(str, ids))


def test_bytes_that_are_no_text_are_named(tmp_path: Path, read_here: Read) -> None:
    pq.write_table(pa.table({"title": [b"fine", b"bad \xff"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"record 2: column 'title', byte 4 of the value is not UTF-8 \(0xff\)"):
        read_here(section(tmp_path / "a.parquet"))
    run, _figures = read_here(section(tmp_path / "a.parquet", errors="replace"))
    assert texts_of(run) == ["fine", "bad \ufffd"]


# --- files ---


def packed(kind: str, content: bytes) -> bytes:
    if kind == "zst":
        return pa.Codec("zstd").compress(content, asbytes=True)
    if kind == "lz4":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "lz4") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind](content)


@pytest.mark.parametrize("kind", ["gz", "bz2", "zst", "lz4", "xz"])
@pytest.mark.parametrize("named", [True, False])
def test_packed_files_are_read_by_their_first_bytes(kind: str, named: bool, write: Write, read_here: Read) -> None:
    half = len(rows()) // 2
    content = rows().encode()
    for name, body in (
        ("a.csv", packed(kind, content)),
        ("b.csv", packed(kind, content[:half]) + packed(kind, content[half:])),
    ):
        run, _ = read_here(section(write(f"{name}.{kind}" if named else name, body)))
        assert texts_of(run) == HEADLINES


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_zeros_after_a_packed_file_are_nothing_and_other_bytes_are_refused(
    kind: str, write: Write, read_here: Read
) -> None:
    content = rows().encode()
    half = len(content) // 2
    for zeros in (1, 510, 3 << 20):
        body = packed(kind, content[:half]) + bytes(4) + packed(kind, content[half:]) + bytes(zeros)
        run, _ = read_here(section(write(f"a.csv.{kind}", body)))
        assert texts_of(run) == HEADLINES
    name = {"gz": "gzip"}.get(kind, kind)
    for rest in (content, b"x", bytes(5) + b"junk that follows"):
        told = refused(write(f"b.csv.{kind}", packed(kind, content) + rest))
        assert f"something else follows its {name}" in told or "Truncated compressed stream" in told
    path = write(f"c.csv.{kind}", packed(kind, content)[:-9])
    assert "Truncated compressed stream" in refused(path)


def test_what_is_packed_without_end_is_read_in_blocks(write: Write, read_here: Read) -> None:
    path = write("a.csv.xz", lzma.compress(rows().encode(), lzma.FORMAT_ALONE))
    assert texts_of(read_here(section(path))[0]) == HEADLINES
    long = "title\n" + "".join(f"Flood {n} {'so ' * 100}\n" for n in range(40_000))
    for kind in ("gz", "bz2", "xz"):
        _, figures = read_here(section(write(f"b.csv.{kind}", packed(kind, long.encode()))))
        assert figures["records"] == 40_000


def test_a_zip_of_one_file_is_read_and_one_of_several_is_named(tmp_path: Path, read_here: Read) -> None:
    for name in ("a.zip", "a.csv"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("news.csv", rows())
            archive.writestr("__MACOSX/._news.csv", b"\0\1")
        run, _ = read_here(section(tmp_path / name))
        assert texts_of(run) == HEADLINES
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", rows())
        archive.writestr("b.csv", rows())
    assert "it is a zip of 2 files ('a.csv', 'b.csv'); unpack it" in refused(tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    assert "it is a document of an office program; save its table as csv" in refused(tmp_path / "a.xlsx")


def test_files_that_are_not_read_are_named(write: Write, tmp_path: Path, read_here: Read) -> None:
    lines = [json.dumps({"title": h}) for h in HEADLINES]
    write("in/a.jsonl", "\n".join(lines[:50]))
    write("in/b.jsonl.zst", packed("zst", "\n".join(lines[50:100]).encode()))
    write("in/c.json", "\n".join(lines[100:150]))
    pq.write_table(pa.table({"title": HEADLINES[150:]}), tmp_path / "in/part-00000")
    write("in/part-00001", "\n".join(lines))
    write("in/notes.txt", "not an input")
    write("in/_SUCCESS", "")
    write("in/_delta_log/00.json", '{"add": 1}')
    run, figures = read_here(section(tmp_path / "in"))
    assert texts_of(run) == HEADLINES
    assert "2 files are not read" in warned(figures)
    assert "in/part-00001" in warned(figures)
    assert "_SUCCESS" not in warned(figures)
    run, figures = read_here(section(tmp_path / "in/part-00001", format="jsonl"))
    assert texts_of(run) == HEADLINES


def test_folders_say_what_hive_wrote_into_their_names(write: Write, tmp_path: Path, read_here: Read) -> None:
    write("in/day=2024-05-01/a.csv", rows(HEADLINES[:2]))
    write("in/day=2024-05-02/a.csv", rows(HEADLINES[2:4]))
    run, _ = read_here(section(tmp_path / "in", keep=("day",), time_column="day"))
    members = read_columns(run / "members", ["day", "time"])
    assert members["day"].to_pylist() == ["2024-05-01"] * 2 + ["2024-05-02"] * 2
    assert members["time"][2].as_py().isoformat() == "2024-05-02T00:00:00+00:00"


def test_links_that_lead_in_a_circle_are_followed_once(write: Write, tmp_path: Path) -> None:
    write("in/a.csv", rows())
    os.symlink(tmp_path / "in", tmp_path / "in/again")
    os.symlink(tmp_path / "in/a.csv", tmp_path / "in/0-first.csv")
    assert [file.name for file in find_files(section(tmp_path / "in"))] == ["a.csv"]


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", Path("/dev/null")):
        assert f"cannot look for {path}: it is no regular file" in refused(path)


def test_a_name_that_is_not_utf_8_is_told(write: Write, tmp_path: Path, read_here: Read) -> None:
    write("in/a b#%.csv", rows())
    (tmp_path / "in").joinpath(os.fsdecode(b"b\xff.csv")).write_text(rows())
    run, figures = read_here(section(tmp_path / "in"))
    assert texts_of(run) == HEADLINES
    assert "1 file is not read" in warned(figures)


def test_a_thousand_files_are_read_in_two_pieces(write: Write, tmp_path: Path, read_here: Read) -> None:
    (tmp_path / "in").mkdir()
    for n in range(1000):
        (tmp_path / f"in/{n:05}.csv").write_text(f"title\nHeadline {n}\n")
    cfg = section(tmp_path / "in")
    assert [len(task.files) for task in _read_tasks(find_files(cfg), cfg)] == [500, 500]
    assert read_here(cfg)[1]["texts"] == 1000


def test_a_file_that_changes_while_it_is_read_is_told(
    write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clustering.sources import batches

    path, found = write("a.csv", rows()), batches._bounded_batches

    def changed(*given: Any) -> Any:
        yield from found(*given)
        Path(path).write_text("title\nother\n")

    monkeypatch.setattr(batches, "_bounded_batches", changed)
    with pytest.raises(InputError, match=r"a\.csv: it changed while the run was reading it"):
        read_here(section(path))


# --- markup ---


def marked(text: str) -> str:
    return f"&lt;p&gt;{text}&nbsp;&lt;a href=&quot;http://x.org/?a=1&amp;amp;b=2&quot;&gt;"


def test_markup_is_taken_out_and_the_original_shown(write: Write, read_here: Read) -> None:
    titles = [marked(h) if n % 2 else h for n, h in enumerate(HEADLINES)]
    path = write("a.jsonl", "\n".join(json.dumps({"title": title}) for title in titles))
    run, figures = read_here(section(path))
    assert texts_of(run) == HEADLINES
    assert read_row_texts(run, pa.array([0, 1]).to_numpy()) == {0: HEADLINES[0], 1: titles[1]}
    assert "50% of the texts carry markup" in warned(figures)
    run, figures = read_here(section(path, clean=CleanSection(markup=False, urls="keep")))
    assert texts_of(run) == titles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AT&amp;T buys <b>T</b>-Mobile", "AT&T buys T-Mobile"),
        ("a < b and c > d, 1 <2, <3 <name@host.org>", "a < b and c > d, 1 <2, <3 <name@host.org>"),
        ("R&D at Q&A; x&y", "R&D at Q&A; x&y"),
        ("<script>var a = 1;</script>Vote<br/>today", "Vote today"),
        ("&amp;lt;p&amp;gt;Vote", "Vote"),
        ("Vote today <a href='http://x", "Vote today"),
        ("&#8220;Vote&#x201d; &copy 2024", "“Vote” &copy 2024"),
        ("<!-- c --> Vote <img src=x>", "Vote"),
        ("a<b, p<q and r>s", "a<b, p<q and r>s"),
        ("if a<b", "if a<b"),
    ],
)
def test_only_what_is_markup_is_taken_out(text: str, expected: str, write: Write, read_here: Read) -> None:
    run, _ = read_here(section(write("a.jsonl", json.dumps({"title": text}))))
    assert texts_of(run) == [expected]


def test_links_hashtags_and_case_are_choices(write: Write, read_here: Read) -> None:
    path = write("a.jsonl", json.dumps({"title": "Vote #Today at https://x.org/a?b=1 NOW"}))
    expected = {
        (): "Vote #Today at NOW",
        (("urls", "keep"),): "Vote #Today at https://x.org/a?b=1 NOW",
        (("hashtags", "words"), ("case", "lower")): "vote today at now",
        (("urls", "keep"), ("hashtags", "drop")): "Vote at https://x.org/a?b=1 NOW",
    }
    for keys, text in expected.items():
        run, _ = read_here(section(path, clean=CleanSection(**dict(keys))))
        assert texts_of(run) == [text]


def test_texts_that_differ_by_markup_alone_are_copies(write: Write, read_here: Read) -> None:
    path = write("a.jsonl", '{"title": "AT&amp;T"}\n{"title": "<p>AT&T</p>"}\n{"title": "AT&T"}\n')
    _run, figures = read_here(section(path))
    assert (figures["texts"], figures["largest_copies"]) == (1, 3)


# --- what the configuration says of it ---


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["read.csv.header=none", "read.text_columns=[2]"], CsvSection(header="none")),
        (["read.csv.header=[id, title]"], CsvSection(header=("id", "title"))),
        (["read.csv.delimiter=;", "read.csv.quote=none"], CsvSection(delimiter=";", quote="none")),
        (["read.csv.delimiter=\t", "read.csv.comment=#"], CsvSection(delimiter="\t", comment="#")),
        (["read.csv.nulls=[NULL, -]"], CsvSection(nulls=("NULL", "-"))),
        (["read.csv.nulls=[]"], CsvSection(nulls=())),
        (["read.csv={encoding: cp1252, escape: '\\'}"], CsvSection(encoding="cp1252", escape="\\")),
    ],
)
def test_a_dialect_is_set_by_words(words: list[str], expected: CsvSection) -> None:
    assert load_config(None, words).read.csv == expected


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("read.csv.delimiter=ab", "read.csv.delimiter: "),
        ("read.csv.delimiter=\n", "read.csv.delimiter: "),
        ("read.csv.encoding=klingon", "read.csv.encoding='klingon' is no encoding"),
        (
            "read.csv={delimiter: ';', quote: ';'}",
            "read.csv.delimiter and read.csv.quote are both ';'; they must differ",
        ),
        ("read.csv.header=[]", "read.csv.header"),
        ("read.csv.colour=red", "read.csv.colour"),
        ("read.clean.urls=eat", "read.clean.urls"),
        ("read.bad_lines=maybe", "read.bad_lines"),
        ("read.format=xlsx", "read.format"),
        ('read.collection={uri: "http://m:1", name: a, text_field: t}', "read.keep: columns are those of files"),
    ],
)
def test_what_no_dialect_is_is_refused_by_its_key(word: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [word, "read.keep=a"])
    assert says in "\n".join(caught.value.problems)


def test_one_word_stands_for_a_list_of_one_column_to_keep() -> None:
    assert load_config(None, ["read.keep=score"]).read.keep == ("score",)
    assert load_config(None, ["read.keep=[a, 2]"]).read.keep == ("a", "2")


def test_every_choice_of_reading_changes_the_fingerprint_of_the_stage(write: Write) -> None:
    files = find_files(section(write("a.csv", rows())))
    words = [
        "read.csv.quote=none", "read.clean.markup=false", "read.errors=replace", "read.bad_lines=skip", "read.keep=id",
        "read.time_column=id", "read.source_column=id", "read.link_column=id", "read.format=csv",
    ]  # fmt: skip
    marks = {stage_fingerprints(load_config(None, [word]), files)["read"] for word in [*words, "read.separator=|"]}
    assert len(marks) == len(words) + 1


def test_folders_as_hive_names_them_say_what_it_means(write: Write, read_here: Read, tmp_path: Path) -> None:
    write("in/place=S%C3%A3o%2FRio/a.csv", "title\nVote\n")
    write("in/place=__HIVE_DEFAULT_PARTITION__/a.csv", "title\nCup\n")
    run, _ = read_here(section(tmp_path / "in", keep=("place",)))
    assert read_columns(run / "members", ["place"])["place"].to_pylist() == ["São/Rio", None]


def test_what_the_finder_adds_to_a_zip_is_passed_over(tmp_path: Path, read_here: Read) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("news/a.csv", "__MACOSX/news/._a.csv", "news/.DS_Store"):
            archive.writestr(name, rows())
    run, _ = read_here(section(tmp_path / "a.zip"))
    assert texts_of(run) == HEADLINES


def test_an_encoding_is_rather_the_common_one_of_two_that_read_the_same(write: Write, read_here: Read) -> None:
    titles = [f"{title} über die Straße" for title in HEADLINES * 10]
    at = 1999  # beyond what the guess is made of, in two blocks or more
    titles[at] = "déjà vu à la carte"
    run, figures = read_here(section(write("a.csv", rows(titles).encode("cp1252"))))
    assert "taken for cp1252" in warned(figures)
    assert texts_of(run)[at] == titles[at]


def test_a_json_column_of_objects_is_refused_as_one_of_parquet_is(write: Write) -> None:
    columns = {"title": dict(enumerate(HEADLINES)), "id": dict(enumerate(range(200)))}  # pandas' to_json()
    told = refused(write("a.json", json.dumps(columns)))
    assert "column 'title' holds objects; name a key within them ('title.0'), or write one record on each line" in told
    told = refused(write("b.jsonl", "".join(json.dumps({"title": [title]}) + "\n" for title in HEADLINES)))
    assert "column 'title' holds lists; a text or id column holds strings or numbers" in told


@pytest.mark.parametrize(
    ("encoding", "title"),
    [
        ("cp932", "日本語のニュース見出し"), ("gb18030", "港口关闭的中文新闻标题"),
        ("euc_kr", "항구 폐쇄에 관한 한국어 뉴스 제목"),
        ("cp1251", "Наводнение закрывает гавань"), ("cp1252", "Müller’s café déjà"),
    ],
)  # fmt: skip
def test_the_encoding_of_a_long_file_is_guessed_by_whole_lines(
    encoding: str, title: str, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clustering.sources import opening

    titles = [f"{title} {n}" for n in range(3000)]
    for block in (5001, 5002, opening.BLOCK_BYTES):
        monkeypatch.setattr(opening, "BLOCK_BYTES", block)
        run, _ = read_here(section(write("a.csv", rows(titles).encode(encoding))))
        assert texts_of(run) == titles
