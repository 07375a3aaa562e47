"""sources/folding.py: near-duplicates share a row, whatever the order, the parts and the groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clustering.config.sections import CleanSection, ReadSection
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns
from clustering.sources import folding
from clustering.sources.folding import OUTLETS, without_outlets, write_families
from tests.planted import headlines_in
from tests.syndication import syndicate
from tests.unit.conftest import Write

Read = Any
WORDS = [a + b + c for a in ("gar", "mill", "ash", "west", "thorn") for b in ("ford", "brook", "ton") for c in "aeiou"]
STORIES = [" ".join(np.random.default_rng(seed).permutation(WORDS)[:7].tolist()) for seed in range(120)]


def feed(write: Write, records: list[dict[str, Any]], name: str = "in/a.jsonl", **others: Any) -> ReadSection:
    path = write(name, "".join(json.dumps(record) + "\n" for record in records))
    return ReadSection(paths=(str(Path(path).parent),), text_columns=("title",), id_column="id", **others)


def titled(texts: list[str]) -> list[dict[str, Any]]:
    return [{"id": number, "title": text} for number, text in enumerate(texts)]


def rows_of(run: RunDir) -> list[int]:
    return read_columns(run / "members", ["row"])["row"].to_pylist()


def test_what_outlets_carry_shares_a_row_with_the_headline(write: Write, read_here: Read) -> None:
    carried = syndicate(STORIES, most=6, marked=0.5)
    run, figures = read_here(feed(write, titled(carried.texts), clean=CleanSection(urls="drop")), near="fold")
    rows = np.array(rows_of(run))
    assert figures["texts"] == len(set(rows.tolist())) == 120
    assert len({*zip(rows.tolist(), carried.origin.tolist(), strict=True)}) == 120
    texts = read_columns(run / "texts", ["text", "copies"]).to_pydict()
    assert sorted(texts["text"]) == sorted(STORIES)  # without names, tags and links
    assert texts["copies"] == np.bincount(rows).tolist()
    assert figures["near_duplicates"] > 0
    assert figures["largest_copies"] == max(texts["copies"])


def test_without_folding_only_equal_texts_share_a_row(write: Write, read_here: Read) -> None:
    texts = [f"{story} - Reuters" for story in STORIES[:5]] + [f"{story} | CNN" for story in STORIES[:5]] + ["Fire"] * 2
    run, figures = read_here(feed(write, titled(texts)))
    assert figures["texts"] == 11
    assert "near_duplicates" not in figures
    assert read_columns(run / "texts", ["text"])["text"].to_pylist() == [*texts[:10], "Fire"]
    assert read_columns(run / "members", ["text"])["text"].null_count == 12


def test_the_leader_gives_the_text_and_members_keep_theirs(write: Write, read_here: Read) -> None:
    early, leader = (
        "Mayor Elif Kirk opens the new bridge in Garford today",
        "Mayor Elif Kirk opens new bridge in Garford",
    )
    records = titled([early, "Storm hits the coast", leader, leader, leader + "!", "Storm hits the coast"])
    run, figures = read_here(feed(write, records), 2, "fold")
    assert rows_of(run) == [1, 0, 1, 1, 1, 0]  # rows follow the leaders, in the order of their first records
    assert read_columns(run / "texts", ["row", "text", "copies"]).to_pylist() == [
        {"row": 0, "text": "Storm hits the coast", "copies": 2}, {"row": 1, "text": leader, "copies": 4},
    ]  # fmt: skip
    own = read_columns(run / "members", ["text"])["text"].to_pylist()
    assert own == [early, None, None, None, leader + "!", None]
    assert {name: figures[name] for name in ("texts", "near_duplicates", "families", "largest_copies")} == {
        "texts": 2, "near_duplicates": 2, "families": 1, "largest_copies": 4,
    }  # fmt: skip


def test_the_original_is_shown_and_the_text_has_no_name(write: Write, read_here: Read) -> None:
    texts = [f"{story} <b>-</b> Sky News" for story in STORIES[:8]]
    run, _ = read_here(feed(write, titled(texts)), near="fold")
    found = read_columns(run / "texts", ["text", "shown"]).to_pydict()
    assert found == {"text": STORIES[:8], "shown": texts}
    plain, _ = read_here(feed(write, titled([f"{story} - Sky News" for story in STORIES[:8]])), near="fold")
    found = read_columns(plain / "texts", ["text", "shown"]).to_pydict()
    assert found == {"text": STORIES[:8], "shown": [f"{story} - Sky News" for story in STORIES[:8]]}
    new = ["Something else happens in Ashton - Sky News", "Something else happens in Ashton - Sky Sports"]
    assert without_outlets(plain, new) == ["Something else happens in Ashton", new[1]]
    assert (plain / "texts" / OUTLETS).exists()


@pytest.mark.parametrize("part_rows", [7, 64])
def test_parts_and_groups_change_nothing(
    part_rows: int, write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = syndicate([*STORIES, *headlines_in("zh"), *headlines_in("en")], most=4, seed=2, marked=0.3)
    cfg = feed(write, titled(carried.texts))
    run, figures = read_here(cfg, near="fold")
    expected = rows_of(run), read_columns(run / "texts", ["row", "text", "copies"]).to_pydict()
    assert figures["near_duplicates"] > 100
    for group_records in (1 << 20, 100, 31):  # one group, some, and a group for each item
        monkeypatch.setattr(folding, "FOLDED_RECORDS", group_records)
        other, other_figures = read_here(cfg, part_rows, "fold")
        assert (rows_of(other), read_columns(other / "texts", ["row", "text", "copies"]).to_pydict()) == expected
        assert other_figures == figures


def test_the_order_of_records_changes_no_family(write: Write, read_here: Read) -> None:
    """Each text has its own number of copies, so that the same one leads in every order."""
    carried = syndicate(STORIES, most=4, seed=5)
    numbers = {text: 1 + number for number, text in enumerate(dict.fromkeys(carried.texts))}
    texts = [text for text, number in numbers.items() for _ in range(number)]
    families = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(texts))
        records = [{"id": int(at), "title": texts[at]} for at in order]
        run, _ = read_here(feed(write, records), near="fold")
        text_of = read_columns(run / "texts", ["text"])["text"].to_pylist()
        members = read_columns(run / "members", ["text_id", "row"]).to_pydict()
        families.append({one: text_of[row] for one, row in zip(*members.values(), strict=True)})
    assert families[0] == families[1] == families[2]


def test_families_tell_who_carried_what_and_when(
    write: Write, read_here: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [("a", 3, STORIES[0]), ("b", 9, STORIES[0] + "!"), ("a", 1, STORIES[0]), (None, 5, "Storm over the coast"),
             ("c", 7, "Storm over the coast"), ("a", 2, "Nothing like it")]  # fmt: skip
    records = [
        {"id": number, "title": title, "from": source, "at": f"2024-01-0{day}T00:00:00Z"}
        for number, (source, day, title) in enumerate(kinds)
    ]
    for part_rows in (8192, 2):
        run, _ = read_here(feed(write, records, source_column="from", time_column="at"), part_rows, "fold")
        write_families(run, records=1)
        found = pq.read_table(run / "families.parquet")
        assert found.schema.field("members").type == pa.list_(pa.int64())
        days = [[value.day for value in found[name].to_pylist()] for name in ("first_seen", "last_seen")]
        assert days == [[1, 5], [9, 7]]
        assert found.select(["family", "leader", "records", "texts", "members", "sources"]).to_pylist() == [
            {"family": 0, "leader": STORIES[0], "records": 3, "texts": 2, "members": [0, 1, 2], "sources": ["a", "b"]},
            {"family": 1, "leader": "Storm over the coast", "records": 2, "texts": 1, "members": [3, 4],
             "sources": ["c"]},
        ]  # fmt: skip
        seen = [[value and value.day for value in own] for own in found["sources_seen"].to_pylist()]
        assert seen == [[1, 9], [7]], "of each source the first time"


def test_families_without_sources_and_times_and_of_no_texts(write: Write, read_here: Read) -> None:
    run, _ = read_here(feed(write, titled(["Fire in Garford", "Fire in Garford"])))
    write_families(run)
    (line,) = pq.read_table(run / "families.parquet").to_pylist()
    assert line == {"family": 0, "leader": "Fire in Garford", "records": 2, "texts": 1, "members": [0, 1],
                    "sources": None, "first_seen": None, "last_seen": None, "sources_seen": None}  # fmt: skip
    run, figures = read_here(feed(write, titled(["", ""])))
    assert figures["texts"] == 0
    write_families(run)
    assert len(pq.read_table(run / "families.parquet")) == 0
