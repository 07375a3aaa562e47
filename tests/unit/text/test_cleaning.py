"""cleaning.py: what markup is left out of a text, in a time that grows with its length."""

from __future__ import annotations

import time

import pytest

from clustering.text.cleaning import Cleaning, normalized, without_markup
from clustering.text.words import normalized as normalized_for_words

LENGTH = 1 << 16


MANY = ["=", "x=1 ", " ", " =", " /", "x=<a ", "&amp;", "<!--", "<script>", "]]>", "www.", "\u0301\u0316"]


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("begin", ["", "<a", "<a ", "<a x=", "</b "])
@pytest.mark.parametrize("end", ["", "<", ">"])
def test_the_time_for_a_text_grows_with_its_length(begin: str, many: str, end: str) -> None:
    text = begin + many * (LENGTH // len(many)) + end
    began = time.process_time()
    Cleaning(hashtags="words", case="lower")(text)
    assert time.process_time() - began < 2  # minutes where each sign of a tag that never closes is a new start


def test_many_marks_on_a_letter_take_time_that_grows_with_their_number_and_all_stay() -> None:
    marks, written = "\u0301\u0316" * LENGTH, "e\u0301 " * LENGTH
    began = time.process_time()
    found = normalized("x" + marks)
    assert normalized_for_words(found) == normalized(found) == found
    assert time.process_time() - began < 2  # 15 s in one run of marks
    assert sorted(found.replace("\u034f", "")) == sorted("x" + marks)
    assert normalized(written) == " ".join("é" * LENGTH)  # a few on each letter are no run


@pytest.mark.parametrize(("text", "expected"), [
    ('<a href="x">one</a>', " one "), ("<br/>one<br  />", " one "), ("one <b>two</b>", "one two"),
    ("p<q and r>s", "p<q and r>s"), ('<q cite="x=1" id = y>one', " one"), ("one <a href='b", "one  "),
    ("one <a href= >two", "one  two"), ("one <a href", "one <a href"), ("<p x= y<", "<p x= y<"),
])  # fmt: skip
def test_tags_end_with_their_bracket_or_with_the_text(text: str, expected: str) -> None:
    assert without_markup(text) == expected
