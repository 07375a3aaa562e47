"""kernels/printable.py: what a terminal or a page would obey is shown instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustering.kernels.printable import one_line, printable

HOSTILE = {
    "red\x1b[31m": "red�[31m",
    "nul\x00": "nul�",
    "gpj\u202eexe": "gpj�exe",
    "lone \ud800": "lone �",
    "\x9b2J": "�2J",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_what_would_be_obeyed_is_shown(text: str, shown: str) -> None:
    assert printable(text) == one_line(text) == shown


@pytest.mark.parametrize("text", ["Zürich 東京 العربية", "👩‍👩‍👧 ok", "ẹ̀kọ́", "a\u200fb"])
def test_what_belongs_to_a_script_stays(text: str) -> None:
    assert printable(text) == one_line(text) == text


def test_lines_stay_or_become_one() -> None:
    assert printable("one\n\ttwo\r\n") == "one\n\ttwo\r\n"
    assert printable("covered\rup") == "covered�up"
    assert one_line(" one\n\ttwo\r\n\u2028three ") == "one two three"


def test_a_long_line_is_cut_visibly() -> None:
    assert one_line("x" * 80, 80) == "x" * 80
    assert one_line("x" * 81, 80) == "x" * 79 + "…"


@given(st.text(alphabet=st.characters()), st.integers(1, 20))
def test_one_line_is_one_that_can_be_written(text: str, most: int) -> None:
    line = one_line(text, most)
    assert len(line) <= most
    assert len(line.splitlines()) <= 1
    line.encode()
