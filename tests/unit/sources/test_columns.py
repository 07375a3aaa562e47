"""column_types.py: what is carried keeps its type, files that differ meet in one, and times of any form are read."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering import schema
from clustering.config.sections import ReadSection
from clustering.errors import ConfigError
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns
from clustering.runs.storage import read_schema, write_table
from clustering.sources import detection
from clustering.sources.detection import find_files
from clustering.sources.formats.column_types import TIME, as_type, common_type, has_large_integers, parse_times
from clustering.sources.records import carried_name
from tests.unit.conftest import Write

Read = Callable[..., tuple[RunDir, dict[str, Any]]]
NOON = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
SECONDS = int(NOON.timestamp())


def section(*paths: str | Path, **keys: Any) -> ReadSection:
    return ReadSection(**{"paths": tuple(map(str, paths)), "text_columns": ("title",), **keys})


def members_of(run: RunDir, *names: str) -> dict[str, list[Any]]:
    return read_columns(run / "members", list(names)).to_pydict()


def type_of(run: RunDir, name: str) -> str:
    return str(read_schema(run / "members" / "part-000000.parquet").field(name).type)


# --- ids ---


def test_ids_that_are_uuids_in_all_files_are_noted(write: Write, tmp_path: Path, read_here: Read) -> None:
    ids = [uuid.UUID(int=number) for number in range(4)]
    for name, own in (("a", ids[:2]), ("b", ids[2:]), ("c", [ids[3], None])):
        held = pa.array([one and one.bytes for one in own], pa.uuid())
        pq.write_table(pa.table({"id": held, "title": [f"Vote {name}", f"Goal {name}"]}), tmp_path / f"{name}.parquet")
    a, b, c = (tmp_path / f"{name}.parquet" for name in "abc")
    run, figures = read_here(section(a, b, id_column="id"))
    assert figures["uuid_ids"]
    assert members_of(run, "text_id")["text_id"] == list(map(str, ids))
    assert not read_here(section(a, c, id_column="id"))[1]["uuid_ids"]  # a missing id is file and line
    assert not read_here(section(a, write("d.csv", "id,title\n7,Strike\n"), id_column="id"))[1]["uuid_ids"]
    assert not read_here(section(a))[1]["uuid_ids"]


@pytest.mark.parametrize(
    ("ids", "kind", "expected"),
    [
        (["7", "12", "-3"], "int64", [7, 12, -3]),
        (["007", "12"], "string", ["007", "12"]),
        (["7", "x"], "string", ["7", "x"]),
        (["7", "1.5"], "string", ["7", "1.5"]),
        (["9" * 18, "1"], "int64", [int("9" * 18), 1]),
        (["9" * 30, "1"], "string", ["9" * 30, "1"]),
        (["-0", "0"], "string", ["-0", "0"]),
        (["7", ""], "int64", [7, None]),
        (["x", ""], "string", ["x", "a.csv:2"]),
    ],
)
def test_ids_of_csv_are_numbers_only_where_they_would_be_written_so_again(
    ids: list[str], kind: str, expected: list[Any], write: Write, read_here: Read
) -> None:
    content = "id,title\n" + "".join(f"{one},Vote {number}\n" for number, one in enumerate(ids))
    run, figures = read_here(section(write("a.csv", content), id_column="id"))
    assert type_of(run, "text_id") == kind
    assert members_of(run, "text_id")["text_id"] == expected
    assert figures["missing_ids"] == ids.count("")
    assert any("1 records have no id" in line for line in figures["warnings"]) == ("" in ids)


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (pa.array([1, 2], pa.int32()), "int32"), (pa.array([1, 2], pa.uint64()), "uint64"),
        (pa.array(["a", "b"], pa.large_string()), "string"), (pa.array(["a", "b"]).dictionary_encode(), "string"),
        (pa.array([date(2024, 1, 1), date(2024, 1, 2)]), "date32[day]"), (pa.array([1.5, 2.5]), "double"),
    ],
)  # fmt: skip
def test_ids_of_parquet_keep_their_type(ids: pa.Array, kind: str, tmp_path: Path, read_here: Read) -> None:
    pq.write_table(pa.table({"id": ids, "title": ["Vote", "Cup"]}), tmp_path / "a.parquet")
    run, _ = read_here(section(tmp_path / "a.parquet", id_column="id"))
    assert type_of(run, "text_id") == kind
    assert members_of(run, "text_id")["text_id"] == ids.to_pylist()


def test_files_whose_ids_differ_in_type_meet_in_strings_that_are_told(
    write: Write, tmp_path: Path, read_here: Read
) -> None:
    write("in/a.csv", "id,title\n7,Vote\n8,Cup\n")
    write("in/b.jsonl", '{"id": "x9", "title": "Rain"}\n{"id": 10, "title": "Sun"}\n')
    pq.write_table(pa.table({"id": pa.array([11], pa.int32()), "title": ["Wind"]}), tmp_path / "in/c.parquet")
    run, figures = read_here(section(tmp_path / "in", id_column="id"))
    assert members_of(run, "text_id")["text_id"] == ["7", "8", "x9", "10", "11"]
    assert any("strings: text_id" in line for line in figures["warnings"])


def test_ids_that_are_whole_numbers_in_all_files_stay_so(write: Write, tmp_path: Path, read_here: Read) -> None:
    write("in/a.csv", "id,title\n7,Vote\n")
    write("in/b.jsonl", '{"id": 10, "title": "Sun"}\n')
    pq.write_table(pa.table({"id": pa.array([11], pa.int32()), "title": ["Wind"]}), tmp_path / "in/c.parquet")
    run, figures = read_here(section(tmp_path / "in", id_column="id"))
    assert members_of(run, "text_id")["text_id"] == [7, 10, 11]
    assert figures["warnings"] == []


# --- carried columns ---


def test_columns_keep_their_types_whatever_the_parts(write: Write, read_here: Read) -> None:
    lines = [f"{n},Vote {n},{n / 4},{'' if n % 5 else n},{'yes' if n % 2 else ''},{n:03}\n" for n in range(40)]
    path = write("a.csv", "id,title,score,rank,flag,code\n" + "".join(lines))
    for part_rows in (1, 7, 8192):
        run, figures = read_here(section(path, keep=("score", "rank", "flag", "code")), part_rows)
        types = {"score": "double", "rank": "int64", "flag": "string", "code": "string"}
        assert {name: type_of(run, name) for name in types} == types
        held = members_of(run, *types)
        assert held["score"] == [n / 4 for n in range(40)]
        assert held["rank"] == [None if n % 5 else n for n in range(40)]
        assert held["flag"] == ["yes" if n % 2 else None for n in range(40)]
        assert held["code"] == [f"{n:03}" for n in range(40)]
        assert figures["warnings"] == []


def test_all_columns_can_be_kept(write: Write, tmp_path: Path, read_here: Read) -> None:
    write("in/a.csv", "id,title,score\n1,Vote,2\n")
    write("in/b.jsonl", '{"id": 2, "title": "Cup", "label": "x", "more": {"a": [1]}}\n')
    pq.write_table(pa.table({"title": ["Rain"], "tags": [["a", "b"]], "when": [NOON]}), tmp_path / "in/c.parquet")
    run, _ = read_here(section(tmp_path / "in", id_column="id", keep=("all",)))
    held = members_of(run, "score", "input_label", "more", "tags", "when")
    assert held == {
        "score": [2, None, None], "input_label": [None, "x", None], "more": [None, '{"a": [1]}', None],
        "tags": [None, None, ["a", "b"]], "when": [None, None, NOON],
    }  # fmt: skip


def test_a_column_to_keep_that_no_file_has_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"has no column 'score'; its columns are 'id', 'title'\."):
        find_files(section(write("a.csv", "id,title\n1,Vote\n"), keep=("score",)))


def test_kept_columns_are_nested_by_a_path(write: Write, read_here: Read) -> None:
    path = write("a.jsonl", '{"title": "Vote", "user": {"name": "u", "karma": 3}}\n{"title": "Cup", "user": null}\n')
    run, _ = read_here(section(path, keep=("user.name", "user.karma"), source_column="user.name"))
    expected = {"user.name": ["u", None], "user.karma": [3, None], "source": ["u", None]}
    assert members_of(run, *expected) == expected


def test_whole_numbers_beyond_64_bits_stay_exact(write: Write, read_here: Read) -> None:
    path = write("a.jsonl", f'{{"title": "Vote", "n": {10**30}}}\n{{"title": "Cup", "n": 1}}\n')
    run, _ = read_here(section(path, keep=("n",)))
    assert members_of(run, "n")["n"] == [str(10**30), "1"]


def test_labels_carry_what_members_have() -> None:
    members = pa.schema([("text_id", pa.int64()), ("row", pa.int64()), ("time", TIME), ("score", pa.float64())])
    labels = schema.labels_schema(members)
    assert labels.names == [*schema.LABELS.names, "time", "score"]
    assert labels.field("text_id").type == pa.int64()
    assert schema.labels_schema(schema.MEMBERS).equals(schema.LABELS)


def test_texts_of_a_run_before_these_columns_are_shown(tmp_path: Path) -> None:
    from clustering.runs.parts import read_row_texts

    run = RunDir(tmp_path)
    write_table(run / "texts" / "part-000000.parquet", pa.table({"row": [0, 1], "text": ["a", "b"], "copies": [1, 1]}))
    assert read_row_texts(run, pa.array([1]).to_numpy()) == {1: "b"}


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([pa.int32(), pa.int64()], pa.int64()),
        ([pa.int64(), pa.float64()], pa.float64()),
        ([pa.null(), pa.bool_()], pa.bool_()),
        ([pa.int64(), pa.string()], pa.string()),
        ([pa.timestamp("s", "UTC"), pa.timestamp("us", "UTC")], pa.timestamp("us", "UTC")),
        ([pa.timestamp("s"), pa.timestamp("s", "UTC")], pa.string()),
        ([pa.list_(pa.int64()), pa.int64()], pa.string()),
        ([], pa.string()),
    ],
)
def test_types_meet_in_one_that_holds_all(kinds: list[pa.DataType], expected: pa.DataType) -> None:
    assert common_type(kinds) == expected


EXTREME = [
    *(pa.array([-(1 << bits - 1), (1 << bits - 1) - 1], f"int{bits}") for bits in (8, 16, 32, 64)),
    *(pa.array([0, (1 << bits) - 1], f"uint{bits}") for bits in (8, 16, 32, 64)),
    pa.array([1.5, 1e300]), pa.array([1.5], pa.float32()), pa.array([True]), pa.array(["x"]), pa.array([b"\xff"]),
    pa.array([-719162, 2932896], pa.date32()), pa.array([Decimal("1.25")]), pa.array([Decimal("9" * 38)]),
    *(pa.array([-62135596800 * scale, 253402300799 * scale], pa.timestamp(unit, zone))
      for unit, scale in (("s", 1), ("ms", 10**3), ("us", 10**6)) for zone in (None, "UTC")),
    pa.array([-(1 << 62) + 1], pa.timestamp("ns")), pa.array([1 << 38], pa.duration("s")),
    pa.array([1], pa.duration("ns")),
    pa.array([1], pa.time32("s")), pa.array([1], pa.time64("ns")), pa.array([[]]), pa.array([[1 << 62]]),
    pa.array([[1.5]]), pa.array([["a"]]), pa.array([{"a": -1}]), pa.array([{"b": "x"}]),
    pa.array([{"a": (1 << 64) - 1}], pa.struct([("a", pa.uint64())])),
]  # fmt: skip


@pytest.mark.parametrize("one", EXTREME, ids=lambda column: str(column.type))
def test_any_two_types_meet_in_one_that_holds_the_largest_values_of_both(one: pa.Array) -> None:
    for other in EXTREME:
        ids = has_large_integers(one) or has_large_integers(other)
        kind = common_type([one.type, other.type], ids)
        for column in (one, other):
            there = as_type(column, kind)
            assert there.null_count == 0
            if kind not in (pa.string(), pa.binary()) and column.type != pa.timestamp("ns"):
                found = there.to_pylist()
                if pa.types.is_struct(kind):
                    found = [{name: row[name] for name in column.type.names} for row in found]
                assert found == column.to_pylist(), (one.type, other.type)


def test_columns_that_are_whole_in_one_file_and_not_in_another_lose_nothing(write: Write, read_here: Read) -> None:
    large = (1 << 53) + 1
    write("in/a.csv", f"title,likes,post\nVote,3,{large}\n")
    write("in/b.csv", "title,likes,post\nCup,1.5,2.5\n")
    run, figures = read_here(section(Path(write("in/c.csv", "title,likes,post\nFinal,2,1\n")).parent, keep=("all",)))
    members = read_columns(run / "members", ["likes", "post"])
    assert members["likes"].to_pylist() == [3.0, 1.5, 2.0]
    assert members["post"].to_pylist() == [str(large), "2.5", "1"]
    assert "strings: post." in "\n".join(figures["warnings"])


def test_ids_of_which_some_need_all_64_bits_stay_exact(tmp_path: Path, read_here: Read) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"title": ["a", "b"], "id": pa.array([1, -2], pa.int32())}), tmp_path / "in/a.parquet")
    last = (1 << 64) - 1
    pq.write_table(pa.table({"title": ["c"], "id": pa.array([last], pa.uint64())}), tmp_path / "in/b.parquet")
    run, _ = read_here(section(tmp_path / "in", id_column="id"))
    assert read_columns(run / "members", ["text_id"])["text_id"].to_pylist() == ["1", "-2", str(last)]


def test_columns_named_as_those_that_number_the_records_are_carried_like_others(write: Write, read_here: Read) -> None:
    names = ["place", "where", "digest", "id_digest", "shown", "vector"]
    rows = [f"{title},{','.join(f'{name} of {title}' for name in names)}" for title in ("Vote", "Cup", "Vote")]
    path = write("a.csv", "\n".join([",".join(["title", *names]), *rows]) + "\n")
    run, figures = read_here(section(path, keep=("all",), limit=3))
    assert (figures["records"], figures["texts"]) == (3, 2)
    assert members_of(run, "row", *names) == {
        "row": [0, 1, 0], **{name: [f"{name} of {title}" for title in ("Vote", "Cup", "Vote")] for name in names}
    }  # fmt: skip
    run, _ = read_here(section(path, text_columns=("place",), id_column="where"))
    assert members_of(run, "text_id")["text_id"] == ["where of Vote", "where of Cup", "where of Vote"]


# --- times ---


@pytest.mark.parametrize(
    "value",
    [
        "2024-05-01 12:00:00 UTC", "2024-05-01 12:00:00.000000 UTC",
        "2024-05-01T12:00:00Z", "2024-05-01 12:00", "2024-05-01T14:00:00+02:00", "2024-05-01T12:00:00.000",
        "20240501T120000Z", str(SECONDS), str(SECONDS * 1000), "Wed, 01 May 2024 12:00:00 GMT",
        "Wed, 1 May 2024 08:00:00 -0400", "20240501120000", SECONDS, SECONDS * 1000, SECONDS * 10**6, SECONDS * 10**9,
        float(SECONDS), 20240501120000, NOON, datetime(2024, 5, 1, 12), "1.5.2024 12:00", "01.05.2024, 12:00:00",
        b"2024-05-01T12:00:00Z", "May 1, 2024 12:00 PM", "Wednesday, May 1st, 2024, 12:00",
        "1 May 2024 at 12:00:00 UTC", "01-May-2024 14:00 +02:00", "Wed, 1 May 24 14:00:00 +02:00", "1 May 2024 12:00Z",
        "May 1, 2024, 12:00\u202fPM", "May 1, 2024\xa012:00 PM", "\u200eMay 1, 2024\u200e \u200e12:00 PM",
        "Wed May 01 2024 14:00:00 GMT+0200 (Central European Summer Time)", "1 May 2024 14:00 GMT+02:00",
        "1 May 2024 14:00 UTC+2", "1 May 2024 14:00 +02", "Wed, 01 May 2024 14:00:00 +02:00 (CEST)",
        "Wed, 01 May 2024 14:00:00 CEST", "1 May 2024 21:00 JST", "May 1, 2024 8:00 AM EDT", "1 May 2024 7:00 AM (EST)",
        "Wed May  1 12:00:00 2024", "Wed May 1 14:00:00 +0200 2024", "Wed, 01-May-24 12:00:00 GMT",
        "1 May 2024 17:30 +5:30", "1 May 2024 12:00:00 -0000", "May 1, 2024 - 12:00", "2024-05-01\u202f12:00",
    ],
)  # fmt: skip
def test_a_time_of_any_form_is_read(value: Any) -> None:
    found, lost, _ = parse_times(pa.array([value, None]))
    assert found.type == TIME
    assert found.to_pylist() == [NOON, None]
    assert lost == 0


def test_days_are_read_as_their_begin() -> None:
    begin = datetime(2024, 5, 1, tzinfo=timezone.utc)
    words = ["May 1, 2024", "1 May 2024", "1-MAY-2024", "Wed., May 1, 2024", " May 1st, 2024 "]
    for value in (date(2024, 5, 1), "2024-05-01", "20240501", 20240501, *words):
        assert parse_times(pa.array([value]))[0].to_pylist() == [begin]


def test_a_year_in_words_is_the_one_that_is_written() -> None:
    found, _, _ = parse_times(pa.array(["1 May 0024", "May 1, 0999 12:00", "1 May 49 12:00", "1 May 50 12:00"]))
    assert [time.year for time in found.to_pylist()] == [24, 999, 2049, 1950]


@pytest.mark.parametrize("as_string", [False, True])
def test_years_months_and_days_are_no_seconds_of_the_epoch(as_string: bool) -> None:
    """A year that is a whole number was a time of 1 January 1970, and 30 February one of that August."""
    values = [2024, 202405, 20240501, 20240230, 20240230101010]
    found, lost, _ = parse_times(pa.array(list(map(str, values)) if as_string else values))
    days = [datetime(2024, *day, tzinfo=timezone.utc) for day in ((1, 1), (5, 1), (5, 1))]
    assert (found.to_pylist(), lost) == ([*days, None, None], 2)


@pytest.mark.parametrize(
    "word", ["now", "today", "NOW", "Today", "May", "May 1", "May 2024", "Mars 1, 2024", "30 February 2024",
             "Story 1, 2024", "on May 1, 2024", "May 1, 2024 25:00", "May 1, 24", "1 May 2024 12:00 IST",
             "1 May 2024 12:00 BST",
             "1 May 2024 12:00 ET", "1 May 2024 12:00 A", "Wed, 01 May 2024 12:00:00 XYZ", "1 May 2024 13:00 AM",
             "1 May 2024 12:00 +99:00", "1 May 1 12:00:00 +0200", "1 May 0000"],
)  # fmt: skip
def test_a_word_is_no_time(word: str) -> None:
    """It was the time at which the text was read, or what a lenient parser makes of it."""
    assert parse_times(pa.array([word]))[1] == 1


def test_what_is_no_time_is_nothing_and_counted(write: Write, read_here: Read) -> None:
    values = [
        "2024-05-01",
        "yesterday",
        "03/04/2024",
        "2024-13-45",
        "",
        "99999999999999999999",
        "nan",
        "Wed, 99 May 2024 12:00:00 GMT",
    ]
    found, lost, example = parse_times(pa.array(values))
    assert (found.null_count, lost, example) == (7, 6, "'yesterday'")
    found, lost, _ = parse_times(pa.array([float("nan"), float("inf"), 1e30]))
    assert (found.null_count, lost) == (3, 3)
    assert parse_times(pa.array([True]))[1] == 1
    lines = [json.dumps({"title": f"Vote {n}", "at": value}) for n, value in enumerate(values)]
    run, figures = read_here(section(write("a.jsonl", "\n".join(lines)), time_column="at"))
    assert members_of(run, "time")["time"][0] == datetime(2024, 5, 1, tzinfo=timezone.utc)
    assert any("6 values of read.time_column are no time" in line for line in figures["warnings"])


def test_numbers_that_are_hardly_seconds_are_told(write: Write, read_here: Read) -> None:
    lines = [json.dumps({"title": f"Vote {n}", "at": 45_413 + n}) for n in range(3)]  # days of a spreadsheet
    lines += [json.dumps({"title": "Vote of the year", "at": at}) for at in (2024, 1_714_521_600, None)]
    _, figures = read_here(section(write("a.jsonl", "\n".join(lines)), time_column="at"))
    (told,) = [line for line in figures["warnings"] if "read.time_column" in line]
    assert told.startswith("3 numbers of read.time_column are below 100,000,000 and became times around 1970")


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["Fri, 31 Dec 9999 23:00:00 -0500", "1 Jan 0001 00:00 +1400"]),
        pa.array(["-1", "never"]), pa.array(["-2024-05-01"]), pa.array([-(10**14)]),
        pa.array([-(10**18)], pa.timestamp("us")),
        pa.array([1 << 40], pa.timestamp("s")), pa.array([(1 << 31) - 1, -719_200], pa.date32()),
        pa.array([1 << 60], pa.timestamp("ms", "UTC")),
    ],
)  # fmt: skip
def test_a_time_outside_of_the_years_1_to_9999_is_nothing_and_counted(column: pa.Array) -> None:
    found, lost, _ = parse_times(column)
    assert found.type == TIME
    assert (found.null_count, lost) == (len(column), len(column))


def test_no_two_columns_meet_in_one_name() -> None:
    columns = ["label", "input_label", "input_input_label", "score", "input_score"]
    kept = ["input_label", "input_input_label", "input_input_input_label", "score", "input_score"]
    assert [carried_name(column) for column in columns] == kept


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_column_that_is_named_all_is_carried_like_any_other(name: str, write: Write, read_here: Read) -> None:
    content = "title,all\nVote,7\n" if name.endswith("csv") else '{"title": "Vote", "all": 7}\n'
    run, _ = read_here(section(write(name, content), keep=("all",)))
    assert members_of(run, "all") == {"all": [7]}


def test_folders_that_all_files_share_name_columns_too(write: Write, read_here: Read) -> None:
    """With one day so far, a daily job lost its column."""
    root = Path(write("in/lang=en/day=1/a.csv", "title\nVote\n")).parents[2]
    run, _ = read_here(section(root, keep=("day",)))
    assert members_of(run, "day") == {"day": [1]}
    write("in/lang=en/day=2/a.csv", "title\nCup\n")
    run, _ = read_here(section(root, keep=("all",)))
    assert members_of(run, "day", "lang") == {"day": [1, 2], "lang": ["en", "en"]}


@pytest.mark.parametrize("style", ["lines", "stream"])
def test_keys_that_come_late_in_json_are_carried(
    style: str, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is first seen in one file is looked up in all of them; what lies beyond the search is told."""
    records = [{"title": f"Vote number {n}"} | ({"author": "x"} if n >= 1500 else {}) for n in range(2000)]
    lines = [json.dumps(record) for record in records]
    content = "\n".join(lines) if style == "lines" else f"[{','.join(lines)}]"
    root = Path(write("in/a.json", content)).parent
    write("in/b.json", json.dumps([{"title": "Cup", "late": 7}]))
    padded = [{"title": f"Final number {n}", "pad": "x" * 400} for n in range(800)] + [{"title": "End", "late": 8}]
    write("in/c.jsonl", "\n".join(map(json.dumps, padded)))
    run, figures = read_here(section(root, keep=("all",)))
    members = read_columns(run / "members", ["author", "late"])
    assert members["author"].to_pylist().count("x") == 500
    assert sorted(map(str, members["late"].drop_null().to_pylist())) == ["7", "8"]
    assert not any("read.keep" in warning for warning in figures["warnings"])
    for bound in ("SCAN_BYTES", "SCAN_LEAST"):
        monkeypatch.setattr(detection, bound, 1 << 18)
    warnings = find_files(section(root / "c.jsonl", keep=("all",))).warnings
    assert [warning for warning in warnings if "read.keep=[all] takes the keys that large JSON files have" in warning]
