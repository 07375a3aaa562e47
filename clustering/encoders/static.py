"""English texts in, vectors out: the mean of static token vectors, which lie in the package wordllama."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clustering.config.sections import EmbedSection
from clustering.encoders.base import Encoded, FloatArray, package_folder, read_vocabulary, token_batches, token_kinds
from clustering.encoders.weights import model_location
from clustering.errors import ConfigError


class StaticEncoder:
    """The mean of static token vectors (WordLlama, 256-d). The package's files are read without importing it.

    Source: github.com/dleemiller/WordLlama (MIT); its token vectors are distilled from the input embeddings of language
        models.
    """

    def __init__(self, cfg: EmbedSection) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        root = Path(model_location(cfg)) if cfg.model else package_folder("wordllama", "")
        names = ("*_256.safetensors", "*tokenizer*.json")
        path, vocabulary = (min(root.glob(f"**/{name}"), default=None) for name in names)
        if path is None or vocabulary is None:
            raise ConfigError([f"embed.model: {root} holds no *_256.safetensors and *tokenizer*.json"])
        (weights,) = load_file(path).values()
        self.tokenizer = Tokenizer.from_file(str(vocabulary))
        if weights.ndim != 2 or len(weights) < self.tokenizer.get_vocab_size():
            raise ValueError(f"weights of shape {weights.shape} for {self.tokenizer.get_vocab_size()} tokens")
        self.vectors: FloatArray = weights.astype(np.float32)
        self.kinds = token_kinds(*read_vocabulary(self.tokenizer))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(cfg.max_tokens)
        self.dim = self.vectors.shape[1]
        self.tokens_per_batch = cfg.tokens_per_batch

    def encode(self, texts: Sequence[str]) -> Encoded:
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        lengths = np.array([len(tokens) for tokens in ids], np.int64)
        started = time.perf_counter()
        sums = np.zeros((len(ids), self.dim), np.float32)
        for batch in token_batches(lengths, self.tokens_per_batch):
            filled = batch[lengths[batch] > 0]
            if filled.size:
                starts = np.cumsum(lengths[filled]) - lengths[filled]
                rows = self.vectors[np.concatenate([ids[row] for row in filled])]
                sums[filled] = np.add.reduceat(rows, starts, axis=0)
        cut = sum(bool(encoding.overflowing) for encoding in encodings)
        return Encoded.of_tokens(sums, ids, self.kinds, cut=cut, model_seconds=time.perf_counter() - started)
