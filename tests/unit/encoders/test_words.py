"""words.py: texts have the tokens that the tokenizer gives to each of them alone, whatever was tokenised before."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from tokenizers import Tokenizer, models, trainers
from tokenizers import normalizers as norm
from tokenizers import pre_tokenizers as pre

from clustering.config.sections import EmbedSection
from clustering.encoders import words
from clustering.encoders.base import package_folder, tokenize
from clustering.encoders.static import StaticEncoder
from clustering.encoders.words import WordTokenizer, reads_words
from clustering.errors import ConfigError
from tests.planted import EVENTS, ODD_TEXTS, headlines_in

HEADLINES = [text for texts in EVENTS.values() for text in texts]
TEXTS = [*HEADLINES, *ODD_TEXTS, *(text for code in ("de", "zh", "ru") for text in headlines_in(code))]
SPECIAL = ["[PAD]", "[UNK]", "<s>"]
# Spaces of many kinds, marks, signs that normalizers change or drop, and what tokenizers treat in ways of their own.
SIGNS = [
    *(" ", "  ", "\t", "\n", "\r", "\x85", "\u00a0", "\u2003", "\u3000", "▁", "▁▁", "'", "’s", "...", "-", "3.5%"),
    *("\0", "\ufffd", "\ufeff", "\u200b", "\u200d", "\u0301", "\u0345", "\u0600", "¨", "ﬁ", "ß", "İ", "ΑΣ", "A\u030a"),
    *("京", "ー", "\u1100", "\u1161", "각", "ไทย", "\U0001f469\u200d\U0001f467", "\U0001f3fd", "\U0001f1e9\U0001f1ea"),
    *("<0x41>", "##a", "<unk>", "</s>", "\uff3bPAD\uff3d", *SPECIAL),
]
WORDS = sorted({word for text in HEADLINES for word in text.split()})
spaced = st.lists(st.sampled_from([*WORDS, *SIGNS]) | st.text(max_size=5), max_size=8).map(" ".join)
glued = st.lists(st.sampled_from([*SIGNS, *WORDS]) | st.characters(exclude_categories=["Cs"]), max_size=12).map("".join)
long = st.sampled_from([*WORDS, "京都", "a b ", "\u0301"]).map(lambda text: text * 40)
some_texts = st.lists(spaced | glued | long, max_size=6)

FORMS: dict[str, tuple[str, Any, Any]] = {
    "as Llama": ("bpe", None, pre.Metaspace()),
    "as BERT": ("wordpiece", norm.BertNormalizer(lowercase=True), pre.BertPreTokenizer()),
    "of words": ("words", norm.Sequence([norm.NFKC(), norm.Lowercase(), norm.StripAccents()]), pre.Whitespace()),
    "as T5": ("unigram", norm.NFC(), pre.Metaspace()),
    "as XLM-R": ("unigram", norm.NFKD(), pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()])),
    "of digits": ("bpe", None, pre.Sequence([pre.WhitespaceSplit(), pre.Punctuation(), pre.Digits()])),
}


@cache
def made(form: str) -> Tokenizer:
    """A tokenizer of a form, of TEXTS; or that of the encoder static."""
    if form == "wordllama":
        try:
            return Tokenizer.from_file(str(min(package_folder("wordllama", "").glob("**/*tokenizer*.json"))))
        except ConfigError as error:
            pytest.skip(str(error))
    kind, normalizer, pre_tokenizer = FORMS[form]
    trainer: Any = {
        "words": lambda: trainers.WordLevelTrainer(vocab_size=300, special_tokens=SPECIAL),
        "wordpiece": lambda: trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL, limit_alphabet=90),
        "unigram": lambda: trainers.UnigramTrainer(vocab_size=500, special_tokens=SPECIAL, unk_token="[UNK]"),
        "bpe": lambda: trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, limit_alphabet=90),
    }[kind]()
    model: Any = {
        "words": lambda: models.WordLevel(unk_token="[UNK]"),
        "wordpiece": lambda: models.WordPiece(unk_token="[UNK]"),
        "unigram": lambda: models.Unigram(),
        "bpe": lambda: models.BPE(unk_token="[UNK]", fuse_unk=True),
    }[kind]()
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(TEXTS, trainer)
    if form != "as Llama":
        return tokenizer
    spec = json.loads(tokenizer.to_str())  # it has learned within words
    return Tokenizer.from_str(json.dumps({**spec, "normalizer": words.WRITES_SPACES, "pre_tokenizer": None}))


def spec_of(form: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(made(form).to_str())
    return spec


def assert_same(tokenizer: WordTokenizer, texts: list[str]) -> None:
    found, expected = tokenizer(texts), tokenize(tokenizer.tokenizer, texts, special_tokens=False)
    assert_array_equal(found.lengths, expected.lengths)
    assert_array_equal(found.ids, expected.ids)
    assert (found.ids.dtype, found.lengths.dtype) == (np.int64, np.int64)


@cache
def kept(form: str) -> WordTokenizer:
    assert reads_words(spec_of(form))
    return WordTokenizer(made(form), spec_of(form))


@pytest.mark.parametrize("form", ["wordllama", *FORMS])
@given(texts=some_texts)
def test_tokens_are_those_of_the_whole_text(form: str, texts: list[str]) -> None:
    assert_same(kept(form), texts)


def test_no_text_and_texts_of_spaces() -> None:
    for texts in ([], [""], ["", "", " "], [" storm", "storm ", "storm  flood"]):
        assert_same(kept("as Llama"), texts)


def test_words_are_tokenised_once_and_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST_WORDS", 20)
    tokenizer, texts = WordTokenizer(made("as BERT"), spec_of("as BERT")), ["the storm the flood", "a storm"]
    assert_same(tokenizer, texts)
    assert list(tokenizer.numbers) == ["the", "storm", "flood", "a"]
    first = tokenizer.kept
    assert_same(tokenizer, texts)
    assert tokenizer.kept is first
    for headline in HEADLINES:
        assert_same(tokenizer, [headline])
        assert len(tokenizer.numbers) == tokenizer.kept.lengths.size - 1 <= 20 + len(headline.split())


def test_many_tokens_are_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST_TOKENS", 3)
    tokenizer = WordTokenizer(made("as BERT"), spec_of("as BERT"))
    for text in ("Überschwemmung", "the"):
        assert_same(tokenizer, [text])
        assert list(tokenizer.numbers) == [text]


def test_long_words_are_not_kept() -> None:
    tokenizer = WordTokenizer(made("as BERT"), spec_of("as BERT"))
    assert_same(tokenizer, ["the " + "storm" * 20, "a storm"])
    assert list(tokenizer.numbers) == ["the", "a", "storm"]


def test_threads_share_the_words() -> None:
    tokenizer, batches = WordTokenizer(made("as Llama"), spec_of("as Llama")), [HEADLINES[i::6] for i in range(6)] * 4
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(tokenizer, batches))
    for tokens, texts in zip(found, batches, strict=True):
        assert_array_equal(tokens.ids, tokenize(made("as Llama"), texts, special_tokens=False).ids)


def test_vectors_are_the_same_to_the_last_bit_as_without_it() -> None:
    pytest.importorskip("wordllama")
    fast, plain = (StaticEncoder(EmbedSection(encoder="static", max_tokens=12)) for _ in range(2))
    assert fast.words
    plain.words = None
    plain.tokenizer.enable_truncation(12)
    texts = [*TEXTS, *ODD_TEXTS, "storm </s> flood", "flood " * 50]
    found, expected = fast.encode(texts), plain.encode(texts)
    assert_array_equal(found.vectors, expected.vectors)
    assert_array_equal(fast.encode(texts[::-1]).vectors, expected.vectors[::-1])  # all words are kept by now
    assert_array_equal(found.unread, expected.unread)
    assert (found.tokens, found.unknown, found.cut) == (expected.tokens, expected.unknown, expected.cut)
    assert found.cut > 1


# --- which tokenizers read words ---


def changed(form: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    spec = spec_of(form)
    change(spec)
    return spec


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "a token across words": ("as Llama", lambda spec: merge(spec, "a", "▁")),
    "a token of words": ("as Llama", lambda spec: spec["model"]["vocab"].update({"▁a▁storm": 600})),
    "no token for spaces": ("as Llama", lambda spec: spec["model"]["vocab"].pop("▁")),
    "tokens that no merge makes": ("as Llama", lambda spec: spec["model"].update(ignore_merges=True)),
    "an end of words": ("as Llama", lambda spec: spec["model"].update(end_of_word_suffix="</w>")),
    "no pairs": ("as Llama", lambda spec: spec["model"].update(type="Unigram")),
    "no space before words": ("as Llama", lambda spec: spec["normalizer"]["normalizers"].pop(0)),
    "no space before some words": ("as T5", lambda spec: spec["pre_tokenizer"].update(prepend_scheme="first")),
    "all words in one piece": ("as XLM-R", lambda spec: spec["pre_tokenizer"]["pretokenizers"][1].update(split=False)),
    "words that vanish": ("as T5", lambda spec: spec.update(normalizer={"type": "StripAccents"})),
    "spaces that appear": ("as T5", lambda spec: spec.update(normalizer={"type": "NFKC"})),
    "an unknown normalizer": ("as BERT", lambda spec: spec.update(normalizer={"type": "Replace"})),
    "an unknown splitter": (
        "of digits",
        lambda spec: spec["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Split"}),
    ),
    "an unknown step behind": ("as BERT", lambda spec: spec.update(post_processor={"type": "Sequence"})),
    "texts twice": ("as BERT", lambda spec: spec.update(post_processor=template("A", "A"))),
    "chance": ("as Llama", lambda spec: spec["model"].update(dropout=0.5)),
    "an added token with a space": ("as BERT", lambda spec: spec["added_tokens"][0].update(content="a b")),
    "an added token of changed texts": ("as BERT", lambda spec: spec["added_tokens"][0].update(normalized=True)),
}


def merge(spec: dict[str, Any], first: str, second: str) -> None:
    """Another merge, before all others."""
    model = spec["model"]
    model["vocab"][first + second] = len(model["vocab"])
    model["merges"].insert(0, [first, second])


def template(*texts: str) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": [{"Sequence": {"id": text, "type_id": 0}} for text in texts]}


@pytest.mark.parametrize("why", REFUSED)
def test_a_tokenizer_that_may_look_beyond_a_word_is_refused(why: str) -> None:
    form, change = REFUSED[why]
    assert reads_words(spec_of(form))
    assert not reads_words(changed(form, change))


def test_a_template_that_adds_special_tokens_is_of_no_account() -> None:
    assert reads_words(changed("as BERT", lambda spec: spec.update(post_processor=template("A"))))
