"""kernels/words/lexical.py: counts and weights of terms against plain Python, and cosines against exact TF-IDF."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from clustering.encoders.lexical import words_of
from clustering.kernels.words import lexical
from clustering.kernels.words.lexical import count_terms, lexical_vectors, table_bits, weigh_terms
from tests.planted import EVENTS

HEADLINES = [text for texts in EVENTS.values() for text in texts]
TEXTS = st.lists(st.lists(st.sampled_from("flood vote dam goal cup".split()), max_size=6).map(" ".join), max_size=8)


def terms_of(text: str) -> set[tuple[str, ...]]:
    """Words and pairs of adjacent words."""
    words = text.lower().split()
    return {*((word,) for word in words), *pairwise(words)}


def weights_of(texts: list[str]) -> dict[tuple[str, ...], float]:
    counts = Counter(term for text in texts for term in terms_of(text))
    return {term: math.log(len(texts) / count) for term, count in counts.items() if count > 1}


@given(TEXTS)
def test_a_term_is_counted_once_for_each_text_that_has_it(texts: list[str]) -> None:
    expected = Counter(term for text in texts for term in terms_of(text))
    counts = count_terms(words_of(texts), 20)  # so few terms do not share a place
    assert sorted(counts[counts > 0].tolist()) == sorted(expected.values())


@given(TEXTS, st.integers(0, 8))
def test_counts_of_parts_add_up(texts: list[str], cut: int) -> None:
    both = [count_terms(words_of(part), 12) for part in (texts[:cut], texts[cut:])]
    assert_array_equal(both[0] + both[1], count_terms(words_of(texts), 12))


def test_a_term_weighs_the_more_the_rarer_it_is_and_nothing_in_one_text_alone() -> None:
    counts = np.array([0, 1, 2, 10, 100], np.uint32)
    assert_array_equal(weigh_terms(counts, 100), [0, 0, round(16 * math.log(50)), round(16 * math.log(10)), 0])
    assert weigh_terms(np.array([2], np.uint32), 2**31)[0] == 255  # the largest that fits


def test_cosines_are_those_of_tf_idf() -> None:
    pairs = pairwise(HEADLINES)
    texts = [" ".join(re.findall(r"[^\W_]+", text.lower())) for text in [*HEADLINES, *map(" ".join, pairs)]]
    weights = weights_of(texts)
    places = {term: number for number, term in enumerate(weights)}
    exact = np.zeros((len(texts), len(places)))
    for row, text in enumerate(texts):
        for term in terms_of(text) & weights.keys():
            exact[row, places[term]] = weights[term]
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    found = words_of(texts)
    vectors = lexical_vectors(found, weigh_terms(count_terms(found, 20), len(texts)))
    assert vectors.shape == (len(texts), lexical.DIM)
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    errors = (vectors @ vectors.T - exact @ exact.T)[~np.eye(len(texts), dtype=bool)]
    assert abs(errors.mean()) < 0.01
    assert errors.std() < 1.1 / math.sqrt(lexical.DIM)


def test_a_text_has_one_vector_in_any_company_and_case_and_none_without_a_shared_word() -> None:
    texts = ["Flood in Garford", "flood in GARFORD!", "in", "😀", "", "unheard", "Flood in Ashton"]
    found = words_of(texts)
    weights = weigh_terms(count_terms(found, table_bits(len(texts))), len(texts))
    vectors = lexical_vectors(found, weights)
    assert_array_equal(vectors[0], vectors[1])
    assert vectors.any(axis=1).tolist() == [True, True, True, False, False, False, True]
    for text, vector in zip(texts, vectors, strict=True):
        assert_array_equal(lexical_vectors(words_of([text]), weights)[0], vector)
    assert lexical_vectors(words_of([]), weights).shape == (0, lexical.DIM)


def test_the_order_of_words_counts_by_pairs() -> None:
    texts = ["police shoot man", "man shoot police", "police shoot man", "man shoot police", "other words"]
    found = words_of(texts)
    vectors = lexical_vectors(found, weigh_terms(count_terms(found, 20), len(texts)))
    assert -0.2 < vectors[0] @ vectors[1] < 0.4
    assert vectors[0] @ vectors[2] > 0.999


@pytest.mark.parametrize(("n_texts", "bits"), [(1, 12), (128, 13), (3000, 17), (1_000_000, 24), (100_000_000, 24)])
def test_tables_grow_with_the_texts(n_texts: int, bits: int) -> None:
    assert table_bits(n_texts) == bits


def test_a_vector_is_equal_to_itself_up_to_rounding() -> None:
    texts = [
        " ".join(f"w{word}" for word in range(first, first + size)) for first in range(9) for size in (1, 2, 3, 4, 9)
    ]
    found = words_of(texts)
    vectors = lexical_vectors(found, weigh_terms(count_terms(found, 20), len(texts)))
    assert_allclose(np.diag(vectors @ vectors.T), 1, atol=1e-6)  # in float32, as exact search adds it up
