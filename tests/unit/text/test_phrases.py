"""phrases.py: which phrases of its strong words a cluster has, and which of its texts say most of it."""

from __future__ import annotations

import importlib.util

import numpy as np
import pyarrow as pa
import pytest

from clustering.text.phrases import (
    PHRASES,
    SPLIT,
    Phrase,
    StrongWords,
    choose_phrases,
    count_phrases,
    first_phrases,
    headline_words,
    phrase_table,
)
from clustering.text.terms import BestWords, TermCounts, best_words, count_terms, merge_counts

without_jieba = pytest.mark.skipif(importlib.util.find_spec("jieba") is not None, reason="jieba cuts the words")
APPLE = [
    "Apple releases iOS 7.1 for the iPhone", "iOS 7.1 is out", "Bank of England warns of iOS 7.1",
    "Apple: iOS 7.1 out, iPhone faster", "apple and the Bank of England",
]  # fmt: skip
OTHERS = ["The weather is fine", "Weather in the north", "Fine weather again"]


def strong_in(texts: list[str], layers: np.ndarray, languages: list[str]) -> tuple[TermCounts, StrongWords]:
    counts = count_terms(texts, layers, languages)
    n_clusters = int(layers.max()) + 1
    in_layers = [np.unique(layer[layer >= 0]) for layer in layers.T]
    n_texts = np.bincount(layers[layers >= 0], minlength=n_clusters)
    best = best_words(counts, in_layers, np.full(n_clusters, -1), n_texts, counts.words_of(n_clusters), 40)
    return counts, StrongWords.of(best)


def chosen(texts: list[str], labels: list[int], languages: list[str], n_terms: int = 10) -> dict[int, list[Phrase]]:
    layers = np.array(labels, np.int32)[:, None]
    _, strong = strong_in(texts, layers, languages)
    counts, _ = count_phrases(texts, layers, languages, strong)
    return dict(choose_phrases(counts, strong, np.bincount(labels), n_terms))


def test_phrases_take_the_place_of_their_words_as_most_texts_write_them() -> None:
    found = chosen(APPLE + OTHERS, [0] * 5 + [1] * 3, ["en"])
    assert found[0][0].written == "iOS 7.1"
    assert {phrase.written for phrase in found[0]} == {"iOS 7.1", "Apple", "Bank of England", "iPhone"}
    shares = {phrase.written: phrase.share for phrase in found[0]}
    assert shares == pytest.approx({"iOS 7.1": 0.8, "Apple": 0.6, "Bank of England": 0.4, "iPhone": 0.4})


def test_no_phrase_crosses_punctuation() -> None:
    found = chosen(
        ["Flood, bridge closed", "Flood: bridge", "A flood. Bridge falls", *OTHERS], [0] * 3 + [1] * 3, ["en"]
    )
    assert {phrase.written for phrase in found[0]} >= {"Flood", "bridge"}
    assert not any(" " in phrase.written and "lood" in phrase.written for phrase in found[0])


def test_a_number_is_part_of_a_phrase_and_none_alone() -> None:
    found = chosen(["370 flights", "370 boats", "370 cars", "370 trains", *OTHERS], [0] * 4 + [1] * 3, ["en"])
    assert "370" not in {phrase.written for phrase in found[0]}


@without_jieba
def test_without_a_segmenter_frequent_runs_of_characters_are_phrases() -> None:
    texts = ["王者荣耀里哪个射手最强", "王者荣耀貂蝉出装", "怎么录王者荣耀视频", "王者荣耀新英雄"]
    found = chosen([*texts, "北京天气很好", "上海天气不好", "天气预报"], [0] * 4 + [1] * 3, ["zh"])
    assert found[0][0].written == "王者荣耀"
    assert found[1][0].written == "天气"
    assert "者荣" not in {phrase.written for phrase in found[0]}


def test_a_text_counts_once_however_often_it_has_a_phrase() -> None:
    texts, layers = ["flood flood flood", "flood here"], np.zeros((2, 1), np.int32)
    _, strong = strong_in(texts, layers, [])
    counts, _ = count_phrases(texts, layers, [], strong)
    held = dict(zip(counts.words.to_pylist(), counts.count.tolist(), strict=True))
    assert held[f"flood{SPLIT}flood"] == 2


def test_the_text_with_most_of_what_the_cluster_shares_in_few_words_scores_best() -> None:
    texts = [
        "iOS 7.1 for iPhone",
        "Apple releases iOS 7.1 for iPhone and says that many other things are new, too",
        *APPLE,
    ]
    layers = np.array([0] * len(texts) + [1] * 3, np.int32)[:, None]
    _, strong = strong_in(texts + OTHERS, layers, ["en"])
    _, score = count_phrases(texts + OTHERS, layers, ["en"], strong)
    assert score.shape == layers.shape
    assert score[:7].argmax() == 2  # Apple releases iOS 7.1 for the iPhone
    assert score[6] < score[1] < score[2]


@pytest.mark.parametrize("cut", [1, 3, 8])
def test_the_order_of_the_work_changes_nothing(cut: int) -> None:
    texts, labels = APPLE + OTHERS, np.array([0] * 5 + [1] * 3, np.int32)
    layers = np.column_stack([np.full(8, 2, np.int32), labels])
    _, strong = strong_in(texts, layers, ["en"])
    whole, _ = count_phrases(texts, layers, ["en"], strong)
    pieces = [count_phrases(texts[at : at + cut], layers[at : at + cut], ["en"], strong)[0].cut_clusters(2)
              for at in range(0, 8, cut)]  # fmt: skip
    n_texts = np.array([5, 3, 8])
    expected = dict(choose_phrases(whole, strong, n_texts, 10))
    found = {}
    for of_piece in zip(*pieces, strict=True):
        found |= dict(choose_phrases(merge_counts(list(of_piece)), strong, n_texts, 10))
    assert found == expected
    assert set(found) == {0, 1, 2}


def test_strong_words_are_found_by_cluster_and_word() -> None:
    word = pa.array(["flood", "goal", "flood"], pa.large_string())
    best = BestWords(np.array([0, 0, 1], np.int32), np.array([0.5, 0.25, 0.125]), np.array([0.5, 0.5, 0.25]), word)
    strong = StrongWords.of(best)
    numbers = {name: at for at, name in enumerate(strong.words.to_pylist())}
    label = np.array([0, 0, 1, 1, 0, -1])
    asked = np.array([numbers["flood"], numbers["goal"], numbers["flood"], numbers["goal"], -1, numbers["flood"]])
    assert strong.weights(label, asked).tolist() == [0.5, 0.25, 0.125, 0, 0, 0]
    assert strong.of_cluster(0) == {"flood": 1.0, "goal": 0.5}
    assert strong.of_cluster(2) == {}


def test_a_headline_may_name_a_cluster_that_shares_two_words() -> None:
    assert headline_words([Phrase("Juan Pablo", 0.6, 1), Phrase("finale", 0.2, 1)]) == 2
    assert headline_words([Phrase("Cosmos", 0.9, 1), Phrase("Fox", 0.2, 1)]) == 1


def test_the_first_phrases_of_what_lies_in_a_cluster_come_largest_first() -> None:
    rows = [(0, [Phrase("small", 1.0, 1.0), Phrase("rest", 0.5, 0.1)]), (1, [Phrase("large", 0.5, 1.0)]),
            (2, [Phrase("vague", 0.1, 1.0)]), (3, [Phrase("around", 0.2, 1.0)])]  # fmt: skip
    table, told = phrase_table(rows)
    assert (table.schema, told) == (PHRASES, [0])
    found = first_phrases(table, np.array([3, 3, 3, -1]), np.array([10, 60, 30, 100]))
    assert found.to_pylist() == [
        {"label": 3, "written": "large", "share": 0.3, "weight": 1.0},
        {"label": 3, "written": "small", "share": 0.1, "weight": 1.0},
    ]
