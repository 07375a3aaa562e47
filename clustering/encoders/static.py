"""English texts in, vectors out: the mean of static token vectors, which lie in the package wordllama."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clustering.config.sections import EmbedSection
from clustering.encoders.base import FloatArray, TokenizerEncoder, Tokens, package_folder
from clustering.encoders.weights import model_location
from clustering.errors import ConfigError


class StaticEncoder(TokenizerEncoder):
    """The mean of static token vectors (WordLlama, 256-d). The package's files are read without importing it.

    Source: github.com/dleemiller/WordLlama (MIT); its token vectors are distilled from the input embeddings of language
        models.
    """

    special_tokens = False

    def __init__(self, cfg: EmbedSection) -> None:
        from safetensors.numpy import load_file

        root = Path(model_location(cfg)) if cfg.model else package_folder("wordllama", "")
        names = ("*_256.safetensors", "*tokenizer*.json")
        path, tokenizer = (min(root.glob(f"**/{name}"), default=None) for name in names)
        if path is None or tokenizer is None:
            raise ConfigError([f"embed.model: {root} holds no *_256.safetensors and *tokenizer*.json"])
        (weights,) = load_file(path).values()
        super().__init__(tokenizer, cfg.max_tokens, cfg.tokens_per_batch, cfg.prompt)
        if weights.ndim != 2 or len(weights) < self.kinds.size:
            raise ValueError(f"weights of shape {weights.shape} for {self.kinds.size} tokens")
        self.vectors: FloatArray = weights.astype(np.float32)
        self.dim = self.vectors.shape[1]

    def encode_batch(self, tokens: Tokens) -> FloatArray:
        sums = np.zeros((tokens.lengths.size, self.dim), np.float32)
        there = tokens.lengths > 0
        if there.any():
            sums[there] = np.add.reduceat(self.vectors[tokens.ids], tokens.starts[there], axis=0)
        return sums
