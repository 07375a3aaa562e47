"""kernels/word_sets.py: the words of texts, and the names of outlets at their ends."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustering.kernels.words import word_sets
from clustering.kernels.words.word_sets import Words


def scanned(*texts: str) -> Words:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    return word_sets.scan_words(np.frombuffer(b"".join(encoded) + b"\0", np.uint8), offsets)


def words_of(text: str) -> list[int]:
    return scanned(text).words.tolist()


def bodies(texts: list[str]) -> list[str]:
    found = scanned(*texts)
    off = word_sets.tails_off(found, word_sets.outlets(word_sets.count_tails(found), len(texts)))
    cuts = word_sets.body_bytes(found, off).tolist()
    return [text if cut < 0 else text.encode()[:cut].decode().rstrip() for text, cut in zip(texts, cuts, strict=True)]


@given(st.lists(st.text("abcXYZé09 -'.:|ß", max_size=30), max_size=8))
def test_words_are_runs_of_letters_and_digits_in_lower_case(texts: list[str]) -> None:
    found = scanned(*texts)
    for number, text in enumerate(texts):
        own = found.words[found.ends[number] : found.ends[number + 1]].tolist()
        expected = [word.lower() for word in re.findall(r"[^\W_]+", text)]
        assert len(own) == len(expected)
        assert own == [words_of(word)[0] for word in expected]
    by_hash = {words_of(word)[0]: word for word in {w.lower() for t in texts for w in re.findall(r"[^\W_]+", t)}}
    assert len(by_hash) == len(set(by_hash.values()))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("<b>Fire</b> in <a href='http://x.org/a b'>Garford</a>", "Fire in Garford"),
        ("Fire&nbsp;in Garford &amp; Ashton", "fire in garford ashton"),
        ("Fire in Garford https://t.co/x?a=b&c=d", "fire in garford"),
        ("www.example.org/1 Fire in Garford", "fire in garford"),
        ("HTTP://EXAMPLE.ORG Fire (http://a.b/c) in Garford", "fire in garford"),
        ("ÉLECTION à Genève", "élection À genève"),
        ("Пожар в МОСКВЕ", "пожар в москве"),
    ],
)
def test_markup_links_and_case_do_not_count(text: str, same: str) -> None:
    assert words_of(text) == words_of(same)


@pytest.mark.parametrize(
    "text", ["p < q and r > s", "AT&T grows", "httpd restarts now", "wwwhat is that", "a <3 b", "&", "<"]
)
def test_what_only_looks_like_markup_or_a_link_stays(text: str) -> None:
    assert words_of(text) == words_of(" ".join(re.findall(r"\w+", text)))


def test_scripts_without_spaces_give_pairs_of_characters() -> None:
    assert len(words_of("北京大桥")) == 3
    assert words_of("北京大桥")[:2] == [*words_of("北京"), *words_of("京大")]
    assert len(words_of("京")) == 1
    assert len(words_of("iPhone发布会 2024")) == 4  # iphone, two pairs, 2024
    assert words_of("𠀀𠀁") != words_of("𠀁𠀀")


def test_the_name_of_an_outlet_is_a_frequent_short_tail() -> None:
    stories = [f"Story number {number} begins here" for number in range(6)]
    for tail in (" - Reuters", " | Fox News", " (Video)", " – The Guardian", " :: CNN.com", " [Photos]", "【新华网】"):
        assert bodies([story + tail for story in stories]) == stories
    twice = [story + " (Video) - Reuters" for story in stories]
    assert bodies(twice) == stories
    assert bodies(twice[:3]) == twice[:3]  # too few have it
    for text in (
        "Deals here | Fox News",
        "Story begins - and it goes on for long",
        "Well-known story-tellers meet here-Reuters",
    ):
        assert bodies([text] * 9) == [text] * 9  # too short before it; too long; no separator


def test_a_set_has_each_word_once_and_no_name_of_an_outlet() -> None:
    found = scanned(*[f"The fire, the FIRE {number} - Sky News" for number in range(5)])
    off = word_sets.tails_off(found, word_sets.outlets(word_sets.count_tails(found), 5))
    words, ends = word_sets.word_sets(found, off)
    assert np.diff(ends).tolist() == [3] * 5
    for number in range(5):
        own = words[ends[number] : ends[number + 1]].tolist()
        assert own == sorted({*words_of(f"the fire {number}")})


def test_rare_words_come_first() -> None:
    found = scanned("common rare", "common other", "common third")
    words, ends = word_sets.word_sets(found, np.zeros(3, np.int32))
    ordered = word_sets.order_by_rarity(words, ends, word_sets.count_words(words))
    assert (ordered >> np.uint64(32)).tolist() == [1, 3] * 3
    assert (ordered[1::2] & np.uint64(0xFFFFFFFF)).tolist() == words_of("common") * 3


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_any_text_is_scanned(raw: list[bytes]) -> None:
    texts = [one.decode("utf-8", "replace") for one in raw]
    found = scanned(*texts)
    assert len(found.words) == found.ends[-1]
    for text, body in zip(texts, bodies(texts), strict=True):
        assert text.startswith(body)
