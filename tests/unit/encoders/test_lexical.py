"""encoders/lexical.py: words beside an encoder's vectors, and texts that one of both has nothing of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from clustering.config.sections import EmbedSection
from clustering.encoders.base import Encoded
from clustering.encoders.lexical import LexicalEncoder, words_of
from clustering.encoders.loading import check_encoder
from clustering.kernels.words.lexical import DIM, Weights, count_terms, lexical_vectors, table_bits, weigh_terms

TEXTS = [
    "flood in Garford",
    "Garford flood",
    "vote in Ashton",
    "the vote",
    "in",
    "hollow vote",
    "unheard",
    "??",
    "Ashton",
]
KNOWN = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0], bool)  # to the encoder


class Fixed:
    """An encoder that knows some texts, and gives one of them zeros."""

    dim = 3

    def encode(self, texts: Sequence[str]) -> Encoded:
        rows = [TEXTS.index(text) for text in texts]
        vectors = np.random.default_rng(0).normal(size=(len(TEXTS), 3)).astype(np.float32)
        vectors[TEXTS.index("hollow vote")] = 0
        return Encoded.of_vectors(vectors[rows], ~KNOWN[rows], tokens=len(rows), unknown=0, cut=0, model_seconds=0.0)


def weights() -> Weights:
    return weigh_terms(count_terms(words_of(TEXTS), table_bits(len(TEXTS))), len(TEXTS))


@pytest.mark.parametrize("share", [0.2, 0.35, 1.0])
def test_the_cosine_is_the_mean_of_both_by_their_shares(share: float) -> None:
    own, words = Fixed().encode(TEXTS).vectors, lexical_vectors(words_of(TEXTS), weights())
    encoder = LexicalEncoder(Fixed(), share, weights())
    found = encoder.encode(TEXTS)
    assert found.vectors.shape == (len(TEXTS), encoder.dim) == (len(TEXTS), 3 + DIM)
    both = own.any(axis=1) & words.any(axis=1)
    assert both.tolist() == [True] * 5 + [False] * 4
    expected = (1 - share) * own @ own.T + share * words @ words.T
    assert_allclose((found.vectors @ found.vectors.T)[np.ix_(both, both)], expected[np.ix_(both, both)], atol=1e-6)


def test_a_text_that_one_half_has_nothing_of_has_the_other_alone() -> None:
    found = LexicalEncoder(Fixed(), 0.35, weights()).encode(TEXTS)
    own, words = Fixed().encode(TEXTS).vectors, lexical_vectors(words_of(TEXTS), weights())
    lengths = np.linalg.norm(found.vectors, axis=1)
    assert_allclose(lengths, [1, 1, 1, 1, 1, 0, 1, 0, 1], atol=1e-6)  # the encoder gives a text with words zeros
    assert found.unread.tolist() == [False] * 7 + [True, False]
    unheard, ashton = TEXTS.index("unheard"), TEXTS.index("Ashton")
    assert_allclose(found.vectors[unheard], [*own[unheard], *np.zeros(DIM)], atol=1e-6)
    assert_allclose(found.vectors[ashton], [0, 0, 0, *words[ashton]], atol=1e-6)


def test_a_text_has_one_vector_in_any_company() -> None:
    encoder = LexicalEncoder(Fixed(), 0.35, weights())
    together = encoder.encode(TEXTS).vectors
    for text, vector in zip(TEXTS, together, strict=True):
        assert_array_equal(encoder.encode([text]).vectors[0], vector)
    assert encoder.encode([]).vectors.shape == (0, 3 + DIM)


def test_the_dimension_is_known_beforehand() -> None:
    assert check_encoder(EmbedSection(encoder="static", lexical=0.3)) == 256 + DIM
    assert check_encoder(EmbedSection(encoder="static", dimensions=64, lexical=0.3)) == 64 + DIM
    assert check_encoder(EmbedSection(encoder="static", lexical=0)) == 256


def test_words_count_by_default_with_the_models_of_the_package_alone() -> None:
    assert [EmbedSection(encoder=name).words_share for name in ("static", "minilm")] == [0.35, 0.35]
    assert [EmbedSection(encoder=name, lexical=0).words_share for name in ("static", "minilm")] == [0, 0]
    others = [EmbedSection(), EmbedSection(encoder="somebody/model"), EmbedSection(encoder="static", model="potion"),
              EmbedSection(encoder="openai", url="http://tei", model="small")]  # fmt: skip
    assert not any(cfg.words_share for cfg in others)
