"""Texts in, vectors out: BGE-M3, or any sentence-transformers model, by torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from clustering.config.sections import EmbedSection
from clustering.encoders.base import Encoded, FloatArray, package_folder, token_batches, token_kinds
from clustering.encoders.weights import model_location
from clustering.errors import ConfigError


class _Forwards:
    """The seconds that a torch module spends in forward passes; ``wait`` waits until the device is idle."""

    def __init__(self, module: Any, wait: Callable[[], None] | None) -> None:
        self.seconds, self.started, self.wait = 0.0, 0.0, wait
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def _end(self, *_: Any) -> None:
        if self.wait:
            self.wait()
        self.seconds += time.perf_counter() - self.started


class TorchEncoder:
    """BGE-M3's dense vectors, or any other sentence-transformers model, from the hub or a local folder.

    BGE-M3 has XLM-R's architecture. Its dense vector is the last state of the first token, at unit length.
    Code that comes with a model is never run.
    Source: Chen et al. (2024), arXiv:2402.03216.
    """

    def __init__(self, cfg: EmbedSection, commit: str | None = None) -> None:
        package_folder("torch", "bge")
        package_folder("sentence_transformers", "bge")
        import torch
        from sentence_transformers import SentenceTransformer

        from clustering.encoders.packed import PackedEncoder, unsupported_reason

        name = model_location(cfg)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.model: Any = SentenceTransformer(
                name, device=device, trust_remote_code=False, revision=commit,
                model_kwargs={"dtype": getattr(torch, cfg.dtype)},
            )  # fmt: skip
        except (OSError, ValueError) as error:  # a missing file, an unreachable hub, or a model with code of its own
            raise ConfigError([f"embed.model: {name} cannot be loaded: {error}"]) from error
        if cfg.encoder == "bge-m3":
            self._require_cls_pooling(name)
        self._require_vocabulary(name)
        names = self.model.tokenizer.convert_ids_to_tokens(range(len(self.model.tokenizer)))
        self.special = set(self.model.tokenizer.all_special_ids)
        self.kinds = token_kinds(names, self.special)
        limit = self.model.max_seq_length
        self.max_tokens = min(cfg.max_tokens, limit or cfg.max_tokens)
        self.model.max_seq_length = self.max_tokens
        self.dim = int(self.model.get_embedding_dimension())
        self.tokens_per_batch = cfg.tokens_per_batch
        self.forwards = _Forwards(self.model[0], torch.cuda.synchronize if device == "cuda" else None)
        self.packed: Any = None
        if unsupported_reason(self.model) is None and (device == "cpu" or cfg.dtype != "float32"):
            self.packed = PackedEncoder(self.model)

    def _require_cls_pooling(self, model: str) -> None:
        """Refuse another pooling than BGE-M3's. A folder without modules.json would get mean pooling."""
        pooling = next((module for module in self.model if type(module).__name__ == "Pooling"), None)
        if pooling is None or pooling.pooling_mode not in ("cls", ("cls",), ["cls"]):
            mode = getattr(pooling, "pooling_mode", "nothing")
            raise ConfigError([
                f"embed.model: {model} pools by {mode}, BGE-M3 by its first token (cls); its folder needs modules.json "
                f"and 1_Pooling/config.json, as the hub has them"
            ])  # fmt: skip

    def _require_vocabulary(self, model: str) -> None:
        """Refuse a folder without a vocabulary, for which transformers makes a tokenizer that knows no word."""
        if len(self.model.tokenizer) <= len(self.model.tokenizer.all_special_ids):
            raise ConfigError([f"embed.model: {model} holds no vocabulary; its folder needs tokenizer.json"])

    def encode(self, texts: Sequence[str]) -> Encoded:
        tokenize: Callable[..., Any] = self.model.tokenizer
        full = tokenize(list(texts), truncation=True, max_length=self.max_tokens + 1)["input_ids"] if texts else []
        ids = [self._cut(own) for own in full]
        cut = sum(len(own) > self.max_tokens for own in full)
        vectors, seconds = self._packed(ids) if self.packed else self._padded(texts, ids)
        return Encoded.of_tokens(vectors, ids, self.kinds, cut=cut, model_seconds=seconds)

    def _cut(self, own: list[int]) -> list[int]:
        """The head of a text that is longer than max_tokens, with the closing token of the whole text."""
        if len(own) <= self.max_tokens:
            return own
        closing = own[-1:] if own[-1] in self.special else []
        return own[: self.max_tokens - len(closing)] + closing

    def _packed(self, ids: Sequence[Sequence[int]]) -> tuple[FloatArray, float]:
        """The vectors from the tokens, and the model's seconds."""
        started = time.perf_counter()
        lengths = np.array([len(own) for own in ids], np.int64)
        vectors = np.zeros((len(ids), self.dim), np.float32)
        tokens = np.fromiter(chain.from_iterable(ids), np.int64, lengths.sum())
        vectors[lengths > 0] = self.packed.encode(tokens, lengths[lengths > 0], self.tokens_per_batch)
        return vectors, time.perf_counter() - started if ids else 0.0

    def _padded(self, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> tuple[FloatArray, float]:
        """The same by sentence-transformers, which tokenises again and pads: for models that ``packed`` cannot read."""
        vectors = np.empty((len(ids), self.dim), np.float32)
        self.forwards.seconds = 0.0
        for batch in token_batches([len(own) for own in ids], self.tokens_per_batch):
            vectors[batch] = self.model.encode(
                [texts[row] for row in batch],
                batch_size=len(batch),
                convert_to_numpy=True,
                normalize_embeddings=False,
                show_progress_bar=False,
            )
        return vectors, self.forwards.seconds
