"""benchmarks/board.py: Covey is measured as a run reads; scores are what they say; tables tell what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import board
from benchmarks.board_cases import ENGLISH, Feed, all_cases, fold, pairs_of, syndicated
from benchmarks.board_tables import END, START, write_board
from clustering.config.sections import ReadSection
from clustering.runs.parts import read_columns
from tests.planted import headlines_in
from tests.syndication import syndicate
from tests.unit.conftest import Write

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=12)


@given(ROWS)
def test_b_cubed_is_that_of_its_definition(pairs: list[tuple[int, int]]) -> None:
    truth, found = np.array(pairs).T
    both = [np.sum((truth == a) & (found == b)) for a, b in pairs]
    precision = np.mean([n / np.sum(found == b) for n, (_, b) in zip(both, pairs, strict=True)])
    recall = np.mean([n / np.sum(truth == a) for n, (a, _) in zip(both, pairs, strict=True)])
    assert board.b_cubed(truth, found) == pytest.approx(2 * precision * recall / (precision + recall))


def test_fold_gives_the_texts_and_rows_of_a_run(write: Write, read_here: Any) -> None:
    texts = [*syndicate(headlines_in("en"), most=5, marked=0.5).texts, "Fire &amp; flood", "Fire & flood"]
    path = write("in/a.jsonl", "".join(json.dumps({"title": text}) + "\n" for text in texts))
    run, figures = read_here(ReadSection(paths=(path,), text_columns=("title",)), near="fold")
    assert figures["near_duplicates"] > 0
    leaders, row = fold(texts)
    held = read_columns(run / "texts", ["row", "text"]).to_pydict()
    members = read_columns(run / "members", ["text_id", "row"]).to_pydict()
    number = [int(one.rpartition(":")[2]) - 1 for one in members["text_id"]]
    of_run = np.empty(len(texts), np.int64)
    of_run[number] = members["row"]
    shown = dict(zip(held["row"], held["text"], strict=True))
    assert [leaders[one] for one in row.tolist()] == [shown[one] for one in of_run.tolist()]
    assert sorted(leaders) == sorted(held["text"])


def test_syndicated_records_keep_the_class_of_their_headline() -> None:
    feed = Feed([f"story {number} of class {number % 7}" for number in range(50)], np.arange(50), np.arange(50) % 7)
    found = syndicated(feed, most=4, marked=0.5)
    assert 50 < found.group.size == found.truth.size
    classes = [int(found.texts[one].split("class")[1].split("<")[0].split()[0]) for one in found.group.tolist()]
    assert classes == found.truth.tolist()


def test_all_pairs_of_a_set_and_an_encoder_have_a_place() -> None:
    cases = all_cases()
    pairs = pairs_of(cases)
    assert len(set(pairs)) == len(pairs) == sum(len(case.encoders) for case in cases.values())
    assert {encoder for _, encoder in pairs} > set(ENGLISH)


def case(name: str, **results: dict[str, Any]) -> dict[str, Any]:
    told = {"kind": all_cases()[name].kind, "set": name, "encoder": "static"}
    return {**told, "records": 9, "texts": 8, "leaders": 7, "classes": 3, "methods": results}


def result(value: float) -> dict[str, Any]:
    return {"placed": [value] * 3, "labelled": [value] * 3, "noise": 0.1, "largest": 0.2, "seconds": 1.5,
            "peak_mib": 64, "clusters": 5}  # fmt: skip


def report(*cases: dict[str, Any]) -> dict[str, Any]:
    return {"cases": list(cases), "versions": {"covey": "1"}, "machine": "a machine"}


def test_the_page_keeps_its_words_and_tells_what_is_missing(tmp_path: Path) -> None:
    page, methods = tmp_path / "quality.md", list(board.METHODS)
    page.write_text(f"# Quality\n\nBefore.\n\n{START}old\n{END}\nAfter.\n")
    lost = {**dict.fromkeys(methods, result(0.25)), "fast_hdbscan": {"failed": "more than 600 s"}}
    cases = [
        case("uci, once", **dict.fromkeys(methods, result(0.5))),
        case("gnews", **lost),
        case("uci", EVoC=result(0.5)),
    ]
    write_board(page, report(*cases), methods)
    text = page.read_text()
    assert text.startswith(f"# Quality\n\nBefore.\n\n{START}")
    assert text.endswith(f"{END}\nAfter.\n")
    assert "old\n" not in text
    assert "| EVoC | 0.500/0.500/0.500 |\n" in text  # by kind, of the one case that all have finished
    assert "fast_hdbscan on gnews, static: more than 600 s" in text
    assert "| gnews, static | 9, 8, 7, 3 |" + " 0.25/0.25 |" * 8 + " - |" in text
    missing = text.partition("Not measured yet: ")[2].splitlines()[0].split("; ")
    assert "uci (static)" in missing  # only one of its methods is measured
    assert not {"uci, once (static)", "gnews (static)"} & {*missing}
    assert (tmp_path / "images/board.svg").stat().st_size < 100_000


def test_a_page_without_a_place_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "quality.md"
    page.write_text("# Quality\n")
    with pytest.raises(SystemExit, match="no place for the board"):
        write_board(page, report(case("gnews", EVoC={"failed": "more than 600 s"})), ["EVoC"])
    assert page.read_text() == "# Quality\n"


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    cases = [case("uci", EVoC=result(0.5)), case("gnews", EVoC={"failed": "more than 600 s"})]
    board.write_report(tmp_path / "board.json", {(one["set"], one["encoder"]): one for one in cases})
    found = json.loads((tmp_path / "board.json").read_text())
    assert found["cases"] == cases
    assert found["versions"]["covey"]
