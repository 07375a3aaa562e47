"""languages.py: which languages a collection is in, and which of their words say nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from clustering.text.languages import (
    all_stop_words,
    count_languages,
    dominant_languages,
    language_names,
    language_of,
    stop_words,
)
from tests.planted import headlines_in

LANGUAGES = ("en", "de", "zh", "ru")


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_collection_of_one_language_is_told(code: str) -> None:
    found = dominant_languages(count_languages(headlines_in(code)))
    assert next(iter(found)) == code
    assert found[code] > 0.8


def test_a_mixed_collection_has_several() -> None:
    found = dominant_languages(count_languages([*headlines_in("de"), *headlines_in("en")]))
    assert set(found) == {"de", "en"}
    assert 0.35 < found["de"] < 0.65


@pytest.mark.parametrize("text", ["", "123", "😀 !!!", "…"])
def test_a_text_without_words_is_in_no_language(text: str) -> None:
    assert language_of(text) is None


def test_chinese_is_one_language() -> None:
    assert {language_of(text) for text in headlines_in("zh")} == {"zh"}


def test_few_texts_and_rare_languages_tell_nothing() -> None:
    assert dominant_languages(Counter({"de": 49})) == {}
    assert dominant_languages(Counter({"de": 50})) == {"de": 1.0}
    assert dominant_languages(Counter({"en": 80, "fr": 4, "it": 4, "": 12})) == {"en": 0.8}


def test_english_headlines_are_not_taken_for_pidgin() -> None:
    assert language_of("McDonald's Not Lovin' US Sales") == "en"
    assert language_of("Stock Market News for March 10, 2014") == "en"


def test_a_sample_is_even_and_bounded() -> None:
    texts = [*headlines_in("de") * 9, *headlines_in("en") * 9]
    counts = count_languages(texts, most=100)
    assert 50 <= sum(counts.values()) <= 100
    assert 0.3 < counts["de"] / sum(counts.values()) < 0.7


def test_shares_are_said_in_words() -> None:
    assert language_names({"de": 0.714, "pl": 0.2, "xx": 0.08}) == "German 71%, Polish 20%, xx 8%"


def test_each_language_has_its_own_stop_words() -> None:
    assert {"zu", "die", "für", "und"} <= stop_words("de")
    assert {"the", "said", "don't"} <= stop_words("en")
    assert "die" not in stop_words("en")
    assert {"我们", "可以"} <= stop_words("zh")
    assert stop_words("lg") == frozenset()
    assert {"die", "the"} <= all_stop_words(["de", "en"])
    assert all_stop_words([]) == frozenset()
