"""Texts in, vectors out: the mean of static token vectors, of the package wordllama or of a model of model2vec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from clustering.config.sections import EmbedSection
from clustering.encoders.base import FloatArray, TokenizerEncoder, Tokens, package_folder
from clustering.encoders.weights import model_folder
from clustering.encoders.words import WordTokenizer, reads_words
from clustering.errors import ConfigError

MODEL2VEC_TOKENS = 512  # of a text, where its config.json sets no max_length
# The names of weights and tokenizer in the folders of wordllama, of model2vec, and of sentence-transformers.
LAYOUTS = (
    ("**/*_256.safetensors", "**/*tokenizer*.json"),
    ("model.safetensors", "tokenizer.json"),
    ("0_StaticEmbedding/model.safetensors", "0_StaticEmbedding/tokenizer.json"),
)


class StaticEncoder(TokenizerEncoder):
    """The mean of static token vectors: of wordllama (English, 256-d) by default, or of a model of model2vec.

    The files are read without importing either package. A long text is cut where model2vec cuts it.
    Source: github.com/dleemiller/WordLlama (MIT), whose token vectors are distilled from the input embeddings of
        language models; github.com/MinishLab/model2vec 0.10 (MIT), ``StaticModel.encode``.
    """

    special_tokens = False
    words: WordTokenizer | None = None  # where the tokenizer reads words

    def __init__(self, cfg: EmbedSection, commit: str | None = None) -> None:
        from safetensors.numpy import load_file

        root = model_folder(cfg, commit) if cfg.model else package_folder("wordllama", "")
        path, tokenizer = _files(root)
        tensors, config = load_file(path), path.parent / "config.json"
        max_tokens = cfg.max_tokens
        if config.is_file():
            most = json.loads(config.read_text(encoding="utf-8")).get("max_length", MODEL2VEC_TOKENS)
            max_tokens = min(max_tokens, most or max_tokens)
        super().__init__(tokenizer, max_tokens, cfg.tokens_per_batch, cfg.prompt)
        self.vectors = _token_vectors(tensors, self.kinds.size)
        self.dim = self.vectors.shape[1]
        if self.unknown is not None:
            self.vectors[self.unknown] = 0
        if path.name == "model.safetensors":
            self.max_characters = max_tokens * self.median_length
        self.max_tokens = max_tokens
        spec = json.loads(tokenizer.read_bytes())
        if reads_words(spec):
            self.tokenizer.no_truncation()
            self.words = WordTokenizer(self.tokenizer, spec)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        if self.words is None:
            return super().tokenize(texts)
        heads = [text[: self.max_characters] for text in texts]
        tokens = self.words(heads)
        cut = tokens.lengths > self.max_tokens
        if self.max_characters is not None:
            cut |= np.fromiter(map(len, texts), np.int64, len(texts)) > self.max_characters
        return tokens.heads(self.max_tokens, int(cut.sum()))

    def encode_tokens(self, tokens: Tokens) -> FloatArray:
        ends = np.concatenate([[0], np.cumsum(tokens.lengths)])
        ones = np.ones(tokens.ids.size, np.float32)
        counts = csr_array((ones, tokens.ids, ends), shape=(tokens.lengths.size, len(self.vectors)))
        sums: FloatArray = counts @ self.vectors
        return sums


def packaged_dim() -> int:
    """The dimension of wordllama's vectors, from the head of their file. Raises: ConfigError as StaticEncoder."""
    from safetensors import safe_open

    with safe_open(_files(package_folder("wordllama", ""))[0], "numpy") as file:
        (name,) = file.keys()
        return int(file.get_slice(name).get_shape()[1])


def _files(root: Path) -> tuple[Path, Path]:
    """The files of the weights and of the tokenizer. Raises: ConfigError where one is missing."""
    for names in LAYOUTS:
        path, tokenizer = (min(root.glob(name), default=None) for name in names)
        if path and tokenizer:
            return path, tokenizer
    raise ConfigError([
        f"embed.model: {root} holds no model.safetensors with a tokenizer.json, as model2vec saves them, and no "
        f"*_256.safetensors with a *tokenizer*.json, as wordllama does"
    ])  # fmt: skip


def _token_vectors(tensors: dict[str, Any], n_tokens: int) -> FloatArray:
    """The vector of each token, times its weight: float32, shape (n_tokens, dim).

    tensors : embeddings of any dtype, shape (n_rows, dim); of model2vec also mapping, the row of each token, and
        weights, a number for each token
    """
    named = [tensors[name] for name in ("embeddings", "embedding.weight") if name in tensors]
    (rows,) = named or tensors.values()
    mapping, weights = tensors.get("mapping"), tensors.get("weights")
    sizes = [len(one) for one in (rows if mapping is None else mapping, weights) if one is not None]
    if rows.ndim != 2 or min(sizes) < n_tokens:
        raise ValueError(f"embeddings of shape {rows.shape}, mapping and weights of {sizes} for {n_tokens} tokens")
    vectors: FloatArray = np.array(rows[:n_tokens] if mapping is None else rows[mapping[:n_tokens]], np.float32)
    if weights is not None:
        vectors *= weights[:n_tokens, None].astype(np.float32)
    return vectors
