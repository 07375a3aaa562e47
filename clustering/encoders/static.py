"""English texts in, vectors out: the mean of static token vectors, which lie in the package wordllama."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clustering.config.sections import EmbedSection
from clustering.encoders.base import FloatArray, TokenizerEncoder, package_folder
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
        super().__init__(tokenizer, cfg.max_tokens, cfg.tokens_per_batch)
        if weights.ndim != 2 or len(weights) < self.kinds.size:
            raise ValueError(f"weights of shape {weights.shape} for {self.kinds.size} tokens")
        self.vectors: FloatArray = weights.astype(np.float32)
        self.dim = self.vectors.shape[1]

    def encode_batch(self, ids: list[list[int]]) -> FloatArray:
        sums = np.zeros((len(ids), self.dim), np.float32)
        lengths = np.array([len(own) for own in ids])
        if lengths.any():
            tokens = np.concatenate([own for own in ids if own])
            starts = (np.cumsum(lengths) - lengths)[lengths > 0]
            sums[lengths > 0] = np.add.reduceat(self.vectors[tokens], starts, axis=0)
        return sums
