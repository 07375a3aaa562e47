"""A file that is read in pieces gives what one worker reads: records, ids, issues, warnings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clustering.config.sections import CsvSection, ReadSection
from clustering.errors import InputError
from clustering.runs.directory import RunDir
from clustering.runs.parts import read_columns, read_row_texts
from clustering.sources import pieces
from clustering.sources.detection import find_files
from clustering.sources.pieces import _first_record, cut_file
from tests.unit.conftest import Write

Read = Callable[..., tuple[RunDir, dict[str, Any]]]
HYPOTHESIS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = [
    "Flood",
    "Vote, again",
    "7",
    "",
    "Zürich",
    "漢字",
    "no\nline",
    "a\r\nb",
    "\n\n",
    'a "word"',
    "x,y\nx,y",
    '"',
    "NULL",
]
FIELDS = st.one_of(st.sampled_from(WORDS), st.text(st.sampled_from('ab,"\n\ré漢😀 '), max_size=8))
# A file that a sound program wrote, and one with lines as they are found.
SOUND = st.lists(st.tuples(FIELDS, FIELDS, st.booleans()), max_size=30).map(lambda rows: [_row(*row) for row in rows])
ODD = st.lists(
    st.sampled_from(["1,Flood", '2,"Flood', '3,Flo"od"', '4,"a\nb"', "", '5,""', '6,"x"y', "7,a,b", "8", '"',
                     "id,title", '9,"a""b"', "10,é", '11,"two\n\nlines",', "\ufeff12,mark"]),
    max_size=30,
)  # fmt: skip


def _row(number: str, title: str, quoted: bool) -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if quoted or {*text} & {*'",\n\r'} else text

    return f"{cell(number)},{cell(title)}"


def outcome(read: Read, cfg: ReadSection, bound: Callable[[str, int], None], **bounds: int) -> dict[str, Any]:
    """All that a reader leaves or refuses, with some bounds of pieces."""
    for name, value in bounds.items():
        bound(name, value)
    try:
        run, figures = read(cfg)
    except InputError as error:
        return {"problems": error.problems}
    # Which batches hold integers alone depends on where they begin, also within one file.
    figures["warnings"] = [one for one in figures["warnings"] if not one.startswith("Columns whose types differ")]
    if not figures["texts"]:
        return {"figures": figures}
    texts = read_columns(run / "texts", ["row", "text", "copies"])
    members = read_columns(run / "members", ["text_id", "row", *(["source"] if cfg.source_column else [])])
    shown = read_row_texts(run, texts["row"].to_numpy())
    return {"figures": figures, "texts": texts.to_pydict(), "members": members.to_pydict(), "shown": shown}


@pytest.fixture
def piece_bound(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    return lambda name, value: monkeypatch.setattr(pieces, name, value)


@HYPOTHESIS
@given(
    st.one_of(SOUND, ODD),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(9, 90),
)
@example(['1,"a'] + ["2,b"] * 9 + ['3,c"', "4,d"], "\n", False, True, False, 9)
@example(["1,a", "id,title", "2,b", "id,title", "3,c"], "\n", True, True, True, 9)
@example(["1,Flood", "1,Flood", "\ufeff12,mark"], "\n", False, False, False, 9)
def test_csv_in_pieces_is_read_as_one(
    read_here: Read, write: Write, piece_bound: Callable[[str, int], None],
    lines: list[str], end: str, marked: bool, ended: bool, with_ids: bool, piece_bytes: int,
) -> None:  # fmt: skip
    content = end.join(["id,title", *lines]) + end * ended
    path = write("a.csv", content.encode("utf-8-sig" if marked else "utf-8"))
    cfg = ReadSection(
        paths=(path,), text_columns=("title",), id_column="id" if with_ids else None, source_column="id",
        bad_lines="skip", csv=CsvSection(delimiter=",", quote='"'),
    )  # fmt: skip
    whole = outcome(read_here, cfg, piece_bound, PIECE_BYTES=1 << 30)
    for window, ahead in ((1 << 16, 1 << 20), (30, 20)):
        bounds = {"PIECE_BYTES": piece_bytes, "WINDOW_BYTES": window, "AHEAD_BYTES": ahead}
        assert outcome(read_here, cfg, piece_bound, **bounds) == whole


@HYPOTHESIS
@given(
    st.lists(
        st.one_of(
            st.builds(lambda text: json.dumps({"title": text}, ensure_ascii=False), FIELDS),
            st.sampled_from(["", "  ", "[1]", '{"title": ', '{"other": 1}', "\ufeff{}", '\x1e{"title": "mark"}']),
        ),
        max_size=40,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(5, 90),
)
def test_json_lines_in_pieces_are_read_as_one(
    read_here: Read, write: Write, piece_bound: Callable[[str, int], None],
    lines: list[str], end: str, ended: bool, piece_bytes: int,
) -> None:  # fmt: skip
    path = write("a.jsonl", end.join(['{"title": "first"}', *lines]) + end * ended)
    cfg = ReadSection(paths=(path,), text_columns=("title",), bad_lines="skip")
    whole = outcome(read_here, cfg, piece_bound, PIECE_BYTES=1 << 30)
    assert outcome(read_here, cfg, piece_bound, PIECE_BYTES=piece_bytes, WINDOW_BYTES=16) == whole


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (b"title\n" + b"Flood in Garford\n" * 9 + b"Fu\xdfball in Garford\n" * 20, {}),  # guessed from there on
        (b"title\n" + "Zürich\n".encode() * 9 + b"Fu\xdfball\n" * 9, {}),  # no encoding at all
        (b"title\n" + "Zürich\n".encode() * 9 + b"Fu\xdfball\n" * 9, {"errors": "replace"}),
        (("title\n" + "Zürich\n" * 20).encode("utf-16"), {}),
        (("title\n" + "Zürich\n" * 20).encode("cp1252"), {}),
        (b"title\n" + b"Flood\n" * 300 + b"a,b\n" * 20 + b"c\n", {}),
        (b"title\rFlood\rVote\r" * 9, {}),
        (b'id,title\n1,"Flood \\"of\\" Garford"\n' * 9, {}),
        (b"# a remark\ntitle\nFlood\n# another\nVote\n" * 9, {"csv": CsvSection(comment="#")}),
        (b"title\n" + b'"Flood\nin Garford"\n' * 30, {}),
        (b"title\n" + b'"Flood\nin ""Garford"", again\n\n"\n' * 30, {}),
        (b"title\n" + b'17" of water\n' + b'"Flood\nin Garford"\n' * 30, {}),
        (b"title\n" + b"Flood\n" * 12 + b'"' + b"Vote\n" * 12, {}),
        (b"title\n" + b"Flood\n" * 40, {"limit": 25}),
    ],
    ids=range(14),
)
def test_what_depends_on_all_before_it_is_read_as_one(
    content: Any, keys: dict[str, Any], read_here: Read, write: Write, piece_bound: Callable[[str, int], None]
) -> None:
    cfg = ReadSection(paths=(write("a.csv", content),), text_columns=("title",), **keys)
    whole = outcome(read_here, cfg, piece_bound, PIECE_BYTES=1 << 30)
    for size in (7, 31, 64):
        assert outcome(read_here, cfg, piece_bound, PIECE_BYTES=size) == whole


def test_only_what_is_large_and_of_lines_is_cut(write: Write, piece_bound: Callable[[str, int], None]) -> None:
    piece_bound("PIECE_BYTES", 40)
    text = "title\n" + "Flood\n" * 20
    cfg = ReadSection(paths=(write("a.csv", text),), text_columns=("title",))
    (file,) = find_files(cfg)
    cut = cut_file(file, cfg)
    assert [(task.start, task.stop, task.header) for task in cut] == [
        (0, 31, "title"), (31, 63, "title"), (63, 94, "title"), (94, 126, "title")
    ]  # fmt: skip
    assert not cut_file(replace(file, size=40), cfg)
    assert not cut_file(file, replace(cfg, limit=5))
    assert not cut_file(file, replace(cfg, csv=CsvSection(encoding="utf-16")))
    (packed,) = find_files(replace(cfg, paths=(write("b.csv.gz", text),)))
    assert not cut_file(replace(packed, size=1 << 30), cfg)
    array = json.dumps([{"title": "Flood"}] * 20)
    (stream,) = find_files(replace(cfg, paths=(write("c.json", array),)))
    assert not cut_file(stream, cfg)


@pytest.mark.parametrize(
    ("window", "at"),
    [
        (b"od\n1,Vote\n", 3),
        (b'od\n1,"Vote"\n', 3),
        (b'a\nb\n"\n1,"Vote"\n', 6),
        (b'a",x\n1,"Vote"\n', 5),
        (b'a, b\nc "" d",x\n1,"Vote"\n', 15),
        (b'"a\nb",x\n', 8),
        (b"no line end", 0),
        (b'a\nb",1', 0),
    ],
)
def test_a_record_begins_outside_quotes(window: bytes, at: int) -> None:
    assert _first_record(window, b'"', b",") == at


def test_pieces_keep_the_place_of_what_is_wrong(
    read_here: Read, write: Write, piece_bound: Callable[[str, int], None]
) -> None:
    lines = ["id,title", *(f"{number},Flood {number}" for number in range(3000)), "x,y,z", *["4,Vote"] * 900]
    cfg = ReadSection(paths=(write("a.csv", "\n".join(lines)),), text_columns=("title",))
    whole = outcome(read_here, cfg, piece_bound, PIECE_BYTES=1 << 30)
    assert "line 3,002: 3 fields where the header has 2" in "\n".join(whole["figures"]["warnings"])
    assert outcome(read_here, cfg, piece_bound, PIECE_BYTES=10_000) == whole
    assert whole["members"]["text_id"][-1] == f"{Path(cfg.paths[0]).name}:3900"
