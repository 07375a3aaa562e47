"""Texts in, the tokens that a tokenizer gives them out; it reads each distinct word once."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clustering.encoders.base import IntArray, Tokens, tokenize

MOST_WORDS, MOST_TOKENS = 1 << 18, 1 << 20  # that are kept from earlier calls
LONGEST_WORD = 64  # characters of a word that is kept
WORDS_AT_ONCE = 256  # that the tokenizer reads in one text
SPACE = "▁"  # SentencePiece writes a space so
WRITES_SPACES = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}
# What follows may stand in a tokenizer.json that reads words. It changes, splits or drops what lies between two spaces
# without regard to what lies beyond them.
KEEPS_WORDS = {"Lowercase", "NFC", "NFD"}  # normalizers that neither empty a word nor make a space
NORMALIZERS = KEEPS_WORDS | {"BertNormalizer", "NFKC", "NFKD", "StripAccents"}
DROPS_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
PRE_TOKENIZERS = DROPS_SPACES | {"Digits", "Metaspace", "Punctuation"}
POST_PROCESSORS = {None, "BertProcessing", "ByteLevel", "RobertaProcessing"}  # they add special tokens alone


class WordTokenizer:
    """The tokens of texts, by a tokenizer that reads words (see ``reads_words``); what it gave to a word is kept.

    A word lies between two spaces (U+0020). A text with other spaces than single ones between words, or with a word
    that cannot be kept, is tokenised as a whole. Several threads may call this at the same time.
    """

    def __init__(self, tokenizer: Any, spec: dict[str, Any]) -> None:
        """tokenizer : of the package tokenizers, without truncation; spec : its tokenizer.json"""
        self.tokenizer = tokenizer
        added = [re.escape(token["content"]) for token in spec.get("added_tokens") or []]
        self.unusual = re.compile("|".join([r"\A\Z", SPACE, *added]))
        tokens = [tokenizer.id_to_token(number) or "" for number in range(tokenizer.get_vocab_size())]
        self.begins = None if spec.get("pre_tokenizer") else np.array([token.startswith(SPACE) for token in tokens])
        self.lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.numbers: dict[str, int] = {}
        self.kept = Tokens(np.zeros(0, np.int64), np.zeros(1, np.int64), 0)  # 0 numbers all words that are not kept

    def __call__(self, texts: Sequence[str]) -> Tokens:
        if not len(texts):
            return Tokens(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
        lists = pc.split_pattern(pa.array(texts, pa.large_string()), " ")
        words, first = lists.values.dictionary_encode(), lists.offsets.to_numpy()[:-1]
        with self.lock:
            numbers, kept = self._look_up(words.dictionary.to_pylist())
        numbers = numbers[words.indices.to_numpy()]
        by_word = kept.take(numbers)
        tokens = Tokens(by_word.ids, np.add.reduceat(by_word.lengths, first), 0)
        whole = np.flatnonzero(np.logical_or.reduceat(numbers == 0, first))
        return _replaced(tokens, whole, self._whole([texts[row] for row in whole.tolist()])) if whole.size else tokens

    def _look_up(self, words: list[str]) -> tuple[IntArray, Tokens]:
        """The number of each word, and the tokens of all numbers."""
        if len(self.numbers) > MOST_WORDS or self.kept.ids.size > MOST_TOKENS:
            self._forget()
        numbers = np.fromiter(map(self.numbers.get, words, repeat(0)), np.int64, len(words))
        new = [at for at in np.flatnonzero(numbers == 0).tolist() if self._can_be_kept(words[at])]
        if new:
            own = np.arange(len(new)) + self.kept.lengths.size
            self.kept = _joined(self.kept, self._tokenize([words[at] for at in new]))
            self.numbers.update(zip([words[at] for at in new], own.tolist(), strict=True))
            numbers[new] = own
        return numbers, self.kept

    def _can_be_kept(self, word: str) -> bool:
        return len(word) <= LONGEST_WORD and not self.unusual.search(word)

    def _tokenize(self, words: list[str]) -> Tokens:
        """The tokens of each word."""
        groups = [words[start : start + WORDS_AT_ONCE] for start in range(0, len(words), WORDS_AT_ONCE)]
        if self.begins is not None:  # each word has one token with a SPACE
            ids = self._whole([" ".join(group) for group in groups]).ids
            return Tokens(ids, np.diff(np.flatnonzero(self.begins[ids]), append=ids.size), 0)
        encodings = self.tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        ids = np.concatenate([np.array(encoding.ids, np.int64) for encoding in encodings])
        lengths = [
            np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(group))
            for encoding, group in zip(encodings, groups, strict=True)
        ]
        return Tokens(ids, np.concatenate(lengths), 0)

    def _whole(self, texts: Sequence[str]) -> Tokens:
        return tokenize(self.tokenizer, texts, special_tokens=False)


def _joined(first: Tokens, second: Tokens) -> Tokens:
    ids, lengths = np.concatenate([first.ids, second.ids]), np.concatenate([first.lengths, second.lengths])
    return Tokens(ids, lengths, first.cut + second.cut)


def _replaced(tokens: Tokens, rows: IntArray, by: Tokens) -> Tokens:
    """The same texts, some of them with other tokens."""
    order = np.arange(tokens.lengths.size)
    order[rows] = order.size + np.arange(rows.size)
    return _joined(tokens, by).take(order)


def reads_words(spec: dict[str, Any]) -> bool:
    """Whether a tokenizer gives a text the tokens of its words one by one, as its tokenizer.json proves.

    Holds for texts without the tokenizer's added tokens, whose words have one space between them and no SPACE within.
    There are two forms. One splits at spaces before its model looks for tokens. The other is Llama's: all of a text is
    one piece, in which byte pairs are merged; as no token has a SPACE behind another sign, no merge crosses a space.
    Source: the parts of the package tokenizers 0.23. What is not named in this module counts as no.
    """
    model, added = spec["model"], spec.get("added_tokens") or []
    if model.get("dropout") or any(token["normalized"] or " " in token["content"] for token in added):
        return False
    if not _adds_special_tokens_alone(spec.get("post_processor")):
        return False
    normalizers = {part["type"] for part in _parts(spec.get("normalizer"))}
    splitters = _parts(spec.get("pre_tokenizer"))
    if not splitters:
        return spec.get("normalizer") == WRITES_SPACES and _merges_within_words(model)
    if not {part["type"] for part in splitters} <= PRE_TOKENIZERS or not all(map(_begins_pieces, splitters)):
        return False
    first = splitters[0]["type"]
    return (first in DROPS_SPACES and normalizers <= NORMALIZERS) or (
        first == "Metaspace" and normalizers <= KEEPS_WORDS
    )


def _parts(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer, or those that it is a sequence of."""
    if not part or part["type"] != "Sequence":
        return [part] if part else []
    return [one for inner in part.get("normalizers") or part.get("pretokenizers") or [] for one in _parts(inner)]


def _begins_pieces(splitter: dict[str, Any]) -> bool:
    """False for a Metaspace that does not split, or does not put a SPACE before every piece."""
    wanted = {"replacement": SPACE, "prepend_scheme": "always", "split": True}
    return splitter["type"] != "Metaspace" or {key: splitter.get(key) for key in wanted} == wanted


def _adds_special_tokens_alone(processor: dict[str, Any] | None) -> bool:
    if processor and processor["type"] == "TemplateProcessing":
        return sum("Sequence" in piece for piece in processor["single"]) == 1
    return (processor and processor["type"]) in POST_PROCESSORS


def _merges_within_words(model: dict[str, Any]) -> bool:
    kind = model.get("type") == "BPE" and not model.get("ignore_merges") and SPACE in model["vocab"]
    plain = not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix")
    return kind and plain and not any(re.search(f"[^{SPACE}]{SPACE}", token) for token in model["vocab"])
