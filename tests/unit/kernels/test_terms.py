"""kernels/terms.py: words of many scripts, and what sets a cluster's words apart."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from clustering.kernels.terms import class_tf_idf, common_terms, tokenize
from tests import oracles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Flood in Garford FORCES 400 from homes", ["flood", "in", "garford", "forces", "from", "homes"]),
        ("Trump's visit, Iran’s answer", ["trump", "visit", "iran", "answer"]),
        ("O'Neil and AT&T in the U.S. on covid-19", ["o'neil", "and", "at&t", "in", "the", "u.s", "on", "covid-19"]),
        ("don't", ["don't"]),
        ("a 1 22 2024 x 10k 5G", ["10k", "5g"]),
        ("snake_case,comma;semicolon—dash", ["snake", "case", "comma", "semicolon", "dash"]),
        ("Straße Жители 뉴스", ["straße", "жители", "뉴스"]),
        ("北京大学", ["北京", "京大", "大学"]),
        ("2024年北京GDP增长", ["年北", "北京", "gdp", "增长"]),
        ("中", ["中"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("😀😀 wow 🇩🇪", ["wow"]),
        ("Ａｐｐｌｅ ｃａｆé", ["apple", "café"]),
        ("", []),
        ("!?… — 😀", []),
    ],
)
def test_a_text_gives_its_words(text: str, expected: list[str]) -> None:
    assert tokenize(text) == expected


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
    assert tokenize(text) == [unicodedata.normalize("NFKC", word) for word in expected]


@pytest.mark.parametrize("number", ["5.2", "3-2", "2024-25"])
def test_a_number_with_a_point_or_a_dash_is_no_term(number: str) -> None:
    assert tokenize(f"magnitude {number} quake") == ["magnitude", "quake"]


def test_what_is_too_long_for_a_word_is_no_term() -> None:
    assert tokenize(f"flood {'x' * 51} {'y' * 50}") == ["flood", "y" * 50]


def test_stop_words_are_left_out() -> None:
    assert tokenize("The flood's over, it's calm", frozenset({"the", "it", "over"})) == ["flood", "calm"]


def test_in_scripts_without_spaces_no_term_reaches_into_a_stop_word() -> None:
    ignored = frozenset({"为什么", "什么", "我们", "的", "the"})
    assert tokenize("为什么北京大学的我们", ignored) == ["北京", "京大", "大学", "学的"]
    assert tokenize("什么", ignored) == []
    assert tokenize("什么人", ignored) == []
    assert tokenize("北京", frozenset({"the"})) == ["北京"]


@given(st.text(), st.frozensets(st.text(min_size=2, max_size=4)))
def test_terms_are_lower_case_and_never_stop_words(text: str, stop_words: frozenset[str]) -> None:
    for term in tokenize(text, stop_words):
        assert term == term.lower()
        assert term not in stop_words or not term.isascii()
        assert not term.isdigit()


VOCABULARY = ["flood", "goal", "vote", "kettle", "bridge"]
clusters = st.lists(st.lists(st.sampled_from(VOCABULARY), min_size=1), min_size=1, max_size=5)


@given(clusters)
def test_class_tf_idf_is_its_formula(words: list[list[str]]) -> None:
    expected = oracles.class_tf_idf(words)
    vocabulary = sorted({word for held in words for word in held})
    pairs = list(expected)
    label, term = np.array([pair[0] for pair in pairs]), np.array([vocabulary.index(pair[1]) for pair in pairs])
    count = np.array([words[cluster].count(word) for cluster, word in pairs])
    in_cluster, uses = np.array([len(held) for held in words]), np.bincount(term, weights=count).astype(np.int64)
    assert_allclose(class_tf_idf(label, term, count, in_cluster, uses), list(expected.values()), rtol=1e-12)


def test_a_word_of_one_cluster_stands_out_against_a_word_of_all() -> None:
    # two clusters, each says "news" twice; only the first says "flood" twice
    weight = class_tf_idf(
        np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([2, 2, 2]), np.array([4, 2]), np.array([4, 2])
    )
    assert weight[1] > weight[0]


def counts_of(texts: list[list[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """The arguments of common_terms for clusters of texts, and the terms."""
    terms = sorted({word for cluster in texts for text in cluster for word in text.split()})
    pairs = {}
    for label, cluster in enumerate(texts):
        for word in " ".join(cluster).split():
            pairs[label, terms.index(word)] = pairs.get((label, terms.index(word)), 0) + 1
    label, term = np.array(list(pairs)).T
    return label, term, np.array(list(pairs.values())), np.array([len(cluster) for cluster in texts]), terms


def test_words_spread_over_the_clusters_are_common_unless_they_stand_out_in_one() -> None:
    # "we" in two of 21 texts of each cluster; "apple" there, too, and in all of cluster 3; "flood" in cluster 4 alone
    texts = [[f"subject{n}"] * 18 + [f"subject{n} we", f"subject{n} apple", f"subject{n} apple we"] for n in range(30)]
    texts[3] = ["apple we"] + ["apple"] * 20
    texts[4] = ["flood"] * 20
    *counts, terms = counts_of(texts)
    assert [terms[place] for place in np.flatnonzero(common_terms(*counts))] == ["we"]


def test_few_clusters_do_not_tell_what_is_common() -> None:
    *counts, _ = counts_of([[f"subject{n} we"] * 20 + ["we"] * 20 for n in range(19)])
    assert not common_terms(*counts).any()
