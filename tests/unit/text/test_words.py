"""words.py: words of many scripts, their places, and the key that their inflections share."""

from __future__ import annotations

import importlib.util
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustering.text.words import Word, has_letters, normalized, same_word, split_words

needs_jieba = pytest.mark.skipif(importlib.util.find_spec("jieba") is None, reason="needs jieba (extra cjk)")
needs_fugashi = pytest.mark.skipif(importlib.util.find_spec("fugashi") is None, reason="needs fugashi (extra cjk)")
without_jieba = pytest.mark.skipif(importlib.util.find_spec("jieba") is not None, reason="jieba cuts the words")
without_fugashi = pytest.mark.skipif(importlib.util.find_spec("fugashi") is not None, reason="fugashi cuts the words")


def split(text: str, ignored: frozenset[str] = frozenset(), language: str | None = None) -> list[Word]:
    return list(split_words(normalized(text), ignored, language))


def keys(text: str, ignored: frozenset[str] = frozenset(), language: str | None = None) -> list[str]:
    return [word.key for word in split(text, ignored, language) if word.key]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Flood in Garford FORCES 400 from homes", ["flood", "in", "garford", "forces", "400", "from", "homes"]),
        ("Trump's visit, Iran’s answer", ["trump", "visit", "iran", "answer"]),
        ("O'Neil and AT&T in the U.S. on covid-19", ["o'neil", "and", "at&t", "in", "the", "u.s", "on", "covid-19"]),
        ("don't", ["don't"]),
        ("a 1 22 2024 x 10k 5G", ["1", "22", "2024", "10k", "5g"]),
        ("snake_case,comma;semicolon—dash", ["snake", "case", "comma", "semicolon", "dash"]),
        ("Straße Жители 뉴스", ["straße", "жители", "뉴스"]),
        ("😀😀 wow 🇩🇪", ["wow"]),
        ("Ａｐｐｌｅ ｃａｆé", ["apple", "café"]),
        ("", []),
        ("!?… — 😀", []),
    ],
)
def test_a_text_gives_its_words(text: str, expected: list[str]) -> None:
    assert keys(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("北京大学", ["北京", "京大", "大学"], marks=without_jieba),
        pytest.param("2024年北京GDP增长", ["2024", "年北", "北京", "gdp", "增长"], marks=without_jieba),
        pytest.param("中", ["中"], marks=without_jieba),
        pytest.param("東京タワー", ["東京", "京タ", "タワ", "ワー"], marks=without_fugashi),
        pytest.param("北京大学生前来应聘", ["北京", "大学生", "前来", "应聘"], marks=needs_jieba),
        pytest.param("東京タワーを見た", ["東京", "タワー"], marks=needs_fugashi),
        ("ไทยรัฐ", ["ไท", "ทย", "ยร", "รั", "ัฐ"]),
    ],
)
def test_scripts_without_spaces_give_words_or_pairs(text: str, expected: list[str]) -> None:
    assert keys(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("हिन्दी समाचार", ["हिन्दी", "समाचार"]),  # Devanagari vowel signs are marks
        ("ọ̀rọ̀ Yorùbá", ["ọ̀rọ̀", "yorùbá"]),  # Yoruba tones have no composed letter
        ("العَرَبِيَّة", ["العَرَبِيَّة"]),
        ("İstanbul", ["i̇stanbul"]),  # its lower case is an i and a combining dot
    ],
)
def test_combining_marks_do_not_break_a_word(text: str, expected: list[str]) -> None:
    assert keys(text) == [unicodedata.normalize("NFKC", word) for word in expected]


@pytest.mark.parametrize("number", ["5.2", "3-2", "2024", "7", "5月12日", "2018年"])
def test_a_number_and_a_date_say_nothing_alone(number: str) -> None:
    assert not has_letters(number)
    assert has_letters(f"ios {number}")


def test_what_is_too_long_for_a_word_is_no_term() -> None:
    assert keys(f"flood {'x' * 51} {'y' * 50}") == ["flood", "y" * 50]


def test_stop_words_keep_their_place_and_have_no_key() -> None:
    found = split("The flood's over, it's calm", frozenset({"the", "it", "over"}))
    assert [(word.key, word.start, word.stop) for word in found] == [
        ("", 0, 3), ("flood", 4, 9), ("", 12, 16), ("", 18, 20), ("calm", 23, 27)
    ]  # fmt: skip


def test_punctuation_parts_words_but_not_an_abbreviation_from_its_name() -> None:
    assert [word.follows for word in split("Mt. Gox fails. Bitcoin falls, again")] == [
        True, True, True, False, True, False
    ]  # fmt: skip


@needs_jieba
def test_the_time_for_a_run_of_unknown_characters_grows_with_its_length() -> None:
    began = time.process_time()
    assert len(split("漢" * 65_000)) >= 65
    assert time.process_time() - began < 5


@without_jieba
def test_in_scripts_without_spaces_no_term_reaches_into_a_stop_word() -> None:
    ignored = frozenset({"为什么", "什么", "我们", "的", "the"})
    assert keys("为什么北京大学的我们", ignored) == ["北京", "京大", "大学", "学的"]
    assert keys("什么", ignored) == []
    assert keys("什么人", ignored) == []
    assert keys("北京", frozenset({"the"})) == ["北京"]


@given(st.text(), st.frozensets(st.text(min_size=2, max_size=4)))
def test_terms_are_lower_case_never_stop_words_and_where_they_say(text: str, stop_words: frozenset[str]) -> None:
    plain = normalized(text)
    for word in split_words(plain, stop_words, None):
        assert word.key == word.key.lower()
        assert word.key not in stop_words or not word.key.isascii()
        if word.key and word.key.isascii():
            assert plain[word.start : word.stop].lower() == word.key


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", "kills killed killing"),
        ("en", "announces announced announcement"),
        ("de", "russische russischen russischer"),
        ("de", "häuser hauses haus"),
        ("fr", "élections élection"),
        ("ru", "выборы выборах"),
    ],
)
def test_inflections_share_a_key(language: str, words: str) -> None:
    assert len(set(keys(words, language=language))) == 1


def test_without_a_language_no_words_share_a_key() -> None:
    assert keys("kills killed") == ["kills", "killed"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Kill", "kills", True), ("Russia", "Russian", True), ("Ukraine", "Ukraine-Krieg", True),
        ("Unwetter", "Wetter", True), ("flood", "Flood", True), ("flood", "blood", False), ("Sprint", "Spring", True),
        ("BoE", "Bank", False), ("children", "chancellor", False),
    ],
)  # fmt: skip
def test_words_that_begin_alike_look_like_forms_of_one(one: str, other: str, same: bool) -> None:
    assert same_word(one, other) == same_word(other, one) == same
