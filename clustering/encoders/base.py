"""Texts or tokens in, unit vectors out: the interface of all encoders, and what they share."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clustering.errors import ConfigError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
FRAME, KNOWN, LETTER, UNKNOWN = range(4)  # kinds of tokens, see token_kinds
SPACES = re.compile("▁+")  # SentencePiece writes a space so
UNKNOWN_TOKEN = re.compile("<0x[0-9A-F]{2}>|(?i:<unk>|\\[UNK\\])")  # a single byte, or an unknown word
NO_ALPHABET = re.compile("[\u3040-\u9fff\uac00-\ud7a3]")  # a sign is a word or a syllable: Chinese, Japanese, Korean
CPU_TOKENS_PER_BATCH = 16_384  # where embed.tokens_per_batch sets none
UNIT_TOLERANCE = 1e-6  # of squared lengths: rows within it have unit length already
SMALL_NORM = 1e-15  # the squares of a shorter row lose digits in float32


@dataclass(frozen=True)
class Tokens:
    """The tokens of some texts, end to end."""

    ids: IntArray  # (n_tokens,)
    lengths: IntArray  # (n_texts,), tokens of each text
    cut: int  # texts longer than the tokenizer's limit; only their head was read

    @property
    def starts(self) -> IntArray:
        """int64, shape (n_texts,): the first token of each text."""
        starts: IntArray = np.cumsum(self.lengths) - self.lengths
        return starts

    def take(self, order: IntArray) -> Tokens:
        """Some of the texts, in another order; ``cut`` stays."""
        return self._picked(self.starts[order], self.lengths[order], self.cut)

    def heads(self, most: int, cut: int) -> Tokens:
        """The first tokens of each text, at most so many. cut : texts of which something is left out"""
        return self._picked(self.starts, np.minimum(self.lengths, most), cut) if cut else self

    def _picked(self, starts: IntArray, lengths: IntArray, cut: int) -> Tokens:
        moved = np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return Tokens(self.ids[moved], lengths, cut)


def tokenize(
    tokenizer: Any, texts: Sequence[str], special_tokens: bool = True, max_characters: int | None = None
) -> Tokens:
    """The tokens of the texts, by a tokenizer of the package tokenizers that cuts long texts and does not pad.

    special_tokens : whether it adds those that begin and end a text
    max_characters : of a text, which is cut there before it is tokenised
    """
    heads = [text[:max_characters] for text in texts]
    encodings = tokenizer.encode_batch_fast(heads, add_special_tokens=special_tokens)
    # The package hands out lists of Python integers; one text at a time becomes one, for a moment.
    each = [np.array(encoding.ids, np.int64) for encoding in encodings]
    lengths = np.fromiter(map(len, each), np.int64, len(each))
    cut = sum(
        bool(encoding.overflowing) or len(head) < len(text)
        for encoding, head, text in zip(encodings, heads, texts, strict=True)
    )
    return Tokens(np.concatenate(each) if each else np.zeros(0, np.int64), lengths, cut)


@dataclass(frozen=True)
class Encoded:
    """What an encoder returns for a list of texts."""

    vectors: FloatArray  # (n_texts, dim), unit length; zeros for a text without a usable vector
    unread: NDArray[np.bool_]  # (n_texts,), texts without a token that the encoder knows; they have no vector
    not_finite: NDArray[np.bool_]  # (n_texts,), texts whose vector had an infinity or a NaN; they have none, either
    tokens: int  # of the texts as they were read, so after cutting
    unknown: int  # tokens that stand for an unknown word, a single byte or a single letter within a word
    cut: int  # texts longer than max_tokens; only their head was read
    model_seconds: float  # the tokenizer's seconds are not counted
    warning: str | None = None  # what the user should know of how the vectors were made
    requests: int = 0  # to a server of embeddings, with those that failed
    retries: int = 0  # of these, those that failed

    @classmethod
    def of_vectors(cls, vectors: FloatArray, unread: NDArray[np.bool_], **rest: Any) -> Encoded:
        """Scale the vectors to unit length; those of unread texts, and those that are no numbers, become zeros.

        vectors : float32, shape (n_texts, dim), changed in place
        rest : the other fields
        """
        vectors[unread] = 0
        squares = np.einsum("ij,ij->i", vectors, vectors)
        not_finite = ~np.isfinite(squares)
        not_finite[not_finite] = ~np.isfinite(vectors[not_finite]).all(axis=1)  # large numbers have infinite squares
        other = np.flatnonzero(~(np.abs(squares - 1) < UNIT_TOLERANCE))  # written so that NaN counts
        if other.size < len(vectors):
            vectors[other] = unit_rows(vectors[other])
        else:
            vectors = unit_rows(vectors)
        return cls(vectors, unread, not_finite, **rest)

    @classmethod
    def of_tokens(cls, vectors: FloatArray, read: ReadTokens, **rest: Any) -> Encoded:
        """The same, for vectors that were made of tokens. rest : model_seconds and warning"""
        tokens = read.tokens
        return cls.of_vectors(
            vectors, read.unread, tokens=tokens.ids.size, unknown=read.unknown, cut=tokens.cut, **rest
        )


@dataclass(frozen=True)
class ReadTokens:
    """The tokens of some texts, each behind the same prompt, and what the encoder knows of them."""

    tokens: Tokens
    unread: NDArray[np.bool_]  # (n_texts,), see Encoded
    unknown: int


def read_tokens(
    tokenizer: Callable[[Sequence[str]], Tokens], texts: Sequence[str], prompt: str, kinds: NDArray[np.int8]
) -> ReadTokens:
    """Tokenize the texts behind a prompt. What the prompt is made of makes no text one that the encoder knows.

    tokenizer : the tokens of any texts
    kinds : int8, shape (n_vocabulary,), see ``token_kinds``
    """
    tokens = tokenizer([prompt + text for text in texts] if prompt else texts)
    known = _known_tokens(tokens, kinds)
    unread = known == 0
    if prompt and len(texts):  # a text that adds nothing to the prompt is looked at without it
        few = np.flatnonzero(known <= _known_tokens(tokenizer([prompt]), kinds))
        unread[few] = _known_tokens(tokenizer([texts[row] for row in few.tolist()]), kinds) == 0
    return ReadTokens(tokens, unread, int((kinds[tokens.ids] >= LETTER).sum()))


def _known_tokens(tokens: Tokens, kinds: NDArray[np.int8]) -> IntArray:
    """int64, shape (n_texts,): how many tokens of each text the encoder knows."""
    kind = kinds[tokens.ids]
    known = np.concatenate([[0], np.cumsum((kind == KNOWN) | (kind == LETTER))])
    counts: IntArray = known[tokens.starts + tokens.lengths] - known[tokens.starts]
    return counts


def require_room(prompt: str, n_tokens: int, max_tokens: int) -> None:
    """Raises: ConfigError for a prompt that leaves a text no token, because all vectors would be that of the prompt."""
    if prompt and n_tokens >= max_tokens:
        raise ConfigError([
            f"embed.prompt has {n_tokens} tokens, and a text with it at most {max_tokens}: nothing of the text would "
            f"be read; shorten it, or raise embed.max_tokens"
        ])  # fmt: skip


def token_kinds(vocabulary: Sequence[str | None], special: Iterable[int]) -> NDArray[np.int8]:
    """The kind of each token: KNOWN, UNKNOWN (an unknown word or a single byte) or FRAME (a space or an end).

    LETTER is a known letter within a word: many of them show that the tokenizer was made for another language.
    vocabulary : the token of each id
    special : ids that the tokenizer sets by itself, such as the unknown word's
    Returns: int8, shape (n_vocabulary,)
    """
    kinds = np.array([FRAME if not token or SPACES.fullmatch(token) else KNOWN for token in vocabulary], np.int8)
    pieces = sum(token is not None and token.startswith("##") for token in vocabulary)
    within = "##" if 10 * pieces > len(vocabulary) else ""  # before a token within a word; else ▁ or Ġ begins words
    letters = (token and token.startswith(within) and _is_letter(token[len(within) :]) for token in vocabulary)
    kinds[[number for number, letter in enumerate(letters) if letter]] = LETTER
    kinds[list(special)] = FRAME
    kinds[[number for number, token in enumerate(vocabulary) if token and UNKNOWN_TOKEN.fullmatch(token)]] = UNKNOWN
    return kinds


def unknown_token(tokenizer: Path, vocabulary: Sequence[str | None]) -> int | None:
    """The token that stands for unknown words, by a tokenizer.json; None where it has none."""
    model = json.loads(tokenizer.read_bytes())["model"]
    if model.get("unk_token") in vocabulary:
        return vocabulary.index(model["unk_token"])
    number = model.get("unk_id")
    return None if number is None else int(number)


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isalpha() and not NO_ALPHABET.match(token)


class Encoder(Protocol):
    """The interface of every encoder. The other texts of a batch change a text's vector by rounding alone."""

    dim: int

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The vectors of the texts, in their order. On a GPU, several threads may call this at the same time."""


class TokenizerEncoder:
    """An encoder with a tokenizer.json. It reads the tokens; a subclass makes vectors of them."""

    dim: int
    special_tokens = True  # whether the tokenizer adds those that begin and end a text
    max_characters: int | None = None  # of a text, which is cut there before it is tokenised

    def __init__(self, tokenizer: Path, max_tokens: int, tokens_per_batch: int | None, prompt: str | None) -> None:
        """prompt : put before each text"""
        from tokenizers import Tokenizer

        self.tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        vocabulary = [self.tokenizer.id_to_token(number) for number in range(self.tokenizer.get_vocab_size())]
        added = self.tokenizer.get_added_tokens_decoder()
        self.kinds = token_kinds(vocabulary, [number for number, token in added.items() if token.special])
        self.unknown = unknown_token(tokenizer, vocabulary)
        if self.unknown is not None:
            self.kinds[self.unknown] = UNKNOWN
        self.median_length = int(np.median([len(token) for token in vocabulary if token is not None]))  # in characters
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self.tokens_per_batch = tokens_per_batch or CPU_TOKENS_PER_BATCH
        self.prompt = prompt or ""
        require_room(self.prompt, self.tokenize([self.prompt]).ids.size, max_tokens)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        return tokenize(self.tokenizer, texts, self.special_tokens, self.max_characters)

    def encode(self, texts: Sequence[str]) -> Encoded:
        read = read_tokens(self.tokenize, texts, self.prompt, self.kinds)
        started = time.perf_counter()
        vectors = self.encode_tokens(read.tokens)
        return Encoded.of_tokens(vectors, read, model_seconds=time.perf_counter() - started)

    def encode_tokens(self, tokens: Tokens) -> FloatArray:
        """float32, shape (n_texts, dim), of any length: the vector of each text, by its tokens."""
        vectors = np.empty((tokens.lengths.size, self.dim), np.float32)
        for batch in token_batches(tokens.lengths, self.tokens_per_batch):
            vectors[batch] = self.encode_batch(tokens.take(batch))
        return vectors

    def encode_batch(self, tokens: Tokens) -> FloatArray:
        """The same for some texts of about as many tokens."""
        raise NotImplementedError


def unit_rows(vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """Scale rows to unit length. A row of zeros, or with an infinity or a NaN, has no direction and becomes zeros.

    vectors : any float dtype, shape (n_rows, dim)
    Returns: float32, shape (n_rows, dim)
    """
    rows = np.asarray(vectors, np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: FloatArray = rows / norms
    extreme = np.flatnonzero(~((norms[:, 0] > SMALL_NORM) & (norms[:, 0] < np.inf)))
    for row in extreme:  # the squares leave float32's range, or the row has no direction
        exact = rows[row].astype(np.float64)
        norm = np.linalg.norm(exact)
        unit[row] = exact / norm if 0 < norm < np.inf else 0
    return unit


def token_batches(lengths: Sequence[int] | NDArray[np.int64], tokens_per_batch: int) -> Iterator[NDArray[np.int64]]:
    """Split texts, sorted by length, into batches of at most ``tokens_per_batch`` tokens with their padding.

    Sorting leaves little padding. A budget of tokens keeps memory level, however long the texts are.
    lengths : int64, shape (n_texts,), tokens of each text
    Yields: int64, shape (n_batch,), the texts of a batch; a batch holds one text at least.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > tokens_per_batch:
            yield order[start:end]
            start = end


def package_folder(module: str, extra: str) -> Path:
    """The folder of an installed package, which is not imported.

    extra : of covey, which installs the package
    Raises: ConfigError when it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError([f"embed.encoder needs the package {module}; install it with: pip install 'covey[{extra}]'"])
    return Path(spec.submodule_search_locations[0])
