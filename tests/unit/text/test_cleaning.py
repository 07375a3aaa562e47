"""cleaning.py: what markup is left out of a text, in a time that grows with its length."""

from __future__ import annotations

import time

import pytest

from clustering.text.cleaning import Cleaning, without_markup

LENGTH = 1 << 16


@pytest.mark.parametrize("many", ["=", "x=1 ", " ", " =", " /", "x=<a ", "&amp;", "<!--", "<script>", "]]>", "www."])
@pytest.mark.parametrize("begin", ["", "<a", "<a ", "<a x=", "</b "])
@pytest.mark.parametrize("end", ["", "<", ">"])
def test_the_time_for_a_text_grows_with_its_length(begin: str, many: str, end: str) -> None:
    text = begin + many * (LENGTH // len(many)) + end
    began = time.process_time()
    Cleaning(hashtags="words", case="lower")(text)
    assert time.process_time() - began < 2  # minutes where each sign of a tag that never closes is a new start


@pytest.mark.parametrize(("text", "expected"), [
    ('<a href="x">one</a>', " one "), ("<br/>one<br  />", " one "), ("one <b>two</b>", "one two"),
    ("p<q and r>s", "p<q and r>s"), ('<q cite="x=1" id = y>one', " one"), ("one <a href='b", "one  "),
    ("one <a href= >two", "one  two"), ("one <a href", "one <a href"), ("<p x= y<", "<p x= y<"),
])  # fmt: skip
def test_tags_end_with_their_bracket_or_with_the_text(text: str, expected: str) -> None:
    assert without_markup(text) == expected
