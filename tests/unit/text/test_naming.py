"""naming.py: a headline or phrases as title; none twice in a layer, none with two forms of one word."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustering.text.naming import (
    TITLE_CHARACTERS,
    Unique,
    find_headline,
    has_two_forms,
    join_phrases,
    shorten,
    titles_of,
)
from clustering.text.phrases import Phrase

EVENT = [Phrase("iOS 7.1", 0.6, 1.0), Phrase("iPhone", 0.4, 0.7), Phrase("CarPlay", 0.2, 0.5)]
TOPIC = [Phrase("Cosmos", 0.8, 1.3), Phrase("Neil deGrasse Tyson", 0.2, 0.6), Phrase("Fox", 0.1, 0.4),
         Phrase("Premiere", 0.1, 0.1)]  # fmt: skip
NOTHING = [Phrase("court", 0.02, 0.1), Phrase("crime", 0.02, 0.1), Phrase("life", 0.01, 0.1)]


def first(phrases: list[Phrase], texts: list[str], below: list[Phrase] | None = None) -> str:
    headline = find_headline(phrases, texts)
    return next(title for title in titles_of(headline, phrases, texts, below or []) if title)


def test_where_texts_share_two_words_a_headline_with_them_is_the_title() -> None:
    texts = ["CarPlay is here", "Is iOS 7.1 good for your iPhone?", "Apple releases iOS 7.1 for iPhone - Reuters"]
    assert first(EVENT, texts) == "Apple releases iOS 7.1 for iPhone"
    assert first(EVENT, texts[:1]) == "iOS 7.1 · iPhone · CarPlay"


@pytest.mark.parametrize("many", [" (a)", "(a)", " | a", "... ", " ", "\u00a0"])
def test_the_time_for_a_headline_grows_with_its_length(many: str) -> None:
    began = time.process_time()
    assert shorten("Flood" + many * (65_000 // len(many)), []).startswith("Flood")
    assert time.process_time() - began < 3


def test_a_long_remark_in_brackets_is_left_out() -> None:
    assert shorten(f"Flood in Garford  ( {'a' * 37} )  ", []) == "Flood in Garford"
    assert shorten(f"Flood in Garford ({'a' * 41})", []) == f"Flood in Garford ({'a' * 41})"


def test_where_texts_share_one_word_phrases_are_the_title_without_weak_ones() -> None:
    assert first(TOPIC, ["Cosmos tonight on Fox"]) == "Cosmos · Neil deGrasse Tyson · Fox"
    assert first([TOPIC[0], TOPIC[3]], []) == "Cosmos"


def test_where_texts_share_nothing_the_title_says_so_or_names_what_lies_within() -> None:
    assert first(NOTHING, ["A day in court"]) == "Mixed: court · crime · life"
    within = [Phrase("NBA", 0.3, 1.0), Phrase("football", 0.2, 1.0), Phrase("tennis", 0.1, 1.0)]
    assert first(NOTHING, [], within) == "NBA · football · tennis"
    assert first(NOTHING, [], [Phrase("NBA", 0.1, 1.0)]) == "Mixed: NBA · court · crime"


def test_a_cluster_of_several_stories_has_their_names_as_its_title() -> None:
    """Half of the texts are of another story than the headline, or than the strongest phrases."""
    own = [Phrase("True Detective", 0.56, 1.0), Phrase("Season", 0.41, 0.6), Phrase("HBO", 0.36, 0.5)]
    headline = "HBO Go Users Crash 'True Detective' Season Finale"
    stories = [Phrase("True Detective", 0.54, 1.0), Phrase("Game of Thrones", 0.43, 1.0)]
    assert first(own, [headline], stories) == "True Detective · Game of Thrones"
    aspects = [Phrase("Finale", 0.4, 1.0), Phrase("HBO", 0.3, 1.0)]
    assert first(own, [headline], aspects) == headline
    assert first(own, [headline], [Phrase("True Detective", 0.9, 1.0)]) == headline
    strong = [Phrase("Chiquita", 0.35, 1.0), Phrase("banana", 0.33, 0.9), Phrase("Fyffes", 0.26, 0.8)]
    assert first(strong, []) == "Chiquita · banana · Fyffes"
    parts = [Phrase("T-Mobile", 0.31, 1.0), Phrase("Chiquita", 0.3, 1.0)]
    assert first(strong, [], parts) == "T-Mobile · Chiquita"


def test_a_cluster_without_words_has_its_first_text_as_title() -> None:
    assert first([], ["😀😀"]) == "😀😀"


def test_a_text_with_two_forms_of_a_word_is_a_title_only_where_there_is_nothing_else() -> None:
    assert "Recalls of recall" not in list(titles_of("", NOTHING, ["Recalls of recall", "A day"], []))
    assert first([], ["Recalls of recall"]) == "Recalls of recall"


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("GM recall investigated after recalls", True), ("Russia · Russian gas", True), ("NSA · Snowden · snow", True),
        ("Ukraine · Ukraine-Krieg", True), ("Snow falls on Snowden", False), ("PS4 · PS3 · Xbox", False),
        ("Apple releases iOS 7.1", False), ("王者荣耀 · 荣耀", True), ("王者荣耀 · 英雄", False), ("", False),
    ],
)  # fmt: skip
def test_two_forms_of_one_word_are_seen(title: str, expected: bool) -> None:
    assert has_two_forms(title) == expected


def test_of_two_forms_of_a_word_a_title_has_the_stronger() -> None:
    phrases = [Phrase("Russia", 0.5, 1.0), Phrase("Russian gas", 0.4, 0.9), Phrase("pipeline", 0.4, 0.8)]
    assert join_phrases(phrases, 3) == "Russia · pipeline"
    assert first(EVENT[1:], ["iPhones and an iPhone"]) == "iPhone · CarPlay"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Apple releases iOS 7.1 - Reuters", "Apple releases iOS 7.1"),
        ("TechCrunch | Apple releases iOS 7.1", "Apple releases iOS 7.1"),
        ("Apple releases iOS 7.1 (Video)", "Apple releases iOS 7.1"),
        ("Apple releases iOS 7.1 (with CarPlay)", "Apple releases iOS 7.1 (with CarPlay)"),
        ("Apple releases iOS 7.1.", "Apple releases iOS 7.1"),
        ("Apple releases iOS 7.1 for ...", "Apple releases iOS 7.1 for…"),
        ("iOS 7.1 - new features for the iPhone", "iOS 7.1 - new features for the iPhone"),
        ("  iOS\n7.1\x1b ", "iOS 7.1\ufffd"),
    ],
)
def test_a_headline_is_shortened(text: str, expected: str) -> None:
    assert shorten(text, EVENT) == expected


@given(st.text(max_size=200))
def test_a_shortened_headline_is_one_line_of_bounded_length(text: str) -> None:
    line = shorten(text, EVENT)
    assert len(line) <= TITLE_CHARACTERS
    assert "\n" not in line


def test_a_long_headline_ends_after_a_word() -> None:
    line = shorten("iOS 7.1 " + "brings another thing " * 9, EVENT)
    assert line.endswith(("another…", "thing…", "brings…"))
    assert TITLE_CHARACTERS // 2 < len(line) <= TITLE_CHARACTERS


def test_no_two_clusters_of_a_layer_have_one_title() -> None:
    unique = Unique()
    assert unique.take([0, 1], ["Flood"]) == "Flood"
    assert unique.take([1], ["FLOOD", "", "Flood · Garford"]) == "Flood · Garford"
    assert unique.take([2], ["Flood"]) == "Flood"
    assert unique.take([2, 1], ["flood"]) == "flood (2)"
    assert unique.take([0], ["flood"]) == "flood (2)"
    assert unique.take([0], []) == "(2)"
    assert unique.take([0], [""]) == "(3)"


@given(st.lists(st.tuples(st.sampled_from("abAB"), st.sets(st.integers(0, 2), min_size=1)), max_size=30))
def test_titles_are_unique_within_each_layer(asked: list[tuple[str, set[int]]]) -> None:
    unique, used = Unique(), set()
    for title, layers in asked:
        numbered = [title, *(f"{title} ({number})" for number in range(2, 40))]
        found = unique.take(sorted(layers), [title])
        assert found == next(one for one in numbered if not any((layer, one.casefold()) in used for layer in layers))
        used |= {(layer, found.casefold()) for layer in layers}


def test_the_time_for_numbers_behind_a_title_grows_with_the_clusters() -> None:
    unique, title = Unique(), "Your order has been sent"
    began = time.process_time()
    found = [unique.take([0, 1], [title]) for _ in range(8000)]
    assert time.process_time() - began < 3
    assert found == [title, *(f"{title} ({number})" for number in range(2, 8001))]
