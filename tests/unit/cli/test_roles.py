"""roles.py: which columns of an unknown file are the text, the id, the time, the source and the link."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering.cli.roles import Roles, find_roles
from clustering.config.sections import ReadSection
from clustering.errors import ConfigError

N = 60
WORDS = "quake flood vote strike bank fire storm deal court match".split()
TITLES = [f"{WORDS[n % 10].capitalize()} shakes the {WORDS[n * 7 % 10]} of town {n}" for n in range(N)]
STAMPS = [datetime(2024, 5, 1) + timedelta(hours=n) for n in range(N)]
OUTLETS = [["Morning Herald", "Evening Post", "The Wire"][n % 3] for n in range(N)]
LINKS = [f"https://news.example/{n}" for n in range(N)]


def roles_of(path: Path, given: dict[str, str] | None = None) -> Roles:
    return find_roles(ReadSection(paths=(str(path),)), given or {})


def written(path: Path, columns: dict[str, list[Any]]) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, default=str) for row in table.to_pylist()), "utf-8")
    else:
        rows = [list(columns), *zip(*columns.values(), strict=True)]
        path.write_text("\n".join(";".join(f'"{cell}"' for cell in row) for row in rows), "utf-8")
    return path


@pytest.mark.parametrize("name", ["news.csv", "news.jsonl", "news.parquet"])
def test_the_columns_of_a_feed_are_found_by_their_names(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, {
        "guid": [f"{n:032x}" for n in range(N)], "Published-At": STAMPS, "venue": OUTLETS, "title": TITLES,
        "description": [f"{title}. More of it follows here, in a long text of several clauses." for title in TITLES],
        "url": LINKS, "section": ["world", "sport"] * (N // 2), "rank": list(range(N)),
    })  # fmt: skip
    assert roles_of(path) == Roles(
        text="title", id="guid", time="Published-At", source="venue", link="url", keep=("section", "rank"),
        left=("description",),
    )  # fmt: skip


def test_columns_without_a_known_name_are_told_by_their_content(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {
        "a": list(range(N)), "b": ["north", "south", "east"] * (N // 3), "c": TITLES, "d": LINKS,
        "e": [f"{n:040x}" for n in range(N)], "f": STAMPS,
    })  # fmt: skip
    found = roles_of(path)
    assert (found.text, found.link, found.id, found.time) == ("c", "d", None, None)
    assert found.keep == ("a", "b", "e", "f"), "numbers, times and short strings are carried along"


def test_a_name_alone_makes_no_role(tmp_path: Path) -> None:
    """title is a number, id repeats, time is no time, url no address, source a long text."""
    path = written(tmp_path / "odd.jsonl", {
        "title": list(range(N)), "id": [n // 2 for n in range(N)], "time": ["soon"] * N, "url": ["none"] * N,
        "source": [f"as told by {title} and by all the others who were there on that day" for title in TITLES],
        "content": TITLES,
    })  # fmt: skip
    found = roles_of(path)
    assert (found.text, found.id, found.time, found.link, found.source) == ("content", None, None, None, None)


def test_a_key_within_objects_is_found(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text("\n".join(
        json.dumps({"kind": "t3", "data": {"title": title, "created_utc": 1_700_000_000 + n, "id": f"x{n}"}})
        for n, title in enumerate(TITLES)
    ), "utf-8")  # fmt: skip
    found = roles_of(path)
    assert (found.text, found.time, found.id) == ("data.title", "data.created_utc", "data.id")


def test_objects_and_lists_beside_the_texts_are_no_roles(tmp_path: Path) -> None:
    """As in articles of NewsAPI, posts of Twitter and exports of MongoDB; their inner names count."""
    columns: dict[str, list[Any]] = {
        "_id": [{"$oid": f"{n:024x}"} for n in range(N)], "source": [{"id": "x", "name": name} for name in OUTLETS],
        "author": [["A", "B"]] * N, "title": TITLES, "date": [{"$date": f"{stamp}Z"} for stamp in STAMPS],
        "summary": [["one", "two words"]] * N,
    }  # fmt: skip
    expected = {"text": "title", "id": "_id.$oid", "source": "source.name", "time": "date.$date"}
    found = roles_of(written(tmp_path / "a.jsonl", columns))
    assert {role: getattr(found, role) for role in expected} == expected
    assert set(found.left) == {"_id", "source", "date"}, "an object is no column beside its keys"
    found = roles_of(written(tmp_path / "a.parquet", columns))
    assert {role: getattr(found, role) for role in expected} == expected


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_names_that_two_columns_have_are_left_out_unless_they_may_be_the_text(tmp_path: Path, name: str) -> None:
    def roles(names: str, given: dict[str, str] | None = None) -> Roles:
        columns = [list(range(N)), TITLES, OUTLETS, OUTLETS]
        table = pa.Table.from_arrays([pa.array(column) for column in columns], names=names.split())
        if name.endswith("parquet"):
            pq.write_table(table, tmp_path / name)
        else:
            rows = [names.split(), *map(list, zip(*columns, strict=True))]
            (tmp_path / name).write_text("\n".join(",".join(map(str, row)) for row in rows), "utf-8")
        return roles_of(tmp_path / name, given)

    assert roles("id title note note") == Roles(text="title", id="id", left=("note",))
    with pytest.raises(ConfigError, match="columns and more are named 'title'; name one by its number"):
        roles("id title title note")
    assert roles("id title title note", {"text": "2"}) == Roles(text="2", id="id", keep=("note",), left=("title",))


def test_strings_that_parquet_calls_bytes_are_texts(tmp_path: Path) -> None:
    columns = {"id": list(range(N)), "title": TITLES, "source": OUTLETS, "time": [str(stamp) for stamp in STAMPS],
               "key": [bytes([200, n]) for n in range(N)]}  # fmt: skip
    table = pa.table({
        name: pa.array([one.encode() if isinstance(one, str) else one for one in column])
        for name, column in columns.items()
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    found = roles_of(tmp_path / "a.parquet")
    assert found == Roles(text="title", id="id", time="time", source="source", left=("key",))


@pytest.mark.parametrize(
    "days", [[n % 28 + 1 for n in range(N)], [45_352 + n for n in range(N)], [n / 2 for n in range(N)]]
)
def test_days_of_a_month_or_a_spreadsheet_are_no_seconds_since_1970(tmp_path: Path, days: list[Any]) -> None:
    for name in ("a.csv", "a.parquet", "a.jsonl"):
        found = roles_of(written(tmp_path / name, {"title": TITLES, "date": days}))
        assert (found.time, found.keep) == (None, ("date",))
    seconds = [1_700_000_000 + n for n in range(N)]
    assert roles_of(written(tmp_path / "b.csv", {"title": TITLES, "date": seconds})).time == "date"
    assert roles_of(written(tmp_path / "b.csv", {"title": TITLES, "date": [1970 + n % 3 for n in range(N)]})).time


def test_a_column_that_seems_to_be_times_but_cannot_be_read_is_told(tmp_path: Path) -> None:
    dates = [f"{n % 12 + 1:02}/{n % 28 + 1:02}/2024" for n in range(N)]
    found = roles_of(written(tmp_path / "a.csv", {"title": TITLES, "date": dates}))
    assert str(found) == "text: title; kept: date; no time: date ('01/01/2024') is in no form that is read"
    dates = [f"{n % 28 + 1:02}.{n % 12 + 1:02}.2024" for n in range(N)]
    assert roles_of(written(tmp_path / "a.csv", {"title": TITLES, "date": dates})).time == "date"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"status": "ok", "articles": [{"title": title} for title in TITLES]}, "within the list 'articles', write"),
        ({"title": {str(n): title for n, title in enumerate(TITLES)}}, "it is a single record. Where records stand"),
        ({"columns": ["title"], "data": [[title] for title in TITLES]}, "jq -c '.data[]', or in pandas to_json("),
    ],
)
def test_records_within_one_record_are_refused_with_a_way_out(tmp_path: Path, record: Any, said: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError) as error:
        roles_of(tmp_path / "a.json")
    assert said in str(error.value)


def test_a_header_without_records_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,title\n")
    with pytest.raises(ConfigError, match="no record can be read from it; only its columns, 'id', 'title', are known"):
        roles_of(tmp_path / "a.csv")


def test_what_the_user_names_is_taken_and_the_rest_is_found(tmp_path: Path) -> None:
    path = written(
        tmp_path / "news.csv", {"id": list(range(N)), "title": TITLES, "lead": [t + " again" for t in TITLES]}
    )
    assert roles_of(path, {"text": "lead"}) == Roles(text="lead", id="id", keep=("title",))


def test_chinese_titles_need_no_spaces(tmp_path: Path) -> None:
    path = written(
        tmp_path / "zh.parquet",
        {"x": ["北京", "上海", "广州"] * 20, "y": [f"北京举行第{n}届电影节开幕式" for n in range(N)]},
    )
    assert roles_of(path).text == "y"


def test_several_files_are_looked_at_together(tmp_path: Path) -> None:
    written(tmp_path / "1.csv", {"id": list(range(N)), "title": TITLES})
    written(tmp_path / "2.csv", {"id": [f"n{n}" for n in range(N)], "title": TITLES, "url": LINKS})
    found = roles_of(tmp_path)
    assert (found.text, found.id, found.link) == ("title", "id", "url")


@pytest.mark.parametrize("nested", [[["a"]] * N, [{"a": 1}] * N])
@pytest.mark.parametrize("name", ["{}.parquet", "{}.jsonl"])
def test_a_column_may_be_nested_in_one_file_and_plain_in_another(tmp_path: Path, name: str, nested: list[Any]) -> None:
    written(tmp_path / name.format("a"), {"title": TITLES, "tags": nested})
    written(tmp_path / name.format("b"), {"title": TITLES, "tags": ["a"] * N})
    assert roles_of(tmp_path).text == "title"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"a": [1, 2], "b": [0.5, 1.5]},
            "none of its columns looks like texts ('a', 'b'); name one with read.text_columns=",
        ),
        ({"link": LINKS[:2]}, "none of its columns looks like texts ('link')"),
    ],
)
def test_an_input_without_texts_is_refused_in_words(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        roles_of(written(tmp_path / "no.csv", columns))
    assert said in str(error.value)


def test_an_empty_or_missing_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.csv is empty; there is nothing to cluster"):
        roles_of(tmp_path / "empty.csv")
    with pytest.raises(ConfigError, match="no such file"):
        roles_of(tmp_path / "gone.csv")
